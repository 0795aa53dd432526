"""Training: target scans, their cache, batches, runs that stop and go on, and blindness."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from fixtures_pipeline import SPACING_MM, config, head, head_image, random_network
from isochroma.errors import InputError
from isochroma.method import flow
from isochroma.method.edges import canny
from isochroma.method.patches import PatchSettings
from isochroma.method.refinement import LEVELS
from isochroma.models.config import ModelConfig
from isochroma.models.folder import load_model
from isochroma.pipeline import Harmonizer
from isochroma.training import data, module
from isochroma.training.data import (
    PatchStream,
    TargetScan,
    cache_scan,
    find_target_scans,
    open_cached,
)
from isochroma.training.drafts import Example
from isochroma.training.fit import train
from isochroma.training.settings import TrainingSettings

SETTINGS = TrainingSettings(
    steps=6,
    batch_size=2,
    learning_rate=3e-3,
    warmup_steps=2,
    ema_decay=0.5,
    edge_variants=1,
    validate_every=6,
    checkpoint_every=3,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people, scanned by one scanner; the third is for validation."""
    folder = tmp_path_factory.mktemp("target")
    for number in (1, 2, 3):
        nib.save(head_image(seed=number), folder / f"sub-{number:02d}_T1w.nii.gz")
    rows = ["participant_id\tsplit", "sub-01\ttrain", "sub-02\ttrain", "sub-03\tval"]
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(target: Path, cache: Path) -> Callable[..., Path]:
    """Train in `folder` on one CPU, exactly."""

    def start(
        folder: Path,
        settings: TrainingSettings = SETTINGS,
        model: ModelConfig | None = None,
        **options: Any,
    ) -> Path:
        options = {"cache": cache, **options}
        return train(
            options.pop("target", target),
            folder,
            model or config(),
            settings,
            accelerator="cpu",
            devices=1,
            precision="32-true",
            **options,
        )

    return start


@pytest.fixture(scope="module")
def trained(run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of an undisturbed run of 6 steps."""
    return run(tmp_path_factory.mktemp("runs") / "straight")


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Do something when the training step number `step` (from 0) begins."""
    original = module.FlowTraining.training_step

    def training_step(self: module.FlowTraining, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == step:
            action()
        return original(self, batch, index)

    monkeypatch.setattr(module.FlowTraining, "training_step", training_step)


class TestFindTargetScans:
    def make(self, folder: Path, *names: str, table: str | None = None) -> Path:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
        if table is not None:
            (folder / "participants.tsv").write_text(table)
        return folder

    def test_participants_table(self, tmp_path: Path) -> None:
        names = [f"sub-{n:02d}_T1w.nii.gz" for n in range(1, 6)]
        table = (
            "participant_id\tage\tsplit\nsub-01\t30\ttrain\nsub-02\t31\ttest\n"
            "sub-03\t32\tval\nsub-04\t33\ttrain\n"
        )
        found = find_target_scans(self.make(tmp_path, *names, "README.md", table=table))
        assert {split: [path.name for path in paths] for split, paths in found.items()} == {
            "train": ["sub-01_T1w.nii.gz", "sub-04_T1w.nii.gz"],
            "val": ["sub-03_T1w.nii.gz"],
        }  # neither the test participant nor one that the table does not know

    def test_plain_folder(self, tmp_path: Path) -> None:
        names = [f"{n:02d}.nii" for n in range(12)]
        found = find_target_scans(self.make(tmp_path, *names, "notes.txt", "picture.png"))
        assert [path.name for path in found["val"]] == ["00.nii", "10.nii"]
        assert [path.name for path in found["train"]] == names[1:10] + names[11:]

    def test_table_without_splits(self, tmp_path: Path) -> None:
        folder = self.make(tmp_path, "sub-1.nii", "sub-2.nii", table="participant_id\nsub-1\n")
        found = find_target_scans(folder)
        assert len(found["val"]) == len(found["train"]) == 1

    def test_nested_folders(self, tmp_path: Path) -> None:
        names = ["sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.mgz"]
        table = "participant_id\tsplit\nsub-01\tval\nsub-02\ttrain\n"
        found = find_target_scans(self.make(tmp_path, *names, table=table))
        assert found == {"val": [tmp_path / names[0]], "train": [tmp_path / names[1]]}

    def test_real_target_domain(self, data_folder: Path) -> None:
        folder = data_folder / "target_ds002748"
        found = find_target_scans(folder)
        assert {split: len(paths) for split, paths in found.items()} == {"train": 37, "val": 3}
        with (folder / "participants.tsv").open(newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t")
            held_out = {row["participant_id"] for row in rows if row["split"] == "test"}
        assert len(held_out) == 4
        listed = {path.name.split("_")[0] for paths in found.values() for path in paths}
        assert not listed & held_out

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder"):
            find_target_scans(tmp_path / "gone")

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few(self, tmp_path: Path, count: int) -> None:
        folder = self.make(tmp_path, *[f"{n}.nii" for n in range(count)])
        with pytest.raises(InputError, match=f"{count} scans found; training needs one"):
            find_target_scans(folder)

    def test_split_without_validation(self, tmp_path: Path) -> None:
        table = "participant_id\tsplit\nsub-1\ttrain\nsub-2\ttest\n"
        with pytest.raises(InputError, match="validation one more"):
            find_target_scans(self.make(tmp_path, "sub-1.nii", "sub-2.nii", table=table))


class TestCache:
    def stamps(self, folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    def test_computed_once(self, target: Path, tmp_path: Path) -> None:
        path = target / "sub-01_T1w.nii.gz"
        folder = cache_scan(path, tmp_path, config(), 1)
        assert folder.parent == tmp_path
        assert folder.name.startswith("sub-01_T1w-")
        before = self.stamps(folder)
        assert sorted(before) == ["edges.npy", "image.npy", "mask.npy", "settings.json"]
        assert cache_scan(path, tmp_path, config(), 1) == folder
        assert self.stamps(folder) == before
        assert list(tmp_path.iterdir()) == [folder]

    @pytest.mark.parametrize("change", ["edges", "preprocess", "variants", "file"])
    def test_recomputed_when_anything_changed(self, tmp_path: Path, change: str) -> None:
        path = tmp_path / "a.nii"
        nib.save(head_image(), path)
        model, variants = config(), 0
        folder = cache_scan(path, tmp_path / "cache", model, variants)
        before = self.stamps(folder)
        if change == "edges":
            model = config(edges=dataclasses.replace(model.edges, fraction=0.1))
        elif change == "preprocess":
            model = config(preprocess=dataclasses.replace(model.preprocess, upper_percentile=98))
        elif change == "variants":
            variants = 2
        else:
            nib.save(head_image(seed=5), path)
        folder = cache_scan(path, tmp_path / "cache", model, variants)
        after = self.stamps(folder)
        assert all(after[name] != before[name] for name in before)
        assert len(open_cached(folder).edges) == 1 + variants

    def test_holds_the_prepared_scan(self, target: Path, tmp_path: Path) -> None:
        path = target / "sub-01_T1w.nii.gz"
        cached = open_cached(cache_scan(path, tmp_path, config(), 2))
        prepared = Harmonizer(random_network(), config(), device="cpu").run(nib.load(path)).prepared
        np.testing.assert_array_equal(cached.mask, prepared.mask)
        np.testing.assert_allclose(cached.image, prepared.image, atol=1e-3)
        assert cached.name.startswith("sub-01_T1w-")
        assert (cached.lower, cached.upper) == (prepared.lower, prepared.upper)
        own = canny(prepared.image, prepared.mask, config().edges)
        assert cached.edges.shape == (3, *prepared.mask.shape)
        np.testing.assert_array_equal(cached.edges[0], own)
        for copy in cached.edges[1:]:
            assert copy.any()
            assert (copy != own).any()
            assert not copy[~prepared.mask].any()

    def test_same_scan_same_copies(self, target: Path, tmp_path: Path) -> None:
        path = target / "sub-01_T1w.nii.gz"
        a, b = (open_cached(cache_scan(path, tmp_path / n, config(), 2)) for n in "ab")
        np.testing.assert_array_equal(a.edges, b.edges)

    def test_failure_leaves_nothing(
        self, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save = np.save

        def save_until_full(path: Path, array: np.ndarray) -> None:
            if Path(path).name == "edges.npy":
                raise OSError(errno.ENOSPC, "No space left on device")
            save(path, array)

        monkeypatch.setattr(np, "save", save_until_full)
        with pytest.raises(OSError, match="No space left"):
            cache_scan(target / "sub-01_T1w.nii.gz", tmp_path, config(), 0)
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupted_draft_is_made_again(
        self, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cached = cache_scan(target / "sub-01_T1w.nii.gz", tmp_path, config(), 0)
        first_pass = Harmonizer(random_network(), config(), device="cpu")

        def cut_short(path: Path, array: np.ndarray) -> None:
            Path(path).write_bytes(b"half")
            if Path(path).name == "draft.npy":
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(np, "save", cut_short)
            with pytest.raises(KeyboardInterrupt):
                data.cache_examples(cached, first_pass, 1)
        data.cache_examples(cached, first_pass, 1)
        (example,) = data.open_examples(cached, config().sha256, 1)
        assert example.draft.shape == open_cached(cached).image.shape

    def test_scans_of_one_name_do_not_share_a_cache(self, tmp_path: Path) -> None:
        """FreeSurfer's layout: bert/mri/T1.mgz, ernie/mri/T1.mgz."""
        paths = [tmp_path / person / "mri" / "T1.mgz" for person in ("bert", "ernie")]
        for seed, path in enumerate(paths):
            path.parent.mkdir(parents=True)
            image = head_image(seed=seed)
            nib.save(nib.MGHImage(np.asarray(image.dataobj), image.affine), path)
        first, second = (cache_scan(path, tmp_path / "cache", config(), 0) for path in paths)
        assert first != second
        a, b = open_cached(first), open_cached(second)
        assert not np.array_equal(a.image, b.image)


@pytest.fixture(scope="module")
def scans(target: Path, cache: Path) -> list[TargetScan]:
    names = ("sub-01_T1w", "sub-02_T1w")
    return [open_cached(cache_scan(target / f"{n}.nii.gz", cache, config(), 1)) for n in names]


class TestStream:
    patches = PatchSettings(size=16, strided_probability=0.3)

    def stream(self, scans: list[TargetScan], seed: int = 0, **options: Any) -> PatchStream:
        return PatchStream(scans, self.patches, 2, seed, **options)

    def first(self, stream: PatchStream, count: int, workers: int = 0) -> list[torch.Tensor]:
        batches = iter(DataLoader(stream, batch_size=None, num_workers=workers))
        return [torch.cat(next(batches)[:4], dim=1) for _ in range(count)]

    def test_shapes(self, scans: list[TargetScan]) -> None:
        image, mask, draft, condition, drafted = self.stream(scans).batch(0)
        assert image.shape == mask.shape == draft.shape == (2, 1, 16, 16, 16)
        assert not drafted.any()
        assert condition.shape == (2, 4, 16, 16, 16)
        assert {part.dtype for part in (image, mask, condition)} == {torch.float32}

    def test_batch_is_a_function_of_its_number(self, scans: list[TargetScan]) -> None:
        straight = self.first(self.stream(scans), 6)
        for number, batch in enumerate(straight):
            alone = torch.cat(self.stream(scans).batch(number)[:4], dim=1)
            torch.testing.assert_close(batch, alone, rtol=0, atol=0)
        assert len({float(batch.sum()) for batch in straight}) == 6

    def test_starting_point_plays_no_part(self, scans: list[TargetScan]) -> None:
        straight = self.first(self.stream(scans), 6)
        later = self.first(self.stream(scans, first_step=4), 2)
        for a, b in zip(straight[4:], later, strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("first_step", [0, 3])
    def test_workers_play_no_part(self, scans: list[TargetScan], first_step: int) -> None:
        straight = self.first(self.stream(scans), first_step + 5)[first_step:]
        parallel = self.first(self.stream(scans, first_step=first_step), 5, workers=2)
        for a, b in zip(straight, parallel, strict=True):
            assert torch.equal(a, b)

    def test_seed_and_rank_play_a_part(self, scans: list[TargetScan]) -> None:
        streams = [self.stream(scans), self.stream(scans, seed=1)]
        streams.append(self.stream(scans, rank=1))
        batches = [torch.cat(stream.batch(0)[:4], dim=1) for stream in streams]
        assert not torch.equal(batches[0], batches[1])
        assert not torch.equal(batches[0], batches[2])
        assert not torch.equal(batches[1], batches[2])

    def test_half_of_the_patches_take_the_edges_of_a_copy(self) -> None:
        """The scan's own map is empty, the copy's is full."""
        shape = (20, 20, 20)
        mask = np.ones(shape, bool)
        maps = np.stack([np.zeros(shape, bool), mask])
        scan = TargetScan("a", np.zeros(shape), mask, maps, np.full(3, 9.5), 0, 1)
        stream = PatchStream([scan], PatchSettings(8, 0.0), 1, seed=0)
        shares = [float(stream.batch(n)[3][:, 0].mean()) for n in range(200)]
        assert set(shares) == {-1.0, 1.0}
        assert -0.24 < np.mean(shares) < 0.24
        alone = PatchStream([scan._replace(edges=maps[:1])], PatchSettings(8, 0.0), 1, seed=0)
        assert all(float(alone.batch(n)[3][:, 0].max()) == -1 for n in range(20))

    def test_share_of_drafts(self) -> None:
        """An example brings its own image and edges; where it is drawn, the patch says so."""
        shape = (20, 20, 20)
        mask = np.ones(shape, bool)
        example = Example(np.full(shape, 0.5), mask, np.full(shape, 0.25))
        scan = TargetScan(
            "a", np.zeros(shape), mask, ~mask[None], np.full(3, 9.5), 0, 1, (example,)
        )
        stream = PatchStream([scan], PatchSettings(8, 0.0), 1, seed=0, draft_share=0.75)
        seen = []
        for number in range(200):
            image, _, draft, condition, drafted = stream.batch(number)
            seen.append(bool(drafted))
            assert float(image.mean()) == (0.5 if drafted else 0)
            assert float(draft.mean()) == (0.25 if drafted else 0)
            assert float(condition[:, 0].mean()) == (1 if drafted else -1)
        assert 0.65 < np.mean(seen) < 0.85


class TestRun:
    def test_leaves_a_model(self, trained: Path, target: Path) -> None:
        assert (trained / "weights.safetensors").is_file()
        values = json.loads((trained / "config.json").read_text())
        assert values["name"] == "tiny"
        assert values["training"]["steps_done"] == 6
        assert values["training"]["steps"] == 6
        assert {"val_psnr", "val_ssim"} <= set(values["training"])
        network, model = load_model(trained)
        assert len(model.errors) == LEVELS
        assert 0.5 < np.mean(model.errors) / model.validation_error < 2
        assert model.network == config().network
        assert model.preprocess == config().preprocess
        assert not any(parameter.requires_grad for parameter in network.parameters())
        scan = nib.load(target / "sub-03_T1w.nii.gz")
        result = np.asarray(Harmonizer(network, model, device="cpu")(scan).dataobj)
        assert np.isfinite(result).all()

    def test_describes_the_target(self, trained: Path) -> None:
        domain = load_model(trained)[1].target
        data = [head(seed=seed)[0] for seed in (1, 2)]
        limits = [np.percentile(d[d > 0], [0.5, 99.5]) for d in data]
        assert domain.scans == 2
        assert domain.lower == pytest.approx(np.median([low for low, _ in limits]), abs=8)
        assert domain.upper == pytest.approx(np.median([high for _, high in limits]), abs=8)
        quantiles = np.array(domain.quantiles)
        assert len(quantiles) == 101
        assert (np.diff(quantiles) >= 0).all()
        assert quantiles[0] == -1
        assert quantiles[-1] == 1
        median = np.mean([np.median(d[d > 0]) for d in data])
        middle = domain.lower + (quantiles[50] + 1) / 2 * (domain.upper - domain.lower)
        assert middle == pytest.approx(median, abs=20)

    def test_leaves_logs(self, trained: Path) -> None:
        with (trained / "logs" / "run-0" / "metrics.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        scores = [float(row["val_psnr"]) for row in rows if row.get("val_psnr")]
        assert len(scores) == 1
        assert 0 < scores[0] < 60
        events = list((trained / "logs" / "run-0").glob("events.out.tfevents.*"))
        assert len(events) == 1
        assert events[0].stat().st_size > 100

    def test_leaves_a_preview_and_a_checkpoint(self, trained: Path) -> None:
        pictures = list((trained / "previews").iterdir())
        assert [path.name for path in pictures] == ["step-000006.png"]
        assert Image.open(pictures[0]).format == "PNG"
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

    def test_same_seed_same_weights(
        self, run: Callable[..., Path], trained: Path, tmp_path: Path
    ) -> None:
        torch.manual_seed(999)
        np.random.seed(999)  # noqa: NPY002 - global state must play no part
        again = checkpoint(run(tmp_path / "again"))
        expected = checkpoint(trained)
        for name, tensor in expected["current_model_state"].items():
            assert torch.equal(again["current_model_state"][name], tensor)

    def test_workers_play_no_part(
        self, run: Callable[..., Path], trained: Path, tmp_path: Path
    ) -> None:
        parallel = checkpoint(run(tmp_path / "parallel", workers=2))
        for name, tensor in checkpoint(trained)["current_model_state"].items():
            assert torch.equal(parallel["current_model_state"][name], tensor)

    def test_other_seed_other_weights(
        self, run: Callable[..., Path], trained: Path, tmp_path: Path
    ) -> None:
        other = run(tmp_path / "other", dataclasses.replace(SETTINGS, seed=1))
        a, b = (load_file(folder / "weights.safetensors") for folder in (trained, other))
        assert any(not torch.equal(a[name], b[name]) for name in a)

    def test_last_steps_are_exported_too(self, run: Callable[..., Path], tmp_path: Path) -> None:
        """5 steps, validated every 3: the model that is left has seen 5."""
        settings = dataclasses.replace(SETTINGS, steps=5, validate_every=3)
        folder = run(tmp_path / "model", settings)
        assert load_model(folder)[1].training["steps_done"] == 5

    @pytest.mark.parametrize("warmup", [0, 200])
    def test_any_warm_up_trains_the_exported_weights(
        self, run: Callable[..., Path], tmp_path: Path, warmup: int
    ) -> None:
        """None at all, or one longer than the run: not the initial weights, whose output is 0."""
        settings = dataclasses.replace(SETTINGS, steps=4, warmup_steps=warmup)
        folder = run(tmp_path / "model", settings)
        assert load_file(folder / "weights.safetensors")["out.weight"].abs().max() > 0

    def test_initial_weights(
        self, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = random_network(seed=4)
        initial = network.state_dict()
        seen: list[dict[str, torch.Tensor]] = []
        loss = flow.loss

        def spy(network: Any, *arguments: Any) -> torch.Tensor:
            seen.append({name: value.clone() for name, value in network.state_dict().items()})
            return loss(network, *arguments)

        monkeypatch.setattr(flow, "loss", spy)
        settings = dataclasses.replace(SETTINGS, steps=2, checkpoint_every=2)
        run(tmp_path / "model", settings, initial=(network, config()))
        assert len(seen) == 2
        assert all(torch.equal(seen[0][name], tensor) for name, tensor in initial.items())
        assert any(not torch.equal(seen[1][name], tensor) for name, tensor in initial.items())

    def test_drafts(
        self, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All patches are drafts at their time, with their error for noise; the model revises."""
        seen: list[tuple[torch.Tensor, ...]] = []
        loss = flow.loss

        def spy(network: Any, image: Any, mask: Any, *rest: Any) -> Any:
            seen.append((image, *rest))
            return loss(network, image, mask, *rest)

        monkeypatch.setattr(flow, "loss", spy)
        settings = dataclasses.replace(
            SETTINGS, steps=2, checkpoint_every=2, draft_share=1.0, draft_copies=2
        )
        known = dataclasses.replace(config(), sha256="0123456789")
        folder = run(tmp_path / "model", settings, initial=(random_network(seed=4), known))
        image, _, noise, t, _ = seen[0]
        assert t.tolist() == pytest.approx([flow.DRAFT_TIME] * 2)
        state = flow.interpolate(noise, image, t) / flow.DRAFT_TIME
        assert 0.01 < float((state - image).abs().mean()) < 1  # a draft of the image
        record = load_model(folder)[1]
        assert record.revises
        assert {"val_draft0_psnr", "val_draft1_ssim"} < set(record.training)

    def test_drafts_need_a_model(self, run: Callable[..., Path], tmp_path: Path) -> None:
        settings = dataclasses.replace(SETTINGS, draft_share=0.5)
        with pytest.raises(InputError, match="--start-from"):
            run(tmp_path / "model", settings)

    def test_coordinates_are_those_of_use(
        self, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a model grid of 2 mm neighbours lie 0.02 apart, in training, validation and use."""
        steps: list[float] = []
        loss = flow.loss

        def spy(network: Any, image: Any, mask: Any, condition: torch.Tensor, *rest: Any) -> Any:
            steps.append(float(condition[0, 2].diff(dim=1).mean()))
            return loss(network, image, mask, condition, *rest)

        monkeypatch.setattr(flow, "loss", spy)
        settings = dataclasses.replace(SETTINGS, steps=2, checkpoint_every=2)
        model = config(patches=PatchSettings(size=16, strided_probability=0.0))
        run(tmp_path / "model", settings, model)
        np.testing.assert_allclose(steps, SPACING_MM / 100, rtol=1e-4)

    def test_start_share(
        self, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times: list[float] = []
        loss = flow.loss

        def spy(*arguments: Any) -> torch.Tensor:
            times.extend(arguments[-2].tolist())
            return loss(*arguments)

        monkeypatch.setattr(flow, "loss", spy)
        settings = dataclasses.replace(SETTINGS, steps=8, batch_size=4, checkpoint_every=8)
        for share, low, high in ((0.0, 0, 0), (1.0, 32, 32), (0.5, 8, 24)):
            times.clear()
            run(tmp_path / f"{share}", dataclasses.replace(settings, start_share=share))
            assert len(times) == 32
            assert all(0 <= t < 1 for t in times)
            assert low <= times.count(0.0) <= high

    def test_loss_falls(
        self, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        losses: list[float] = []
        loss = flow.loss

        def spy(*arguments: Any) -> torch.Tensor:
            losses.append(float(value := loss(*arguments)))
            return value

        monkeypatch.setattr(flow, "loss", spy)
        settings = dataclasses.replace(
            SETTINGS,
            steps=60,
            batch_size=4,
            learning_rate=1e-2,
            edge_variants=0,
            checkpoint_every=60,
            validate_every=60,
            start_share=1.0,
        )
        folder = run(tmp_path / "model", settings, cache=None)
        assert len(losses) == 60
        assert np.mean(losses[-15:]) < 0.75 * np.mean(losses[:15])
        with (folder / "logs" / "run-0" / "metrics.csv").open() as stream:
            logged = [row["loss"] for row in csv.DictReader(stream) if row.get("loss")]
        assert len(logged) == 3  # every 20 steps


class Stopped(Exception):  # noqa: N818
    """What a kill does to a run."""


def stop() -> None:
    raise Stopped


class TestResume:
    def assert_same_end(self, folder: Path, expected: Path) -> None:
        """All weights, moments and averages agree bit for bit."""
        a, b = checkpoint(folder), checkpoint(expected)
        assert a["global_step"] == b["global_step"] == 6
        for part in ("state_dict", "current_model_state", "averaging_state"):
            assert a[part].keys() == b[part].keys()
            assert all(torch.equal(a[part][name], b[part][name]) for name in b[part])
        moments = [state["optimizer_states"][0]["state"] for state in (a, b)]
        assert moments[0].keys() == moments[1].keys()
        for key, state in moments[1].items():
            assert all(torch.equal(moments[0][key][name], state[name]) for name in state)
        weights = [load_file(f / "weights.safetensors") for f in (folder, expected)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
        scores = [load_model(f)[1].training for f in (folder, expected)]
        assert scores[0] == scores[1]

    @pytest.mark.parametrize("step", [4, 5])
    def test_stopped_run_goes_on_as_if_it_had_not_been(
        self, run: Callable[..., Path], trained: Path, tmp_path: Path, step: int
    ) -> None:
        folder = tmp_path / "model"
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, step, stop)
            with pytest.raises(Stopped):
                run(folder)
        assert checkpoint(folder)["global_step"] == 3
        assert not (folder / "weights.safetensors").exists()
        seen: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            original = module.FlowTraining.training_step

            def spy(self: module.FlowTraining, batch: Any, index: int) -> torch.Tensor:
                seen.append(self.global_step)
                return original(self, batch, index)

            patch.setattr(module.FlowTraining, "training_step", spy)
            run(folder)
        assert seen == [3, 4, 5]
        self.assert_same_end(folder, trained)

    def test_validations_happen_at_the_same_steps(
        self, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = dataclasses.replace(SETTINGS, validate_every=2)
        folder = tmp_path / "model"
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, 3, stop)
            with pytest.raises(Stopped):
                run(folder, settings)
        run(folder, settings)
        pictures = sorted(path.name for path in (folder / "previews").iterdir())
        assert pictures == [f"step-{step:06d}.png" for step in (2, 4, 6)]

    def test_log_of_the_first_part_is_kept(self, run: Callable[..., Path], tmp_path: Path) -> None:
        settings = dataclasses.replace(SETTINGS, validate_every=2)
        folder = tmp_path / "model"
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, 4, stop)
            with pytest.raises(Stopped):
                run(folder, settings)
        run(folder, settings)
        rows = []
        for log in sorted(folder.glob("logs/run-*/metrics.csv")):
            with log.open() as stream:
                rows += list(csv.DictReader(stream))
        steps = sorted({int(row["step"]) for row in rows if row.get("val_psnr")})
        assert steps == [1, 3, 5]

    def test_finished_run_is_left_alone(
        self, run: Callable[..., Path], trained: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "model"
        shutil.copytree(trained, folder)
        run(folder)
        self.assert_same_end(folder, trained)

    def test_ctrl_c(self, run: Callable[..., Path], trained: Path, tmp_path: Path) -> None:
        import signal

        def interrupt() -> None:
            raise KeyboardInterrupt

        folder = tmp_path / "model"
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.MonkeyPatch.context() as patch:
                fail_at(patch, 4, interrupt)
                with pytest.raises(SystemExit):
                    run(folder)
        finally:
            signal.signal(signal.SIGINT, before)
        run(folder)
        self.assert_same_end(folder, trained)


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
        self, run: Callable[..., Path], trained: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "model"
        kept: list[bytes] = []
        with pytest.MonkeyPatch.context() as patch:
            loss = flow.loss
            poisoned = False

            def poison() -> None:
                nonlocal poisoned
                poisoned = True
                kept.append((folder / "checkpoints" / "last.ckpt").read_bytes())

            fail_at(patch, 4, poison)
            patch.setattr(flow, "loss", lambda *a: loss(*a) * (float("nan") if poisoned else 1))
            with pytest.raises(FloatingPointError, match="the loss is nan at step 4"):
                run(folder)
        assert (folder / "checkpoints" / "last.ckpt").read_bytes() == kept[0]
        assert checkpoint(folder)["global_step"] == 3
        run(folder)
        TestResume().assert_same_end(folder, trained)

    def test_save_that_raises_keeps_the_last_checkpoint(
        self, run: Callable[..., Path], trained: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "model"
        with pytest.MonkeyPatch.context() as patch:

            def fill_the_disk() -> None:
                def save(*arguments: Any, **options: Any) -> None:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                patch.setattr(torch, "save", save)

            fail_at(patch, 4, fill_the_disk)
            with pytest.raises(OSError, match="No space left on device"):
                run(folder)
        assert checkpoint(folder)["global_step"] == 3
        run(folder)
        TestResume().assert_same_end(folder, trained)

    def test_full_disk_keeps_the_last_checkpoint(
        self, run: Callable[..., Path], trained: Path, tmp_path: Path
    ) -> None:
        """The write itself fails half-way (here by the limit of a file's size)."""
        folder = tmp_path / "model"
        size = (trained / "checkpoints" / "last.ckpt").stat().st_size
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            fail_at(patch, 4, lambda: stack.enter_context(file_size_limit(size // 2)))
            with pytest.raises(OSError, match="File too large"):
                run(folder)
        assert checkpoint(folder)["global_step"] == 3
        assert [p.name for p in (folder / "checkpoints").iterdir()] == ["last.ckpt"]

    def test_full_disk_that_is_not_the_temporary_folders(
        self, run: Callable[..., Path], trained: Path, tmp_path: Path
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
            fail_at(patch, 4, lambda: patch.setattr(shutil, "move", move_to_a_full_disk))
            with contextlib.suppress(OSError):
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
    def test_no_source_file_is_ever_opened(
        self, run: Callable[..., Path], target: Path, tmp_path: Path
    ) -> None:
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
        settings = dataclasses.replace(SETTINGS, steps=2, checkpoint_every=2)
        with listening() as opened:
            run(tmp_path / "model", settings, target=site / "target", cache=tmp_path / "cache")
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


class TestCommand:
    def test_train_then_harmonize(self, target: Path, tmp_path: Path) -> None:
        from typer.testing import CliRunner

        from isochroma.cli import app

        model = tmp_path / "my-scanner"
        options = (
            "--steps 2 --batch-size 1 --patch-size 16 --edge-variants 0 --validate-every 2 "
            "--accelerator cpu --devices 1 --precision 32-true"
        )
        arguments = ["train", str(target), "-o", str(model), *options.split()]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1] == str(model)
        values = json.loads((model / "config.json").read_text())
        assert values["name"] == "my-scanner"
        assert values["training"]["steps_done"] == 2
        assert values["patches"]["size"] == 16
        scan, out = target / "sub-03_T1w.nii.gz", tmp_path / "out"
        words = ["harmonize", str(scan), "-o", str(out), "--model", str(model)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        values = np.asarray(nib.load(out / "sub-03_T1w_harmonized.nii.gz").dataobj)
        assert np.isfinite(values).all()
