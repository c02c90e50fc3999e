"""The page of a run, made from invented results."""

import dataclasses
import re

import numpy as np
import pytest
from pages import Page, checked, svg

from evaluation.analysis import Analysis, analyse
from evaluation.confusions import Confusion, Matrix
from evaluation.metrics import evaluate
from evaluation.truth import Predictions, Truth
from reports import plots
from reports.plots import Line
from reports.report import About, report
from reports.report_pictures import pictures

NASTY = ("<script>alert(1)</script>", "كرة الدم", "赤血球", 'it\'s & "so"')
ABOUT = About(
    name="<b>run</b>", folder="runs/a & b", state="finished", state_remark="step 20 of 20", step=16,
    weights="weights averaged over steps (decay 0.9)", best=("val/AP", 0.4321, 12), time="0:01:02", device="cpu",
    notes=["a note"],
    history=[
        {"step": "4", "train/loss": "3.0", "train/loss_cls": "1.0", "lr": "0.1"},
        {"step": "4", "val/AP": "0.25", "val/AP50": "0.5", "val/loss": "2.5", "val/loss_cls": "0.9"},
        {"step": "8", "train/loss": "2.0", "train/loss_cls": "0.5", "lr": "0.05"},
    ],
    commands=[("Go on", "python train.py resume='a b'")], config="model:\n  lr: 0.1",
    environment={"python": "3.11", "precision": "32-true"}, data=["train: 3 images"],
)  # fmt: skip


def made_up(images: int, classes: tuple[str, ...], seed: int = 0, voc: bool = False) -> Analysis:
    """Three objects per image; for each a detection that is slightly off, sometimes of another class, or none."""
    random = np.random.default_rng(seed)
    count = 3 * images
    image_index = np.repeat(np.arange(images), 3)
    corners = random.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(10, 35, (count, 2))], axis=1)
    labels = random.integers(0, len(classes), count)
    truth = Truth(
        image_ids=np.arange(100, 100 + images), sizes=np.full((images, 2), 100), image_index=image_index, boxes=boxes,
        labels=labels, areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), crowd=np.zeros(count, bool),
        difficult=np.zeros(count, bool), class_names=classes, category_ids=tuple(range(1, len(classes) + 1)), voc=voc,
    )  # fmt: skip
    kept = random.random(count) < 0.8
    taken = np.where(random.random(count) < 0.2, (labels + 1) % len(classes), labels)[kept]
    found = (boxes + random.normal(0, 2, boxes.shape))[kept]
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    scores = random.uniform(0.3, 1, len(found)).astype(np.float32)
    predictions = Predictions(image_index[kept], found.astype(np.float32), scores, taken)
    return analyse(truth, predictions, evaluate(truth, predictions))


def without_detections(analysis: Analysis) -> Analysis:
    none = np.zeros(0, np.int64)
    nothing = Predictions(none, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none)
    return analyse(analysis.truth, nothing, evaluate(analysis.truth, nothing))


def grey(image_id: int | str) -> np.ndarray:
    return np.full((100, 100, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def few() -> Analysis:
    return made_up(30, ("cat", "dog", "bird"), voc=True)


@pytest.fixture(scope="module")
def found(few: Analysis) -> Page:
    return checked(report(ABOUT, few, grey))


def test_every_section_is_there(found):
    sections = [
        "Curves", "Average precision", "Precision and recall", "Confusion", "Pictures", "Skipped data", "Next steps",
        "Config", "Environment",
    ]  # fmt: skip
    assert [h for h in found.headings if h in sections] == sections
    assert {"Loss", "Parts of the loss", "Learning rate"} <= set(found.headings)
    assert {"Worst by AP", "Best by AP", "At random"} <= set(found.headings)


def test_the_head_has_state_best_value_time_and_numbers(found):
    assert "<b>run</b>" in found.text
    assert "best val/AP 0.432 at step 12" in found.text
    assert "state finished step 20 of 20" in found.text
    assert "time 0:01:02 cpu" in found.text
    assert "classes 3 90 objects" in found.text
    assert "a note" in found.text


def test_a_metric_that_the_split_cannot_have_is_a_dash_without_a_curve():
    history = [{"step": str(step), "val/AP": "-1.0", "val/AP50": "nan", "val/loss": "2.5"} for step in (4, 8)]
    about = dataclasses.replace(ABOUT, best=("val/AP", -1.0, 8), history=history)
    found = checked(report(about, None, grey))
    assert "best val/AP - at step 8" in found.text
    assert "Loss" in found.headings
    assert "Average precision of the validation" not in found.headings


def test_figures_name_their_split_step_and_weights(found):
    assert found.text.count("val split, 30 images, step 16, weights averaged over steps (decay 0.9)") == 4


def test_the_tables_have_the_evaluators_numbers(found, few):
    scalars = few.metrics.scalars
    for name, value in {"AP (IoU 0.50 to 0.95)": scalars["AP"], "mAP_voc07": scalars["mAP_voc07"]}.items():
        assert re.search(rf"{re.escape(name)}.{{0,25}} {value:.3f}", found.text), name
    row, best = few.metrics.per_class["dog"], few.metrics.curves["dog"].best
    assert f"dog {row['AP']:.3f} {row['AP50']:.3f}" in found.text
    assert "hardly anything is found" not in found.text
    assert f"dog {best.threshold:.3f} {best.f1:.3f} {best.precision:.3f} {best.recall:.3f}" in found.text


def test_the_matrix_is_the_analysis_confusion_with_a_background_row(found, few):
    share = few.confusion[0, 0] / few.confusion[0].sum()
    assert f"cat {few.confusion[0, 0]} {100 * share:.0f} %" in found.text
    assert re.search(rf"background {few.confusion[3, 0]} ", found.text)
    missed = int(few.confusion[:3, 3].sum())
    assert f"and {missed} were missed" in found.text


def test_classes_never_found_are_named_with_the_score_they_are_shown_from(few):
    others = dataclasses.replace(few.predictions, labels=(few.predictions.labels + 1) % 3)
    analysis = analyse(few.truth, others, evaluate(few.truth, others))
    found = checked(report(ABOUT, analysis, grey, num_pictures=0))
    assert (
        "Of cat, dog, bird hardly anything is found (best F1 under 0.1), so that no threshold serves them."
        in found.text
    )
    assert f"cat {analysis.thresholds.scores[0]:.3f}" in found.text


def counting(analysis: Analysis, confusion: Confusion) -> Analysis:
    """The results of a model that scores its proposals, and counts confusions of one of its parts."""
    metrics = analysis.metrics
    scalars = metrics.scalars | {"AR100_proposals": 0.4321, "AR1000_proposals": 0.5678}
    return dataclasses.replace(
        analysis, metrics=dataclasses.replace(metrics, scalars=scalars, confusions={"head": confusion})
    )


def test_confusions_of_a_models_part_come_after_the_detections(few):
    counts = np.array([[5, 0, 1, 2], [0, 4, 0, 1], [0, 0, 0, 3], [1, 2, 0, 981]])
    analysis = counting(few, Confusion(Matrix("Regions & <b>", ("cat", "dog", "bird", "background")), counts))
    history = [{"step": "4", "val/AR100_proposals": "0.3", "val/AR1000_proposals": "0.4"}]
    found = checked(report(dataclasses.replace(ABOUT, history=history), analysis, grey, num_pictures=0))
    assert {"Detections", "Regions & <b>", "Recall of the proposals in the validation"} <= set(found.headings)
    assert "990 of 1,000 samples (99.0 %) are classified correctly" in found.text
    assert "cat 5 62 % 0 1 12 % 2 25 %" in found.text
    assert "background 1 0 % 2 0 % 0 981 100 %" in found.text
    assert re.search(r"AR100_proposals \(.{0,40}\) 0.432", found.text)
    assert re.search(r"AR1000_proposals \(.{0,40}\) 0.568", found.text)


def test_with_many_classes_a_parts_confusions_are_pairs_and_a_plot():
    names = tuple(f"c{number}" for number in range(30))
    counts = np.diag(np.full(31, 50))
    counts[7, 11] = 9
    analysis = counting(made_up(40, names), Confusion(Matrix("Regions", (*names, "background")), counts))
    found = checked(report(ABOUT, analysis, grey, num_pictures=0))
    assert found.headings.count("Most confused pairs") == 2
    assert "share of class c7 c11 9 0.153" in found.text
    assert "predicted (last column: background)" in svg(found.with_class("plot")[-1])


def test_pictures_are_the_worst_the_best_and_others_each_once(found, few):
    ids = [int(i) for i in re.findall(r"(\d+): AP \d", " ".join(found.texts))]
    assert ids[:12] == [few.truth.image_ids[row] for row in few.worst(12)]
    assert ids[12:18] == [few.truth.image_ids[row] for row in few.best(6)]
    assert len(ids) == len(set(ids)) == 24
    worst = few.worst(1)[0]
    assert ", ".join(f"{kind} {count}" for kind, count in few.why(worst).items()) in found.text
    assert found.text.count("at or over the threshold of their class (see Precision and recall)") == 2


@pytest.mark.parametrize("images", [1, 2, 7])
def test_few_images_are_each_shown_once(images):
    html = report(ABOUT, made_up(images, ("cat",)), grey)
    assert len(checked(html).with_class("picture")) == images


def test_a_missing_image_is_named_in_its_place(few):
    def image(image_id: int | str) -> np.ndarray:
        if image_id == 103:
            raise OSError("no file </p> 103.jpg")
        return grey(image_id)

    page = checked(report(ABOUT, few, image, num_pictures=100))
    assert page.text.count("can't be read any more: no file </p> 103.jpg") == 1
    assert len(page.with_class("frame")) == 29


def test_names_in_any_script_are_text_everywhere():
    analysis = made_up(12, NASTY)
    history = [{"step": "1", "train/loss": "1.0", "train/<i>loss": "1.0"}]
    skipped = {"val": {"<img src=x>": "<b>"}, "annotations": ["<p>"], "annotation_counts": {"<hr>": 1}}
    about = dataclasses.replace(
        ABOUT, history=history, skipped=skipped, config="<i>", data=["<i>"], environment={"<i>": "<i>"}
    )
    html = report(about, analysis, grey)
    found = checked(html)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == 1
    assert len(found.with_class("frame")) == 12
    for name in (*NASTY, "<img src=x>", "<p>", "<hr>", "<i>loss"):
        assert name in found.text
    assert re.search(r"(missed|false|loose box|wrong class|duplicate): \u2068<script>alert", " ".join(found.texts))


def test_a_page_without_detections(few):
    found = checked(report(ABOUT, without_detections(few), grey))
    assert "Nothing was detected on any of the 30 images" in found.text
    assert "Of 90 objects 0 were detected as their own class" in found.text
    assert "cat - 0.000 0.000 0.000" in found.text  # no score is a useful threshold
    assert "missed 3" in found.text


def test_a_run_without_validation_has_curves_config_and_environment():
    found = checked(report(dataclasses.replace(ABOUT, best=None, step=None), None, grey))
    assert "There was no validation yet" in found.text
    assert {"Curves", "Config", "Environment", "Next steps"} <= set(found.headings)
    assert "Confusion" not in found.headings


def test_a_page_of_an_empty_run():
    found = checked(report(About(name="n", folder="f", state="stopped"), None, grey))
    assert "Curves" not in found.headings


def test_eighty_classes_stay_legible():
    names = tuple(f"class {number}" for number in range(80))
    found = checked(report(ABOUT, made_up(300, names), grey))
    assert "Most confused pairs" in found.headings
    assert "All 80 classes" in found.headings
    assert len([1 for tag, _ in found.tags if tag == "polyline"]) == 80  # a small curve each
    assert found.text.count("class 79") >= 3  # per-class AP, threshold, curve
    assert found.text.count("80 rows; scroll to see them all.") == 2


def test_the_most_confused_pair_comes_first():
    analysis = made_up(400, tuple(f"c{number}" for number in range(30)))
    pairs = analysis.confusion[:30, :30] * (1 - np.eye(30, dtype=int))
    first, second = np.unravel_index(pairs.argmax(), pairs.shape)
    found = checked(report(ABOUT, analysis, grey, num_pictures=0))
    assert f"share of class c{first} c{second} {pairs.max()} " in found.text


def test_classes_without_objects_have_dashes(few):
    truth = dataclasses.replace(few.truth, class_names=(*few.truth.class_names, "ghost"), category_ids=(1, 2, 3, 4))
    analysis = analyse(truth, few.predictions, evaluate(truth, few.predictions))
    found = checked(report(ABOUT, analysis, grey))
    assert "ghost - - - - 0" in found.text
    assert "ghost - - - -" in found.text


def test_the_page_stays_under_five_megabytes_whatever_the_pictures():
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    html = report(ABOUT, made_up(40, ("cat",)), lambda _: noise, num_pictures=40)
    assert len(html.encode()) < 5_000_000
    assert len(checked(html).with_class("picture")) >= 10


def test_each_image_is_read_once_however_often_it_is_encoded():
    noise, read = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8), []

    def image(image_id: int | str) -> np.ndarray:
        read.append(image_id)
        return noise

    page = checked(report(ABOUT, made_up(40, ("cat",)), image, num_pictures=40))
    assert 10 <= len(page.with_class("picture")) < 40  # they did not fit at full quality
    assert len(read) == len(set(read))


def test_a_page_without_room_for_any_picture_says_so():
    html = pictures(made_up(3, ("cat",)), grey, 24, room=100)
    assert "no room left for pictures" in html


def test_of_a_thousand_boxes_on_an_image_some_are_drawn():
    analysis = made_up(2, ("cat",))
    truth = analysis.truth
    many = 1500
    crowded = dataclasses.replace(
        truth, image_index=np.zeros(many, np.int64), boxes=np.tile(truth.boxes[:1], (many, 1)),
        labels=np.zeros(many, np.int64), areas=np.full(many, 100.0), crowd=np.zeros(many, bool),
        difficult=np.zeros(many, bool),
    )  # fmt: skip
    html = report(ABOUT, analyse(crowded, analysis.predictions, evaluate(crowded, analysis.predictions)), grey)
    assert "1,500 objects" in checked(html).text
    assert len(html) < 1_000_000


def test_skipped_data_is_listed_and_counted():
    skipped = {
        "train": {f"{n}.jpg": "truncated" for n in range(120)}, "val": {}, "test": {"7": "empty file"},
        "annotations": ["annotation 5: box has no area"], "annotation_counts": {"no area": 12},
    }  # fmt: skip
    found = checked(report(dataclasses.replace(ABOUT, skipped=skipped), None, grey))
    assert "133 images or annotations were skipped" in found.text
    assert "0.jpg truncated" in found.text
    assert "20 more are in skipped.json" in found.text
    assert "7 empty file" in found.text
    assert "no area 12" in found.text
    assert "annotation 5: box has no area" in found.text


def test_a_report_says_that_nothing_was_skipped(found):
    assert "None: no image and no annotation had to be skipped" in found.text


def test_figures_of_the_tested_checkpoint_are_beside_those_of_validation(few):
    found = checked(report(dataclasses.replace(ABOUT, test={"AP": 0.111, "AP50": 0.222}), few, grey))
    assert "test AP 0.111 of the best checkpoint" in found.text
    assert re.search(r"AP50 \(IoU 0.5\) \d\.\d{3} 0\.222", found.text)


def test_curves_are_one_line_in_the_order_of_steps():
    rows = [*ABOUT.history, {"step": "6", "train/loss": "nan"}, {"step": "2", "train/loss": "4.0"}]
    about = dataclasses.replace(ABOUT, history=rows)
    checked(report(about, None, grey))
    figure = plots.over_steps([Line([2.0, 4.0, 6.0, 8.0], [4.0, 3.0, float("nan"), 2.0], "series1")], "loss", "loss")
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[2, 4], [4, 3], [8, 2]]


def test_long_curves_are_thinned_and_keep_their_mean():
    steps = np.arange(90_000)
    figure = plots.over_steps([Line(steps, np.sin(steps) + 3, "series1")], "loss", "loss")
    drawn = figure.axes[0].lines[0].get_xydata()
    assert len(drawn) == 300
    assert drawn[:, 1] == pytest.approx(3, abs=0.02)


def test_the_first_losses_do_not_flatten_the_others():
    values = np.concatenate([[500.0], np.full(200, 2.0)])
    axes = plots.over_steps([Line(np.arange(201), values, "series1")], "loss", "loss").axes[0]
    assert axes.get_ylim()[1] < 3
