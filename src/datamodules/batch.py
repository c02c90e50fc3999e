"""Batches, as they travel from the workers to the device."""

from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.shared_blocks import received, sent


class ImageInfo(NamedTuple):
    """The origin of an image of a batch, and the scale that maps its boxes back to original pixels."""

    image_id: int | str
    original_size: tuple[int, int]
    """(height, width) of the file."""
    scale: tuple[float, float]
    """(y, x): network pixels divided by original pixels, exactly as the image was resized."""
    error: str | None = None
    """Why the image could not be read (`data.on_error=skip`)."""


class Batch(NamedTuple):
    """Images of one forward pass, padded to one canvas at the bottom and right."""

    images: Tensor
    """uint8 (B, 3, H, W), RGB, zero where padded; channels last in memory."""
    sizes: Tensor
    """int64 (B, 2): height and width of each image before padding."""
    boxes: Tensor
    """float32 (B, G, 4): xyxy pixels of the network input, zero where padded."""
    labels: Tensor
    """int64 (B, G): 0..K-1, -1 where padded."""
    infos: list[ImageInfo]
    """One for each image; empty where none of the batch could be read: then a black image without boxes stands
    in, so that ranks take the same steps, and must count for nothing."""
    unread: Sequence[ImageInfo] = ()
    """Images that could not be read, and are in no tensor."""

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device, to which the host copies them without waiting, as Lightning does.

        Lightning calls this in place of moving each tensor.
        """
        is_async = device.type not in ("cpu", "mps")
        images, sizes, boxes, labels = (tensor.to(device, non_blocking=is_async) for tensor in self[:4])
        return Batch(images, sizes, boxes, labels, self.infos, self.unread)


def refuse_wrong_labels(batch: Batch, num_classes: int | None) -> None:
    """ValueError where a label is none of 0 to `num_classes` - 1, and no padding either; looks on the host alone."""
    if batch.labels.device.type != "cpu" or num_classes is None:
        return
    is_padding = (batch.labels == -1) & (batch.boxes == 0).all(dim=2)
    wrong = ((batch.labels < 0) | (batch.labels >= num_classes)) & ~is_padding
    if wrong.any():
        row, place = wrong.nonzero()[0].tolist()
        image = repr(batch.infos[row].image_id) if row < len(batch.infos) else f"number {row} of the batch"
        raise ValueError(
            f"image {image} has label {int(batch.labels[row, place])}: expected 0 to {num_classes - 1}, since the "
            f"module has num_classes={num_classes}; -1 only where a box of zeros pads the batch"
        )


def _between_processes(batch: Batch) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
    small = [tensor.numpy() for tensor in (batch.sizes, batch.boxes, batch.labels)]
    return _arrived, (sent(batch.images), *small, batch.infos, batch.unread)


def _arrived(images: Any, sizes: Any, boxes: Any, labels: Any, *rest: Any) -> Batch:
    return Batch(received(images), torch.from_numpy(sizes), torch.from_numpy(boxes), torch.from_numpy(labels), *rest)


# torch shares the memory of each tensor through a connection of its own; for all but the images the bytes cost less.
ForkingPickler.register(Batch, _between_processes)
