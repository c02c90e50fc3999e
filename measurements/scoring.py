"""Compare the scoring of a validation of COCO val2017's size with pycocotools on the same arrays.

    python measurements/scoring.py [--json FILE]

5000 images, 36 000 objects of 80 classes with crowds and all three ranges of area, 500 000 detections. "Ours" is what
`DetectionModule.score` calls: `collect` and `evaluate`, with AP and curve of each class, from the arrays of each image.
"pycocotools" is its createIndex, loadRes, evaluate, accumulate and summarize, from lists of dicts that are made before
the clock starts. One process, one thread, by turns: three rounds of ours, pycocotools, ours; ratios are of
consecutive pairs. Ends with status 1 unless all twelve numbers are equal to 1e-6.
"""

import argparse
import contextlib
import gc
import io
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from evaluation.coco import to_xywh
from evaluation.metrics import Metrics, evaluate
from evaluation.results import ImagePredictions, collect
from evaluation.truth import COCO_METRICS, Truth

IMAGES, OBJECTS, CLASSES, FOUND = 5000, 36_000, 80, 100
WIDTH, HEIGHT = 640, 480
ROUNDS = 3


def drawn_truth(random: np.random.Generator) -> Truth:
    """Few classes per image, most objects of a few classes, two fifths of them small, one in eighty a crowd."""
    image_index = np.sort((IMAGES * random.random(OBJECTS) ** 1.5).astype(np.int64))  # crowded and empty images
    random.shuffle(places := np.arange(IMAGES))
    image_index = np.sort(places[image_index])
    frequent = random.dirichlet(np.full(CLASSES, 0.7))
    of_image = random.choice(CLASSES, (IMAGES, 3), p=frequent)
    sides = np.exp(random.normal(np.log(50), 0.9, OBJECTS))[:, None] * np.exp(random.normal(0, 0.3, (OBJECTS, 2)))
    sides = sides.clip(2, (WIDTH, HEIGHT)).round(2)
    corners = (random.random((OBJECTS, 2)) * ((WIDTH, HEIGHT) - sides)).round(2)
    crowd = random.random(OBJECTS) < 1 / 80
    return Truth(
        image_ids=np.sort(random.choice(600_000, IMAGES, replace=False)),
        sizes=np.tile((HEIGHT, WIDTH), (IMAGES, 1)),
        image_index=image_index,
        boxes=np.concatenate([corners, corners + sides], axis=1),
        labels=of_image[image_index, random.integers(3, size=OBJECTS)],
        areas=sides.prod(axis=1) * random.uniform(0.4, 1, OBJECTS),
        crowd=crowd,
        difficult=np.zeros(OBJECTS, bool),
        class_names=tuple(f"class {number}" for number in range(CLASSES)),
        category_ids=tuple(range(1, CLASSES + 1)),
    )


def drawn_detections(truth: Truth, random: np.random.Generator) -> list[ImagePredictions]:
    """A hundred detections per image as of a detector: the closer to an object of the class, the higher the score.

    Four fifths of the objects are found well; duplicates, wrong places and wrong classes, of fifteen classes per image,
    fill the hundred.
    """
    frequent = np.bincount(truth.labels, minlength=CLASSES) / len(truth.labels)
    starts = np.searchsorted(truth.image_index, np.arange(IMAGES + 1))
    found: list[ImagePredictions] = []
    for image in range(IMAGES):
        here = np.arange(starts[image], starts[image + 1])
        confused = random.choice(CLASSES, 15, p=frequent)
        good = here[random.random(len(here)) < 0.8][:FOUND]
        rest = FOUND - len(good)
        near = random.choice(here, rest * 2 // 3) if len(here) else here
        source = np.concatenate([good, near])
        spread = np.concatenate([random.uniform(0.01, 0.1, len(good)), random.uniform(0.1, 0.5, len(near))])
        boxes = truth.boxes[source]
        sides = boxes[:, 2:] - boxes[:, :2]
        boxes = boxes + random.normal(0, 1, boxes.shape) * spread[:, None] * np.tile(sides, 2)
        number = FOUND - len(source)
        corners = random.random((number, 2)) * (WIDTH - 100, HEIGHT - 100)
        elsewhere = np.concatenate([corners, corners + random.uniform(8, 100, (number, 2))], axis=1)
        boxes = np.concatenate([boxes, elsewhere])
        boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:], boxes[:, :2] + 1)], axis=1)
        labels = np.concatenate([truth.labels[source], random.choice(confused, number)])
        wrong = random.random(len(labels)) < np.concatenate([spread, np.zeros(number)])
        labels[wrong] = random.choice(confused, int(wrong.sum()))
        likely = np.concatenate([np.full(len(good), 1.0), np.full(len(near), -2.0), np.full(number, -3.0)])
        scores = 1 / (1 + np.exp(-random.normal(likely, 1.0)))
        order = np.argsort(-scores, kind="stable")
        found.append(
            ImagePredictions(
                int(truth.image_ids[image]),
                boxes[order].clip(0, (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(np.float32),
                scores[order].astype(np.float32),
                labels[order],
            )
        )
    return found


def ours(truth: Truth, entries: list[ImagePredictions]) -> Metrics:
    return evaluate(truth, collect(entries, truth))


def as_json(truth: Truth, entries: list[ImagePredictions]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The contents of an instances file and of a results file."""
    ids = truth.image_ids.tolist()
    annotations = [
        {"id": number, "image_id": ids[image], "category_id": label + 1, "bbox": box, "area": area, "iscrowd": crowd}
        for number, (image, label, box, area, crowd) in enumerate(
            zip(
                truth.image_index.tolist(), truth.labels.tolist(), to_xywh(truth.boxes).tolist(),
                truth.areas.tolist(), truth.crowd.astype(int).tolist(), strict=True,
            ),
            1,
        )
    ]  # fmt: skip
    results = [
        {"image_id": entry.image_id, "category_id": label + 1, "bbox": box, "score": score}
        for entry in entries
        for box, score, label in zip(
            to_xywh(entry.boxes).tolist(), entry.scores.tolist(), entry.labels.tolist(), strict=True
        )
    ]
    images = [{"id": image_id, "width": WIDTH, "height": HEIGHT} for image_id in ids]
    categories = [{"id": number, "name": name} for number, name in enumerate(truth.class_names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def judged(dataset: dict[str, Any], results: list[dict[str, Any]]) -> np.ndarray:
    """pycocotools' twelve numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return np.array(evaluator.stats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    truth = drawn_truth(random)
    entries = drawn_detections(truth, random)
    seconds: dict[str, list[float]] = {"ours": [], "pycocotools": []}
    ratios: list[float] = []
    metrics, stats = Metrics({}, {}), np.empty(0)
    for _ in range(ROUNDS):
        for name in ("ours", "pycocotools", "ours"):
            files = as_json(truth, entries) if name == "pycocotools" else None
            gc.collect()  # garbage that the other has left
            start = time.process_time()  # both use one thread; not lengthened by other processes
            if files:
                stats = judged(*files)
            else:
                metrics = ours(truth, entries)
            seconds[name].append(time.process_time() - start)
            del files
        ratios.append(seconds["pycocotools"][-1] / statistics.mean(seconds["ours"][-2:]))
    apart = np.abs(np.array([metrics.scalars[name] for name in COCO_METRICS]) - stats)
    given = f"{sum(len(entry.scores) for entry in entries)} detections, {len(truth.labels)} objects"
    print(f"| {given} | seconds of processor time, median | of rounds |\n|---|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times):.2f} | {' '.join(f'{time:.2f}' for time in times)} |")
    print(f"| pycocotools / ours | {statistics.median(ratios):.1f} | {' '.join(f'{ratio:.1f}' for ratio in ratios)} |")
    print(f"\nlargest difference among the twelve numbers: {apart.max():.1e}")
    print("  ".join(f"{name} {metrics.scalars[name]:.4f}" for name in COCO_METRICS))
    if options.json:
        figures = {"seconds": seconds, "ratios": ratios, "apart": apart.tolist(), "scalars": metrics.scalars}
        options.json.write_text(json.dumps(figures, indent=1))
    sys.exit(0 if apart.max() <= 1e-6 else 1)


if __name__ == "__main__":
    main()
