"""Look at a data set before training on it; takes train.py's command line.

python inspect_data.py data=coco data.root=/data/coco
python inspect_data.py experiment=small_dataset data.root=/data/cells 'data.classes=[RBC,WBC,Platelets]'
"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from boxwright import frame
from boxwright.config.check import check
from boxwright.config.command_line import explain_command_line
from boxwright.config.errors import clear_errors
from boxwright.config.paths import refuse_missing_paths
from boxwright.config.resolvers import register_resolvers


@hydra.main(version_base="1.3", config_path="conf", config_name="inspect_data")
@clear_errors
@frame.none_if_refused
def main(cfg: DictConfig) -> None:
    """Write inspection.html; exit with 1 where annotations or images have problems, with 2 for a wrong config."""
    check(cfg)
    refuse_missing_paths(cfg)
    from boxwright.inspect_data.inspection import inspect

    if inspect(cfg) and HydraConfig.get().mode != RunMode.MULTIRUN:  # a sweep goes on
        sys.exit(1)


if __name__ == "__main__":
    register_resolvers()
    explain_command_line("inspect_data")
    main()
