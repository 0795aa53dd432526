"""From one row a scan, method and measure to means with intervals and paired differences.

The unit that is resampled is the person: scans of one person are averaged first, since they are
not independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class Measure(NamedTuple):
    """What a column of the report says: title, unit, and which way is better (+1 up, -1 down, 0
    neither).
    """

    title: str
    unit: str
    better: int


MEASURES: dict[tuple[str, str], Measure] = {
    ("truth", "psnr"): Measure("PSNR against the truth", "dB", 1),
    ("truth", "ssim"): Measure("SSIM against the truth", "", 1),
    ("truth", "ncc"): Measure("Correlation with the truth", "", 1),
    ("pairs", "ssim"): Measure("SSIM of two scans of one person", "", 1),
    ("pairs", "ncc"): Measure("Correlation of two scans of one person", "", 1),
    ("closeness", "wasserstein"): Measure("Wasserstein distance, brain", "model units", -1),
    ("closeness", "wasserstein CSF"): Measure("Wasserstein distance, CSF", "model units", -1),
    ("closeness", "wasserstein grey matter"): Measure(
        "Wasserstein distance, grey matter", "model units", -1
    ),
    ("closeness", "wasserstein white matter"): Measure(
        "Wasserstein distance, white matter", "model units", -1
    ),
    ("closeness", "contrast"): Measure("Grey/white contrast, distance to the target's", "", -1),
    ("closeness", "frechet"): Measure("Frechet distance of features", "", -1),
    ("closeness", "change"): Measure("RMS change of the image", "model units", 0),
    ("anatomy", "edges kept"): Measure("Source edges found in the output", "share", 1),
    ("anatomy", "edges invented"): Measure("Output edges not in the source", "share", -1),
    ("anatomy", "local ncc"): Measure("Local correlation with the source, magnitude", "", 1),
    ("anatomy", "lesion contrast"): Measure("Lesion contrast kept", "share", 1),
    ("anatomy", "lesion recall"): Measure("Lesions that keep half of their contrast", "share", 1),
    ("segmentation", "dice CSF"): Measure("Dice, CSF, network", "", 1),
    ("segmentation", "dice grey matter"): Measure("Dice, grey matter, network", "", 1),
    ("segmentation", "dice white matter"): Measure("Dice, white matter, network", "", 1),
    ("segmentation", "dice mean"): Measure("Dice, mean, network", "", 1),
    ("segmentation", "dice mean, classical"): Measure("Dice, mean, classical", "", 1),
    ("age", "absolute error"): Measure("Age, absolute error", "years", -1),
    ("age", "error"): Measure("Age, error", "years", 0),
    ("age", "r2"): Measure("Age, R²", "", 1),
    ("cost", "seconds"): Measure("Time a scan", "s", -1),
    ("cost", "memory"): Measure("Peak memory", "MB", -1),
    ("cost", "seed sd"): Measure("Standard deviation over seeds", "model units", -1),
}


@dataclass(frozen=True)
class Estimate:
    """Mean over persons, its 95 % bootstrap interval, and the scans and persons behind it."""

    mean: float
    low: float
    high: float
    scans: int
    persons: int


def estimate(values: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean and percentile interval of the column `value`, resampling the column `person`."""
    persons = values.groupby("person")["value"].mean().to_numpy()
    low = high = float("nan")
    if len(persons) > 1:
        found = stats.bootstrap(
            (persons,), np.mean, n_resamples=resamples, method="percentile", rng=seed
        )
        low, high = found.confidence_interval
    return Estimate(float(persons.mean()), float(low), float(high), len(values), len(persons))


def summarise(
    rows: pd.DataFrame, reference: str = "histogram matching", resamples: int = 2000
) -> list[dict[str, Any]]:
    """One record for each part, group, measure and method.

    Parameters
    ----------
    rows
        Columns part, group, scan, person, method, measure, value; low, high for values that already
        describe a whole group, whose interval is taken as it is; scans, how many a value is from.
    reference
        Method that the others are compared with, scan by scan. The difference is method minus
        reference over the scans that both have.

    Returns
    -------
    Records with mean, low, high, scans, persons; difference, difference_low, difference_high,
    difference_scans (None where there is no interval or no reference).
    """
    records = []
    for keys, of_measure in rows.groupby(["part", "group", "measure"], sort=False):
        known = of_measure[of_measure["method"] == reference].set_index("scan")["value"]
        for method, values in of_measure.groupby("method", sort=False):
            record: dict[str, Any] = dict(zip(("part", "group", "measure"), keys, strict=True))
            record["method"] = method
            whole = values.iloc[0]
            if len(values) == 1 and np.isfinite(whole["low"]):
                found = Estimate(whole["value"], whole["low"], whole["high"], 1, 1)
            else:
                found = estimate(values, resamples)
            record.update(
                mean=found.mean,
                low=found.low,
                high=found.high,
                scans=int(values["scans"].sum()),
                persons=found.persons,
            )
            paired = values[values["scan"].isin(known.index)]
            if method != reference and len(paired):
                change = paired.assign(
                    value=paired["value"].to_numpy() - known[paired["scan"]].to_numpy()
                )
                gap = estimate(change, resamples)
                record.update(
                    difference=gap.mean,
                    difference_low=gap.low,
                    difference_high=gap.high,
                    difference_scans=gap.scans,
                )
            records.append(
                {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in record.items()}
            )
    return records
