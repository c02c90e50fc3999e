"""A file on the Hugging Face Hub as a file here: downloaded once to the cache of `huggingface_hub`, or found in it."""

# huggingface_hub's types are partial.
# pyright: reportUnknownVariableType=false

import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple, cast

from boxwright.config.errors import ConfigError, few
from boxwright.zoo.address import Address
from evaluation.files import FULL

log = logging.getLogger(__name__)

TIMEOUT = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", 5))
"""Seconds without a first answer."""
LOGIN = "set HF_TOKEN to a token of your account there, or log in once with `hf auth login`"
_WEIGHTS = (".ckpt", ".pt", ".pth", ".safetensors")


class Copy(NamedTuple):
    """A file here, and the address of its commit, which always means this content."""

    file: Path
    address: Address


def endpoint() -> str:
    """Where the Hub is: `huggingface_hub` reads HF_ENDPOINT, but only when it is first imported."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def local_copy(address: Address, key: str = "") -> Copy:
    """The file of an address, from the Hub, or from the cache where the Hub can't be reached or refuses it.

    Never asks for a login. ConfigError within seconds where it can't be had, with what was tried and what to do; `key`
    is the setting that names it, if one is known.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

    named = f"{key}={address}" if key else str(address)
    place: dict[str, Any] = {"revision": address.revision, "endpoint": endpoint()}
    if re.fullmatch("[0-9a-f]{40}", address.revision or "") and (file := _cached(address)) is not None:
        return Copy(file, address)
    try:
        # First this question alone: `hf_hub_download` repeats one without an answer for half a minute.
        get_hf_file_metadata(hf_hub_url(address.repo, address.file, **place), timeout=TIMEOUT)
        file = Path(cast(str, hf_hub_download(address.repo, address.file, etag_timeout=TIMEOUT, **place)))
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise ConfigError(f"{named}: {_lacking(address, error)}") from error
    except Exception as error:  # of huggingface_hub, or of the HTTP library that its version uses
        if getattr(error, "errno", None) in FULL:
            raise
        file = _cached(address)
        if file is None:
            raise ConfigError(f"{named}: {refusal(address.repo, error)}. {_by_hand(address)}") from error
        log.warning("%s: %s; read is the copy of an earlier download", address, refusal(address.repo, error))
    return Copy(file, address.at(_commit(file)))


def _cached(address: Address) -> Path | None:
    """The copy of an earlier download: of the commit that the revision was then."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(address.repo, address.file, revision=address.revision)
    return Path(found) if isinstance(found, str) else None


def _commit(file: Path) -> str:
    """The commit of a file in the cache: models--USER--REPO/snapshots/COMMIT/FILE."""
    parts = file.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def refusal(repo: str, error: Exception) -> str:
    """Says in a line why the Hub does not give or take a file."""
    from huggingface_hub import errors, get_token

    status = getattr(getattr(error, "response", None), "status_code", None)
    page, token = f"{endpoint()}/{repo}", get_token()
    if isinstance(error, errors.GatedRepoError):
        return f"the repository is gated: ask for access on its page, {page}, and {LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        unseen = "this token's account does not see it" if token else f"it is private: then {LOGIN}"
        return f"there is no repository {page}, or {unseen}"
    if status == 401:
        return f"{endpoint()} does not accept the token ({'HF_TOKEN' if 'HF_TOKEN' in os.environ else 'of the login'})"
    if status is not None:
        said = getattr(error, "server_message", None) or " ".join(str(error).split())[:300]
        return f"{endpoint()} answered {status} ({said})"
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    is_network = isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")
    return f"{endpoint()} {'could not be reached' if is_network else 'was asked in vain'} ({reason})"


def _by_hand(address: Address) -> str:
    from huggingface_hub import constants, hf_hub_url

    url = hf_hub_url(address.repo, address.file, revision=address.revision, endpoint=endpoint())
    return f"No copy is in {constants.HF_HUB_CACHE} either; fetch {url} by other means and give the file in its place"


def _lacking(address: Address, error: Exception) -> str:
    """Names what a repository lacks, and the files that it has."""
    from huggingface_hub import HfApi, errors

    if isinstance(error, errors.RevisionNotFoundError):
        return f"{address.repo} has no branch, tag or commit {address.revision!r}"
    said = f"{address.repo} has no file {address.file}" + (f" at {address.revision}" if address.revision else "")
    try:
        info = HfApi(endpoint=endpoint()).model_info(address.repo, revision=address.revision, timeout=TIMEOUT)
    except Exception:  # the answer is known without the list
        return said
    names = [file.rfilename for file in info.siblings or ()]
    there = [name for name in names if name.endswith(_WEIGHTS)] or names
    return f"{said}; it has {few(there)}: give hf://{address.repo}/FILE" if there else f"{said}, nor any other"
