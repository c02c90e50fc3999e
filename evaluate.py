"""Score a checkpoint, or a results file, on a data set.

python evaluate.py checkpoint=runs/fcos-coco/TIME/checkpoints/best.ckpt
python evaluate.py checkpoint=best.ckpt data.root=/other/place
python evaluate.py checkpoint=best.ckpt data=coco data.root=/data/coco split=val
python evaluate.py predictions=results.json data=coco data.root=/data/coco
python evaluate.py predictions=results.json data=coco data.root=/data/coco expect.AP=0.386 expect.tolerance=0.002
"""

from omegaconf import DictConfig

from boxwright import frame
from boxwright.config import from_checkpoint
from boxwright.config.check import check
from boxwright.evaluate.data import refuse_incomplete
from boxwright.runs.log import is_rank_zero


@frame.command("evaluate", completion=from_checkpoint.data_set)
def main(cfg: DictConfig) -> float | None:
    """Score, save, print, and return AP, or top-1 of a classifier."""
    check(cfg)
    refuse_incomplete(cfg)

    # Imported only now, since they take seconds: a mistake in the config has been answered before.
    from boxwright.evaluate.score import end, save, score_checkpoint, score_results, show, write_report

    frame.quieten()
    scored = score_checkpoint(cfg) if cfg.predictions is None else score_results(cfg)
    if is_rank_zero():
        save(scored)
        show(scored)
        write_report(scored)
        end(scored)
    return scored.main_score


if __name__ == "__main__":
    main()
