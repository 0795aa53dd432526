"""Random scanners for training augmentation: one anatomy in many contrasts.

Training re-contrasts a target scan before its edges are taken, so that edges become independent of
the contrast; after SynthSeg (Billot et al. 2023, doi:10.1016/j.media.2023.102789). An intensity
map stands for the contrast, so tissues that share an intensity in the target scan share one in
the re-contrasted scan. No sequence is modelled; for that, see
`isochroma.evaluation.phantoms.sequences`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from isochroma.images.masked import smooth

KNOTS = (0.0, 0.15, 0.5, 0.8, 1.0)  # near CSF, grey matter and white matter of a T1w target
CSF = 0.35  # of the target's range: below is CSF, or its border with grey matter
STRAND = 0.6  # half width of a vessel, standard deviations of the random fields


@dataclass(frozen=True)
class Scanner:
    """How a scanner shows an anatomy.

    Attributes
    ----------
    knots, values : tuple of float
        The intensity map: target intensity in [0, 1] (CSF near 0.1, grey matter near 0.5, white
        matter near 0.8 for a T1w target) to new intensity in [0, 1], interpolated by a
        shape-preserving cubic.
    bias : float
        Peak deviation of the smooth multiplicative field from 1.
    blur : float or tuple of 3 floats
        Standard deviation of the Gaussian blur, voxels; one for all axes or one for each.
    outside : float, optional
        Signal of what surrounds the brain, which the blur mixes into its border; by default
        nothing is mixed in.
    mottle : float
        Standard deviation of added texture, in lumps of 2 voxels, that the target does not show.
    vessels : float, optional
        Signal of vessels with a contrast agent, strands through the CSF; by default there are
        none.
    noise : float
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
        """Show an anatomy as this scanner would.

        Parameters
        ----------
        image : (I, J, K) ndarray
            Target scan scaled to [0, 1] inside the mask.
        mask : (I, J, K) ndarray of bool
            Brain mask.
        rng : numpy.random.Generator
            Source of vessels, texture, bias field and noise.

        Returns
        -------
        rendered : (I, J, K) ndarray of float32
            Not negative; 0 outside the mask.
        """
        signal = PchipInterpolator(self.knots, self.values)(np.clip(image, 0, 1))
        signal = np.where(mask, signal, 0).astype(np.float32)
        if self.vessels is not None:
            signal[strands(image, mask, rng)] = self.vessels
        if np.max(self.blur) > 0:
            if self.outside is None:
                signal = smooth(signal, mask, self.blur, floor=1e-3)
            else:
                weight = ndimage.gaussian_filter(mask.astype(np.float32), self.blur)
                signal = ndimage.gaussian_filter(signal, self.blur)
                signal += (1 - weight) * self.outside
        if self.mottle > 0:
            lumps = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 2)
            signal += self.mottle / lumps.std() * lumps
        signal *= bias_field(image.shape, self.bias, rng)
        real = signal + self.noise * rng.standard_normal(image.shape, dtype=np.float32)
        imaginary = self.noise * rng.standard_normal(image.shape, dtype=np.float32)
        return np.where(mask, np.hypot(real, imaginary), 0).astype(np.float32)


def random_scanner(rng: np.random.Generator) -> Scanner:
    """Draw a random scanner for augmentation.

    The contrast is one of four kinds, equally likely: a gamma curve, as another scanner's T1w scan
    may differ from the target's; or random values that rise, fall, or do neither. Random values of
    neighbouring knots differ by 0.05 or more, so that no boundary vanishes in the noise. Two in
    five have thick slices along one axis, every other one mixes in surroundings, one in four shows
    vessels.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    scanner : Scanner
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


def bias_field(shape: tuple[int, ...], peak: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth positive field: a random cubic spline on 4 x 4 x 4 control points.

    Parameters
    ----------
    shape : tuple of 3 ints
        (I, J, K) voxels.
    peak : float
        Largest deviation of the field from 1.
    rng : numpy.random.Generator
        Source of the control points.

    Returns
    -------
    field : (I, J, K) ndarray of float32
        With mean 1.
    """
    control = rng.standard_normal((4, 4, 4)).astype(np.float32)
    zoom = [n / 4 for n in shape]
    field = ndimage.zoom(control, zoom, order=3, mode="nearest", grid_mode=True)
    field -= field.mean()
    return 1 + peak * field / max(float(np.abs(field).max()), 1e-6)


def strands(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw strands of 2 to 4 voxels through the CSF, where veins and the choroid plexus lie.

    They run where two random fields of lumps of 3 voxels are both near 0.

    Parameters
    ----------
    image : (I, J, K) ndarray
        Target scan scaled to [0, 1] inside the mask.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    rng : numpy.random.Generator
        Source of the fields.

    Returns
    -------
    vessels : (I, J, K) ndarray of bool
    """
    fields = [
        ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 3)
        for _ in range(2)
    ]
    distance = np.hypot(*(field / field.std() for field in fields))
    return mask & (image < CSF) & (distance < STRAND)
