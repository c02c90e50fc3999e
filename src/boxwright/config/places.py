"""Where the files of a config are looked for: `--config-path`, `--config-dir`, `--config-name` and `hydra.searchpath`.

conf/ is always searched: behind the folder of `--config-path`, and before the others. Imports nothing heavy.
"""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from boxwright.config import files
from boxwright.config.hydra_internals import get_args_parser
from boxwright.config.recipes import read, unreadable

_SEARCHPATH = "hydra.searchpath"
_behind: list[Path] = []
"""Searched behind the folder of the primary config."""


class Arguments(Namespace):
    """Parsed options and overrides; keeps every value that an option is given."""

    def __init__(self) -> None:
        super().__init__()
        self.every: dict[str, list[Any]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name != "every" and value is not None:
            self.every.setdefault(name, []).append(value)


def parsed(argv: Sequence[str]) -> Any:
    """Parses options and overrides in any order."""
    return get_args_parser().parse_intermixed_args(argv, Arguments())


def in_order(argv: Sequence[str]) -> list[str]:
    """Puts the options before the overrides, which the parser of Hydra takes in one piece only, and the processes of
    other ranks get more of; makes the folder of `--config-path` absolute."""
    arguments = parsed(argv)
    options = list(argv)
    for line in reversed(arguments.overrides):
        del options[len(options) - 1 - options[::-1].index(line)]
    if arguments.config_path and not arguments.config_path.startswith("pkg://"):
        options.append(f"--config-path={_main(arguments.config_path)}")
    if arguments.info:  # whose value may be left out, and would be the next word
        options.append(f"--info={arguments.info}")
    return [*options, *arguments.overrides]


class ConfSearched(SearchPathPlugin):
    """Lets Hydra find conf/ and the folder of `--config-dir` wherever the primary config lies."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        there = [_folder(entry.path) for entry in search_path.get_path() if entry.path]
        for folder in _behind:
            if folder.absolute() not in (found.absolute() for found in there if found is not None):
                search_path.append("boxwright", f"file://{folder.absolute()}")


def use_places(script: str, argv: Sequence[str]) -> list[str]:
    """Makes `files` and Hydra search where a command line says; returns what is wrong with that."""
    arguments = parsed(argv)
    if problems := list(_repeated(arguments)) or list(_missing(arguments)):
        return problems
    main = _main(arguments.config_path) if arguments.config_path else files.CONF
    own = [] if arguments.config_dir is None else [Path(arguments.config_dir)]
    _behind[:] = [files.CONF, *own]
    Plugins.instance().register(ConfSearched)
    name = arguments.config_name or script
    files.use_folders(script, _each_once((main, *_behind)))
    primary = files.find_file("", name)
    if not primary.is_file():
        return [f"--config-name={name}: {_no_primary(name)}"]
    if arguments.config_name is None and (hidden := files.hidden_file("", script)):
        return [
            f"{files.name_file(hidden)} is not read, since {files.name_file(primary)} comes first: give it another "
            "name, and --config-name=NAME"
        ]
    if not files.is_shipped(primary) and (said := unreadable(primary)):
        return [said]
    entries, origin = _searchpath(arguments.overrides, primary)
    searched = [(entry, folder) for entry in entries if (folder := _folder(entry)) is not None]
    files.use_folders(script, _each_once((main, *_behind, *(folder for _, folder in searched))))
    return [
        f"{_SEARCHPATH} ({origin}): {entry}: {folder.absolute()} is not a folder"
        for entry, folder in searched
        if not folder.is_dir()
    ]


def is_changed() -> bool:
    """Whether more than conf/ is searched."""
    return files.folders() != [files.CONF]


def _repeated(arguments: Any) -> Iterator[str]:
    for option in ("config_path", "config_dir", "config_name"):
        values: list[str] = arguments.every.get(option, [])
        if len({_main(value) if option == "config_path" else value for value in values}) > 1:
            yield (
                f"{' '.join(f'{_flag(option)}={value}' for value in values)}: only the last would count; give one, and "
                f"further folders by '{_SEARCHPATH}=[FOLDER,FOLDER]'"
            )


def _missing(arguments: Any) -> Iterator[str]:
    """Yields what is wrong with folders that are none."""
    for option in ("config_path", "config_dir"):
        if getattr(arguments, option) is None:
            continue
        value: str = arguments.every[option][0]  # as it was given, see `in_order`
        path, given = _main(value) if option == "config_path" else Path(value), f"{_flag(option)}={value}"
        if not value:
            yield f"{given}: expected a folder with model/, data/ or experiment/ in it"
        elif path.is_file():
            remedy = f"--config-path={path.parent} --config-name={path.stem}"
            if path.parent.name == "experiment":
                remedy = f"--config-dir={path.parent.parent} experiment={path.stem}"
            yield f"{given}: {path.absolute()} is a file, not a folder; give {remedy}"
        elif not path.is_dir():
            missing = next(part for part in (*path.absolute().parents[::-1], path.absolute()) if not part.is_dir())
            near = files.nearest(missing.name, [there.name for there in missing.parent.iterdir() if there.is_dir()])
            yield f"{given}: {missing} is not a folder{near}"


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _main(value: str) -> Path:
    """Finds the folder of `--config-path`: below the working folder, or else, as Hydra has it, beside the scripts."""
    if value.startswith("pkg://"):
        return _folder(value) or Path(value)
    beside = files.CONF.parent / value
    return Path(value).absolute() if Path(value).exists() or not beside.is_dir() else beside


def _no_primary(name: str) -> str:
    known = sorted({file.stem for folder in files.folders() for file in folder.glob("*.yaml")})
    searched = ", ".join(map(files.name_file, files.folders()))
    return f"there is no {name.removesuffix('.yaml')}.yaml in {searched}{files.nearest(name, known)}"


def _searchpath(overrides: Iterable[str], primary: Path) -> tuple[list[str], str]:
    """Gives the entries of `hydra.searchpath`, and where they are set."""
    for line in overrides:
        if line.partition("=")[0] == _SEARCHPATH:
            try:
                value = OverridesParser.create().parse_override(line).value()
            except HydraException:
                return [], ""
            return [str(one) for one in value] if isinstance(value, list) else [], f"command line, {line}"
    try:
        value = OmegaConf.select(OmegaConf.create(read(primary)), _SEARCHPATH)
    except OmegaConfBaseException:
        return [], ""
    return [str(one) for one in value] if OmegaConf.is_list(value) else [], files.name_file(primary)


def _folder(entry: str) -> Path | None:
    """Finds the folder of an entry of Hydra's search path; None where it is none, or not known."""
    kind, separator, rest = entry.rpartition("://")
    if not separator or kind == "file":
        return Path(rest)
    if kind != "pkg" or rest.startswith("hydra."):
        return None
    top, *below = rest.replace("/", ".").split(".")
    spec = find_spec(top) if top else None
    places = (spec.submodule_search_locations if spec is not None else None) or ()
    return next((Path(place, *below) for place in places), None)


def _each_once(folders: Iterable[Path]) -> list[Path]:
    unique: dict[Path, Path] = {}
    for folder in folders:
        unique.setdefault(folder.resolve(), folder)
    return list(unique.values())
