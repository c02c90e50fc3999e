"""The endings of file names that mark pictures; imports nothing, so that a command line can be checked with them."""

PICTURES = (
    ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".avif", ".gif", ".jfif", ".jp2", ".jpe", ".pbm", ".pgm",
    ".pnm", ".ppm",
)  # fmt: skip
"""Lower case."""
