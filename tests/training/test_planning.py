"""`--time`: a plan that becomes the run's recipe, leaves no other trace, and is not made twice."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import glocal
from glocal.checkpoints import newest_checkpoint
from glocal.config import build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.training import forecast, loop, planning, trial
from glocal.training.budget import Costs
from glocal.training.loop import RunInterrupted
from glocal.training.machine import launch
from glocal.training.resolving import resolve
from glocal.training.trial import Trials
from tests.methods.cases import cases, parameters
from tests.preloaded import Preloaded
from tests.training.test_runs import DATA, TINY, assert_equal, final_state

pytestmark = pytest.mark.usefixtures("no_pictures", "no_trial_pictures")

CASES = cases()
SMALL = {key: value for key, value in TINY.items() if key != "train.epochs"}  # 6 steps an epoch
NETWORK = {key: value for key, value in SMALL.items() if not key.startswith("model.")}
TWO_EPOCHS = Costs(step=270.0)  # an hour has 13 steps of these


@pytest.fixture
def no_trial_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "draw_views", lambda *_, **__: None)


@pytest.fixture
def two_epochs_fit(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials are made, and then two epochs fit into an hour; what was tried."""
    real, tried = Trials.measure, []

    def measure(self: Trials, recipe: Any, seconds: float, *, brief: bool = False) -> Costs:
        assert real(self, recipe, seconds, brief=brief).step > 0
        tried.append(recipe.model.name)
        return TWO_EPOCHS

    monkeypatch.setattr(Trials, "measure", measure)
    return tried


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same without trials."""
    tried: list[str] = []

    def measure(self: Trials, recipe: Any, seconds: float, *, brief: bool = False) -> Costs:
        tried.append(recipe.model.name)
        return TWO_EPOCHS

    monkeypatch.setattr(Trials, "measure", measure)
    return tried


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose network may become smaller: no setting on the command names it."""
    model = {"name": "resnet18", "stem": "standard", "options": {"channels": [32] * 4, "layers": [1] * 4}}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"method": {"name": "sce"}, "model": model}))
    return path


def start(out: Path, **more: Any) -> glocal.Run:
    settings = {"overrides": SMALL, "time": "1h", "progress": False, **more}
    return glocal.pretrain(DATA, out, **settings)


def test_the_plan_is_the_recipe_and_the_run_that_of_the_same_recipe_by_hand(
    tmp_path: Path, two_epochs_fit: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    planned = start(tmp_path / "a", time=3600)
    assert two_epochs_fit == ["resnet18"]
    line = "--time 1 h: 2 epochs of 6 steps at 32 pixels with resnet18; fewer than 20 epochs, for model.options and "
    line += "model.stem are given, so nothing smaller is tried; a step takes 4 min 30 s"
    assert planned.recipe.planned.startswith(line)
    assert planned.recipe.planned in " ".join(capsys.readouterr().err.split())
    assert (planned.recipe.train.epochs, planned.metrics["step"]) == (2, list(range(1, 13)))
    assert not (tmp_path / "a" / ".trial").exists()
    glocal.pretrain(DATA, tmp_path / "b", overrides={**SMALL, "train.epochs": 2}, progress=False)
    first, second = final_state(tmp_path / "a"), final_state(tmp_path / "b")
    for part in ("method", "optimizers", "rng"):
        assert_equal(first[part], second[part])


def test_a_planned_run_that_is_stopped_goes_on_bit_for_bit_with_the_same_command(
    tmp_path: Path,
    recipe: Path,
    pinned: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    smallest = "resnet18 of 16 to 16 channels"
    planned = start(tmp_path / "whole", recipe=recipe, overrides=NETWORK)
    assert planned.recipe.model.options == {"channels": [16] * 4, "layers": [1] * 4}
    real, count = loop._optimise, iter(range(1000))

    class Killed(BaseException):
        pass

    def dies(*args: Any) -> torch.Tensor:
        if next(count) == 6:
            raise Killed
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_optimise", dies)
        with pytest.raises(Killed):
            start(tmp_path / "killed", recipe=recipe, overrides=NETWORK)
    tried = len(pinned)
    capsys.readouterr()
    resumed = start(tmp_path / "killed", recipe=recipe, overrides=NETWORK, time="5m")
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"has its plan, which is not made again: --time 1 h: 2 epochs of 6 steps at 32 pixels with {smallest}" in said
    )
    assert "continues after step 6 of 12" in said
    assert len(pinned) == tried
    assert resumed.recipe.train.epochs == 2
    whole, killed = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    for part in ("method", "optimizers", "rng"):
        assert_equal(whole[part], killed[part])
    start(tmp_path / "killed", recipe=recipe, overrides=NETWORK)
    assert "is finished (12 steps); nothing to do" in " ".join(capsys.readouterr().err.split())
    for other, named in (
        ({"method.temperature": 0.5}, "method.temperature was"),
        ({"model.name": "resnet18"}, "model."),
    ):
        with pytest.raises(GlocalError, match=f"has other settings: {named}"):
            start(tmp_path / "killed", recipe=recipe, overrides={**NETWORK, **other})


def test_a_planned_run_of_the_default_method_keeps_its_warm_up(
    tmp_path: Path, pinned: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {key: value for key, value in SMALL.items() if not key.startswith("method.")}
    planned = start(tmp_path / "a", overrides=settings)
    assert planned.recipe.optimizer.warmup_epochs == pytest.approx(0.2 * planned.recipe.train.epochs)
    start(tmp_path / "a", overrides=settings)
    assert "nothing to do" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_was_begun_without_a_time_keeps_its_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    glocal.pretrain(DATA, out, overrides={**SMALL, "train.epochs": 1}, progress=False)
    again = start(out)
    said = " ".join(capsys.readouterr().err.split())
    assert "is finished (6 steps); nothing to do" in said
    assert (again.recipe.train.epochs, again.recipe.planned) == (1, "")


def test_an_unfinished_run_that_was_begun_without_a_time_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = loop._optimise

    def failing(method: Any, *given: Any) -> Any:
        if method.now.step == 3:
            raise GlocalError("the batch does not fit")
        return usual(method, *given)

    settings = {**SMALL, "train.epochs": 1, "train.checkpoint_steps": 2}
    monkeypatch.setattr(loop, "_optimise", failing)
    with pytest.raises(GlocalError, match="does not fit"):
        glocal.pretrain(DATA, tmp_path / "a", overrides=settings, progress=False)
    monkeypatch.setattr(loop, "_optimise", usual)
    said = r"a was begun without --time and has done \d of 6 steps: give another folder \(--out\) .*, or go on with it"
    with pytest.raises(GlocalError, match=said):
        start(tmp_path / "a")
    assert glocal.pretrain(DATA, tmp_path / "a", overrides=settings, progress=False).metrics["step"][-1] == 6


def test_a_plan_says_nothing_of_the_warm_up_that_it_changes(
    tmp_path: Path, pinned: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("method: {name: sce}\noptimizer: {warmup_epochs: 1}\n")
    few = {key: value for key, value in SMALL.items() if not key.startswith(("method.", "optimizer."))}
    for time in (None, "1h"):
        timed = resolve(DATA, tmp_path / "own.yaml", few, tmp_path / "none", progress=False, timed=time is not None)[0]
        assert ("optimizer.warmup_epochs is" in capsys.readouterr().err) == (time is None)
        assert timed.optimizer.warmup_epochs > 1


def test_a_planned_run_that_is_repeated_without_its_time_is_told_so(tmp_path: Path, pinned: list[str]) -> None:
    start(tmp_path / "a")
    with pytest.raises(GlocalError, match=r"epochs was 2, is 200; .* repeat its command with --time"):
        start(tmp_path / "a", time=None)


def test_a_planned_run_that_goes_on_says_what_is_left(
    tmp_path: Path, pinned: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "TIMED", 1)
    real, count = loop._optimise, iter(range(1000))

    class Killed(BaseException):
        pass

    def dies(*args: Any) -> torch.Tensor:
        if next(count) == 6:
            raise Killed
        return real(*args)

    monkeypatch.setattr(loop, "_optimise", dies)
    with pytest.raises(Killed):
        start(tmp_path / "a", progress=True)
    assert "this takes about" not in capsys.readouterr().err  # the plan has said it
    start(tmp_path / "a", progress=True)
    assert "from here: 2 steps of" in capsys.readouterr().err


def test_a_trial_times_whole_steps_also_where_only_the_heads_learn_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "train.freeze_backbone_epochs": 50}
    recipe, source, _ = resolve(DATA, None, settings, tmp_path / "a", progress=False)
    learns = []
    real = loop._optimise

    def look(method: Any, *args: Any) -> torch.Tensor:
        learns.append(any(one.requires_grad for one in method.backbone.parameters()))
        return real(method, *args)

    monkeypatch.setattr(loop, "_optimise", look)
    with Trials(source, launch(recipe), tmp_path / "a") as trials:
        trials.measure(recipe, seconds=0.0, brief=True)
    assert learns
    assert all(learns)


def test_a_planned_recipe_can_be_trained_again_and_extended(tmp_path: Path, recipe: Path, pinned: list[str]) -> None:
    start(tmp_path / "a", recipe=recipe, overrides=NETWORK)
    written = tmp_path / "a" / "recipe.yaml"
    again = glocal.pretrain(None, tmp_path / "b", recipe=written, progress=False)
    assert_equal(final_state(tmp_path / "a")["method"], final_state(tmp_path / "b")["method"])
    other = glocal.pretrain(
        None, tmp_path / "c", recipe=written, overrides={"train.epochs": 1, "method.temperature": 0.2}, progress=False
    )
    assert other.recipe.planned == ""  # no plan of its own, and not that one
    longer = glocal.pretrain(
        None, tmp_path / "a", recipe=written, overrides={"train.epochs": 3}, extend=True, progress=False
    )
    assert (longer.recipe.train.extended_from, again.recipe.planned) == ((2,), longer.recipe.planned)
    start(tmp_path / "a", recipe=recipe, overrides=NETWORK)  # the first command still knows it
    assert written.read_text() == longer.recipe.to_yaml()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overrides": {**SMALL, "train.epochs": 3}}, "--time decides train.epochs; give the one or the other"),
        ({"extend": True}, "--time is for a new run"),
        ({"time": "soon"}, "--time soon: write a time above 0 as 90s"),
        ({"resume": "must"}, r"no run in .* to continue"),
        ({"time": 0.001}, r"not even one epoch of 6 steps fits, at 32 pixels with resnet18 \(.* a step\); give it"),
        ({"overrides": {**SMALL, "train.batch_size": 1}}, "batch"),
    ],
)
def test_what_cannot_be_planned_makes_no_folder(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=message):
        start(tmp_path / "a", **wrong)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("given", [False, True])
def test_a_backbone_that_stands_still_at_first_learns_in_a_plan_too(
    given: bool, tmp_path: Path, pinned: list[str]
) -> None:
    freeze = {"train.freeze_backbone_epochs": 50}  # of 200; two of them fit
    if given:
        with pytest.raises(GlocalError, match=r"freeze_backbone_epochs=50: .* learn nothing in a training of 2 epochs"):
            start(tmp_path / "a", overrides={**SMALL, **freeze})
        assert not (tmp_path / "a").exists()
        return
    recipe = tmp_path / "frozen.yaml"
    recipe.write_text(yaml.safe_dump({"method": {"name": "sce"}, "train": {"freeze_backbone_epochs": 50}}))
    start(tmp_path / "a", recipe=recipe)
    written = glocal.Run(tmp_path / "a").recipe
    assert (written.train.epochs, written.train.freeze_backbone_epochs) == (2, 0.5)
    start(tmp_path / "a", recipe=recipe)  # it knows itself again


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GlocalError, match=r"file.a cannot be made: Not a directory"):
        start(tmp_path / "file" / "a")


def test_a_stop_while_planning_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop._optimise

    def asked(*args: Any) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(loop, "_optimise", asked)
    with pytest.raises(RunInterrupted, match="stopped before the first step, while planning"):
        start(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_a_killed_planning_has_left_is_removed(tmp_path: Path, pinned: list[str]) -> None:
    remains = tmp_path / "a" / ".trial" / "checkpoints"
    remains.mkdir(parents=True)
    (remains / "step-000000001.pt").write_text("torn")
    assert start(tmp_path / "a").metrics["step"][-1] == 12
    assert not remains.exists()


@pytest.mark.parametrize("name", parameters())
def test_every_method_can_be_tried(name: str, tmp_path: Path) -> None:
    overrides = {
        **CASES[name].run,
        "method.name": name,
        "train.batch_size": 8,
        "train.precision": "fp32",
        "monitor.knn_epochs": 10,
    }
    recipe, source, _ = resolve("shapes:train:32", None, overrides, tmp_path / "a", progress=False)
    generator = torch.get_rng_state()
    with Trials(source, launch(recipe), tmp_path / "a") as trials:
        costs = trials.measure(recipe, seconds=0.0)
    torch.set_rng_state(generator)
    assert min(costs.step, costs.start, costs.look, costs.knn, costs.checkpoint, costs.end) > 0
    assert (costs.refresh > 0) == (name in ("clim", "deepcluster_v2", "pcl", "sela"))
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_photographs_are_tried_as_they_stream(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    folder = image_folder(24, sizes=((40, 32), (32, 48)))
    settings = {**SMALL, "train.batch_size": 8, "data.size": 16}
    recipe, source, _ = resolve(folder, None, settings, tmp_path / "a", progress=False)
    with Trials(source, launch(recipe), tmp_path / "a") as trials:
        costs = trials.measure(recipe, seconds=60.0)
        brief = trials.measure(recipe, seconds=60.0, brief=True)
    assert costs.step > 0
    assert (brief.checkpoint, brief.knn) == (0, 0)


def test_a_trial_changes_no_state_of_the_run(tmp_path: Path) -> None:
    recipe, source, _ = resolve(DATA, None, SMALL, tmp_path / "a", progress=False)
    fabric = launch(recipe)
    weights: list[torch.Tensor] = []
    real = trial.train

    def watched(method: Any, *args: Any, **kwargs: Any) -> None:
        before = {name: value.clone() for name, value in method.named_parameters()}
        try:
            real(method, *args, **kwargs)
        finally:
            weights.extend(
                value.detach() - before[name] for name, value in method.named_parameters() if "teacher" not in name
            )

    with pytest.MonkeyPatch.context() as patched, Trials(source, fabric, tmp_path / "a") as trials:
        patched.setattr(trial, "train", watched)
        trials.measure(recipe, seconds=0.0)
    assert weights
    assert all(bool((moved == 0).all()) for moved in weights)  # a learning rate of 0: nothing can diverge


PINNED = """
from glocal.training import planning, run, trial
from glocal.training.budget import Costs
run.draw_views = run.draw_loss = trial.draw_views = lambda *_, **__: None
real = planning.Trials.measure
def measure(*arguments, **settings):
    costs = real(*arguments, **settings)
    assert costs.step > 0
    return Costs(270.0)
planning.Trials.measure = measure
"""


def arguments(out: Path, *more: str) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in SMALL.items()]
    return ["pretrain", "--data", DATA, "--out", str(out), "--time", "1h", *settings, *more]


@pytest.mark.slow
def test_two_processes_make_one_plan(tmp_path: Path, preloaded: Preloaded) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [{**meeting, "NODE_RANK": "0", "LOCAL_RANK": str(rank), "RANK": str(rank)} for rank in range(2)]
    command = arguments(tmp_path / "a", "--set=train.devices=2", "--set=train.device=cpu")
    both = [preloaded.start(*command, before=PINNED, environment=rank) for rank in ranks]
    done = [process.finish() for process in both]
    assert [one.returncode for one in done] == [0, 0], b"".join(one.stderr for one in done).decode()
    assert glocal.Run(tmp_path / "a").metrics["step"] == list(range(1, 13))
    assert not (tmp_path / "a" / ".trial").exists()


def test_the_command_plans_trains_and_says_so(tmp_path: Path, preloaded: Preloaded) -> None:
    [done] = [preloaded.start(*arguments(tmp_path / "a"), before=PINNED).finish()]
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert "measuring 32 pixels with resnet18 …" in said
    assert "note: --time 1 h: 2 epochs of 6 steps at 32 pixels with resnet18" in said
    assert "this takes about" not in said  # the plan has said it
    written = build_recipe(load_mapping(tmp_path / "a" / "recipe.yaml"))
    assert (written.train.epochs, written.planned.partition(";")[0]) == (
        2,
        "--time 1 h: 2 epochs of 6 steps at 32 pixels with resnet18",
    )
    state = newest_checkpoint(tmp_path / "a" / "checkpoints")
    assert state is not None
    assert state["step"] == 12


def test_a_time_that_is_none_is_told_before_anything_is_loaded() -> None:
    code = "import sys\nfrom glocal.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "pretrain", "--data", "shapes", "--out", "x", "--time", "30"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (2, "False")
    assert done.stderr.strip() == "glocal: --time 30: write a time above 0 as 90s, 30m, 2h or 1h30"


@pytest.mark.parametrize("method", [pytest.param("dino", marks=pytest.mark.slow), "swav"])
def test_a_planned_run_that_began_with_weights_goes_on_with_the_same_command(
    method: str, tmp_path: Path, pinned: list[str], image_folder: Callable[..., Path]
) -> None:
    network = {"name": "resnet18", "stem": "standard", "options": SMALL["model.options"]}
    save_file(build_backbone(ModelSettings(**network), size=32).network.state_dict(), tmp_path / "own.safetensors")
    overrides = {"method.name": method, "train.batch_size": 8, "train.precision": "fp32", "monitor.knn_epochs": 0}
    overrides |= {"model.name": "resnet18", "model.options": SMALL["model.options"], "data.workers": 0}
    settings = {"init": tmp_path / "own.safetensors", "overrides": overrides, "time": "1h", "progress": False}
    data = image_folder(16, ((200, 200),))
    planned = glocal.pretrain(data, tmp_path / "a", **settings).recipe
    assert planned.data.size == 96
    assert glocal.pretrain(data, tmp_path / "a", **settings).recipe == planned


def test_images_set_on_top_of_a_recipe_take_the_place_of_its_own(tmp_path: Path) -> None:
    for overrides in ({"data.source": "shapes:train:32"}, {"data": {"source": "shapes:train:32", "size": 16}}):
        recipe, source, _ = resolve(None, "demo-shapes", {**SMALL, **overrides}, tmp_path / "a", progress=False)
        assert (len(source), recipe.data.source) == (32, "shapes:train:32")


@pytest.mark.parametrize(
    ("larger", "epochs", "unchanged", "said"),
    [
        ({}, 30, "", []),
        ({0: (7, True), 1: (12, False)}, 30, "", ["larger would leave fewer than 20 epochs: 7 at A, about 12 at B"]),
        ({}, 9, "", ["nothing smaller can be chosen, so there are fewer than 20 epochs"]),
        (
            {0: (0, False), 1: (3, True)},
            9,
            "",
            ["nothing smaller can be chosen, so there are fewer than 20 epochs (larger: not even 1 at A, 3 at B)"],
        ),
        ({}, 9, "model.name is given", ["fewer than 20 epochs, for model.name is given"]),
        (
            {0: (3, True), 1: (4, True)},
            9,
            "D",
            ["larger would leave fewer than 20 epochs: 3 at A, 4 at B", "fewer than 20 epochs, for D"],
        ),
    ],
)
def test_the_plan_says_why_it_has_so_many_epochs(
    larger: dict[int, tuple[int, bool]], epochs: int, unchanged: str, said: list[str]
) -> None:
    work = SimpleNamespace(seconds=lambda costs, epochs: 60.0 * epochs, steps_per_epoch=6)
    rungs = [SimpleNamespace(words=name) for name in "ABC"]
    found = SimpleNamespace(costs=Costs(step=1.0), rung=2, larger=larger)
    line = planning._line(SimpleNamespace(seconds=3600.0), work, rungs, found, epochs, 5.0, unchanged)
    assert line.split("; ")[1:-1] == said


def test_a_plan_that_had_no_time_to_try_smaller_networks_says_so() -> None:
    work = SimpleNamespace(seconds=lambda costs, epochs: 60.0 * epochs, steps_per_epoch=6)
    found = SimpleNamespace(costs=Costs(step=1.0), rung=0, larger={})
    rungs = [SimpleNamespace(words=name) for name in "ABC"]
    line = planning._line(SimpleNamespace(seconds=3600.0), work, rungs, found, 5, 5.0, "")
    assert "planning had no time to try smaller ones, so there are fewer than 20 epochs" in line
