"""A run is a folder: named, opened, resumed, finished, compared."""
