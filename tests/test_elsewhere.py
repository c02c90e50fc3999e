"""docs/elsewhere.md and the script that shows its rows."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "elsewhere.md").read_text()
SCRIPT = (ROOT / "measurements" / "elsewhere.py").read_text()


def test_the_script_runs_exactly_the_rows_of_the_page() -> None:
    rows = re.findall(r"^@row\ndef (\w+)", SCRIPT, re.MULTILINE)
    assert len(rows) > 20
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == sorted(rows)


def test_every_test_that_the_script_refers_to_exists() -> None:
    named = re.findall(r'tested\(\s*"([\w/]+\.py)", "(\w+)"', SCRIPT)
    assert len(named) == SCRIPT.count("tested(") - 1
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text()
