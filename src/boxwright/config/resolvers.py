"""Resolvers that the files in conf/ use."""

import os
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from boxwright.config.compatible import scored
from boxwright.runs.names import job_folder, output_folder, run_folder, run_name


def register_resolvers() -> None:
    """Registers what the files in conf/ use: names of runs and folders, and

    `${num_classes:CLASSES,DEFAULT,SINGLE}`: the length of a list of classes, or the default where it is null; 1 where
    they are all made a single one;
    `${main_metric:DATA}`: the metric of a validation on that data set by which checkpoints are compared.
    """
    resolvers: dict[str, Callable[..., Any]] = {
        "num_classes": _num_classes,
        "main_metric": _main_metric,
        "run_name": run_name,
        "run_folder": run_folder,
        "job_folder": job_folder,
        "output_folder": output_folder,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    # albumentations looks for a newer release over the network whenever it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def _num_classes(classes: Any, default: int, single: str | None = None) -> int:
    if single is not None:
        return 1
    return default if classes is None else len(classes)


def _main_metric(data: str) -> str:
    return f"val/{scored(data)[0]}"
