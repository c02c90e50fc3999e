"""Measure data, training step, inference and decoding apart; takes train.py's command line.

python benchmark.py model=fcos data=coco data.root=/data/coco trainer.precision=bf16-mixed
python benchmark.py model=retinanet data=shapes parts=[step]
python benchmark.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt
"""

import hydra
from omegaconf import DictConfig

from boxwright import frame
from boxwright.benchmark import command
from boxwright.config.check import check
from boxwright.config.command_line import complete, explain_command_line
from boxwright.config.errors import clear_errors
from boxwright.config.resolvers import register_resolvers


@hydra.main(version_base="1.3", config_path="conf", config_name="benchmark")
@clear_errors
@frame.none_if_refused
def main(cfg: DictConfig) -> None:
    """Print the table, and write benchmark.json and benchmark.md."""
    check(cfg)
    command.refuse_unmeasurable(cfg)
    from boxwright.benchmark.measuring import measure

    measure(cfg)


if __name__ == "__main__":
    register_resolvers()
    complete(command.completed)
    explain_command_line("benchmark")
    main()
