"""Errors that are meant for users."""


class UserError(ValueError):
    """A mistake that its user can mend: names file, value, what was expected, and the remedy.

    A script prints it without a traceback.
    """
