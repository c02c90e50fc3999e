"""Runs of an earlier version can be resumed, repeated, scored, started from and compared as by that version.

`earlier_runs/README.md` describes the runs. Names, steps and kept rows are compared exactly, recomputed numbers
within the rounding of another processor or library version.
"""

import gzip
import json
import re
from typing import Any

import pytest
from earlier_runs import replay
from earlier_runs.skeletons import STORED
from tiers import slow_but

EXPECTED = json.loads((STORED / "expected.json").read_text())
ROUNDED = 1e-3
"""Relative, of losses, gradient norms and scores. The traces are so short that rounding stays small: without AVX-512
losses differ by up to 1e-5 from the recorded ones and gradient norms by 8e-5."""
IN_JUMPS = 0.02
"""Absolute, of metrics that rounding may change by a jump: AP, when two boxes change places. Relative, of the gradient
norms of Faster R-CNN, which jump at step 8: the earlier version has 11.44 there, and 11.26 without AVX2."""


@pytest.mark.parametrize("name", slow_but("fcos", "faster_rcnn", "compared", of=replay.PLAYS.keys()))
def test_an_earlier_versions_runs_are_read_as_by_that_version(name, train, tmp_path):
    assert_matches(replay.PLAYS[name](train, tmp_path), EXPECTED[name], f"/{name}")


def test_the_stored_runs_are_small_and_name_no_place_on_a_machine():
    files = [file for file in STORED.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert len(files) > 50
    assert sum(file.stat().st_size for file in files) < 1_000_000
    for file in files:
        contents = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        assert not re.search(rb"/(home|root|tmp|usr|opt|Users)/", contents), file


def test_the_expected_outcomes_are_of_runs_that_continued():
    """Otherwise the comparison would show little."""
    kept = {name: (of["kept"], len(of["rows"])) for name, of in EXPECTED.items() if "kept" in of}
    assert kept.pop("started_from")[0] == 0
    assert len(kept) == 7
    assert all(0 < some < whole for some, whole in kept.values()), kept
    of = EXPECTED["dashboard"]
    assert len(set(of["ids"])) == 1
    assert len(of["ids"]) == 3  # wandb_id, and both parts of the run
    assert of["steps kept"] == list(range(1, 31)) == of["steps before"][:30]
    assert of["steps before"][30:]
    assert EXPECTED["sweep"]["untouched"]


ADDED = {"started_from"} | {f"{split}AR{most}_proposals" for split in ("", "val/") for most in (100, 1000)}
"""What runs tell today that those versions did not."""


def assert_matches(seen: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        if "kept" in expected:  # rows that were on the disk are kept to the last digit
            assert seen["rows"][: expected["kept"]] == expected["rows"][: expected["kept"]], where
        assert expected.keys() <= seen.keys() <= expected.keys() | ADDED, where
        for key, value in expected.items():
            assert_matches(seen[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(seen) == len(expected), where
        for i, (a, b) in enumerate(zip(seen, expected, strict=True)):
            assert_matches(a, b, f"{where}[{i}]")
    elif (a := number(seen)) is not None and (b := number(expected)) is not None:
        assert a == pytest.approx(b, **tolerance(where)), f"{where}: {seen}, recorded {expected}"
    else:
        assert seen == expected, where


def number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def tolerance(where: str) -> dict[str, float]:
    if where.startswith("/compared/"):  # read, not computed
        return {"rel": 0.0, "abs": 0.0}
    if re.search(r"^/faster_rcnn/.*gradient_norm$", where):
        return {"rel": IN_JUMPS}
    if re.search(r"/(AP|AR|top\d|score$)", where):
        return {"rel": 0.0, "abs": IN_JUMPS}
    if re.search(r"/(\w*steps?|kept|epoch|num_objects|boxes|ids|id|untouched)(\[\d+\])?$", where):
        return {"rel": 0.0, "abs": 0.0}
    return {"rel": 1e-9 if where.endswith("/lr") else ROUNDED}
