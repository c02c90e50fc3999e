"""Reads files on disk into a `Batch`; knows no model."""

import os

# albumentations asks the network for its newest version on import, in every process, unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# OpenCV's lines on a broken file name none; `images.ImageError` does.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
