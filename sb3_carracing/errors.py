"""The error for what the user can correct."""


class UserError(ValueError):
    """Bad input: a wrong argument, option, file or combination of them.

    The message names the value and the valid choices. The command line prints it as one line and exits with status 2;
    every other exception shows its traceback.
    """
