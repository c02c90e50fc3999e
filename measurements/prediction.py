"""Compare `load_detector` with an evaluation of the same checkpoint on the images of its test split.

    python measurements/prediction.py --checkpoint best.ckpt --threads 2

For each precision and number of images in a forward pass: on how many images boxes, scores and labels are equal
bit for bit, and how much they differ on the others, paired in the order of their scores within a class. Then the
cost of filling short batches with copies of an image, so that every pass has the same number of images.
"""

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

from boxwright.checkpoints.detector import Detector, equal_canvases, load_detector, pixels
from boxwright.checkpoints.reading import load_module, read_checkpoint

Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def evaluated(checkpoint: Path, precision: str, batch_size: int, folder: str) -> tuple[dict[str, Found], float]:
    """Boxes, scores and labels of each file, and AP, by Lightning's own evaluation."""
    contents = read_checkpoint(checkpoint)
    module, data = load_module(contents), dict(contents["boxwright"]["config"]["data"])
    datamodule = instantiate({**data, "eval_batch_size": batch_size, "num_workers": 0, "cache_dir": folder})
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, precision=precision, logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.test(module, datamodule, verbose=False)
    index = datamodule.test_dataloader().dataset.index
    paths = {index.image_id(row): index.image_path(row) for row in range(len(index))}
    found: dict[str, Found] = {}
    for row, image_id in enumerate(module.last.truth.image_ids.tolist()):
        here = module.last.predictions.image_index == row
        found[paths[image_id]] = tuple(
            part[here]
            for part in (module.last.predictions.boxes, module.last.predictions.scores, module.last.predictions.labels)
        )
    return found, module.last.metrics.scalars["AP"]


def compared(one: dict[str, Found], other: dict[str, Found]) -> str:
    equal, boxes, scores, unpaired = 0, 0.0, 0.0, 0
    for path, (box, score, label) in one.items():
        box2, score2, label2 = other[path]
        equal += all(np.array_equal(a, b) for a, b in zip((box, score, label), other[path], strict=True))
        order, order2 = np.lexsort((-score, label)), np.lexsort((-score2, label2))
        if len(label) != len(label2) or not np.array_equal(label[order], label2[order2]):
            unpaired += 1
            continue
        close = np.abs(box[order] - box2[order2]).max(axis=1) < 5  # boxes of equal scores may be in another order
        unpaired += not close.all()
        boxes = max(boxes, float(np.abs(box[order] - box2[order2])[close].max(initial=0)))
        scores = max(scores, float(np.abs(score[order] - score2[order2]).max(initial=0)))
    text = f"{equal} of {len(one)} images bit for bit"
    return (
        text if equal == len(one) else f"{text}; boxes within {boxes:.2g} px, scores {scores:.2g}; {unpaired} unpaired"
    )


def filled(detector: Detector, paths: list[str]) -> str:
    samples = [detector.sample(pixels(path), place) for place, path in enumerate(paths)]
    samples.sort(key=lambda sample: sample.canvas)  # so that batches are those of an evaluation
    size = detector.batch_size
    short = list(equal_canvases(samples, size))
    full = [(batch * size)[:size] for batch in short]
    seconds = {"short": [], "full": []}
    for _ in range(5):
        for name, batches in (("short", short), ("full", full)):
            start = time.process_time()  # not lengthened by other processes
            for batch in batches:
                detector.detect(batch)
            seconds[name].append(time.process_time() - start)
    cost = min(seconds["full"]) / min(seconds["short"]) - 1
    copies = sum(map(len, full)) - len(samples)
    alone = {one.image_id: one[1:] for sample in samples for one in detector.detect([sample] * size)}
    among = {one.image_id: one[1:] for batch in full for one in detector.detect(batch)}
    return (
        f"  {len({sample.canvas for sample in samples})} canvases, {copies} copies fill {len(short)} batches: "
        f"{100 * cost:+.0f} % of processor time; then, among copies and among others: {compared(alone, among)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, {options.threads} threads")
    for precision in ("32-true", "bf16-mixed"):
        detector = load_detector(options.checkpoint, "cpu", precision)
        with tempfile.TemporaryDirectory() as folder:
            batched, ap = evaluated(options.checkpoint, precision, detector.batch_size, folder)
            alone, ap_alone = evaluated(options.checkpoint, precision, 1, folder)
        paths = list(batched)

        def arrays(found) -> Found:
            return found.boxes[0].numpy(), found.scores[0].numpy(), found.labels[0].numpy()

        listed = {path: arrays(found) for path, found in zip(paths, detector(paths), strict=True)}
        single = {path: arrays(detector(path)) for path in paths}
        size = detector.batch_size
        print(f"{precision}: AP {ap:.6f} evaluated {size} at a time, {ap_alone:.6f} one at a time")
        print(f"  detector(list) and {size} at a time: {compared(listed, batched)}")
        print(f"  detector(image) and one at a time: {compared(single, alone)}")
        print(f"  detector(image) and {size} at a time: {compared(single, batched)}")
        print(filled(detector, paths), flush=True)


if __name__ == "__main__":
    main()
