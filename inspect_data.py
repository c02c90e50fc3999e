"""Look at a data set before training on it; takes train.py's command line.

python inspect_data.py data=coco data.root=/data/coco
python inspect_data.py experiment=small_dataset data.root=/data/cells 'data.classes=[RBC,WBC,Platelets]'
"""

import sys

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from boxwright import frame
from boxwright.config.check import check
from boxwright.config.paths import refuse_missing_paths


@frame.command("inspect_data")
def main(cfg: DictConfig) -> None:
    """Write inspection.html; exit with 1 where annotations or images have problems, with 2 for a wrong config."""
    check(cfg)
    refuse_missing_paths(cfg)
    from boxwright.inspect_data.inspection import inspect

    problems = inspect(cfg)
    frame.name_unused("name", "logger", "test", "callbacks", "trainer", "optimizer", "schedule", "init_from", "compile")
    if problems and HydraConfig.get().mode != RunMode.MULTIRUN:  # a sweep continues
        sys.exit(1)


if __name__ == "__main__":
    main()
