"""Draw what a checkpoint finds on pictures or a video, and write it as COCO JSON.

python predict.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt source=photo.jpg
python predict.py checkpoint=best.ckpt source=photos score_threshold=0.5
python predict.py checkpoint=best.ckpt source=clip.mp4 output=found
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from boxwright import frame
from boxwright.config.check import check
from boxwright.config.command_line import explain_command_line
from boxwright.config.errors import clear_errors
from boxwright.config.resolvers import register_resolvers
from boxwright.predict.sources import find


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
@clear_errors
@frame.none_if_refused
def main(cfg: DictConfig) -> None:
    """Ends with status 1 where nothing could be read."""
    check(cfg)
    source = find(cfg, Path(HydraConfig.get().runtime.output_dir))
    from boxwright.predict.job import predict

    predict(cfg, source)


if __name__ == "__main__":
    register_resolvers()
    explain_command_line("predict")
    main()
