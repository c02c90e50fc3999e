"""Measure images per second from one worker: our data module, torchvision's v2 transforms, and albumentations.

    python measurements/data.py [--short 800 320] [--images 128] [--batch 16] [--rounds 7] [--json FILE]

Draws JPEGs of 640 x 480, a quarter of them 480 x 640, of some 140 kB like COCO's, with eight boxes each, into a
temporary folder. Every loader has one persistent worker of one thread and the same batch size, reads all of them in
each round and delivers what a detector trains on: resized to the short side, flipped with probability 0.5, with boxes.
The loaders take turns; a ratio is the median over consecutive pairs. An image counts once
the main process has its batch; pixels are not read there. Then, in this process and on one thread, the parts: decoders
(simplejpeg where it is installed), flipping, and resizing by the worker or by the device, here the CPU.
"""

import argparse
import functools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import io, tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from datamodules.coco import CocoDataModule
from datamodules.dataset import init_worker
from datamodules.images import decode, read_image
from datamodules.transforms import mirror, resize_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT = 480
"""Short side of the drawn images."""
BOXES = np.array([[20 + 10 * k, 30 + 8 * k, 120 + 20 * k, 140 + 20 * k] for k in range(8)], np.float32)
LABELS = np.arange(8)

Read = Callable[[str], Any]


def write_data(root: Path, number: int) -> list[str]:
    """Writes the images and returns their paths; smooth colours under noise compress about as photographs do."""
    random = np.random.default_rng(0)
    (root / "train").mkdir()
    (root / "annotations").mkdir()
    images: list[dict[str, Any]] = []
    for i in range(number):
        height, width = (640, 480) if i % 4 == 0 else (480, 640)
        coarse = random.integers(0, 255, (height // 12, width // 12, 3), dtype=np.uint8)
        scene = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        scene = np.clip(scene + random.normal(0, 9, scene.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "train" / f"{i}.jpg"), scene, [cv2.IMWRITE_JPEG_QUALITY, 92])
        images.append({"id": i, "file_name": f"{i}.jpg", "height": height, "width": width})
    annotations = [
        {
            "id": len(BOXES) * i + k, "image_id": i, "category_id": k + 1, "iscrowd": 0, "segmentation": [],
            "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
        }
        for i in range(number) for k, (x1, y1, x2, y2) in enumerate(BOXES.tolist())
    ]  # fmt: skip
    categories = [{"id": k + 1, "name": str(k)} for k in range(len(BOXES))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return [str(root / "train" / image["file_name"]) for image in images]


def ours(root: Path, short: int, batch_size: int) -> DataLoader[Any]:
    data = CocoDataModule(
        root=str(root), train_split="train", val_split="train", test_split=None, num_classes=len(BOXES), resize=short,
        batch_size=batch_size, num_workers=1, cache_dir=str(root / "cache"),
    )  # fmt: skip
    data.setup("fit")
    return data.train_dataloader()


class Files(Dataset[Any]):
    def __init__(self, paths: list[str], read: Read) -> None:
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Any:
        return self.read(self.paths[place])


def peers(paths: list[str], read: Read, batch_size: int) -> DataLoader[Any]:
    """Lists of images and targets, as torchvision's references collate them."""
    return DataLoader(
        Files(paths, read), batch_size, shuffle=True, num_workers=1, persistent_workers=True, collate_fn=zip_lists,
        worker_init_fn=init_worker,
    )  # fmt: skip


def zip_lists(samples: list[tuple[Any, Any]]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


def v2_target(size: tuple[int, int]) -> dict[str, Any]:
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=size)  # pyright: ignore
    return {"boxes": boxes, "labels": torch.from_numpy(LABELS)}


def torchvision_v2(short: int, normalized: bool) -> Read:
    """Loader that decodes with torchvision.io and resizes uint8 images while their memory is channels last."""
    chain: list[Any] = [v2.RandomHorizontalFlip(0.5), v2.Resize(short, max_size=short * 5 // 3, antialias=True)]
    if normalized:
        chain += [v2.ToDtype(torch.float, scale=True), v2.Normalize(MEAN, STD, inplace=True)]
    transform = v2.Compose([*chain, v2.SanitizeBoundingBoxes(), v2.ToPureTensor()])

    def read(path: str) -> Any:
        image = tv_tensors.Image(io.decode_jpeg(io.read_file(path), mode=io.ImageReadMode.RGB))
        return transform(image, v2_target((image.shape[-2], image.shape[-1])))

    return read


def torchvision_references(short: int) -> Read:
    """Loader of torchvision's references/detection with the v2 backend, with its models' resizing and normalisation."""
    transform = v2.Compose(
        [
            v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float, scale=True), v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )  # fmt: skip
    sized = GeneralizedRCNNTransform(short, short * 5 // 3, list(MEAN), list(STD))

    def read(path: str) -> Any:
        image = Image.open(path).convert("RGB")
        images, targets = sized(*([one] for one in transform(image, v2_target((image.height, image.width)))))
        return images.tensors[0], targets[0]

    return read


def albumentations_of(short: int, normalized: bool) -> Read:
    chain: list[Any] = [albumentations.SmallestMaxSize(max_size=short), albumentations.HorizontalFlip(p=0.5)]
    chain += [albumentations.Normalize(MEAN, STD)] if normalized else []
    compose = albumentations.Compose(
        [*chain, ToTensorV2()],
        bbox_params=albumentations.BboxParams(format="pascal_voc", label_fields=["labels"], min_area=1),
    )

    def read(path: str) -> Any:
        found = compose(image=cv2.imread(path, cv2.IMREAD_COLOR_RGB), bboxes=BOXES, labels=LABELS)
        return found["image"], {"boxes": found["bboxes"], "labels": found["labels"]}

    return read


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def by_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run))
    return seconds


def drain(loader: Iterable[Any]) -> None:
    for _ in loader:
        pass


def loaders(root: Path, paths: list[str], short: int, batch_size: int, rounds: int) -> list[dict[str, Any]]:
    made: dict[str, Any] = {
        "this data module": ours(root, short, batch_size),
        "this data module, originals for the device to resize": ours(root, SHORT, batch_size),
        "torchvision v2: io, flip, Resize on uint8, float, Normalize": torchvision_v2(short, normalized=True),
        "torchvision v2: references, with the model's resize and normalisation": torchvision_references(short),
        "albumentations: resize, flip, Normalize, ToTensorV2": albumentations_of(short, normalized=True),
        "torchvision v2: io, flip, Resize, left in uint8": torchvision_v2(short, normalized=False),
        "albumentations: resize, flip, ToTensorV2, left in uint8": albumentations_of(short, normalized=False),
    }
    runs: dict[str, Callable[[], object]] = {
        name: functools.partial(drain, peers(paths, loader, batch_size) if callable(loader) else loader)
        for name, loader in made.items()
    }
    seconds = by_turns(runs, rounds)
    first = seconds["this data module"]
    # Ours fills up the last batch of a shape.
    images = {name: len(paths) if callable(loader) else len(loader) * batch_size for name, loader in made.items()}
    return [
        {
            "loader": name, "short": short, "images_per_second": images[name] / statistics.median(taken),
            "ours_times_faster": statistics.median(
                (b / images[name]) / (a / images["this data module"]) for a, b in zip(first, taken, strict=True)
            ),
        }
        for name, taken in seconds.items()
    ]  # fmt: skip


def decoders(paths: list[str]) -> dict[str, Callable[[str], object]]:
    """Decoders from a file to RGB uint8; ours includes its checks of file, size and end."""
    sizes = {path: read_image(path).shape[:2] for path in paths}
    found: dict[str, Callable[[str], object]] = {
        "ours: cv2, file and size checked": lambda path: decode(path, sizes[path]),
        "cv2.imread": lambda path: cv2.imread(path, cv2.IMREAD_COLOR_RGB),
        "torchvision.io": lambda path: io.decode_jpeg(io.read_file(path), mode=io.ImageReadMode.RGB),
        "PIL": lambda path: np.asarray(Image.open(path).convert("RGB")),
    }
    if find_spec("simplejpeg"):
        import simplejpeg

        found["simplejpeg"] = lambda path: simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")
    return found


def equal_pixels(paths: list[str]) -> dict[str, bool]:
    """For each decoder, whether its pixels equal ours in all files."""

    def pixels(image: Any) -> np.ndarray:
        return image.permute(1, 2, 0).numpy() if isinstance(image, torch.Tensor) else image

    reads = decoders(paths)
    return {
        name: all(np.array_equal(pixels(read(path)), read_image(path)) for path in paths)
        for name, read in reads.items()
    }


def parts(paths: list[str], short: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds per image of decoding, flipping and resizing, on one thread of this process."""
    images = [read_image(path) for path in paths]

    def size_of(image: np.ndarray) -> tuple[int, int]:
        height, width = image.shape[:2]
        scale = short / min(height, width)
        return math.floor(height * scale), math.floor(width * scale)

    def each(call: Callable[[Any], object], things: list[Any]) -> Callable[[], object]:
        return lambda: [call(thing) for thing in things]

    shrinks = short < min(images[0].shape[:2])

    def on_device(image: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype)  # channels last
        return F.interpolate(x, size=size_of(image), mode="bilinear", antialias=shrinks)

    runs = {name: each(read, paths) for name, read in decoders(paths).items()}
    runs["mirror"] = each(lambda image: mirror(image, np.zeros((0, 4)), 1), images)
    runs["resize in the worker (cv2, uint8)"] = each(lambda image: resize_image(image, size_of(image)), images)
    for dtype in (torch.uint8, torch.float32):
        runs[f"resize on the device, here a CPU (interpolate, {dtype})"] = each(
            functools.partial(on_device, dtype=dtype), images
        )
    seconds = by_turns(runs, rounds)
    return [
        {"part": name, "short": short, "ms": 1e3 * statistics.median(taken) / len(paths)}
        for name, taken in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=int, nargs="+", default=[800, 320])
    for name, default in (("images", 128), ("batch", 16), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    figures: dict[str, Any] = {"loaders": [], "parts": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = write_data(root, options.images)
        kilobytes = statistics.mean(os.path.getsize(path) for path in paths) / 1000
        print(f"{len(paths)} JPEGs of {kilobytes:.0f} kB; batches of {options.batch}; {options.rounds} rounds")
        for short in options.short:
            rows = loaders(root, paths, short, options.batch, options.rounds)
            figures["loaders"] += rows
            print(f"\n| short side {short}: loader, one worker | images/s | ours is faster |\n|---|---|---|")
            for row in rows:
                print(
                    f"| {row['loader']} | {row['images_per_second']:.0f} | {row['ours_times_faster']:.2f} |", flush=True
                )
        for short in options.short:
            rows = parts(paths[:32], short, options.rounds)
            figures["parts"] += rows
            print(f"\n| short side {short}: part, one thread | ms |\n|---|---|")
            for row in rows:
                print(f"| {row['part']} | {row['ms']:.2f} |")
        figures["equal pixels"] = equal_pixels(paths)
        print("\nThe pixels of ours, from decoder:", figures["equal pixels"])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
