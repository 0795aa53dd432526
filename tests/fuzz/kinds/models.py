"""Model folders: a stranger's config, weights and files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from fixtures_pipeline import save_tiny_model
from fuzz import mutate
from fuzz.kinds.volumes import volumes
from fuzz.registry import Rng, base, kind, new_folder
from isochroma.models.folder import load_model
from isochroma.pipeline import Harmonizer
from isochroma.settings import to_json


@base
def tiny() -> Path:
    return save_tiny_model(new_folder() / "tiny")


def model_copy(folder: Path) -> Path:
    return Path(shutil.copytree(tiny(), folder / "model"))


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    if isinstance(tree, (dict, list)) and tree:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        found: dict[tuple[Any, ...], Any] = {}
        for key, value in items:
            found |= leaves(value, (*path, key))
        return found
    return {path: tree}


def same_value(taken: Any, said: Any) -> bool:
    """Whether a value is what JSON says; a whole number may stand for a float."""
    if isinstance(taken, float) and isinstance(said, int):
        return taken == float(said)
    return type(taken) is type(said) and taken == said


def model_is_right(rng: Rng, folder: Path) -> bool:
    """Whether a model has the values and weights that its files have, and can be used."""
    model = load_model(folder)
    said = leaves(json.loads((folder / "config.json").read_bytes()))
    taken = leaves(json.loads(to_json(model.config)))
    weights = safetensors.numpy.load((folder / "weights.safetensors").read_bytes())
    state = model.network.state_dict()
    right = (
        all(same_value(taken.get(place, value), value) for place, value in said.items())
        and weights.keys() == state.keys()
        and all(np.array_equal(weights[name], state[name].half().numpy()) for name in state)
        and all(np.isfinite(each).all() for each in weights.values())
    )
    if right and rng.random() < 0.25:
        image = Harmonizer(model)(volumes()["nifti1"])
        right = bool(np.isfinite(np.asarray(image.dataobj)).all())
    return right


@kind("model: config.json", 900)
def model_config(rng: Rng, folder: Path) -> bool:
    path = model_copy(folder) / "config.json"
    tree = json.loads(path.read_text())
    for _ in range(rng.integers(1, 3)):
        tree = mutate.changed_tree(rng, tree)
    data = json.dumps(tree).encode()
    if rng.random() < 0.3:
        data = mutate.damaged(rng, path.read_bytes())
    path.write_bytes(data)
    return model_is_right(rng, path.parent)


@kind("model: weights, with and without the right hash", 500)
def model_weights(rng: Rng, folder: Path) -> bool:
    path = model_copy(folder) / "weights.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        tree = mutate.changed_tree(rng, json.loads(data[8 : 8 + size]))
        start = json.dumps(tree).encode()
        data = len(start).to_bytes(8, "little") + start + data[8 + size :]
    else:
        data = mutate.damaged(rng, data, 8 + size)
    path.write_bytes(data)
    if rng.random() < 0.7:  # a stranger can compute it
        record = path.with_name("config.json")
        values = json.loads(record.read_text())
        record.write_text(json.dumps({**values, "sha256": hashlib.sha256(data).hexdigest()}))
    return model_is_right(rng, path.parent)


@kind("model: files missing, folders, links", 60)
def model_files(rng: Rng, folder: Path) -> bool:
    model = model_copy(folder)
    path = model / mutate.pick(rng, ("config.json", "weights.safetensors"))
    path.unlink()
    action = rng.integers(5)
    if action == 0:
        path.mkdir()
    elif action == 1:
        path.symlink_to(path.name)
    elif action == 2:
        with path.open("wb") as stream:
            stream.truncate(6 << 30)
    elif action == 3:
        path.write_bytes(b"")
    load_model(model)
    return False
