"""Building blocks of self-contained HTML pages: no network, light and dark, text in any script.

Every function but `page` gives a piece of HTML; texts are escaped here, and only `html` arguments are taken
as they are.
"""

import io
import itertools
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from evaluation.files import write_whole
from reports.html_pictures import Box, gallery, lost_picture, picture
from reports.html_style import SCRIPT, STYLE, VARIABLES
from reports.html_text import css, escape

__all__ = [
    "COLORS", "Box", "code", "css", "details", "facts", "figure", "gallery", "legend", "lost_picture", "matrix", "page",
    "paragraph", "picture", "plots", "table", "tiles", "write_page",
]  # fmt: skip

COLORS = {name: f"#0{index:02x}fe{index % 10}" for index, name in enumerate(VARIABLES)}
"""Stand-ins for the page's own colours in plots: `axes.plot(x, y, color=COLORS["series1"])` follows the theme."""

_number = itertools.count()


def page(title: str, sections: Sequence[tuple[str, str]], subtitle: str = "") -> str:
    """The whole document; `sections` are (heading, html), in the bar of links where the heading isn't empty."""
    ids: list[str] = []
    for heading, _ in sections:
        slug = re.sub(r"\W+", "-", heading.lower()).strip("-") or "start"
        ids.append(slug if slug not in ids else f"{slug}-{len(ids)}")
    links = "".join(
        f'<a href="#{name}">{escape(heading)}</a>' for name, (heading, _) in zip(ids, sections, strict=True) if heading
    )
    parts = "\n".join(
        f'<section id="{name}">{f"<h2>{escape(heading)}</h2>" if heading else ""}\n{html}\n</section>'
        for name, (heading, html) in zip(ids, sections, strict=True)
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><div><h1><bdi>{escape(title)}</bdi></h1>{f"<p>{escape(subtitle)}</p>" if subtitle else ""}</div></header>
<nav><div>{links}</div></nav>
<main>
{parts}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def paragraph(text: str, kind: str = "") -> str:
    """`kind`: `muted`, `note`, or nothing."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def details(summary: str, html: str, is_open: bool = False) -> str:
    """Shown and hidden by a click on the summary."""
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>\n{html}</details>"


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """The few figures that matter: (name, value, remark)."""
    cells = (
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(remark)}</span></div>'
        for name, value, remark in entries
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def facts(entries: Mapping[str, object]) -> str:
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())
    return f'<dl class="facts">{"".join(rows)}</dl>'


def legend(entries: Sequence[tuple[str, str, str]]) -> str:
    """(text, CSS colour, `line`, `dashed` or `` for a square)."""
    items = (
        f'<li><i class="{kind}" style="--c:{color}"></i><bdi>{escape(text)}</bdi></li>' for text, color, kind in entries
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def plots(figures: Sequence[str]) -> str:
    """Beside one another where there is room."""
    return f'<div class="plots">{"".join(f"<div>{html}</div>" for html in figures)}</div>'


def figure(plot: Figure) -> str:
    """Inline SVG, text as text. Black, white and `COLORS` follow the theme; `plot.get_label()` is read out.

    Made at most 4.6 inches wide, text of 9 points stays legible on a telephone.
    """
    if plot.get_layout_engine() is None:
        plot.set_layout_engine("constrained")
    for text in plot.findobj(Text):
        cast(Text, text).set(parse_math=False, usetex=False)  # a dollar in a name is a dollar
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.image_inline": True}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has the font, or shows so itself
        about = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        plot.savefig(buffer, format="svg", transparent=True, metadata=about)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # A style of SVG inside HTML would hold for the whole page.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    size = re.search(r'viewBox="[^"]*"', svg)
    name = f' aria-label="{escape(plot.get_label())}"' if plot.get_label() else ""
    svg = re.sub(r"<svg[^>]*>", f'<svg class="plot" role="img"{name} {size[0] if size else ""}>', svg, count=1)
    svg = svg.replace("xlink:href", "href")
    # Ids are the same in every plot that matplotlib makes: clip paths of one would cut another.
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    prefix = f"p{next(_number)}-"
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{prefix}", svg)
    svg = re.sub(r"font: ((?:[\w-]+ )*)([\d.]+)px [^;\"]*", r"font: \1\2px var(--sans)", svg)
    for color, variable in {"#000000": "ink", "#ffffff": "ground", **{v: k for k, v in COLORS.items()}}.items():
        svg = svg.replace(color, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", svg).strip()


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    bars: Sequence[str] = (),
    sortable: bool = True,
    tall: int = 20,
) -> str:
    """Numbers to the right; a bar in the columns named in `bars`, fractions of 1. None and nan are a dash, fractions
    have three decimals.

    The header sorts where scripts may run; a table of more than `tall` rows scrolls in itself, and says so.
    """
    numeric, fractions = [], []
    for at, name in enumerate(columns):
        values = [row[at] for row in rows]
        numbers = [value for value in values if isinstance(value, int | float | np.number)]
        numeric.append(name in bars or len(numbers) + values.count(None) == len(values))
        whole = all(isinstance(value, int | np.integer) for value in numbers)
        fractions.append(not whole and all(not value > 1 for value in numbers))
    head = "".join(
        f'<th scope="col" class="{"number" if is_number else "text"}">{escape(name)}</th>'
        for name, is_number in zip(columns, numeric, strict=True)
    )
    lines: list[str] = []
    for row in rows:
        cells = zip(row, numeric, [name in bars for name in columns], fractions, strict=True)
        lines.append(f"<tr>{''.join(_cell(*cell) for cell in cells)}</tr>")
    height = f' style="max-height:{2 * tall}rem"' if len(rows) > tall else ""
    more = f'<p class="more">{len(rows):,} rows; scroll to see them all.</p>' if height else ""
    kind = "sortable" if sortable and len(rows) > 1 else ""
    return (
        f'<div class="scroll" tabindex="0"{height}><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{more}"
    )


def matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    counts: Int[np.ndarray, "r c"],
    shares: Float[np.ndarray, "r c"],
    row_title: str,
    column_title: str,
) -> str:
    """Counts on a ground that is the stronger the larger their share, which stands below; -1 is an empty cell."""
    head = "".join(f'<th scope="col" title="{escape(name)}"><bdi>{escape(name)}</bdi></th>' for name in columns)
    lines: list[str] = []
    for name, numbers, parts in zip(rows, counts, shares, strict=True):
        cells = "".join(
            f'<td style="--share:{0.85 * part:.3f}">{number:,}<small>{100 * part:.0f} %</small></td>'
            if number > 0
            else f"<td>{'' if number < 0 else 0}</td>"
            for number, part in zip(numbers, parts, strict=True)
        )
        lines.append(f'<tr><th scope="row" title="{escape(name)}"><bdi>{escape(name)}</bdi></th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table class="matrix"><thead><tr><th></th><th colspan="{len(columns)}" '
        f'class="title">{escape(column_title)}</th></tr><tr><th class="title">{escape(row_title)}</th>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def write_page(path: Path, html: str) -> None:
    """The file is there whole or as it was; what UTF-8 can't hold (file names on some systems) is shown as `?`."""
    write_whole(path, html.encode("utf-8", "replace"))


def _cell(value: Any, numeric: bool, bar: bool, fraction: bool) -> str:
    if not numeric:
        text = escape("" if value is None else value)
        return f'<td class="{"text" if len(text) <= 28 else "long"}"><bdi>{text}</bdi></td>'
    if value is None or not math.isfinite(value):
        return '<td class="number" data-value="">\u2013</td>'
    part = f'<i style="--part:{100 * min(max(value, 0), 1):.1f}%"></i>' if bar else ""
    text = f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.3f}" if fraction else f"{value:.4g}"
    return f'<td class="number" data-value="{value:.12g}">{part}{text}</td>'
