"""The numbers that were measured of runs, and those of a paper beside them."""

from __future__ import annotations

from collections.abc import Sequence

from glocal.console import note
from glocal.errors import GlocalError
from glocal.evaluation import results
from glocal.evaluation.compare import compare
from glocal.pages.document import escaped, table
from glocal.pages.record import Record
from glocal.papers import find_table
from glocal.papers.measured import Run, measured


def measured_tables(records: Sequence[Record]) -> str:
    """Everything that `glocal evaluate` found, a column for each run, and the paper's row where a run is one; HTML."""
    evaluated = [one for one in records if (one.folder / "evaluation" / "evaluation.json").is_file()]
    if not evaluated:
        return "<p>Nothing has been measured yet: <code>glocal evaluate RUN --train LABELLED --test LABELLED</code></p>"
    found = compare([one.folder for one in evaluated])
    rows = [
        [row.protocol, row.images, row.setting, row.metric]
        + ["–" if value is None else results.shown(row.metric, value) for value in row.values]
        for row in found.rows
    ]
    names = [one.name for one in evaluated]
    body = table(["protocol", "images", "setting", "metric", *names], rows, numbers_from=4)
    body += "".join(f"<p class=quiet>{escaped(words)}</p>" for words in found.notes)
    return body + "".join(_in_print(one) for one in evaluated)


def _in_print(record: Record) -> str:
    """The row of a paper that a run is, with the printed numbers and the run's; empty where it is none."""
    place, _, label = record.recipe.row.rpartition("/")
    if not place:
        published = record.recipe.published
        return f"<p>{escaped(record.name)}, in print: {escaped(published)}</p>" if published else ""
    try:
        paper, printed = find_table(place)
        run = Run(record.folder, record.recipe)
        row = next(one for one in measured(printed, [run]) if one.row.label == label)
    except (GlocalError, StopIteration) as error:
        note(f"report: {record.recipe.row}: {error}")
        return ""
    own = row.runs[0] if row.runs else None
    rows = [
        [metric.title, printed.shown(name, row.row.values[name]),
         f"{own.values[name]:.2f}" if own is not None and name in own.values else "not measured"]
        for name, metric in printed.metrics.items() if name in row.row.values
    ]  # fmt: skip
    words = f"{record.name} is the row {label} of {printed.place} in {paper.authors}, {paper.venue}"
    marks = f" ({'; '.join(own.marks)})" if own is not None and own.marks else ""
    return f"<h3>{escaped(words + marks)}</h3>" + table(["", "in print", "here"], rows, numbers_from=1)
