"""Train a detector, then score its best checkpoint.

python train.py model=fcos data=coco data.root=/data/coco trainer.devices=8
python train.py experiment=shapes_demo
python train.py resume=last
"""

import hydra
from omegaconf import DictConfig

from lit_modules import runs, settings


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@settings.clear_errors
def main(cfg: DictConfig) -> float | None:
    """Fit, test, and return the monitored metric of the best checkpoint."""
    run = runs.open_run(cfg)
    if run.results is not None:  # a sweep that is repeated
        return run.results["score"]

    # Imported only now, since they take seconds: a mistake in the config has been answered before.
    from lit_modules import startup, training

    cfg = startup.prepare(run)
    datamodule = training.make_datamodule(cfg)
    module = training.make_module(cfg, run, datamodule)
    trainer = training.make_trainer(cfg, run)
    startup.announce(run, module, trainer)
    trainer.fit(module, datamodule, ckpt_path=run.checkpoint, weights_only=True)
    return training.finish(run, module, datamodule, trainer)


if __name__ == "__main__":
    runs.register_resolvers()
    settings.explain_command_line("train")
    main()
