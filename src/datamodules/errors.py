"""The error of a user's data."""

from evaluation.errors import UserError


class DataError(UserError):
    """A mistake in a user's data: names the file, what is wrong in it and the remedy.

    A script prints it without its traceback.
    """


class NoAnnotationsError(DataError):
    """No annotations are where they are expected, or the file there holds something else."""
