"""A table that is being reproduced: its jobs, and what they have found so far."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from glocal.papers import PaperRow
from glocal.reproduction.equal import EQUAL, Spending, epochs_for
from glocal.reproduction.gathering import folder_names, machine, row_of, runs_of, slug
from glocal.reproduction.heading import heading, networks
from glocal.reproduction.jobs import JOB, Job, is_done, read_job, read_result, take_over
from glocal.reproduction.planning import Choices, Planned, metric_titles, with_epochs
from glocal.reproduction.studies import Study
from glocal.reproduction.writing import read_written, write

_OF_REFERENCES = {
    "untrained": {"knn", "linear", "retrieval", "dense"},
    "pixels": {"knn", "linear", "retrieval"},
}  # what is cheap and says something
_CHECKPOINT_MINUTES = 2.0


@dataclass(frozen=True)
class Work:
    """What one call of `reproduce` is about.

    Attributes:
        study: the table.
        choices: what holds for all rows.
        plans: of the chosen rows by label: the plan, or why there is none.
        earlier: the same of rows that are not chosen and that earlier calls have run in the folder.
        out: the folder.
        device: cpu, cuda or mps.
        number: jobs side by side.
        budget: as it was named.
        command: that does the same.
        spending: what rows may spend.
        reuse: folders of other tables, whose runs are taken where they are just the same.
    """

    study: Study
    choices: Choices
    plans: Mapping[str, Planned | str]
    earlier: Mapping[str, Planned | str]
    out: Path
    device: str
    number: int
    budget: str
    command: str
    spending: Spending = field(repr=False)
    reuse: Sequence[Path] = ()

    @cached_property
    def planned(self) -> list[Planned]:
        """The rows that can be run."""
        return [one for one in self.plans.values() if isinstance(one, Planned)]

    @cached_property
    def shown(self) -> list[Planned]:
        """These and the rows of earlier calls, in the table's order: what its heading is about."""
        plans = (self.plans.get(row.label, self.earlier.get(row.label)) for row in self.study.table.rows)
        return [one for one in plans if isinstance(one, Planned)]

    @cached_property
    def names(self) -> dict[str, str]:
        """What the rows' folders are called, by label."""
        return folder_names(self.study.table)

    def runs(self, column: str, seeds: int) -> list[Job]:
        """The runs of a column, the first seed of all rows before the second one of any.

        A run that another column, or another table, has had in the same epochs is done already.
        """
        elsewhere = [path for table in self.reuse for path in sorted((table / "runs").iterdir())]
        epochs = {one.row.label: one.epochs for one in self.planned}
        if column != "epochs":
            costs = self._views() if column == "views" else self._seconds()
            epochs = self.spending.decide(column, costs, epochs)
        jobs = []
        for seed in range(seeds):
            for one in self.planned:
                settings = with_epochs(one, self.study.table, self.choices, epochs[one.row.label])
                folders = {its: self._of_run(one, seed, its) for its in EQUAL}
                job = self._job("run", folders.pop(column), one, settings, seed=seed, equal=column)
                take_over(job, [*folders.values(), *elsewhere])
                jobs.append(job)
        return jobs

    def before(self) -> Iterator[Job]:
        """The runs of earlier calls that lie in the folder, of any column and seed, as they would be run now."""
        for one in self.shown:
            for path in runs_of(self.out, self.names[one.row.label]):
                job = read_job(path / JOB)
                spend, costs = self.spending.spend(job.equal), self.spending.costs(job.equal)
                decided = spend is not None and one.row.label in costs
                epochs = epochs_for(spend, costs[one.row.label]) if spend is not None and decided else one.epochs
                settings = with_epochs(one, self.study.table, self.choices, epochs)
                yield self._job("run", path, one, settings, seed=job.seed, equal=job.equal)

    def trials(self) -> list[Job]:
        """What has to be measured before it is known how many epochs take equal time."""
        known = self._seconds()
        left = [one for one in self.planned if one.row.label not in known]
        return [self._job("cost", self._of_cost(one), one, one.settings) for one in left]

    def references(self) -> list[Job]:
        """Each untrained network, and raw pixels, once for each choice of images.

        They are those of all rows that the table shows, in its order: which of them a call runs makes no difference.
        """
        found: dict[str, Job] = {}
        names: dict[tuple[str, ...], str] = {}
        for one in self.shown:
            network = f"{one.recipe.model.model_dump_json()} {one.recipe.data.size}"
            for kind, its in (("untrained", network), ("pixels", "")):
                metrics = {name: it for name, it in one.metrics.items() if it.protocol in _OF_REFERENCES[kind]}
                key = (kind, its, *one.data, "", *one.test)
                name = names.setdefault(key, kind if kind not in found else f"{kind} ({one.row.label})")
                job = found.get(name) or self._job(kind, self.out / "runs" / slug(name), one, one.settings)
                together = {**metrics, **(job.metrics if name in found else {})}
                found[name] = job.model_copy(update={"row": name, "metrics": together, "network": its})
        return list(found.values())

    def found(self) -> dict[str, Any]:
        """What is written: the rows that were chosen, and those that earlier calls have run in the same folder."""
        rows = [row for row in map(self._row, self.study.table.rows) if row is not None]
        labels = {row["label"] for row in rows}
        columns = [column for column in EQUAL if any(column in row["results"] for row in rows)]
        return {
            "table": self.study.name,
            "title": self.study.table.title,
            "heading": [
                f"budget {self.budget}",
                *heading(self.study.table, self.shown),
                *self.spending.in_words(columns),
            ],
            "command": self.command,
            "commands": self._commands(),
            "machine": {
                **machine(self.device),
                **({"threads": 1} if self.device == "cpu" else {}),
                "jobs": self.number,
            },
            "budget": self._budget(),
            "equal": columns,
            "date": datetime.now(UTC).date().isoformat(),
            "metrics": metric_titles(self.study.table, self.shown),
            "rows": rows,
            "references": dict(self._references()),
            "comparisons": [
                one.model_dump(mode="json", exclude_none=True)
                for one in self.study.comparisons
                if {one.row, one.over} <= labels
            ],
        }

    def write(self) -> dict[str, Any]:
        """Writes what was found so far, and returns it."""
        found = self.found()
        write(found, self.out)
        return found

    def _commands(self) -> list[str]:
        """The commands that have filled the folder, each once, this one among them."""
        before = read_written(self.out)
        earlier = before.get("commands") or ([before["command"]] if "command" in before else [])
        return list(dict.fromkeys([*earlier, self.command]))

    def _budget(self) -> dict[str, Any]:
        """The budget with what came of it: the networks, the images and, where time is equal, the minutes."""
        seconds = self.spending.spend("time")
        came = {
            "name": self.budget,
            **self.choices.budget.model_dump(mode="json"),
            "network": networks(self.shown),
            "images": max(one.images for one in self.shown),
        }
        return came if seconds is None else {**came, "minutes": round(seconds / 60, 1)}

    def _row(self, row: PaperRow) -> dict[str, Any] | None:
        plan = self.plans.get(row.label, self.earlier.get(row.label))
        why = plan if isinstance(plan, str) else ""
        notes = plan.notes if isinstance(plan, Planned) else ()
        if plan is None:
            return None
        its = row_of(row, self.names[row.label], self.out, cannot_run=why, notes=notes)
        return {**its, "network": networks([plan])} if isinstance(plan, Planned) else its

    def _references(self) -> Iterator[tuple[str, dict[str, float]]]:
        for job in self.references():
            found = read_result(Path(job.folder)) or {}
            if found.get("values"):
                yield job.row, found["values"]

    def _views(self) -> dict[str, float]:
        return {one.row.label: float(one.views_of_epoch) for one in self.planned}

    def _seconds(self) -> dict[str, float]:
        """Of an epoch of the rows for which it is known: decided, from runs that are finished, or from trials."""
        found: dict[str, float] = {}
        for one in self.planned:
            job = self._job("cost", self._of_cost(one), one, one.settings)
            trial = read_result(Path(job.folder)) if is_done(job) else None  # none of what the row was before
            runs = [run for run in self._finished(one) if run.get("cpu_minutes")]
            if runs:
                key = "cpu_minutes" if self.device == "cpu" else "wall_minutes"
                found[one.row.label] = 60 * sum(run[key] for run in runs) / sum(run["epochs"] for run in runs)
            elif trial and trial.get("epoch_seconds"):
                found[one.row.label] = trial["epoch_seconds"]
        return {**found, **self.spending.costs("time")}

    def _finished(self, one: Planned) -> list[dict[str, Any]]:
        shown = row_of(one.row, self.names[one.row.label], self.out, cannot_run="", notes=())
        return [run for its in shown["results"].values() for run in its["runs"]]

    def _of_run(self, one: Planned, seed: int, column: str) -> Path:
        suffix = "" if column == "epochs" else f",equal={column}"
        return self.out / "runs" / f"{self.names[one.row.label]},seed={seed}{suffix}"

    def _of_cost(self, one: Planned) -> Path:
        return self.out / "runs" / f"{self.names[one.row.label]},cost"

    def _job(
        self,
        kind: str,
        folder: Path,
        one: Planned,
        settings: Mapping[str, Any],
        *,
        seed: int = 0,
        equal: str = "epochs",
    ) -> Job:
        machine_s = {"train.device": self.device, "train.checkpoint_minutes": _CHECKPOINT_MINUTES}
        if self.device == "cpu":
            machine_s["data.workers"] = 0
        watched = one.recipe.monitor.knn_epochs and self.choices.held_out is None and len(one.test) == 1
        test = {"data.test": one.test[0]} if watched else {}
        overrides = {**machine_s, **test, **settings, "seed": seed}
        job = {
            "kind": kind,
            "folder": str(folder),
            "row": one.row.label,
            "seed": seed,
            "equal": equal,
            "recipe": one.row.recipe,
            "recipe_digest": one.digest,
            "overrides": json.loads(json.dumps(overrides)),  # as it is read back
            "data": one.data,
            "test": one.test,
            "images": self.choices.budget.images,
            "held_out": self.choices.held_out,
            "metrics": one.metrics if kind != "cost" else {},
            "device": self.device,
        }
        return Job.model_validate(job)


def undone(jobs: Sequence[Job]) -> int:
    """How many jobs are still to do."""
    return sum(not is_done(job) for job in jobs)
