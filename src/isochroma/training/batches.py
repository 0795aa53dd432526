"""Batches of patches that depend on seed, device and step alone.

A run that was killed and resumed therefore sees the same batches as one that was not, whatever the
number of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from isochroma.method.patches import Volumes, draw
from isochroma.training.data import Scans, TargetScan
from isochroma.training.settings import Recipe

Item = TypeVar("Item")


class Batch(NamedTuple):
    """Hold the patches of one training step.

    Attributes
    ----------
    image, mask, draft : (B, 1, S, S, S) Tensor
        In model units, mask of 0 and 1; the draft is 0 where there is none.
    condition : (B, 4, S, S, S) Tensor
        Edges and coordinates.
    drafted : (B,) Tensor of bool
        Which patches have a draft and train the second pass.
    """

    image: Tensor
    mask: Tensor
    draft: Tensor
    condition: Tensor
    drafted: Tensor


class PatchStream(IterableDataset):
    """Draw an endless sequence of batches.

    Parameters
    ----------
    scans : sequence of TargetScan
        The training scans.
    recipe : Recipe
        Patch settings, batch size, seed, shares of variants and drafts.
    first_step : int
        Number of the batch to begin with.
    rank : int
        Number of the device, so that each draws its own batches.
    """

    def __init__(
        self, scans: Sequence[TargetScan], recipe: Recipe, first_step: int = 0, rank: int = 0
    ) -> None:
        self.scans = scans
        self.recipe = recipe
        self.first_step = first_step
        self.rank = rank

    def batch(self, step: int) -> Batch:
        """Draw batch number `step`."""
        settings = self.recipe.training
        rng = np.random.default_rng([settings.seed, self.rank, step])
        drawn = []
        for _ in range(settings.batch_size):
            volumes = self._choose(rng)
            patch = draw(volumes, self.recipe.patches, rng, self.recipe.preprocess.spacing_mm)
            drawn.append((*patch, np.array(volumes.draft is not None)))
        return Batch(*(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True)))

    def _choose(self, rng: np.random.Generator) -> Volumes:
        """Choose a scan, and its own edges, those of a copy or an example of the second pass."""
        settings = self.recipe.training
        scan = self.scans[int(rng.integers(len(self.scans)))]
        copies = len(scan.edges) - 1
        variant = 0
        if copies and rng.random() < settings.variant_share:
            variant = int(rng.integers(1, copies + 1))
        if scan.examples and rng.random() < settings.draft_share:
            example = scan.examples[int(rng.integers(len(scan.examples)))]
            return Volumes(example.image, scan.mask, example.edges, scan.centroid, example.draft)
        return Volumes(scan.image, scan.mask, scan.edges[variant], scan.centroid)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the batches from `first_step` on, shared among the worker processes."""
        worker = torch.utils.data.get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.first_step + index
        while True:
            yield self.batch(step)
            step += count


class TargetData(lightning.LightningDataModule):
    """Feed a trainer with batches of the training scans, and with whole validation scans.

    Parameters
    ----------
    scans : Scans
        Cached scans.
    recipe : Recipe
        See `PatchStream`.
    workers : int
        Processes that draw patches; 0 draws them in the main process.
    """

    def __init__(self, scans: Scans, recipe: Recipe, workers: int = 0) -> None:
        super().__init__()
        self.scans = scans
        self.recipe = recipe
        self.workers = workers

    def train_dataloader(self) -> DataLoader:
        """Load batches from the trainer's present step on."""
        trainer = self.trainer
        step, rank = (trainer.global_step, trainer.global_rank) if trainer else (0, 0)
        stream = PatchStream(self.scans.train, self.recipe, step, rank)
        return DataLoader(stream, batch_size=None, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        """Load the validation scans one by one."""
        return DataLoader(list(self.scans.val), batch_size=None, collate_fn=unchanged)  # type: ignore[arg-type]


def unchanged(item: Item) -> Item:
    """Return a scan as it is, instead of as tensors."""
    return item
