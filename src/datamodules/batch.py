"""What travels from the workers to the device."""

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
    """Why the sample could not be read (`data.on_error=skip`); such a sample counts for nothing."""


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
