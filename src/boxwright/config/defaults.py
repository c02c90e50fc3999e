"""What Hydra has composed a config of: its files in their order, and the choices of groups. Imports nothing heavy."""

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

PRIMARY = "_primary"
"""Ends the name under which a primary config is known where a file of the same name hides it."""


class Entry(NamedTuple):
    """A file of a composed config."""

    path: str
    """Below a folder of the search path, without `.yaml`."""
    package: str
    """The key that its content lies under; empty for the root."""

    def inside(self, key: str) -> str | None:
        """A key of the composed config as the file has it; "" for all of the file, None for what lies elsewhere."""
        if not self.package or key == self.package:
            return "" if self.package else key
        return key.removeprefix(f"{self.package}.") if key.startswith(f"{self.package}.") else None


def entries(primary: str | None = None, lines: Sequence[str] = ()) -> list[Entry]:
    """Lists the files of a config, later ones before earlier ones: the first that has a key has set it.

    Of the config of this process, or of what a primary config and these overrides compose to.
    """
    listed = _listed() if primary is None else _list(primary, lines)
    found = (Entry(_without_ending(str(one.config_path)), str(one.package or "")) for one in listed.defaults)
    return [entry for entry in found if not entry.path.startswith("hydra/")][::-1]


def chosen_lists() -> dict[str, list[str]]:
    """Gives the choices of groups of which several files are chosen at once, as in `logger=[csv,wandb]`."""
    chosen = cast(dict[str, Any], _listed().overrides.override_choices)
    return {
        group: [str(one) for one in cast("Sequence[Any]", value)]
        for group, value in chosen.items()
        if isinstance(value, Sequence) and not isinstance(value, str)
    }


def _listed() -> Any:
    return _list(str(HydraConfig.get().job.config_name), [*_given("hydra"), *_given("task")])


def _given(kind: str) -> list[str]:
    """The overrides of Hydra's own settings or of the script's, interpolations as they are written."""
    return cast(dict[str, list[str]], OmegaConf.to_container(HydraConfig.get().overrides))[kind]


def _list(primary: str, lines: Sequence[str]) -> Any:
    return _listed_by(GlobalHydra.instance().config_loader(), primary, *lines)


@lru_cache(8)  # each origin of a message asks for it
def _listed_by(loader: ConfigLoader, primary: str, *lines: str) -> Any:
    return loader.compute_defaults_list(primary, list(lines), RunMode.RUN)


def with_choices(primary: Path, choices: dict[str, str]) -> DictConfig:
    """Composes a primary config with choices of groups, and nothing else.

    It is taken from its file, since another one of the same name may come before it on the search path.
    """
    hydra: Any = HydraConfig.get()
    searched = [line for line in _given("hydra") if line.startswith("hydra.searchpath=")]
    in_file = [one for one in hydra.runtime.config_sources if one.provider == "hydra.searchpath in main"]
    if in_file and not searched:
        places = (f"{one.schema}://{one.path}".replace("'", r"\'") for one in in_file)
        quoted = ",".join(f"'{place}'" for place in places)
        searched = [f"hydra.searchpath=[{quoted}]"]
    try:
        return _composed(primary, *searched, *_lines(choices))
    except HydraException:  # a choice that the primary config does not have by itself, which a recipe has added
        return _composed(primary, *searched, *_lines(_its_own(primary, searched, choices)))


def _its_own(primary: Path, searched: list[str], choices: dict[str, str]) -> dict[str, str]:
    """Picks the choices of groups that a primary config has, or files that it chooses."""
    own: dict[str, str] = {}
    while True:
        known = _list(_stored(primary), [*searched, *_lines(own)]).overrides.known_choices.keys() | own.keys()
        more = {group: choice for group, choice in choices.items() if group in known}
        if more == own:
            return own
        own = more


def _lines(choices: dict[str, str]) -> list[str]:
    return [f"{group}={choice}" for group, choice in choices.items()]


@cache  # the check and the log ask for the same one, and composing takes a tenth of a second
def _composed(primary: Path, *lines: str) -> DictConfig:
    cfg = compose(_stored(primary), list(lines))
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _stored(primary: Path) -> str:
    name = f"{primary.stem}{PRIMARY}"
    ConfigStore.instance().store(name, OmegaConf.load(primary), provider="boxwright")
    return name


def _without_ending(path: str) -> str:
    return path.removesuffix(".yaml").removesuffix(".yml")
