"""Downloads public data sets into the folders in which they are read by name: `python -m datamodules.download`."""
