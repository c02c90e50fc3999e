"""Measure data, training step, inference and decoding apart; takes train.py's command line.

python benchmark.py model=fcos data=coco data.root=/data/coco trainer.precision=bf16-mixed
python benchmark.py model=retinanet data=shapes parts=[step]
python benchmark.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt
"""

from omegaconf import DictConfig

from boxwright import frame
from boxwright.benchmark.command import refuse_unmeasurable
from boxwright.config import from_checkpoint
from boxwright.config.check import check


@frame.command("benchmark", completion=from_checkpoint.run)
def main(cfg: DictConfig) -> None:
    """Print the table, and write benchmark.json and benchmark.md."""
    check(cfg)
    refuse_unmeasurable(cfg)
    from boxwright.benchmark.measuring import measure

    measure(cfg)


if __name__ == "__main__":
    main()
