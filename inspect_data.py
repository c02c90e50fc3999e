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
from boxwright.inspect_data.command import UNUSED, refuse_uninspectable


@frame.command("inspect_data")
def main(cfg: DictConfig) -> None:
    """Write inspection.html; exit with 1 where annotations or images have problems, with 2 for a wrong config."""
    check(cfg)
    refuse_missing_paths(cfg)
    refuse_uninspectable(cfg)

    # Imported only now, since they take seconds: a mistake in the config has been answered before.
    from boxwright.inspect_data import inspection

    frame.quieten()
    opened = inspection.open_splits(cfg)
    inspection.check_annotations(opened)
    inspection.check_images(opened)
    splits = inspection.count_boxes(opened)
    coverage = inspection.measure_coverage(opened)
    batches = inspection.first_batches(opened)
    problems = inspection.save(opened, splits, coverage, batches)
    frame.name_unused(*UNUSED)
    if problems and HydraConfig.get().mode != RunMode.MULTIRUN:  # a sweep continues
        sys.exit(1)


if __name__ == "__main__":
    main()
