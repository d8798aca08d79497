"""What every protocol gets: a backbone, images, and features of them that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glocal.data.decoding.rules import Decoding
from glocal.data.ranges import decode_alike, range_of
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.fingerprint import fingerprint
from glocal.data.sources.labelled import has_no_labels
from glocal.data.sources.opening import Images, open_source
from glocal.errors import BrokenImageError, GlocalError, did_you_mean
from glocal.evaluation.features.cache import FeatureCache, Kept
from glocal.evaluation.features.extraction import (
    POOLED,
    Extractor,
    Features,
    Readout,
    channels_of,
    extract,
    interpolation_of,
    with_labels,
)
from glocal.files import make_folder
from glocal.settings import Settings
from glocal.views.crops import Interpolation

_FORMAT = 1  # of kept features: another number whenever images come to backbones in another way


class Measurement(NamedTuple):
    """What a protocol found with one setting.

    Attributes:
        setting: what was chosen or given, in a few words: "k=20", "SGD, lr=0.1".
        metrics: by name; accuracies, precisions and the like in percent.
    """

    setting: str
    metrics: dict[str, float]


class LabelledPair(NamedTuple):
    """Features of training and test images whose labels count the same classes.

    Attributes:
        train, test: (N, D) and (M, D) float32 on the CPU.
        train_labels, test_labels: (N,) and (M,) int64.
        classes: names of the classes.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: list[str]


@dataclass(frozen=True)
class Bench:
    """A backbone and images, on which protocols measure.

    Attributes:
        backbone: on its device.
        train, val, test: labelled images, where they were given.
        device: where probes are computed.
        workers: processes that decode images; None chooses.
        progress: show progress bars.
        out: folder for pictures and tables; None writes none.
        cache: keeps features on the disk; None keeps them only for this bench.
        shared: several processes measure the same, and share the images of which features are computed.
        resolved: what the protocol that runs made of settings that were null.
    """

    backbone: Extractor
    train: Source | None = None
    val: Source | None = None
    test: Source | None = None
    device: str = "cpu"
    workers: int | None = None
    progress: bool = True
    out: Path | None = None
    cache: FeatureCache | None = None
    shared: bool = False
    resolved: dict[str, Any] = field(default_factory=dict, repr=False)
    _decoded: dict[int, Source] = field(default_factory=dict, repr=False)
    _unreadable: dict[int, list[str]] = field(default_factory=dict, repr=False)
    _kept: dict[tuple[str, int], tuple[Source, Features]] = field(default_factory=dict, repr=False)
    _fingerprint: list[str] = field(default_factory=list, repr=False)

    def open(self, name: Images, *, beside: Sequence[Source] = ()) -> Source:
        """Opens images that a protocol asks for, to be decoded like those that they are compared with.

        Args:
            name: what `glocal.data.sources.opening.open_source` opens.
            beside: other images that this bench has decoded.

        Raises:
            GlocalError: there is no such source.
        """
        source = open_source(name, values=channels_of(self.backbone) is not None)
        self.decode(*beside, source)
        return source

    def decode(self, *sources: Source) -> None:
        """Lets images that are compared with one another be decoded alike: as those of the backbone's training were.

        Where it is not known how these were, the range of what was decoded before is kept, or else measured on the
        first source that has values beyond 8 bits. What is decoded once stays so.
        """
        given = [(_whole(source), source) for source in sources]
        fresh = [source for whole, source in given if id(whole) not in self._decoded]
        if not fresh:
            return
        decoding: Decoding | None = getattr(self.backbone, "decoding", None)
        if decoding is None or (decoding.value_range is None and decoding.channels is None):
            before = (range_of(whole) for whole, _ in given if id(whole) in self._decoded)
            known = next((values for values in before if values is not None), None)
            decoding = Decoding(known, None if decoding is None else decoding.max_pixels)
        decode_alike(fresh, decoding)
        self._decoded.update((id(whole), whole) for whole, _ in given)  # itself, so that no other one gets its id

    def features(self, source: Source, readout: Readout = POOLED, *, batch_size: int = 256) -> Features:
        """The features of all readable images of a source, from memory or the disk where they are there.

        Raises:
            GlocalError: no image in the source can be read.
        """
        place = (readout.name, id(source))
        if place in self._kept:
            return self._kept[place][1]

        def compute() -> Kept:
            found = extract(
                self.backbone,
                source,
                readout,
                batch_size=batch_size,
                workers=self.workers,
                progress=self.progress,
                shared=self.shared,
            )
            skipped = [[error.key, error.reason] for error in found.skipped]
            return {"features": found.features, "index": found.index}, skipped

        tensors, skipped = self.remember(
            source,
            {"readout": readout.name, "size": self.backbone.size, **self.resized(readout.interpolation)},
            compute,
        )
        errors = [BrokenImageError(key, reason) for key, reason in skipped]
        found = with_labels(source, tensors["features"], tensors["index"], errors)
        self._kept[place] = (source, found)  # with the source, so that no other one gets its id
        return found

    def remember(self, source: Source, key: dict[str, Any], compute: Callable[[], Kept]) -> Kept:
        """What `compute` made of this backbone and a source, kept on the disk where both say what they hold.

        Args:
            source: the images.
            key: what else decides the result, as JSON.
            compute: returns tensors on the CPU, and JSON.
        """
        self.decode(source)  # where the protocol has not done it, with those that it is compared with
        images = fingerprint(source)
        backbone = self.fingerprint()
        if self.cache is None or images is None or backbone is None:
            return compute()
        return self.cache.remember({"format": _FORMAT, "backbone": backbone, "images": images, **key}, compute)

    def resized(self, asked: Interpolation | None = None) -> dict[str, Any]:
        """What a key of kept features says of an interpolation that is the backbone's own: nothing if bilinear."""
        own = interpolation_of(self.backbone)
        return {"interpolation": own} if asked is None and own != "bilinear" else {}

    def skipped(self, source: Source) -> list[str]:
        """The images of a source that could not be read when its features were computed, or that a protocol named."""
        if id(source) in self._unreadable:
            return self._unreadable[id(source)]
        errors = (found.skipped for kept, found in self._kept.values() if kept is source)
        return [error.key for error in next(errors, [])]

    def leave_out(self, source: Source, keys: Sequence[str]) -> None:
        """Says for the record which images of `train`, `val` or `test` a protocol could not read by itself."""
        self._unreadable[id(source)] = sorted(set(keys))

    def resolve(self, **settings: Any) -> None:
        """Says for the record what settings became that were null, as JSON."""
        self.resolved.update(settings)

    def fingerprint(self) -> str | None:
        """The backbone's fingerprint, computed once; None where it has none."""
        function = getattr(self.backbone, "fingerprint", None)
        if function is None:
            return None
        if not self._fingerprint:
            self._fingerprint.append(function())
        return self._fingerprint[0]

    def labelled(self, readout: Readout = POOLED) -> LabelledPair:
        """Features of `train` and `test`, whose labels count the classes of `train`; classes go by name.

        Raises:
            GlocalError: they were not given or have no labels, or a test class is not among the training classes.
        """
        train, test, _ = self.sources()
        return self.pair(train, test, readout)

    def sources(self) -> tuple[Source, Source, Tensor]:
        """`train`, `test`, and for each class of `test` its number among those of `train`, (C,) int64.

        Raises:
            GlocalError: as `labelled`.
        """
        train, test = self._with_labels(self.train, "train"), self._with_labels(self.test, "test")
        return train, test, _class_numbers(train, test)

    def pair(self, train: Source, test: Source, readout: Readout = POOLED) -> LabelledPair:
        """`labelled` of two other sources."""
        mapping = _class_numbers(train, test)  # before anything is computed
        bank, queries = self.features(train, readout), self.features(test, readout)
        assert bank.labels is not None and queries.labels is not None and train.classes is not None  # noqa: PT018
        return LabelledPair(bank.features, bank.labels, queries.features, mapping[queries.labels], train.classes)

    def moved(self, **sources: Source | None) -> Bench:
        """The same bench for other images: `bench.moved(train=…, test=…)`; it shares what was computed."""
        return replace(self, **sources)  # type: ignore[arg-type]

    def picture(self, name: str) -> Path | None:
        """Where a protocol writes a picture or a table of its own; None where nothing is written."""
        if self.out is None:
            return None
        make_folder(self.out)
        return self.out / name

    def _with_labels(self, source: Source | None, what: str) -> Source:
        if source is None:
            raise GlocalError(f"this protocol needs labelled images: give --{what}")
        return source


def _whole(source: Source) -> Source:
    while isinstance(source, Subset):
        source = source.source
    return source


def _class_numbers(train: Source, test: Source) -> Tensor:
    for source in (train, test):
        if source.labels is None or source.classes is None:
            raise GlocalError(has_no_labels(source))
    assert train.classes is not None and test.classes is not None  # noqa: PT018
    return classes_by_name(train.classes, test.classes, test.name)


def classes_by_name(train: Sequence[str], test: Sequence[str], source: str) -> Tensor:
    """For each class of `source` the number of the training class of that name, (C,) int64.

    Raises:
        GlocalError: a class is not among the training classes.
    """
    number = {name: place for place, name in enumerate(train)}
    for name in test:
        if name not in number:
            raise GlocalError(
                f"{source}: class {name!r} is not among the training classes; {did_you_mean(name, number)}"
            )
    return torch.tensor([number[name] for name in test])


@dataclass(frozen=True)
class Protocol:
    """A way to measure a backbone; each file in `glocal/evaluation/protocols/` defines one named PROTOCOL.

    Attributes:
        name: as in the file's name.
        summary: one line for the list of protocols.
        settings: the type of its settings, all with defaults; one whose images lie in a folder of a format of its own
            has `data: str | None`, which `--data NAME=PATH` sets.
        measure: does it.
        labels: it needs `train` and `test` with labels.
        data: what `data` must name, in one sentence: which files, where they come from; "" where there is none. A
            protocol that has both takes `data` where it is given, else the labelled images.
        usual: it is among those that `all` stands for, where what it needs is given …
        rgb: it is of colours, so a backbone for other channels cannot be measured by it.
        too_much: … unless this says in a sentence that it would take too long on these images; "" where it does not.
    """

    name: str
    summary: str
    settings: type[Settings]
    measure: Callable[[Bench, Any], list[Measurement]]
    labels: bool = True
    data: str = ""
    usual: bool = True
    rgb: bool = False
    too_much: Callable[[Bench, Any], str] = lambda bench, settings: ""

    def missing(self, settings: Settings, *, labelled: bool) -> str:
        """What was not given that the protocol needs, as a sentence; "" where nothing is missing."""
        if (self.labels and labelled) or (self.data and getattr(settings, "data", None) is not None):
            return ""
        ways = []
        if self.labels:
            ways.append("labelled images to learn from and to measure on: --train, --test")
        if self.data:
            ways.append(f"--data {self.name}=PATH: {self.data}")
        return f"protocol {self.name} needs {'; or '.join(ways)}" if ways else ""
