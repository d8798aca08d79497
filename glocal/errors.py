"""Errors that a user can mend. The command line prints their one line and exits with code 2."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Mapping


class GlocalError(ValueError):
    """Wrong input from the user: one line that says what is wrong, where, and what would be right."""


class BrokenImageError(GlocalError):
    """An image that cannot be read.

    Attributes:
        key: the image's name in its source (a path relative to the folder, for a folder).
        reason: why it cannot be read, in a few words.
        gone: the folder that is no longer there, where that is why; no fault of the image.
    """

    def __init__(self, key: str, reason: str, gone: str = "") -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason
        self.gone = gone

    def __reduce__(self) -> tuple[type[BrokenImageError], tuple[str, str, str]]:  # crosses process borders
        return type(self), (self.key, self.reason, self.gone)


class TogetherError(GlocalError):
    """What one of several processes could not do, and all end with. The first process tells of it, the others do not.

    Attributes:
        writing: a file could not be written.
    """

    def __init__(self, message: str, writing: bool = False) -> None:
        super().__init__(message)
        self.writing = writing


class WriteError(GlocalError, OSError):
    """A file that cannot be written: the disk is full, the folder read-only or gone.

    Attributes:
        strerror: what the operating system says, and `errno` its number.
    """

    def __init__(self, message: str, errno: int | None = None, strerror: str | None = None) -> None:
        super().__init__(message)
        self.errno, self.strerror = errno, strerror

    def __str__(self) -> str:
        return str(self.args[0])


def in_a_line(error: BaseException) -> str:
    """An error in a line; of one that is no user's mistake, with its kind.

    >>> in_a_line(GlocalError("no such run")), in_a_line(OSError("gone"))
    ('no such run', 'OSError: gone')
    """
    kind = "" if isinstance(error, GlocalError) else f"{type(error).__name__}: "
    return kind + shortened(str(error), 300)


def shortened(text: str, most: int = 100) -> str:
    """Text in a line of at most so many characters.

    >>> shortened("a\\nb" * 3, 5)
    'a ba…'
    """
    line = " ".join(text[: 2 * most].split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def shown(value: object) -> str:
    """A value as Python writes it, in a line that is not too long.

    >>> shown("x" * 200)[-5:], shown([0.1])
    ('xxxx…', '[0.1]')
    """
    try:
        return shortened(repr(value))
    except ValueError:  # Python writes no whole numbers of more than 4,300 digits
        return "a number of thousands of digits"


# What a setting is called elsewhere (in papers, in other packages) and here.
_SYNONYMS = {
    "learning_rate": "lr",
    "learn_rate": "lr",
    "base_lr": "lr",
    "eta": "lr",
    "min_lr": "final_lr",
    "end_lr": "final_lr",
    "bs": "batch_size",
    "minibatch": "batch_size",
    "images_per_batch": "batch_size",
    "epoch_count": "epochs",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "l2": "weight_decay",
    "scheduler": "schedule",
    "grad_clip": "clip_norm",
    "gradient_clip": "clip_norm",
    "max_norm": "clip_norm",
    "num_workers": "workers",
    "gradient_accumulation": "accumulate",
    "amp": "precision",
    "image_size": "size",
    "img_size": "size",
    "resolution": "size",
    "tau": "temperature",
    "tau_m": "target_temperature",
    "teacher_temperature": "target_temperature",
    "lambda": "coefficient",
    "ema": "momentum",
    "arch": "name",
    "backbone": "name",
    "architecture": "name",
}


def counted(number: float, thing: str) -> str:
    """A number and the word for what is counted, whose plural ends in s.

    >>> counted(1, "epoch"), counted(2.5, "epoch"), counted(1_000_000, "image")
    ('1 epoch', '2.5 epochs', '1,000,000 images')
    """
    written = f"{int(number):,}" if float(number).is_integer() else f"{number:g}"
    return f"{written} {thing}" if number == 1 else f"{written} {thing}s"


def did_you_mean(name: str, choices: Iterable[str], *, elsewhere: Iterable[str] = ()) -> str:
    """The end of an error message: the nearest valid choice, or all choices when none is near.

    Args:
        name: what was written. Of dotted paths that begin alike only the rest is compared.
        choices: what could be written in its place.
        elsewhere: paths of other sections, named where one of them ends in just this name.

    >>> did_you_mean("epoch", ["epochs", "batch_size"])
    'did you mean epochs?'
    >>> did_you_mean("optimizer.learning_rate", ["optimizer.lr", "optimizer.name"])
    'did you mean optimizer.lr?'
    >>> did_you_mean("train.lr", ["train.epochs"], elsewhere=["optimizer.lr"])
    'did you mean optimizer.lr?'
    >>> did_you_mean("zzz", ["epochs", "batch_size"])
    'choose from batch_size, epochs'
    """
    choices = sorted(choices)
    section = name[: name.rfind(".") + 1]
    if not all(choice.startswith(section) for choice in choices):
        section = ""
    own = {choice.removeprefix(section): choice for choice in choices}
    others = {path.rpartition(".")[2]: path for path in reversed(list(elsewhere))}  # the first of a name stays
    last, word = name.removeprefix(section), name.rpartition(".")[2]
    near = _called(last, own) or _called(word, others) or _spelled(last, own) or _begun(last, own)
    return f"did you mean {near}?" if near else f"choose from {', '.join(choices)}"


def _called(name: str, choices: Mapping[str, str]) -> str | None:
    """The choice of the same letters, or of the same meaning."""
    plain = _letters(name)
    meant = {_letters(synonym): choice for synonym, choice in _SYNONYMS.items()}.get(plain)
    same = [choice for choice in choices if _letters(choice) == plain]
    return choices[same[0]] if same else choices.get(meant or "")


def _spelled(name: str, choices: Mapping[str, str]) -> str | None:
    near = difflib.get_close_matches(name, list(choices), n=1)
    return choices[near[0]] if near else None


def _begun(name: str, choices: Mapping[str, str]) -> str | None:
    """The shortest choice that begins with the name, or has it as one of its words."""
    longer = [c for c in choices if len(name) > 1 and (c.startswith(name) or name in c.split("_"))]
    return choices[min(longer, key=lambda choice: (not choice.startswith(name), len(choice)))] if longer else None


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def one_line(error: Exception) -> str:
    """What an error of another library says, in one line that is not too long; its name where it says nothing."""
    return textwrap.shorten(str(error), 160, placeholder="…") or type(error).__name__
