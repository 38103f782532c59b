"""The one exception that is a message to the user, in a module that imports nothing."""


class UserError(ValueError):
    """The user's input is wrong. The command line prints the message alone and exits with code 2."""
