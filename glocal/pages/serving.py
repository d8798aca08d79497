"""`glocal watch`: a list of runs with live curves, for this machine's browser alone. It reads and never writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from glocal.errors import GlocalError
from glocal.pages.curves import charts, draw
from glocal.pages.document import Part, bokeh_script, escaped, packaged, write_page
from glocal.pages.live import FILE
from glocal.pages.record import Record, read_record
from glocal.pages.verdict import verdict

ADDRESS = "127.0.0.1"
PORT = 8765

_DEEP = 4  # folders below the one that is watched in which runs are looked for
_FRESH = 600.0  # seconds since the last line of a log: the run goes on
_OF_A_RUN = {FILE: "text/html; charset=utf-8", "loss.png": "image/png", "views.png": "image/png"}
_SAFE = "default-src 'none'; script-src 'unsafe-inline' 'self' 'unsafe-eval'; style-src 'unsafe-inline'; "
_SAFE += "img-src data: 'self'; connect-src 'self'"


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

    def runs(self) -> list[Path]:
        """The folders of runs, those that wrote last first."""
        patterns = ["/".join(["*"] * deep + ["recipe.yaml"]) for deep in range(_DEEP + 1)]
        found = {path.parent for pattern in patterns for path in self.folder.glob(pattern)}
        return sorted(found, key=lambda run: (-_written(run), run))

    def run(self, name: str) -> Path | None:
        """The folder of a run by its path in the folder that is watched; None for what lies elsewhere, or is no run."""
        folder = (self.folder / name).resolve()
        inside = folder.is_relative_to(self.folder)
        return folder if inside and (folder / "recipe.yaml").is_file() else None


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
        kind, _, rest = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
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
        except (GlocalError, OSError, ValueError) as error:  # a run that is being written, or was removed
            self._send(str(error).encode(), "text/plain; charset=utf-8", HTTPStatus.SERVICE_UNAVAILABLE)
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
        return path.is_relative_to(folder) and self._send(path.read_bytes(), _OF_A_RUN[file])

    def _page(self, text: str) -> bool:
        return self._send(text.encode(), "text/html; charset=utf-8")

    def _json(self, found: Any) -> bool:
        return self._send(json.dumps(found).encode(), "application/json")

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> bool:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _SAFE)
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
        name = folder.relative_to(server.folder).as_posix()
        line: dict[str, Any] = {"name": name}
        try:
            record = read_record(folder)
        except (GlocalError, OSError, ValueError) as error:
            lines.append({**line, "state": f"cannot be read: {error}"})
            continue
        knn = record.measured.get("knn")
        fresh = time.time() - _written(folder) < _FRESH
        going = "running" if fresh else "stopped"
        state = "finished" if record.finished else f"{going}, {record.steps:,} of {record.total:,} steps"
        lines.append(
            {
                **line,
                "state": state if record.steps else "beginning" if fresh else "nothing logged",
                "method": record.recipe.method.name,
                "epoch": round(float(record.metrics["epoch"][-1]), 1) if record.steps else None,
                "loss": round(float(record.metrics["loss"][-1]), 4) if record.steps else None,
                "knn": None if knn is None else round(float(knn[-1, 1]), 1),
                "report": (folder / FILE).is_file(),
            }
        )
    return lines


def _list_page(server: Server) -> str:
    body = '<div class="scroll"><table><thead><tr>' + "".join(
        f"<th>{name}</th>" for name in ("run", "state", "method", "epoch", "loss", "k-NN, %", "")
    )
    body += '</tr></thead><tbody id="lines"></tbody></table></div>'
    script = f"<script>{packaged('list.js')}</script>"
    return write_page(f"Runs in {server.folder.name}", "", [Part("Runs", body)], {}, ending=script)


def _run_page(record: Record, name: str) -> str:
    figures = {f"curve-{chart.key}": draw(chart) for chart in charts([record])}
    grid = '<div class="grid">' + "".join(f"<div>{{{{{figure}}}}}</div>" for figure in figures) + "</div>"
    said = "".join(f'<li class="{mood}">{escaped(text)}</li>' for mood, text in verdict(record))
    place = quote(name)
    links = [f'<a href="/file/{place}/{file}">{file}</a>' for file in _OF_A_RUN if (record.folder / file).is_file()]
    head = f'<p><a href="/">all runs</a> {" ".join(links)}</p><ul class="verdict">{said}</ul>'
    script = f'<script>document.body.dataset.curves = "/curves/{place}";{packaged("watch.js")}</script>'
    return write_page(name, head, [Part("Curves", grid)], figures, ending=script, library="/bokeh.js")


def _numbers(record: Record) -> dict[str, Any]:
    """The curves by the names of their sources, and the verdict."""
    curves = {
        chart.source(place): [one.epochs.tolist(), one.values.tolist()]
        for chart in charts([record])
        for place, one in enumerate(chart.curves)
    }
    return {"curves": curves, "verdict": verdict(record)}
