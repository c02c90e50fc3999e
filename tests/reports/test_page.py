"""The building blocks of pages."""

import base64
import io
import os
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from pages import checked, svg
from PIL import Image

from reports import html
from reports.html import Legend, Tile, part, write_page
from reports.html_pictures import Box, PictureView, groups, picture
from reports.tables import Table
from reports.theme import PLACEHOLDERS, css

NASTY = ['</style><script>alert("1")</script>', "a & b", "it's so", "كرة الدم", "赤血球", "🐈", "\x00\x1b[31m", "]]>"]
IMAGE = np.full((60, 80, 3), (200, 40, 90), np.uint8)
PAGE = """
{% extends "page.html" %}
{% import "macros.html" as m %}
{% block content %}
{% for heading, content in sections %}
{% call m.section(links, heading) %}{{ content }}{% endcall %}
{% endfor %}
{% endblock %}
"""


def whole(*sections: tuple[str, object], title: str = "title", subtitle: str = "") -> str:
    return html.environment().from_string(PAGE).render(links=[], title=title, subtitle=subtitle, sections=sections)


def of(content: object) -> str:
    return whole(("Section", content))


def drawn(title: str = "") -> Figure:
    plot = Figure(figsize=(4, 3))
    axes = plot.add_subplot()
    axes.plot([0, 1], [5, -5], color="black")
    axes.plot([0, 1], [0, 1], color=PLACEHOLDERS["series1"])
    axes.imshow(np.eye(3))
    axes.set_title(title)
    axes.set_ylim(0, 1)
    return plot


def test_untrusted_names_are_text_on_the_page():
    boxes = [Box((1.0, 2.0, 30.0, 40.0), name, (200, 10, 10), group=name) for name in NASTY]
    numbers = html.matrix(NASTY, NASTY, np.eye(8, dtype=int), np.eye(8), ("a", "b"))
    parts = [
        part("tiles", [Tile(name, name, name) for name in NASTY]),
        part("facts", dict(zip(NASTY, NASTY, strict=True))),
        part("table", Table(NASTY, [NASTY])),
        part("notes", NASTY),
        part("legend", [Legend(name, "red") for name in NASTY]),
        part("picture", PictureView(NASTY[1], NASTY[0])),
        part("gallery", [(NASTY[0], [picture(IMAGE, boxes, NASTY[0])])]),
        part("matrix", numbers),
        *(part("plot", html.plot(drawn(name))) for name in NASTY[:-2]),
    ]
    sections = [(f"Section {number}", content) for number, content in enumerate((*NASTY, *parts))]
    page = whole(*sections, title=NASTY[0], subtitle=NASTY[0])
    found = checked(page)
    assert [tag for tag, _ in found.tags].count("script") == 1  # the page's own script
    for name in NASTY[:-2]:
        assert name in found.text
    assert "\x00" not in page
    assert "\x1b" not in page


def test_a_page_forbids_network_access():
    found = checked(of(""))
    (policy,) = (a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "http" not in "".join(found.links)


def test_the_navigation_bar_links_to_every_section():
    found = checked(whole(("A b", ""), ("C", "")))
    anchors = [a["id"] for tag, a in found.tags if tag == "section"]
    assert anchors == ["a-b", "c"]
    assert [a["href"] for tag, a in found.tags if tag == "a"] == ["#a-b", "#c"]


def test_the_style_sheet_and_the_script_are_not_escaped_and_have_every_colour():
    page = of("")
    assert "const order = (a, b) => {" in page
    assert 'content: " \\2191"' in page
    for light, dark in html.THEME.values():
        assert light in page
        assert dark in page
    assert "{{" not in page
    assert "{%" not in page


def test_figures_are_separate_images_and_reproducible():
    first, second = (part("plot", html.plot(drawn())) for _ in range(2))
    assert first == second
    (figure, again) = checked(of(first + second)).with_class("plot")
    inside = svg(figure)
    clips = re.findall(r"url\(#([^)]+)\)", inside)
    assert clips
    assert set(clips) <= set(re.findall(r'id="([^"]*)"', inside))
    assert figure == again


def test_figures_follow_the_theme_and_leave_text_to_the_browser():
    drawn_ = html.plot(drawn("السلام عليكم 赤 & <b> $x^$"))
    (figure,) = checked(of(part("plot", drawn_))).with_class("plot")
    inside = svg(figure)
    assert "<text" in inside
    assert "السلام عليكم 赤 &amp; &lt;b&gt; $x^$" in inside
    assert "var(--series1)" in inside
    light, dark = re.search(r"svg\{(.*?)\}@media\(prefers-color-scheme:dark\)\{svg\{(.*?)\}", inside).groups()
    for name, colors in html.THEME.items():
        assert f"--{name}:{colors[0]}" in light
        assert f"--{name}:{colors[1]}" in dark
    outside = inside.replace(light, "").replace(dark, "")
    for color in ("#000000", "#ffffff", *PLACEHOLDERS.values()):
        assert color not in outside
    assert set(re.findall(r"var\(--([\w-]+)\)", inside)) <= set(html.THEME)


def test_a_figure_is_described_and_has_its_shape_before_it_is_drawn():
    plot = drawn()
    plot.set_label("loss over steps")
    (figure,) = checked(of(part("plot", html.plot(plot)))).with_class("plot")
    assert figure["alt"] == "loss over steps"
    assert int(figure["width"]) / int(figure["height"]) == pytest.approx(4 / 3)


def test_no_text_of_a_figure_is_cut_off():
    plot = drawn("title")
    plot.axes[0].set_xlabel("a label below the axes")
    html.plot(plot)
    width, height = plot.canvas.get_width_height()
    plot.draw_without_rendering()
    box = plot.axes[0].xaxis.label.get_window_extent()
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_a_picture_is_a_small_jpeg_with_boxes_in_its_own_pixels():
    image = np.zeros((300, 900, 3), np.uint8)
    image[:, 450:] = (250, 120, 10)
    box = Box((10.0, 20.0, 110.0, 70.0), "cat", (1, 2, 3), dashed=True, group="true")
    found = checked(of(part("picture", picture(image, [box], "one\ntwo", long_side=320))))
    (source,) = (a["src"] for tag, a in found.tags if tag == "img")
    jpeg = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert jpeg.size == (320, 107)
    assert np.abs(np.asarray(jpeg)[50, 300].astype(int) - (250, 120, 10)).max() < 12
    (svg,) = (a for tag, a in found.tags if tag == "svg")
    assert svg["viewbox"] == "0 0 900 300"
    _, rect = (a for tag, a in found.tags if tag == "rect")
    assert (rect["x"], rect["y"], rect["width"], rect["height"]) == ("10.0", "20.0", "100.0", "50.0")
    assert set(rect["class"].split()) == {"dashed", "of-true"}
    assert "one\ntwo" in "".join(found.texts)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 2000)])
def test_pictures_of_any_shape_are_shown_at_a_size_that_fits(shape):
    view = picture(np.zeros((*shape, 3), np.uint8), [Box((0.0, 0.0, 1.0, 1.0), "a", (9, 9, 9))], "c")
    found = checked(of(part("picture", view)))
    (frame,) = found.with_class("frame")
    widths = [int(width) for width in re.findall(r"--(?:small|large):(\d+)px", frame["style"])]
    assert all(8 <= width <= 1080 for width in widths)
    if shape[0] > 8 * shape[1]:
        assert max(widths) <= 820


def placed(*boxes: Box) -> list[tuple[str, str]]:
    """Text and style of each label in the gallery."""
    html = part("picture", picture(np.zeros((60, 100, 3), np.uint8), boxes))
    return [(text, style) for style, text in re.findall(r'<b class="early[^>]*style="([^"]*)"[^>]*>([^<]*)</b>', html)]


def test_two_labels_on_one_box_are_both_readable_the_mistake_first():
    right = Box((20.0, 20.0, 60.0, 40.0), "right", (1, 2, 3))
    wrong = Box((20.2, 20.1, 60.0, 40.0), "wrong", (4, 5, 6), strong=True)
    (first, above), (second, beside) = placed(right, wrong)
    assert (first, second) == ("wrong", "right")
    assert above.startswith("left:20.2%")
    assert "top:33.5%" in above
    assert beside.startswith("right:40.0%")


def test_labels_of_boxes_in_one_place_use_its_corners_only():
    boxes = [Box((20.0, 20.0, 80.0, 40.0), name, (1, 2, 3)) for name in ("a", "b", "c", "d", "e")]
    labels = placed(*boxes)
    assert [text for text, _ in labels] == ["a", "b", "c", "d"]
    assert len({re.sub(";--c.*", "", style) for _, style in labels}) == 4


def test_a_true_box_below_an_equal_prediction_has_no_label_of_its_own():
    true = Box((20.0, 20.0, 60.0, 40.0), "cat", (1, 2, 3), dashed=True, group="true")
    predicted = Box((20.0, 20.0, 60.0, 40.0), "cat 0.90", (1, 2, 3), group="predicted")
    assert [text for text, _ in placed(predicted, true)] == ["cat 0.90"]


def rects(*boxes: Box) -> list[dict[str, str]]:
    html = part("picture", picture(np.zeros((60, 100, 3), np.uint8), boxes))
    return [a for tag, a in checked(of(html)).tags if tag == "rect"]


def test_boxes_that_coincide_alternate_in_one_line():
    place = (20.0, 20.0, 60.0, 40.0)
    near, far = (20.1, 20.0, 60.1, 40.1), (24.0, 20.0, 60.0, 40.0)
    found = rects(*(Box(xyxy, "", (1, 2, 3)) for xyxy in (place, near, far)))
    dashes = [rect["style"].partition(";")[2] for rect in found if "halo" not in rect["class"]]
    assert dashes == [
        "stroke-dasharray:8 8;stroke-dashoffset:0", "stroke-dasharray:8 8;stroke-dashoffset:-8", "",
    ]  # fmt: skip
    assert sum("halo" in rect["class"] for rect in found) == 2  # each halo darkens what is below it


def test_coinciding_true_and_predicted_boxes_are_distinguished_by_dashes():
    place = (20.0, 20.0, 60.0, 40.0)
    found = rects(Box(place, "", (1, 2, 3), group="predicted"), Box(place, "", (1, 2, 3), dashed=True, group="true"))
    assert not any("dasharray" in rect["style"] for rect in found if "halo" not in rect["class"])


def test_in_a_crowd_only_mistakes_are_labelled_until_the_picture_is_enlarged():
    places = [(12.0 * (n % 6), 10.0 * (n // 6)) for n in range(30)]
    boxes = [Box((x, y, x + 4, y + 4), "o", (1, 2, 3), strong=n == 7) for n, (x, y) in enumerate(places)]
    shown = part("picture", picture(np.zeros((60, 80, 3), np.uint8), boxes))
    assert shown.count('<b class="early') == 1
    assert shown.count('<b class="late') > 10


def test_boxes_are_hidden_by_kind_where_there_are_two_kinds():
    boxes = [Box((1.0, 1.0, 9.0, 9.0), "a", (1, 2, 3), group=group) for group in ("true", "predicted")]
    true, predicted = (picture(IMAGE, [box]) for box in boxes)

    def gallery(*pictures: PictureView) -> str:
        return part("gallery", [("", pictures)], groups(pictures))

    assert "show-true" in gallery(true, predicted)
    assert "show-predicted" in gallery(true, predicted)
    assert 'type="checkbox" class="show' not in gallery(true, true)


def test_tables_show_numbers_as_they_are_read():
    rows = [["a", 12345, 0.25, 0.5, 123.456], ["b", None, 1.5, float("nan"), 0.001], ["c", np.int64(-3), -1.0, 1, 7]]
    table = part("table", Table(["name", "count", "share", "part", "size"], rows, ("share",)))
    found = checked(of(table))
    assert [t for t in found.texts if t.strip()][-20:] == [
        "name", "count", "share", "part", "size",
        "a", "12,345", "0.25", "0.500", "123.5",
        "b", "-", "1.5", "-", "0.001",
        "c", "-3", "-1", "1", "7",
    ]  # fmt: skip
    assert re.findall(r"--part:([\d.]+)%", table) == ["25.0", "100.0", "0.0"]
    assert re.findall(r'class="(text|number)">(?:name|count|share|part|size)', table) == ["text", *["number"] * 4]
    assert re.findall(r'data-value="([^"]*)"', table)[:8] == ["12345", "0.25", "0.5", "123.456", "", "1.5", "", "0.001"]


def test_a_matrix_has_counts_and_percentages_and_empty_cells_where_undefined():
    counts, shares = np.array([[3, 1], [0, -1]]), np.array([[0.75, 0.25], [0.0, 0.0]])
    numbers = html.matrix(["a", "none"], ["a", "missed"], counts, shares, ("true", "found"))
    found = checked(of(part("matrix", numbers)))
    assert "a 3 75 % 1 25 %" in found.text
    assert found.text.rstrip().endswith("none 0")


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    file = tmp_path / "report.html"
    write_page(file, "before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_file_names_that_are_not_valid_text_can_be_written(tmp_path):
    name = os.fsdecode(b"bad\xff.jpg")
    write_page(tmp_path / "page.html", of(name))
    assert "bad?.jpg" in (tmp_path / "page.html").read_text()


def test_colors_are_css():
    assert css((255, 0, 16)) == "#ff0010"
