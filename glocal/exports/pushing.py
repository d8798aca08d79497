"""A folder to the Hugging Face Hub, in one commit."""

from __future__ import annotations

import os
import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented there

import glocal
from glocal.errors import GlocalError, one_line
from glocal.exports import hub

_ENDPOINT = "https://huggingface.co"
_IN_QUOTES = r'(?:[^"\\\n]|\\.)'  # a letter of a string of Python


def push_to_hub(
    folder: str | Path,
    repo: str,
    *,
    token: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
    message: str | None = None,
) -> str:
    """Uploads a folder that `export` has written; the repository is made where it is not there.

    In the model card, the lines that load the folder become those that load the repository. Files of the repository
    that are not in the folder stay.

    Args:
        folder: an export to hub-folder or timm.
        repo: USER/NAME.
        token: with the right to write; None takes $HF_TOKEN or the one of `hf auth login`.
        private: make it visible to its owner alone, if it is new.
        endpoint: the Hub's address; None takes $HF_ENDPOINT or huggingface.co.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        GlocalError: no such export, a wrong name, no token, no right to write, or no connection.
    """
    folder = Path(folder)
    if not folder.is_dir() or "glocal" not in hub.metadata(folder):
        raise GlocalError(f"{folder} is no folder that `glocal export --to hub-folder` wrote")
    token = check_push(repo, token)
    where = endpoint or os.environ.get("HF_ENDPOINT") or _ENDPOINT
    api = HfApi(endpoint=where, token=token, library_name="glocal", library_version=glocal.__version__)
    additions = [CommitOperationAdd(name, _content(folder / name, repo)) for name in _names(folder)]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        found = api.create_commit(
            repo, additions, commit_message=message or f"Exported by glocal {glocal.__version__}", revision="main"
        )
    except HfHubHTTPError as error:
        raise GlocalError(_refusal(error, repo, where)) from error
    except Exception as error:  # the client's errors of connections have changed with its versions
        raise GlocalError(f"pushing to {repo} failed: {where} cannot be reached: {one_line(error)}") from error
    return str(found.commit_url)


def check_push(repo: str, token: str | None = None) -> str:
    """Finds out what can be known before anything is written: whether a repository's name is one, and a token there.

    Returns:
        The token: `token`, $HF_TOKEN or the one of `hf auth login`.

    Raises:
        GlocalError: a wrong name, or no token.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise GlocalError(f"--push {repo}: write it as USER/NAME; {one_line(error)}") from error
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise GlocalError(f"--push {repo}: write it as USER/NAME")
    token = token or get_token()
    if not token:
        raise GlocalError(f"pushing to {repo} needs a token: `hf auth login`, or set HF_TOKEN to one that may write")
    return token


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name in hub.TARGET.contents)


def _content(path: Path, repo: str) -> str | bytes:
    """A file's path; of the card, its text with the repository in place of the folder."""
    if path.name != hub.CARD:
        return str(path)
    return for_repository(path.read_text(encoding="utf-8"), repo).encode()


def for_repository(card: str, repo: str) -> str:
    """A model card whose code loads a repository instead of a folder."""
    card = re.sub(rf'"local-dir:{_IN_QUOTES}*"', f'"hf-hub:{repo}"', card)
    fetched, count = re.subn(
        rf'"{_IN_QUOTES}*?(model\.(?:onnx|safetensors))"', rf'hf_hub_download("{repo}", "\1")', card
    )
    if not count:
        return card
    return fetched.replace("```python\n", "```python\nfrom huggingface_hub import hf_hub_download\n")


def _refusal(error: HfHubHTTPError, repo: str, where: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"pushing to {repo}: {where} does not know this token; `hf auth login`, or set HF_TOKEN to a valid one"
    if status == 403:
        return f"pushing to {repo}: this token may not write there; take one with the right to write to {repo}"
    said = getattr(error, "server_message", None) or one_line(error)
    return f"pushing to {repo}: {where} answered {status}: {' '.join(str(said).split())[:200]}"
