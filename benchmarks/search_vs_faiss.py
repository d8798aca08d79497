"""Exact search in embeddings that stay on the disk, beside faiss' exact index in memory.

The same vectors (300,000 × 512, a mixture of normal distributions), the same 1,000 queries, the 20 nearest by cosine:

- glocal: `nearest_rows` on a folder of embeddings, whose float16 vectors are mapped into memory and turned to float32
  block by block. Everything counts: opening the folder, reading, comparing.
- faiss: `IndexFlatIP` on the vectors as float32 of unit length. Filling the index is shown apart and does not count as
  search.

Every side runs in a process of its own with the same number of threads; the sides take turns, and the files are in the
system's memory after the first round, which does not count. Time is the median of the rounds, with one thread that of
the processor, which other programs take nothing of. Memory is the peak of the
process above what it took before; glocal's holds the pages of the files, which the system takes back where it needs
them. `time` and `memory` are glocal's over faiss'. Both sides are checked against float64 on some queries.

    pip install -e '.[bench]'
    python benchmarks/search_vs_faiss.py [--rows 300000] [--width 512] [--rounds 3] [--threads 2] [--json out.json]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import (
    Table,
    answer_each_line,
    command_line,
    in_turn,
    machine,
    own_clock,
    peak_bytes,
    peak_from_here,
    print_machine,
    timed,
    write_json,
)
from torch import Tensor
from torch.nn.functional import normalize

from glocal.embeddings.folder import ABOUT, SHARD_ROWS, About, Embeddings
from glocal.embeddings.nearest import nearest_rows
from glocal.embeddings.shards import vectors_column, write_shard

QUERIES, K, CLASSES, CHECKED = 1_000, 20, 1_000, 20


def mixture(rows: int, width: int, seed: int) -> Tensor:
    """Vectors (rows, width) around 1,000 centres."""
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    return centres[labels] + 2 * torch.randn(rows, width, generator=generator)


def write_embeddings(folder: Path, rows: int, width: int) -> None:
    """A folder as `glocal embed` writes it, without pictures."""
    for number, first in enumerate(range(0, rows, SHARD_ROWS)):
        count = min(SHARD_ROWS, rows - first)
        table = pa.table(
            {
                "index": pa.array(range(first, first + count), pa.int64()),
                "key": pa.array([f"{row:08d}.jpg" for row in range(first, first + count)]),
                "vector": vectors_column(mixture(count, width, 1 + number).numpy()),
            }
        )
        write_shard(folder / f"shard-{number:05d}.parquet", table)
    about = About(
        backbone="none", label="none", fingerprint=None, source="none", images=rows, size=1, dim=width, complete=True
    )
    (folder / ABOUT).write_text(about.model_dump_json())


def work_of(side: str, folder: Path) -> tuple[Callable[[], Tensor], float]:
    """A function that finds the rows nearest to the queries, and the seconds that it took to make ready."""
    queries = mixture(QUERIES, Embeddings(folder).dim, 0)
    if side == "glocal":
        nearest_rows(Embeddings(folder), queries[:1], 1, device="cpu")  # everything is loaded
        return lambda: nearest_rows(Embeddings(folder), queries, K, device="cpu")[1], 0.0
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    embeddings = Embeddings(folder)
    index = faiss.IndexFlatIP(embeddings.dim)

    def fill() -> None:
        for _, rows in embeddings.chunks(16_384):
            index.add(normalize(rows, dim=1).numpy())

    ready = timed(fill, "cpu")[0]
    unit = normalize(queries, dim=1).numpy()
    return lambda: torch.from_numpy(index.search(unit, K)[1]), ready


def serve(side: str, folder: Path) -> None:
    """One side: waits for a line, searches, answers with seconds, peak memory in MB and what was found."""
    before = peak_from_here("cpu")
    work, ready = work_of(side, folder)

    def answer() -> dict[str, Any]:
        seconds, found = timed(work, "cpu", own_clock("cpu"))
        megabytes = (peak_bytes("cpu") - before) / 1e6
        return {"seconds": seconds, "ready": ready, "megabytes": megabytes, "found": found[:CHECKED].tolist()}

    answer_each_line(answer)


def agreement(found: list[list[int]], folder: Path) -> float:
    """The share of the rows found that float64 finds, in percent."""
    embeddings = Embeddings(folder)
    queries = normalize(mixture(QUERIES, embeddings.dim, 0)[:CHECKED].double(), dim=1)
    similarity = torch.cat([queries @ normalize(rows.double(), dim=1).T for _, rows in embeddings.chunks(16_384)], 1)
    truth = similarity.topk(K, dim=1).indices.tolist()
    return 100 * float(np.mean([len(set(one) & set(other)) / K for one, other in zip(found, truth, strict=True)]))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--serve", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve:
        serve(options.serve[0], Path(options.serve[1]))
        return
    described = machine("cpu", "faiss")
    print_machine(described)
    result: dict[str, Any] = {"rows": options.rows, "width": options.width}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_embeddings(folder, options.rows, options.width)
        sides = ["glocal", "faiss"]
        commands = {side: [__file__, "--serve", side, folder, "--threads", options.threads] for side in sides}
        for side, found in in_turn(commands, 1 + options.rounds).items():  # the first one warms up
            result[side] = {
                "seconds": statistics.median(one["seconds"] for one in found[1:]),
                "ready": found[0]["ready"],
                "megabytes": max(one["megabytes"] for one in found),
                "as in float64 %": agreement(found[-1]["found"], folder),
            }
    own = result["glocal"]
    table = Table({"": 10, "ready s": 9, "search s": 10, "time": 7, "MB": 8, "memory": 8, "as in float64 %": 17})
    for side in sides:
        row = result[side]
        time, memory = own["seconds"] / row["seconds"], own["megabytes"] / row["megabytes"]
        numbers = f"{row['ready']:.2f}", f"{row['seconds']:.2f}", f"{time:.2f}", f"{row['megabytes']:.0f}"
        table.row(side, *numbers, f"{memory:.2f}", f"{row['as in float64 %']:.2f}")
    write_json(options.json, described, **result)


if __name__ == "__main__":
    main()
