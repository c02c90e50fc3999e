"""Train a detector, then score its best checkpoint.

python train.py model=fcos data=coco data.root=/data/coco trainer.devices=8
python train.py experiment=shapes_demo
python train.py resume=last
python train.py -m data.resize=400,500,600,700,800 data.root=/data/coco
"""

import hydra
from omegaconf import DictConfig

from lit_modules import runs, settings, sweeps


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@sweeps.each_in_a_process
@settings.clear_errors
def main(cfg: DictConfig) -> float | None:
    """Fit, test, and return the monitored metric of the best checkpoint."""
    run = runs.open_run(cfg)
    if run.results is not None:  # the same command once more, where the folder is fixed
        return run.results["score"]

    # Imported only now, since they take seconds: a mistake in the config has been answered before.
    from lit_modules import startup, training

    with run:
        scaled = startup.prepare(run)
        datamodule = training.make_datamodule(scaled)
        module = training.make_module(scaled, run, datamodule)
        trainer = training.make_trainer(scaled, run)
        startup.announce(cfg, run, module, trainer)
        trainer.fit(module, datamodule, ckpt_path=run.checkpoint, weights_only=True)
        return training.finish(run, module, datamodule, trainer)


if __name__ == "__main__":
    runs.register_resolvers()
    settings.explain_command_line("train")
    main()
