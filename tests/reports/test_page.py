"""The building blocks of pages."""

import base64
import io
import os
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from pages import checked
from PIL import Image

from reports.html import (
    COLORS,
    details,
    facts,
    figure,
    legend,
    matrix,
    page,
    paragraph,
    plots,
    table,
    tiles,
    write_page,
)
from reports.html_pictures import Box, gallery, lost_picture, picture
from reports.html_text import css  # fmt: skip

NASTY = ['</style><script>alert("1")</script>', "a & b", "it's so", "كرة الدم", "赤血球", "🐈", "\x00\x1b[31m", "]]>"]
IMAGE = np.full((60, 80, 3), (200, 40, 90), np.uint8)


def whole(html: str) -> str:
    return page("title", [("Section", html)])


def drawn(title: str = "") -> Figure:
    plot = Figure(figsize=(4, 3))
    axes = plot.add_subplot()
    axes.plot([0, 1], [5, -5], color="black")
    axes.plot([0, 1], [0, 1], color=COLORS["series1"])
    axes.imshow(np.eye(3))
    axes.set_title(title)
    axes.set_ylim(0, 1)
    return plot


def test_names_from_strangers_stand_on_the_page_as_text():
    boxes = [Box((1.0, 2.0, 30.0, 40.0), name, (200, 10, 10), group=name) for name in NASTY]
    entries = [(name, name, name) for name in NASTY]
    html = page(NASTY[0], [(name, paragraph(name)) for name in NASTY], NASTY[0])
    html += tiles(entries) + facts(dict(zip(NASTY, NASTY, strict=True))) + table(NASTY, [NASTY]) + details(NASTY[0], "")
    html += legend([(name, "red", "") for name in NASTY]) + lost_picture(NASTY[0], NASTY[1])
    html += picture(IMAGE, boxes, NASTY[0]) + matrix(NASTY, NASTY, np.eye(8, dtype=int), np.eye(8), "a", "b")
    html += "".join(figure(drawn(name)) for name in NASTY[:-2])
    found = checked(html)
    assert [tag for tag, _ in found.tags].count("script") == 1  # our own
    for name in NASTY[:-2]:
        assert name in found.text
    assert "\x00" not in html
    assert "\x1b" not in html


def test_a_page_forbids_itself_the_network():
    found = checked(whole(""))
    (policy,) = (a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "http" not in "".join(found.links)


def test_sections_of_the_same_name_have_anchors_of_their_own():
    found = checked(page("t", [("", ""), ("A b", ""), ("A b", ""), ("表", ""), ("!", ""), ("", "")]))
    anchors = [a["id"] for tag, a in found.tags if tag == "section"]
    assert len(anchors) == 6
    assert [a["href"] for tag, a in found.tags if tag == "a"] == [f"#{name}" for name in anchors[1:5]]


def test_figures_share_no_ids_and_keep_their_clip_paths():
    first, second = figure(drawn()), figure(drawn())
    found = checked(whole(plots([first, second])))
    clips = re.findall(r"url\(#([^)]+)\)", first)
    assert clips
    assert not set(clips) & set(re.findall(r"url\(#([^)]+)\)", second))
    assert set(clips) <= set(found.ids)


def test_figures_follow_the_theme_and_leave_text_to_the_browser():
    html = figure(drawn("السلام عليكم 赤 & <b> $x^$"))
    assert "<text" in html
    assert "السلام عليكم 赤 &amp; &lt;b&gt; $x^$" in html
    assert "var(--series1)" in html
    for color in ("#000000", "#ffffff", *COLORS.values()):
        assert color not in html
    assert "<style" not in html  # it would hold for the whole page
    assert 'role="img"' in html


def test_no_text_of_a_figure_is_cut_off():
    plot = drawn("title")
    plot.axes[0].set_xlabel("a label below the axes")
    figure(plot)
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
    html = picture(image, [box], "one\ntwo", long_side=320)
    found = checked(whole(html))
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
    found = checked(whole(picture(np.zeros((*shape, 3), np.uint8), [Box((0.0, 0.0, 1.0, 1.0), "a", (9, 9, 9))], "c")))
    (frame,) = found.with_class("frame")
    widths = [int(width) for width in re.findall(r"--(?:small|large):(\d+)px", frame["style"])]
    assert all(8 <= width <= 1080 for width in widths)
    if shape[0] > 8 * shape[1]:
        assert max(widths) <= 820


def test_a_mistake_is_labelled_before_what_it_would_cover():
    right = Box((10.0, 10.0, 40.0, 40.0), "right", (1, 2, 3))
    wrong = Box((11.0, 11.0, 41.0, 41.0), "wrong", (1, 2, 3), strong=True)
    labels = re.findall(r'<b class="early[^>]*>([^<]*)</b>', picture(IMAGE, [right, wrong]))
    assert labels == ["wrong"]


def test_in_a_crowd_only_mistakes_are_labelled_until_the_picture_is_enlarged():
    places = [(12.0 * (n % 6), 10.0 * (n // 6)) for n in range(30)]
    boxes = [Box((x, y, x + 4, y + 4), "o", (1, 2, 3), strong=n == 7) for n, (x, y) in enumerate(places)]
    html = picture(np.zeros((60, 80, 3), np.uint8), boxes)
    assert html.count('<b class="early') == 1
    assert html.count('<b class="late') > 10


def test_boxes_are_hidden_by_kind_where_there_are_two_kinds():
    boxes = [Box((1.0, 1.0, 9.0, 9.0), "a", (1, 2, 3), group=group) for group in ("true", "predicted")]
    true, predicted = (picture(IMAGE, [box]) for box in boxes)
    assert "show-true" in gallery([true, predicted])
    assert "show-predicted" in gallery([true, predicted])
    assert 'type="checkbox" class="show' not in gallery([true, true])


def test_tables_show_numbers_as_they_are_read():
    rows = [["a", 12345, 0.25, 0.5, 123.456], ["b", None, 1.5, float("nan"), 0.001], ["c", np.int64(-3), -1.0, 1, 7]]
    html = table(["name", "count", "share", "part", "size"], rows, bars=["share"])
    found = checked(whole(html))
    assert [t for t in found.texts if t.strip()][-20:] == [
        "name", "count", "share", "part", "size",
        "a", "12,345", "0.25", "0.500", "123.5",
        "b", "\u2013", "1.5", "\u2013", "0.001",
        "c", "-3", "-1", "1", "7",
    ]  # fmt: skip
    assert re.findall(r"--part:([\d.]+)%", html) == ["25.0", "100.0", "0.0"]
    assert re.findall(r'class="(text|number)">(?:name|count|share|part|size)', html) == ["text", *["number"] * 4]
    assert re.findall(r'data-value="([^"]*)"', html)[:8] == ["12345", "0.25", "0.5", "123.456", "", "1.5", "", "0.001"]


def test_a_matrix_says_counts_and_shares_and_leaves_out_what_has_no_number():
    counts, shares = np.array([[3, 1], [0, -1]]), np.array([[0.75, 0.25], [0.0, 0.0]])
    found = checked(whole(matrix(["a", "none"], ["a", "missed"], counts, shares, "true", "found")))
    assert "a 3 75 % 1 25 %" in found.text
    assert found.text.rstrip().endswith("none 0")


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    file = tmp_path / "report.html"
    write_page(file, "before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_file_names_that_are_no_text_can_be_written(tmp_path):
    name = os.fsdecode(b"bad\xff.jpg")
    write_page(tmp_path / "page.html", whole(paragraph(name)))
    assert "bad?.jpg" in (tmp_path / "page.html").read_text()


def test_colors_are_css():
    assert css((255, 0, 16)) == "#ff0010"
