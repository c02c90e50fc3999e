"""Drawn boxes are visible on any background, labelled, and in colours and scripts that distinguish classes."""

from pathlib import Path

import numpy as np
import pytest

from reports import drawing, fonts
from reports.drawing import class_color, draw, text_color

NAMES = ["red cell", "白血球", "خلية"]


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (np.array(color) / 255).tolist()]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def grey(height=300, width=400, value=128):
    return np.full((height, width, 3), value, np.uint8)


def laid_out(boxes, labels, names, scores, height=480, width=640):
    """The labels that `draw` would put on an image of this size."""
    boxes = np.array(boxes, np.float64)
    layout = drawing._Layout(width, height, boxes)
    for box, label, score in zip(boxes, labels, scores, strict=True):
        layout.place(drawing._frame(box, 2, width, height), label, names[label], score)
    return layout.tabs


def text(tab):
    return "".join(part for part, _ in tab.text.parts)


def test_text_stands_out_from_the_colour_of_every_class():
    for label in range(300):
        light, dark = sorted((luminance(class_color(label)), luminance(text_color(class_color(label)))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


def test_colours_of_classes_are_distinguishable():
    colors = np.array([class_color(label) for label in range(80)])
    between = np.abs(colors[:, None] - colors[None]).sum(axis=2)
    np.fill_diagonal(between, 1000)
    assert between.min() >= 16
    assert between[:10, :10].min() > 60
    assert all(between[i, i + 1] > 150 for i in range(79))


def test_a_line_is_around_the_box_and_the_given_image_unchanged():
    image = grey()
    drawn = draw(image, np.array([[100.0, 80.0, 200.0, 180.0]]), np.array([1]), NAMES)
    assert (image == 128).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn[100, 99] == class_color(1)).all()
    assert (drawn[100, 98] < 128).all()  # a dark edge, visible on a background of the line's colour
    assert (drawn[82:178, 102:198] == 128).all()
    assert (drawn[:, 300:] == 128).all()


def test_boxes_beyond_the_image_are_drawn_at_its_border():
    drawn = draw(grey(), np.array([[-50.0, -50.0, 500.0, 400.0]]), np.array([0]), NAMES)
    assert (drawn[-1] == class_color(0)).all()
    assert (drawn[:, -1] == class_color(0)).all()


def test_dashes_have_gaps_and_closed_corners():
    box = np.array([[50.0, 50.0, 350.0, 250.0]])
    drawn = draw(grey(), box, np.array([0]), [""], dashed=True)
    on_top = (drawn[49, 49:351] == class_color(0)).all(axis=1)
    assert 0.4 < on_top.mean() < 0.6
    assert on_top[0]
    assert on_top[-1]


def test_without_boxes_nothing_changes():
    none = np.zeros((0, 4)), np.zeros(0, np.int64)
    assert (draw(grey(), *none, NAMES) == 128).all()


def test_the_best_score_is_on_top():
    boxes = np.array([[100.0, 100.0, 200.0, 200.0]] * 2)
    for scores, top in (((0.9, 0.8), 0), ((0.8, 0.9), 1)):
        drawn = draw(grey(), boxes, np.array([0, 1]), NAMES, np.array(scores))
        assert (drawn[150, 99] == class_color(top)).all()


def test_coinciding_boxes_are_all_visible_and_labelled_with_the_best_in_place():
    boxes = np.array([[100.0, 100.0, 200.0, 200.0], [100.4, 99.8, 200.3, 200.0], [99.9, 100.0, 200.0, 200.2]])
    drawn = draw(grey(), boxes, np.array([0, 1, 2]), NAMES, np.array([0.5, 0.9, 0.7]))
    for x, label in ((99, 1), (97, 2), (95, 0)):  # from the inside to the outside
        assert (drawn[140, x] == class_color(label)).all()
        assert ((drawn == class_color(label)).all(axis=2)).sum() > 300


def test_coinciding_boxes_at_the_border_of_the_image_are_inside_it():
    boxes = np.array([[0.0, 0.0, 400.0, 300.0]] * 2)
    drawn = draw(grey(), boxes, np.array([0, 1]), NAMES, np.array([0.9, 0.8]))
    assert (drawn[150, 0] == class_color(0)).all()
    assert (drawn[150, 2] == class_color(1)).all()
    assert (drawn[150, 397] == class_color(1)).all()


def test_a_box_without_a_score_is_below_and_may_be_dashed_alone():
    boxes = np.array([[50.0, 50.0, 150.0, 150.0], [200.0, 50.0, 350.0, 250.0]])
    drawn = draw(grey(), boxes, np.array([0, 1]), ["", ""], np.array([np.nan, 0.9]), np.array([True, False]))
    line = (drawn[49, 50:150] == class_color(0)).all(axis=1)
    assert 0.3 < line.mean() < 0.7
    assert (drawn[49, 201:349] == class_color(1)).all()


def test_line_and_text_grow_with_the_picture():
    def sizes(side):
        box = np.array([[0.3, 0.3, 0.7, 0.7]]) * side
        drawn = draw(grey(side, side), box, np.array([0]), ["x"])
        line = (drawn[side // 2, : side // 2] == class_color(0)).all(axis=1).sum()
        return line, drawing._Layout(side, side, box).size

    assert sizes(200) == (1, 11)
    assert sizes(1000) == (3, 24)
    assert sizes(4000) == (9, 95)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (8, 300), (300, 8), (20, 20)])
def test_pictures_too_small_for_text_are_drawn_without(size):
    height, width = size
    boxes = np.array([[0, 0, width, height], [width / 4, height / 4, width / 2, height / 2]], np.float64)
    drawn = draw(grey(*size), boxes, np.array([0, 2]), NAMES, np.ones(2))
    assert drawn.shape == (*size, 3)
    assert (drawn == class_color(0)).all(axis=2).any()


def test_labels_are_inside_the_image_wherever_the_box_is():
    corners = [[0, 0, 30, 30], [610, 0, 640, 30], [0, 450, 30, 480], [610, 450, 640, 480], [0, 0, 640, 480]]
    tabs = laid_out(corners, [0, 1, 2, 0, 1], NAMES, [0.5] * 5)
    assert {tab.label for tab in tabs} == {0, 1, 2}
    for tab in tabs:
        assert tab.left >= 0
        assert tab.top >= 0
        assert tab.left + tab.width <= 640
        assert tab.top + tab.height <= 480


def test_in_a_crowd_labels_hide_neither_one_another_nor_small_boxes():
    random = np.random.default_rng(0)
    corner = random.random((200, 2)) * (600, 440)
    boxes = np.concatenate([corner, corner + random.uniform(10, 40, (200, 2))], axis=1)
    labels = random.integers(0, 3, 200).tolist()
    tabs = laid_out(boxes, labels, NAMES, np.linspace(1, 0, 200).tolist())
    assert {tab.label for tab in tabs} == {0, 1, 2}
    assert 20 < len(tabs) < 150
    places = np.array([[t.left, t.top, t.left + t.width, t.top + t.height] for t in tabs], np.float64)
    shared = drawing._overlaps(places, places)
    np.fill_diagonal(shared, 0)
    assert (shared.max(axis=1) < 0.05 * (places[:, 2:] - places[:, :2]).prod(axis=1)).all()
    hidden = drawing._overlaps(boxes, places).sum(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert (hidden > 0.4).mean() < 0.1


def test_a_label_has_the_score_or_without_room_only_the_class():
    alone = laid_out([[100, 100, 200, 200]], [0], NAMES, [0.876])
    assert text(alone[0]) == "red cell 0.88"
    rows = [[40 * i, 40 * j, 40 * i + 35, 40 * j + 35] for j in range(12) for i in range(16)]
    crowd = laid_out(rows, [0] * len(rows), ["ab"], [0.5] * len(rows))
    assert {text(tab) for tab in crowd} <= {"ab 0.50", "ab"}
    truth = draw(grey(), np.array([[100.0, 100.0, 200.0, 200.0]]), np.array([0]), NAMES)
    assert (truth == class_color(0)).all(axis=2).sum() > 800


def test_a_long_name_is_cut_and_keeps_its_score():
    (tab,) = laid_out([[100, 100, 200, 200]], [0], ["very " * 30], [0.5])
    assert text(tab).startswith("very very")
    assert text(tab).endswith("\u2026 0.50")
    assert tab.width < 400


@pytest.fixture
def only_dejavu(monkeypatch):
    first = fonts.files()[0]
    caches = (fonts._file_with, drawing._text)
    monkeypatch.setattr(fonts, "files", lambda: (first,))
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_names_without_glyphs_are_distinguished_by_their_number(only_dejavu):
    assert fonts.spelled("红细胞", 3) == "#3"
    assert fonts.spelled("RBC 红", 4) == "#4 RBC"
    assert fonts.spelled("", 5) == "#5"
    assert fonts.spelled("\ud800x", 6) == "#6 x"
    for name in ("خلية دم", "клетка", "κύτταρο", "Zelle ß", "תא"):
        assert fonts.spelled(name, 7) == name
    assert fonts.spelled("two\nlines\t\x07", 8) == "two lines"
    drawn = draw(grey(), np.array([[100.0, 100.0, 200.0, 200.0]]), np.array([0]), ["红"], np.ones(1))
    assert (drawn == class_color(0)).all(axis=2).sum() > 800


def test_a_system_font_is_found_for_characters_that_the_first_lacks():
    name = "红细胞 x"
    if fonts.spelled(name, 0) != name:
        pytest.skip("no font of this system has Chinese characters")
    ((part, font),) = fonts.runs(name, 20)
    assert part == name
    assert Path(font.path).name != "DejaVuSans.ttf"
    assert bytes(font.getmask("红")) != bytes(font.getmask("细"))


def test_every_part_of_a_mixed_name_gets_a_font_that_has_it():
    name = "Ж红"
    if fonts.spelled(name, 0) != name:
        pytest.skip("no font of this system has Chinese characters")
    for part, font in fonts.runs(name + "ლ", 20):
        assert all(fonts._has(Path(font.path), character) for character in part)
