"""Draw what a checkpoint finds on pictures or a video, and write it as COCO JSON.

python predict.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt source=photo.jpg
python predict.py checkpoint=best.ckpt source=photos score_threshold=0.5
python predict.py checkpoint=best.ckpt source=clip.mp4 output=found
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from boxwright import frame
from boxwright.config.check import check
from boxwright.predict import sources


@frame.command("predict")
def main(cfg: DictConfig) -> None:
    """Detect and draw; ends with status 1 where nothing could be read."""
    check(cfg)
    source = sources.find(cfg, Path(HydraConfig.get().runtime.output_dir))
    from boxwright.predict.job import predict

    predict(cfg, source)


if __name__ == "__main__":
    main()
