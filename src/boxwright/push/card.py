"""The card of a checkpoint: the Hub's metadata, and a page, both from what the file holds and two answers of its user.

Nothing is guessed: a fact that the file doesn't have is left out.
"""

# huggingface_hub's types are partial.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub import EvalResult, ModelCardData

from boxwright.checkpoints.building import build_module
from boxwright.config.compatible import has_whole_images
from boxwright.config.trusted import OURS
from boxwright.runs.names import backbone_name
from boxwright.zoo.address import FILE, address_of, is_address
from boxwright.zoo.catalogue import CATALOGUE
from boxwright.zoo.names import NO_DATA
from datamodules.transforms import Resize
from lit_modules.callbacks.report import weights
from lit_modules.stored import without_weights
from reports.model_card import Page, page

Config = Mapping[str, Any]
_LAYOUTS = {
    "datamodules.coco.CocoDataModule": "COCO JSON",
    "datamodules.voc.VocDataModule": "Pascal VOC's layout",
    "datamodules.imagefolder.ImageFolderDataModule": "a folder for each class",
}
_SHAPES = "datamodules.shapes.ShapesDataModule"


class Scores(NamedTuple):
    """A validation of exactly these weights: fractions of 1."""

    scalars: dict[str, float]
    per_class: dict[str, dict[str, float]]


class Asked(NamedTuple):
    """What only the user knows."""

    repo: str
    license: str
    dataset: str | None


def scores(checkpoint: Config) -> Scores | None:
    """The scores of a checkpoint's weights; None where its last validation was of an earlier step, or is not told.

    They are told by the state of `Checkpoints` alone, and of the best step alone: best.ckpt has them.
    """
    callbacks: dict[str, Any] = checkpoint.get("callbacks") or {}
    for state in callbacks.values():
        if isinstance(state, dict) and "best_metrics" in state:
            told = cast("dict[str, Any]", state)
            if told.get("best_step", -1) >= 0 and told["best_step"] == checkpoint.get("global_step"):
                return Scores(_known(told["best_metrics"]), told.get("best_per_class") or {})
    return None


def _known(scalars: Mapping[str, float]) -> dict[str, float]:
    """Leaves out the metrics of objects that the split has none of: -1 or nan."""
    return {name: value for name, value in scalars.items() if value >= 0 and not math.isnan(value)}


def make_card(contents: Config, scored: Scores | None, asked: Asked) -> str:
    """Writes the card of contents that are published."""
    stored = contents["boxwright"]
    config: dict[str, Any] = stored["config"]
    dataset = asked.dataset or ("shapes" if config["data"]["_target_"] == _SHAPES else None)
    data = metadata(stored, scored, asked, dataset)
    return f"---\n{data.to_yaml()}\n---\n\n{page(_page(contents, scored, asked, dataset))}"


def metadata(stored: Config, scored: Scores | None, asked: Asked, dataset: str | None) -> ModelCardData:
    """The card's metadata, in the Hub's terms; scores are among them where the data set has a name."""
    config: dict[str, Any] = stored["config"]
    task = "image-classification" if has_whole_images(config["data"]["_target_"]) else "object-detection"
    started = str(stored.get("started_from"))
    named = scored.scalars if scored and dataset and not _limited(config) else {}
    results = [
        EvalResult(
            task, dataset_type=str(dataset), dataset_name=str(dataset), dataset_split=_val_split(config["data"]),
            metric_type=name, metric_name=name, metric_value=round(value, 4),
        )
        for name, value in named.items()
    ]  # fmt: skip
    return ModelCardData(
        license=asked.license,
        library_name="boxwright",
        pipeline_tag=task,
        tags=["boxwright", "pytorch", _architecture(config).lower()],
        datasets=[asked.dataset] if asked.dataset and "/" in asked.dataset else None,
        base_model=address_of(started).repo if is_address(started) else None,
        model_name=asked.repo.partition("/")[2] if results else None,
        eval_results=results or None,
    )


def _page(contents: Config, scored: Scores | None, asked: Asked, dataset: str | None) -> Page:
    stored = contents["boxwright"]
    config: dict[str, Any] = stored["config"]
    address, packages = f"hf://{asked.repo}", foreign_packages(config)
    finds_boxes = not has_whole_images(config["data"]["_target_"])
    return Page(
        name=asked.repo.partition("/")[2],
        summary=_summary(config, stored["class_names"], dataset),
        python=_python(address, packages, bool(stored.get("thresholds"))) if finds_boxes else "",
        commands=_commands(address, packages, config, finds_boxes),
        needs=_needs(packages),
        scores=scored.scalars if scored else {},
        scored_on=_scored_on(contents, dataset),
        per_class=scored.per_class if scored else {},
        model=dict(_model(config, stored["class_names"])),
        training=dict(_training(contents, dataset)),
        class_names=stored["class_names"],
        files={
            FILE: "the weights, with all that is needed to use them; without the optimizer's state, so that a run can "
            "start from it (`init_from`), not resume it",
            "config.yaml": "the settings of the training, for reading",
        },
    )


def foreign_packages(config: Config) -> list[str]:
    """The packages beside this project's that model and data are made of."""

    def targets(node: Any) -> Iterator[str]:
        if isinstance(node, Mapping):
            for key, value in cast("Mapping[str, Any]", node).items():
                yield from [str(value)] if key == "_target_" else targets(value)

    data = {key: value for key, value in config["data"].items() if key != "augmentations"}
    named = {target for part in (config["model"], data) for target in targets(part)}
    ours = tuple(f"{package}." for package in OURS)
    return sorted({target.partition(".")[0] for target in named if not target.startswith(ours)})


def _needs(packages: list[str]) -> str:
    if not packages:
        return ""
    names = ", ".join(packages)
    return f"It is made of classes in {names}, not part of Boxwright: to load it, have that code, and trust it."


def _python(address: str, packages: list[str], has_thresholds: bool) -> str:
    trusted = f", trusted={packages!r}" if packages else ""
    threshold = '"best_f1"' if has_thresholds else "0.3"
    return (
        "from boxwright import load_detector\n\n"
        f'detect = load_detector("{address}", score_threshold={threshold}{trusted})\n'
        'found = detect("photo.jpg")  # boxes in the photo\'s own pixels, scores, labels\n'
        "for box, score, label in zip(found.boxes[0], found.scores[0], found.labels[0]):\n"
        '    print(detect.class_names[label], f"{score:.2f}", box.tolist())\n'
    )


def _commands(address: str, packages: list[str], config: Config, finds_boxes: bool) -> list[str]:
    trusted = f" 'trusted_packages=[{','.join(packages)}]'" if packages else ""
    root = " data.root=FOLDER" if config["data"].get("root") == NO_DATA else ""
    use = f"python predict.py checkpoint={address} source=photos{trusted}"
    if not finds_boxes:
        use = f"python train.py model.backbone.weights={address} data.root=FOLDER{trusted}"
    return [use, f"python evaluate.py checkpoint={address}{root}{trusted}"]


def _summary(config: Config, class_names: list[str], dataset: str | None) -> str:
    backbone = config["model"].get("backbone")
    named = _architecture(config) + (f" with the backbone {backbone_name(backbone)}" if backbone else "")
    number = "one class" if len(class_names) == 1 else f"{len(class_names)} classes"
    return f"{named}, for {number}{f' of {dataset}' if dataset else ''}, trained with Boxwright."


def _architecture(config: Config) -> str:
    return _last(config["model"]).removesuffix("Module")


def _model(config: Config, class_names: list[str]) -> Iterator[tuple[str, str]]:
    yield "detector" if not has_whole_images(config["data"]["_target_"]) else "network", _architecture(config)
    if config["model"].get("backbone"):
        yield "backbone", backbone_name(config["model"]["backbone"])
    with torch.device("meta"):
        network = build_module(without_weights(config["model"])).network
    yield "parameters", f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} million"
    yield "input", _input(config["data"])
    yield "classes", str(len(class_names))
    if "callbacks" in config:
        yield "evaluated", weights(config)


def _input(data: Config) -> str:
    if data["rule"] == "square":
        return f"long side {data['resize']} pixels, padded to a square"
    if data["rule"] == "crop":
        return f"{data['resize']} x {data['resize']} pixels from the middle"
    cap = Resize(data["rule"], data["resize"], data.get("max_side")).cap
    return f"short side {data['resize']} pixels, or less where the long side would pass {cap}"


def _training(contents: Config, dataset: str | None) -> Iterator[tuple[str, str]]:
    stored = contents["boxwright"]
    config: dict[str, Any] = stored["config"]
    data, model = config["data"], config["model"]
    layout = _LAYOUTS.get(data["_target_"])
    told = [f"split {data['train_split']}" if "train_split" in data else "", layout or ""]
    if dataset or any(told):
        yield "data", ", ".join(filter(None, [dataset, *told]))
    yield from _start(stored)
    if "global_step" in contents:
        yield "steps", str(contents["global_step"])
    if "batch_size" in data:
        yield "images a step", str(data["batch_size"])
    if "lr" in model:
        yield "rate", f"{model['lr']:g}" + (", stated for 16 images a step" if config.get("scale_schedule") else "")
    for part in ("optimizer", "schedule"):
        node: dict[str, Any] = model.get(part) or {}
        if (name := _last(node)) and name != "not_stored":
            yield part, name
    if data.get("multi_scale"):
        low, high = data["multi_scale"]
        yield "sizes in training", f"{low:g} to {high:g} times that of the input"
    augmentations: dict[str, dict[str, Any]] = data.get("augmentations") or {}
    names = [_last(node) for node in augmentations.values()]
    mirrored = [f"mirrored with probability {data['flip']:g}"] if data.get("flip") else []
    if mirrored or names:
        yield "augmentation", ", ".join([*mirrored, *names])
    yield "precision", str(config["trainer"]["precision"])
    if "seed" in config:
        yield "seed", str(config["seed"])
    if stored.get("versions"):
        yield "versions", ", ".join(f"{name} {value}" for name, value in stored["versions"].items())


def _last(node: Config) -> str:
    """The last part of a node's `_target_`."""
    return str(node.get("_target_", "")).rpartition(".")[2]


def _start(stored: Config) -> Iterator[tuple[str, str]]:
    """What the weights were before the training."""
    given = stored.get("started_from")
    backbone: Config = stored["config"]["model"].get("backbone") or {}
    if given in CATALOGUE:
        licence = CATALOGUE[given].licence
        yield "started from", f"{given}{f' (licence: {licence})' if licence else ''}"
    elif given:
        yield "started from", str(given)
    elif stored["config"].get("init_from"):
        yield "started from", "the weights of another run"
    elif backbone.get("weights") and "init_from" in stored["config"]:
        yield "backbone started from", str(backbone["weights"])


def _scored_on(contents: Config, dataset: str | None) -> str:
    config: dict[str, Any] = contents["boxwright"]["config"]
    limit = config["trainer"].get("limit_val_batches")
    part = f"a part (trainer.limit_val_batches={limit}) of " if _limited(config) else ""
    of_data = f" of {dataset}" if dataset else ""
    split = _val_split(config["data"])
    named = f"split {split}" if split else "the validation split"
    return f"Validation after step {contents.get('global_step')}, on {part}{named}{of_data}, {_input(config['data'])}"


def _val_split(data: Config) -> str | None:
    if data.get("val_fraction") is not None:
        return f"{data['val_fraction']:g} of {data.get('train_split')}, held out"
    return data.get("val_split")


def _limited(config: Config) -> bool:
    """Whether validations took a part of their split."""
    limit = config["trainer"].get("limit_val_batches", 1.0)
    return isinstance(limit, int) or limit < 1.0
