"""What all public functions have in common."""

import inspect

import glocal


def test_all_that_takes_long_shows_its_progress_unless_told_not_to() -> None:
    functions = [getattr(glocal, name) for name in glocal.__all__ if inspect.isfunction(getattr(glocal, name))]
    defaults = {
        function.__name__: inspect.signature(function).parameters["progress"].default
        for function in functions
        if "progress" in inspect.signature(function).parameters
    }
    assert {"find_outliers", "select", "propose_labels", "embed", "search", "pretrain"} <= set(defaults)
    assert set(defaults.values()) == {True}
