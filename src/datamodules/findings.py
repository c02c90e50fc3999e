"""What is wrong, missing or odd in annotation files, in words and counts."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from evaluation.wording import counted

MAX_LISTED = 100
CORRECT = "correct or remove it"
Exif = Literal["auto", "apply", "ignore"]
_MEANS = {"apply": "turns images by their EXIF orientation", "ignore": "leaves images as stored"}


@dataclass
class Findings:
    """Entries of an annotation file that are skipped, and keys that were missing from it and filled in."""

    problems: list[str] = field(default_factory=list)
    """The first `MAX_LISTED`: where, what, which rule, what to do."""
    counts: Counter[str] = field(default_factory=Counter)
    """Every problem, by rule."""
    filled: Counter[str] = field(default_factory=Counter)
    """Keys that were absent, by name."""
    turns: Counter[str] = field(default_factory=Counter)
    """Images with an EXIF orientation, of those looked at: annotated "turned" or "stored", by their size, or "either"
    where the size does not tell."""
    seen: dict[str, tuple[int, str]] = field(default_factory=dict)
    """What is legal and may not be meant: how often, and where first."""
    refused: list[str] = field(default_factory=list)
    """Files whose boxes can't be pixels, which only data.check_boxes=false takes."""
    doubts: list[str] = field(default_factory=list)
    """Files whose boxes are likely of another form."""
    notes: list[str] = field(default_factory=list)
    """Odd entries, and what was made of them."""
    unlabelled: str = ""
    """What is lacking where images are listed without annotations, as of a test set; empty where they are there."""
    depends_on: dict[str, str] = field(default_factory=dict)
    """Fingerprints of the image files whose header was used, and of the folders whose listing was."""

    @property
    def exif(self) -> Literal["apply", "ignore"]:
        """What `data.exif=auto` means: how most images are annotated whose size tells it, `apply` where none does."""
        return "ignore" if self.turns["stored"] > self.turns["turned"] else "apply"

    def add(self, rule: str, where: str, remedy: str = CORRECT) -> None:
        self.counts[rule] += 1
        if len(self.problems) < MAX_LISTED:
            self.problems.append(f"{where}: {rule}; {remedy}, or set data.on_error=skip to skip it")

    def note(self, what: str, where: str) -> None:
        count, first = self.seen.get(what, (0, where))
        self.seen[what] = count + 1, first

    def remarks(self) -> list[str]:
        """Lists notes, and what is not sure about EXIF orientations, a line each."""
        lines = [f"{what}: {count}, first: {first}" for what, (count, first) in self.seen.items()]
        turned, stored, either = (self.turns[key] for key in ("turned", "stored", "either"))
        if turned and stored:
            lines.append(
                f"images annotated as their EXIF orientation turns them: {turned}, as they are stored: {stored}; each "
                f"is read as its size says, and like most where that doesn't tell: data.exif=auto {_MEANS[self.exif]}"
            )
        elif either and not turned and not stored:
            lines.append(
                "images with an EXIF orientation that no annotated size confirms (half turns, mirror images, squares): "
                f"{either}; they are turned, as viewers show them; if boxes were drawn on the stored pixels, set "
                "data.exif=ignore"
            )
        return lines

    def told(self) -> str:
        """Says what the annotated sizes tell about EXIF orientations; nothing where there are none to tell."""
        count = self.turns["stored" if self.exif == "ignore" else "turned"]
        return f"data.exif=auto {_MEANS[self.exif]} (annotated sizes that tell: {count})" if count else ""

    def __str__(self) -> str:
        """Lists the first ten problems and the counts of all."""
        total = sum(self.counts.values())
        lines = [f"  {line}" for line in self.problems[:10]]
        if total > len(lines):
            lines.append(f"  ... {total - len(lines)} more")
        kinds = ", ".join(f"{rule}: {count}" for rule, count in self.counts.most_common())
        return "\n".join([f"{counted(total, 'problem')} in the annotations ({kinds})", *lines])
