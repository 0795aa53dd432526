"""Agreement with the truth: the same head as the target scanner shows it."""

from __future__ import annotations

from isochroma.evaluation.measures.registry import Part
from isochroma.evaluation.measures.sample import Sample
from isochroma.images import metrics
from isochroma.images.preprocess import from_model_units

part = Part(
    "truth",
    "Truth known: simulated travelling subjects",
    "Held-out target scans as other scanners would have shown them (simulated from tissue "
    "fractions and the sequences' signal equations), harmonized back; the scan itself is the "
    "truth. Groups are the simulated scanners.",
)


@part.measure("psnr", "PSNR against the truth", unit="dB", better=1, needs=("truth",))
def psnr(sample: Sample) -> float:
    """Return the peak signal-to-noise ratio in the mask, 10 log10(2^2 / MSE), model units."""
    return metrics.psnr(sample.output, sample.truth, sample.mask, 2)


@part.measure(
    "ssim",
    "SSIM against the truth",
    better=1,
    needs=("truth",),
    source="Wang et al. 2004, doi:10.1109/TIP.2003.819861",
)
def ssim(sample: Sample) -> float:
    """Return the mean structural similarity in the mask, intensities on [0, 1]."""
    output, truth = (from_model_units(each, 0, 1) for each in (sample.output, sample.truth))
    return metrics.ssim(output, truth, sample.mask, 1)


@part.measure("ncc", "Correlation with the truth", better=1, needs=("truth",))
def ncc(sample: Sample) -> float:
    """Return the Pearson correlation of the voxels in the mask."""
    return metrics.ncc(sample.output, sample.truth, sample.mask)
