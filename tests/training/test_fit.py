"""Runs that end, stop, fail and go on, on drawn heads; and blindness."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fixtures_pipeline import config, head_image, random_network
from isochroma.errors import InputError
from isochroma.method.network import PAPER
from isochroma.method.patches import PatchSettings
from isochroma.models.folder import Model, load_model
from isochroma.pipeline import Harmonizer
from isochroma.training import module
from isochroma.training.fit import drawing_processes, train
from isochroma.training.settings import PAPER_RECIPE, Recipe, TrainerSettings

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        r".isinstance\(treespec, LeafSpec\).:FutureWarning",  # Lightning's use of torch
        "Checkpoint directory .* exists and is not empty:UserWarning",  # resumed runs
        "The dirpath has changed from:UserWarning",  # checkpoints that a test copied
        "The `srun` command is available:UserWarning",  # on machines with SLURM
    )
]

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(target: Path, cache: Path, recipe: Recipe) -> Run:
    """Train in `folder` on one CPU; other options are of the recipe's training settings."""

    def start(
        folder: Path,
        target: Path = target,
        cache: Path = cache,
        workers: int = 0,
        start_from: Model | None = None,
        **training: Any,
    ) -> Path:
        changed = dataclasses.replace(
            recipe, training=dataclasses.replace(recipe.training, **training)
        )
        trainer = TrainerSettings(accelerator="cpu", devices=1, workers=workers)
        return train(target, folder, changed, trainer, start_from, "tiny", cache)

    return start


@pytest.fixture(scope="module")
def trained(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of an undisturbed run of 6 steps."""
    return run(tmp_path_factory.mktemp("runs") / "straight")


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def logged(folder: Path, name: str) -> list[tuple[int, float]]:
    """Step and value of each time that a quantity was logged, over all parts of a run."""
    rows: list[dict[str, str]] = []
    for log in sorted(folder.glob("logs/run-*/metrics.csv")):
        with log.open(newline="") as stream:
            rows += csv.DictReader(stream)
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]


def assert_same_weights(folder: Path, expected: Path) -> None:
    a, b = (load_file(each / "weights.safetensors") for each in (folder, expected))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in b)


def assert_same_end(folder: Path, expected: Path) -> None:
    """All weights, moments, averages and scores agree bit for bit."""
    a, b = checkpoint(folder), checkpoint(expected)
    assert a["global_step"] == b["global_step"] == 6
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(a[part][name], b[part][name]) for name in b[part])
    moments = [state["optimizer_states"][0]["state"] for state in (a, b)]
    assert moments[0].keys() == moments[1].keys()
    for key, state in moments[1].items():
        assert all(torch.equal(moments[0][key][name], state[name]) for name in state)
    assert_same_weights(folder, expected)
    assert load_model(folder).config == load_model(expected).config


@contextlib.contextmanager
def at_step(number: int, action: Callable[[module.FlowTraining], object]) -> Iterator[None]:
    """Do something when the training step of this number (from 0) begins."""
    original = module.FlowTraining.training_step

    def training_step(self: module.FlowTraining, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == number:
            action(self)
        return original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.FlowTraining, "training_step", training_step)
        yield


class Stopped(Exception):  # noqa: N818
    """What a kill does to a run."""


def stop(training: module.FlowTraining) -> None:
    raise Stopped


def start_and_stop(run: Run, folder: Path, step: int, **training: Any) -> None:
    """Kill a run when the step of this number begins."""
    with at_step(step, stop), pytest.raises(Stopped):
        run(folder, **training)


class TestRun:
    def test_leaves_a_model(self, trained: Path, target: Path, recipe: Recipe) -> None:
        model = load_model(trained)
        assert model.config.name == "tiny"
        assert model.config.network == recipe.network
        assert model.config.preprocess == recipe.preprocess
        assert model.config.target.scans == 2
        assert model.config.training["steps_done"] == 6
        assert not model.config.capabilities.second_pass
        result = np.asarray(Harmonizer(model)(target / "sub-03_T1w.nii.gz").dataobj)
        assert np.isfinite(result).all()
        assert result.any()

    def test_validation_is_recorded(self, trained: Path) -> None:
        validation = load_model(trained).config.validation
        ((_, psnr),) = logged(trained, "val_psnr")
        ((_, ssim),) = logged(trained, "val_ssim")
        assert validation.psnr == pytest.approx(psnr, abs=1e-4)
        assert validation.ssim == pytest.approx(ssim, abs=1e-4)
        assert 0.5 < np.mean(validation.errors) / validation.rmse < 2

    def test_leaves_events_for_tensorboard(self, trained: Path) -> None:
        (events,) = (trained / "logs" / "run-0").glob("events.out.tfevents.*")
        assert events.stat().st_size > 100

    def test_leaves_a_preview_and_a_checkpoint(self, trained: Path) -> None:
        pictures = list((trained / "previews").iterdir())
        assert [path.name for path in pictures] == ["step-000006.png"]
        with Image.open(pictures[0]) as picture:
            assert picture.format == "PNG"
        assert [p.name for p in (trained / "checkpoints").iterdir()] == ["last.ckpt"]
        assert checkpoint(trained)["global_step"] == 6

    def test_the_averaged_weights_are_exported(self, trained: Path) -> None:
        state = checkpoint(trained)
        exported = load_file(trained / "weights.safetensors")
        averaged, raw = state["state_dict"], state["current_model_state"]

        def distance(weights: dict[str, torch.Tensor]) -> float:
            return max(
                float((weights[f"network.{name}"].half().float() - tensor.float()).abs().max())
                for name, tensor in exported.items()
            )

        assert distance(averaged) == 0
        assert distance(raw) > 0

    def test_same_seed_same_model(self, run: Run, trained: Path, tmp_path: Path) -> None:
        """Neither global state nor the number of workers plays a part."""
        torch.manual_seed(999)
        np.random.seed(999)  # noqa: NPY002
        assert_same_end(run(tmp_path / "again", workers=2), trained)

    def test_last_steps_are_exported_too(self, run: Run, tmp_path: Path) -> None:
        """4 steps, validated every 3: the model that is left has seen 4."""
        folder = run(tmp_path / "model", steps=4, validate_every=3)
        assert load_model(folder).config.training["steps_done"] == 4

    @pytest.mark.parametrize("warmup", [0, 200])
    def test_any_warm_up_trains_the_exported_weights(
        self, run: Run, tmp_path: Path, warmup: int
    ) -> None:
        """None at all, or one longer than the run: not the initial weights, whose output is 0."""
        folder = run(tmp_path / "model", steps=2, warmup_steps=warmup)
        assert load_file(folder / "weights.safetensors")["out.weight"].abs().max() > 0

    def test_reconstruction_improves(self, run: Run, tmp_path: Path) -> None:
        """After 30 steps the output is far better than the untrained one, which is 0 everywhere."""
        options = {"batch_size": 4, "learning_rate": 1e-2, "edge_variants": 0, "start_share": 1.0}
        steps = {"steps": 30, "validate_every": 30, "checkpoint_every": 30}
        folder = run(tmp_path / "model", **options, **steps)
        quantiles = np.array(load_model(folder).config.target.quantiles)
        untrained = -10 * np.log10(np.mean(quantiles**2) / 4)
        assert load_model(folder).config.validation.psnr > untrained + 2

    def test_paper_recipe(self, target: Path, cache: Path, recipe: Recipe, tmp_path: Path) -> None:
        """Two steps of it, with a small network and without fp16, which is for GPUs."""
        changes = {"steps": 2, "batch_size": 1, "precision": "32-true"}
        paper = dataclasses.replace(
            PAPER_RECIPE,
            preprocess=recipe.preprocess,
            network=dataclasses.replace(PAPER, width=4),
            patches=recipe.patches,
            training=dataclasses.replace(PAPER_RECIPE.training, **changes),
        )
        folder = train(target, tmp_path / "model", paper, TrainerSettings("cpu", 1), cache=cache)
        model = load_model(folder)
        assert model.config.name == "model"
        assert all(torch.isfinite(weight).all() for weight in model.network.parameters())

    def test_second_pass(self, run: Run, trained: Path, tmp_path: Path) -> None:
        """A model trained on drafts says that it has a second pass, and how well it does."""
        model = load_model(trained)
        cached = tmp_path / "cache"
        options = {"steps": 2, "draft_share": 1.0, "draft_copies": 1, "edge_variants": 0}
        folder = run(tmp_path / "model", cache=cached, start_from=model, **options)
        config = load_model(folder).config
        assert config.capabilities.second_pass
        assert config.training["val_draft0_psnr"] > 0
        assert len(list(cached.glob("*/drafts-*/0/draft.npy"))) == 3


class TestRefusal:
    """Before hours of preprocessing: no scan is read, nothing is written."""

    def test_patch_size_that_the_network_cannot_halve(self, target: Path, tmp_path: Path) -> None:
        recipe = Recipe(patches=PatchSettings(size=60))
        with pytest.raises(InputError, match=r"patch size of 60 .* multiple of 8"):
            train(target, tmp_path / "model", recipe)
        assert list(tmp_path.iterdir()) == []

    def test_drafts_without_a_model(self, run: Run, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="drafts that a model makes"):
            run(tmp_path / "model", draft_share=0.5)
        assert list(tmp_path.iterdir()) == []

    def test_start_from_another_network(self, target: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="its network is"):
            train(target, tmp_path / "model", start_from=Model(random_network(), config()))
        assert list(tmp_path.iterdir()) == []


class TestResume:
    def test_stopped_run_goes_on_as_if_it_had_not_been(
        self, run: Run, trained: Path, tmp_path: Path
    ) -> None:
        """Killed two steps after its checkpoint; the steps before that are not done again."""
        folder = tmp_path / "model"
        start_and_stop(run, folder, step=5)
        assert checkpoint(folder)["global_step"] == 3
        assert not (folder / "weights.safetensors").exists()
        with at_step(2, stop):
            run(folder)
        assert_same_end(folder, trained)

    def test_validations_happen_at_the_same_steps(self, run: Run, tmp_path: Path) -> None:
        """And the log of the first part is kept."""
        folder = tmp_path / "model"
        start_and_stop(run, folder, step=3, validate_every=2)
        run(folder, validate_every=2)
        pictures = sorted(path.name for path in (folder / "previews").iterdir())
        assert pictures == [f"step-{step:06d}.png" for step in (2, 4, 6)]
        assert [step for step, _ in logged(folder, "val_psnr")] == [1, 3, 5]  # counted from 0

    def test_finished_run_is_left_as_it_is(self, run: Run, trained: Path, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(trained, folder)
        run(folder)
        assert_same_end(folder, trained)

    def test_killed_before_the_last_export(self, run: Run, trained: Path, tmp_path: Path) -> None:
        """The last checkpoint is there, the model is not: it is validated and exported."""
        folder = tmp_path / "model"
        shutil.copytree(trained / "checkpoints", folder / "checkpoints")
        run(folder)
        assert_same_end(folder, trained)

    @pytest.mark.parametrize("place", [100, 2000, -2000, -100])
    def test_damaged_checkpoint(self, run: Run, trained: Path, tmp_path: Path, place: int) -> None:
        """One byte, anywhere: refused, and left where it is."""
        folder = tmp_path / "model"
        shutil.copytree(trained / "checkpoints", folder / "checkpoints")
        last = folder / "checkpoints" / "last.ckpt"
        data = bytearray(last.read_bytes())
        data[place] ^= 255
        last.write_bytes(data)
        with pytest.raises(InputError, match=r"last\.ckpt: damaged"):
            run(folder)
        assert last.read_bytes() == bytes(data)

    @pytest.mark.parametrize("part", ["loops", "state_dict", "optimizer_states", "callbacks"])
    def test_checkpoint_with_something_else(
        self, run: Run, trained: Path, tmp_path: Path, part: str
    ) -> None:
        state = checkpoint(trained)
        state[part] = [1]
        (tmp_path / "checkpoints").mkdir()
        torch.save(state, tmp_path / "checkpoints" / "last.ckpt")
        with pytest.raises(InputError, match=r"last\.ckpt: damaged, or of another recipe"):
            run(tmp_path)

    def test_checkpoint_that_would_run_code(self, run: Run, trained: Path, tmp_path: Path) -> None:
        class Stranger:
            def __reduce__(self) -> Any:
                return Path.touch, (tmp_path / "ran",)

        (tmp_path / "checkpoints").mkdir()
        state = {**checkpoint(trained), "hyper_parameters": Stranger()}
        torch.save(state, tmp_path / "checkpoints" / "last.ckpt")
        with pytest.raises(InputError, match=r"last\.ckpt: damaged, or of another recipe"):
            run(tmp_path)
        assert not (tmp_path / "ran").exists()

    def test_checkpoint_of_another_network(
        self, run: Run, trained: Path, tmp_path: Path, recipe: Recipe, target: Path, cache: Path
    ) -> None:
        shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
        other = dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, width=4))
        with pytest.raises(InputError, match=r"last\.ckpt: damaged, or of another recipe"):
            train(target, tmp_path, other, TrainerSettings("cpu", 1), cache=cache)

    def test_another_learning_rate(self, run: Run, trained: Path, tmp_path: Path) -> None:
        """A resumed run takes the rate that it is given: with hardly any, weights stand still."""
        folder = tmp_path / "model"
        start_and_stop(run, folder, step=3)
        before = checkpoint(folder)["current_model_state"]
        run(folder, learning_rate=1e-12)
        after = checkpoint(folder)["current_model_state"]
        assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)

    def test_ctrl_c(self, run: Run, trained: Path, tmp_path: Path) -> None:
        def interrupt(training: module.FlowTraining) -> None:
            raise KeyboardInterrupt

        folder = tmp_path / "model"
        before = signal.getsignal(signal.SIGINT)
        try:
            with at_step(4, interrupt), pytest.raises(SystemExit):
                run(folder)
        finally:
            signal.signal(signal.SIGINT, before)
        run(folder)
        assert_same_end(folder, trained)


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Every file of this process may grow to `size` bytes: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFailure:
    def test_nan_names_the_step_and_keeps_the_checkpoint(
        self, run: Run, trained: Path, tmp_path: Path
    ) -> None:
        def poison(training: module.FlowTraining) -> None:
            with torch.no_grad():
                next(training.network.parameters()).fill_(float("nan"))

        folder = tmp_path / "model"
        with (
            at_step(4, poison),
            pytest.raises(FloatingPointError, match="the loss is nan at step 4"),
        ):
            run(folder)
        assert checkpoint(folder)["global_step"] == 3
        run(folder)
        assert_same_end(folder, trained)

    def test_save_that_raises_keeps_the_last_checkpoint(self, run: Run, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        with pytest.MonkeyPatch.context() as patch:

            def fill_the_disk(training: module.FlowTraining) -> None:
                def save(*arguments: Any, **options: Any) -> None:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                patch.setattr(torch, "save", save)

            with at_step(4, fill_the_disk), pytest.raises(OSError, match="No space left"):
                run(folder)
        assert checkpoint(folder)["global_step"] == 3

    def test_full_disk_keeps_the_last_checkpoint(
        self, run: Run, trained: Path, tmp_path: Path
    ) -> None:
        """The write itself fails half-way (here by the limit of a file's size)."""
        folder = tmp_path / "model"
        size = (trained / "checkpoints" / "last.ckpt").stat().st_size
        with contextlib.ExitStack() as stack:

            def fill_the_disk(training: module.FlowTraining) -> None:
                stack.enter_context(file_size_limit(size // 2))

            with at_step(4, fill_the_disk), pytest.raises(OSError, match="File too large"):
                run(folder)
        assert checkpoint(folder)["global_step"] == 3
        assert [p.name for p in (folder / "checkpoints").iterdir()] == ["last.ckpt"]

    def test_full_disk_that_is_not_the_temporary_folders(
        self, run: Run, trained: Path, tmp_path: Path
    ) -> None:
        """Where /tmp is another file system, moving a checkpoint is a copy, which can fail
        half-way: the last checkpoint must outlive that.
        """
        elsewhere = Path("/dev/shm")
        if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is no second file system to put temporary files on")
        folder = tmp_path / "model"
        size = (trained / "checkpoints" / "last.ckpt").stat().st_size
        move = shutil.move

        def move_to_a_full_disk(source: str, destination: str) -> str:
            with file_size_limit(size // 2):
                return move(source, destination)

        with (
            tempfile.TemporaryDirectory(dir=elsewhere) as scratch,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(tempfile, "tempdir", scratch)
            fill = at_step(4, lambda _: patch.setattr(shutil, "move", move_to_a_full_disk))
            with fill, contextlib.suppress(OSError):
                run(folder)
        assert checkpoint(folder)["global_step"] >= 3


OPENED: list[str] = []
LISTENING = False


def record_opening(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook (hooks cannot be removed): note what is opened or listed while listening."""
    if LISTENING and event in {"open", "os.listdir", "os.scandir"}:
        path = arguments[0]
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, str | os.PathLike):
            OPENED.append(str(Path(path).absolute()))


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """The paths opened in the body."""
    global LISTENING
    sys.addaudithook(record_opening)
    OPENED.clear()
    LISTENING = True
    try:
        yield OPENED
    finally:
        LISTENING = False


class TestBlindness:
    def test_no_source_file_is_ever_opened(self, run: Run, target: Path, tmp_path: Path) -> None:
        site = tmp_path / "study"
        shutil.copytree(target, site / "target")
        source = site / "source"
        source.mkdir()
        for seed in (7, 8):
            nib.save(head_image(seed=seed), source / f"sub-{seed:02d}_T1w.nii.gz")
        (source / "participants.tsv").write_text("participant_id\tsplit\nsub-07\ttrain\n")
        nib.save(head_image(seed=9), site / "target" / "sub-09_T1w.nii.gz")
        with (site / "target" / "participants.tsv").open("a") as stream:
            stream.write("sub-09\ttest\n")
        with listening() as opened:
            run(tmp_path / "model", site / "target", tmp_path / "cache", steps=2)
        paths = set(opened)
        for number in (1, 2, 3):
            assert str(site / "target" / f"sub-{number:02d}_T1w.nii.gz") in paths
        assert not [path for path in paths if Path(path).is_relative_to(source)]
        assert str(site / "target" / "sub-09_T1w.nii.gz") not in paths  # the test split

    def test_the_ear_hears(self, tmp_path: Path) -> None:
        """The recorder does see what numpy, nibabel and directory listings open."""
        nib.save(head_image(), tmp_path / "a.nii.gz")
        np.save(tmp_path / "b.npy", np.zeros(3))
        with listening() as opened:
            np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
            np.load(tmp_path / "b.npy", mmap_mode="r")
            list(tmp_path.iterdir())
        for name in ("a.nii.gz", "b.npy", ""):
            assert str(tmp_path / name) in opened


@pytest.mark.slow  # the command's model grid has 1 mm and N4
def test_train_then_harmonize(target: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from isochroma.cli import app

    model, out = tmp_path / "my-scanner", tmp_path / "out"
    options = (
        "--steps 2 --batch-size 1 --patch-size 16 --edge-variants 0 --validate-every 2 "
        "--accelerator cpu --devices 1 --precision 32-true"
    )
    words = ["train", str(target), "-o", str(model), *options.split()]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(model)
    assert load_model(model).config.name == "my-scanner"
    assert load_model(model).config.training["steps_done"] == 2
    words = ["harmonize", str(target / "sub-03_T1w.nii.gz"), "-o", str(out), "--model", str(model)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    values = np.asarray(nib.load(out / "sub-03_T1w_harmonized.nii.gz").dataobj)
    assert np.isfinite(values).all()


class TestDrawingProcesses:
    def test_as_given(self) -> None:
        assert drawing_processes(TrainerSettings(accelerator="cpu", devices=1, workers=3)) == 3

    def test_none_on_a_cpu(self) -> None:
        assert drawing_processes(TrainerSettings(accelerator="cpu", devices=1)) == 0

    def test_all_cores_but_one_beside_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = SimpleNamespace(device=torch.device("cuda"), world_size=1)
        monkeypatch.setattr("lightning.Fabric", lambda **_: found)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16), raising=False)
        assert drawing_processes(TrainerSettings()) == 15
