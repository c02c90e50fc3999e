"""Commands that let annotations and files agree again whose names differ."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from datamodules.layouts.layout import for_shell
from datamodules.nearest import QUERY, QUOTES, Near

RENAMED = "_names"
"""Behind the stem of an annotation file that is written anew."""


def moved(near: Near, root: Path) -> str:
    """The end of a message: the command that puts the found file, or its folder, where the missing one should be.

    Empty where that is not below `root`."""
    if not Path(near.missing).is_relative_to(root) or not near.missing.isprintable():
        return ""
    (there, name), (here, other) = os.path.split(near.missing), os.path.split(near.found)
    if name == other and not os.path.lexists(there):
        return f", so\n  ln -s {shlex.quote(os.path.relpath(here, os.path.dirname(there)))} {shlex.quote(there)}"
    make = "" if os.path.isdir(there) else f"mkdir -p {shlex.quote(there)} && "
    return f", the first by\n  {make}mv -n {shlex.quote(near.found)} {shlex.quote(near.missing)}"


def without_folders(near: Near, missing: Sequence[str], files: Sequence[str]) -> str:
    """The command that writes COCO files anew, with `_names` behind their stems, in which each `file_name` is a name
    alone; empty where some missing file would still not be found in the folder of the one that was."""
    folder = os.path.dirname(near.found)
    if not all(os.path.isfile(os.path.join(folder, _name(path, near))) for path in missing):
        return ""
    name = "i['file_name']"
    name = f"{name}.partition('?')[0]" if QUERY in near.causes else name
    name = f"u.unquote({name})" if QUOTES in near.causes else name
    program = (
        "import json, pathlib as p, urllib.parse as u; [(d := json.loads(f.read_bytes()), "
        f"[i.update(file_name=p.PureWindowsPath({name}).name) for i in d['images']], "
        f"f.with_stem(f.stem + '{RENAMED}').write_text(json.dumps(d))) for f in map(p.Path, {list(files)})]"
    )
    return f"python -c {for_shell(program)}"


def _name(path: str, near: Near) -> str:
    path = path.partition("?")[0] if QUERY in near.causes else path
    return PureWindowsPath(unquote(path) if QUOTES in near.causes else path).name
