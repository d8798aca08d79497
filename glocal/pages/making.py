"""`glocal.write_report`: what a run, or several, have learned, as one page."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from glocal.data.ranges import decode_alike
from glocal.data.sources.base import Source
from glocal.data.sources.opening import Images, open_source
from glocal.errors import GlocalError, counted, in_a_line
from glocal.files import check_output, write_text
from glocal.methods.logo import LoGoSettings
from glocal.models.attention import cls_attention
from glocal.models.loading import load_backbone
from glocal.pages.curves import charts, draw
from glocal.pages.document import Part, escaped, verdict_list, write_page
from glocal.pages.evaluations import measured_tables
from glocal.pages.looks import attention_pictures, draw_looks
from glocal.pages.record import Record, read_record
from glocal.pages.sample import Sample, look_at
from glocal.pages.scatter import data_of, draw_map
from glocal.pages.sprites import Sprites, make_sprites
from glocal.pages.verdict import verdict
from glocal.report.affinity import draw_affinity
from glocal.report.maps import MAPS, Map, check_map
from glocal.report.preview import preview
from glocal.report.sheets import data_address
from glocal.views.random import permutation

MOST = 20_000
"""Images of a map; of more, a sample is drawn."""

_LOOKS, _ROWS, _PAIRS, _OUTLIERS, _BROKEN = 4, 8, 8, 16, 10


def write_report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    data: Images | None = None,
    images: int = MOST,
    kind: Map = "tsne",
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Writes a page about a run, or about several side by side, that holds all it shows and needs no network.

    In this order: a verdict in words; curves; what was measured, beside print; the embeddings of the images as a map,
    where hover shows an image and a click its nearest neighbours; views with their crops; matched patches and attention
    of vision transformers; neighbours of random images; LoGo's affinity; images that look odd.

    Args:
        runs: folders of runs; a run that goes on is shown as it stands.
        out: the .html file.
        data: the images; None takes those of the first run.
        images: at most so many are embedded, a sample of each class or folder; 0: no map.
        kind: tsne, or umap (package umap-learn).
        seed: chooses the images.
        progress: show progress.

    Returns:
        The file.

    Raises:
        GlocalError: no run, images that cannot be opened, or nothing can be written there. A part that cannot be made
            says so on the page instead.
    """
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    if not folders:
        raise GlocalError("no run: name the folder of one or more")
    places = Counter(Path(folder).resolve() for folder in folders)
    for place, count in places.items():
        if count > 1:
            raise GlocalError(f"{place} is named {count} times; name each run once")
    check_map(kind)
    names = _names([Path(folder) for folder in folders])
    records = [read_record(folder, name) for folder, name in zip(folders, names, strict=True)]
    out = Path(out)
    check_output(out, (".html",))  # makes its folder, which may be a run's: a mistyped one is told before
    page = _Page(records, data, images, kind, seed, progress)
    write_text(out, page.text())
    return out


def _names(folders: Sequence[Path]) -> list[str]:
    names = [folder.resolve().name for folder in folders]
    count = Counter(names)
    return [name if count[name] == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


class _Page:
    """The parts of a page while they are made."""

    def __init__(
        self, records: list[Record], data: Images | None, images: int, kind: Map, seed: int, progress: bool
    ) -> None:
        self.records, self.data = records, data
        self.images, self.kind, self.seed, self.progress = images, kind, seed, progress
        self.figures: dict[str, Any] = {}
        self.shown: list[tuple[Record, Sample]] = []  # the runs that have a map
        self.sprites = Sprites([], [])

    def text(self) -> str:
        """The whole page."""
        parts = [
            Part("Curves", self._curves()),
            Part("Measured", self._or_reason(partial(measured_tables, self.records))),
        ]
        trained = [one for one in self.records if one.has_checkpoint]
        if self.images and trained:
            parts += self._of_images(trained)
        names = " and ".join(one.name for one in self.records)
        shown = None
        if self.shown:
            shown = {"places": self.sprites.places, "maps": [data_of(sample) for _, sample in self.shown]}
        style = self.sprites.css() if self.shown else ""
        return write_page(f"{names}: what was learned", self._head(), parts, self.figures, style=style, data=shown)

    def _head(self) -> str:
        lines = []
        for one in self.records:
            recipe = one.recipe
            words = f"{recipe.method.name}, {recipe.model.name}, {recipe.data.source or ''}; {recipe.name}"
            heading = f"<h3>{escaped(one.name)}</h3>" if len(self.records) > 1 else ""
            lines.append(f'{heading}<p class="quiet">{escaped(words)}</p>{verdict_list(verdict(one))}')
        made = datetime.now().strftime("%Y-%m-%d %H:%M")
        return "".join(lines) + f'<p class="quiet">Written {made} by <code>glocal report</code>.</p>'

    def _curves(self) -> str:
        for chart in charts(self.records):
            self.figures[f"curve-{chart.key}"] = draw(chart)
        names = [name for name in self.figures if name.startswith("curve-")]
        if not names:
            return "<p>Nothing has been logged yet.</p>"
        return '<div class="grid">' + "".join(f"<div>{{{{{name}}}}}</div>" for name in names) + "</div>"

    def _of_images(self, trained: list[Record]) -> list[Part]:
        sources: dict[str, Source] = {}
        for one in trained:
            try:
                sources[one.name] = self._source(one)
            except Exception as error:
                if isinstance(error, GlocalError) and self.data is not None and not isinstance(self.data, Source):
                    raise  # it was asked for
                return [Part("Map of the embeddings", f"<p>The images cannot be opened: {_in_a_line(error)}</p>")]
        made: list[tuple[str, Callable[[], str]]] = [
            ("Map of the embeddings", partial(self._map, trained, sources)),
            ("Views", partial(self._views, trained, sources)),
            ("Patches and attention", partial(self._patches, trained, sources)),
            ("Nearest neighbours", self._neighbors),
            ("Learned affinity", partial(self._affinity, trained, sources)),
            ("Suspicious images", self._suspicious),
        ]
        parts = [Part(title, self._or_reason(make)) for title, make in made]
        return [part for part in parts if part.body]

    def _or_reason(self, make: Callable[[], str]) -> str:
        """A part, or why it cannot be made: the rest of the page is worth having."""
        try:
            return make()
        except Exception as error:
            return f"<p>{_in_a_line(error)}</p>"

    def _source(self, record: Record) -> Source:
        decoding = record.recipe.data.decoding
        given = self.data if self.data is not None else self.records[0].recipe.data.source or ""
        source = open_source(given, values=decoding.channels is not None)
        decode_alike([source], decoding)
        return source

    def _map(self, trained: list[Record], sources: Mapping[str, Source]) -> str:
        """The maps side by side; a run that has none says why in its place."""
        body = []
        for one in trained:
            heading = f"<h3>{escaped(one.name)}</h3>" if len(trained) > 1 else ""
            shown = self._or_reason(partial(self._one_map, one, sources[one.name], alone=len(trained) == 1))
            body.append(f"<div>{heading}{shown}</div>")
        grid = f'<div class="grid">{"".join(body)}</div>'
        if not self.shown:
            return grid
        first = self.shown[0][1]
        clusters = f" Clusters are those of {escaped(self.shown[0][0].name)}." if len(trained) > 1 else ""
        choices = "".join(f"<option>{escaped(name)}</option>" for name in first.groups)
        return (
            f"<p>{MAPS[self.kind]} of {_counted(first)}. Near points are images that the network finds alike; "
            "distances between far groups mean little. Hover shows an image, a click its nearest neighbours."
            f"{clusters}</p>"
            f'<p>Colours: <select id="colour-by">{choices}</select></p><div class="legend" id="legend"></div>{grid}'
        )

    def _one_map(self, one: Record, source: Source, *, alone: bool) -> str:
        options: dict[str, Any] = {"most": self.images, "kind": self.kind, "seed": self.seed, "progress": self.progress}
        options["device"] = "cpu" if one.recipe.train.device == "cpu" else "auto"
        with tempfile.TemporaryDirectory(prefix="glocal-report-") as folder:
            sample = look_at(one.folder, source, Path(folder) / "embeddings", **options)
        if self.shown and sample.keys != self.shown[0][1].keys:
            raise GlocalError("this run could not read the same images, so its map cannot stand beside the first")
        if self.shown:  # where the clusters of one run lie in the map of another
            sample.groups["cluster"] = self.shown[0][1].groups["cluster"]
        sprites = self.sprites if self.shown else make_sprites(sample.thumbnails)
        number = len(self.shown)
        figure = draw_map(sample, sprites, number, height=560 if alone else 420)
        self.sprites = sprites
        self.figures[f"map-{number}"] = figure
        self.shown.append((one, sample))
        return f'{{{{map-{number}}}}}<div id="neighbors-{number}"></div>'

    def _thumb(self, number: int, words: str = "", *, first: bool = False) -> str:
        look = f'class="thumb{" first" if first else ""}" style="{self.sprites.style(number)}"'
        return f'<figure title="{escaped(self.shown[0][1].keys[number])}"><i {look}></i>{escaped(words)}</figure>'

    def _neighbors(self) -> str:
        if not self.shown:
            return ""
        drawn = permutation(len(self.shown[0][1]), self.seed, "report rows")[:_ROWS].tolist()
        lines = ["<p>Random images, each followed by those that the network finds most alike, with the cosine.</p>"]
        for one, sample in self.shown:
            lines.append(f"<h3>{escaped(one.name)}</h3>" if len(self.shown) > 1 else "")
            for number in drawn:
                pairs = zip(sample.neighbors[number].tolist(), sample.similarity[number].tolist(), strict=True)
                row = [self._thumb(number, first=True), *(self._thumb(other, f"{value:.2f}") for other, value in pairs)]
                lines.append(f'<div class="thumbs">{"".join(row)}</div>')
        return "".join(lines)

    def _drawn(self, source: Source, count: int) -> torch.Tensor:
        """Places of a few images in the source, those of the sample where there is one, for they can be read."""
        known = self.shown[0][1].chosen if self.shown else torch.arange(len(source))
        return known[permutation(len(known), self.seed, "report looks")[:count]]

    def _views(self, trained: list[Record], sources: Mapping[str, Source]) -> str:
        lines = ["<p>What the network is shown of an image: each box is a crop, in the colour of its view.</p>"]
        for one in trained:
            if one is trained[0] or one.recipe.views != trained[0].recipe.views:
                lines.append(f"<h3>{escaped(one.name)}</h3>" if len(trained) > 1 else "")
                source = sources[one.name]
                lines += draw_looks(source, one.recipe, self._drawn(source, _LOOKS))
        return "".join(lines)

    def _patches(self, trained: list[Record], sources: Mapping[str, Source]) -> str:
        lines = []
        for one in trained:
            backbone = load_backbone(one.folder)
            if not backbone.has_cls_token:
                continue
            source = sources[one.name]
            places = self._drawn(source, _LOOKS)
            images = backbone.squares([source[place].image for place in places.tolist()])
            lines.append(f"<h3>{escaped(one.name)}: what the CLS token attends to</h3>")
            lines.append(attention_pictures(images, cls_attention(backbone, images)))
            if len(one.recipe.views or ()) and hasattr(one.recipe.method, "matching"):
                lines.append(f"<h3>{escaped(one.name)}: matched patches of two views</h3>")
                options: dict[str, Any] = {
                    "recipe": one.folder / "recipe.yaml",
                    "match": (0, 1),
                    "index": int(places[0]),
                }
                lines.append(_png(partial(preview, [source], **options)))
        return "".join(lines)

    def _affinity(self, trained: list[Record], sources: Mapping[str, Source]) -> str:
        lines = []
        for one in trained:
            settings = one.recipe.method
            if isinstance(settings, LoGoSettings) and settings.variant == "logo":
                lines.append(
                    "<p>A local crop beside forty others: how alike LoGo's regressor and the cosine find them (LoGo's "
                    f"supplement, Figure 2).</p><h3>{escaped(one.name)}</h3>"
                )
                lines.append(_png(partial(draw_affinity, one.folder, data=[sources[one.name]])))
        return "".join(lines)

    def _suspicious(self) -> str:
        if not self.shown:
            return ""
        one, sample = self.shown[0]
        broken = list(dict.fromkeys([*one.broken, *sample.broken]))
        lines = []
        if broken:
            lines.append(f"<h3>Unreadable: {counted(len(broken), 'image')}</h3><p>{_listed(broken)}</p>")
        copies = _closest_pairs(sample)[:_PAIRS]
        if copies:
            pairs = "".join(
                f'<div class="pair"><div>{self._thumb(a)}{self._thumb(b)}</div>{value:.3f}</div>'
                for a, b, value in copies
            )
            of = f" (as {escaped(one.name)} sees them)" if len(self.shown) > 1 else ""
            words = f"The pairs that are most alike{of}, with the cosine of their features: are they copies?"
            lines.append(f'<h3>Most alike</h3><p>{words}</p><div class="thumbs">{pairs}</div>')
        if sample.outliers:
            shown = "".join(self._thumb(number) for number in sample.outliers[:_OUTLIERS])
            words = f"Far from all others: {counted(len(sample.outliers), 'image')}"
            lines.append(f'<h3>{words}</h3><div class="thumbs">{shown}</div>')
        commands = "<code>glocal check</code>, <code>glocal duplicates</code> and <code>glocal outliers</code>"
        return "".join(lines) + f"<p class=quiet>{commands} look closer, and at all images.</p>"


def _closest_pairs(sample: Sample) -> list[tuple[int, int, float]]:
    """Pairs of images that are nearest to one another, the most alike first, each once."""
    first = sample.neighbors[:, 0]
    value, order = sample.similarity[:, 0].sort(descending=True)
    found = [
        (number, int(first[number]), float(alike))
        for number, alike in zip(order.tolist(), value.tolist(), strict=True)
        if not (int(first[int(first[number])]) == number and int(first[number]) < number)
    ]
    return found


def _counted(sample: Sample) -> str:
    """Of how many images a map is, in words."""
    number, all_ = len(sample), sample.of
    if number + len(sample.broken) == all_:
        return f"all {number:,} images" + (f" that can be read, of {all_:,}" if sample.broken else "")
    share = {"class": ", of each class its share", "folder": ", of each folder its share", "": ""}[sample.by]
    return f"{number:,} of {all_:,} images{share}"


def _in_a_line(error: Exception) -> str:
    return escaped(in_a_line(error))


def _listed(names: Sequence[str]) -> str:
    shown = "<br>".join(escaped(name.replace("\t", ": ")) for name in names[:_BROKEN])
    return shown + (f"<br>and {len(names) - _BROKEN:,} more in skipped.txt" if len(names) > _BROKEN else "")


def _png(draw_to: Callable[[Path], object]) -> str:
    """A picture that is drawn to a file, as HTML."""
    with tempfile.TemporaryDirectory(prefix="glocal-report-") as folder:
        path = Path(folder) / "picture.png"
        draw_to(path)
        return f'<img class="wide" alt="" src="{data_address(path.read_bytes())}">'
