"""A checkpoint as a run of train.py leaves it, full of what belongs to its machine and may not be published."""

from pathlib import Path
from typing import Any

import torch
from tiny_checkpoint import CLASSES

SCALARS = {"AP": 0.512345, "AP50": 0.75, "AP_large": -1.0, "mAP_voc": float("nan")}
PER_CLASS = {name: {"AP": 0.5, "AP50": 0.75, "num_objects": 12.0} for name in CLASSES}
HOME = "/home/berta smith"


def trained(file: Path, **changes: Any) -> Path:
    """A checkpoint as a run writes it at its best step, full of what belongs to its machine."""
    contents = torch.load(file, weights_only=True)
    stored = contents["boxwright"]
    stored["config"] |= {
        "name": "secret-client",
        "init_from": f"{HOME}/runs/first/best.ckpt",
        "trusted_packages": ["mine"],
        "logger": {"wandb": {"_target_": "lit_modules.loggers.WandbLogger", "entity": "berta-team", "id": "w4ndb1d"}},
    }
    stored["config"]["data"] |= {"root": f"{HOME}/data", "cache_dir": "/scratch/berta"}
    stored["config"]["model"]["backbone"]["weights"] = f"{HOME}/weights/mobilenet.pth"
    stored["config"]["callbacks"]["report"] = {"_target_": "mine.Report", "folder": f"{HOME}/www"}
    stored |= {"metrics": SCALARS, "thresholds": dict.fromkeys(CLASSES, 0.2), "versions": {"torch": "2.15"}}
    state = {"best_step": 8, "best_metrics": SCALARS, "best_per_class": PER_CLASS, "best_of": "val/AP"}
    contents |= {
        "epoch": 1, "global_step": 8, "callbacks": {"Checkpoints": state}, "loops": {"x": HOME}, "lr_schedulers": [{}],
        "optimizer_states": [{"state": torch.ones(3)}], "current_model_state": contents["state_dict"],
        "hyper_parameters": {"user": "berta"},
    }  # fmt: skip
    torch.save(contents | changes, file)
    return file
