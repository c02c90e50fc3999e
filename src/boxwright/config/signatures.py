"""The parameters that a `_target_` of this project, or of a package that the user trusts, accepts.

They are read from the source: importing it would take seconds.
"""

import ast
import re
import types
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin

from boxwright.config.trusted import users_packages

SOURCE = Path(__file__).parents[2]

Definition = ast.ClassDef | ast.FunctionDef | ast.expr

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "a path",
    type(None): "null",
    list: "a list",
    dict: "a mapping",
    Any: "anything",
}


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value from YAML has a type. An integer is a number, a bool is neither."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return any(accepts(one, value) for one in inner)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if origin in (list, Sequence, tuple):
        if not isinstance(value, list):
            return False
        items = cast(list[Any], value)
        if origin is tuple and inner and inner[-1] is not ...:
            return len(items) == len(inner) and all(map(accepts, inner, items))
        return not inner or all(accepts(inner[0], item) for item in items)
    if origin in (dict, Mapping):
        return isinstance(value, dict)
    if origin in (int, float):
        return isinstance(value, int if origin is int else (int, float)) and not isinstance(value, bool)
    if origin in (str, Path):
        return isinstance(value, str)
    return kind is Any or isinstance(value, cast(type, kind))


def describe(kind: Any) -> str:
    """Describes a type in words."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, inner))
    if origin is Literal:
        return " or ".join("null" if choice is None else str(choice) for choice in inner)
    if origin is tuple and inner and inner[-1] is not ...:
        return f"a list of {len(inner)}: {', '.join(map(describe, inner))}"
    if origin in (list, Sequence, tuple):
        return f"a list, each {describe(inner[0])}" if inner else _WORDS[list]
    return _WORDS[dict if origin is Mapping else origin]


def words(kind: Any) -> list[str]:
    """Lists the words that a type allows."""
    if get_origin(kind) is Literal:
        return [choice for choice in get_args(kind) if isinstance(choice, str)]
    return [word for one in get_args(kind) for word in words(one)]


def parameters(target: str) -> dict[str, Any] | None:
    """Maps the names of a constructor's or function's parameters to their types; None for another project's.

    Raises LookupError where a package of this project, or one that the user trusts, has no such class or function.
    """
    module, _, name = target.rpartition(".")
    if not is_ours(target) and not _is_users(target):
        return None
    found = _find(module, name)
    if found is None or isinstance(found[1], ast.expr):
        raise LookupError(target)
    return _parameters(found[0], found[1])


def inherits(target: str, base: str) -> bool:
    """Whether a `_target_` is a class of this project or of the user's, and is or derives from `base`.

    `base`: its own module and name, such as datamodules.voc.VocDataModule.
    """
    module, _, name = target.rpartition(".")
    found = _find(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return False
    if f"{found[0]}.{found[1].name}" == base:
        return True
    return any(inherits(f"{found[0]}.{ast.unparse(node)}", base) for node in found[1].bases)


def class_constant(target: str, name: str, default: Any) -> Any:
    """Reads the literal that a class of this project or of the user's, or the nearest of its bases, assigns to `name`
    in its body; `default` where none does, or there is no source."""
    module, _, class_name = target.rpartition(".")
    found = _find(module, class_name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return default
    for node in found[1].body:
        match node:
            case ast.AnnAssign(ast.Name(assigned), _, ast.expr() as value) if assigned == name:
                return _literal(value, f"{target}.{name}")
            case ast.Assign([ast.Name(assigned)], value) if assigned == name:
                return _literal(value, f"{target}.{name}")
            case _:
                pass
    for base in found[1].bases:
        inherited = class_constant(f"{found[0]}.{ast.unparse(base)}", name, None)
        if inherited is not None:
            return inherited
    return default


def _literal(value: ast.expr, where: str) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        raise ValueError(
            f"{where} = {ast.unparse(value)}: it is read from the source, before anything is imported; "
            "write it as a literal"
        ) from error


def is_ours(target: str) -> bool:
    return (SOURCE / target.partition(".")[0]).is_dir()


def _is_users(target: str) -> bool:
    return f"{target}.".startswith(tuple(f"{package}." for package in users_packages()))


def constant(module: str, name: str) -> Any:
    """Reads a literal that is assigned at the top of a module."""
    found = _find(module, name)
    assert found is not None
    return ast.literal_eval(found[1])


def _parameters(module: str, node: ast.ClassDef | ast.FunctionDef) -> dict[str, Any]:
    if isinstance(node, ast.FunctionDef):
        arguments = node.args.args + node.args.kwonlyargs
        return {a.arg: _kind(a.annotation, module) for a in arguments if a.arg != "self"}
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    constructor = methods.get("__init__")
    own = _parameters(module, constructor) if constructor else _fields(module, node)
    if constructor is None or constructor.args.kwarg:  # a base class takes the rest
        for base in node.bases:
            found = _find(module, ast.unparse(base))
            if found is not None and isinstance(found[1], ast.ClassDef):
                own = _parameters(found[0], found[1]) | own
    return own


def _fields(module: str, node: ast.ClassDef) -> dict[str, Any]:
    """Maps the fields of a dataclass to their types."""
    fields: dict[str, Any] = {}
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and not re.search(r": ClassVar|init=False", ast.unparse(item)):
                fields[ast.unparse(item.target)] = _kind(item.annotation, module)
    return fields


def _kind(annotation: ast.expr | None, module: str) -> Any:
    """Evaluates an annotation; a type without counterpart in YAML (a module, a callable) is Any."""
    if annotation is None:
        return Any
    try:
        return eval(compile(ast.Expression(annotation), "annotation", "eval"), {}, _Names(module))
    except (AttributeError, TypeError):  # nn.Module, Callable[..., X]: nn and Callable became Any
        return Any


class _Names(dict[str, Any]):
    """Names that annotations use: types that YAML has, and a module's own aliases."""

    def __init__(self, module: str) -> None:
        known = (bool, int, float, str, Path, list, tuple, dict, Sequence, Mapping, Any)
        super().__init__({kind.__name__: kind for kind in known} | {"Literal": Literal})
        self.module = module

    def __missing__(self, name: str) -> Any:
        found = _find(self.module, name)
        return _kind(found[1], found[0]) if found is not None and isinstance(found[1], ast.expr) else Any


def _file(module: str) -> Path:
    """Finds the source file of a module; where there is none, a path that does not exist."""
    top, *below = module.split(".")
    root = SOURCE / top
    spec = None if root.is_dir() or not _is_users(module) else find_spec(top)  # which does not import it
    if spec is not None:
        root = Path(spec.submodule_search_locations[0] if spec.submodule_search_locations else str(spec.origin))
        if not below and root.suffix == ".py":
            return root
    folder = root.joinpath(*below)
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


@cache
def _find(module: str, name: str) -> tuple[str, Definition] | None:
    """Finds the definition of a name at the top of a module, and the module that defines it."""
    file = _file(module)
    for node in ast.parse(file.read_text()).body if file.exists() else ():
        match node:
            case ast.ClassDef() | ast.FunctionDef() if node.name == name:
                return module, node
            case ast.Assign([ast.Name(assigned)], value) if assigned == name:
                return module, value
            case ast.ImportFrom(str(source), aliases):
                for alias in aliases:
                    if (alias.asname or alias.name) == name:
                        return _find(source, alias.name)
            case _:
                pass
    return None
