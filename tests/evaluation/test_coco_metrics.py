"""COCO's metrics compared with pycocotools and with cases worked by hand."""

import contextlib
import gc
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation.coco import coco_metrics, to_xywh
from evaluation.truth import COCO_METRICS, Predictions, Truth

Json = dict[str, Any]


def pycocotools_metrics(dataset: Json, results: list[Json]) -> tuple[np.ndarray, np.ndarray]:
    """The twelve numbers of pycocotools, and (AP, AP50) of each category by rising id."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = dataset
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:  # loadRes refuses an empty list
            found.dataset = {**dataset, "annotations": []}
            found.createIndex()
        evaluator = COCOeval(truth, found, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][..., 0, 2]
    per_class = [
        [
            values[values > -1].mean() if (values > -1).any() else -1
            for values in (precision[..., k], precision[0, :, k])
        ]
        for k in range(precision.shape[2])
    ]
    return np.array(evaluator.stats), np.array(per_class)


def truth_of_json(dataset: Json) -> Truth:
    image_ids = [image["id"] for image in dataset["images"]]
    category_ids = [category["id"] for category in dataset["categories"]]
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    annotations = sorted(dataset["annotations"], key=lambda annotation: row_of[annotation["image_id"]])
    xywh = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    crowd = np.array([annotation["iscrowd"] for annotation in annotations], dtype=bool)
    return Truth(
        image_ids=np.array(image_ids),
        sizes=np.full((len(image_ids), 2), 640),
        image_index=np.array([row_of[a["image_id"]] for a in annotations], dtype=np.int64),
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        labels=np.array([category_ids.index(a["category_id"]) for a in annotations], dtype=np.int64),
        areas=np.array([a["area"] for a in annotations], dtype=np.float64),
        crowd=crowd,
        difficult=np.zeros_like(crowd),
        class_names=tuple(str(category["name"]) for category in dataset["categories"]),
        category_ids=tuple(category_ids),
    )


def predictions_of_json(results: list[Json], truth: Truth) -> Predictions:
    xywh = np.array([row["bbox"] for row in results], dtype=np.float64).reshape(-1, 4)
    image_ids = truth.image_ids.tolist()
    return Predictions(
        image_index=np.array([image_ids.index(row["image_id"]) for row in results], dtype=np.int64),
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        scores=np.array([row["score"] for row in results], dtype=np.float64),
        labels=np.array([truth.category_ids.index(row["category_id"]) for row in results], dtype=np.int64),
    )


def assert_equal_to_pycocotools(dataset: Json, results: list[Json]) -> np.ndarray:
    truth = truth_of_json(dataset)
    scalars, per_class, _ = coco_metrics(truth, predictions_of_json(results, truth))
    stats, categories = pycocotools_metrics(dataset, results)
    assert tuple(scalars) == COCO_METRICS
    np.testing.assert_allclose(list(scalars.values()), stats, rtol=0, atol=1e-12)
    for place, label in enumerate(np.argsort(truth.category_ids)):
        row = per_class[truth.class_names[label]]
        np.testing.assert_allclose([row["AP"], row["AP50"]], categories[place], rtol=0, atol=1e-12)
    return stats


def jittered(dataset: Json, rng: np.random.Generator, copies: int) -> list[Json]:
    """Detections near the true boxes, some of another class, with many equal scores."""
    categories = [category["id"] for category in dataset["categories"]]
    results = []
    for annotation in dataset["annotations"] * copies:
        box = np.array(annotation["bbox"])
        box = box + rng.normal(0, 0.08, 4) * box[[2, 3, 2, 3]]
        right = rng.random() < 0.8
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"] if right else int(rng.choice(categories)),
                "bbox": [*box[:2].tolist(), *np.abs(box[2:]).round(2).tolist()],
                "score": round(float(rng.random()), 1 if rng.random() < 0.5 else 6),
            }
        )
    return results


def random_dataset(rng: np.random.Generator) -> Json:
    """A data set of unsorted ids with gaps, crowds, masks of every size, images without objects and a class without
    any.
    """
    image_ids = rng.choice(1000, 12, replace=False).tolist()
    category_ids = [7, 3, 90, 12, 5]
    annotations = []
    for number in range(150):
        sides = np.exp(rng.uniform(np.log(8), np.log(300), 2)).round(2)
        annotations.append(
            {
                "id": number + 1,
                "image_id": int(rng.choice(image_ids[:-2])),
                "category_id": int(rng.choice(category_ids[:-1])),
                "bbox": [*rng.uniform(0, 300, 2).round(2).tolist(), *sides.tolist()],
                "area": float(sides.prod() * rng.uniform(0.4, 1)),
                "iscrowd": int(rng.random() < 0.1),
            }
        )
    categories = [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids]
    return {"images": [{"id": i} for i in image_ids], "categories": categories, "annotations": annotations}


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_on_random_truth_and_predictions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dataset = random_dataset(rng)
    stats = assert_equal_to_pycocotools(dataset, jittered(dataset, rng, copies=2))
    assert (stats > 0.02).all()  # each of the twelve has a value


def test_equals_pycocotools_on_real_annotations(shared_data: Path) -> None:
    dataset = json.loads((shared_data / "coco_small/annotations/instances_val.json").read_text())
    dataset["images"].append({"id": 7})  # without objects
    results = jittered(dataset, np.random.default_rng(0), copies=3)
    results += [{**result, "image_id": 7} for result in results[:20]]
    assert_equal_to_pycocotools(dataset, results)


def test_equals_pycocotools_beyond_100_detections_of_one_image_and_class() -> None:
    rng = np.random.default_rng(0)
    dataset = random_dataset(rng)
    for annotation in dataset["annotations"]:
        annotation |= {"image_id": dataset["images"][0]["id"], "category_id": 7}
    assert_equal_to_pycocotools(dataset, jittered(dataset, rng, copies=2))


@pytest.mark.parametrize("copies", [0, 1])
@pytest.mark.parametrize("objects", ["none", "crowds only", "some"])
def test_equals_pycocotools_without_objects_or_without_detections(objects: str, copies: int) -> None:
    rng = np.random.default_rng(0)
    dataset = random_dataset(rng)
    results = jittered(dataset, rng, copies)
    if objects == "none":
        dataset["annotations"] = []
    elif objects == "crowds only":
        for annotation in dataset["annotations"]:
            annotation["iscrowd"] = 1
    stats = assert_equal_to_pycocotools(dataset, results)
    if objects != "some":
        assert (stats == -1).all()
    elif copies == 0:
        assert (stats == 0).all()


def test_prints_nothing_even_with_logging_switched_on(
    truth_of: Callable[..., Truth],
    predictions_of: Callable[..., Predictions],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    box = {"box": (10, 10, 50, 50)}
    coco_metrics(truth_of([box]), predictions_of([{**box, "score": 0.9}]))
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


@pytest.mark.parametrize("collects", [True, False])
def test_the_state_of_the_garbage_collector_is_restored(
    collects: bool, truth_of: Callable[..., Truth], predictions_of: Callable[..., Predictions]
) -> None:
    box = {"box": (10, 10, 50, 50)}
    (gc.enable if collects else gc.disable)()
    try:
        coco_metrics(truth_of([box]), predictions_of([{**box, "score": 0.9}]))
        assert gc.isenabled() == collects
    finally:
        gc.enable()


def test_a_perfect_and_a_half_found_class(
    truth_of: Callable[..., Truth], predictions_of: Callable[..., Predictions]
) -> None:
    objects = [
        {"box": (10, 10, 20, 20)},  # 100 square pixels: small
        {"box": (100, 100, 150, 150), "label": 1},  # 2500: medium
        {"box": (300, 300, 500, 500), "label": 1},  # 40000: large
    ]
    truth = truth_of(objects, class_names=("cat", "dog"))
    scalars, per_class, _ = coco_metrics(truth, predictions_of([{**row, "score": 0.9} for row in objects[:2]]))
    # Half of the dogs at precision 1: 51 of the 101 recall points 0, 0.01 .. 0.5.
    assert per_class["cat"] == pytest.approx({"AP": 1, "AP50": 1})
    assert per_class["dog"] == pytest.approx({"AP": 51 / 101, "AP50": 51 / 101})
    assert scalars["AP"] == pytest.approx((1 + 51 / 101) / 2)
    assert (scalars["AP_small"], scalars["AP_medium"], scalars["AP_large"]) == pytest.approx((1, 1, 0))
    assert (scalars["AR1"], scalars["AR100"]) == pytest.approx((0.75, 0.75))


@pytest.mark.parametrize("kind", ["crowd", "difficult"])
def test_crowds_and_difficult_objects_are_ignored_whether_found_or_missed(
    kind: str, truth_of: Callable[..., Truth], predictions_of: Callable[..., Predictions]
) -> None:
    truth = truth_of([{"box": (10, 10, 50, 50)}, {"box": (100, 100, 200, 200), kind: True}])
    right = {"box": (10, 10, 50, 50), "score": 0.5}
    inside = {"box": (110, 110, 160, 160), "score": 0.9}
    wrong = {"box": (300, 300, 340, 340), "score": 0.9}
    assert coco_metrics(truth, predictions_of([right]))[0]["AP"] == pytest.approx(1)
    assert coco_metrics(truth, predictions_of([right, inside, inside]))[0]["AP"] == pytest.approx(1)
    assert coco_metrics(truth, predictions_of([right, inside, wrong]))[0]["AP"] == pytest.approx(0.5)


def test_image_ids_may_be_file_stems(
    truth_of: Callable[..., Truth], predictions_of: Callable[..., Predictions]
) -> None:
    truth = truth_of([{"box": (10, 10, 50, 50), "image": 1}], image_ids=("img_b", "img_a"))
    on = [predictions_of([{"box": (10, 10, 50, 50), "score": 1, "image": image}]) for image in (0, 1)]
    assert [coco_metrics(truth, predictions)[0]["AP"] for predictions in on] == pytest.approx([0, 1])


def test_box_sides_of_a_file_survive_conversion_to_corners() -> None:
    x, y, w, h = 10.1, 200.3, 32.0, 10.12
    assert (y + h) - y != h  # rounding would change the side
    assert to_xywh(np.array([[x, y, x + w, y + h]])).tolist() == [[x, y, w, h]]
