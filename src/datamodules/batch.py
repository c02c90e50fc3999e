"""What travels from the workers to the device."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class ImageInfo(NamedTuple):
    """Where an image of a batch came from, and how to map its boxes back to original pixels."""

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
    """uint8 (B, 3, H, W), RGB, zero where padded."""
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
    """Of those that could not be read, and are in no tensor."""
