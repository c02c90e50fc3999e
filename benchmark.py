"""Measure data, training step, inference and decoding apart; takes train.py's command line.

python benchmark.py model=fcos data=coco data.root=/data/coco trainer.precision=bf16-mixed
python benchmark.py model=retinanet data=shapes parts=[step]
python benchmark.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt
"""

from omegaconf import DictConfig

from boxwright import frame
from boxwright.benchmark.command import UNUSED_OF_TRAINER, refuse_unmeasurable
from boxwright.config import from_checkpoint
from boxwright.config.check import check


@frame.command("benchmark", completion=from_checkpoint.run)
def main(cfg: DictConfig) -> None:
    """Measure the parts that are asked for, print a table, and write benchmark.json and benchmark.md."""
    check(cfg)
    refuse_unmeasurable(cfg)

    # Imported only now, since they take seconds: a mistake in the config has been answered before.
    from boxwright.benchmark import measuring

    frame.quieten()
    bench = measuring.set_up(cfg)
    frame.name_unused(
        "name",
        "logger",
        "test",
        "expect",
        "callbacks",
        *UNUSED_OF_TRAINER,
        used=("callbacks.averaging", "callbacks.freezing"),
    )
    figures = measuring.describe(bench)
    if "data" in cfg.parts:
        figures["data"] = measuring.measure_loader(bench)
    measuring.prepare_weights(bench)
    if "step" in cfg.parts:
        figures["step"] = measuring.measure_training(bench)
    if "inference" in cfg.parts:
        figures["inference"] = measuring.measure_validation(bench)
    measuring.save(bench, figures)


if __name__ == "__main__":
    main()
