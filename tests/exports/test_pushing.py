"""A folder on its way to the Hub, by the requests that arrive there."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from glocal.cli import main
from glocal.errors import GlocalError
from glocal.exports import export, push_to_hub
from tests.exports.made import narrow


class Hub(ThreadingHTTPServer):
    """What of the Hub's interface a commit needs; it keeps what it is sent.

    Attributes:
        status: the answer to everything; 200: as the Hub does.
        large: whether weights are to be uploaded apart, as Git LFS has it.
        requests: method, path, headers and body of each.
        files: what the repository holds in the end.
        stored: bodies that were uploaded apart, by their SHA-256.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.status, self.large = 200, False
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path.split("?")[0], dict(self.headers), body))
        hub, path = self.server, self.path.split("?")[0]
        if hub.status != 200:
            self._answer(hub.status, {"error": "you may not"})
        elif path == "/api/repos/create":
            name = json.loads(body)
            self._answer(200, {"url": f"{hub.address}/{name.get('organization', 'anna')}/{name['name']}"})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            apart = {one["path"]: hub.large and one["path"].endswith((".safetensors", ".onnx")) for one in files}
            modes = [
                {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
                for name, large in apart.items()
            ]
            self._answer(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.address}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self._commit([json.loads(line) for line in body.splitlines()])
            self._answer(200, {"commitUrl": f"{hub.address}/anna/net/commit/{'a' * 40}", "commitOid": "a" * 40})
        else:
            self._answer(404, {"error": "nothing here"})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.stored[self.path.rpartition("/")[2]] = body
        self._answer(200, {})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            its = line["value"]
            if line["key"] == "file":
                self.server.files[its["path"]] = base64.b64decode(its["content"])
            elif line["key"] == "lfsFile":
                self.server.files[its["path"]] = self.server.stored[its["oid"]]

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # uploads go as the plain requests of Git LFS
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(narrow(), "hub-folder", tmp_path_factory.mktemp("hub") / "net", license="mit").path


@pytest.mark.parametrize("large", [False, True])
def test_a_folder_arrives_in_one_commit(hub: Hub, folder: Path, large: bool) -> None:
    hub.large = large
    address = push_to_hub(folder, "anna/net", token="hf_secret", private=True, endpoint=hub.address)
    assert address == f"{hub.address}/anna/net/commit/{'a' * 40}"
    assert set(hub.files) == {path.name for path in folder.iterdir()}
    for name, content in hub.files.items():
        if name != "README.md":
            assert content == (folder / name).read_bytes(), name
    assert all(hashlib.sha256(body).hexdigest() == name for name, body in hub.stored.items())
    assert len(hub.stored) == large
    card = hub.files["README.md"].decode()
    assert 'timm.create_model("hf-hub:anna/net", pretrained=True)' in card
    assert "local-dir" not in card
    assert card.startswith("---\nlicense: mit\n")
    created = next(json.loads(body) for _, path, _, body in hub.requests if path == "/api/repos/create")
    assert (created["name"], created["organization"]) == ("net", "anna")
    assert created.get("private") or created.get("visibility") == "private"  # in the words of its version
    assert sum("/commit/" in path for _, path, _, _ in hub.requests) == 1
    talked = [headers for _, path, headers, _ in hub.requests if path != "/api/validate-yaml"]
    assert {one.get("authorization", one.get("Authorization")) for one in talked} == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "does not know this token"), (403, "may not write there"), (400, "answered 400: .*you may not")],
)
def test_what_the_hub_refuses_is_one_sentence(hub: Hub, folder: Path, status: int, message: str) -> None:
    hub.status = status
    with pytest.raises(GlocalError, match=message) as error:
        push_to_hub(folder, "anna/net", token="hf_secret", endpoint=hub.address)
    assert "\n" not in str(error.value)
    assert "hf_secret" not in str(error.value)
    assert hub.files == {}


def test_without_token_name_folder_or_network_nothing_is_sent(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glocal.exports.pushing.get_token", lambda: None)
    with pytest.raises(GlocalError, match="needs a token: `hf auth login`"):
        push_to_hub(folder, "anna/net", endpoint=hub.address)
    for name in ("net", "anna/net/x", "anna/", "anna net/x"):
        with pytest.raises(GlocalError, match="write it as USER/NAME"):
            push_to_hub(folder, name, token="t", endpoint=hub.address)
    with pytest.raises(GlocalError, match="is no folder that `glocal export"):
        push_to_hub(tmp_path, "anna/net", token="t", endpoint=hub.address)
    assert hub.requests == []
    with pytest.raises(GlocalError, match="cannot be reached") as error:
        push_to_hub(folder, "anna/net", token="t", endpoint="http://127.0.0.1:9")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("repo", "token", "message"), [("net", "t", "USER/NAME"), ("anna/net", None, "needs a token")])
def test_the_command_checks_name_and_token_before_it_exports(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    repo: str,
    token: str | None,
    message: str,
) -> None:
    monkeypatch.setattr("glocal.exports.pushing.get_token", lambda: token)
    words = ["untrained:timm:mobilenetv3_small_050", "--to", "hub-folder", "--out", str(tmp_path / "net")]
    monkeypatch.setattr("sys.argv", ["glocal", "export", *words, "--push", repo])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_the_command_exports_and_pushes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    place = str(tmp_path / "net")
    words = [
        "export",
        "untrained:timm:mobilenetv3_small_050",
        "--to",
        "hub-folder",
        "--out",
        place,
        "--push",
        "anna/net",
    ]
    monkeypatch.setattr("sys.argv", ["glocal", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert f"pushed:  {hub.address}/anna/net/commit/" in capsys.readouterr().out
    assert {"README.md", "config.json", "model.safetensors"} == set(hub.files)
    assert b"license: unknown" in hub.files["README.md"]
