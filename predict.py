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
    """Detect, draw and write predictions.json; ends with status 1 where nothing could be read."""
    check(cfg)
    source = sources.find(cfg, Path(HydraConfig.get().runtime.output_dir))

    # Imported only now, since they take seconds: a mistake in the config has been answered before.
    from boxwright.predict.job import make_detector, open_job

    frame.quieten()
    detector = make_detector(cfg)
    with open_job(cfg, source, detector) as job:
        job.run(cfg.batch_size or detector.batch_size, cfg.draw)
        job.close(cfg.source)
    job.sum_up(source)


if __name__ == "__main__":
    main()
