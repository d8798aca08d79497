"""k-NN classification and k-means beside lightly, faiss and scikit-learn: time and peak memory on the same features.

k-NN: 10,000 queries of 512 features vote with the weights exp(s/0.07) of their 200 nearest by cosine of 50,000.
lightly's `knn_predict` gets 512 queries at a time, as in its examples; faiss' IndexFlatIP and scikit-learn's
brute-force NearestNeighbors search, and vote by the same three lines of torch. k-means: 50,000 × 128 features, 1,000
clusters, 20 iterations from random points, once; glocal assigns the points once more in the end, to the final centres.

The features are a mixture of normal distributions at unit length, broad enough that k-means has not converged. Every
side runs in a process of its own with the same number of threads; the sides take turns. Time is the median of the
rounds; memory is the peak of the process above what it took with the features before. How many predictions equal
those in float64, and the inertia, are printed beside; `time` and `memory` are glocal's over a side's.

    pip install -e '.[bench]'
    python benchmarks/neighbors_vs_faiss.py [--rounds 3] [--threads 2] [--device cuda] [--json out.json]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import (
    Table,
    answer_each_line,
    command_line,
    in_turn,
    machine,
    peak_bytes,
    peak_from_here,
    print_machine,
    timed,
    write_json,
)
from torch import Tensor

BANK, QUERIES, WIDTH, K, CLASSES, TEMPERATURE = 50_000, 10_000, 512, 200, 100, 0.07
POINTS, POINT_WIDTH, CLUSTERS, ITERATIONS = 50_000, 128, 1_000, 20
SIDES = {"knn": ["glocal", "lightly", "faiss", "scikit-learn"], "kmeans": ["glocal", "faiss", "scikit-learn"]}


def mixture(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (rows, width) of unit length around 100 centres, and which centre each belongs to."""
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    features = centres[labels] + 3 * torch.randn(rows, width, generator=generator)
    return torch.nn.functional.normalize(features, dim=1), labels


def vote(similarity: Tensor, labels: Tensor) -> Tensor:
    weight = ((similarity - similarity[:, :1]) / TEMPERATURE).exp()
    return weight.new_zeros(len(labels), CLASSES).scatter_add_(1, labels, weight).argmax(dim=1)


def knn_work(side: str, device: str) -> Callable[[], Tensor]:
    """A function that predicts the queries' classes, with everything imported."""
    (bank, labels), (queries, _) = (mixture(rows, WIDTH, seed) for rows, seed in ((BANK, 1), (QUERIES, 2)))
    bank, labels, queries = bank.to(device), labels.to(device), queries.to(device)
    if side == "glocal":
        from glocal.neighbors import nearest_neighbors

        def work() -> Tensor:
            distance, index = nearest_neighbors(queries, bank, K, metric="cosine")
            return vote(1 - distance, labels[index])
    elif side == "lightly":
        from lightly.utils.benchmarking import knn_predict

        def work() -> Tensor:
            parts = [
                knn_predict(part, bank.T, labels, CLASSES, knn_k=K, knn_t=TEMPERATURE)[:, 0]
                for part in queries.split(512)
            ]
            return torch.cat(parts)
    elif side == "faiss":
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())

        def work() -> Tensor:
            index = faiss.IndexFlatIP(WIDTH)
            index.add(bank.cpu().numpy())
            similarity, found = index.search(queries.cpu().numpy(), K)
            return vote(torch.from_numpy(similarity), labels.cpu()[torch.from_numpy(found)])
    elif side == "scikit-learn":
        from sklearn.neighbors import NearestNeighbors

        def work() -> Tensor:
            search = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine").fit(bank.cpu().numpy())
            distance, found = search.kneighbors(queries.cpu().numpy())
            return vote(torch.from_numpy(1 - distance), labels.cpu()[torch.from_numpy(found)])
    else:

        def work() -> Tensor:
            found = []
            for part in queries.double().split(500):
                similarity, index = (part @ bank.double().T).topk(K, dim=1)
                found.append(vote(similarity, labels[index]))
            return torch.cat(found)

    return work


def kmeans_work(side: str, device: str) -> Callable[[], float]:
    """A function that clusters and returns the inertia, with everything imported."""
    points = mixture(POINTS, POINT_WIDTH, 3)[0].to(device)
    if side == "glocal":
        from glocal.neighbors import kmeans

        return lambda: float(kmeans(points, CLUSTERS, iterations=ITERATIONS, start="random")[2])
    if side == "faiss":
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())

        def by_faiss() -> float:
            found: Any = faiss.Kmeans(POINT_WIDTH, CLUSTERS, niter=ITERATIONS, seed=1)
            found.train(points.cpu().numpy())
            return float(found.obj[-1])

        return by_faiss
    from sklearn.cluster import KMeans

    def by_scikit_learn() -> float:
        found = KMeans(CLUSTERS, init="random", n_init=1, max_iter=ITERATIONS, tol=0, random_state=0)
        return float(found.fit(points.cpu().numpy()).inertia_)

    return by_scikit_learn


def serve(task: str, side: str, device: str) -> None:
    """One side: waits for a line, does the work, answers with seconds, peak memory in MB and what was found."""
    work = (knn_work if task == "knn" else kmeans_work)(side, device)

    def answer() -> dict[str, Any]:
        before = peak_from_here(device)
        seconds, found = timed(work, device)
        megabytes = (peak_bytes(device) - before) / 1e6
        listed = found.tolist() if isinstance(found, Tensor) else found
        return {"seconds": seconds, "megabytes": megabytes, "found": listed}

    answer_each_line(answer)


def measure(task: str, rounds: int, threads: int, device: str) -> dict[str, dict[str, float]]:
    """Median seconds, peak memory and quality of every side."""
    commands = {
        side: [__file__, "--serve", task, side, "--threads", threads, "--device", device] for side in SIDES[task]
    }
    answers = in_turn(commands, 1 + rounds)  # the first one warms up
    exact = np.array(knn_work("float64", device)().tolist()) if task == "knn" else None
    rows = {}
    for side, found in answers.items():
        last = found[-1]["found"]
        quality = last if exact is None else 100 * float((np.array(last) == exact).mean())
        rows[side] = {
            "seconds": statistics.median(one["seconds"] for one in found[1:]),
            "megabytes": max(one["megabytes"] for one in found[1:]),
            "inertia" if exact is None else "as in float64 %": quality,
        }
    return rows


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cuda: glocal and lightly; the others stay on the CPU")
    parser.add_argument("--serve", nargs=2, metavar=("TASK", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.serve:
        task, side = options.serve
        serve(task, side, options.device)
        return
    result = {}
    described = machine(options.device, "lightly", "faiss", "sklearn")
    print_machine(described)
    for task in SIDES:
        result[task] = measure(task, options.rounds, options.threads, options.device)
        own = result[task]["glocal"]
        print()
        table = Table({task: 14, "seconds": 9, "time": 7, "MB": 9, "memory": 8, "quality": 26})
        for side, row in result[task].items():
            ratios = own["seconds"] / row["seconds"], own["megabytes"] / max(row["megabytes"], 1e-9)
            last, quality = list(row.items())[-1]
            time, memory = (f"{ratio:.2f}" for ratio in ratios)
            quality_shown = f"{quality:.2f} {last}"
            table.row(side, f"{row['seconds']:.2f}", time, f"{row['megabytes']:.0f}", memory, quality_shown)
    write_json(options.json, described, **result)


if __name__ == "__main__":
    main()
