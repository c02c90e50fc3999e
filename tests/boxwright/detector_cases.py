"""An image, and comparison of detections, for the tests of `load_detector`."""

import cv2
import numpy as np


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def arrays(detections) -> tuple[np.ndarray, ...]:
    return detections.boxes[0].numpy(), detections.scores[0].numpy(), detections.labels[0].numpy()


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
