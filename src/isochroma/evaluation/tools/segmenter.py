"""A tissue segmenter that has seen target scans only, as a lab's own tool has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from isochroma.errors import InputError
from isochroma.evaluation.tissues import NAMES
from isochroma.images.preprocess import Prepared

VERSION = 1
GAIN, NOISE = 0.05, 0.02  # augmentation: small, so that the network knows the target domain only


class Segmenter:
    """A 3D U-Net for CSF, grey and white matter, by MONAI.

    It uses batch normalisation, with the statistics of the target scans once it is trained.
    Instance or group normalisation would take them from each volume: they differ between a patch
    and a whole head, and they would undo a wrong gain or offset that a harmonizer must not leave.

    Parameters
    ----------
    channels : sequence of int
        Channels at full resolution, at a half, at a quarter and so on; the last two entries share
        a resolution.

    References
    ----------
    Cicek et al. 2016, doi:10.1007/978-3-319-46723-8_49.
    """

    def __init__(self, channels: Sequence[int] = (8, 16, 32, 64)) -> None:
        self.channels = tuple(channels)
        self.multiple = 2 ** (len(self.channels) - 2)  # edges of its input must be multiples
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
        """Train from scratch on target scans; one seed gives one network on one machine.

        The loss is Dice plus cross-entropy over the brain's voxels; Adam with a cosine-annealed
        rate, bfloat16. The augmentation is a left-right flip, a gain within 5 % and noise of 0.02
        model units.

        Parameters
        ----------
        images : sequence of Prepared
            Preprocessed scans; each is read when it is drawn.
        labels : sequence of (I, J, K) ndarray of uint8
            1 CSF, 2 grey matter, 3 white matter inside the mask.
        steps : int
            Optimiser steps.
        seed : int
            Seed of the first weights, the patches and the augmentation.
        patch : int
            Edge of the cubic patches, voxels; a multiple of 4 with the default channels.
        batch : int
            Patches in a step.

        Returns
        -------
        segmenter : Segmenter
            This one.

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
        image : (I, J, K) ndarray
            Model units of the target domain.
        mask : (I, J, K) ndarray of bool
            Brain mask.

        Returns
        -------
        labels : (I, J, K) ndarray of uint8
            0 outside the mask, 1 CSF, 2 grey matter, 3 white matter.
        probabilities : (I, J, K, 3) ndarray of float32
            Of the three tissues; they sum to 1 inside the mask and are 0 outside.
        """
        padding = [(0, -n % self.multiple) for n in image.shape]
        padded = np.pad(_on_black(image, mask), padding, constant_values=-1)
        logits = self.network(torch.from_numpy(padded)[None, None])[0].movedim(0, -1)
        i, j, k = image.shape
        probabilities = logits[:i, :j, :k].softmax(-1).numpy() * mask[..., None]
        labels = np.where(mask, probabilities.argmax(-1) + 1, 0)
        return labels.astype(np.uint8), probabilities


def _on_black(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Set the outside of the mask to -1, black: the 0 there is the value of grey matter."""
    return np.where(mask, image, -1).astype(np.float32)


def _patches(
    images: Sequence[Prepared], labels: Sequence[np.ndarray], size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw augmented cubes around random brain voxels without end: image and labels."""
    while True:
        index = int(rng.integers(len(images)))
        prepared = images[index]
        shape = prepared.mask.shape
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
