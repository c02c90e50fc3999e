"""What is wrong with a user's data."""

from evaluation.errors import UserError


class DataError(UserError):
    """Names the file, what is wrong in it and the remedy; a script prints it without its traceback."""
