"""Labels for the rest of a set, proposed by the nearest labelled images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from glocal.console import name_cell, progress_bar
from glocal.curation.naming import HEADERS, Names, column_of, table_lines, tell_of_skipped
from glocal.curation.pictures import tiles
from glocal.data.sources.listed import in_order
from glocal.embeddings.folder import Embeddings
from glocal.errors import GlocalError, counted
from glocal.evaluation.protocols.knn import vote_weights
from glocal.files import write_csv
from glocal.models.loading import choose_device
from glocal.neighbors import nearest_in_blocks
from glocal.report.sheets import Section, write_sheet

TEMPERATURE = 0.07  # as the protocol knn
FEW = 5  # labelled images of a class below which it is named
_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_ROWS = 8192  # images whose votes are counted at a time
_SHOWN = 6
_LABELS = ("label", "class", "category", "target")


class Votes(NamedTuple):
    """The outcome of the votes on M images.

    Attributes:
        label: (M,) int64, the class with most votes.
        confidence: (M,) float32 in (0, 1], its share of the weighted votes.
        neighbors: (M, k) int64, rows of the nearest labelled images.
        similarity: (M,) float32, cosine, of the nearest.
    """

    label: Tensor
    confidence: Tensor
    neighbors: Tensor
    similarity: Tensor


class Level(NamedTuple):
    """What a confidence is worth.

    Attributes:
        at_least: the confidence.
        right: of the labelled images whose vote has it, the share that is voted right when left out; None of none.
        labelled: the share of labelled images whose vote has it.
        rest: the share of the other images whose vote has it; None where there are no others.
    """

    at_least: float
    right: float | None
    labelled: float
    rest: float | None


@dataclass(frozen=True)
class Proposal:
    """Labels of all images: given ones, and proposed ones.

    Attributes:
        classes: names.
        k: neighbours that voted.
        given: (N,) int64, class numbers of the labelled images, −1 of the others.
        rest: (U,) int64, rows of the images without a label.
        proposed: votes on these.
        labelled: (L,) int64, rows of the labelled images.
        left_out: votes on these, each by the other labelled images.
        accuracy: share of the labelled images that are voted right, in percent.
        per_class: for each class its labelled images and the percentage of them that is voted right.
    """

    classes: Sequence[str]
    k: int
    given: Tensor
    rest: Tensor
    proposed: Votes
    labelled: Tensor
    left_out: Votes
    accuracy: float
    per_class: Mapping[str, tuple[int, float]]

    def levels(self, thresholds: Sequence[float] = _THRESHOLDS) -> list[Level]:
        """What confidences are worth, by the labelled images left out one at a time."""
        right = self.left_out.label == self.given[self.labelled]
        found = []
        for least in thresholds:
            sure = self.left_out.confidence >= least
            rest = float((self.proposed.confidence >= least).float().mean()) if len(self.rest) else None
            found.append(
                Level(
                    least, float(right[sure].float().mean()) if sure.any() else None, float(sure.float().mean()), rest
                )
            )
        return found

    def doubtful(self, confidence: float = 0.9) -> Tensor:
        """Places in `labelled` of the given labels that the others contradict, the most contradicted first."""
        wrong = (self.left_out.label != self.given[self.labelled]) & (self.left_out.confidence >= confidence)
        places = wrong.nonzero()[:, 0]
        return places[self.left_out.confidence[places].argsort(descending=True, stable=True)]


def propose_labels(
    embeddings: Embeddings | str | Path,
    labels: str | Path | Mapping[str, str] | None = None,
    *,
    k: int = 20,
    temperature: float = TEMPERATURE,
    device: str = "auto",
    progress: bool = True,
) -> Proposal:
    """Proposes a label for each image without one: the class with most votes of the k nearest labelled images.

    A vote counts exp(cosine similarity / τ), as in the protocol knn (Wu et al., CVPR 2018). The confidence is the share
    of the votes for the class. How much it is worth is measured: each labelled image is voted on by the other labelled
    ones.

    Args:
        embeddings: of the images, opened, or their folder.
        labels: a table (CSV) of keys or paths and labels, or labels by key; None takes the labels that the embedded
            images have in their source.
        k: neighbours, at most the labelled images less one.
        temperature: τ.
        device: where neighbours are searched: auto, cpu, cuda, mps.
        progress: show a progress bar.

    Raises:
        GlocalError: a table that cannot be read or has other columns, an image that is not among the embedded ones, two
            labels for one image, fewer than two labelled images or classes, or a k below 1.
    """
    if not isinstance(embeddings, Embeddings):
        embeddings = Embeddings(embeddings)
    given = _given(embeddings, labels)
    where = str(labels) if isinstance(labels, str | Path) else "the labels"
    classes = in_order(set(given.values()))
    if len(classes) < 2:
        raise GlocalError(
            f"{where}: {counted(len(given), 'labelled image')} of {'one' if classes else 'no'} class; label images of "
            "two at least"
        )
    if k < 1 or not temperature > 0:
        raise GlocalError(f"k={k}, temperature {temperature}: both must be above 0")
    number = {name: place for place, name in enumerate(classes)}
    known = torch.full((len(embeddings),), -1, dtype=torch.int64)
    known[list(given)] = torch.tensor([number[name] for name in given.values()])
    labelled, rest = (known >= 0).nonzero()[:, 0], (known < 0).nonzero()[:, 0]
    k = min(k, len(labelled) - 1)
    where_computed = choose_device(device)
    bank = embeddings.take(labelled).to(where_computed)
    with progress_bar("images", visible=progress) as bar:
        task = bar.add_task("votes", total=len(embeddings))

        def vote(rows: Tensor, *, left_out: bool) -> Votes:
            parts = []
            for start, some in zip(range(0, len(rows), _ROWS), rows.split(_ROWS), strict=False):
                own = torch.arange(start, start + len(some), device=where_computed) if left_out else None
                vectors = embeddings.take(some).to(where_computed)
                parts.append(_votes(vectors, bank, known[labelled], k, temperature, own))
                bar.advance(task, len(some))
            label, confidence, index, similarity = (torch.cat(each) for each in zip(*parts, strict=True))
            return Votes(label, confidence, labelled[index], similarity)

        left_out = vote(labelled, left_out=True)
        proposed = vote(rest, left_out=False) if len(rest) else Votes(*(one[:0] for one in left_out))
    right = left_out.label == known[labelled]
    per_class = {}
    for name, place in number.items():
        these = known[labelled] == place
        per_class[name] = (int(these.sum()), 100 * float(right[these].float().mean()))
    accuracy = 100 * float(right.float().mean())
    return Proposal(classes, k, known, rest, proposed, labelled, left_out, accuracy, per_class)


def _votes(
    queries: Tensor, bank: Tensor, label: Tensor, k: int, temperature: float, own: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Votes of the bank's k nearest rows, `own` (M,) not among them, whose numbers in the bank stand for neighbours."""
    distance, index = nearest_in_blocks(queries, [bank], k, metric="cosine", own=own)
    similarity, index = 1 - distance.cpu(), index.cpu()
    weight = vote_weights(similarity, temperature)
    votes = torch.zeros(len(queries), int(label.max()) + 1).scatter_add_(1, label[index], weight)
    most, chosen = votes.max(dim=1)
    return chosen, most / weight.sum(dim=1), index, similarity[:, 0]


def _given(embeddings: Embeddings, labels: str | Path | Mapping[str, str] | None) -> dict[int, str]:
    """Labels by row."""
    if labels is None:
        found = {row: label for row, label in enumerate(embeddings.labels) if label is not None}
        if not found:
            raise GlocalError(
                f"{embeddings.folder}: its images have no labels; give some as a table (CSV) of key,label"
            )
        return found
    if isinstance(labels, Mapping):
        names = Names(embeddings)
        return {names.row(key, "labels", Path()): label for key, label in labels.items()}
    return _read_labels(embeddings, Path(labels))


def _read_labels(embeddings: Embeddings, path: Path) -> dict[int, str]:
    names, first_line = Names(embeddings), dict[int, int]()
    found: dict[int, str] = {}
    skipped: list[str] = []
    for line, name, label in _lines(path):
        if not label:
            continue  # tables of all images, labelled in part, leave the cell empty
        if names.skipped(name):
            skipped.append(name)
            continue
        row = names.row(name, f"{path}, line {line}", path.parent)
        if found.setdefault(row, label) != label:
            raise GlocalError(
                f"{path}, line {line}: {name} is {label} here, but {found[row]} on line {first_line[row]}"
            )
        first_line.setdefault(row, line)
    tell_of_skipped(path, skipped)
    if not found:
        raise GlocalError(f"{path}: there is no label in it; write lines of key,label")
    return found


def _lines(path: Path) -> list[tuple[int, str, str]]:
    """Number, image and label of each line of a table, with a header or without."""
    lines = table_lines(path)
    if not lines:
        raise GlocalError(f"{path}: the table is empty; write lines of key,label")
    names, labels = (column_of(known, lines[0][1]) for known in (HEADERS, _LABELS))
    if names is None or labels is None:
        names, labels = 0, 1
        if len(lines[0][1]) != 2:
            raise GlocalError(
                f"{path}: write two columns, key,label, or name columns so in the first line, "
                f"which is {','.join(lines[0][1])}"
            )
    else:
        lines = lines[1:]
    for number, cells in lines:
        if len(cells) <= max(names, labels):
            raise GlocalError(f"{path}, line {number}: an image and a label are expected, quoted where it has a comma")
    return [(number, cells[names], cells[labels]) for number, cells in lines]


def write_table(found: Proposal, embeddings: Embeddings, path: Path, *, at_least: float = 0.0) -> None:
    """Writes all images as CSV: proposed labels, the most certain first, then given ones.

    Of a given label, `proposed` and `confidence` are what the other labelled images say.

    Args:
        found: the labels.
        embeddings: of the images.
        path: the file.
        at_least: proposals of less confidence stay without a label.
    """
    keys, paths, classes = embeddings.keys, embeddings.paths, found.classes
    rows = []
    for part, places, origin in (
        (found.proposed, found.rest.tolist(), "proposed"),
        (found.left_out, found.labelled.tolist(), "given"),
    ):
        for place in part.confidence.argsort(descending=True, stable=True).tolist():
            row, confidence, vote = places[place], float(part.confidence[place]), classes[int(part.label[place])]
            given = int(found.given[row])
            label = classes[given] if given >= 0 else vote if confidence >= at_least else ""
            nearest = keys[int(part.neighbors[place, 0])]
            rows.append(
                (
                    keys[row],
                    label,
                    f"{confidence:.4f}",
                    origin,
                    vote,
                    nearest,
                    f"{part.similarity[place]:.4f}",
                    paths[row],
                )
            )
    header = ("key", "label", "confidence", "origin", "proposed", "nearest_labelled", "similarity", "path")
    write_csv(path, header, rows)


def write_page(found: Proposal, embeddings: Embeddings, path: Path, count: int = 40) -> None:
    """Writes as a sheet, each beside its nearest labelled images: given labels that the others contradict, and the
    proposals that are least certain, which are worth labelling by hand."""
    doubtful = found.doubtful()[:count].tolist()
    least = found.proposed.confidence.argsort(stable=True)[:count].tolist()
    sections = [
        *(_section(found, embeddings, found.left_out, place, int(found.labelled[place])) for place in doubtful),
        *(_section(found, embeddings, found.proposed, place, int(found.rest[place])) for place in least),
    ]
    text = [
        f"{len(doubtful)} given labels that the nearest labelled images contradict, then the {len(least)} proposals "
        "that are least certain. Each image has a frame; its nearest labelled images stand beside it.",
    ]
    write_sheet(path, f"Labels of {os.path.basename(embeddings.folder)}", sections, text)


def _section(found: Proposal, embeddings: Embeddings, votes: Votes, place: int, row: int) -> Section:
    near = votes.neighbors[place, :_SHOWN].tolist()
    name = found.classes[int(votes.label[place])]
    given = int(found.given[row])
    own = f"given: {found.classes[given]}" if given >= 0 else "not labelled"
    captions = [[own], *([found.classes[int(found.given[other])]] for other in near)]
    title = f"{embeddings.keys[row]}: {name} by {votes.confidence[place]:.0%} of the votes"
    title += f", but labelled {found.classes[given]}" if given >= 0 else ""
    return Section(title, tiles(embeddings, [row, *near], captions, [True] + [False] * len(near)))


def write_labelled(found: Proposal, embeddings: Embeddings, path: Path, at_least: float) -> int:
    """Writes given labels and certain proposals as a table of path,label: a source of labelled images. Returns their
    number.

    Raises:
        GlocalError: an image is no file of its own.
    """
    sure = found.proposed.confidence >= at_least
    rows = [
        *((row, int(found.given[row])) for row in found.labelled.tolist()),
        *zip(found.rest[sure].tolist(), found.proposed.label[sure].tolist(), strict=True),
    ]
    missing = next((row for row, _ in rows if embeddings.paths[row] is None), None)
    if missing is not None:
        raise GlocalError(f"{path}: {embeddings.keys[missing]} is no file of its own, so no table can name it")
    cells = ((embeddings.paths[row], found.classes[number]) for row, number in sorted(rows))
    write_csv(path, ("path", "label"), cells, opened=True)
    return len(rows)


def tables(found: Proposal) -> list[Table]:
    """How right the votes are by confidence and by class, for the eye."""
    return [_of_levels(found), _of_classes(found)]


def remarks(found: Proposal) -> list[str]:
    """What to know of the labels, in sentences."""
    said = [
        f"{len(found.labelled):,} labelled images, each voted on by {found.k} of the others: "
        f"{found.accuracy:.1f} % right, where always the largest class would be {_largest(found):.1f} %; "
        f"{len(found.rest):,} proposals"
    ]
    doubtful = len(found.doubtful())
    if doubtful:
        said.append(f"{counted(doubtful, 'given label')} that 90 % of the votes contradict: --out FILE.html shows them")
    few = _too_few(found)
    return [*said, *([few] if few else [])]


def _largest(found: Proposal) -> float:
    """The share of the class with most labelled images, in percent."""
    counts = [count for count, _ in found.per_class.values()]
    return 100 * max(counts) / max(1, sum(counts))


def _of_levels(found: Proposal) -> Table:
    table = Table(title="by confidence", title_justify="left")
    for column in ("at least", "right, left out one at a time", "of the labelled", "of the rest"):
        table.add_column(column, justify="right")
    for level in found.levels():
        right = "" if level.right is None else f"{level.right:.1%}"
        rest = "" if level.rest is None else f"{level.rest:.1%}"
        table.add_row(f"{level.at_least:g}", right, f"{level.labelled:.1%}", rest)
    return table


def _of_classes(found: Proposal) -> Table:
    table = Table(title="by class, the worst first", title_justify="left")
    for column in ("class", "labelled", "right, left out one at a time", "proposed"):
        table.add_column(column, justify="left" if column == "class" else "right")
    proposed = Counter(found.proposed.label.tolist())
    number = {name: place for place, name in enumerate(found.classes)}
    for name, (count, right) in sorted(found.per_class.items(), key=lambda item: item[1][1])[:20]:
        table.add_row(name_cell(name), f"{count:,}", f"{right:.1f}%", f"{proposed[number[name]]:,}")
    return table


def _too_few(found: Proposal) -> str | None:
    few = [f"{name} ({count})" for name, (count, _) in found.per_class.items() if count < FEW]
    if not few:
        return None
    some = ", ".join(few[:10]) + (", …" if len(few) > 10 else "")
    return (
        f"{len(few)} of {len(found.classes)} classes have fewer than {FEW} labelled images: {some}; "
        f"with k={found.k} neighbours others can outvote them, and what is said of them is worth little"
    )
