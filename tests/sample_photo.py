"""A smooth picture of random colours, for tests that need an image and not what is on it."""

import cv2
import numpy as np


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """RGB uint8 (height, width, 3), the same for the same seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
