"""Any model of timm that gives feature maps, as a backbone; timm is imported when one is built."""

import logging
import re
from contextlib import nullcontext
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detectors.backbones.base import Backbone
from detectors.backbones.timm_layers import timm_layers
from detectors.weights import CHECKPOINT_PREFIX, fill, fill_backbone, read_weights
from detectors.weights.network import hub, hub_offline, unreachable

log = logging.getLogger(__name__)

STRIDES = (2, 4, 8, 16, 32)
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})
"""What the kinds of models call taking images of any size; most take them anyway."""


class Timm(Backbone):
    """Feature maps of a model of timm, chosen by stride, of channels first; its weights bring their own pixel scale.

    A transformer whose maps all have stride 16 gets the others from its last one, by the simple pyramid of ViTDet.
    `frozen_stages` goes by stride where timm's wrapper keeps the model's layers in a row (ConvNeXt, ResNet, Swin and
    most others); a model that comes as one piece trains as a whole, or not at all.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path | None = "pretrained",
        norm: Literal["frozen_bn", "bn"] = "frozen_bn",
        frozen_stages: int = 0,
    ) -> None:
        """Builds a model by timm's name, with a tag or without: `convnext_tiny.in12k_ft_in1k`.

        `weights`: "pretrained" downloads those of the tag; a file is a checkpoint of ours, the weights of the whole
        model as timm publishes them, or those of the model with `features_only=True`. `norm="frozen_bn"` keeps the
        statistics, scales and shifts of batch norms as they are; norms of other kinds train.
        """
        super().__init__()
        timm = _timm(name)
        size, indices = _probe(timm, name)
        state = None if weights in (None, "pretrained") else read_weights(weights)
        options: dict[str, Any] = {"out_indices": tuple(indices.values()), **size}
        body = _create(timm, name, weights if state is None else None, **options)
        if state is not None and _is_whole_model(state, body):
            body = _of_whole_model(timm, name, state, str(weights), options)
            state = None
        self.body = body
        self.pixel_mean.copy_(torch.tensor(body.pretrained_cfg["mean"]))
        self.pixel_std.copy_(torch.tensor(body.pretrained_cfg["std"]))
        widths: dict[int, int] = dict(zip(indices, body.feature_info.channels(), strict=True))
        self._strides = tuple(indices)
        self._channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        self.simple_pyramid = SimplePyramid(widths[16]) if self._strides == (16,) else None
        self.channels = {stride: width for stride, width in widths.items() if stride > 2}
        if self.simple_pyramid is not None:
            self.channels = self.simple_pyramid.channels
        self._name = name
        self._check_frozen_stages(frozen_stages)
        if state is not None:
            if any(n.startswith(CHECKPOINT_PREFIX) for n in state):
                fill_backbone(self, state, str(weights))
            else:
                fill(body, state, [], str(weights))
        if norm == "frozen_bn":
            self.body = import_module("timm.layers").freeze_batch_norm_2d(body)
        self._freeze(frozen_stages)

    def stages(self) -> list[list[nn.Module]]:
        stages: list[list[nn.Module]] = [[] for _ in STRIDES]
        if not _is_a_row(self.body):
            stages[STRIDES.index(self._strides[-1])] = [self.body]
            return stages
        layers: list[nn.Module] = []
        strides = iter(self._strides)
        for name, layer in self.body.named_children():
            layers.append(layer)
            if name in self.body.return_layers:
                stages[STRIDES.index(next(strides))] = layers
                layers = []
        return stages

    def forward(self, x: Float[Tensor, "B 3 H W"], strides: tuple[int, ...] = (8, 16, 32)) -> list[Tensor]:
        if _is_a_row(self.body):
            found: dict[int, Tensor] = {}
            for stage, stride in zip(self.stages(), STRIDES, strict=True):
                if stride <= max(strides):
                    for layer in stage:
                        x = layer(x)
                    found[stride] = x[0] if isinstance(x, tuple | list) else x
        else:
            found = dict(zip(self._strides, self.body(x), strict=True))
        if self.simple_pyramid is not None:
            return self.simple_pyramid(found[16], strides)
        maps = [found[stride] for stride in strides]
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if self._channels_last else maps

    def leave_out(self, strides: tuple[int, ...]) -> None:
        if self.simple_pyramid is not None:
            for layer in self.simple_pyramid.unused(strides):
                layer.requires_grad_(False)
        elif _is_a_row(self.body):
            super().leave_out(strides)
        elif max(strides) < max(self._strides):
            raise ValueError(
                f"model.backbone.name={self._name} comes as one piece, whose last layers one map of stride "
                f"{max(strides)} would leave without a gradient; take a pyramid (model.pyramid_channels=256)"
            )

    def layer_numbers(self) -> dict[str, int]:
        """Layers as timm counts them for a decay by layer: the stem, then each block."""
        found = timm_layers(self._name, [name for name, _ in self.body.named_parameters()])
        return {f"body.{name}": number for name, number in found.items()}

    @property
    def region_channels(self) -> int:
        raise ValueError(
            f"model.backbone.name={self._name}: no layers of a timm model are a head for regions of one map; take a "
            "pyramid (model.pyramid_channels=256), or a backbone of this project, such as resnet50"
        )

    def _check_frozen_stages(self, frozen_stages: int) -> None:
        super()._check_frozen_stages(frozen_stages)
        if frozen_stages and not list(chain(*self.stages()[:frozen_stages])):
            whole = next(n for n, stage in enumerate(self.stages(), 1) if stage)
            raise ValueError(
                f"model.backbone.frozen_stages={frozen_stages}: {self._name} has no layers that end at stride "
                f"{2**frozen_stages}; expected 0 (all train), or {whole} or more"
            )

    def _without_map(self) -> str:
        return "choose another model.backbone.name, such as convnext_tiny"


class SimplePyramid(nn.Module):
    """Maps of stride 4 to 32 from one of stride 16, by transposed convolutions and a pooling (ViTDet, arXiv 2203.16527,
    section 3; the 1x1 and 3x3 convolutions behind them are the detector's pyramid's).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.channels = {4: quarter, 8: half, 16: width, 32: width}
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(width, half, 2, stride=2),
            import_module("timm.layers").LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
        )
        self.up8 = nn.ConvTranspose2d(width, half, 2, stride=2)
        self.down32 = nn.MaxPool2d(2)

    def forward(self, x: Float[Tensor, "B C h w"], strides: tuple[int, ...]) -> list[Tensor]:
        layers = {4: self.up4, 8: self.up8, 16: nn.Identity(), 32: self.down32}
        return [layers[stride](x) for stride in strides]

    def unused(self, strides: tuple[int, ...]) -> list[nn.Module]:
        """Layers that the maps of these strides do not need."""
        return [layer for stride, layer in ((4, self.up4), (8, self.up8)) if stride not in strides]


def _timm(name: str) -> Any:
    """The package, for a model that it has."""
    try:
        timm = import_module("timm")
    except ImportError as error:
        raise ValueError(
            f"model.backbone.name={name}: models of timm need the package timm, which cannot be imported ({error}): "
            "pip install 'boxwright[timm]', or pip install -e '.[timm]' in the project's folder"
        ) from error
    if not timm.is_model(name):
        close = import_module("difflib").get_close_matches(name.partition(".")[0], timm.list_models(), n=3, cutoff=0.6)
        near = f"; nearest are {', '.join(close)}" if close else ""
        raise ValueError(f"model.backbone.name={name}: timm {timm.__version__} has no such model{near}")
    return timm


def _create(timm: Any, name: str, weights: str | Path | None, **options: Any) -> Any:
    """A model with feature maps; ValueError where its weights cannot be had, or do not fit."""
    unanswered = _unreachable(timm, name) if weights == "pretrained" else ""
    try:
        with hub_offline() if unanswered else nullcontext():
            return timm.create_model(name, pretrained=weights is not None, features_only=True, **options)
    except Exception as error:  # of the Hub's client any, of timm RuntimeError and others
        reason = unanswered or " ".join(str(error).split())[:300]
        if weights is None:
            raise ValueError(
                f"model.backbone.name={name}: timm cannot build it with feature maps ({reason})"
            ) from error
        if weights != "pretrained":
            raise ValueError(
                f"weights={weights}: they do not fit model.backbone.name={name} ({reason}). Give the file of that "
                "model, or the name of the file's"
            ) from error
        source = timm.get_pretrained_cfg(name)
        place = source and (source.hf_hub_id or source.url)
        raise ValueError(
            f"model.backbone.weights=pretrained: the weights of {name} could not be had ({reason}). Fetch "
            f"{f'model.safetensors of {place}' if place else 'them'} by other means and give "
            "model.backbone.weights=FILE, or null to start from random ones (with model.backbone.norm=bn)"
        ) from error


def _unreachable(timm: Any, name: str) -> str:
    """Says why the server of a model's weights can't be reached; empty where it can, or nothing is asked of it."""
    source = timm.get_pretrained_cfg(name)
    if source is None or not (source.hf_hub_id or source.url):
        return ""
    return unreachable(hub().ENDPOINT if source.hf_hub_id else source.url)


def _probe(timm: Any, name: str) -> tuple[dict[str, Any], dict[int, int]]:
    """The options with which a model takes images of any size, and the last of its maps of each stride; tried without
    computing anything. ValueError where the maps are of no use.
    """
    reason = ""
    for size in _ANY_SIZE:
        with torch.device("meta"):
            try:
                body = timm.create_model(name, features_only=True, **size).eval()
                shapes = [tuple(m.shape) for m in body(torch.zeros(1, 3, 96, 128))]
            except Exception as error:
                if "unexpected keyword argument" not in str(error):
                    reason = " ".join(str(error).split())[:200]
                continue
        last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        found: dict[int, int] = {}
        for index, stride, shape in zip(
            body.feature_info.out_indices, body.feature_info.reduction(), shapes, strict=True
        ):
            if stride in STRIDES and shape[1 if last else 2 :][:2] == (96 // stride, 128 // stride):
                found[stride] = index
        if set(STRIDES[1:]) <= found.keys() or found.keys() == {16}:
            return size, found
        strides = ", ".join(map(str, body.feature_info.reduction()))
        raise ValueError(
            f"model.backbone.name={name}: its maps have strides {strides}; expected 4, 8, 16 and 32 (convnext_tiny, "
            "swin_tiny_patch4_window7_224), or 16 alone (vit_small_patch16_224)"
        )
    raise ValueError(
        f"model.backbone.name={name}: timm cannot make feature maps of images of any size with it ({reason}); choose "
        "another one, such as convnext_tiny or swin_tiny_patch4_window7_224"
    )


def _is_a_row(body: nn.Module) -> bool:
    """Whether a model's layers are called one after another, as timm's FeatureListNet does."""
    return isinstance(body, import_module("timm.models").FeatureListNet)


def _is_whole_model(state: dict[str, Tensor], body: nn.Module) -> bool:
    """Whether weights have the names of the whole model, which timm translates to those of its wrappers."""
    wrapped = type(body).__module__ == "timm.models._features"
    own = {n for n in body.state_dict() if not n.endswith("num_batches_tracked")}
    return wrapped and not own <= state.keys() and not any(n.startswith(CHECKPOINT_PREFIX) for n in state)


def _of_whole_model(timm: Any, name: str, state: dict[str, Tensor], source: str, options: dict[str, Any]) -> Any:
    """A model with the weights of a file of timm's, which must hold every tensor; what belongs to its classifier alone
    is left out, and the log names it.
    """
    classifier: str | tuple[str, ...] = timm.get_pretrained_cfg(name).classifier or ()
    heads = (classifier,) if isinstance(classifier, str) else classifier
    left_out = {n for n in state if n.rpartition(".")[0] in heads}
    while True:
        whole = {n: v for n, v in state.items() if n not in left_out}
        overlay = {"state_dict": whole, "classifier": None}  # without a classifier's name, timm wants every tensor
        try:
            body = _create(timm, name, source, pretrained_cfg_overlay=overlay, num_classes=0, **options)
        except ValueError as error:
            more = _unexpected(str(error.__cause__)) & whole.keys()
            if not more:
                raise
            left_out |= more
        else:
            log.info("weights %s: %d tensors taken; skipped: %s", source, len(whole), ", ".join(sorted(left_out)))
            return body


def _unexpected(reason: str) -> set[str]:
    """Names of tensors that a model does not have, where that is all that torch objects to."""
    _, found, names = reason.partition("Unexpected key(s) in state_dict: ")
    only = found and "Missing key(s)" not in reason and "size mismatch" not in reason
    return set(re.findall(r'"([^"]+)"', names)) if only else set()
