"""Text and colours as HTML and SVG have them."""

import html
import re

from reports.drawing import Color


def escape(text: object) -> str:
    """As text or within quotes; control characters are shown as replaced."""
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", str(text)))


def css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
