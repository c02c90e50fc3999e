"""Self-contained HTML pages from templates: no network, light and dark, text in any script.

Templates escape every text, so that names from a data set stay names.
"""

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float, Int
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from evaluation.files import write_whole
from reports.theme import PLACEHOLDERS, THEME

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','Liberation Sans',Arial,sans-serif"


class Plot(NamedTuple):
    """A figure as the address of an image, SVG that holds its own light and dark colours."""

    source: str
    description: str
    """Read out in place of the figure."""
    width: int
    height: int


class Legend(NamedTuple):
    """An entry of a legend."""

    text: str
    color: str
    """A colour of CSS."""
    kind: str = ""
    """`line`, `line dashed`, `dashed`, `outline`, `tinted`; empty for a square."""


class Tile(NamedTuple):
    """One of the few figures at the head of a page."""

    name: str
    value: str
    remark: str


class Matrix(NamedTuple):
    """Counts with their share of the row; a count of -1 is an empty cell."""

    rows: Sequence[str]
    columns: Sequence[str]
    cells: list[list[tuple[int, float]]]
    row_title: str
    column_title: str


@cache
def environment() -> Environment:
    """Loads the templates of this package; control characters are shown as replaced."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=lambda name: name is None or name.endswith(".html"),
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    found.globals |= {"theme": THEME, "sans": _SANS}
    return found


def render(template: str, **view: Any) -> str:
    """Fills a template of a whole page; the templates name what they need of a view."""
    return environment().get_template(template).render(links=[], **view)


def part(macro: str, *arguments: Any, **settings: Any) -> Markup:
    """Makes a piece of a page, by the name of a macro of `macros.html`."""
    return getattr(cast(Any, environment().get_template("macros.html").module), macro)(*arguments, **settings)


def plot(figure: Figure, colors: Mapping[str, str] | None = None) -> Plot:
    """Draws a figure as SVG with text as text.

    Black, white and `PLACEHOLDERS` follow the theme; `colors` replaces others by colours of CSS. A figure at
    most 4.6 inches wide has text of 9 points that stays legible on a telephone; its label becomes the description.
    """
    if figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    for text in figure.findobj(Text):
        cast(Text, text).set(parse_math=False, usetex=False)  # a dollar in a name is a dollar
    buffer = io.StringIO()
    # The salt makes ids, and so the file, the same each time.
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.image_inline": True, "svg.hashsalt": "plot"}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has the font, or shows so itself
        about = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=about)
    svg = buffer.getvalue()
    themed = {color: f"var(--{name})" for name, color in PLACEHOLDERS.items()}
    for color, replacement in {"#000000": "var(--ink)", "#ffffff": "var(--ground)", **themed, **(colors or {})}.items():
        svg = svg.replace(color, replacement)
    svg = svg.replace("<defs>", f"<defs><style>{_plot_style()}</style>", 1)
    width, height = figure.get_size_inches() * 100
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return Plot(source, str(figure.get_label()), round(width), round(height))


@cache
def _plot_style() -> str:
    """Style sheet of the image alone, which doesn't see the variables of its page."""
    light, dark = (";".join(f"--{name}:{colors[at]}" for name, colors in THEME.items()) for at in (0, 1))
    return (
        f"svg{{{light};fill:var(--ink)}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
        f"text{{font-family:{_SANS}!important}}"
    )


def matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    counts: Int[np.ndarray, "r c"],
    shares: Float[np.ndarray, "r c"],
    titles: tuple[str, str],
) -> Matrix:
    """Pairs counts with their shares, with the titles of the rows and of the columns."""
    cells = [list(zip(*line, strict=True)) for line in zip(counts.tolist(), shares.tolist(), strict=True)]
    return Matrix(rows, columns, cells, *titles)


def write_page(path: Path, html: str) -> None:
    """Replaces the file in one step; what UTF-8 can't hold (file names on some systems) is shown as `?`."""
    write_whole(path, html.encode("utf-8", "replace"))


def _printable(value: Any) -> Any:
    return value if isinstance(value, Markup) or not isinstance(value, str) else _CONTROLS.sub("\ufffd", value)
