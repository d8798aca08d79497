"""glocal: self-supervised visual representation learning that looks at images globally and locally at once.

>>> import glocal
>>> run = glocal.pretrain("photos/", "runs/a")  # doctest: +SKIP
>>> backbone = glocal.load_backbone("runs/a")  # doctest: +SKIP
>>> features = backbone.features(images)  # (B, 3, S, S) uint8 → (B, D)  # doctest: +SKIP

Import glocal before torch where you can: it tells torch's threads to wait asleep (`glocal.waiting`), which takes effect
only if torch is not loaded yet, and saves a training from crawling where other programs use the processor too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glocal.waiting import wait_asleep

__version__ = "0.1.0"

if TYPE_CHECKING:
    from glocal import losses, methods
    from glocal.curation.checking import check
    from glocal.curation.duplicates import find_duplicates
    from glocal.curation.labelling import propose_labels
    from glocal.curation.outliers import find_outliers
    from glocal.curation.selection import select
    from glocal.data.packs.making import pack
    from glocal.embeddings.folder import Embeddings
    from glocal.embeddings.making import embed
    from glocal.embeddings.searching import search
    from glocal.errors import GlocalError
    from glocal.evaluation import evaluate
    from glocal.exports.exporting import export
    from glocal.exports.pushing import push_to_hub
    from glocal.models.backbone import Backbone
    from glocal.models.loading import load_backbone
    from glocal.pages.making import write_report
    from glocal.reproduction.reproducing import reproduce
    from glocal.training.run import Run, pretrain

threads_wait_asleep = wait_asleep()  # what can still be done about it: `glocal.waiting`

_HOME = {
    "Backbone": "glocal.models.backbone",
    "Embeddings": "glocal.embeddings.folder",
    "GlocalError": "glocal.errors",
    "Run": "glocal.training.run",
    "check": "glocal.curation.checking",
    "embed": "glocal.embeddings.making",
    "evaluate": "glocal.evaluation",
    "export": "glocal.exports.exporting",
    "find_duplicates": "glocal.curation.duplicates",
    "find_outliers": "glocal.curation.outliers",
    "load_backbone": "glocal.models.loading",
    "pack": "glocal.data.packs.making",
    "pretrain": "glocal.training.run",
    "propose_labels": "glocal.curation.labelling",
    "push_to_hub": "glocal.exports.pushing",
    "reproduce": "glocal.reproduction.reproducing",
    "search": "glocal.embeddings.searching",
    "select": "glocal.curation.selection",
    "write_report": "glocal.pages.making",
}

__all__ = [
    "Backbone",
    "Embeddings",
    "GlocalError",
    "Run",
    "check",
    "embed",
    "evaluate",
    "export",
    "find_duplicates",
    "find_outliers",
    "load_backbone",
    "losses",
    "methods",
    "pack",
    "pretrain",
    "propose_labels",
    "push_to_hub",
    "reproduce",
    "search",
    "select",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, when it is asked for: `glocal --help` need not wait for torch."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in {"losses", "methods"}:
        return import_module(f"glocal.{name}")
    raise AttributeError(f"module 'glocal' has no attribute {name!r}")
