"""Put all that the training needs into one folder that can be copied to a machine with a GPU.

    python experiments/second_stage/build_bundle.py --data DIR --out BUNDLE

The bundle holds the packed target scans, these scripts and a copy of the isochroma package with its
model. To train, it needs numpy, scipy, torch, safetensors and pydantic, but neither nibabel nor
SimpleITK.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import isochroma
from isochroma.evaluation.tissues import classify
from isochroma.images.brain import find_brain
from isochroma.images.io import load, stem
from isochroma.images.preprocess import prepare
from isochroma.models.folder import SHIPPED, load_config
from isochroma.training.data import find_scans

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from packing import pack  # noqa: E402

SCRIPTS = ("packing", "refine_torch", "simulation", "stored", "supply", "train", "validation")
BITS = {"train": 7, "val": 8}


def pack_scan(path: Path, target: Path, bits: int) -> None:
    """Prepare a scan as the default model does, classify its tissues, and pack it.

    Parameters
    ----------
    path : Path
        The scan.
    target : Path
        The packed file.
    bits : int
        Bits of an intensity.
    """
    scan = load(path)
    prepared = prepare(scan, find_brain(scan).mask, load_config(SHIPPED / "default").preprocess)
    labels, fractions = classify(prepared.image, prepared.mask)
    temporary = target.with_suffix(".partial")
    temporary.write_bytes(pack(prepared.image, prepared.mask, labels, fractions, bits))
    temporary.replace(target)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the target's scans")
    parser.add_argument("--out", type=Path, required=True, help="the bundle")
    parser.add_argument(
        "--weights",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="copy the first stage too; without it, name its folder by `train.py --first`",
    )
    parser.add_argument("--limit", type=int, default=0, help="for trials: scans of each split")
    options = parser.parse_args()
    scans = options.out / "scans"
    scans.mkdir(parents=True, exist_ok=True)
    for name in SCRIPTS:
        shutil.copyfile(HERE / f"{name}.py", options.out / f"{name}.py")
    shutil.copytree(
        Path(isochroma.__file__).parent,
        options.out / "isochroma",
        ignore=shutil.ignore_patterns("__pycache__", *(() if options.weights else ("weights.*",))),
        dirs_exist_ok=True,
    )
    for split, paths in find_scans(options.data).items():
        for path in paths[: options.limit or None]:
            target = scans / f"{split}_{stem(path).split('_')[0]}.scan"
            if not target.is_file():
                pack_scan(path, target, BITS[split])
                print(target.name, flush=True)


if __name__ == "__main__":
    main()
