"""Addresses of checkpoints on the Hugging Face Hub: `hf://USER/REPO[@REVISION][/FILE]`. Imports nothing heavy."""

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from boxwright.config.errors import ConfigError

FILE = "model.ckpt"
"""The file that push.py writes, and that an address without a file means."""
FORMS = "hf://USER/REPO, hf://USER/REPO@REVISION or hf://USER/REPO/FILE"
REPO = re.compile(r"\w[\w.-]{0,95}/\w(?:[\w.-]{0,94}\w)?", re.ASCII)
"""USER/NAME, or ORGANIZATION/NAME."""
_ADDRESS = re.compile(
    r"hf:/{1,2}(?:models/)?(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert/[\w.-]+|pr/\d+)|[^/@]+))?"
    r"(?:/(?P<file>.+))?"
)  # a single slash is what is left of one that was made a Path
_KINDS = ("datasets", "spaces", "buckets", "kernels")
_PACKAGE = "huggingface_hub"


@dataclass(frozen=True)
class Address:
    """A file of a model's repository; without a revision that of its main branch."""

    repo: str
    revision: str | None = None
    file: str = FILE

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self._quoted(self.revision)}"
        return f"hf://{self.repo}{revision}{'' if self.file == FILE else f'/{self.file}'}"

    def at(self, commit: str) -> "Address":
        """The same file at a commit, where it never changes."""
        return replace(self, revision=commit)

    @staticmethod
    def _quoted(revision: str) -> str:
        return revision if revision.startswith("refs/") else revision.replace("/", "%2F")


def is_address(checkpoint: object) -> bool:
    """Whether a checkpoint is meant to lie on the Hub, also where its address is malformed."""
    return str(checkpoint).startswith("hf:/")


def address_of(checkpoint: str | Path, key: str = "") -> Address:
    """Parses an address; ConfigError for a malformed one. `key` is the setting that names it, if one is known."""
    if problem := address_problem(key, checkpoint):
        raise ConfigError(problem)
    match = _ADDRESS.fullmatch(str(checkpoint))
    assert match is not None
    revision = match["revision"]
    return Address(match["repo"], None if revision is None else unquote(revision), match["file"] or FILE)


def address_problem(key: str, checkpoint: str | Path) -> str:
    """Says what is wrong with an address, or that the package that reads it is not installed; empty if nothing is."""
    match, named = _ADDRESS.fullmatch(str(checkpoint)), f"{key}={checkpoint}" if key else str(checkpoint)
    if match is not None and match["repo"].partition("/")[0] in _KINDS:
        return f"{named}: a checkpoint lies in the repository of a model; expected {FORMS}"
    parts = ((match["file"] or "x") if match else "").split("/")
    if match is None or not is_repo(match["repo"]) or not all(part.strip(".") for part in parts):
        return f"{named}: expected {FORMS}"
    return package_problem(named)


def is_repo(name: str) -> bool:
    """Whether the Hub takes it for the name of a repository."""
    plain = REPO.fullmatch(name) is not None and "--" not in name and ".." not in name
    return plain and not name.endswith(".git")


def package_problem(what: str) -> str:
    """Says how to install the package that speaks with the Hub; empty where it is."""
    if find_spec(_PACKAGE) is not None:
        return ""
    return (
        f"{what}: the package {_PACKAGE} is not installed; pip install 'boxwright[hub]', or pip install -e '.[hub]' in "
        "the project's folder"
    )
