"""Errors that a user can mend. The command line prints their one line and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GlocalError(ValueError):
    """Wrong input from the user: one line that says what is wrong, where, and what would be right."""


class BrokenImageError(GlocalError):
    """An image that cannot be read.

    Attributes:
        key: the image's name in its source (a path relative to the folder, for a folder).
        reason: why it cannot be read, in a few words.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[BrokenImageError], tuple[str, str]]:  # crosses process borders
        return type(self), (self.key, self.reason)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The end of an error message: the nearest valid choice, or all choices when none is near.

    >>> did_you_mean("epoch", ["epochs", "batch_size"])
    'did you mean epochs?'
    >>> did_you_mean("zzz", ["epochs", "batch_size"])
    'choose from batch_size, epochs'
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(choices)}"
