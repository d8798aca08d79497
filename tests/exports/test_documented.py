"""The commands and lines of docs/export.md do what stands there."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from glocal.checkpoints import save_checkpoint
from glocal.cli import main
from glocal.config import build_recipe
from glocal.exports import TARGETS
from glocal.methods.building import build_method
from glocal.models.loading import load_backbone

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def pieces() -> list[tuple[str, str]]:
    """Each command with the Python that follows it."""
    text = PAGE.read_text(encoding="utf-8")
    pattern = r"^```bash\n(glocal export [^\n]*)\n(?:glocal [^\n]*\n)*```\n\n```python\n(.*?)```"
    return re.findall(pattern, text, re.M | re.S)


def test_every_target_is_documented() -> None:
    assert {shlex.split(command)[4] for command, _ in pieces()} == set(TARGETS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a ResNet-18 in runs/a, as it is before its first step."""
    place = tmp_path_factory.mktemp("documented")
    recipe = build_recipe(
        {"method": {"name": "simclr"}, "model": {"name": "resnet18", "stem": "standard"}, "data": {"size": 32}}
    )
    torch.manual_seed(0)
    method = build_method(recipe)
    state = {"step": 1, "recipe": recipe.to_yaml(), "evaluated": method.evaluated, "method": method.state_dict()}
    (place / "runs" / "a").mkdir(parents=True)
    save_checkpoint(place / "runs" / "a" / "checkpoints", state, keep=1)
    (place / "runs" / "a" / "recipe.yaml").write_text(recipe.to_yaml())
    return place


@pytest.mark.parametrize(("command", "code"), pieces(), ids=[shlex.split(one)[4] for one, _ in pieces()])
def test_the_lines_load_it_without_glocal(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: str
) -> None:
    if "onnx" in command:
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", [*shlex.split(command), "--quiet"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 4  # three that load, and one that uses it
    assert "glocal" not in code
    backbone = load_backbone("runs/a")
    pixels = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    prepared = backbone.prepare(pixels)
    names: dict[str, Any] = {
        "image": Image.fromarray(pixels[0].permute(1, 2, 0).numpy()),
        "images": prepared.numpy() if "onnxruntime" in code else prepared,
    }
    with torch.no_grad():
        exec(code, names)
    given = torch.as_tensor(names["features"])
    wanted = backbone.features(pixels)
    assert float((given - wanted).norm() / wanted.norm()) < 1e-4
