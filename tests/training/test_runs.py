"""Runs: they learn, resume bit for bit, survive being killed, and say what is wrong."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import glocal
from glocal.checkpoints import checkpoint_files, load_checkpoint, newest_checkpoint, save_checkpoint
from glocal.errors import GlocalError
from glocal.methods.building import build_method
from glocal.training import loop
from glocal.training.log import monitor_series
from glocal.training.loop import NonFiniteLossError
from glocal.training.resolving import resolve

TINY: dict[str, Any] = {
    "model.options": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
    "model.stem": "standard",
    "train.epochs": 2,
    "train.batch_size": 32,
    "train.checkpoint_steps": 1,
    "train.log_steps": 1,
    "train.precision": "fp32",  # what is compared must not depend on the machine
    "method.name": "sce",
    "method.queue_size": 64,
    "monitor.knn_epochs": 0,
}
DATA = "shapes:train:192"  # 6 steps an epoch


def run(out: Path, data: Any = DATA, **overrides: Any) -> glocal.Run:
    settings = {**TINY, **{key.replace("__", "."): value for key, value in overrides.items()}}
    return glocal.pretrain(data, out, overrides=settings, progress=False)


def final_state(out: Path) -> dict[str, Any]:
    state = newest_checkpoint(out / "checkpoints")
    assert state is not None
    return state


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Bit for bit, through dictionaries and lists."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{number}")
    else:
        assert a == b, where


def test_a_run_leaves_everything_a_user_needs(tmp_path: Path) -> None:
    finished = run(tmp_path / "a", monitor__knn_epochs=1)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {
        "recipe.yaml",
        "metrics.csv",
        "monitor.csv",
        "checkpoints",
        "loss.png",
        "views.png",
        "tensorboard",
    } <= names
    assert finished.metrics["step"] == list(range(1, 13))
    assert all(value > 0 for value in finished.metrics["images_per_second"])
    assert len(checkpoint_files(tmp_path / "a" / "checkpoints")) == 2
    monitored = [row["name"] for row in csv.DictReader((tmp_path / "a" / "monitor.csv").open())]
    assert monitored.count("knn") == 2
    assert {"spread", "effective_rank"} <= set(monitored)
    features = glocal.load_backbone(tmp_path / "a").features(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert features.shape == (2, 16)


@pytest.mark.usefixtures("no_pictures")
def test_the_written_recipe_repeats_the_run(tmp_path: Path) -> None:
    run(tmp_path / "a")
    glocal.pretrain(None, tmp_path / "b", recipe=tmp_path / "a" / "recipe.yaml", progress=False)
    first, second = final_state(tmp_path / "a"), final_state(tmp_path / "b")
    assert_equal(first["method"], second["method"])
    assert_equal(first["optimizers"], second["optimizers"])


KILLED = """
import os, signal, sys
import glocal, matplotlib.pyplot, torch.utils.tensorboard
from glocal.training import loop, run  # loaded once; nothing has run, and so no thread been started, before the fork
run.draw_views = run.draw_loss = lambda *_, **__: None
real = loop._optimise
def train_and_die(steps):
    def counted(*args):
        nonlocal steps
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
        return real(*args)
    loop._optimise = counted
    glocal.pretrain("shapes:train:192", sys.argv[1], overrides=eval(sys.argv[2]), progress=False)
for steps in map(int, sys.argv[3:]):
    process = os.fork()
    if process == 0:
        try:
            train_and_die(steps)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.fixture
def two_threads() -> Iterator[None]:
    """What has to be equal bit for bit is so with several threads, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads", "no_pictures")
def test_a_run_killed_at_random_steps_ends_in_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    settings = {**TINY, "train.checkpoint_steps": 2}  # odd steps are lost and done again
    glocal.pretrain(DATA, tmp_path / "whole", overrides=settings, progress=False)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), repr(settings), *"312"],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 3, done.stderr
    glocal.pretrain(DATA, tmp_path / "killed", overrides=settings, progress=False)
    whole, killed = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    assert whole["step"] == killed["step"] == 12
    assert_equal(whole["method"], killed["method"])
    assert_equal(whole["optimizers"], killed["optimizers"])
    losses = [
        [row["loss"] for row in csv.DictReader((tmp_path / name / "metrics.csv").open())]
        for name in ("whole", "killed")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(number: int, tmp_path: Path) -> None:
    arguments = ["pretrain", "--data", DATA, "--out", str(tmp_path / "a"), "--set", "train.epochs=100000"]
    for key, value in TINY.items():
        if key not in ("train.epochs", "train.checkpoint_steps"):
            arguments += ["--set", f"{key}={value}"]
    code = "from glocal.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "a" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "stopped after step" in errors
    assert "the same command continues it" in errors
    assert "Traceback" not in errors
    assert final_state(tmp_path / "a")["step"] >= 1


@pytest.mark.usefixtures("no_pictures")
def test_gradient_accumulation_equals_the_whole_batch_where_nothing_depends_on_it(tmp_path: Path) -> None:
    options = {
        "model__name": "vit_tiny",
        "model__options": {"depth": 1, "patch_size": 16, "embed_dim": 32, "num_heads": 2},
    }
    common = {**options, "method__name": "moco", "train__epochs": 1, "train__channels_last": False}
    run(tmp_path / "whole", **common)
    run(tmp_path / "parts", **common, train__accumulate=4)
    whole, parts = final_state(tmp_path / "whole")["method"], final_state(tmp_path / "parts")["method"]
    for name in whole:
        if whole[name].is_floating_point():
            assert torch.allclose(whole[name], parts[name], atol=2e-4), name


@pytest.mark.usefixtures("no_pictures")
def test_bf16_and_clipping_train(tmp_path: Path) -> None:
    finished = run(tmp_path / "a", train__precision="bf16", train__clip_norm=0.5, train__epochs=1)
    assert finished.metrics["step"][-1] == 6


@pytest.mark.parametrize("clip", ["norm", "parameter"])
def test_clipping_bounds_all_gradients_together_or_each_alone(tmp_path: Path, clip: str) -> None:
    plain = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0.0}
    settings = {f"optimizer__{key}": value for key, value in {**plain, "lr": 0.1, "lr_batch_size": None}.items()}
    finished = run(tmp_path / "a", train__clip_norm=1e-3, train__epochs=1, optimizer__clip=clip, **settings)
    torch.manual_seed(finished.recipe.seed)
    started, ended = build_method(finished.recipe), final_state(tmp_path / "a")["method"]
    moved = torch.tensor(
        [(ended[name] - before).norm().item() for name, before in started.named_parameters() if before.requires_grad]
    )
    most = 6 * 0.1 * 1e-3 * 1.001  # steps, rate, limit
    assert moved.max().item() <= most
    assert (moved.norm().item() <= most) == (clip == "norm")


def test_the_streaming_lane_trains_on_a_folder(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    folder = image_folder(64, sizes=((32, 32), (48, 40)))
    finished = run(tmp_path / "a", folder, data__workers=1, train__epochs=1)
    assert finished.recipe.data.size == 32
    assert finished.metrics["step"][-1] == 2


def test_few_images_shrink_the_batch_and_the_queue_and_say_so(
    tmp_path: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    finished = run(tmp_path / "a", image_folder(20), train__epochs=1)
    assert finished.recipe.train.batch_size == 20
    assert finished.recipe.method.queue_size == 20
    said = capsys.readouterr().err
    assert "train.batch_size is 20 instead of 32" in said
    assert "method.queue_size is 20 instead of 64" in said


@pytest.mark.parametrize(
    ("settings", "warmup", "said"),
    [
        ({"train.epochs": 200}, 13.33, "optimizer.warmup_epochs is 13.33 instead of 5: an epoch has only 6 steps"),
        ({"train.epochs": 50}, 10, "optimizer.warmup_epochs is 10 instead of 5: an epoch has only 6 steps"),  # a fifth
        ({"train.epochs": 200, "train.batch_size": 8}, 5, ""),  # 120 steps
        ({"train.epochs": 200, "optimizer.warmup_epochs": 1}, 1, ""),
        ({"train.epochs": 200, "optimizer": {"warmup_epochs": 0, "lr": 0.1}}, 0, ""),
    ],
)
def test_few_images_have_a_warm_up_of_enough_steps_unless_it_is_set(
    settings: dict[str, Any], warmup: float, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, *_ = resolve(DATA, "sce-cifar10", {**TINY, **settings}, tmp_path / "run", progress=False)
    assert recipe.optimizer.warmup_epochs == warmup
    found = [line for line in capsys.readouterr().err.splitlines() if "warm" in line]
    assert [line.removeprefix("note: ") for line in found] == ([said] if said else [])


@pytest.mark.parametrize(
    ("data", "settings", "warmup"),
    [
        ("shapes:train:20000", {}, 1.03),  # 80 of 78 steps an epoch
        ("shapes:train:1000", {"train.epochs": 5}, 1),  # a fifth
        (DATA, {"optimizer.warmup_epochs": 0}, 0),
        (DATA, {"optimizer": {"lr": 0.1}}, 13.33),
        (DATA, {"optimizer.name": "adamw"}, 13.33),
        (DATA, {"optimizer.name": "lars"}, 0),
        (DATA, {"method.name": "sce"}, 0),
        (DATA, {"method.name": "sce", "optimizer.name": "adamw"}, 13.33),
    ],
)
def test_the_default_method_and_adamw_have_a_warm_up_without_a_word(
    data: str, settings: dict[str, Any], warmup: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = {"train.batch_size": 32} if data == DATA else {}
    recipe, *_ = resolve(data, None, {"model.stem": "medium", **batch, **settings}, tmp_path / "run", progress=False)
    assert recipe.optimizer.warmup_epochs == warmup
    assert "warm" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "settings", "warmup"),
    [
        ("hcl-cifar10", {}, 0),  # none in print
        ("patchwise-dino-cifar10", {"optimizer": {"lr": 0.002}}, 13.33),  # AdamW by the network, for the section is new
    ],
)
def test_what_a_recipe_says_of_its_warm_up_counts(
    recipe: str, settings: dict[str, Any], warmup: float, tmp_path: Path
) -> None:
    more = {"train.epochs": 200, "train.batch_size": 32}
    resolved, *_ = resolve(DATA, recipe, {**more, **settings}, tmp_path / "run", progress=False)
    assert (resolved.optimizer.name, resolved.optimizer.warmup_epochs) == ("adamw", warmup)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"model.name": "vit_tiny"},
            ["optimizer.name is adamw, at optimizer.lr=0.001, for vit_tiny is a transformer"],
        ),
        ({"model.name": "vit_tiny", "optimizer.lr": 0.002}, ["optimizer.name is adamw, for vit_tiny is a transformer"]),
        ({"model.name": "vit_tiny", "optimizer.name": "adamw"}, []),
        ({"model.name": "resnet18"}, []),
    ],
)
def test_the_optimiser_is_said_where_the_network_alone_decides_it(
    settings: dict[str, Any], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve(DATA, None, {"train.batch_size": 32, **settings}, tmp_path / "run", progress=False)
    found = [line for line in capsys.readouterr().err.splitlines() if "optimizer" in line]
    assert [line.removeprefix("note: ") for line in found] == said


@pytest.mark.parametrize(
    ("recipe", "settings", "said"),
    [
        (
            "sce-cifar10",
            {"optimizer.name": "adamw"},
            "optimizer.lr=0.06 is the recipe's for sgd, and optimizer.name is adamw",
        ),
        (
            "simclr-imagenet",
            {"optimizer.name": "sgd"},
            "optimizer.lr=0.3 is the recipe's for lars, and optimizer.name is sgd",
        ),
        ("sce-cifar10", {"optimizer.name": "adamw", "optimizer.lr": 0.06}, ""),
        ("sce-cifar10", {"optimizer": {"name": "adamw"}}, ""),  # a new section, with AdamW's usual rate
        ("sce-cifar10", {"optimizer.name": "sgd"}, ""),
        (None, {"optimizer.name": "adamw"}, ""),
        ("text", {"optimizer.name": "adamw"}, "optimizer.lr=0.1 is the recipe's for sgd, and optimizer.name is adamw"),
        (
            "no name",
            {"optimizer.name": "adamw"},
            "optimizer.lr=0.1 is the recipe's for sgd, and optimizer.name is adamw",
        ),
    ],
)
def test_a_rate_of_another_optimiser_is_told(
    recipe: str | None, settings: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"text": "{name: sgd, lr: '0.1'}", "no name": "{lr: 0.1}"}.get(recipe or "")
    if own:
        (tmp_path / "own.yaml").write_text(f"method: {{name: sce}}\noptimizer: {own}\n")
    its = tmp_path / "own.yaml" if own else recipe
    resolve(DATA, its, {"train.batch_size": 32, **settings}, tmp_path / "run", progress=False)
    found = [line for line in capsys.readouterr().err.splitlines() if "optimizer.lr" in line]
    assert [line.removeprefix("warning: ") for line in found] == ([f"{said}; set optimizer.lr too"] if said else [])


def test_a_recipe_that_holds_only_with_what_is_set_on_top_is_built_so(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("method: {name: sce, temperature: -1}\noptimizer: {lr: 0.1}\n")
    mended = {"train.batch_size": 32, "method.temperature": 0.1}
    resolved, *_ = resolve(DATA, tmp_path / "own.yaml", mended, tmp_path / "run", progress=False)
    assert resolved.optimizer.lr == 0.1


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", ["{name: sce}\noptimizer: {lr: 0.1, warmup_epochs: 0.1}", "{name: glocal}"])
def test_a_run_that_is_extended_keeps_its_warm_up(tmp_path: Path, method: str) -> None:
    (tmp_path / "own.yaml").write_text(f"method: {method}\n")
    tiny = {key: value for key, value in TINY.items() if not key.startswith("method.")}
    for epochs in (1, 2):
        settings = {**tiny, "train.epochs": epochs}
        recipe, out = tmp_path / "own.yaml", tmp_path / "run"
        run = glocal.pretrain(DATA, out, recipe=recipe, overrides=settings, extend=epochs == 2, progress=False)
        assert run.recipe.optimizer.warmup_epochs == 0.2


@pytest.mark.usefixtures("no_pictures")
def test_a_loss_that_is_no_number_stops_with_the_step_and_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = loop._optimise, iter(range(100))

    def poisoned(*args: Any) -> torch.Tensor:
        loss = real(*args)
        return loss * float("nan") if next(count) == 4 else loss

    monkeypatch.setattr(loop, "_optimise", poisoned)
    with pytest.raises(
        NonFiniteLossError,
        match=r"nan at step 5; no single image is .* of step 4, .*; the last good .*step-000000004\.pt",
    ):
        run(tmp_path / "a")
    assert final_state(tmp_path / "a")["step"] == 4


def test_a_collapsing_run_is_told_so_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    constant = [{"size": 32, "count": 2, "jitter": {"probability": 0}}]
    run(tmp_path / "a", data=_SameImage(), views=constant)
    assert "the embeddings are collapsing to one point" in capsys.readouterr().err


def _SameImage() -> Any:
    from glocal.data.sources.base import MemorySource

    return MemorySource("grey", torch.full((64, 3, 32, 32), 128, dtype=torch.uint8), None, None)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("overrides", "told"),
    [({"train.epoch": 5}, "train.epochs"), ({"method.name": "moco", "method.queue": 64}, "method.queue_size")],
)
def test_a_mistyped_setting_is_told_before_the_images_are_listed(
    tmp_path: Path, overrides: dict[str, Any], told: str
) -> None:
    with pytest.raises(GlocalError, match=f"did you mean {told}"):  # and not that there is no such folder
        glocal.pretrain(tmp_path / "nowhere", tmp_path / "a", overrides=overrides, progress=False)


def test_other_settings_in_the_same_folder_are_refused_and_harmless_ones_not(tmp_path: Path) -> None:
    run(tmp_path / "a", train__epochs=1)
    with pytest.raises(
        GlocalError, match=r"other settings: train.epochs was 1, is 2; continue it for longer with --extend"
    ):
        run(tmp_path / "a", train__epochs=2)
    run(tmp_path / "a", train__epochs=1, train__log_steps=5)
    with pytest.raises(GlocalError, match="there is a run in"):
        glocal.pretrain(DATA, tmp_path / "a", overrides=TINY, resume="never")
    with pytest.raises(GlocalError, match="there is no run in .* to continue"):
        glocal.pretrain(DATA, tmp_path / "b", overrides=TINY, resume="must")
    assert not (tmp_path / "b").exists()
    with pytest.raises(GlocalError, match="resume=Never: did you mean never"):
        glocal.pretrain(DATA, tmp_path / "a", overrides=TINY, resume="Never")  # type: ignore[arg-type]
    for images in (5, torch.zeros(4, 3, 8, 8)):
        with pytest.raises(GlocalError, match="images are named by a folder.*; those in memory are"):
            glocal.pretrain(images, tmp_path / "c")  # type: ignore[arg-type]
    with pytest.raises(GlocalError, match="a recipe is a name or a file, not dict; single settings are overrides"):
        glocal.pretrain(DATA, tmp_path / "c", recipe={"train": {"epochs": 1}})  # type: ignore[arg-type]
    with pytest.raises(GlocalError, match="overrides are a dictionary"):
        glocal.pretrain(DATA, tmp_path / "a", overrides=["train.epochs=1"])  # type: ignore[arg-type]
    with pytest.raises(GlocalError, match="no images: .*; the run in .*a goes on with --recipe .*a/recipe.yaml"):
        glocal.pretrain(None, tmp_path / "a")


@pytest.mark.usefixtures("no_pictures")
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "a", train__epochs=1)
    newest, before = checkpoint_files(tmp_path / "a" / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:1000])
    assert final_state(tmp_path / "a")["step"] == 5
    assert "no readable checkpoint" in capsys.readouterr().err
    before.write_bytes(b"")
    with pytest.raises(GlocalError, match="none of the 2 checkpoints"):
        newest_checkpoint(tmp_path / "a" / "checkpoints")


@pytest.mark.usefixtures("no_pictures")
def test_checkpoints_of_another_shape_or_kind_are_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path / "a", train__epochs=1)
    path = checkpoint_files(tmp_path / "a" / "checkpoints")[0]
    state = load_checkpoint(path)
    state["method"]["backbone.network.conv1.weight"] = torch.zeros(8, 3, 3, 3)
    torch.save(state, path)
    with pytest.raises(
        GlocalError, match=r"network.conv1.weight has shape \(8, 3, 3, 3\), but .* needs \(64, 3, 7, 7\)"
    ):
        glocal.load_backbone(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(GlocalError, match="is no checkpoint of glocal"):
        glocal.load_backbone(path)
    path.write_bytes(b"cposix\nsystem\n(S'true'\ntR.")  # a pickle that would run a command
    with pytest.raises(GlocalError, match="is no readable checkpoint"):
        glocal.load_backbone(path)


def test_a_write_that_fails_leaves_the_old_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"step": 1, "method": {}}, keep=2)

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, {"step": 2, "method": {}}, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.pt"]


def test_one_process_of_a_batch_system_measures_whatever_its_number_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}.items():
        monkeypatch.setenv(name, value)
    run(tmp_path / "a", train__epochs=1, monitor__knn_epochs=1)
    assert [step for step, _ in monitor_series(tmp_path / "a", "knn")] == [6]


def test_what_a_kill_at_the_end_has_left_out_is_made_by_the_same_command(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    run(folder, train__epochs=1)
    written = (folder / "environment.json").read_bytes()
    (folder / "environment.json").unlink()
    (folder / "loss.png").unlink()
    run(folder, train__epochs=1)
    assert (folder / "environment.json").read_bytes() == written
    assert (folder / "loss.png").is_file()
    os.utime(folder / "loss.png", (1, 1))  # of an earlier stop
    run(folder, train__epochs=1)
    assert (folder / "loss.png").stat().st_mtime > 1


def test_a_finished_run_needs_no_test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"train__epochs": 1, "monitor__knn_epochs": 1, "data__test": str(tmp_path / "test")}
    for kind in range(2):
        (tmp_path / "test" / f"{kind:02d}").mkdir(parents=True)
    for kind, name in enumerate(("00", "01")):
        Image.new("RGB", (32, 32), (200 * kind, 9, 9)).save(tmp_path / "test" / name / "a.png")
    images = tmp_path / "train"
    for number in range(64):
        folder = images / f"{number % 2:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (200 * (number % 2), number, 9)).save(folder / f"{number}.png")
    run(tmp_path / "a", images, **settings)
    shutil.rmtree(tmp_path / "test")
    run(tmp_path / "a", images, **settings)
    assert "is finished (2 steps); nothing to do" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(GlocalError, match="there is no folder"):
        run(tmp_path / "b", images, **settings)
    assert not (tmp_path / "b").exists()
