"""The command line of push.py. Imports nothing heavy, and nothing of the Hub's in a dry run."""

from pathlib import Path

from omegaconf import DictConfig

from boxwright.config.errors import ConfigError
from boxwright.zoo.address import is_repo, package_problem
from boxwright.zoo.names import is_named


def refuse_unpublishable(cfg: DictConfig) -> None:
    """Raises ConfigError where file, name of the repository, package or token is missing."""
    if problem := package_problem("push.py"):
        raise ConfigError(problem)
    if is_named(cfg.checkpoint):
        raise ConfigError(f"checkpoint={cfg.checkpoint} is published already; give a file, such as a run's best.ckpt")
    if not Path(cfg.checkpoint).is_file():
        raise ConfigError(f"checkpoint={cfg.checkpoint}: no such file, seen from {Path.cwd()}")
    if not is_repo(cfg.repo):
        raise ConfigError(
            f"repo={cfg.repo}: expected USER/REPO or ORGANIZATION/REPO, of letters, digits, _, - and . (no -- and ..)"
        )
    if not cfg.license.strip():
        raise ConfigError("license is empty; give that of the weights, such as license=apache-2.0, or license=other")
    if not cfg.dry_run:
        _refuse_without_token()


def _refuse_without_token() -> None:
    from huggingface_hub import get_token

    from boxwright.zoo.hub import LOGIN

    if get_token() is None:
        raise ConfigError(
            f"there is no token that may write to the Hub: {LOGIN}. dry_run=true needs none, and shows what would be "
            "uploaded"
        )
