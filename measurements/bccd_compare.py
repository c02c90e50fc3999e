"""Compare AP after some minutes of training on BCCD, ours and torchvision's: mean and range over seeds.

    python measurements/bccd_compare.py --seconds 1.23 2.06 --ours RUN_FOLDER ... --torchvision RUN_FOLDER ...

Runs of one recipe by train.py and by measurements/torchvision_peer.py, one of each for a seed. A run's
scores after a number of steps are the same on a busy and on an idle machine, its time is not: so `--seconds` gives how
long a step of each takes on an idle one (measurements/bccd_steps.py measures their ratio). A row is the
validation nearest to 2, 5, 10 or 15 minutes. `--plot FILE` draws the same: lines are means, bands reach from the lowest
to the highest seed.
"""

import argparse
import csv
import statistics
from pathlib import Path

MINUTES = (2, 5, 10, 15)
SHOWN = ("AP", "AP50", "AP75")


def scores(run: Path) -> dict[int, dict[str, float]]:
    """Scores of each validation by step."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/AP"]]
    return {int(row["step"]): {name: float(row[f"val/{name}"]) for name in SHOWN} for row in rows}


def plot(file: Path, sides: list[tuple[str, list[Path], float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, runs, seconds), color in zip(sides, ("#0062a8", "#b84a00"), strict=True):
        found = [scores(run) for run in runs]
        minutes = [step * seconds / 60 for step in found[0]]
        values = [[of_run[step]["AP"] for of_run in found] for step in found[0]]
        axes.plot(minutes, [statistics.fmean(v) for v in values], "o-", color=color, markersize=3, label=name)
        axes.fill_between(minutes, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.2, lw=0)
    axes.set(xlabel="minutes of training", ylabel="AP", xlim=(0, 15.5))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs=2, required=True)
    parser.add_argument("--ours", type=Path, nargs="+", required=True)
    parser.add_argument("--torchvision", type=Path, nargs="+", required=True)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.plot:
        sides = list(
            zip(("Boxwright", "torchvision"), (options.ours, options.torchvision), options.seconds, strict=True)
        )
        plot(options.plot, sides)
    print(
        "| minutes | | step | " + " | ".join(SHOWN) + " | AP of each seed |\n|---|---|---|" + "---|" * (len(SHOWN) + 1)
    )
    for limit in MINUTES:
        sides = (("ours", options.ours), ("torchvision", options.torchvision))
        for (name, runs), seconds in zip(sides, options.seconds, strict=True):
            found = [scores(run) for run in runs]
            step = min(found[0], key=lambda step: abs(step * seconds / 60 - limit))
            seeds = [of_run[step] for of_run in found]
            cells = [
                f"{statistics.fmean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"
                for values in ([one[metric] for one in seeds] for metric in SHOWN)
            ]
            each = ", ".join(f"{one['AP']:.3f}" for one in seeds)
            print(f"| {step * seconds / 60:.1f} | {name} | {step} | {' | '.join(cells)} | {each} |")


if __name__ == "__main__":
    main()
