"""The settings that every data set has, and what values they may have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from datamodules.decoding import Decoding
from datamodules.findings import Exif

_CHOICES = {
    "empty_images": ("keep", "drop"), "on_error": ("raise", "skip"), "exif": ("auto", "apply", "ignore"),
    "rounding": ("long_down", "down", "nearest"), "interpolation": ("area", "bilinear", "antialias"),
}  # fmt: skip


@dataclass(kw_only=True, eq=False, repr=False)
class DataSettings:
    """Settings of a data set; conf/data/_shared.yaml explains each. ValueError where one is out of its range."""

    train_split: str
    val_split: str
    test_split: str | None
    num_classes: int
    classes: Sequence[str] | None = None
    single_class: str | None = None
    resize: int = 800
    rule: Literal["short_side", "square"] = "short_side"
    max_side: int | None = None
    rounding: Literal["long_down", "down", "nearest"] = "long_down"
    interpolation: Literal["area", "bilinear", "antialias"] = "area"
    multi_scale: Sequence[float] | None = None
    flip: float = 0.5
    vertical_flip: float = 0.0
    augmentations: Mapping[str, Any] | None = None
    min_visibility: float = 0.0
    min_area: float = 0.0
    batch_size: int = 16
    eval_batch_size: int = 4
    empty_images: Literal["keep", "drop"] = "keep"
    min_box: float = 1.0
    repeat_threshold: float | None = None
    val_fraction: float | None = None
    exif: Exif = "auto"
    value_range: Sequence[float] | None = None
    on_error: Literal["raise", "skip"] = "raise"
    check_boxes: bool = True
    """Refuse boxes that are no pixels and splits without any, and ask about boxes that are likely of another form."""
    num_workers: int = 2
    cache_dir: str | None = None
    seed: int = 0
    use_difficult: bool = field(default=False, init=False)
    metrics: ClassVar[tuple[Literal["coco", "voc", "classification"], ...]] = ("coco",)
    """Groups of metrics that an evaluation computes, that of the main metric first."""
    whole_images: ClassVar[bool] = False
    """The data set has a class for each image, and no boxes."""
    makes_root: ClassVar[bool] = False
    """`root` needn't exist: `prepare_data` makes it."""
    rules: ClassVar[tuple[str, ...]] = ("short_side", "square")

    def __post_init__(self) -> None:
        for key, choices in {"rule": self.rules, **_CHOICES}.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"data.{key}={getattr(self, key)!r}: expected {' or '.join(choices)}")
        for key, least in (("resize", 1), ("batch_size", 1), ("eval_batch_size", 1), ("num_workers", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"data.{key}={getattr(self, key)}: expected {least} or more")
        if self.classes is not None and not len(self.classes):
            raise ValueError("data.classes=[]: expected the names of the classes, or null for all that are annotated")
        if self.single_class is not None and self.num_classes != 1:
            raise ValueError(
                f"data.num_classes={self.num_classes}, but data.single_class={self.single_class} makes one of all; "
                "leave one of the two out"
            )
        if self.max_side is not None and self.max_side < self.resize:
            raise ValueError(f"data.max_side={self.max_side}: expected data.resize={self.resize} or more, or null")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ValueError(f"data.val_fraction={self.val_fraction}: expected a number between 0 and 1, or null")
        if self.repeat_threshold is not None and not 0 < self.repeat_threshold <= 1:
            raise ValueError(
                f"data.repeat_threshold={self.repeat_threshold}: expected a share of the images, over 0 and at most 1, "
                "such as the 0.001 of LVIS, or null"
            )
        scale = self.multi_scale
        if scale is not None and (len(scale) != 2 or not 0 < scale[0] <= scale[1]):
            raise ValueError(f"data.multi_scale={list(scale)}: expected [smallest, largest] factor, or null")
        try:
            Decoding.of(self.exif, self.value_range)
        except ValueError as error:
            raise ValueError(f"data.value_range={list(self.value_range or ())}: {error}") from error
        if not 0 <= self.min_visibility <= 1 or self.min_area < 0:
            raise ValueError(
                f"data.min_visibility={self.min_visibility}, data.min_area={self.min_area}: expected a share from 0 to "
                "1, and 0 or more pixels"
            )
