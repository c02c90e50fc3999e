"""Draw what a checkpoint finds on pictures or a video, and write it as COCO JSON.

python predict.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt source=photo.jpg
python predict.py checkpoint=best.ckpt source=photos score_threshold=0.5
python predict.py checkpoint=best.ckpt source=clip.mp4 output=found
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lit_modules import outputs, runs, settings, sources


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
@settings.clear_errors
@outputs.none_if_refused
def main(cfg: DictConfig) -> None:
    """Ends with status 1 where nothing could be read."""
    settings.check(cfg)
    source = sources.find(cfg, Path(HydraConfig.get().runtime.output_dir))
    from lit_modules.predicting import predict

    predict(cfg, source)


if __name__ == "__main__":
    runs.register_resolvers()
    settings.explain_command_line("predict")
    main()
