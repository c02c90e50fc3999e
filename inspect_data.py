"""Look at a data set before training on it; takes train.py's command line.

python inspect_data.py data=coco data.root=/data/coco
python inspect_data.py experiment=small_dataset data.root=/data/cells 'data.classes=[RBC,WBC,Platelets]'
"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lit_modules import outputs, runs, settings


@hydra.main(version_base="1.3", config_path="conf", config_name="inspect_data")
@settings.clear_errors
@outputs.none_if_refused
def main(cfg: DictConfig) -> None:
    """Write inspection.html; exit with 1 where annotations or images have problems, with 2 for a wrong config."""
    settings.check(cfg)
    runs.refuse_missing_paths(cfg)
    from lit_modules.inspection import inspect

    if inspect(cfg) and HydraConfig.get().mode != RunMode.MULTIRUN:  # a sweep goes on
        sys.exit(1)


if __name__ == "__main__":
    runs.register_resolvers()
    settings.explain_command_line("inspect_data")
    main()
