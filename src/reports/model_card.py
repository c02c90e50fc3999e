"""The page of a published checkpoint in Markdown: what it is, how it is used, how good it is, what it was trained on.

From plain data, whoever collects it; what is unknown has no line.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Page:
    """What the page says below the Hub's own metadata."""

    name: str
    summary: str
    python: str
    """How to use it from Python; empty for what finds no boxes."""
    commands: Sequence[str]
    """Command lines that take it."""
    needs: str = ""
    """What must be installed and trusted beside Boxwright."""
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    """Fractions of 1, by metric; those without a value are not among them."""
    scored_on: str = ""
    """Weights, split and size that the scores are of."""
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    model: Mapping[str, str] = field(default_factory=dict[str, str])
    training: Mapping[str, str] = field(default_factory=dict[str, str])
    class_names: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """What each file beside the page is."""


def page(about: Page) -> str:
    """Writes the page; a section without content is left out."""
    sections = (
        ("", [f"# {plain(about.name)}", "", plain(about.summary)]),
        ("Use", _use(about)),
        ("Scores", _scores(about)),
        ("Model", _rows(about.model)),
        ("Training", _rows(about.training)),
        ("Classes", [", ".join(map(plain, about.class_names))] if about.class_names else []),
        ("Files", _rows({f"`{name}`": text for name, text in about.files.items()}, escaped=False)),
    )
    blocks = ([*([f"## {title}", ""] if title else []), *lines] for title, lines in sections if lines)
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def plain(text: str) -> str:
    """Writes a text, such as a class's name, so that Markdown takes none of its signs for its own."""
    signs = r"[\\`*\[\]<>|#~]|(?<![^\W_])_|_(?![^\W_])"  # an underscore within a word is one
    return re.sub(f"({signs})", r"\\\1", " ".join(text.split()))


def _use(about: Page) -> list[str]:
    lines = ["With Boxwright and its extra `hub` installed:", ""]
    if about.needs:
        lines = [plain(about.needs), "", *lines]
    if about.python:
        lines += ["```python", *about.python.splitlines(), "```", ""]
    return [*lines, "```bash", *about.commands, "```"]


def _scores(about: Page) -> list[str]:
    if not about.scores:
        return []
    lines = [f"{plain(about.scored_on)}, as fractions of 1.", ""]
    lines += _table(("metric", "value"), ((name, f"{value:.3f}") for name, value in about.scores.items()))
    columns = list(dict.fromkeys(name for row in about.per_class.values() for name in row))
    if about.per_class:
        rows = ([name, *(_number(row.get(one), one) for one in columns)] for name, row in about.per_class.items())
        lines += ["", *_table(("class", *(column.replace("num_", "") for column in columns)), rows)]
    return lines


def _number(value: float | None, column: str) -> str:
    if value is None or not value >= 0:  # nan too
        return "-"
    return f"{value:.0f}" if column.startswith("num_") else f"{value:.3f}"


def _rows(facts: Mapping[str, str], escaped: bool = True) -> list[str]:
    return list(_table(("", ""), facts.items(), escaped)) if facts else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], escaped: bool = True) -> Iterator[str]:
    yield f"| {' | '.join(map(plain, head))} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(map(plain, row) if escaped else row)} |"
