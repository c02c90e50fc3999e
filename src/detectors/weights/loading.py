"""Weights from elsewhere, read without running any code and checked tensor by tensor before use."""

# torchvision has no type stubs.
# pyright: reportMissingTypeStubs=false

import logging
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from torchvision.models import WeightsEnum

import detectors.weights.caffe2 as caffe2
from detectors.deformable import plain_into_deformable
from detectors.weights.network import unreachable
from detectors.weights.pickles import read_pickle

log = logging.getLogger(__name__)

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
CHECKPOINT_PREFIX = "network.backbone."
"""Prefix of a backbone's tensors in this project's own checkpoints."""
CLASSIFIERS = ("fc.", "classifier.")
"""Heads of torchvision's classification models; a backbone has none, but for VGG-16's first two layers."""
OPTIONAL = ("pixel_mean", "pixel_std", "num_batches_tracked")
"""Last parts of names that other projects' files lack: our pixel scale (a file without one is taken to be trained on
RGB/255 with ImageNet's mean and deviation), and a counter that nothing here reads."""


def load_backbone(backbone: nn.Module, path: str | Path) -> Set[str]:
    """Fills a backbone from a `.pth`, `.pt` or `.safetensors` state dict, from one of our checkpoints, of a classifier
    or a detector (the averaged weights where its run averaged), or from a `.pkl` of Caffe2's blobs.

    Every tensor of the backbone must be there in its shape, else ValueError; what the file holds beyond
    them is skipped, and the log says so. Returns the names of those taken.
    """
    if Path(path).suffix == ".pkl":
        return _load_blobs(backbone, Path(path).expanduser())
    return fill_backbone(backbone, read_weights(path), str(path))


def _load_blobs(backbone: nn.Module, path: Path) -> Set[str]:
    """Fills a backbone from Caffe2's blobs, whose filters are turned to RGB and whose pixels come along."""
    if not path.is_file():
        raise ValueError(f"weights={path}: no such file (working directory {Path.cwd()})")
    try:
        mapped = caffe2.trunk(caffe2.blobs_of(read_pickle(path)))
    except ValueError as error:
        raise ValueError(f"weights={path}: {error}") from error
    part = {name.removeprefix("backbone."): value for name, value in mapped.state.items()}
    return fill(backbone, part, list(mapped.left_out), str(path))


def load_published(backbone: nn.Module, weights: WeightsEnum) -> Set[str]:
    """Fills a backbone with weights that torchvision publishes, downloaded once to torch's cache."""
    url = str(weights.url)
    kept = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    try:
        if not kept.exists() and (reason := unreachable(url)):
            raise OSError(reason)
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a hash that differs
        raise ValueError(
            f"model.backbone.weights=imagenet: {url} could not be downloaded ({error}). Fetch that file by "
            "other means and give model.backbone.weights=FILE, or null to start from random ones (with "
            "model.backbone.frozen_stages=0 model.backbone.norm=bn)"
        ) from error
    return fill_backbone(backbone, state, url)


def fill_backbone(backbone: nn.Module, state: Mapping[str, Tensor], source: str) -> Set[str]:
    """Fills a backbone from the state dict of a whole network; see `load_backbone`."""
    part, others = _backbone_part(state, backbone)
    return fill(backbone, part, others, source, may_lack=plain_into_deformable(backbone, part))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, alone or as the `state_dict` or `model` entry of a checkpoint.

    Files are opened with `weights_only=True`: one that holds other objects than tensors and plain Python
    values is refused, because reading it would run code of its author's choice.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f"weights={path}: expected 'imagenet', null, or a file ending in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"weights={path}: no such file (working directory {Path.cwd()})")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in the reader
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"weights={path}: cannot be read as tensors only ({reason}). Fetch it again if it is damaged; "
            "if it holds whole objects, save it anew where it was made: torch.save(model.state_dict(), path)"
        ) from error
    return _state_dict(content, path)


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    whole = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    parts = (whole.get(key) for key in ("state_dict", "model"))
    state = next((cast(dict[str, Any], part) for part in parts if isinstance(part, dict)), whole)
    if not state:
        raise ValueError(f"weights={path}: expected named tensors, found an empty or unnamed collection")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"weights={path}: expected a dict of named tensors, but {name!r} is {type(value).__name__}; "
                "save model.state_dict() alone, or under the key 'state_dict'"
            )
    return state


def _backbone_part(state: Mapping[str, Tensor], backbone: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The backbone's tensors, and in our own checkpoints the names of all others."""
    wanted = backbone.state_dict().keys()
    state = {name.removeprefix("module."): value for name, value in state.items()}  # of DataParallel
    own = {n.removeprefix(CHECKPOINT_PREFIX): v for n, v in state.items() if n.startswith(CHECKPOINT_PREFIX)}
    if own:
        return own, [n for n in state if not n.startswith(CHECKPOINT_PREFIX)]
    return {n: v for n, v in state.items() if n in wanted or not n.startswith(CLASSIFIERS)}, []


def fill(
    module: nn.Module, state: Mapping[str, Tensor], others: Sequence[str], source: str, may_lack: Set[str] = frozenset()
) -> Set[str]:
    """Copies a state dict into a module: all of the module's tensors but those that it `may_lack`, each in its shape,
    or ValueError.

    The log names the skipped tensors, `others` of the file among them. Returns the names of those taken.
    """
    expected = module.state_dict()
    missing = [n for n in expected if n not in state and n not in may_lack and not n.endswith(OPTIONAL)]
    if missing:
        raise ValueError(
            f"weights={source}: {len(missing)} of {len(expected)} tensors are not in the file: "
            f"{_some(missing)} (it has {_some(list(state))}). Choose the backbone, depth and norm of the file"
        )
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    if misshapen:
        raise ValueError(f"weights={source}: {_some(misshapen)}. Choose the backbone and depth of the file")
    taken = {name: value for name, value in state.items() if name in expected}
    left_out = [n for n in state if n not in expected and not n.endswith(OPTIONAL)] + list(others)
    module.load_state_dict(taken, strict=False)
    log.info(
        "weights %s: %d of %d tensors taken%s",
        source,
        len(taken),
        len(expected),
        f"; skipped: {_some(left_out)}" if left_out else "",
    )
    return taken.keys()


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
