"""Embeddings of the images of a source, written shard by shard: what is written stays, the rest is computed."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from glocal.console import note, progress_of
from glocal.data.lanes.central import CentralBatch, central_batches, in_batches
from glocal.data.lanes.skipped import tell_unreadable
from glocal.data.ranges import range_of
from glocal.data.sources.base import Source
from glocal.data.sources.fingerprint import fingerprint
from glocal.data.sources.opening import Images, names_of, open_source
from glocal.distributed import own_device, process_count, process_rank, processes_together, wait_for_all
from glocal.embeddings.continuing import BESIDE, is_whole, started
from glocal.embeddings.folder import ABOUT, SHARD_ROWS, About, Embeddings, shard_path
from glocal.embeddings.shards import vectors_column, write_shard
from glocal.errors import BrokenImageError, GlocalError, did_you_mean
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.extraction import Extractor, blank_image, channels_of, interpolation_of
from glocal.evaluation.features.opening import open_extractor
from glocal.files import harmless, printable, write_text
from glocal.models.backbone import Backbone
from glocal.models.loading import choose_device
from glocal.signals import Stopped, StopSignals
from glocal.transfer import to_device, to_host

SKIPPED = "skipped.txt"
THUMBNAIL = 96

Precision = Literal["fp32", "bf16"]

_FEW, _ROWS_OF_FEW = 65_536, 512  # sets below that have smaller shards, so that a stop costs little of them
_TOKEN_BYTES = 256 << 20  # of the patch tokens in a shard, at most
_BATCH, _GPU_BATCH = 32, 256


def embed(
    backbone: Extractor | str | Path,
    data: Images,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    tokens: bool = False,
    thumbnails: int | None = THUMBNAIL,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
    tell_broken: bool = True,
) -> Embeddings:
    """Computes the features of all images of a source into a folder, or goes on with a folder that is not complete.

    The features are those of `glocal.evaluate`: of central squares, pooled, as float16. Rows are in the source's order;
    images that cannot be read have none and are named in `skipped.txt`. Processes that torchrun started share the work.

    Args:
        backbone: as `glocal.evaluate` takes it: a run's folder, a checkpoint, `timm:NAME`, `untrained:RUN`, `pixels`,
            or a backbone itself.
        data: a folder of images or another source (`glocal.data.sources.opening.open_source`), or several. What lies
            in `out` is none of the images.
        out: the folder, made if it is not there.
        weights: with `timm:NAME`, a file of weights instead of those that timm knows.
        tokens: keep a vision transformer's patch tokens, too.
        thumbnails: the longer side of the small picture that is kept of each image; None keeps none.
        batch_size: images at a time; None is 256 on a GPU, 32 elsewhere.
        precision: in which the network computes; bf16 is by autocast.
        device: auto, cpu, cuda or mps.
        workers: processes that decode images; None chooses.
        progress: show progress.
        tell_broken: warn of images that cannot be read; `skipped.txt` names them either way.

    Returns:
        The embeddings, opened.

    Raises:
        GlocalError: wrong options; other embeddings are in `out`, or it cannot be written; no image can be read;
            features that are not finite or beyond float16.
        Stopped: Ctrl-C, SIGTERM or another signal that means stop (`glocal.signals`); the same call goes on after the
            last whole shard.

    >>> found = embed("runs/a", "photos/", "embeddings/photos")  # doctest: +SKIP
    """
    folder = Path(out)
    _check_options(folder, thumbnails, batch_size, precision)
    with processes_together():
        where = own_device(choose_device(device))
        opened = open_extractor(backbone, weights, device=where)
        source = open_source(data, without=folder, values=channels_of(opened) is not None)
        Bench(opened).decode(source)
        names = names_of(source)
        about = About(
            backbone=_place(backbone) if isinstance(backbone, str | Path) else printable(opened.label),
            weights=None if weights is None else _place(weights),
            label=printable(opened.label),
            fingerprint=Bench(opened).fingerprint(),
            source=printable(names) if isinstance(names, str) else [printable(name) for name in names],
            images=len(source),
            images_fingerprint=fingerprint(source),
            size=opened.size,
            interpolation=interpolation_of(opened),
            value_range=range_of(source),
            channels=channels_of(opened),
            channel_axis=None if channels_of(opened) is None else opened.decoding.channel_axis,  # type: ignore[attr-defined]
            precision=precision,
            classes=source.classes and [printable(name) for name in source.classes],
            thumbnails=thumbnails,
            **_shapes(opened, len(source), tokens=tokens),
        )
        on_gpu = where.startswith("cuda")
        work = Work(
            opened,
            source,
            started(folder, about),
            folder,
            torch.device(where if isinstance(opened, torch.nn.Module) else "cpu"),
            batch_size or (_GPU_BATCH if on_gpu else _BATCH),
            workers,
            progress,
        )
        finished = work.about.complete and not work.missing(work.about.shards)
        wait_for_all()  # embeddings.json is there, and no process has yet computed what another would miss
        if finished:
            found = Embeddings(folder)
            note(f"{folder} is finished ({len(found):,} images); nothing to do")
            return found
        work.write_missing()
        wait_for_all()
        if process_rank() == 0:
            _finish(work, tell_broken=tell_broken)
        wait_for_all()
        return Embeddings(folder)


def _check_options(folder: Path, thumbnails: int | None, batch_size: int | None, precision: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise GlocalError(f"{folder} is a file; out must be a folder")
    if precision not in ("fp32", "bf16"):
        raise GlocalError(f"precision {precision!r}: {did_you_mean(precision, ['fp32', 'bf16'])}")
    if thumbnails is not None and not 8 <= thumbnails <= 1024:
        raise GlocalError(f"thumbnails of {thumbnails} pixels: the longer side is 8 to 1024 pixels, 96 is usual")
    if batch_size is not None and batch_size < 1:
        raise GlocalError(f"a batch of {batch_size} images: it must be 1 at least")


def _place(name: str | Path) -> str:
    """A path as an absolute one, so that it is found from elsewhere; other names as they are."""
    return printable(os.path.abspath(name) if os.path.exists(name) else str(name))


def _shapes(backbone: Extractor, images: int, *, tokens: bool) -> dict[str, int | tuple[int, int]]:
    """Width of the vectors, of the patch tokens, and how many images go into a shard."""
    blank = blank_image(backbone)
    rows = SHARD_ROWS if images >= _FEW else min(SHARD_ROWS, _ROWS_OF_FEW)
    if not tokens:
        return {"dim": backbone.features(blank).shape[1], "shard_rows": rows}
    if not isinstance(backbone, Backbone):
        raise GlocalError(f"{backbone.label} has no patch tokens; choose a vision transformer")
    vector, patches = backbone.features_and_patches(blank)
    while rows > 1 and rows * patches.numel() * 2 > _TOKEN_BYTES:
        rows //= 2
    return {"dim": vector.shape[1], "tokens": (patches.shape[1], patches.shape[2]), "shard_rows": rows}


@dataclass(frozen=True)
class _Piece:
    """What a batch of images gives to a shard.

    Attributes:
        index, sizes, thumbnails, broken: as of `CentralBatch`.
        vectors: (B, D) float16.
        tokens: (B, P·D) float16, or None.
    """

    index: Tensor
    sizes: Tensor
    thumbnails: list[bytes]
    broken: list[BrokenImageError]
    vectors: np.ndarray
    tokens: np.ndarray | None


@dataclass(frozen=True)
class Work:
    """What is to be embedded, by what, and where to.

    Attributes:
        backbone: on its device.
        source: the images.
        about: what the folder says of itself.
        folder: of the embeddings.
        device: where images go.
        batch_size: images at a time.
        workers: processes that decode images; None chooses.
        progress: show progress.
    """

    backbone: Extractor
    source: Source
    about: About
    folder: Path
    device: torch.device
    batch_size: int
    workers: int | None
    progress: bool

    def missing(self, shards: Iterable[int]) -> list[int]:
        """Those of some shards that are not there, or damaged."""
        return [number for number in shards if not is_whole(shard_path(self.folder, number))]

    def positions(self, shard: int) -> range:
        """What a shard holds, in the source."""
        first = shard * self.about.shard_rows
        return range(first, min(first + self.about.shard_rows, self.about.images))

    def write_missing(self) -> None:
        """Computes and writes those of this process' shards that are not there; every so-many-th is its own.

        Raises:
            GlocalError: features that are not finite, or beyond float16.
            Stopped: after a signal that means stop; the last whole shard is written.
        """
        own = self.about.shards[process_rank() :: process_count()]
        missing = self.missing(own)
        total = sum(len(self.positions(number)) for number in own)
        done = total - sum(len(self.positions(number)) for number in missing)
        kept = done
        if done:
            note(f"{self.folder} goes on after {done:,} of {total:,} images")
        files: list[str] | None = self.source.files() if missing and hasattr(self.source, "files") else None
        parts = {number: in_batches(self.positions(number), self.batch_size) for number in missing}
        pieces = self._pieces([part for several in parts.values() for part in several])
        whose = "" if process_count() == 1 else f" (process 1 of {process_count()})"
        with (
            StopSignals() as stop,
            progress_of(
                f"embedding {printable(self.source.name)}{whose}", "images", total, done=done, visible=self.progress
            ) as advance,
            ThreadPoolExecutor(1) as disk,
            closing(pieces),
        ):
            written: Future[None] | None = None
            for number, several in parts.items():
                rows = []
                for part in several:
                    rows.append(next(pieces))
                    advance(len(part))
                    done += len(part)
                    if stop.received is not None:
                        said = f"stopped after {done:,} of {total:,} images, of which {kept:,} are kept"
                        raise Stopped(said, stop.received)
                if written is not None:
                    written.result()
                written = disk.submit(self._write, number, rows, files)  # while the next ones are computed
                kept += len(self.positions(number))
            if written is not None:
                written.result()

    def _pieces(self, parts: list[range]) -> Generator[_Piece]:
        """The rows of each part of the source, in order; a GPU has the next part before the host waits for one."""
        batches = central_batches(
            self.source,
            self.about.size,
            parts,
            workers=self.workers,
            interpolation=self.about.interpolation,
            thumbnail=self.about.thumbnails,
            pinned=self.device.type == "cuda",
        )
        ahead = 1 if self.device.type == "cuda" else 0
        waiting: deque[tuple[CentralBatch, Callable[[], list[Tensor]]]] = deque()
        with closing(batches):
            for batch in batches:
                waiting.append((batch, self._start(batch)))
                if len(waiting) > ahead:
                    yield self._piece(*waiting.popleft())
            while waiting:
                yield self._piece(*waiting.popleft())

    def _start(self, batch: CentralBatch) -> Callable[[], list[Tensor]]:
        """Gives the device a batch; what is returned waits for its features, (B, D) float32, and tokens, float16."""
        if len(batch.index) == 0:
            width = 0 if self.about.tokens is None else self.about.tokens[0] * self.about.tokens[1]
            nothing = [torch.empty(0, self.about.dim)]
            return lambda: nothing if self.about.tokens is None else [*nothing, torch.empty(0, width).half()]
        images = to_device(batch.images, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.about.precision == "bf16"):
            if self.about.tokens is None:
                return to_host(self.backbone.features(images))
            assert isinstance(self.backbone, Backbone)
            vectors, patches = self.backbone.features_and_patches(images)
            return to_host(vectors, patches.flatten(1).half())

    def _piece(self, batch: CentralBatch, wait: Callable[[], list[Tensor]]) -> _Piece:
        vectors, *tokens = wait()
        if not vectors.isfinite().all():
            raise GlocalError(
                f"{self.about.label} gives features that are infinite or no numbers for images of {self.source.name}; "
                "has its training diverged?"
            )
        patches = tokens[0].numpy() if tokens else None
        # Copies: what comes from the workers holds a file open each, until it is gone.
        index, sizes = batch.index.clone(), batch.sizes.clone()
        return _Piece(index, sizes, batch.thumbnails, batch.broken, _half(vectors), patches)

    def _write(self, number: int, pieces: list[_Piece], files: list[str] | None) -> None:
        """Writes a shard."""
        index = torch.cat([piece.index for piece in pieces])
        sizes = torch.cat([piece.sizes for piece in pieces]).numpy()
        places = index.tolist()
        columns = {
            "index": pa.array(index.numpy()),
            "key": pa.array([printable(self.source.keys[place]) for place in places], pa.string()),
            "path": pa.array([files and printable(files[place]) for place in places], pa.string()),
            "label": pa.array(_labels(self.source, index), pa.string()),
            "width": pa.array(np.ascontiguousarray(sizes[:, 1])),
            "height": pa.array(np.ascontiguousarray(sizes[:, 0])),
            "vector": vectors_column(np.concatenate([piece.vectors for piece in pieces])),
        }
        plain = ["vector"]
        if self.about.tokens is not None:
            kept = [piece.tokens for piece in pieces if piece.tokens is not None]
            columns["tokens"] = vectors_column(np.concatenate(kept))
            plain.append("tokens")
        if self.about.thumbnails is not None:
            columns["thumbnail"] = pa.array([one for piece in pieces for one in piece.thumbnails], pa.binary())
        broken = [[printable(error.key), error.reason] for piece in pieces for error in piece.broken]
        table = pa.table(columns).replace_schema_metadata({BESIDE: json.dumps({"unreadable": broken})})
        path = shard_path(self.folder, number)
        try:
            write_shard(path, table, plain=plain)
        except OSError as error:
            raise GlocalError(
                f"{path} cannot be written: {error.strerror}; the shards before it stay, and the same command goes on "
                "with them"
            ) from error


def _half(vectors: Tensor) -> np.ndarray:
    half = vectors.half()
    if half.isinf().any():
        raise GlocalError(
            f"a feature of {float(vectors.abs().max()):g} is beyond 65,504, which float16 cannot hold: so large are "
            "those of a network whose batch normalisation saw only a few steps, or which diverges; train for longer"
        )
    return half.numpy()


def _labels(source: Source, index: Tensor) -> list[str | None]:
    """Names of the classes of images; None where there is none."""
    if source.labels is None or source.classes is None:
        return [None] * len(index)
    return [printable(source.classes[label]) if label >= 0 else None for label in source.labels[index].tolist()]


def _finish(work: Work, *, tell_broken: bool) -> None:
    """Names the unreadable images, and says that all is there.

    Raises:
        GlocalError: no image can be read, or a shard is not there.
    """
    folder, rows = work.folder, 0
    broken: list[BrokenImageError] = []
    for number in work.about.shards:
        try:
            known = pq.read_metadata(shard_path(folder, number))
        except (pa.ArrowException, OSError) as error:
            raise GlocalError(f"{folder}: shard {number} is gone or damaged ({error}); start again") from error
        rows += known.num_rows
        unreadable = json.loads(known.metadata[BESIDE])["unreadable"]
        broken += [BrokenImageError(key, reason) for key, reason in unreadable]
    if rows == 0:
        raise GlocalError(
            f"{work.source.name}: none of its {work.about.images} images can be read; the first: {broken[0]}"
        )
    if broken:
        lines = [f"{harmless(error.key)}\t{harmless(error.reason)}" for error in broken]
        write_text(folder / SKIPPED, "\n".join(lines) + "\n")
    for left in folder.glob(".*.part"):  # of processes that were killed
        left.unlink(missing_ok=True)
    write_text(folder / ABOUT, work.about.model_copy(update={"complete": True}).model_dump_json(indent=2) + "\n")
    fate = f"have no row; {folder / SKIPPED} names them"
    if tell_broken:
        tell_unreadable(work.source.name, work.about.images, broken, fate)
