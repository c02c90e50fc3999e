"""Score a checkpoint, or a results file, on a data set.

python evaluate.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt
python evaluate.py checkpoint=best.ckpt data.root=/other/place
python evaluate.py checkpoint=best.ckpt data=coco data.root=/data/coco split=val
python evaluate.py predictions=results.json data=coco data.root=/data/coco
"""

import hydra
from omegaconf import DictConfig

from lit_modules import checkpoint_data, command_line, outputs, runs, settings


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@settings.clear_errors
@outputs.none_if_refused
def main(cfg: DictConfig) -> float | None:
    """Print and save the numbers that a validation has; returns AP, of a classifier top-1."""
    settings.check(cfg)
    checkpoint_data.refuse_incomplete(cfg)
    from lit_modules.scoring import score

    return score(cfg)


if __name__ == "__main__":
    runs.register_resolvers()
    command_line.complete(checkpoint_data.completed)
    settings.explain_command_line("evaluate")
    main()
