"""`KeepsArguments`: objects that remember what they were made with, so that a checkpoint can say how to make them."""

from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any, TypeVar

T = TypeVar("T")  # not Self, which the type check of the tests can't follow


class KeepsArguments:
    """Keeps the arguments of its constructor by name, defaults included, in `arguments`."""

    arguments: dict[str, Any]

    def __new__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        made = object.__new__(cls)
        try:
            kept = _defaults(cls) | _named(cls.__mro__, args) | kwargs
        except TypeError:  # the constructor says it better
            kept = {}
        vars(made)["arguments"] = kept  # not by a setter of `nn.Module`, which would take a backbone for a part
        return made


def _defaults(cls: type[Any]) -> dict[str, Any]:
    parameters = signature(cls.__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not Parameter.empty}


def _named(classes: Sequence[type[Any]], args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional arguments by name; those that a constructor takes as *args by the names that its base has for them."""
    place = next(i for i, cls in enumerate(classes) if "__init__" in vars(cls))
    constructor = signature(vars(classes[place])["__init__"])
    bound = constructor.bind_partial(None, *args).arguments
    named: dict[str, Any] = {}
    for name, value in list(bound.items())[1:]:
        is_rest = constructor.parameters[name].kind is Parameter.VAR_POSITIONAL
        named |= _named(classes[place + 1 :], value) if is_rest else {name: value}
    return named
