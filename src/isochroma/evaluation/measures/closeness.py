"""How close is an output to the target domain: histograms, contrast, and features of small patches.

None of these asks whether the anatomy is still the same: a target scan of somebody else is perfect
here. Read them beside `anatomy` and the truth.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import integrate
from sklearn.decomposition import PCA
from torch.nn import functional as F

from isochroma.errors import InputError
from isochroma.evaluation.tissues import GREY, NAMES, WHITE
from isochroma.images.masked import extend_outside

BRAIN = "brain"
LEVELS = 1001  # quantiles of a profile
PATCHES = 500  # of each scan, for the Frechet distance of a group
STRIDE = 4  # voxels between the patches whose features are taken


@dataclass(frozen=True)
class TargetProfile:
    """The intensities of the target domain's training scans.

    quantiles
        Per tissue and for the whole brain: (Q,) quantiles at equal probabilities 0 to 1 in model
        units, averaged over the scans.
    contrast
        Mean grey/white contrast, see `contrast_ratio`.
    """

    quantiles: dict[str, np.ndarray]
    contrast: float


def target_profile(
    images: Iterable[np.ndarray], masks: Iterable[np.ndarray], tissues: Iterable[np.ndarray]
) -> TargetProfile:
    """Profile of the target domain from its training scans.

    Parameters
    ----------
    images, masks, tissues
        Per scan (I, J, K): model units, bool, and labels as in `isochroma.tissues`. May be
        generators: one scan is held at a time.
    """
    probabilities = np.linspace(0, 1, LEVELS)
    found: dict[str, list[np.ndarray]] = {name: [] for name in (BRAIN, *NAMES.values())}
    contrasts = []
    for image, mask, labels in zip(images, masks, tissues, strict=True):
        for name, region in regions(mask, labels).items():
            found[name].append(np.quantile(image[region], probabilities))
        contrasts.append(contrast_ratio(image, labels))
    if not contrasts:
        msg = "no scans to make the target's profile of. Give its training scans."
        raise InputError(msg)
    quantiles = {name: np.mean(each, axis=0) for name, each in found.items() if each}
    return TargetProfile(quantiles, float(np.mean(contrasts)))


def regions(mask: np.ndarray, tissues: np.ndarray | None) -> dict[str, np.ndarray]:
    """The brain and, if labels are given, each tissue in it: name to (I, J, K) bool, none empty."""
    found = {BRAIN: np.asarray(mask, dtype=bool)}
    if tissues is not None:
        found |= {name: mask & (tissues == label) for label, name in NAMES.items()}
    return {name: region for name, region in found.items() if region.any()}


def wasserstein(output: np.ndarray, mask: np.ndarray, target_quantiles: np.ndarray) -> float:
    """1-Wasserstein distance of the in-mask intensities to the target's, model units. Lower is
    better; 0 only for the same histogram.

    The mean distance between quantiles of equal probability, int |F^-1(p) - G^-1(p)| dp (Panaretos
    and Zemel 2019, doi:10.1146/annurev-statistics-030718-104938).

    Parameters
    ----------
    output
        (I, J, K), model units.
    mask
        (I, J, K) bool: the brain or one tissue.
    target_quantiles
        (Q,) at equal probabilities 0 to 1, as in `TargetProfile`.
    """
    if not mask.any():
        return float("nan")
    probabilities = np.linspace(0, 1, len(target_quantiles))
    apart = np.abs(np.quantile(output[mask], probabilities) - target_quantiles)
    return float(integrate.trapezoid(apart, probabilities))


def histogram_distances(
    output: np.ndarray, mask: np.ndarray, tissues: np.ndarray | None, profile: TargetProfile
) -> dict[str, float]:
    """`wasserstein` for the brain and each tissue. Lower is better.

    Take the labels of the tissues from the source or the truth, not from the output: a method that
    moves intensities would move its own labels with them.
    """
    return {
        name: wasserstein(output, region, profile.quantiles[name])
        for name, region in regions(mask, tissues).items()
        if name in profile.quantiles
    }


def contrast_ratio(output: np.ndarray, tissues: np.ndarray) -> float:
    """Michelson contrast of white against grey matter, (W - G) / (W + G) of the means on the scale
    [0, 1], (x + 1) / 2. Positive for T1w, negative for T2w; neither is better, see `contrast_gap`.
    """
    white, grey = ((output[tissues == label].mean() + 1) / 2 for label in (WHITE, GREY))
    return float((white - grey) / (white + grey))


def contrast_gap(output: np.ndarray, tissues: np.ndarray, profile: TargetProfile) -> float:
    """Absolute difference between an output's `contrast_ratio` and the target's. Lower is better.

    A difference, not a ratio, so that an inverted contrast counts as further away than none.
    """
    return abs(contrast_ratio(output, tissues) - profile.contrast)


def change(output: np.ndarray, source: np.ndarray, mask: np.ndarray) -> float:
    """Root mean square difference of output and source in the mask, model units. Neither way is
    better: 0 means that the method did nothing.
    """
    return float(np.sqrt(np.mean(np.square(output[mask].astype(np.float64) - source[mask]))))


@dataclass(frozen=True)
class FeatureSpace:
    """Where patches are compared; fitted to training scans of the target domain and then fixed.

    norms
        Mean and standard deviation, (1, C, 1, 1, 1) each, of every normalisation layer.
    centre, axes
        (F,) mean of the features, and (F, D) principal axes.
    """

    norms: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    centre: np.ndarray
    axes: np.ndarray


def fit_features(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    dimensions: int = 16,
    per_scan: int = 2000,
    seed: int = 0,
) -> FeatureSpace:
    """Fit the feature space to training scans of the target domain.

    Parameters
    ----------
    images, masks
        Per scan (I, J, K), model units and bool. Read twice.
    dimensions
        Principal components kept, at most 32.
    per_scan
        Patches a scan for the principal components.
    """
    runs = [activations(fill(image, mask))[1] for image, mask in zip(images, masks, strict=True)]
    norms = tuple(
        (
            torch.stack([mean for mean, _ in layer]).mean(0),
            torch.stack([s for _, s in layer]).mean(0),
        )
        for layer in zip(*runs, strict=True)
    )
    scans = [raw_features(*pair, norms) for pair in zip(images, masks, strict=True)]
    fitted = PCA(dimensions, svd_solver="full").fit(pool(scans, per_scan, seed))
    return FeatureSpace(norms, fitted.mean_, fitted.components_.T)


def patch_features(image: np.ndarray, mask: np.ndarray, space: FeatureSpace) -> np.ndarray:
    """Features of the patches of one scan, one every 4 voxels in the mask: (N, D) float64.

    The network is the first residual stage of deepbet's brain extraction (Fisch et al. 2024,
    doi:10.1016/j.compbiomed.2024.108845), after its first layer: 32 channels that were learned on
    MR scans of many scanners and that no method here was trained with. Its instance normalisation
    would hide gains, so its statistics are fixed to the target's (`FeatureSpace.norms`). A patch
    reaches 5 voxels far in the first half of the channels and 21 in the second. The outside of the
    mask is filled with the nearest voxel inside, so that a tight mask matters little.
    """
    return (raw_features(image, mask, space.norms) - space.centre) @ space.axes


def raw_features(
    image: np.ndarray, mask: np.ndarray, norms: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> np.ndarray:
    """(N, 32) activations at every fourth voxel inside the mask."""
    inside = mask[::STRIDE, ::STRIDE, ::STRIDE]
    return activations(fill(image, mask), norms)[0].numpy()[:, inside].T.astype(np.float64)


def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The scan on [0, 1], with its nearest brain voxel outside the mask: (I, J, K) float32."""
    return extend_outside((image.astype(np.float32) + 1) / 2, mask)


@functools.cache
def network_weights() -> dict[str, torch.Tensor]:
    """Weights of deepbet's LinkNet3d."""
    from deepbet.utils import DATA_PATH, load_model

    model = load_model(f"{DATA_PATH}/models/model.pt", no_gpu=True)
    return {name: weight.detach() for name, weight in model.named_parameters()}


@torch.no_grad()
def activations(
    volume: np.ndarray, norms: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """First layer and first residual stage of deepbet's network.

    Parameters
    ----------
    volume
        (I, J, K) float32 on [0, 1].
    norms
        Mean and standard deviation for each normalisation layer; the volume's own if absent.

    Returns
    -------
    (32, ceil(I/4), ceil(J/4), ceil(K/4)) activations, centred on every fourth voxel, and the
    statistics that were used.
    """
    weights = network_weights()
    used: list[tuple[torch.Tensor, torch.Tensor]] = []

    def convolve(x: torch.Tensor, name: str, stride: int = 1, padding: int = 1) -> torch.Tensor:
        x = F.conv3d(x, weights[f"{name}.weight"], stride=stride, padding=padding)
        own = (x.mean((2, 3, 4), keepdim=True), x.std((2, 3, 4), correction=0, keepdim=True))
        used.append(own if norms is None else norms[len(used)])
        mean, deviation = used[-1]
        return (x - mean) / torch.sqrt(deviation**2 + 1e-5)

    x = F.relu(convolve(torch.from_numpy(volume)[None, None], "init.0", stride=2, padding=3))
    first = x = F.max_pool3d(x, 3, stride=2, padding=1)
    for block in ("down0.block1", "down0.block2"):
        inner = F.relu(convolve(x, f"{block}.double_conv.0"))
        x = F.relu(x + convolve(inner, f"{block}.double_conv.3"))
    return torch.cat([first, x], dim=1)[0], used


def pool(features: Sequence[np.ndarray], per_scan: int, seed: int = 0) -> np.ndarray:
    """The same number of patches from every scan, drawn without replacement: (scans * per_scan, D).

    Raises
    ------
    InputError
        If a scan has fewer patches.
    """
    rng = np.random.default_rng(seed)
    fewest = min(map(len, features), default=0)
    if fewest < per_scan:
        msg = f"a scan has {fewest} patches in its mask, not {per_scan}. Draw fewer."
        raise InputError(msg)
    return np.concatenate([rng.choice(each, per_scan, replace=False) for each in features])


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two sets of features, as Gaussians. Lower is better; 0 if identical.

    |m_a - m_b|^2 + tr(A + B - 2 (A B)^1/2), a squared distance (Dowson and Landau 1982,
    doi:10.1016/0047-259X(82)90077-X; for images Heusel et al. 2017, arXiv:1706.08500).

    The estimate is biased upwards, the more the fewer samples there are, and patches of one scan
    are no independent samples: compare methods at the same number of scans and of patches a scan,
    best on the same scans, and give the distance of held-out target scans as the floor.

    Parameters
    ----------
    a, b
        (N, D) and (M, D); rows are samples.

    Raises
    ------
    InputError
        If a set has fewer than 2 D samples.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(len(a), len(b)) < 2 * a.shape[1]:
        msg = f"{min(len(a), len(b))} samples are too few for {a.shape[1]} features. Give more."
        raise InputError(msg)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # (A B)^1/2 has the trace of (A^1/2 B A^1/2)^1/2, which is symmetric.
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(max(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * shared, 0.0))


def frechet_interval(
    scans: Sequence[np.ndarray],
    target: Sequence[np.ndarray],
    rng: np.random.Generator,
    draws: int = 100,
) -> tuple[float, tuple[float, float]]:
    """`frechet` of a group of scans to the target's, and its 95 % interval over resampled scans.

    Parameters
    ----------
    scans, target
        Per scan (N, D) features. Every scan counts with the same number of patches.
    draws
        Bootstrap samples of `scans`; the interval is NaN for fewer than three scans.
    """
    known = pool(target, PATCHES)
    value = frechet(pool(scans, PATCHES), known)
    if len(scans) < 3:
        return value, (np.nan, np.nan)
    drawn = [
        frechet(pool([scans[i] for i in rng.integers(len(scans), size=len(scans))], PATCHES), known)
        for _ in range(draws)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return value, (float(low), float(high))
