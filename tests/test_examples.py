"""The examples as a user runs them: they learn, go on where they stopped, and the documentation shows their lines."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

import glocal
from tests.preloaded import Preloaded
from tests.training.test_runs import assert_equal

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SMALL = ("--data", "shapes:train:128", "--test", "shapes:test:100", "--epochs", "1")


def run(preloaded: Preloaded, name: str, *arguments: str) -> str:
    """`python examples/NAME.py ARGUMENTS` in a process that finds torch loaded; what it prints."""
    script = str(EXAMPLES / f"{name}.py")
    code = (
        f"import runpy, sys; sys.argv = {[script, *arguments]}; runpy.run_path({script!r}, run_name='__main__'); exit()"
    )
    done: subprocess.CompletedProcess[bytes] = preloaded.run(before=code)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


def accuracies(said: str) -> tuple[float, float]:
    before, after = (
        re.search(rf"^{word}: (\S+) % k-NN accuracy$", said, re.MULTILINE) for word in ("untrained", "trained")
    )
    assert before is not None, said
    assert after is not None, said
    return float(before[1]), float(after[1])


def test_plain_pytorch_learns_and_writes_weights_of_timm(preloaded: Preloaded, tmp_path: Path) -> None:
    import timm

    said = run(preloaded, "plain_pytorch", *SMALL, "--out", str(tmp_path / "a" / "weights.pt"))
    before, after = accuracies(said)
    assert 0 < before < 100
    assert 0 < after < 100
    losses = [float(found) for found in re.findall(r"loss (\S+)", said)]
    assert len(losses) == 2  # after the first step and each epoch
    network = timm.create_model("resnet18", num_classes=0, channels=[16, 32, 64, 128])
    network.load_state_dict(torch.load(tmp_path / "a" / "weights.pt", weights_only=True))


def test_lightning_trains_a_method_of_several_phases_and_goes_on(preloaded: Preloaded, tmp_path: Path) -> None:
    arguments = (*SMALL, "--out", str(tmp_path / "a"), "--method", "logo")
    first = run(preloaded, "lightning_module", *arguments)
    assert 0 < accuracies(first)[1] < 100
    assert (tmp_path / "a" / "last.ckpt").is_file()
    again = run(preloaded, "lightning_module", *arguments)  # nothing is left to do
    assert accuracies(again) == accuracies(first)


def test_lightning_resumes_to_the_same_weights(tmp_path: Path) -> None:
    import runpy

    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    from glocal.config import build_recipe
    from glocal.data.sources.shapes import Shapes

    kind = runpy.run_path(str(EXAMPLES / "lightning_module.py"))["SelfSupervised"]
    overrides = {
        "method.name": "moco",
        "method.queue_size": 64,
        "model.options": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
        "model.stem": "standard",
        "train.epochs": 2,
        "train.batch_size": 32,
    }
    recipe, source = build_recipe({}, overrides, data_size=32), Shapes("train", 96)

    def fit(folder: Path, epochs: int, ckpt_path: Path | None = None) -> dict[str, torch.Tensor]:
        module = kind(recipe, source)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[ModelCheckpoint(folder, save_last=True)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
        )
        trainer.fit(module, ckpt_path=None if ckpt_path is None else str(ckpt_path))
        return dict(module.method.state_dict())

    whole = fit(tmp_path / "whole", 2)
    half = fit(tmp_path / "half", 1)
    assert not torch.equal(whole["projector.0.weight"], half["projector.0.weight"])
    assert_equal(fit(tmp_path / "half", 2, tmp_path / "half" / "last.ckpt"), whole)


@pytest.mark.slow
def test_an_own_method_is_a_run_like_any_other(preloaded: Preloaded, tmp_path: Path) -> None:
    out = tmp_path / "a"
    said = run(preloaded, "own_method", *SMALL, "--train", "shapes:train:128", "--out", str(out))
    before, after = accuracies(said)
    assert 0 < before < 100
    assert 0 < after < 100
    name = f"{EXAMPLES / 'own_method.py'}:DecoupledContrast"
    assert glocal.Run(out).recipe.method.name == name
    done = preloaded.run("pretrain", "--out", str(out), "--recipe", str(out / "recipe.yaml"))
    assert "is finished" in done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_pytorch", "lightning_module", "own_method"])
def test_with_its_defaults_an_example_learns(name: str, preloaded: Preloaded, tmp_path: Path) -> None:
    before, after = accuracies(run(preloaded, name, "--out", str(tmp_path / "a")))
    assert after > before + 8


def test_the_own_methods_loss_is_the_papers() -> None:
    """Yeh et al., eq. 6, row by row."""
    import runpy

    from glocal.models.architecture import ModelSettings
    from glocal.models.building import build_backbone
    from glocal.views.batch import Views

    parts = runpy.run_path(str(EXAMPLES / "own_method.py"))
    model = ModelSettings(options={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}, stem="standard")
    settings = parts["DecoupledContrastSettings"](name="own_method", temperature=0.5)
    method = parts["DecoupledContrast"](build_backbone(model, size=32), settings)
    images = tuple(torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    found = method(Views(images, (), torch.arange(4)))
    both = [torch.nn.functional.normalize(method.projector(method.backbone(view)), dim=1).double() for view in images]
    expected = torch.tensor(0.0, dtype=torch.float64)
    for view in range(2):
        for row in range(4):
            own, other = both[view][row], both[1 - view][row]
            others = [both[v][r] for v in range(2) for r in range(4) if r != row]
            expected += -(own @ other) / 0.5 + torch.stack([(own @ z / 0.5).exp() for z in others]).sum().log()
    torch.testing.assert_close(found.double(), expected / 8)


def test_the_table_of_examples_lists_all_of_them() -> None:
    listed = re.findall(r"^\| `(\w+\.py)`", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("page", ["docs/your-own-loop.md"])
def test_the_documentation_shows_the_examples_lines(page: str) -> None:
    """A snippet that names a file of the examples holds lines of it, in order, with … where some are left out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n# (examples/\w+\.py)\n(.*?)```", text, re.DOTALL)
    assert snippets
    for name, snippet in snippets:
        lines = iter([line.strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()])
        for line in snippet.splitlines():
            assert line.strip() in ("", "...") or line.strip().removesuffix(" ...") in lines, (
                f"{name} has no line {line!r} there"
            )
