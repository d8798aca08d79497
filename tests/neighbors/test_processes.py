"""Several processes: each takes its share, all get the result of one."""

from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

from glocal.distributed import gather_shares, own_share
from glocal.neighbors import kmeans, select_positives
from glocal.neighbors.clustered import measure_bounds


def cluster() -> dict[str, Any]:
    features = torch.randn(301, 5, generator=torch.Generator().manual_seed(0))
    centers, assignment, inertia = kmeans(features, 9, iterations=10)
    rules = {
        rule: select_positives(features, assignment, centers, 12, rule=rule, keep=4)  # type: ignore[arg-type]
        for rule in ("center", "knn", "kmeans")
    }
    searched = measure_bounds(features, assignment, centers).search(13, own_share(301))
    rules["searched"] = gather_shares(searched, 301)
    return {"centers": centers, "assignment": assignment, "inertia": inertia, **rules}


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    assert len(range(301)[own_share(301)]) == (151, 150)[rank]
    rows = torch.arange(301)[own_share(301)]
    assert torch.equal(gather_shares(rows, 301), torch.arange(301))
    torch.save(cluster(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_cluster_and_select_as_one(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    alone = cluster()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, value in alone.items():
            if value.is_floating_point():
                assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-6), name
            else:
                assert torch.equal(found[name], value), name
