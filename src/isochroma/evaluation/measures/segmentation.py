"""Downstream task 1, tissue segmentation: does a tool that knows only the target scanner work?

Two segmenters. `isochroma.tissues.classify` needs no training and labels by brightness, so an
image whose contrast is inverted (T2w) gets CSF and white matter swapped: its known failing. The
`Segmenter` here is a network that has seen target scans only, as a lab's own tool has: it fails
where a scan does not look like them, which is what harmonization is to mend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from isochroma.errors import InputError
from isochroma.evaluation.tissues import NAMES
from isochroma.images.preprocess import Prepared

GAIN, NOISE = 0.05, 0.02


def dice(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Overlap of each tissue in the mask, 2 |A and B| / (|A| + |B|), in [0, 1]; higher is better.

    Dice 1945, doi:10.2307/1932409.

    Parameters
    ----------
    a, b
        (I, J, K) labels: 1 CSF, 2 grey matter, 3 white matter.
    mask
        (I, J, K) bool, the voxels that count: those that both label maps cover.

    Returns
    -------
    One value a tissue, NaN where both lack it, and "mean" over the tissues that are not NaN.
    """
    a, b = a[mask], b[mask]
    overlaps = {}
    for label, name in NAMES.items():
        size = np.sum(a == label) + np.sum(b == label)
        both = np.sum((a == label) & (b == label))
        overlaps[name] = float(2 * both / size) if size else float("nan")
    known = [overlap for overlap in overlaps.values() if not np.isnan(overlap)]
    return overlaps | {"mean": float(np.mean(known)) if known else float("nan")}


class Segmenter:
    """A 3D U-Net (Cicek et al. 2016, doi:10.1007/978-3-319-46723-8_49), by MONAI.

    Its normalisation is batch norm, whose statistics are those of the target scans when it is
    used. Instance or group norm would take them from each volume: they differ between a patch and
    a whole head, and they would undo a wrong gain or offset that a harmonizer must not leave.

    Parameters
    ----------
    channels
        At full resolution, at a half, at a quarter and so on; the last two share theirs.
    """

    def __init__(self, channels: Sequence[int] = (8, 16, 32, 64)) -> None:
        self.channels = tuple(channels)
        self.multiple = 2 ** (len(self.channels) - 2)  # of the edges that the network can take
        self.network = self._new_network()

    def _new_network(self) -> UNet:
        strides = [1] + [2] * (len(self.channels) - 2)
        network = UNet(3, 1, len(NAMES), self.channels, strides, num_res_units=1, norm="batch")
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return network.eval()

    def fit(
        self,
        images: Sequence[Prepared],
        labels: Sequence[np.ndarray],
        steps: int = 600,
        seed: int = 0,
        patch: int = 64,
        batch: int = 2,
    ) -> Segmenter:
        """Train from scratch on target scans. On one machine, one seed gives one network.

        Dice and cross-entropy over the brain's voxels, Adam with a cosine-annealed rate, bfloat16.
        The augmentation is a left-right flip, a gain within 5 % and noise of 0.02 model units, and
        no more: the network shall know the target domain only.

        Parameters
        ----------
        images
            Preprocessed scans.
        labels
            (I, J, K) uint8 each: 1 CSF, 2 grey matter, 3 white matter inside the mask. Silver
            labels come from `isochroma.tissues.classify`.
        steps
            Optimiser steps.
        seed
            Of the first weights, the patches and the augmentation.
        patch
            Edge of the cubic patches, voxels; a multiple of 4 with the default channels.
        batch
            Patches a step.

        Raises
        ------
        InputError
            If there are no scans, or not one label map of the same shape for each.
        """
        shapes = [image.mask.shape for image in images]
        if not shapes or shapes != [label.shape for label in labels]:
            msg = (
                f"{len(images)} scans and {len(labels)} label maps do not match. "
                "Give one label map on each scan's grid."
            )
            raise InputError(msg)
        patches = _patches(images, labels, patch, np.random.default_rng(seed))
        loss = DiceCELoss(softmax=True, to_onehot_y=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = self._new_network().train()
        optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            image, truth = (
                torch.from_numpy(np.stack(arrays))
                for arrays in zip(*(next(patches) for _ in range(batch)), strict=True)
            )
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.network(image[:, None])
            brain = truth > 0
            inside = logits.float().movedim(1, -1)[brain]  # (V, 3)
            optimizer.zero_grad()
            loss(inside.T[None], (truth[brain].long() - 1)[None, None]).backward()
            optimizer.step()
            schedule.step()
        self.network.eval()
        return self

    @torch.inference_mode()
    def segment(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Label a whole volume at once.

        Parameters
        ----------
        image
            (I, J, K) volume in model units of the target domain.
        mask
            (I, J, K) bool.

        Returns
        -------
        labels
            (I, J, K) uint8: 0 outside the mask, 1 CSF, 2 grey matter, 3 white matter.
        probabilities
            (I, J, K, 3) float32 of the three, summing to 1 inside the mask, 0 outside.
        """
        padding = [(0, -n % self.multiple) for n in image.shape]
        padded = np.pad(_on_black(image, mask), padding, constant_values=-1)
        logits = self.network(torch.from_numpy(padded)[None, None])[0].movedim(0, -1)
        i, j, k = image.shape
        probabilities = logits[:i, :j, :k].softmax(-1).numpy() * mask[..., None]
        labels = np.where(mask, probabilities.argmax(-1) + 1, 0)
        return labels.astype(np.uint8), probabilities


def _on_black(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image on a black surround: 0, which stands outside the mask, is grey matter's value."""
    return np.where(mask, image, -1).astype(np.float32)


def _patches(
    images: Sequence[Prepared], labels: Sequence[np.ndarray], size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless augmented cubes around random brain voxels: image float32 and labels uint8, 0
    outside the mask.
    """
    while True:
        index = int(rng.integers(len(images)))
        prepared, shape = images[index], images[index].mask.shape
        centre = rng.integers(shape)
        if not prepared.mask[tuple(centre)]:
            continue
        starts = [
            int(np.clip(c - size // 2, 0, max(0, n - size)))
            for c, n in zip(centre, shape, strict=True)
        ]
        box = tuple(slice(start, start + size) for start in starts)
        mask = prepared.mask[box]
        padding = [(0, size - n) for n in mask.shape]
        gained = prepared.image[box] * rng.uniform(1 - GAIN, 1 + GAIN)
        noisy = gained + NOISE * rng.standard_normal(mask.shape, dtype=np.float32)
        image = np.pad(_on_black(noisy, mask), padding, constant_values=-1)
        label = np.pad(np.where(mask, labels[index][box], 0).astype(np.uint8), padding)
        flip = rng.choice([-1, 1])
        yield image[::flip].copy(), label[::flip].copy()
