"""Lay packed scans out as a target folder and the cache of `isochroma train`.

    python experiments/second_stage/unpack_cache.py --bundle BUNDLE --out OUT
    isochroma train OUT/target --cache OUT/cache -o MODEL

For a machine that can hold the bundle of `build_bundle.py` but not the scans. The files in
OUT/target are the packed scans; they have names and splits of scans, and only the cache is read.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np

from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared
from isochroma.models.folder import SHIPPED, load_config
from isochroma.training.data import cache_scan
from isochroma.training.settings import COMPACT_RECIPE, Recipe

sys.path.insert(0, str(Path(__file__).resolve().parent))
from packing import unpack


def read_packed(path: Path, recipe: Recipe) -> Prepared:
    """Unpack a scan, with the intensity limits of the shipped target, which a pack leaves out."""
    head = unpack(path.read_bytes())
    domain = load_config(SHIPPED / "default").target
    grid = Grid(head.mask.shape, np.diag([*[recipe.preprocess.spacing_mm] * 3, 1]))
    return Prepared(head.image, head.mask, grid, domain.lower, domain.upper)


def lay_out(packed: Path, out: Path) -> tuple[str, str]:
    """Give a packed scan the name of a scan, and cache it as the default recipe does.

    Parameters
    ----------
    packed : Path
        `train_NAME.scan` or `val_NAME.scan`.
    out : Path
        Gets `target` and `cache`.

    Returns
    -------
    name, split : str
        For `participants.tsv`.
    """
    split, _, name = packed.stem.partition("_")
    path = out / "target" / f"{name}_T1w.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(packed, path)
    cache_scan(path, out / "cache", COMPACT_RECIPE, read_packed)
    return name, split


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="made by build_bundle.py")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    scans = sorted((options.bundle / "scans").glob("*.scan"))
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        rows = pool.map(partial(lay_out, out=options.out), scans, chunksize=1)
    lines = ["participant_id\tsplit", *("\t".join(row) for row in rows)]
    (options.out / "target" / "participants.tsv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
