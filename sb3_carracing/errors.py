"""`UserError` for what the user can correct, and a context in which other errors count as one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import yaml


class UserError(ValueError):
    """Bad input: a wrong argument, option, file or combination of them.

    The message names the value and the valid choices. The command line prints it as one line and exits with status 2;
    every other exception shows its traceback.
    """


@contextmanager
def preparation(*further: type[Exception]) -> Iterator[Callable[[], None]]:
    """Turn errors of libraries into `UserError`, until the yielded function is called.

    Before the first environment step, an error from a library means bad input: a wrong option, file or hyperparameter. After
    it, the same exception is a bug, and its traceback says where.

    Args:
        *further: types that count as bad input as well.

    Yields:
        The function to call right before the first environment step.

    Raises:
        UserError: in place of a ValueError, an AssertionError, an OSError or a YAMLError from the body.
    """
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True

    refused: tuple[type[Exception], ...] = (ValueError, AssertionError, OSError, yaml.YAMLError, *further)
    try:
        yield begin
    except refused as error:
        if begun or isinstance(error, UserError):
            raise
        raise UserError(str(error) or repr(error)) from error
