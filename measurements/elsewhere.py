"""Show each row of docs/elsewhere.md: what other tools do with an input, and what this project does with it.

    python measurements/elsewhere.py [NAME ...]

Prints a line for each row of the page, or for those named. Ends with status 1 where a row no longer holds.
"""

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations
import cv2
import faster_coco_eval
import numpy as np
import pytorch_lightning as pl
import torch
import torchvision
from hydra import compose, initialize_config_dir
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from boxwright.config.command_line import command_line_problems
from datamodules.coco import CocoDataModule
from datamodules.decoding import Decoding
from datamodules.errors import DataError
from datamodules.images import ImageError, read_image
from datamodules.transforms import Augmentation
from detectors.anchors import Anchors
from detectors.detections import nms_and_pad
from evaluation.metrics import evaluate
from evaluation.truth import Predictions

ROOT = Path(__file__).parents[1]
ROWS: dict[str, Callable[[Path], tuple[bool, bool]]] = {}
"""For each row: whether the other tool and this project still do what the page says."""


def row(function: Callable[[Path], tuple[bool, bool]]) -> Callable[[Path], tuple[bool, bool]]:
    ROWS[function.__name__] = function
    return function


def coco_file(folder: Path, boxes: list[dict[str, Any]], size: tuple[int, int] = (400, 400)) -> Path:
    """A COCO data set of one picture of (h, w), with annotations as given."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "train").mkdir(exist_ok=True)
    Image.new("RGB", size[::-1]).save(folder / "train" / "a.png")
    defaults = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}],
        "annotations": [{**defaults, "id": number, **box} for number, box in enumerate(boxes, 1)],
        "categories": [{"id": 1, "name": "cell"}],
    }
    file = folder / "annotations" / "instances_train.json"
    file.write_text(json.dumps(content))
    return file


def ours(folder: Path) -> CocoDataModule:
    data = CocoDataModule(
        root=str(folder), train_split="train", val_split="train", test_split="train", num_classes=1, num_workers=0,
        cache_dir=str(folder / "cache"), resize=64, batch_size=1,
    )  # fmt: skip
    data.setup("fit")
    return data


def our_metrics(folder: Path, boxes: list[list[float]]) -> dict[str, float]:
    """This project's metrics of detections (xyxy) with score 0.9."""
    number = len(boxes)
    found = Predictions(
        np.zeros(number, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.full(number, 0.9),
        np.zeros(number, np.int64),
    )
    return evaluate(ours(folder).truth("val"), found).scalars


def detections(boxes: list[list[float]]) -> list[dict[str, Any]]:
    """Detections in COCO's results format, from boxes (xywh)."""
    return [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]


def scored(coco: Any, evaluator: Any, boxes: list[list[float]], max_dets: list[int] | None = None) -> Any:
    """COCO's twelve numbers of detections (xywh) with score 0.9."""
    judge = evaluator(coco, coco.loadRes(detections(boxes)), "bbox")
    if max_dets:
        judge.params.maxDets = max_dets
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats


@row
def no_area(folder: Path) -> tuple[bool, bool]:
    file = coco_file(folder, [{"bbox": [10, 10, 300, 300]}])
    stats = scored(faster_coco_eval.COCO(str(file)), faster_coco_eval.COCOeval_faster, [[10, 10, 300, 300]])
    mine = our_metrics(folder, [[10, 10, 310, 310]])
    return stats[3] == 1 and stats[5] == -1, mine["AP_small"] == -1 and mine["AP_large"] == 1


@row
def annotation_id_0(folder: Path) -> tuple[bool, bool]:
    file = coco_file(folder, [{"id": 0, "bbox": [10, 10, 90, 90], "area": 8100}])
    stats = scored(COCO(str(file)), COCOeval, [[10, 10, 90, 90]])
    return stats[0] == 0, our_metrics(folder, [[10, 10, 100, 100]])["AP"] == 1


@row
def nothing_found(folder: Path) -> tuple[bool, bool]:
    coco = COCO(str(coco_file(folder, [{"bbox": [10, 10, 90, 90], "area": 8100}])))
    return raises(IndexError, lambda: coco.loadRes([])), our_metrics(folder, [])["AP"] == 0


@row
def more_than_100_detections(folder: Path) -> tuple[bool, bool]:
    file = coco_file(folder, [{"bbox": [10, 10, 90, 90], "area": 8100}])
    stats = scored(COCO(str(file)), COCOeval, [[10, 10, 90, 90]], [1, 10, 300])
    many = our_metrics(folder, [[10, 10, 100, 100], *([[200, 200, 300, 300]] * 300)])
    return stats[0] == -1 and stats[1] > 0.99, many["AP"] > 0


@row
def iou_of_exactly_3_5(folder: Path) -> tuple[bool, bool]:
    coco_file(folder, [{"bbox": [0, 0, 100, 100], "area": 10000}])
    metric = MeanAveragePrecision()
    box, label = torch.tensor([[0.0, 0, 100, 60]]), torch.tensor([0])
    truth = torch.tensor([[0.0, 0, 100, 100]])
    metric.update([{"boxes": box, "scores": torch.tensor([0.9]), "labels": label}], [{"boxes": truth, "labels": label}])
    return abs(float(metric.compute()["map"]) - 0.2) < 1e-6, abs(our_metrics(folder, box.tolist())["AP"] - 0.3) < 1e-6


@row
def boxes_below_0(folder: Path) -> tuple[bool, bool]:
    boxes = torch.tensor([[60.0, 60, 100, 100], [-41.0, -41, -1, -1]])  # the second is moved by 101, onto the first
    labels, scores = torch.tensor([0, 1]), torch.tensor([0.9, 0.8])
    kept = torchvision.ops.batched_nms(boxes, scores, labels, 0.5)
    mine = nms_and_pad(boxes, scores, labels, nms_threshold=0.5, max_detections=2)[1]
    return len(kept) == 1, bool((mine > 0).all())


@row
def turned_photo(folder: Path) -> tuple[bool, bool]:
    file = coco_file(folder, [{"bbox": [10, 10, 20, 20], "area": 400}], size=(60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(folder / "train" / "a.png", exif=exif)  # 60 x 40, upright 40 x 60
    picture, _ = torchvision.datasets.CocoDetection(str(folder / "train"), str(file))[0]
    return picture.size == (60, 40), ours(folder).image("train", 1).shape == (60, 40, 3)


@row
def sixteen_bits(folder: Path) -> tuple[bool, bool]:
    pixels = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    cv2.imwrite(str(folder / "a.png"), pixels)
    elsewhere = np.asarray(Image.open(folder / "a.png").convert("RGB"))
    return elsewhere.mean() > 240, len(np.unique(read_image(str(folder / "a.png")))) == 64


@row
def rgb_tiff_of_16_bits(folder: Path) -> tuple[bool, bool]:
    pixels = np.random.default_rng(0).integers(0, 65536, (37, 53, 3), dtype=np.uint16)
    cv2.imwrite(str(folder / "a.tiff"), pixels[..., ::-1])
    elsewhere = cv2.imread(str(folder / "a.tiff"), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    own = read_image(str(folder / "a.tiff"), Decoding(value_range=(0, 65535)))
    return (elsewhere != pixels).any(), np.array_equal(own, np.rint(pixels / 257).astype(np.uint8))


@row
def cut_jpeg(folder: Path) -> tuple[bool, bool]:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    (folder / "a.jpg").write_bytes(data[: len(data) // 2])
    picture = cv2.imread(str(folder / "a.jpg"))
    return picture is not None and picture.shape == (64, 64, 3), raises(
        ImageError, lambda: read_image(str(folder / "a.jpg"))
    )


@row
def crowds_as_objects(folder: Path) -> tuple[bool, bool]:
    file = coco_file(folder, [{"bbox": [10, 10, 300, 300], "area": 90000, "iscrowd": 1}, {"bbox": [320, 320, 20, 20]}])
    _, target = torchvision.datasets.CocoDetection(str(folder / "train"), str(file))[0]
    batch = next(iter(ours(folder).train_dataloader()))
    return len(target) == 2, int((batch.labels >= 0).sum()) == 1


@row
def image_not_found(folder: Path) -> tuple[bool, bool]:
    file = coco_file(folder, [{"bbox": [10, 10, 20, 20]}])
    (folder / "train" / "a.png").rename(folder / "train" / "A.PNG")
    data = torchvision.datasets.CocoDetection(str(folder / "train"), str(file))  # no error until it is read
    message = message_of(DataError, lambda: ours(folder))
    return raises(FileNotFoundError, lambda: data[0]), "A.PNG: other letter case" in message


@row
def box_without_width(folder: Path) -> tuple[bool, bool]:
    trunk = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4]
    )
    sizes = ((8,), (16,), (32,), (64,))
    network = FCOS(trunk, 2, anchor_generator=AnchorGenerator(sizes, ((1.0,),) * 4), min_size=64, max_size=64).train()
    target = {"boxes": torch.tensor([[30.0, 10, 10, 20]]), "labels": torch.tensor([1])}
    message = message_of(AssertionError, lambda: network([torch.rand(3, 64, 64)], [target]))
    coco_file(folder, [{"bbox": [30, 10, -20, 10]}])
    own = message_of(DataError, lambda: ours(folder))
    return "target at index 0" in message, all(
        word in own for word in ("instances_train.json", "annotation 1", "a.png")
    )


@row
def validation_loss(folder: Path) -> tuple[bool, bool]:
    trunk = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4]
    )
    sizes = ((8,), (16,), (32,), (64,))
    network = FCOS(trunk, 2, anchor_generator=AnchorGenerator(sizes, ((1.0,),) * 4), min_size=64, max_size=64).eval()
    target = {"boxes": torch.tensor([[10.0, 10, 30, 20]]), "labels": torch.tensor([1])}
    returned = network([torch.rand(3, 64, 64)], [target])
    here = tested("test_train.py", "test_curves_have_every_documented_key")
    return set(returned[0]) == {"boxes", "scores", "labels"}, here


@row
def anchors_in_bf16(folder: Path) -> tuple[bool, bool]:
    features = [torch.zeros(1, 1, 1, 168, dtype=torch.bfloat16)]
    images = torchvision.models.detection.image_list.ImageList(torch.zeros(1, 3, 8, 1344), [(8, 1344)])
    anchors = AnchorGenerator(((8,),), ((1.0,),))(images, features)[0]
    with torch.autocast("cpu", torch.bfloat16):
        own = Anchors(strides=(8,), sizes=((8.0,),), ratios=(1.0,)).grid((8, 1344))
    widths, own_widths = ({float(x2 - x1) for x1, _, x2, _ in found} for found in (anchors, own))
    return widths != {8.0}, own_widths == {8.0}


@row
def class_names_cut_short(folder: Path) -> tuple[bool, bool]:
    boxes = albumentations.BboxParams("pascal_voc", label_fields=["names"])
    pipeline = albumentations.Compose([albumentations.HorizontalFlip(p=0)], bbox_params=boxes)
    picture = np.zeros((32, 32, 3), np.uint8)
    results = [
        pipeline(image=picture, bboxes=np.array([[1, 2, 9, 9.0]]), names=np.array([name]))["names"][0]
        for name in ("cat", "elephant")
    ]
    own = Augmentation({"flip": albumentations.HorizontalFlip(p=0)})
    labels = [own(picture, np.array([[1, 2, 9, 9.0]]), np.array([label]), 0)[2].tolist() for label in (1, 300)]
    return results[1] == "ele", labels == [[1], [300]]


@row
def box_over_the_border(folder: Path) -> tuple[bool, bool]:
    boxes = albumentations.BboxParams("pascal_voc", label_fields=["names"])
    pipeline = albumentations.Compose([albumentations.HorizontalFlip(p=1)], bbox_params=boxes)
    picture = np.zeros((32, 32, 3), np.uint8)
    box = np.array([[1, 2, 32.001, 9.0]])
    failed = raises(ValueError, lambda: pipeline(image=picture, bboxes=box, names=[1]))
    own = Augmentation({"flip": albumentations.HorizontalFlip(p=1)})
    return failed, len(own(picture, np.clip(box, 0, 32), np.array([1]), 0)[1]) == 1


class Tiny(pl.LightningModule):
    """A model of one weight, whose loss is that weight, or not finite."""

    def __init__(self, finite: bool = True) -> None:
        super().__init__()
        self.weight, self.finite = torch.nn.Parameter(torch.ones(1)), finite
        self.validated: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.weight.sum() * (1.0 if self.finite else float("nan"))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(float(self.weight))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(range(4))  # pyright: ignore[reportArgumentType]

    val_dataloader = train_dataloader


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=str(folder), accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **{"logger": False, "enable_checkpointing": False, "max_epochs": 1, **options},
    )  # fmt: skip


@row
def loss_not_finite(folder: Path) -> tuple[bool, bool]:
    module = Tiny(finite=False)
    trainer(folder).fit(module)
    return bool(module.weight.isnan()), tested(
        "test_train.py", "test_a_loss_that_is_not_finite_stops_the_run_and_names_it"
    )


@row
def nothing_to_resume(folder: Path) -> tuple[bool, bool]:
    module = Tiny()
    trainer(folder, enable_checkpointing=True).fit(module, ckpt_path="last")
    return float(module.weight) < 1, tested("test_train.py", "test_resuming_a_missing_run_is_an_error")


@row
def curves_of_a_resumed_run(folder: Path) -> tuple[bool, bool]:
    kept: list[int] = []
    for _ in range(2):
        logger = pl.loggers.CSVLogger(str(folder), name="run", version=0)
        logger.log_metrics({"loss": 1.0}, step=len(kept))
        logger.save()
        kept.append(len((folder / "run" / "version_0" / "metrics.csv").read_text().splitlines()) - 1)
    return kept == [1, 1], tested("test_exactness.py", "test_a_killed_run_resumes_bit_for_bit")


@row
def average_before_its_start(folder: Path) -> tuple[bool, bool]:
    module = Tiny()
    trainer(folder, callbacks=[pl.callbacks.EMAWeightAveraging(update_starting_at_step=100)]).fit(module)
    return module.validated == [1.0] * 4, tested(
        "boxwright/test_checkpoints.py", "test_the_average_is_the_one_worked_out_by_hand"
    )


@row
def monitor_with_a_typo(folder: Path) -> tuple[bool, bool]:
    module = Tiny()
    saver = pl.callbacks.ModelCheckpoint(folder, monitor="val/Ap")
    late = raises(Exception, lambda: trainer(folder, callbacks=[saver], enable_checkpointing=True).fit(module))
    here = tested("boxwright/test_check.py", "test_a_monitor_that_no_validation_will_produce_is_refused")
    return late and float(module.weight) < 1, here


@row
def images_scored_twice(folder: Path) -> tuple[bool, bool]:
    shares = [
        list(torch.utils.data.DistributedSampler(range(7), 2, rank, shuffle=False))  # pyright: ignore[reportArgumentType]
        for rank in range(2)
    ]
    return sum(map(len, shares)) == 8, tested(
        "test_evaluation_ranks.py", "test_each_image_is_scored_once_whichever_rank_has_it"
    )


@row
def typo_behind_a_plus(folder: Path) -> tuple[bool, bool]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["data=shapes", "+trainer.max_step=5"])
    problems = command_line_problems("train", ["data=shapes", "+trainer.max_step=5"])
    return cfg.trainer.max_step == 5, bool(problems) and "nearest is trainer.max_steps" in problems[0]


def raises(kind: type[BaseException], call: Callable[[], Any]) -> bool:
    return bool(message_of(kind, call))


def message_of(kind: type[BaseException], call: Callable[[], Any]) -> str:
    """The message of the exception that a call raises; empty if it raises none."""
    try:
        call()
    except kind as error:
        return str(error) or type(error).__name__
    return ""


def tested(file: str, name: str) -> bool:
    return f"def {name}(" in (ROOT / "tests" / file).read_text()


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    failed = 0
    for name in sys.argv[1:] or ROWS:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            there, here = ROWS[name](Path(folder))
        failed += not (there and here)
        print(
            f"{name}: elsewhere {'as written' if there else 'no longer'}; here {'as written' if here else 'no longer'}"
        )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
