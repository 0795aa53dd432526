"""The command itself: options, names, and runs from file to files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import typer

from fixtures_pipeline import head_image
from fuzz import mutate
from fuzz.kinds.models import tiny
from fuzz.kinds.volumes import disturbed, same_volume, volumes, written
from fuzz.registry import Rng, apart, base, kind, new_folder
from isochroma import cli
from isochroma.cli.app import REGISTRY, names_in
from isochroma.errors import InputError
from isochroma.images.io import load
from isochroma.models.folder import load_model
from isochroma.outputs import OutputFiles
from isochroma.training.data import prepare_scans
from isochroma.training.settings import Recipe, TrainingSettings


def isochroma(folder: Path, *words: object) -> None:
    """Run `isochroma ...`; raise `InputError` with its one line if it refuses."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        with (folder / name).open("wb") as stream:
            os.dup2(stream.fileno(), number)
    sys.argv = ["isochroma", *map(str, words)]
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    said = (folder / "stderr").read_bytes().decode(errors="replace")
    lines = [line for line in said.splitlines() if line.strip()]
    if not all(line.isprintable() for line in said.split("\n")):
        msg = f"control characters: {said!r}"
        raise AssertionError(msg)
    ours = [line for line in lines if line.startswith("isochroma: ")]
    named = any(re.search(r"\b\w+(Error|Exception)\b", line) for line in ours)
    if "Traceback" not in said and not named:
        if code == 2 and lines:
            raise InputError(" ".join(said.split()))
        if code == 1 and lines[-1:] == ours[-1:]:  # behind progress and log
            raise InputError(lines[-1])
        if code == 0:
            return
    msg = f"status {code}: {said}"
    raise AssertionError(msg)


def outputs_are_right(scan: Path, image: Path) -> bool:
    """Whether a harmonized scan, its mask and its sidecar are whole and lie on the scan's grid."""
    files = OutputFiles.beside(image)
    source, made, mask = load(scan), nib.load(files.image), nib.load(files.mask)
    record = json.loads(files.sidecar.read_text())
    return (
        made.shape == mask.shape == source.shape
        and np.allclose(made.affine, source.affine, atol=1e-4)
        and bool(np.isfinite(np.asarray(made.dataobj)).all())
        and set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}
        and record["SourceSHA256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    )


@kind("harmonize, from file to files", 200, together=1)
def harmonize(rng: Rng, folder: Path) -> bool:
    name = mutate.pick(rng, ("nifti1", "float", "real", "mgh"))
    image = volumes()[name]
    data = disturbed(rng, image, 0.7) if rng.random() < 0.9 else image.to_bytes()
    path = written(rng, folder, data, ".mgh" if name == "mgh" else ".nii")
    isochroma(folder, "harmonize", path, "-o", folder / "out", "--model", tiny())
    (made,) = (p for p in (folder / "out").glob("*_harmonized.*") if p.suffix != ".json")
    return outputs_are_right(path, made)


WORDS = (
    *("", "0", "-1", "1", "2", "0.5", "nan", "inf", "-inf", "1e400", "99999999999999999999"),
    *("meta", "cuda", "cuda:99", "mps", "vulkan", "cpu:5", "auto", "cpu", "gpu", "tpu", "none"),
    *("\x1b[31m", "é", "\udcff", "x" * 5000, "/dev/null", "..", "=", "a=b", "a={input}", "'", "{"),
    *("-", "--", "true", "16", "-8", "17", "paper", "default", "compact"),
)


NUMBERS = ("0", "1", "2", "3", "0.5", "16", "-8", "17", "nan", "inf", "99999999999999999999")


def with_options(rng: Rng, name: str, *words: object, but: tuple[str, ...] = ()) -> list[object]:
    """A command line with up to three options, whatever their values."""
    application: Any = typer.main.get_command(cli.app)
    known = [
        option
        for option in application.commands[name].params
        if option.param_type_name == "option"
        if option.name not in ("help", "verbose", *but)  # verbose shows tracebacks
    ]
    line = [name, *words]
    for _ in range(rng.integers(1, 4)):
        option = mutate.pick(rng, known)
        line.append(mutate.pick(rng, [*option.opts, *option.secondary_opts]))
        if not option.is_flag or rng.random() < 0.05:
            line.append(mutate.pick(rng, WORDS if rng.random() < 0.3 else likely(option)))
    return line


def likely(option: Any) -> Sequence[str]:
    """List words of an option's type, or the names of its registry."""
    registry = REGISTRY.match(str(option.metavar))
    if registry:
        return names_in(":".join(registry.groups()))
    return NUMBERS if option.type_descriptor.annotation in (int, float) else WORDS


@base
def small_scan() -> Path:
    path = new_folder() / "sub-01_T1w.nii.gz"
    nib.save(head_image(dtype=np.int16), path)
    return path


@kind("options of harmonize", 300, together=1)
def harmonize_options(rng: Rng, folder: Path) -> bool:
    os.chdir(folder)
    fixed = ("--model", tiny(), "-o", folder / "out")
    isochroma(folder, *with_options(rng, "harmonize", small_scan(), *fixed, but=("output",)))
    return (folder / "out" / "sub-01_T1w_harmonized.json").is_file()


@kind("options of bids", 150, together=1)
def bids_options(rng: Rng, folder: Path) -> bool:
    """Without workers: what they do is the other kinds' concern."""
    os.chdir(folder)
    (folder / "raw" / "sub-01" / "anat").mkdir(parents=True)
    (folder / "raw" / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"no scan")
    level = "group" if rng.random() < 0.1 else "participant"
    words = ("raw", "out", level, "--dry-run", "--model", tiny())
    isochroma(folder, *with_options(rng, "bids", *words, but=("dry_run",)))
    return not (folder / "out").exists()


@kind("options of train, evaluate, simulate and bench", 400, together=1)
def other_options(rng: Rng, folder: Path) -> bool:
    """On input that every command refuses in the end, so that none computes for hours."""
    os.chdir(folder)
    (folder / "study.tsv").write_text("path\tsite\tsplit\nstudy.tsv\tT\ttrain\n")
    (folder / "target").mkdir()
    name = mutate.pick(rng, ("train", "evaluate", "simulate", "bench"))
    place = {"train": "target", "evaluate": "study.tsv"}.get(name, "none.nii.gz")
    output = () if name == "bench" else ("-o", folder / "out")
    isochroma(folder, *with_options(rng, name, place, *output))
    return False


HEAVY = ("network", "paper", "devices")  # which rightly take more memory, or other processes


@kind("training runs with odd options", 40, together=1)
def training_options(rng: Rng, folder: Path) -> bool:
    os.chdir(folder)
    fixed = ["--steps", 1, "--patch-size", 16, "--edge-variants", 0, "--batch-size", 1]
    fixed += ["--accelerator", "cpu"]
    shutil.copytree(cache_of_two(), folder / "cache")
    line = with_options(
        rng,
        "train",
        two_scans(),
        *("-o", folder / "model", "--cache", folder / "cache", *fixed),
        but=("output", "steps", "cache", "batch_size", "edge_variants", *HEAVY),
    )
    isochroma(folder, *line)
    return bool(load_model(folder / "model").config.sha256)


@base
def two_scans() -> Path:
    folder = new_folder()
    for name in "ab":
        shutil.copy(small_scan(), folder / f"{name}.nii.gz")
    return folder


@base
def cache_of_two() -> Path:
    folder = new_folder()
    prepare_scans(two_scans(), folder, Recipe(training=TrainingSettings(edge_variants=0)))
    return folder


@kind("file and folder names", 250, together=1)
def names(rng: Rng, folder: Path) -> bool:
    odd = mutate.pick(rng, mutate.CELLS).replace("\0", "0")[:250]
    scan, out = folder / "scan.nii.gz", folder / "out"
    try:
        if rng.random() < 0.5:
            scan = folder / f"{odd}.nii.gz"
            scan.parent.mkdir(parents=True, exist_ok=True)
            if rng.random() < 0.7:
                scan.write_bytes(small_scan().read_bytes() if rng.random() < 0.5 else b"no scan")
        else:
            shutil.copy(small_scan(), scan)
            devices = (Path("/dev/null"), Path("/proc/a"))
            out = mutate.pick(rng, (out / odd, scan, scan / "a", *devices, out / "a.mgz"))
    except (OSError, ValueError):
        pass  # names that the file system refuses, too, are asked for
    isochroma(folder, "harmonize", scan, "-o", out, "--model", tiny())
    made = [path for path in (*out.glob("*_harmonized.*"), out) if path.name.endswith("z")]
    return outputs_are_right(scan, made[0]) if made[0] != out else out.is_file()


@base
def harmonized() -> Path:
    """A folder with the outputs of one scan; made in a process of its own."""
    folder = new_folder()
    words = ("harmonize", small_scan(), "-o", folder / "out", "--model", tiny())
    apart(lambda: isochroma(folder, *words))
    return folder / "out"


@kind("sidecars of earlier outputs", 150, together=1)
def sidecars(rng: Rng, folder: Path) -> bool:
    out = Path(shutil.copytree(harmonized(), folder / "out"))
    (path,) = out.glob("*.json")
    if rng.random() < 0.5:
        path.write_text(json.dumps(mutate.changed_tree(rng, json.loads(path.read_text()))))
    else:
        path.write_bytes(mutate.damaged(rng, path.read_bytes()))
    isochroma(folder, "harmonize", small_scan(), "-o", out, "--model", tiny())
    (image,) = (p for p in out.glob("*_harmonized.nii.gz"))
    known = nib.load(harmonized() / image.name)
    return outputs_are_right(small_scan(), image) and same_volume(nib.load(image), known)
