"""Train a detector, then score its best checkpoint.

python train.py model=fcos data=coco data.root=/data/coco trainer.devices=8
python train.py experiment=shapes_demo
python train.py resume=last
python train.py -m data.resize=400,500,600,700,800 data.root=/data/coco
"""

from omegaconf import DictConfig

from boxwright import frame
from boxwright.config import from_checkpoint
from boxwright.runs.expected import score
from boxwright.runs.folder import open_run
from boxwright.runs.jobs import each_in_a_process


@frame.command("train", completion=from_checkpoint.start, jobs=each_in_a_process)
def main(cfg: DictConfig) -> float | None:
    """Fit, test, and return the monitored metric of the best checkpoint."""
    run = open_run(cfg)
    if run.results is not None:  # the same command once more, where the folder is fixed
        return score(run, run.results)

    # Imported only now, since they take seconds: a mistake in the config has been answered before.
    from boxwright.build import make_datamodule, make_module, make_run_trainer
    from boxwright.train.finish import finish
    from boxwright.train.start import announce, prepare

    with run:
        scaled = prepare(run)
        datamodule = make_datamodule(scaled)
        module = make_module(scaled, run, datamodule)
        trainer = make_run_trainer(scaled, run)
        announce(cfg, run, module, trainer)
        trainer.fit(module, datamodule, ckpt_path=run.checkpoint, weights_only=True)
        results = finish(run, module, datamodule, trainer)
    return score(run, results)


if __name__ == "__main__":
    main()
