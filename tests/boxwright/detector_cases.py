"""Comparison of detections for the tests of `load_detector`."""

import numpy as np


def arrays(detections) -> tuple[np.ndarray, ...]:
    return detections.boxes[0].numpy(), detections.scores[0].numpy(), detections.labels[0].numpy()


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
