"""Compare runs, finished or not: a table and a plot of what they differ in, how good they are, and what they cost.

python compare.py runs/sweeps/fcos-coco
python compare.py runs/small_dataset runs/sweeps/lr --output compared
"""

import argparse
import sys
from pathlib import Path

from boxwright.config.resolvers import register_resolvers
from boxwright.runs import compare
from boxwright.runs.log import end_with_reader


def main() -> None:
    """Print the table, and write comparison.csv, comparison.md and comparison.png."""
    end_with_reader()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="holds runs, at any depth, or is one")
    parser.add_argument("--output", type=Path, help="where the three files go; default: the first FOLDER")
    arguments = parser.parse_args()
    register_resolvers()
    try:
        compare.summarize(arguments.folders, arguments.output or arguments.folders[0])
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
