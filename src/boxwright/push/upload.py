"""The repository on the Hub that a package goes to: looked up before the work, made and filled after it."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import get_session, hf_raise_for_status
from omegaconf import DictConfig

from boxwright.config.errors import ConfigError, few
from boxwright.push.package import FILES, Package
from boxwright.zoo.address import Address
from boxwright.zoo.hub import TIMEOUT, endpoint, refusal
from evaluation.files import FULL

log = logging.getLogger(__name__)


class Repository(NamedTuple):
    """A model's repository, which may not be there yet."""

    name: str
    exists: bool
    private: bool
    """Of one that is made."""


def find_repository(cfg: DictConfig) -> Repository:
    """Asks the Hub for the repository; ConfigError where it can't be asked, or files would be replaced unasked."""
    try:
        with _refused(cfg.repo):
            info = HfApi(endpoint=endpoint()).model_info(cfg.repo, timeout=TIMEOUT)
    except _AbsentError:
        return Repository(cfg.repo, exists=False, private=cfg.private)
    there = [file.rfilename for file in info.siblings or () if file.rfilename in FILES]
    if there and not cfg.overwrite:
        raise ConfigError(
            f"repo={cfg.repo} has {few(there)} already (commit {info.sha}): overwrite=true replaces them in a new "
            f"commit, and hf://{cfg.repo}@{info.sha} keeps meaning the old ones"
        )
    return Repository(cfg.repo, exists=True, private=cfg.private)


def upload(package: Package, repository: Repository) -> None:
    """Commits all files of a package at once; a repository that is not there is made first."""
    api = HfApi(endpoint=endpoint())
    with _refused(repository.name):
        _refuse_invalid(package.card)
    made = ""
    try:
        with _refused(repository.name):
            if not repository.exists:
                api.create_repo(repository.name, private=repository.private)
                made = "; the repository is there now, and empty: run the command again, or delete it on its page"
            files = [CommitOperationAdd(name, package.folder / name) for name in FILES]
            commit = api.create_commit(repository.name, files, commit_message="Checkpoint and card from Boxwright")
    except (ConfigError, _AbsentError) as error:
        raise ConfigError(f"{error}{made}") from error
    package.tell()
    log.info("uploaded to %s: %s", f"{endpoint()}/{repository.name}", ", ".join(FILES))
    log.info("checkpoint=%s", Address(repository.name))
    log.info("checkpoint=%s  this commit for good", Address(repository.name).at(commit.oid))


def _refuse_invalid(card: str) -> None:
    """ConfigError where the Hub finds the card's metadata invalid, before anything is made.

    `ModelCard.validate` asks the same, but in some versions always the public Hub.
    """
    asked = {"content": card, "repoType": "model"}
    answer = get_session().post(f"{endpoint()}/api/validate-yaml", json=asked, timeout=TIMEOUT)
    if answer.status_code == 400:
        said = " ".join(str(error.get("message")) for error in answer.json().get("errors", ()))
        raise ConfigError(f"the Hub refuses the card: {said}. It has license= and dataset= as given")
    hf_raise_for_status(answer)


class _AbsentError(Exception):
    """There is no such repository, or the token's account does not see it; says so."""


@contextmanager
def _refused(repo: str) -> Generator[None]:
    """Turns what the Hub or the network refuses into a ConfigError."""
    try:
        yield
    except RepositoryNotFoundError as error:
        raise _AbsentError(f"repo={repo}: {refusal(repo, error)}") from error
    except ConfigError:
        raise
    except Exception as error:  # of huggingface_hub, or of the HTTP library that its version uses
        if getattr(error, "errno", None) in FULL:
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = "; the token must have write access to it" if status in (401, 403) else ""
        raise ConfigError(f"repo={repo}: {refusal(repo, error)}{remedy}. dry_run=true needs no network") from error
