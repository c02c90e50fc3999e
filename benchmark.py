"""Measure data, training step, inference and decoding apart; takes train.py's command line.

python benchmark.py model=fcos data=coco data.root=/data/coco trainer.precision=bf16-mixed
python benchmark.py model=retinanet data=shapes parts=[step]
python benchmark.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt
"""

import hydra
from omegaconf import DictConfig

from lit_modules import command_line, outputs, runs, settings
from lit_modules.benchmark import command


@hydra.main(version_base="1.3", config_path="conf", config_name="benchmark")
@settings.clear_errors
@outputs.none_if_refused
def main(cfg: DictConfig) -> None:
    """Print the table, and write benchmark.json and benchmark.md."""
    settings.check(cfg)
    command.refuse_unmeasurable(cfg)
    from lit_modules.benchmark.measuring import measure

    measure(cfg)


if __name__ == "__main__":
    runs.register_resolvers()
    command_line.complete(command.completed)
    settings.explain_command_line("benchmark")
    main()
