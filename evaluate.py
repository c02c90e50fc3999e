"""Score a checkpoint, or a results file, on a data set.

python evaluate.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt
python evaluate.py checkpoint=best.ckpt data.root=/other/place
python evaluate.py checkpoint=best.ckpt data=coco data.root=/data/coco split=val
python evaluate.py predictions=results.json data=coco data.root=/data/coco
"""

from omegaconf import DictConfig

from boxwright import frame
from boxwright.config import from_checkpoint
from boxwright.config.check import check
from boxwright.evaluate.data import refuse_incomplete


@frame.command("evaluate", completion=from_checkpoint.data_set)
def main(cfg: DictConfig) -> float | None:
    """Print and save the numbers that a validation has; returns AP, of a classifier top-1."""
    check(cfg)
    refuse_incomplete(cfg)
    from boxwright.evaluate.score import score

    return score(cfg)


if __name__ == "__main__":
    main()
