"""What is wrong with a set of images, found before a training finds it or, worse, does not."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from glocal.curation.copied import copies
from glocal.curation.faults import faults_of, labels_of_test
from glocal.curation.findings import CheckedSet, Finding, Part, Report
from glocal.curation.measuring import measure_all
from glocal.data.decoding.rules import Decoding
from glocal.data.ranges import range_of, settle_decoding
from glocal.data.settings import DataSettings
from glocal.data.sources.opening import Images, open_source
from glocal.errors import GlocalError, counted
from glocal.files import cache_folder


def check(
    data: Images,
    test: Images | None = None,
    *,
    near: bool = True,
    cache: bool | Path = True,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Looks for what is wrong with a set of images before a training.

    Unreadable files, exact and near copies, odd sizes, blank, dark, overexposed and blurred images, grey ones among
    colour, EXIF rotations, unusual kinds of pixels, unequal and empty classes; with `test`, test images that are also
    among those to learn from. Every file is read and decoded once, and again only when it has changed.

    Args:
        data: images to learn from: a source or its name, or several.
        test: images to measure on.
        near: look for near copies by perceptual hashes, which needs `imagehash`; without it, exact copies alone.
        cache: keep what is measured: in $GLOCAL_CACHE or ~/.cache/glocal/features, or in the folder given.
        workers: processes that read and decode; None chooses.
        progress: show how far it is.

    Raises:
        GlocalError: no such images.
        Stopped: after a signal that means stop; the same call goes on.
    """
    notes = []
    if near and importlib.util.find_spec("imagehash") is None:
        near = False
        notes.append("near copies were not looked for, which needs imagehash: pip install 'glocal[duplicates]'")
    parts: list[tuple[Part, Images]] = [("data", data)]
    if test is not None:
        parts.append(("test", test))
    sources = [(part, open_source(images)) for part, images in parts]
    folder = None if cache is False else cache_folder() / "checks" if cache is True else Path(cache)
    sets = []
    for part, source in sources:
        settle_decoding(DataSettings(), source, progress=False)
        measures = measure_all(source, hashed=near, cache=folder, workers=workers, progress=progress)
        sets.append(CheckedSet(part, source, measures))
    if not any(bool(one.readable.any()) for one in sets):
        raise GlocalError(f"{sets[0].source.name}: none of its {len(sets[0])} images can be read")
    findings: list[Finding] = []
    for one in sets:
        findings += faults_of(one)
    findings = [*copies(sets, near, notes), *labels_of_test(sets), *_merged(findings)]
    order = {"bad": 0, "odd": 1, "note": 2}
    findings.sort(key=lambda finding: order[finding.severity])
    decoding = {one.part: Decoding(range_of(one.source)) for one in sets}
    return Report([_summary(one) for one in sets], findings, notes, decoding)


def _summary(one: CheckedSet) -> str:
    classes = f", {len(one.source.classes):,} classes" if one.source.classes else ""
    if not one.readable.any():
        return f"{one.source.name}: {counted(len(one), 'image')}{classes}"
    width, height = np.nanmedian(one.sides, axis=0)
    return f"{one.source.name}: {len(one):,} images{classes}, median {width:.0f} × {height:.0f} pixels"


def _merged(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Findings of the same name in both sets as one."""
    by_name: dict[str, list[Finding]] = {}
    for finding in findings:
        by_name.setdefault(finding.name, []).append(finding)
    for name, same in by_name.items():
        amount = "; ".join(dict.fromkeys(one.amount for one in same))
        images = [image for one in same for image in one.images]
        examples = [example for one in same for example in one.examples]
        if len(same) > 1 and images:
            amount = f"{len(images):,}"
        yield Finding(name, same[0].severity, amount, same[0].advice, images, examples)
