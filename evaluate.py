"""Score a checkpoint, or a results file, on a data set.

python evaluate.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt
python evaluate.py checkpoint=best.ckpt data.root=/other/place
python evaluate.py checkpoint=best.ckpt data=coco data.root=/data/coco split=val
python evaluate.py predictions=results.json data=coco data.root=/data/coco
"""

import hydra
from omegaconf import DictConfig

from boxwright import frame
from boxwright.config.check import check
from boxwright.config.command_line import complete, explain_command_line
from boxwright.config.errors import clear_errors
from boxwright.config.resolvers import register_resolvers
from boxwright.evaluate import data


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@clear_errors
@frame.none_if_refused
def main(cfg: DictConfig) -> float | None:
    """Print and save the numbers that a validation has; returns AP, of a classifier top-1."""
    check(cfg)
    data.refuse_incomplete(cfg)
    from boxwright.evaluate.score import score

    return score(cfg)


if __name__ == "__main__":
    register_resolvers()
    complete(data.completed)
    explain_command_line("evaluate")
    main()
