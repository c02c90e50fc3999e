"""Show each row of docs/elsewhere.md: what other tools do with an input, and what this project does with it.

    python measurements/elsewhere.py [NAME ...]

Prints a line for each row of the page, or for those named. Ends with status 1 where a row no longer holds. Rows that
run a script of findings/ install its libraries in an environment of their own.
"""

import contextlib
import io
import json
import logging
import os
import subprocess
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
from evaluation.analysis import analyse
from evaluation.metrics import evaluate
from evaluation.truth import Predictions, Truth

ROOT = Path(__file__).parents[1]
ROWS: dict[str, Callable[[Path], tuple[bool, bool]]] = {}
"""For each row: whether the other tool and this project still do what the page says."""


def row(function: Callable[[Path], tuple[bool, bool]]) -> Callable[[Path], tuple[bool, bool]]:
    ROWS[function.__name__] = function
    return function


class NotRunError(Exception):
    """The libraries of a script of findings/ could not be installed."""


def finding(name: str) -> bool:
    """Runs a script of findings/: whether the library still does what it says."""
    ended = subprocess.run(["bash", str(ROOT / "findings" / f"{name}.sh")], capture_output=True, text=True)
    if not ended.stdout:
        raise NotRunError(ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else "no output")
    return ended.returncode == 0


def coco_file(folder: Path, boxes: list[dict[str, Any]], size: tuple[int, int] = (400, 400), **classes: int) -> Path:
    """A COCO data set of one picture of (h, w), with annotations as given, and categories by name."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "train").mkdir(exist_ok=True)
    Image.new("RGB", size[::-1]).save(folder / "train" / "a.png")
    defaults = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}],
        "annotations": [{**defaults, "id": number, **box} for number, box in enumerate(boxes, 1)],
        "categories": [{"id": number, "name": name} for name, number in (classes or {"cell": 1}).items()],
    }
    file = folder / "annotations" / "instances_train.json"
    file.write_text(json.dumps(content))
    return file


def ours(folder: Path, num_classes: int = 1) -> CocoDataModule:
    data = CocoDataModule(
        root=str(folder), train_split="train", val_split="train", test_split="train", num_classes=num_classes,
        num_workers=0,
        cache_dir=str(folder / "cache"), resize=64, batch_size=1,
    )  # fmt: skip
    data.setup("fit")
    return data


def predictions(boxes: list[list[float]], scores: list[float] | None = None) -> Predictions:
    """Detections (xyxy), with score 0.9 unless they are given."""
    number = len(boxes)
    return Predictions(
        np.zeros(number, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.full(number, 0.9) if scores is None else np.array(scores),
        np.zeros(number, np.int64),
    )


def our_metrics(folder: Path, boxes: list[list[float]], scores: list[float] | None = None) -> dict[str, float]:
    """This project's metrics of detections (xyxy)."""
    return evaluate(ours(folder).truth("val"), predictions(boxes, scores)).scalars


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
def boxes_far_apart(folder: Path) -> tuple[bool, bool]:
    coco_file(folder, [{"bbox": [10, 10, 40, 40], "area": 1600}], (500, 500))
    mine = our_metrics(folder, [[450, 450, 490, 490]])
    return finding("simple_cocotools_iou_of_boxes_far_apart"), mine["AP"] == mine["AR100"] == 0


@row
def iou_of_rounded_boxes(folder: Path) -> tuple[bool, bool]:
    """An IoU of 0.7171 passes 5 of the 10 thresholds."""
    coco_file(folder, [{"bbox": [10.4, 10.4, 3.4, 3.4], "area": 11.56}])
    mine = our_metrics(folder, [[10.6, 10.6, 14.2, 14.2]])
    return finding("pybboxes_iou_of_rounded_boxes"), abs(mine["AP"] - 0.5) < 1e-9


@row
def scores_never_read(folder: Path) -> tuple[bool, bool]:
    coco_file(folder, [{"bbox": [10, 10, 50, 50], "area": 2500}])
    hit, miss = [10.0, 10, 60, 60], [200.0, 200, 250, 250]
    given = [([hit, miss], [0.9, 0.1]), ([miss, hit], [0.1, 0.9]), ([hit, miss], [0.1, 0.9])]
    mine = [round(our_metrics(folder, boxes, scores)["AP50"], 6) for boxes, scores in given]
    return finding("mapcalc_scores_ignored"), mine == [1, 1, 0.5]


@row
def misses_count_as_hits(folder: Path) -> tuple[bool, bool]:
    coco_file(folder, [{"bbox": [10, 10, 40, 40], "area": 1600}], (500, 500))
    found = predictions([[440, 440, 480, 480]])
    analysis = analyse(truth := ours(folder).truth("val"), found, evaluate(truth, found))
    false = analysis.confusion.tolist() == [[0, 1], [1, 0]]  # missed, and seen in the background
    return finding("coco_froc_misses_count_as_hits"), false


@row
def objects_of_medium_size(folder: Path) -> tuple[bool, bool]:
    boxes = [{"bbox": [10, 10, 50, 50], "area": 2500}, {"bbox": [200, 200, 97, 97], "area": 9409}]
    coco_file(folder, boxes)
    mine = our_metrics(folder, [[10, 10, 60, 60], [201, 201, 296, 296]], [0.8, 0.9])
    return finding("globox_size_ap_counts_ignored_as_false"), mine["AP"] == mine["AP_medium"] == 1


@row
def difficult_objects(folder: Path) -> tuple[bool, bool]:
    found = predictions([[10, 10, 80, 80], [400, 10, 450, 60]], [0.9, 0.1])
    mine: list[float] = []
    for boxes, difficult in (
        ([[200, 200, 260, 260], [10, 10, 80, 80]], [True, False]),
        ([[10, 10, 80, 80], [200, 200, 260, 260]], [False, True]),
    ):
        truth = Truth(
            np.array([1]), np.array([[500, 500]]), np.zeros(2, np.int64), np.array(boxes, np.float64),
            np.zeros(2, np.int64), np.full(2, 4000.0), np.zeros(2, bool), np.array(difficult), ("cell",), (1,),
            voc=True,
        )  # fmt: skip
        mine += [evaluate(truth, found).scalars[name] for name in ("mAP_voc07", "mAP_voc")]
    return finding("mean_average_precision_flags_of_another_object"), np.allclose(mine, 1)


@row
def crowds_in_the_confusion_matrix(folder: Path) -> tuple[bool, bool]:
    crowd = {"bbox": [100, 100, 180, 180], "area": 32400, "iscrowd": 1}
    coco_file(folder, [{"bbox": [10, 10, 60, 60], "area": 3600}, crowd], (300, 300))
    boxes = [[10, 10, 70, 70], [110, 110, 150, 150], [160, 160, 200, 200], [220, 220, 260, 260]]
    found = predictions(boxes, [0.9, 0.8, 0.7, 0.6])
    analysis = analyse(truth := ours(folder).truth("val"), found, evaluate(truth, found))
    return finding("hotcoco_confusion_matrix_counts_crowds_as_false"), analysis.confusion.tolist() == [[1, 0], [0, 0]]


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
def box_of_width_0(folder: Path) -> tuple[bool, bool]:
    coco_file(folder, [{"bbox": [0, 50, 0, 220], "area": 0}, {"bbox": [20, 20, 40, 40], "area": 1600}], (320, 320))
    data = ours(folder)
    trained = int((next(iter(data.train_dataloader())).labels >= 0).sum())
    is_told = "1 with a side under 1 pixel" in data.describe()
    return finding("yolo_tiling_labels_without_width"), trained == 1 and is_told


@row
def annotations_without_ids(folder: Path) -> tuple[bool, bool]:
    file = coco_file(folder, [{"bbox": [10, 10, 30, 40]}, {"bbox": [90, 90, 100, 100]}])
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        del annotation["id"], annotation["iscrowd"]
    file.write_text(json.dumps(content))
    mine = our_metrics(folder, [[10, 10, 40, 50], [90, 90, 190, 190]])
    return raises(KeyError, lambda: COCO(str(file))), mine["AP"] == 1


@row
def two_classes_of_one_id(folder: Path) -> tuple[bool, bool]:
    coco_file(folder, [{"bbox": [0, 0, 10, 10]}, {"bbox": [20, 0, 10, 10], "category_id": 4}], person=1, dog=4, boat=4)
    own = message_of(DataError, lambda: ours(folder, 3))
    return finding("coco_assistant_merge_two_classes_one_id"), "several categories of id [4]; make each unique" in own


@row
def objects_repeated(folder: Path) -> tuple[bool, bool]:
    coco_file(folder, [{"id": 7, "bbox": [10, 10, 20, 20]}] * 3)
    own = message_of(DataError, lambda: ours(folder))
    return finding("pylabel_coco_export_repeats_an_object"), "an annotation id is used twice: 2" in own


@row
def class_ids_with_gaps(folder: Path) -> tuple[bool, bool]:
    ids = {"train": 7, "truck": 8, "boat": 9, "stop sign": 13}
    coco_file(folder, [{"bbox": [10 * k, 0, 10, 10], "category_id": n} for k, n in enumerate(ids.values())], **ids)
    truth = ours(folder, 4).truth("val")
    return finding("coco_to_yolo_labels_of_other_classes"), [truth.class_names[n] for n in truth.labels] == list(ids)


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
        try:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                there, here = ROWS[name](Path(folder))
        except NotRunError as error:
            print(f"{name}: not run ({error})")
            continue
        failed += not (there and here)
        print(
            f"{name}: elsewhere {'as written' if there else 'no longer'}; here {'as written' if here else 'no longer'}"
        )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
