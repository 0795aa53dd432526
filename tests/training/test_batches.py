from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fixtures_pipeline import SPACING_MM
from isochroma.method.patches import PatchSettings
from isochroma.training.batches import Batch, PatchStream, TargetData
from isochroma.training.data import Example, Scans, TargetScan, prepare_scans
from isochroma.training.settings import Recipe, TrainingSettings


@pytest.fixture(scope="module")
def scans(target: Path, cache: Path, recipe: Recipe) -> Scans:
    return prepare_scans(target, cache, recipe)


def stream(scans: Scans, recipe: Recipe, seed: int = 0, **options: Any) -> PatchStream:
    training = dataclasses.replace(recipe.training, seed=seed)
    return PatchStream(scans.train, dataclasses.replace(recipe, training=training), **options)


def first(stream: PatchStream, count: int, workers: int = 0) -> list[Batch]:
    batches = iter(DataLoader(stream, batch_size=None, num_workers=workers))
    return [next(batches) for _ in range(count)]


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class TestStream:
    def test_shapes(self, scans: Scans, recipe: Recipe) -> None:
        batch = stream(scans, recipe).batch(0)
        assert batch.image.shape == batch.mask.shape == batch.draft.shape == (2, 1, 16, 16, 16)
        assert batch.condition.shape == (2, 4, 16, 16, 16)
        assert {part.dtype for part in batch[:4]} == {torch.float32}
        assert not batch.drafted.any()

    def test_batch_is_a_function_of_its_number(self, scans: Scans, recipe: Recipe) -> None:
        straight = first(stream(scans, recipe), 6)
        for number, batch in enumerate(straight):
            assert same(batch, stream(scans, recipe).batch(number))
            assert sum(same(batch, other) for other in straight) == 1

    def test_starting_point_plays_no_part(self, scans: Scans, recipe: Recipe) -> None:
        straight = first(stream(scans, recipe), 6)
        later = first(stream(scans, recipe, first_step=4), 2)
        assert all(same(a, b) for a, b in zip(straight[4:], later, strict=True))

    @pytest.mark.parametrize("first_step", [0, 3])
    def test_workers_play_no_part(self, scans: Scans, recipe: Recipe, first_step: int) -> None:
        straight = first(stream(scans, recipe), first_step + 5)[first_step:]
        parallel = first(stream(scans, recipe, first_step=first_step), 5, workers=2)
        assert all(same(a, b) for a, b in zip(straight, parallel, strict=True))

    def test_seed_and_rank_play_a_part(self, scans: Scans, recipe: Recipe) -> None:
        a, b, c = (
            stream(scans, recipe, **options).batch(0) for options in ({}, {"seed": 1}, {"rank": 1})
        )
        assert not same(a, b)
        assert not same(a, c)
        assert not same(b, c)

    def test_coordinates_are_in_mm(self, scans: Scans, recipe: Recipe) -> None:
        """On a model grid of 2 mm neighbours lie 0.02 apart."""
        plain = dataclasses.replace(recipe, patches=PatchSettings(16, strided_probability=0))
        condition = stream(scans, plain).batch(0).condition
        torch.testing.assert_close(
            condition[:, 2].diff(dim=2), torch.full((2, 16, 15, 16), SPACING_MM / 100)
        )


SHAPE = (20, 20, 20)
EVERYWHERE = np.ones(SHAPE, bool)


def constant(edges: np.ndarray, *examples: Example) -> TargetScan:
    """A scan of 0 with these edge maps."""
    zeros = np.zeros(SHAPE, np.float16)
    return TargetScan(Path(), zeros, EVERYWHERE, edges, np.full(3, 9.5), 0, 1, examples)


class TestShares:
    def recipe(self, **training: Any) -> Recipe:
        return Recipe(
            patches=PatchSettings(8, 0.0), training=TrainingSettings(batch_size=1, **training)
        )

    def test_edges_of_copies(self) -> None:
        """The scan's own map is empty, the copy's is full."""
        maps = np.stack([~EVERYWHERE, EVERYWHERE])
        copies = PatchStream([constant(maps)], self.recipe(variant_share=0.5))
        values = [float(copies.batch(n).condition[:, 0].mean()) for n in range(200)]
        assert set(values) == {-1.0, 1.0}
        assert -0.24 < np.mean(values) < 0.24
        alone = PatchStream([constant(maps[:1])], self.recipe(variant_share=0.5))
        assert all(float(alone.batch(n).condition[:, 0].max()) == -1 for n in range(20))

    def test_own_edges_alone(self) -> None:
        maps = np.stack([~EVERYWHERE, EVERYWHERE])
        own = PatchStream([constant(maps)], self.recipe(variant_share=0.0))
        assert all(float(own.batch(n).condition[:, 0].max()) == -1 for n in range(20))

    def test_drafts(self) -> None:
        """An example brings its own image and edges; where it is drawn, the patch says so."""
        example = Example(np.full(SHAPE, 0.5), EVERYWHERE, np.full(SHAPE, 0.25))
        scan = constant(~EVERYWHERE[None], example)
        drafts = PatchStream([scan], self.recipe(draft_share=0.75))
        seen = []
        for number in range(200):
            image, _, draft, condition, drafted = drafts.batch(number)
            seen.append(bool(drafted))
            assert float(image.mean()) == (0.5 if drafted else 0)
            assert float(draft.mean()) == (0.25 if drafted else 0)
            assert float(condition[:, 0].mean()) == (1 if drafted else -1)
        assert 0.65 < np.mean(seen) < 0.85


class TestTargetData:
    def test_training_batches_start_at_the_first(self, scans: Scans, recipe: Recipe) -> None:
        batch = next(iter(TargetData(scans, recipe).train_dataloader()))
        assert same(batch, PatchStream(scans.train, recipe).batch(0))

    def test_validation_scans_come_as_they_are(self, scans: Scans, recipe: Recipe) -> None:
        (scan,) = TargetData(scans, recipe).val_dataloader()
        assert scan is scans.val[0]
