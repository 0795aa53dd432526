"""Loss and validation curves: python benchmarks/training_curve.py MODEL_DIR [...] --out FILE.png.

Several folders are stages of one model, each started from the weights of the one before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

WINDOW = 15  # logged losses in a running mean


def stage(folder: Path) -> pd.DataFrame:
    """Read what one stage logged, with resumed runs joined; a repeated step counts once."""
    runs = sorted(folder.glob("logs/run-*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    table = pd.DataFrame()
    for path in runs:
        run = pd.read_csv(path)
        if len(table):
            table = table[table["step"] < run["step"].min()]
        table = pd.concat([table, run])
    return table


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    figure = Figure(figsize=(9, 3))
    left, right = figure.subplots(1, 2)
    psnr = right.twinx()
    before = 0
    for folder in options.folders:
        table = stage(folder)
        loss = table.dropna(subset="loss")
        kernel = np.ones(WINDOW) / WINDOW
        smooth = np.convolve(loss["loss"], kernel, mode="valid")
        left.plot(before + loss["step"].to_numpy()[WINDOW - 1 :], smooth, label=folder.name)
        scores = table.dropna(subset="val_ssim")
        right.plot(before + scores["step"], scores["val_ssim"], "o-", color="C0", markersize=3)
        psnr.plot(before + scores["step"], scores["val_psnr"], "s--", color="C1", markersize=3)
        before += int(table["step"].max()) + 1
    left.set(xlabel="step", ylabel=f"training loss, mean of {WINDOW}", ylim=(0, None))
    left.legend(fontsize=7)
    right.set(xlabel="step", ylabel="validation SSIM (line)")
    psnr.set_ylabel("validation PSNR, dB (dashes)")
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
