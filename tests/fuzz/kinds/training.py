"""What runs leave and read again: checkpoints, caches, the evaluation's store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import safetensors.numpy
import torch

from fixtures_pipeline import config, head_image
from fuzz import mutate
from fuzz.registry import Rng, apart, base, kind, new_folder
from isochroma.evaluation.store import Store
from isochroma.training.data import open_scan, prepare_scans
from isochroma.training.fit import train
from isochroma.training.settings import Recipe, TrainerSettings, TrainingSettings

RECIPE = Recipe(
    config().preprocess,
    config().edges,
    config().network,
    config().patches,
    TrainingSettings(
        steps=6,
        learning_rate=3e-3,
        warmup_steps=2,
        ema_decay=0.5,
        precision="32-true",
        edge_variants=0,
        validate_every=6,
        checkpoint_every=3,
    ),
)


@base
def target() -> Path:
    folder = new_folder()
    for number in (1, 2, 3):
        nib.save(head_image(seed=number), folder / f"sub-0{number}_T1w.nii.gz")
    (folder / "participants.tsv").write_text(
        "participant_id\tsplit\nsub-01\ttrain\nsub-02\ttrain\nsub-03\tval\n"
    )
    return folder


@base
def trained() -> Path:
    """A finished run, with its checkpoint; made in a process of its own."""
    folder = new_folder() / "model"
    apart(lambda: train(target(), folder, RECIPE, TrainerSettings("cpu", 1)))
    return folder


class Stranger:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return os._exit, (0,)


@kind("training checkpoints", 60, together=1)
def checkpoints(rng: Rng, folder: Path) -> bool:
    run = folder / "model"
    shutil.copytree(trained() / "cache", run / "cache")
    known = trained() / "checkpoints" / "last.ckpt"
    (run / "checkpoints").mkdir()
    path = run / "checkpoints" / "last.ckpt"
    if rng.random() < 0.5:
        path.write_bytes(mutate.damaged(rng, known.read_bytes(), 2000))
    else:  # a stranger's, whole
        state = torch.load(known, weights_only=True)
        node = state
        while isinstance(node, dict) and node and rng.random() < 0.7:
            place, key = node, mutate.pick(rng, list(node))
            node = node[key]
        if node is not state:
            place[key] = mutate.pick(rng, (*mutate.VALUES, Stranger()))
        torch.save(state, path)
    train(target(), run, RECIPE, TrainerSettings("cpu", 1))
    made, right = (
        safetensors.numpy.load((each / "weights.safetensors").read_bytes())
        for each in (run, trained())
    )
    return all(np.array_equal(made[name], right[name]) for name in right)


@kind("cached training scans", 150)
def training_cache(rng: Rng, folder: Path) -> bool:
    cache = Path(shutil.copytree(trained() / "cache", folder / "cache"))
    path = mutate.pick(rng, sorted(cache.glob("*/settings.json")) + sorted(cache.glob("*/*.npy")))
    data = path.read_bytes()
    if path.suffix == ".json":
        path.write_bytes(mutate.damaged(rng, data))
    elif rng.random() < 0.5:
        path.write_bytes(mutate.damaged(rng, data[:100], 100) + data[100:])
    else:
        path.write_bytes(data[: int(rng.integers(len(data)))])
    found = prepare_scans(target(), cache, RECIPE)
    for scan in (*found.train, *found.val):
        known = open_scan(trained() / "cache" / scan.folder.name)
        for mine, right in zip(scan[1:7], known[1:7], strict=True):
            if not np.array_equal(mine, right):
                return False
    return True


@kind("entries of the evaluation's store", 200)
def store(rng: Rng, folder: Path) -> bool:
    kept, key = Store(folder), ("case", 1)
    value = np.arange(5000.0)
    kept.get(key, lambda: value)
    path = kept.path(key)
    path.write_bytes(mutate.damaged(rng, path.read_bytes()))
    return np.array_equal(kept.get(key, lambda: value), value)
