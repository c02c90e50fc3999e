"""Other projects' names of tensors turned into ours: every tensor is taken, or left out for a stated reason."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern that matches the whole name there, and the name here, as in `re.sub`."""
Reason = tuple[str, str]
"""A pattern that matches the whole name of a tensor that is left out, and why it is."""

COUNTER: Reason = (r".+\.num_batches_tracked", "a counter, which nothing reads")


@dataclass(frozen=True)
class Mapped:
    """The tensors of a file by the names that they have in one of our networks."""

    state: dict[str, Tensor]
    left_out: dict[str, str]
    """Why each other tensor of the file, by its name there, has no place."""

    def change(self, state: Mapping[str, Tensor]) -> "Mapped":
        """The same with some tensors added or replaced."""
        return Mapped({**self.state, **state}, self.left_out)


def rename(state: Mapping[str, Tensor], rules: Sequence[Rule], reasons: Sequence[Reason] = ()) -> Mapped:
    """Renames every tensor by the first rule that matches its name.

    ValueError for names that no rule knows, and for two tensors that would get one name.
    """
    mapped, unknown = Mapped({}, {}), list[str]()
    for name, value in state.items():
        if (reason := next((why for pattern, why in reasons if re.fullmatch(pattern, name)), None)) is not None:
            mapped.left_out[name] = reason
            continue
        rule = next((rule for rule in rules if re.fullmatch(rule[0], name)), None)
        if rule is None:
            unknown.append(name)
            continue
        ours = re.sub(f"^(?:{rule[0]})$", rule[1], name)
        if ours in mapped.state:
            raise ValueError(f"{name} is {ours} here, as another tensor of the file is")
        mapped.state[ours] = value
    if unknown:
        some = ", ".join(unknown[:5]) + (f", ... ({len(unknown)} in all)" if len(unknown) > 5 else "")
        raise ValueError(f"{len(unknown)} of its {len(state)} tensors are none of this model: {some}")
    return mapped
