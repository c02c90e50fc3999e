"""Checks that hold for every page: well formed, self-contained, unique ids."""

import base64
import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link", "hr"}
LOADING = ("src", "href", "xlink:href", "srcset", "action", "data", "poster")


class Page(HTMLParser):
    """Parses a page and refuses what a browser would have to repair."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice: {names}"
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[name] for name in LOADING if name in found]
        self.links += re.findall(r"url\(([^)]*)\)", " ".join(found.values()))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> where </{self.open[-1]}> was expected"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "style":
            assert "@import" not in data
            self.links += re.findall(r"url\(([^)]*)\)", data)
        elif inside != "script":
            self.texts.append(data)
            self.headings += [data] if inside in ("h1", "h2", "h3") or "h1" in self.open else []

    @property
    def text(self) -> str:
        """The text of the page without marks of direction."""
        return re.sub(r"\s+", " ", " ".join(self.texts)).replace("\u2068", "").replace("\u2069", "")

    def with_class(self, name: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.tags if name in attributes.get("class", "").split()]


def checked(html: str) -> Page:
    """Parses a page and asserts that it is well formed, ids are unique, and references are inside the page or data."""
    page = Page(html)
    for figure in page.with_class("plot"):
        plot = Page(svg(figure))  # the figure's image may not load anything either
        assert all(link.strip("\"' ").startswith(("#", "data:image/")) for link in plot.links)
    assert len(page.ids) == len(set(page.ids)), sorted(name for name in page.ids if page.ids.count(name) > 1)
    for link in page.links:
        link = link.strip("\"' ")
        assert link.startswith(("#", "data:image/")), f"loads {link[:80]}"
        assert not link.startswith("#") or link[1:] in page.ids, f"{link} is not on the page"
    return page


def svg(figure: dict[str, str]) -> str:
    """The SVG of an image that holds it, without the head of its file."""
    kind, _, data = figure["src"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    text = base64.b64decode(data).decode()
    return text[text.index("<svg") :]
