"""Simulated scanners: the same anatomy under another contrast, bias field, resolution and noise.

A simulation, and called one wherever it is used: an intensity map stands for the contrast, so
tissues that share an intensity in the target scan share one in the simulated scan too.
Two uses: evaluation (`SCANNERS`, fixed presets applied to held-out target scans, whose truth is
known), and training (`random_scanner`, which re-contrasts a target scan before its edges are
taken, after SynthSeg, Billot et al. 2023, doi:10.1016/j.media.2023.102789).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator


@dataclass(frozen=True)
class Scanner:
    """One simulated scanner.

    knots, values
        The intensity map: target intensity in [0, 1] (CSF near 0.1, grey matter near 0.5, white
        matter near 0.8 for a T1w target) to simulated intensity in [0, 1], interpolated by a
        shape-preserving cubic.
    bias
        Peak deviation of the smooth multiplicative field from 1.
    blur
        Gaussian sigma in voxels, one for all axes or one for each.
    outside
        Signal of what lies around the brain, which the blur mixes into its border; None for none.
    mottle
        Standard deviation of a signal of its own, lumps of 2 voxels, that the target does not show.
    vessels
        Signal of vessels with a contrast agent, strands through the CSF; None for none.
    noise
        Standard deviation of each channel of the Rician noise, relative to full intensity.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]
    bias: float = 0.2
    blur: float | tuple[float, ...] = 0.5
    outside: float | None = None
    mottle: float = 0.0
    vessels: float | None = None
    noise: float = 0.02

    def render(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Image the anatomy with this scanner.

        Parameters
        ----------
        image
            (I, J, K) target scan scaled to [0, 1] inside the mask.
        mask
            (I, J, K) bool.
        rng
            Source of the bias field and the noise.

        Returns
        -------
        (I, J, K) float32, not negative, 0 outside the mask.
        """
        signal = PchipInterpolator(self.knots, self.values)(np.clip(image, 0, 1))
        signal = np.where(mask, signal, 0).astype(np.float32)
        if self.vessels is not None:
            signal[strands(image, mask, rng)] = self.vessels
        if np.max(self.blur) > 0:
            weight = ndimage.gaussian_filter(mask.astype(np.float32), self.blur)
            signal = ndimage.gaussian_filter(signal, self.blur)
            if self.outside is None:
                signal /= np.maximum(weight, 1e-3)
            else:
                signal += (1 - weight) * self.outside
        if self.mottle > 0:
            lumps = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 2)
            signal += self.mottle / lumps.std() * lumps
        signal *= bias_field(image.shape, self.bias, rng)
        real = signal + self.noise * rng.standard_normal(image.shape, dtype=np.float32)
        imaginary = self.noise * rng.standard_normal(image.shape, dtype=np.float32)
        return np.where(mask, np.hypot(real, imaginary), 0).astype(np.float32)


KNOTS = (0.0, 0.15, 0.5, 0.8, 1.0)
CSF = 0.35  # of the target's range: below is CSF, or its border with grey matter
STRAND = 0.6  # standard deviations
GAMMA_KNOTS = tuple(index / 16 for index in range(17))
SCANNERS = {
    "gamma": Scanner(GAMMA_KNOTS, tuple(knot**0.55 for knot in GAMMA_KNOTS)),
    "low-contrast": Scanner(KNOTS, (0.0, 0.2, 0.62, 0.74, 0.9)),
    "t2-like": Scanner(KNOTS, (1.0, 0.85, 0.5, 0.28, 0.1)),
    "pd-like": Scanner(KNOTS, (0.55, 0.7, 1.0, 0.8, 0.7)),
}


def bias_field(shape: tuple[int, ...], peak: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth positive field (I, J, K), mean 1, at most `peak` away from it: a random cubic spline
    on 4 x 4 x 4 control points.
    """
    control = rng.standard_normal((4, 4, 4)).astype(np.float32)
    zoom = [n / 4 for n in shape]
    field = ndimage.zoom(control, zoom, order=3, mode="nearest", grid_mode=True)
    field -= field.mean()
    return 1 + peak * field / max(float(np.abs(field).max()), 1e-6)


def strands(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strands of 2 to 4 voxels through the CSF, where veins and the choroid plexus lie: (I, J, K)
    bool. They run where two random fields of lumps of 3 voxels are both near 0.
    """
    fields = [
        ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 3)
        for _ in range(2)
    ]
    distance = np.hypot(*(field / field.std() for field in fields))
    return mask & (image < CSF) & (distance < STRAND)


def random_scanner(rng: np.random.Generator) -> Scanner:
    """A scanner nobody built: random contrast, bias, blur (thick slices along one axis in two of
    five), surroundings, mottle, vessels (in one of four) and noise.

    The contrast is one of four, equally likely: a gamma curve, as another scanner's T1w scan may
    differ from the target's; or random values that rise, fall, or do neither. Of these,
    neighbouring knots differ by 0.05 or more, so that no boundary vanishes in the noise.
    """
    order = rng.choice(["gamma", "rising", "falling", "free"])
    values = np.array(KNOTS) ** np.exp(rng.uniform(-0.7, 0.7))
    while order != "gamma":
        values = rng.uniform(0, 1, len(KNOTS))
        if order != "free":
            values = np.sort(values) if order == "rising" else np.sort(values)[::-1]
        if np.abs(np.diff(values)).min() >= 0.05:
            break
    blur = np.full(3, rng.uniform(0, 0.7))
    if rng.random() < 0.4:
        blur[rng.integers(3)] += rng.uniform(0, 1)
    return Scanner(
        KNOTS,
        tuple(values),
        bias=rng.uniform(0, 0.3),
        blur=tuple(blur),
        outside=rng.uniform(0, 1) if rng.random() < 0.5 else None,
        mottle=rng.uniform(0, 0.05),
        vessels=rng.uniform(1, 2.5) if rng.random() < 0.25 else None,
        noise=rng.uniform(0, 0.05),
    )
