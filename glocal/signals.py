"""Signals that mean stop: caught once, answered when the work is at a point where it can."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

STOP = frozenset(
    getattr(signal, name)
    for name in (
        "SIGINT",  # Ctrl-C
        "SIGTERM",  # kill, timeout, systemd, SLURM's scancel
        "SIGHUP",  # the terminal is gone
        "SIGUSR1",  # what batch systems are asked to send before the time is up (sbatch --signal=USR1@60)
        "SIGXCPU",  # a limit of processor time, and LSF and PBS before they kill
    )
    if hasattr(signal, name)
)
"""The signals that ask for an end in order; each would end the process if nothing caught it."""

_listening: list[StopSignals] = []
_ONE_WISH = 1.0  # seconds: `timeout -s INT` and a terminal's group deliver one wish twice


class Stopped(BaseException):
    """Work was asked to stop and has kept what it did: the same command goes on with it.

    Like KeyboardInterrupt it is no Exception: code that catches all errors does not go on by mistake.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


def stop_wanted() -> bool:
    """Whether a signal that means stop has come to work that has not answered it yet."""
    return any(one.received is not None for one in _listening)


class StopSignals:
    """Turns the first signal that means stop into a flag; SIGINT a second or more later interrupts at once.

    Signals can be caught in the main thread only; elsewhere the flag stays down. SIGHUP stays ignored under nohup.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.received: int | None = None
        self._now = now
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        _listening.append(self)
        if threading.current_thread() is threading.main_thread():
            for number in STOP:
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        _listening.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, self._now()
        elif number == signal.SIGINT and self._now() - self._since > _ONE_WISH:
            raise KeyboardInterrupt
