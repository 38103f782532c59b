"""The one error that is the user's to mend. It stands alone, so that what needs no config loads no pydantic."""


class UserError(ValueError):
    """The user's input is wrong. The command line prints the message alone and exits with code 2."""
