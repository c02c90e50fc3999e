"""Publish a checkpoint on the Hugging Face Hub, with a card made from what it holds.

python push.py checkpoint=runs/NAME/TIME/checkpoints/best.ckpt repo=USER/REPO license=apache-2.0 dry_run=true
python push.py checkpoint=best.ckpt repo=USER/REPO license=apache-2.0 dataset=USER/DATA private=true
"""

from omegaconf import DictConfig

from boxwright import frame
from boxwright.config.check import check
from boxwright.push.command import refuse_unpublishable


@frame.command("push")
def main(cfg: DictConfig) -> None:
    """Make card, config and a checkpoint without private parts, and upload them, or keep them in a dry run."""
    check(cfg)
    refuse_unpublishable(cfg)

    # Imported only now, since they take seconds: a mistake in the config has been answered before.
    from boxwright.push.package import keep, packed
    from boxwright.push.upload import find_repository, upload

    frame.quieten()
    repository = None if cfg.dry_run else find_repository(cfg)
    with packed(cfg) as package:
        if repository is None:
            keep(package)
        else:
            upload(package, repository)


if __name__ == "__main__":
    main()
