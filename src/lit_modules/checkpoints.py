"""One checkpoint file is enough: read it safely, rebuild its module.

`boxwright` in a checkpoint is a plain dict: `config` (the run's, resolved), `class_names`, `category_ids`,
`metrics` (of the last validation), `versions`.
"""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lit_modules.base import DetectionModule

_TRUSTED = ("detectors.", "lit_modules.", "datamodules.", "torch.optim.")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file and renames, so that a reader finds a whole checkpoint or none; reads tensors only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's contents on the CPU; runs no code of the file. `ValueError` if it isn't one."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist (from {Path.cwd()}); give checkpoint=FILE.ckpt")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} can't be read as a checkpoint ({path.stat().st_size} bytes): {reason}. It is cut short, or "
            "holds more than tensors and plain values, which is refused; use another checkpoint of the run."
        ) from error
    if not isinstance(contents, dict) or "state_dict" not in contents or "boxwright" not in contents:
        raise ValueError(
            f"{path} is not a checkpoint of this project: it lacks `state_dict` or `boxwright`. For weights of "
            "a backbone alone give model.backbone.weights=FILE."
        )
    return cast(dict[str, Any], contents)


def load_module(checkpoint: Mapping[str, Any]) -> DetectionModule:
    """The module of a checkpoint with its weights (the averaged ones where the run averaged), in eval mode."""
    module = build_module(without_weights(checkpoint["boxwright"]["config"]["model"]))
    module.load_state_dict(checkpoint["state_dict"])
    if checkpoint["boxwright"]["config"]["channels_last"]:  # convolutions round differently in each layout
        module.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    module.run = dict(checkpoint["boxwright"])
    return module.eval()


def build_module(config: Mapping[str, Any]) -> DetectionModule:
    """The module that a resolved model config names; only classes of this project and of torch.optim."""
    _refuse_foreign_targets(config, "model")
    return instantiate(config)


def without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with pretrained weights off, which a checkpoint replaces anyway."""
    config = dict(config)
    if isinstance(config.get("backbone"), Mapping):
        config["backbone"] = {**config["backbone"], "weights": None}
    return config


def _refuse_foreign_targets(node: Any, key: str) -> None:
    if isinstance(node, Mapping):
        for name, value in cast(Mapping[str, Any], node).items():
            if name == "_target_" and not str(value).startswith(_TRUSTED):
                raise ValueError(
                    f"{key}._target_ is {value!r}: a checkpoint may only name classes of {', '.join(_TRUSTED)}"
                )
            _refuse_foreign_targets(value, f"{key}.{name}")
    elif isinstance(node, list):
        for i, value in enumerate(cast(list[Any], node)):
            _refuse_foreign_targets(value, f"{key}[{i}]")
