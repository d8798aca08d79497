"""A method in somebody's own file: found, told what is wrong with it, resumed exactly, and kept with its run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import glocal
from glocal.config import build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.methods import Method, method_class
from glocal.methods.base import MethodSettings
from glocal.papers.measured import find_runs
from glocal.training import loop
from tests.training.test_runs import DATA, TINY, assert_equal, final_state

OWN = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.losses import negative_cosine
from glocal.methods import Method
from glocal.methods.base import MethodSettings
from glocal.views.plan import Jitter, View


@dataclass
class Width:
    """Data classes look their module up."""

    dim: int


class Settings(MethodSettings):
    output_dim: int = Field(8, ge=1)


class Own(Method):
    Settings = Settings

    def __init__(self, backbone: Any, settings: Settings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.projector = nn.Linear(backbone.dim, Width(settings.output_dim).dim)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return [View(count=2, size=size, jitter=Jitter(probability=0.8))]

    def represent(self, images: Tensor) -> Tensor:
        return self.projector(self.backbone(images))

    def keys(self, images: Tensor, representation: Tensor) -> Tensor:
        return representation.detach()

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        return negative_cosine(query, key)

    def loss(self, views: Any) -> Tensor:
        return self.both_directions(views)
'''

SMALL: dict[str, Any] = {key: value for key, value in TINY.items() if key != "method.queue_size"}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "code" / "own.py"
    file.parent.mkdir()
    file.write_text(OWN)
    return file


def train(out: Path, name: Any, data: Any = DATA, **overrides: Any) -> glocal.Run:
    settings = {**SMALL, "method.name": str(name), **{key.replace("__", "."): it for key, it in overrides.items()}}
    return glocal.pretrain(data, out, overrides=settings, progress=False)


def test_the_class_is_loaded_once_and_its_place_is_written_in_full(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent.parent)
    kind = method_class("code/own.py:Own")
    assert issubclass(kind, Method)
    assert method_class(f"{own}:Own") is kind
    recipe = build_recipe({}, {"method.name": "code/own.py:Own", "method.output_dim": 4}, data_size=32)
    assert recipe.method.name == f"{own}:Own"
    assert recipe.method.model_dump() == {"name": f"{own}:Own", "output_dim": 4}
    assert [view.count for view in recipe.views or []] == [2]
    assert build_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


def test_settings_of_a_recipe_stay_when_the_file_of_its_method_moves(own: Path) -> None:
    mapping = {"method": {"name": "elsewhere/own.py:Own", "output_dim": 4}}
    assert build_recipe(mapping, {"method.name": f"{own}:Own"}, data_size=32).method.output_dim == 4
    assert "output_dim" not in build_recipe(mapping, {"method.name": "simclr"}, data_size=32).method.model_fields_set


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (OWN, "own.py", "say which class of the file is the method, for example .*own.py:MyMethod"),
        (OWN, "own.py:Won", "own.py has no Won; choose from Own$"),
        (OWN, "own.py:own", "own.py has no own; did you mean Own?"),
        (OWN, "owm.py:Own", "owm.py cannot be read: No such file"),
        (OWN, "own.py:Width", "own.py:Width is no subclass of glocal.methods.Method"),
        ("", "own.py:Own", "own.py has no Own; it defines no subclass of glocal.methods.Method"),
        ("def f(:", "own.py:Own", "own.py fails: invalid syntax in line 1"),
        ("import os\n\nnothing()", "own.py:Own", "own.py fails: NameError in line 3: name 'nothing' is not defined"),
        ("import beside", "own.py:Own", "No module named 'beside'; for what lies beside it, set PYTHONPATH=/"),
        (
            OWN.replace("    Settings = Settings\n", ""),
            "own.py:Own",
            "needs Settings, a subclass of glocal.methods.base",
        ),
        (
            OWN.replace("output_dim: int =", 'name: Literal["own"] = "own"\n    output_dim: int =').replace(
                "import Any", "import Any, Literal"
            ),
            "own.py:Own",
            "settings must leave `name` as it is",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(text: str, name: str, message: str, own: Path) -> None:
    own.write_text(text)
    own.with_name("beside.py").write_text("")
    with pytest.raises(GlocalError, match=message) as raised:
        build_recipe({}, {"method.name": f"{own.parent}/{name}"}, data_size=32)
    assert "\n" not in str(raised.value)


def test_a_mistyped_setting_of_it_is_told(own: Path) -> None:
    with pytest.raises(GlocalError, match="method.ouput_dim is not a setting; did you mean method.output_dim?"):
        build_recipe({}, {"method.name": f"{own}:Own", "method.ouput_dim": 3}, data_size=32)


@pytest.mark.usefixtures("no_pictures")
def test_a_resumed_run_is_the_run_even_where_the_file_has_moved(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "whole", f"{own}:Own")
    real = loop._optimise
    steps = iter(range(5))

    def stopped(*arguments: Any) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "_optimise", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", f"{own}:Own")
    monkeypatch.setattr(loop, "_optimise", real)
    moved = own.rename(tmp_path / "moved.py")
    train(tmp_path / "stopped", f"{moved}:Own")
    assert_equal(final_state(tmp_path / "stopped")["method"], final_state(tmp_path / "whole")["method"])
    assert load_mapping(tmp_path / "stopped" / "recipe.yaml")["method"]["name"] == f"{moved}:Own"


@pytest.mark.usefixtures("no_pictures")
def test_a_changed_file_is_refused_and_the_copy_continues(own: Path, tmp_path: Path) -> None:
    train(tmp_path / "a", f"{own}:Own", train__epochs=1)
    copy = tmp_path / "a" / "method.py"
    assert copy.read_text() == OWN
    own.write_text(OWN.replace("return self.both", "return 2 * self.both"))
    with pytest.raises(GlocalError, match=f"own.py has changed since .* the run's own copy: method.name={copy}:Own"):
        train(tmp_path / "a", f"{own}:Own", train__epochs=1)
    train(tmp_path / "a", f"{copy}:Own", train__epochs=1)
    with pytest.raises(GlocalError, match="has other settings: method.name was .*:Own, is simclr"):
        train(tmp_path / "a", "simclr", train__epochs=1)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_is_used_continued_and_listed_without_the_file(own: Path, tmp_path: Path) -> None:
    train(tmp_path / "runs" / "a", f"{own}:Own", train__epochs=1)
    shutil.rmtree(own.parent)
    moved = (tmp_path / "runs").rename(tmp_path / "elsewhere") / "a"
    assert glocal.Run(moved).recipe.method.name == f"{moved / 'method.py'}:Own"
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert glocal.load_backbone(f"untrained:{moved}").features(images).shape == (2, 16)
    glocal.pretrain(
        None, moved, recipe=moved / "recipe.yaml", overrides={"train.epochs": 2}, extend=True, progress=False
    )
    # A backbone and a list of runs need none of the method's code, and run none.
    (moved / "method.py").write_text("raise AssertionError")
    assert glocal.load_backbone(moved).features(images).shape == (2, 16)
    assert glocal.load_backbone(moved / "checkpoints" / "step-000000012.pt").features(images).shape == (2, 16)
    [found] = find_runs(tmp_path / "elsewhere")
    assert isinstance(found.recipe.method, MethodSettings)


@pytest.mark.usefixtures("no_pictures")
def test_logo_works_on_it(own: Path, tmp_path: Path) -> None:
    small = {"method.regressor_dim": 8, "train.epochs": 1}
    settings = {**SMALL, **small, "method.name": "logo", "method.base": {"name": f"{own}:Own", "output_dim": 4}}
    glocal.pretrain(DATA, tmp_path / "a", overrides=settings, progress=False)
    assert (tmp_path / "a" / "base.py").read_text() == OWN
    own.write_text(OWN + "\n")
    with pytest.raises(GlocalError, match="own.py has changed"):
        glocal.pretrain(DATA, tmp_path / "a", overrides=settings, progress=False)
