"""What is wrong with a user's data."""


class DataError(ValueError):
    """Names the file, what is wrong in it and the remedy; a script prints it without its traceback."""
