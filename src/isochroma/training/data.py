"""Train a model on one scanner's scans: `isochroma train TARGET_DIR -o MODEL_DIR`.

Only TARGET_DIR is read: the method is blind to every other scanner. Scans are preprocessed once
into a memory-mapped cache, edges included. Lightning runs the loop, so several GPUs, mixed
precision, resumption and SLURM requeueing are its own. Every random choice is a function of the
seed and the step, so a run that was killed continues as if it had not been.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from isochroma.errors import InputError, about
from isochroma.files import sha256
from isochroma.images.brain import brain_mask
from isochroma.images.io import has_volume_suffix, load, stem
from isochroma.images.masked import extent
from isochroma.images.preprocess import from_model_units, prepare
from isochroma.method import patches
from isochroma.method.condition import centroid_of
from isochroma.method.edges import canny
from isochroma.method.patches import PatchSettings
from isochroma.method.recontrast import random_scanner
from isochroma.models.config import ModelConfig, TargetDomain
from isochroma.pipeline import Harmonizer
from isochroma.training.drafts import Example, make_example


class TargetScan(NamedTuple):
    """One cached scan: (I, J, K) image, mask; (V, I, J, K) edge maps, the scan's own first; and
    examples for the second pass, if there are any.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    edges: np.ndarray
    centroid: np.ndarray
    lower: float
    upper: float
    examples: tuple[Example, ...] = ()


def find_target_scans(folder: Path) -> dict[str, list[Path]]:
    """Training and validation scans of a target folder.

    With a `participants.tsv` that has a `split` column, the scans of "train" and "val"
    participants ("test" is never read); otherwise all scans, every tenth (at least one) for
    validation.
    """
    folder = Path(folder)
    if not folder.is_dir():
        msg = f"{folder}: no such folder. Give the folder that holds the target scans."
        raise InputError(msg)
    scans = sorted(p for p in folder.rglob("*") if p.is_file() and has_volume_suffix(p))
    table = folder / "participants.tsv"
    splits = {}
    if table.is_file():
        with table.open(newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                splits[row["participant_id"]] = row.get("split")
    if any(splits.values()):
        chosen: dict[str, list[Path]] = {"train": [], "val": []}
        for path in scans:
            split = splits.get(stem(path).split("_")[0])
            if split in chosen:
                chosen[split].append(path)
    else:
        chosen = {"val": scans[::10], "train": [p for i, p in enumerate(scans) if i % 10]}
    if not chosen["train"] or not chosen["val"]:
        msg = f"{folder}: {len(scans)} scans found; training needs one, and validation one more."
        raise InputError(msg)
    return chosen


def cache_scan(path: Path, folder: Path, config: ModelConfig, variants: int) -> Path:
    """Preprocess one scan into `folder`, unless the same file with the same settings is there."""
    settings = {
        "sha256": sha256(path),
        "preprocess": dataclasses.asdict(config.preprocess),
        "edges": dataclasses.asdict(config.edges),
        "variants": variants,
    }
    settings = json.loads(json.dumps(settings))
    cached = folder / f"{stem(path)}-{settings['sha256'][:8]}"
    record = cached / "settings.json"
    if record.is_file() and json.loads(record.read_text())["settings"] == settings:
        return cached
    scan = load(path)
    with about(path):
        prepared = prepare(scan, brain_mask(scan)[0], config.preprocess)
    rng = np.random.default_rng(int(settings["sha256"][:8], 16))
    unit = from_model_units(prepared.image, 0, 1)
    maps = [canny(prepared.image, prepared.mask, config.edges)]
    for _ in range(variants):
        copy = random_scanner(rng).render(unit, prepared.mask, rng)
        maps.append(canny(copy, prepared.mask, config.edges))
    with into_place(cached) as work:
        np.save(work / "image.npy", prepared.image.astype(np.float16))
        np.save(work / "mask.npy", prepared.mask)
        np.save(work / "edges.npy", np.stack(maps))
        limits = {"lower": prepared.lower, "upper": prepared.upper}
        (work / "settings.json").write_text(json.dumps({"settings": settings, **limits}))
    return cached


@contextlib.contextmanager
def into_place(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which then replaces `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        work = Path(temporary) / folder.name
        work.mkdir()
        yield work
        shutil.rmtree(folder, ignore_errors=True)
        try:
            work.rename(folder)
        except OSError:  # another process of the same run may have been first
            if not folder.is_dir():
                raise


def cache_examples(cached: Path, harmonizer: Harmonizer, count: int) -> None:
    """Make `count` examples for the second pass beside a cached scan, unless they are there."""
    scan = open_cached(cached)
    folder = cached / f"drafts-{harmonizer.config.sha256[:8]}"
    image, mask = np.asarray(scan.image, dtype=np.float32), np.asarray(scan.mask)
    for number in range(count):
        if (folder / str(number)).is_dir():
            continue
        seed = [int(cached.name[-8:], 16), number]
        example = make_example(image, mask, harmonizer, np.random.default_rng(seed))
        with into_place(folder / str(number)) as work:
            for name, volume in example._asdict().items():
                kind = volume.dtype if volume.dtype == bool else np.float16
                np.save(work / f"{name}.npy", volume.astype(kind))


def open_examples(cached: Path, model: str, count: int) -> tuple[Example, ...]:
    """Memory-map `count` examples that the model of this hash made."""
    folders = [cached / f"drafts-{model[:8]}" / str(number) for number in range(count)]
    return tuple(
        Example(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Example._fields))
        for folder in folders
    )


def open_cached(folder: Path) -> TargetScan:
    """Memory-map a cached scan."""
    image, mask, edges = (
        np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("image", "mask", "edges")
    )
    record = json.loads((folder / "settings.json").read_text())
    centroid = centroid_of(np.asarray(mask))
    return TargetScan(folder.name, image, mask, edges, centroid, record["lower"], record["upper"])


def describe_target(scans: list[TargetScan], spacing_mm: float) -> TargetDomain:
    """Intensity limits, mean quantiles and brain sizes of the target domain's training scans."""
    probabilities = np.linspace(0, 1, 101)
    quantiles = [np.quantile(np.asarray(s.image)[s.mask], probabilities) for s in scans]
    extents = np.array([extent(np.asarray(scan.mask)) * spacing_mm for scan in scans])
    return TargetDomain(
        lower=float(np.median([scan.lower for scan in scans])),
        upper=float(np.median([scan.upper for scan in scans])),
        scans=len(scans),
        quantiles=tuple(round(float(q), 4) for q in np.mean(quantiles, axis=0)),
        smallest_mm=tuple(float(size) for size in extents.min(0)),
        largest_mm=tuple(float(size) for size in extents.max(0)),
    )


class PatchStream(IterableDataset):
    """Endless batches of patches; batch n is a function of (seed, rank, n) alone.

    Iteration begins with batch `first_step`, so a resumed run goes on where it stopped.
    """

    def __init__(
        self,
        scans: list[TargetScan],
        settings: PatchSettings,
        batch_size: int,
        seed: int,
        variant_share: float = 0.5,
        draft_share: float = 0.0,
        first_step: int = 0,
        rank: int = 0,
        spacing_mm: float = 1.0,
    ) -> None:
        self.scans = scans
        self.settings = settings
        self.batch_size = batch_size
        self.seed = seed
        self.variant_share = variant_share
        self.draft_share = draft_share
        self.first_step = first_step
        self.rank = rank
        self.spacing_mm = spacing_mm

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Batch number `step`: image, mask and draft (B, 1, S, S, S), condition (B, 4, S, S, S),
        and (B,) bool, which have a draft.
        """
        rng = np.random.default_rng([self.seed, self.rank, step])
        drawn = []
        for _ in range(self.batch_size):
            scan = self.scans[rng.integers(len(self.scans))]
            copies = len(scan.edges) - 1
            variant = (
                rng.integers(1, copies + 1) if copies and rng.random() < self.variant_share else 0
            )
            image, edges, draft = scan.image, scan.edges[variant], None
            if scan.examples and rng.random() < self.draft_share:
                image, edges, draft = scan.examples[rng.integers(len(scan.examples))]
            volumes = (image, scan.mask, edges, scan.centroid)
            patch = patches.draw(*volumes, self.settings, rng, self.spacing_mm, draft)
            drawn.append((*patch, np.array(draft is not None)))
        return tuple(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        worker = torch.utils.data.get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.first_step + index
        while True:
            yield self.batch(step)
            step += count
