"""How the cost of CLIM's selection grows, and what one GPU takes for ImageNet.

The work is what training does before an epoch: k-means from random points, the 40 nearest neighbours of every image,
10 positives of them by `center`. On a CPU at 1/100 of ImageNet's size (12,800 × 128 features, 100 clusters), then with
more images, with more clusters, and with both together, 128 images a cluster as CLIM has it. The features are normal
distributions around places on the sphere, at unit length: `clustered` ones, whose neighbours have a cosine of 0.8, and
`broad` ones, on which no bound holds and neighbours are searched among all images.

Beside the seconds: counted operations (two for each number of a product, of the passes and pairs that were in fact
computed), GFLOP/s as share of what a product of two 2048 × 2048 matrices reaches in the same run, and the peak of
memory above the features. `whole set` is brute force on the same features, up to 51,200. Growth is the slope of
log(seconds) over log(size); that of a pass leaves out how soon k-means converged.

The estimate for one GPU takes brute force, which is what runs there, and counts 1,281,167 × 128 features, 10,000
clusters, 21 passes. Products are assumed to reach the share of the GPU's matrix speed that they reach of this
machine's, and tables of similarities to pass through memory, at the bandwidth given and not overlapping with the
products. k-means in fp32 without TF32 (torch's default), the shortlist of neighbours in bf16. The defaults are the
figures NVIDIA publishes for an A100 of 40 GB: 19.5 and 312 TFLOP/s, 1.555 TB/s. With `--device cuda` the full size
runs.

    python benchmarks/selection.py [--factors 1 2 4 8] [--rounds 2] [--threads 1] [--device cuda] [--json out.json]
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import command_line, machine, own_clock, peak_bytes, peak_from_here, print_machine, timed, write_json
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from glocal.neighbors import clustered, kmeans, nearest_neighbors, select_positives
from glocal.neighbors import positives as choosing
from glocal.neighbors.kmeans import _spread_out
from glocal.neighbors.products import products

IMAGES, WIDTH, CLUSTERS, K, KEEP, ITERATIONS = 12_800, 128, 100, 40, 10, 20
FULL_IMAGES, FULL_CLUSTERS = 1_281_167, 10_000
SPREAD = {"clustered": 0.5, "broad": 3.0}  # length of the deviation from a place of unit length
WHOLE = 51_200  # images up to which brute force runs beside
STAGES = ("clustering", "neighbours", "choice")


def features_of(kind: str, images: int, groups: int) -> Tensor:
    """Features (images, WIDTH) of unit length around `groups` places."""
    places = normalize(torch.randn(groups, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randint(0, groups, (images,), generator=generator)
    spread = torch.randn(images, WIDTH, generator=generator).mul_(SPREAD[kind] / WIDTH**0.5)
    return normalize(spread.add_(places[chosen]), dim=1)


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Counts pairs of rows whose products are computed, of clusters and of neighbours, and k-means' passes."""
    found = {"passes": 0.0, "bounds": 0.0, "pairs": 0.0}
    # By their names, for in the package a function has the name of one.
    module, clustered = (importlib.import_module(f"glocal.neighbors.{name}") for name in ("kmeans", "clustered"))
    assign, bound, search = module._assign, clustered._square_distances, clustered.nearest_neighbors

    def counting(name: str, work: Callable[..., Any], count: Callable[..., float]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            found[name] += count(*args)
            return work(*args, **more)

        return run

    with (
        mock.patch.object(module, "_assign", counting("passes", assign, lambda *_: 1)),
        mock.patch.object(clustered, "_square_distances", counting("bounds", bound, lambda a, b: len(a) * len(b))),
        mock.patch.object(clustered, "nearest_neighbors", counting("pairs", search, lambda a, b, _: len(a) * len(b))),
    ):
        yield found


class Clock:
    """Seconds of one thread's work where there is one, which other processes lengthen least; else of the wall."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.now = own_clock(device)

    def seconds(self, work: Callable[[], Any]) -> tuple[float, Any]:
        return timed(work, self.device, self.now)


def ceiling(clock: Clock) -> float:
    """FLOP/s of a product of two matrices, the best of five."""
    matrix = torch.randn(2048, 2048, device=clock.device)
    return 2 * 2048**3 / min(clock.seconds(lambda: products(matrix, matrix))[0] for _ in range(5))


def select(features: Tensor, clusters: int, clock: Clock) -> dict[str, float]:
    """Seconds and operations of each stage, and the peak of memory, for one selection as `CLIM.refresh` makes it."""
    before = peak_from_here(clock.device)
    row: dict[str, float] = {}
    with counted() as count:
        row["clustering s"], (centers, assignment, _) = clock.seconds(
            lambda: kmeans(features, clusters, iterations=ITERATIONS, start="random")
        )
        spent = []

        def searching(*args: Any) -> Tensor:
            seconds, index = clock.seconds(lambda: clustered.nearest_among_clusters(*args))
            spent.append(seconds)
            return index  # type: ignore[no-any-return]

        with mock.patch.object(choosing, "nearest_among_clusters", searching):
            both = clock.seconds(lambda: select_positives(features, assignment, centers, K, keep=KEEP))[0]
    row["neighbours s"], row["choice s"] = sum(spent), both - sum(spent)
    row["total s"] = row["clustering s"] + both
    images = len(features)
    row["clustering flop"] = 2 * WIDTH * count["passes"] * images * clusters
    row["neighbours flop"] = 2 * WIDTH * (count["bounds"] + count["pairs"])
    row["choice flop"] = 3 * WIDTH * images  # distances to the own centre
    row["passes"], row["share of pairs"] = count["passes"], count["pairs"] / images**2
    row["MB"] = (peak_bytes(clock.device) - before) / 1e6
    return row


def best(features: Tensor, clusters: int, clock: Clock, rounds: int) -> dict[str, float]:
    rows = [select(features, clusters, clock) for _ in range(rounds)]
    return {name: min(row[name] for row in rows) for name in rows[0]}


def search_everything(features: Tensor, clock: Clock) -> float:
    return clock.seconds(lambda: nearest_neighbors(features, features, K + 1))[0]


def growth(sizes: list[float], values: list[float]) -> float:
    """The exponent b of values ≈ a · sizes^b, by least squares of the logarithms.

    >>> round(growth([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def full_count(images: int, clusters: int, k: int) -> dict[str, dict[str, float]]:
    """FLOP and bytes of a selection by brute force on a GPU, where tables of similarities go through its memory.

    >>> count = full_count(1_281_167, 10_000, 40)
    >>> round(count["clustering"]["flop"] / 1e12), round(count["neighbours"]["flop"] / 1e12)
    (69, 440)
    """
    row, passes = 4 * WIDTH, ITERATIONS + 1
    return {
        # A pass: features read for products and for means, similarities written and read in fp32.
        "clustering": {
            "flop": 2.0 * WIDTH * passes * images * clusters,
            "bytes": passes * images * (2.0 * row + 8 * clusters),
        },
        # bf16 with six more coordinates; similarities written, read for the groups' largest and once more for the
        # groups that are kept (at most all of them); the shortlist's rows gathered in fp32.
        "neighbours": {
            "flop": 2.0 * (WIDTH + 6) * images**2,
            "bytes": 6.0 * images**2 + 2.0 * row * images * (k + 1 + 64),
        },
        "choice": {"flop": 3.0 * WIDTH * images, "bytes": images * (3.0 * row + 120 * (k + 1))},
    }


def full_memory(images: int, clusters: int, k: int, keep: int, *, gpu: bool) -> dict[str, float]:
    """Bytes of the largest tables that live at a time in each stage, beside the features."""
    centres, chunk = 4 * WIDTH * clusters, (256 << 20) if gpu else (2 << 20)
    wanted = k + 1 + 64  # of the shortlist
    queries, block, piece = min(images, 1 << 17), min(images, 1 << 16), min(images, 1 << 16)
    search = queries * (4 * 12 * wanted + 8 * WIDTH) + block * 14 * WIDTH + (2 * 256 << 20)
    bounds = 4 * clusters**2 + 3 * 4 * 1024 * clusters + images * WIDTH  # the table, a piece's, a quarter of all rows
    return {
        "clustering": 3.0 * centres + 2 * chunk + images * (2 * (8 + 4) + 8),
        "neighbours": 8.0 * images * (k + 1) + 8 * images + (search if gpu else bounds),
        "choice": 8.0 * images * (k + 1 + keep) + piece * (k + 1) * 80,
    }


def estimate(share: dict[str, float], speed: dict[str, float], bandwidth: float) -> dict[str, float]:
    """Seconds of each stage at the full size: products at a share of the GPU's speed, then the traffic of memory."""
    return {
        stage: (count["flop"] / (share[stage] * speed[stage]) if stage in share else 0) + count["bytes"] / bandwidth
        for stage, count in full_count(FULL_IMAGES, FULL_CLUSTERS, K).items()
    }


def table_of(title: str, rows: list[dict[str, float]], speed: float) -> Table:
    table = Table(title=title)
    for name in ("images", "clusters", "passes"):
        table.add_column(name, justify="right")
    for stage in STAGES[:2]:
        table.add_column(f"{stage} s\nGFLOP, share", justify="right")
    for name in ("choice s", "total s", "pairs\nlooked at", "whole set s\n(neighbours)", "MB"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [f"{row['images']:,.0f}", f"{row['clusters']:,.0f}", f"{row['passes']:.0f}"]
        for stage in STAGES[:2]:
            operations = row[f"{stage} flop"]
            reached = operations / row[f"{stage} s"] / speed
            cells.append(f"{row[f'{stage} s']:.3f}\n{operations / 1e9:.1f}, {reached:.2f}")
        whole = row.get("whole set s")
        compared = "" if whole is None else f"{whole:.3f}\n×{row['neighbours s'] / whole:.2f}"
        cells += [f"{row['choice s']:.3f}", f"{row['total s']:.3f}", f"{row['share of pairs']:.1%}", compared]
        table.add_row(*cells, f"{row['MB']:.0f}")
    return table


def grow(options: argparse.Namespace, console: Console, clock: Clock) -> dict[str, Any]:
    speed = ceiling(clock)
    console.print(f"{speed / 1e9:.0f} GFLOP/s in a product of 2048 × 2048 matrices")
    result: dict[str, Any] = {"ceiling": speed}
    plans = {
        "clustered, more images": ("clustered", lambda f: (round(IMAGES * f), CLUSTERS, CLUSTERS)),
        "clustered, more clusters": ("clustered", lambda f: (IMAGES, round(CLUSTERS * f), CLUSTERS)),
        "clustered, both": ("clustered", lambda f: (round(IMAGES * f), round(CLUSTERS * f), round(CLUSTERS * f))),
        "broad, more images": ("broad", lambda f: (round(IMAGES * f), CLUSTERS, CLUSTERS)),
    }
    select(features_of("clustered", IMAGES, CLUSTERS), CLUSTERS, clock)  # warms up
    for title, (kind, sizes_of) in plans.items():
        rows = []
        factors = [factor for factor in options.factors if kind == "clustered" or IMAGES * factor <= WHOLE]
        for factor in factors:
            images, clusters, groups = sizes_of(factor)
            features = features_of(kind, images, groups)
            row = best(features, clusters, clock, options.rounds)
            row |= {"images": images, "clusters": clusters}
            row["pairs"] = row["share of pairs"] * images**2
            if images <= WHOLE:
                row["whole set s"] = min(search_everything(features, clock) for _ in range(options.rounds))
            rows.append(row)
        speed = max(speed, ceiling(clock))
        slopes = {
            f"{stage} {unit}": growth(factors, [row[f"{stage} {unit}"] for row in rows])
            for stage in STAGES
            for unit in ("s", "flop")
        }
        slopes |= {name: growth(factors, [row[name] for row in rows]) for name in ("total s", "pairs")}
        # At a fixed number of passes: on the same features k-means converges sooner or later by chance.
        slopes["a pass s"] = growth(factors, [row["clustering s"] / row["passes"] for row in rows])
        result[title] = {"rows": rows, "growth": slopes}
        console.print(table_of(title, rows, speed))
        shown = ("a pass s", "clustering s", "neighbours s", "pairs", "choice s", "total s")
        console.print("growth: " + ", ".join(f"{name} {slopes[name]:.2f}" for name in shown) + "\n")
    return result


def share_of_a_pass(clock: Clock) -> float:
    """What k-means' products reach with as many clusters as ImageNet gets, over a product of large matrices."""
    features, passes = features_of("broad", IMAGES, CLUSTERS), 2
    work = lambda: kmeans(features, FULL_CLUSTERS, iterations=passes - 1, start="random")  # noqa: E731
    seconds = min(clock.seconds(work)[0] for _ in range(3))
    return 2 * WIDTH * passes * IMAGES * FULL_CLUSTERS / seconds / ceiling(clock)


def compare_starts(console: Console, clock: Clock) -> dict[str, float]:
    points = features_of("broad", 50_000, 100)
    found = {
        "k-means++ start": clock.seconds(lambda: _spread_out(points, 1_000, 0))[0],
        "20 iterations": clock.seconds(lambda: kmeans(points, 1_000, iterations=20, start="random"))[0],
    }
    found["full start TB read"] = FULL_CLUSTERS * FULL_IMAGES * WIDTH * 4 / 1e12
    console.print(
        f"50,000 × {WIDTH}, 1,000 clusters: start by k-means++ {found['k-means++ start']:.2f} s, random points and 20 "
        f"iterations {found['20 iterations']:.2f} s. At the full size k-means++ would read "
        f"{found['full start TB read']:.1f} TB, one pass after another; CLIM starts from random points."
    )
    return found


def print_memory(console: Console, *, gpu: bool) -> dict[str, float]:
    memory = full_memory(FULL_IMAGES, FULL_CLUSTERS, K, KEEP, gpu=gpu)
    shown = ", ".join(f"{stage} {size / 1e9:.2f}" for stage, size in memory.items())
    console.print(
        f"memory of the full size, counted, GB beside {FULL_IMAGES * WIDTH * 4 / 1e9:.2f} of features: {shown}"
    )
    return memory


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cuda: the full size")
    parser.add_argument("--gpu-tflops", type=float, nargs=2, default=[19.5, 312.0], metavar=("FP32", "BF16"))
    parser.add_argument("--gpu-bandwidth", type=float, default=1.555, help="TB/s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console, clock = Console(width=120), Clock(options.device)
    described = machine(options.device)
    print_machine(described)
    console.print(f"{K} neighbours, {KEEP} kept")
    if options.device == "cuda":
        features = features_of("broad", FULL_IMAGES, FULL_CLUSTERS).cuda()
        select(features[:IMAGES], CLUSTERS, clock)  # warms up
        row = select(features, FULL_CLUSTERS, clock)
        result: dict[str, Any] = {"full": row | {"images": FULL_IMAGES, "clusters": FULL_CLUSTERS}}
        console.print(table_of("full size, measured", [result["full"]], ceiling(clock)))
    else:
        result = grow(options, console, clock)
        result["starts"] = compare_starts(console, clock)
        row = max(result["broad, more images"]["rows"], key=lambda row: row["images"])
        # With AMX neighbours are looked for in bf16, which passes the ceiling in fp32.
        reached = min(1.0, row["neighbours flop"] / row["neighbours s"] / result["ceiling"])
        share = {"clustering": share_of_a_pass(clock), "neighbours": reached}
        speed = dict(zip(STAGES[:2], (1e12 * tera for tera in options.gpu_tflops), strict=True))
        seconds = estimate(share, speed, 1e12 * options.gpu_bandwidth)
        result["estimate"] = seconds | {"total": sum(seconds.values())}
        console.print(
            f"estimate for one GPU of {options.gpu_tflops[0]} TFLOP/s in fp32, {options.gpu_tflops[1]} in bf16 and "
            f"{options.gpu_bandwidth} TB/s (assumed to reach the shares reached here: "
            + ", ".join(f"{stage} {value:.2f}" for stage, value in share.items())
            + "), seconds: "
            + ", ".join(f"{stage} {value:.1f}" for stage, value in result["estimate"].items())
        )
    result["memory"] = print_memory(console, gpu=True)
    write_json(options.json, described, **result)


if __name__ == "__main__":
    main()
