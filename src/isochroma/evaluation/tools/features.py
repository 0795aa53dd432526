"""Features of small patches, in a space that is fitted to the target's training scans.

The network is the first layer and the first residual stage of deepbet's brain extraction (Fisch et
al. 2024, doi:10.1016/j.compbiomed.2024.108845): 32 channels that were learned on MR scans of many
scanners and that no method here was trained with. Its instance normalisation would hide gains, so
its statistics are fixed to the target's (`FeatureSpace.norms`). A patch reaches 5 voxels far in the
first half of the channels and 21 in the second. The outside of the mask is filled with the nearest
voxel inside, so that a tight mask matters little.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch.nn import functional as F

from isochroma.errors import InputError
from isochroma.images.masked import extend_outside

VERSION = 1
STRIDE = 4  # voxels between the patches whose features are taken

Norms = Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class FeatureSpace:
    """The space in which patches are compared.

    Attributes
    ----------
    norms : tuple of pairs of (1, C, 1, 1, 1) Tensor
        Mean and standard deviation that every normalisation layer uses.
    centre : (F,) ndarray
        Mean of the features.
    axes : (F, D) ndarray
        Principal axes of the features.
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
    images : sequence of (I, J, K) ndarray
        Model units. Read twice.
    masks : sequence of (I, J, K) ndarray of bool
        Brain masks.
    dimensions : int
        Principal components kept, 1 to 32.
    per_scan : int
        Patches of each scan that the principal components are found from.
    seed : int
        Seed of the draw of these patches.

    Returns
    -------
    space : FeatureSpace
        The same for all methods.

    Raises
    ------
    InputError
        If a scan has fewer patches.
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
    """Return the features of the patches of one scan, one at every 4th voxel in the mask.

    Parameters
    ----------
    image : (I, J, K) ndarray
        Model units.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    space : FeatureSpace
        As `fit_features` returns it.

    Returns
    -------
    features : (N, D) ndarray of float64
        One row for each patch.
    """
    return (raw_features(image, mask, space.norms) - space.centre) @ space.axes


def raw_features(image: np.ndarray, mask: np.ndarray, norms: Norms) -> np.ndarray:
    """Return the (N, 32) activations at every 4th voxel inside the mask."""
    inside = mask[::STRIDE, ::STRIDE, ::STRIDE]
    return activations(fill(image, mask), norms)[0].numpy()[:, inside].T.astype(np.float64)


def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scale a scan to [0, 1] and extend it beyond the mask: (I, J, K) float32."""
    return extend_outside((image.astype(np.float32) + 1) / 2, mask)


@functools.cache
def network_weights() -> dict[str, torch.Tensor]:
    """Return the weights of deepbet's LinkNet3d by name."""
    from deepbet.utils import DATA_PATH, load_model

    model = load_model(f"{DATA_PATH}/models/model.pt", no_gpu=True)
    return {name: weight.detach() for name, weight in model.named_parameters()}


@torch.no_grad()
def activations(
    volume: np.ndarray, norms: Norms | None = None
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Run the first layer and the first residual stage of deepbet's network.

    Parameters
    ----------
    volume : (I, J, K) ndarray of float32
        Intensities on [0, 1].
    norms : sequence of pairs of Tensor, optional
        Mean and standard deviation for each normalisation layer; the volume's own if absent.

    Returns
    -------
    activations : (32, ceil(I/4), ceil(J/4), ceil(K/4)) Tensor
        Centred on every 4th voxel.
    used : list of pairs of Tensor
        Mean and standard deviation of each normalisation layer.
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
    """Draw the same number of patches from every scan, without replacement.

    Parameters
    ----------
    features : sequence of (N, D) ndarray
        Features of each scan; N may differ.
    per_scan : int
        Patches of each scan.
    seed : int
        Seed of the draw.

    Returns
    -------
    pooled : (scans * per_scan, D) ndarray
        The drawn rows.

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
