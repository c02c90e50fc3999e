"""What is said of the annotations of a split before they are used, and what is refused."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal, SupportsIndex

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.errors import DataError
from datamodules.findings import Findings
from datamodules.images import shown
from evaluation.wording import counted

_LISTED = 10  # images that do not exist


Explain = Callable[[str, Sequence[str]], str]
"""Where the image files of a split that do not exist lie instead, by the split's name and their paths."""


def report(name: str, found: Findings, on_error: Literal["raise", "skip"], check_boxes: bool, explain: Explain) -> None:
    """Warns of what was found in the annotations of a split; DataError where it is refused."""
    doubts = found.doubts if check_boxes else []
    if found.counts and on_error == "raise":
        gone = [path for path in found.depends_on if not os.path.exists(path)]  # whose size was to be read
        raise DataError("\n".join([f"split {name!r}: {found}{explain(name, gone)}", *doubts]))
    if found.refused and check_boxes:
        raise DataError(f"split {name!r}: {'; '.join(found.refused)}. If they are right so, set data.check_boxes=false")
    if found.counts:
        rank_zero_warn(f"split {name!r}, skipped: {found}")
    if found.filled:
        filled = ", ".join(f"{key} {counted(count, 'time')}" for key, count in found.filled.items())
        rank_zero_warn(f"split {name!r} lacks, and was filled in: {filled}")
    for doubt in doubts:
        end = "" if doubt.endswith("?") else "."
        rank_zero_warn(f"split {name!r}, {doubt}{end} Look at its boxes with inspect_data.py")
    for note in (*found.notes, *found.remarks()):
        rank_zero_warn(f"split {name!r}, {note}")


def report_missing(
    name: str, missing: list[str], number: int, on_error: Literal["raise", "skip"], explain: Explain
) -> None:
    """Warns of image files that do not exist; DataError where none does, or `on_error` says so."""
    if not missing:
        return
    if len(missing) == number:
        none = f"none of the {number} images of split {name!r} exists; the first"
        if number == 1:
            none = f"the one image of split {name!r} does not exist; it"
        raise DataError(
            f"{none} would be {_named(missing[0])}. Check data.root, where its images lie, and that its disk is "
            f"mounted{explain(name, missing)}"
        )
    listed = "".join(f"\n  {_named(path)}" for path in missing[:_LISTED])
    listed += f"\n  ... {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
    listed += explain(name, missing)
    found = f"split {name!r}, missing image files: {len(missing)} of {number}"
    if on_error == "raise":
        remedy = "Restore them, remove them from the annotations, or set data.on_error=skip to skip them"
        raise DataError(f"{found}{listed}\n{remedy}")
    rank_zero_warn(f"{found}; they count for nothing{listed}")


def _named(path: str) -> str:
    """A file that does not exist; of a link also what it leads to."""
    link = f", a link to {shown(os.readlink(path))}, which does not exist" if os.path.islink(path) else ""
    return f"{shown(path)}{link}"


def refuse_doubles(name: str, image_ids: np.ndarray) -> None:
    """DataError where a split that is scored has an image id twice."""
    unique, counts = np.unique(image_ids, return_counts=True)
    doubled = unique[counts > 1]
    if len(doubled):
        raise DataError(
            f"split {name!r} has {counted(len(doubled), 'image id')} more than once, e.g. {doubled[0]}; evaluation "
            "scores each image once: join splits that have no id in common"
        )


def why_no_box(number: SupportsIndex, left_out: Mapping[str, SupportsIndex], findings: Findings) -> str:
    """Says why none of a split's `number` boxes is left, of which `left_out` tells kinds and counts."""
    reasons = [f"{count} {what}" for what, count in left_out.items() if count]
    if skipped := all_skipped(findings):
        reasons.append(skipped)
    if not reasons:
        return "its images have no annotation; check that the file is the right one and whole, and data.annotations"
    what = counted(number, "annotation") if number else "no sound annotation"
    return f"it has {what} for its images: {'; '.join(reasons)}"


def all_skipped(findings: Findings) -> str:
    """How many entries are skipped, by the rules that they break; empty where there are none."""
    rules = ", ".join(f"{rule}: {count}" for rule, count in Counter(findings.counts).most_common())
    return f"{sum(findings.counts.values())} skipped as data.on_error=skip has it ({rules})" if rules else ""


def with_sentence(sentence: str, message: str) -> str:
    """Adds a sentence to the first line of a message."""
    first, *others = message.split("\n")
    return "\n".join([f"{first}. {sentence}", *others])


def refuse_unknown_classes(names: Sequence[str], legal: Collection[str], annotated: Sequence[str]) -> None:
    """DataError for one of `data.classes` that is not among the `legal` names; `annotated` are those to choose from."""
    for name in names:
        if name not in legal:
            near = get_close_matches(name, legal, 1)
            raise DataError(
                f"data.classes names {name!r}, which the annotations do not have"
                + (f"; did you mean {near[0]!r}?" if near else f"; they have {list(annotated)}")
            )
