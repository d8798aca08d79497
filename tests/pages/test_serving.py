"""The live page reads what lies in its folder, for this machine alone, and nothing else."""

import http.client
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from glocal.errors import GlocalError
from glocal.locking import alone
from glocal.pages import serving
from glocal.pages.record import read_record
from glocal.pages.serving import Server


@pytest.fixture
def server(trained: Path) -> Iterator[Server]:
    with Server(trained.parent, 0) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def ask(server: Server, path: str, *, method: str = "GET", host: str | None = None) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_address[1]}")
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.getheader("Content-Type") or "", answer.read().decode(errors="replace")


def test_runs_are_listed_with_how_they_stand(server: Server, trained: Path) -> None:
    status, kind, text = ask(server, "/runs.json")
    assert (status, kind) == (200, "application/json")
    [run] = json.loads(text)
    assert run["name"] == "first"
    assert run["state"] == "finished"
    assert run["epoch"] == 3.0
    assert run["knn"] > 0
    status, _, text = ask(server, "/curves/first")
    assert set(json.loads(text)["curves"]) == {
        "loss-0",
        "lr-0",
        "images_per_second-0",
        "knn-0",
        "effective_rank-0",
        "spread-0",
    }
    status, _, text = ask(server, "/run/first")
    assert status == 200
    assert 'src="/bokeh.js"' in text
    assert ask(server, "/file/first/loss.png")[:2] == (200, "image/png")


@pytest.mark.parametrize(
    "path",
    [
        "/run/..",
        "/run/%2e%2e/first",
        "/run/none",
        "/run/first%00",
        "/run//etc",
        "/file/first/recipe.yaml",
        "/file/first/../first/loss.png/..",
        "/file/first/%2e%2e%2f%2e%2e%2fsecret.png",
        "/file/first/linked/loss.png",
        "/file/leaving/loss.png",
        "/etc/passwd",
        "//127.0.0.1/etc/passwd",
    ],
)
def test_what_is_no_run_of_the_folder_is_not_found(server: Server, trained: Path, tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "recipe.yaml").write_text("{}")
    (outside / "loss.png").write_bytes(b"secret")
    link = trained.parent / "leaving"
    link.symlink_to(outside)
    try:
        status, _, text = ask(server, path)
    finally:
        link.unlink()
    assert status == 404, text
    assert "secret" not in text


def test_a_picture_that_links_out_of_its_run_is_not_found(server: Server, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (trained / "views.png").unlink(missing_ok=True)
    (trained / "views.png").symlink_to(tmp_path / "secret.png")
    assert ask(server, "/file/first/views.png")[0] == 404


def test_nothing_can_be_written_and_no_other_name_leads_here(server: Server) -> None:
    assert ask(server, "/runs.json", host="evil.example:80")[0] == 403
    assert ask(server, "/runs.json", host="localhost:1")[0] == 200
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server, "/runs.json", method=method)[0] == 501


@pytest.mark.parametrize("change", ["recipe", "no number", "epoch 0", "name"])
def test_a_run_that_is_odd_leaves_the_others_on_the_list(server: Server, trained: Path, change: str) -> None:
    odd = Path(os.fsdecode(os.fsencode(trained.parent) + (b"/bad\xff" if change == "name" else b"/odd")))
    odd.mkdir()
    recipe = (trained / "recipe.yaml").read_text(encoding="utf-8")
    (odd / "recipe.yaml").write_text("train: {epoch: 3}" if change == "recipe" else recipe, encoding="utf-8")
    epoch, loss = (0, 3.0) if change == "epoch 0" else (1, "nan" if change == "no number" else 3.0)
    (odd / "metrics.csv").write_text(
        f"step,epoch,loss,lr,images_per_second\n4,{epoch},{loss},0.1,9\n", encoding="utf-8"
    )
    try:
        lines = {line["name"]: line for line in json.loads(ask(server, "/runs.json")[2])}
        [place] = [line["place"] for name, line in lines.items() if name != "first"]
        status, _, text = ask(server, f"/run/{place}")
        curves = ask(server, f"/curves/{place}")[0]
    finally:
        shutil.rmtree(odd)
    assert lines["first"]["state"] == "finished"
    assert status == curves == (503 if change == "recipe" else 200), text
    if change == "recipe":
        assert lines["odd"]["state"].startswith("cannot be read: ")


def test_a_run_that_was_killed_is_not_said_to_run(server: Server, trained: Path) -> None:
    killed = trained.parent / "killed"
    killed.mkdir()
    shutil.copy(trained / "recipe.yaml", killed)
    (killed / "metrics.csv").write_text("step,epoch,loss,lr,images_per_second\n1,0.5,3,0.1,9\n", encoding="utf-8")
    (killed / ".lock").touch()  # stays behind, but nobody holds it

    def state() -> str:
        return str(next(line["state"] for line in json.loads(ask(server, "/runs.json")[2]) if line["name"] == "killed"))

    try:
        assert state().startswith("stopped, 1 of ")
        with alone(killed / ".lock"):
            assert state().startswith("running, 1 of ")
    finally:
        shutil.rmtree(killed)


def test_a_line_is_read_again_only_when_its_files_changed(
    server: Server, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(serving, "read_record", lambda folder: read.append(folder) or read_record(folder))
    first = ask(server, "/runs.json")[2]
    assert ask(server, "/runs.json")[2] == first
    assert len(read) == 1
    log = trained / "metrics.csv"
    log.write_text(log.read_text(encoding="utf-8"), encoding="utf-8")
    ask(server, "/runs.json")
    assert len(read) == 2


def test_runs_that_are_linked_from_elsewhere_are_not_listed(server: Server, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "recipe.yaml").write_text((trained / "recipe.yaml").read_text(encoding="utf-8"))
    link = trained.parent / "link"
    link.symlink_to(tmp_path)
    try:
        assert "secret" not in ask(server, "/runs.json")[2]
    finally:
        link.unlink()


def test_wrong_folders_and_ports_are_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="there is no folder"):
        Server(tmp_path / "none", 0)
    with pytest.raises(GlocalError, match=r"port \d+ cannot be used: Address already in use"):
        Server(tmp_path, server.server_address[1])
