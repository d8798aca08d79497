"""`glocal watch`: a list of runs with live curves, for this machine's browser alone. It reads and never writes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from glocal.errors import GlocalError, in_a_line
from glocal.files import printable
from glocal.locking import RUN_LOCK, is_held
from glocal.pages.curves import charts, draw
from glocal.pages.document import Part, bokeh_script, packaged, verdict_list, write_page
from glocal.pages.live import FILE
from glocal.pages.record import Record, read_record
from glocal.pages.verdict import verdict
from glocal.training.log import FAILED

ADDRESS = "127.0.0.1"
PORT = 8765

_DEEP = 4  # folders below the one that is watched in which runs are looked for
_FRESH = 600.0  # seconds since the last line of a log: the run goes on, where its lock cannot tell
_READ = ("recipe.yaml", "metrics.csv", "monitor.csv", FAILED)  # what a line of the list comes from
_OF_A_RUN = {FILE: "text/html; charset=utf-8", "loss.png": "image/png", "views.png": "image/png"}
_SAFE = "default-src 'none'; script-src 'unsafe-inline' 'self' 'unsafe-eval'; style-src 'unsafe-inline'; "
_SAFE += "img-src data: 'self'; connect-src 'self'"
_ALONE = "sandbox allow-scripts; "  # of a file: its scripts cannot ask for what else is here


class Server(ThreadingHTTPServer):
    """Serves the runs of a folder on 127.0.0.1.

    Args:
        folder: that holds runs, or is one.
        port: 0 takes a free one.

    Attributes:
        address: where a browser finds it.

    Raises:
        GlocalError: there is no such folder, or the port is in use.
    """

    daemon_threads = True

    def __init__(self, folder: str | Path, port: int = PORT) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise GlocalError(f"there is no folder {folder}; give one that holds runs, for example runs")
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise GlocalError(f"port {port} cannot be used: {error.strerror}; choose another (--port)") from error
        self.address = f"http://{ADDRESS}:{self.server_address[1]}/"
        self._kept: dict[Path, tuple[Any, dict[str, Any]]] = {}  # lines of the list, by what they came from

    def runs(self) -> list[Path]:
        """The folders of runs, those that wrote last first."""
        patterns = ["/".join(["*"] * deep + ["recipe.yaml"]) for deep in range(_DEEP + 1)]
        found = {path.parent for pattern in patterns for path in self.folder.glob(pattern)}
        found = {run for run in found if self.run(run.relative_to(self.folder).as_posix()) is not None}
        return sorted(found, key=lambda run: (-_written(run), run))

    def run(self, name: str) -> Path | None:
        """The folder of a run by its path in the folder that is watched; None for what lies elsewhere, or is no run."""
        if "\0" in name:
            return None
        folder = (self.folder / name).resolve()
        inside = folder.is_relative_to(self.folder)
        return folder if inside and (folder / "recipe.yaml").is_file() else None

    def line(self, run: Path) -> dict[str, Any]:
        """What the list shows of a run; read again only where its files are others than the last time."""
        seen = [(path.stat().st_mtime_ns, path.stat().st_size) for name in _READ if (path := run / name).is_file()]
        kept = self._kept.get(run)
        if kept is None or kept[0] != seen:
            self._kept[run] = kept = (seen, _line(run))
        return kept[1]


def _written(run: Path) -> float:
    """When a run wrote last, in seconds of the file system's clock."""
    times = [path.stat().st_mtime for path in (run / "metrics.csv", run / "recipe.yaml") if path.exists()]
    return max(times, default=0.0)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "glocal"
    sys_version = ""

    def do_GET(self) -> None:
        """Answers; whatever is asked for in another way is refused by the library."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in (ADDRESS, "localhost"):  # a page of another name that leads here
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        path = unquote(urlsplit(self.path).path, errors="surrogateescape")
        kind, _, rest = path.lstrip("/").partition("/")
        routes: dict[str, Callable[[str], bool]] = {
            "": lambda _: self._page(_list_page(self.server)),
            "bokeh.js": lambda _: self._send(bokeh_script().encode(), "text/javascript; charset=utf-8"),
            "runs.json": lambda _: self._json(_lines(self.server)),
            "run": lambda name: self._of_run(name, lambda record: self._page(_run_page(record, name))),
            "curves": lambda name: self._of_run(name, lambda record: self._json(_numbers(record))),
            "file": self._file,
        }
        try:
            found = kind in routes and routes[kind](rest)
        except ConnectionError:  # whoever asked is gone
            return
        except Exception as error:  # a run that is being written, was removed, or was changed by hand
            text = printable(in_a_line(error)).encode()
            self._send(text, "text/plain; charset=utf-8", HTTPStatus.SERVICE_UNAVAILABLE)
            return
        if not found:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _of_run(self, name: str, answer: Callable[[Record], bool]) -> bool:
        folder = self.server.run(name)
        return folder is not None and answer(read_record(folder))

    def _file(self, rest: str) -> bool:
        """One of the files of a run that are there to be looked at."""
        name, _, file = rest.rpartition("/")
        folder = self.server.run(name)
        if folder is None or file not in _OF_A_RUN or not (folder / file).is_file():
            return False
        path = (folder / file).resolve()
        return path.is_relative_to(folder) and self._send(path.read_bytes(), _OF_A_RUN[file], safe=_ALONE + _SAFE)

    def _page(self, text: str) -> bool:
        return self._send(printable(text).encode(), "text/html; charset=utf-8")

    def _json(self, found: Any) -> bool:
        return self._send(json.dumps(found, allow_nan=False).encode(), "application/json")

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, safe: str = _SAFE) -> bool:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", safe)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)
        return True

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(status.phrase.encode(), "text/plain; charset=utf-8", status)

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing: a line for each request would hide what matters."""


def _lines(server: Server) -> list[dict[str, Any]]:
    """What the list of runs shows of each."""
    lines = []
    for folder in server.runs():
        fresh = time.time() - _written(folder) < _FRESH
        place = folder.relative_to(server.folder).as_posix()
        found = {"name": printable(place), "place": quote(os.fsencode(place)), "report": (folder / FILE).is_file()}
        try:
            line = server.line(folder)
        except Exception as error:  # this one; the others are there
            lines.append({**found, "state": f"cannot be read: {printable(in_a_line(error))}"})
            continue
        held = is_held(folder / RUN_LOCK)
        going = fresh if held is None else held
        waiting = "beginning" if going else "nothing logged"
        state = f"{'running' if going else 'stopped'}, {line['steps']}" if line["steps"] else waiting
        lines.append({**found, **line, "state": line["state"] or state})
    return lines


def _line(folder: Path) -> dict[str, Any]:
    """What of a run's line its files alone decide."""
    record = read_record(folder)
    knn, logged = record.measured.get("knn"), record.steps > 0
    return {
        "state": "failed" if record.failed else "finished" if record.finished else "",
        "steps": f"{record.steps:,} of {record.total:,} steps" if logged else "",
        "method": record.recipe.method.name,
        "epoch": _known(record.metrics["epoch"][-1]) if logged else None,
        "loss": _known(record.metrics["loss"][-1]) if logged else None,
        "knn": None if knn is None else _known(knn[-1, 1]),
    }


def _known(value: float) -> float | None:
    """A number for JSON, which has no infinite ones."""
    return float(value) if np.isfinite(value) else None


def _list_page(server: Server) -> str:
    body = '<div class="scroll"><table><thead><tr>' + "".join(
        f"<th>{name}</th>" for name in ("run", "state", "method", "epoch", "loss", "k-NN, %", "")
    )
    body += '</tr></thead><tbody id="lines"></tbody></table></div><p id="said"></p>'
    script = f"<script>{packaged('list.js')}</script>"
    return write_page(f"Runs in {server.folder.name}", "", [Part("Runs", body)], {}, ending=script)


def _run_page(record: Record, name: str) -> str:
    figures = {f"curve-{chart.key}": draw(chart) for chart in charts([record])}
    grid = '<div class="grid">' + "".join(f"<div>{{{{{figure}}}}}</div>" for figure in figures) + "</div>"
    place = quote(os.fsencode(name))
    links = [f'<a href="/file/{place}/{file}">{file}</a>' for file in _OF_A_RUN if (record.folder / file).is_file()]
    head = f'<p><a href="/">all runs</a> {" ".join(links)}</p>{verdict_list(verdict(record))}'
    script = f'<script>document.body.dataset.curves = "/curves/{place}";{packaged("watch.js")}</script>'
    return write_page(name, head, [Part("Curves", grid)], figures, ending=script, library="/bokeh.js")


def _numbers(record: Record) -> dict[str, Any]:
    """The curves by the names of their sources, and the verdict."""
    curves = {
        chart.source(place): [list(map(_known, one.epochs)), list(map(_known, one.values))]
        for chart in charts([record])
        for place, one in enumerate(chart.curves)
    }
    return {"curves": curves, "verdict": verdict(record)}
