"""`glocal.reproduce`: a table's rows pretrained, measured by their own protocols, and set beside what is in print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glocal.console import note
from glocal.errors import GlocalError, counted, did_you_mean
from glocal.files import check_output_folder
from glocal.models.loading import choose_device
from glocal.reproduction.budgets import find_budget
from glocal.reproduction.equal import EQUAL, Spending
from glocal.reproduction.gathering import folder_names, results_of
from glocal.reproduction.heading import heading
from glocal.reproduction.images import Images, parse_given
from glocal.reproduction.jobs import Job, check_folder, check_measured, read_result
from glocal.reproduction.measuring import mistaken
from glocal.reproduction.planning import Choices, Planned, check_images, plan_row
from glocal.reproduction.processes import run_jobs, usual_number
from glocal.reproduction.studies import Study, chosen_rows, open_study
from glocal.reproduction.work import Work, undone
from glocal.reproduction.writing import draw, read_written


def reproduce(
    table: str | Path,
    out: str | Path,
    *,
    rows: str | Sequence[str] | None = None,
    data: str | Sequence[str] = (),
    test: str | Sequence[str] = (),
    held_out: int | None = None,
    budget: str | Mapping[str, Any] | None = None,
    seeds: int = 1,
    equal: str | Sequence[str] = ("epochs",),
    settings: Mapping[str, Any] | None = None,
    references: bool = True,
    reuse: str | Path | Sequence[str | Path] = (),
    jobs: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Pretrains the rows of a table by their recipes, measures them by their protocols, and sets numbers side by side.

    Each run is a run as `pretrain` makes it, in `out/runs`; the same call goes on where it was stopped, does nothing
    again that is done, and tries again what failed. The table is written after each run, to reproduced.json and
    reproduced.md, and as reproduced.png in the end.

    Args:
        table: a place among the papers' tables, `sce/2`, or a .yaml file with a table of one's own.
        out: the folder.
        rows: labels, or patterns of labels (`tau=0.2*`); all rows by default.
        data: images to pretrain on, `["cifar10/train"]`, or images in place of a data set, `["cifar10=cifar10/train"]`;
            by default those of the recipes. Rows whose images are missing are told, and the others run.
        test: images to measure on, in the same way; by default those that belong to the training images.
        held_out: measure on so many training images of each class, which are not trained on, instead of on `test`: to
            choose settings by.
        budget: small, medium or full, or changes to one, `{"like": "small", "epochs": 2}`. By default that of the
            table's file, else small on a CPU and full elsewhere.
        seeds: runs of each row, with the seeds 0, 1, …
        equal: what all rows are given alike: the budget's epochs, or as many image views or as much time as the row
            that takes the least of them in the budget's epochs; several give a column each.
        settings: of all rows, by dotted path, over all others.
        references: measure the untrained network and raw pixels as well.
        reuse: folders of other tables that were run; a run there with the same recipe, settings, images, epochs, seed
            and measures is not done again.
        jobs: how many runs go side by side, each in a process; by default one on each core (with one thread), or on
            each GPU.
        device: auto, cpu, cuda or mps.
        progress: show progress.

    Returns:
        What is in reproduced.json.

    Raises:
        GlocalError: no such table or row, wrong settings or images, none of the rows can be run, or other runs are in
            `out`.
        Stopped: Ctrl-C, SIGTERM or another signal that means stop; the runs have written checkpoints.

    >>> found = reproduce("sce/2", "runs/sce2", rows=["tau=0.2*CIFAR10"], budget="small")  # doctest: +SKIP
    """
    study, where = open_study(table), choose_device(device)
    rows, data, test, columns = (_listed(given) for given in (rows, data, test, equal))
    chosen = chosen_rows(study.table, rows)
    _check(seeds, columns, jobs, held_out, test)
    wanted = budget or study.budget or ("small" if where == "cpu" else "full")
    choices = Choices(
        find_budget(wanted, "" if budget else study.file),
        parse_given(data, "--data"),
        parse_given(test, "--test"),
        held_out,
        dict(settings or {}),
    )
    check_images(study.table, choices)
    opened: dict[Any, Images | GlocalError] = {}
    plans = {row.label: plan_row(study.table, row, choices, opened) for row in chosen}
    if not any(isinstance(plan, Planned) for plan in plans.values()):
        reasons = "; ".join(_reasons({label: why for label, why in plans.items() if isinstance(why, str)})[:3])
        raise GlocalError(f"none of {counted(len(plans), 'row')} can be run here: {reasons}")
    out, number = Path(out), jobs or usual_number(where)
    tables = [Path(folder) for folder in ([reuse] if isinstance(reuse, str | Path) else reuse)]
    for folder in tables:
        if not (folder / "runs").is_dir():
            raise GlocalError(f"--reuse {folder}: no table was run there; give what --out named for another table")
    check_output_folder(out)
    _check_table(out, study.name)
    names = folder_names(study.table)
    others = [row for row in study.table.rows if row.label not in plans and results_of(out, names[row.label])]
    earlier = {row.label: plan_row(study.table, row, choices, opened) for row in others}
    opened.clear()  # the workers open them for themselves
    said = {"rows": rows, "data": data, "test": test, "held-out": held_out, "budget": budget, "seeds": seeds}
    command = _command(table, out, {**said, "equal": columns, "set": settings})
    name = wanted if isinstance(wanted, str) else f"{wanted['like']}, changed" if "like" in wanted else "of its own"
    work = Work(study, choices, plans, earlier, out, where, number, name, command, Spending(out), tables)
    for job in work.before():  # before anything is written: what is there was made with what its heading says
        check_folder(job)
        check_measured(job)
    if progress:
        _tell_plan(work, len(columns) * seeds)
    try:
        if references:
            run_jobs(work.references(), number, where, after=lambda job: work.write(), progress=progress)
            _check_metrics(study, work.references())
        for column in (column for column in EQUAL if column in columns):
            if column == "time":
                run_jobs(work.trials(), number, where, after=lambda job: None, progress=progress)
                _check_trials(work.trials())
            todo = work.runs(column, seeds)
            if progress and (done := len(todo) - undone(todo)):
                note(f"{done} of {len(todo)} jobs are done already")
            run_jobs(todo, number, where, after=lambda job: work.write(), progress=progress)
    finally:
        found = work.write()
        draw(found, out)
    return found


def _tell_plan(work: Work, of_each: int) -> None:
    """What is about to be done, before it takes hours."""
    runs = of_each * len(work.planned)
    beside = f", {work.number} side by side" if work.number > 1 else ""
    note(f"{counted(runs, 'training')} of {counted(len(work.planned), 'row')}{beside}; budget {work.budget}: "
         f"{work.choices.budget.about}; --rows takes some of them")  # fmt: skip
    for line in heading(work.study.table, work.planned):
        if line.startswith("images "):
            note(line)


def _listed(given: str | Sequence[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _check(seeds: int, columns: Sequence[str], jobs: int | None, held_out: int | None, test: Sequence[str]) -> None:
    for name, value in (("seeds", seeds), ("jobs", jobs), ("held-out", held_out)):
        if value is not None and value < 1:
            raise GlocalError(f"--{name} {value}: must be at least 1")
    for column in columns:
        if column not in EQUAL:
            raise GlocalError(f"--equal {column}: {did_you_mean(column, EQUAL)}")
    if held_out is not None and test:
        raise GlocalError("--held-out measures on training images; leave out --test")


def _reasons(rows: Mapping[str, str]) -> list[str]:
    """Why rows cannot be run: each reason once, and with a row's label where not all have the same."""
    first: dict[str, str] = {}
    for label, why in rows.items():
        first.setdefault(why, label)
    return list(first) if len(first) == 1 else [f"{label}: {why}" for why, label in first.items()]


def _check_table(out: Path, name: str) -> None:
    """Refuses the folder of another table: its rows would be left out of what is written."""
    held = read_written(out).get("table", name)
    if held != name:
        raise GlocalError(f"{out} holds table {held}, not {name}; give another folder (--out)")


def _check_trials(left: Sequence[Job]) -> None:
    """Equal time needs the cost of every row."""
    for job in left:
        error = (read_result(Path(job.folder)) or {}).get("error", "it was not measured")
        raise GlocalError(f"--equal time: what an epoch of {job.row!r} takes is not known: {error}")


def _check_metrics(study: Study, references: Sequence[Job]) -> None:
    """What the protocols did not give for an untrained network they would not give after hours of training either."""
    for job in references:
        for name, error in mistaken((read_result(Path(job.folder)) or {}).get("missing", {})).items():
            raise GlocalError(f"{study.file or study.name}: metrics.{name}: {error}; nothing was trained")


def _command(table: str | Path, out: Path, options: Mapping[str, Any]) -> str:
    """The command that does the same; what the machine decides is left out."""
    words = ["glocal", "reproduce", str(table), "--out", str(out)]
    usual = {"seeds": 1, "equal": ["epochs"]}
    for name, value in options.items():
        if value is None or value == usual.get(name) or value in ({}, [], ()):
            continue
        if name == "set":
            value = [f"{path}={one if isinstance(one, str) else json.dumps(one)}" for path, one in value.items()]
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [f"--{name}", json.dumps(one) if isinstance(one, Mapping) else str(one)]
    return shlex.join(words)
