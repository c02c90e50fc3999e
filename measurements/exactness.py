"""Kill a run at every kind of moment, resume it, and compare with one that was never killed, bit for bit.

    python measurements/exactness.py [OUTPUT.json]

Each row of the result is a moment; columns are 1 and 2 ranks with 0 and 2 workers. FCOS on 64 px shapes, with an
averaged model, accumulated gradients, clipping, and a schedule in its warm-up. "equal" means that all curves (every
digit of the CSV), weights, averages, and optimizer and schedule states are the same.
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from running import FULL, MOMENTS, Runner, assert_equal_bits, curves, only_run, state  # noqa: E402


def verdict(run: Path, whole: Path) -> str:
    try:
        assert curves(run) == curves(whole), "curves differ"
        assert_equal_bits(state(run), state(whole))
    except AssertionError as difference:
        return f"DIFFERENT: {difference}"
    return "equal"


def main() -> None:
    train, results = Runner(), {}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        for ranks in (1, 2):
            for workers in (0, 2):
                setting = f"{ranks} ranks, {workers} workers"
                overrides = [*FULL, f"data.root={base / 'shapes'}", f"data.num_workers={workers}",
                             f"trainer.devices={ranks}", f"data.batch_size={4 * ranks}"]  # fmt: skip
                whole = base / setting / "whole"
                whole.mkdir(parents=True)
                train(overrides, whole)
                for name, kill in MOMENTS.items():
                    folder = base / setting / name
                    folder.mkdir()
                    train(overrides, folder, kill=kill)
                    train(["resume=last", "name=t"], folder)
                    results.setdefault(name, {})[setting] = verdict(only_run(folder), only_run(whole))
                    print(f"{setting}: {name}: {results[name][setting]}", flush=True)
    train.close()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=1))
    sys.exit(any(v != "equal" for row in results.values() for v in row.values()))


if __name__ == "__main__":
    main()
