"""The colours of pages and plots, on light and on dark ground."""

from collections.abc import Mapping

from reports.drawing import Color

THEME: Mapping[str, tuple[str, str]] = {
    # name: (light, dark); variables of the style sheet and of each plot
    "ground": ("#ffffff", "#14171c"),
    "panel": ("#f6f7f9", "#1c2027"),
    "ink": ("#1a1d21", "#e6e8eb"),
    "muted": ("#5b636e", "#9aa3ae"),
    "line": ("#dde1e6", "#323842"),
    "accent": ("#2563c9", "#6ea4ff"),
    # Series of a plot, after Okabe and Ito's colour-blind safe set, of one contrast on each ground.
    "series1": ("#0068a8", "#56b4e9"),
    "series2": ("#c24e00", "#f0905a"),
    "series3": ("#00805c", "#3ccfa4"),
    "series4": ("#a8478a", "#e79ac9"),
    "series5": ("#8a6d00", "#e0c040"),
    "series6": ("#5b636e", "#aab2bd"),
}
LIGHT: Mapping[str, str] = {name: light for name, (light, _) in THEME.items()}
"""The colours of pictures, which have one ground."""
PLACEHOLDERS: Mapping[str, str] = {name: f"#0{index:02x}fe{index % 10}" for index, name in enumerate(THEME)}
"""Colours that matplotlib accepts and `html.plot` replaces by the variables of the theme."""


def series(number: int) -> str:
    """Names the colour of the n-th series, from 0; the colours repeat after six."""
    return f"series{number % 6 + 1}"


def css(color: Color) -> str:
    """Writes a colour in hexadecimal notation."""
    return "#{:02x}{:02x}{:02x}".format(*color)
