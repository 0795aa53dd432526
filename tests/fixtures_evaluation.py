"""Helpers of the evaluation's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isochroma.evaluation.measures.sample import Lesions, Sample
from isochroma.evaluation.study import Case, Scan
from isochroma.evaluation.tools import Tools
from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared


def sample(
    output: np.ndarray,
    mask: np.ndarray,
    source: np.ndarray | None = None,
    *,
    truth: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    tissues: np.ndarray | None = None,
    lesions: Lesions | None = None,
    edges: np.ndarray | None = None,
    **tools: Any,
) -> Sample:
    """An output on voxels of 1 mm with what is given; tools that are not given are None."""
    image = output if source is None else source
    prepared = Prepared(image, mask, Grid(mask.shape, np.eye(4)), 0.0, 1.0)
    scan = Scan(Path("scan.nii"), "S", "scan", "person")
    names = ("profile", "features", "target_features", "segmenter", "space")
    return Sample(
        Case(scan, prepared, truth, labels),
        output,
        Tools(**{name: tools.get(name) for name in names}),
        np.zeros_like(mask) if edges is None else edges,
        tissues,
        lesions,
    )


KEYS = [(f"s{i}", f"p{i}") for i in range(8)]  # (scan, person)


def rows(method: str, values: dict[tuple[str, str], float], measure: str = "ssim") -> pd.DataFrame:
    """Rows of one method; keys are (scan, person)."""
    return pd.DataFrame(
        {
            "part": "truth",
            "group": "g",
            "scan": scan,
            "person": person,
            "method": method,
            "measure": measure,
            "value": value,
            "low": np.nan,
            "high": np.nan,
            "scans": 1,
        }
        for (scan, person), value in values.items()
    )
