from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.evaluation.measures import audit as auditing
from isochroma.evaluation.measures.audit import (
    audit,
    convnet,
    histogram,
    logistic,
    shape_features,
    thumbnail,
)

SHAPE = (40, 40, 40)
BOX = (10, 10, 10)
PERSONS = 24
SITES = ["a", "b"] * (PERSONS // 2)
PEOPLE = [f"person-{n}" for n in range(PERSONS)]


def scan(seed: int, size: float = 1.0, gain: float = 1.0, stripes: float = 0.0):  # type: ignore[no-untyped-def]
    """A head of random size and smooth texture, its in-mask histogram uniform: image and mask."""
    rng = np.random.default_rng(seed)
    axes = size * rng.uniform(13.5, 14.5, 3)
    offsets = np.meshgrid(*[np.arange(n) - n / 2 for n in SHAPE], indexing="ij")
    mask = sum((x / a) ** 2 for x, a in zip(offsets, axes, strict=True)) < 1
    grain = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2)
    grain = grain / grain.std() + stripes * (-1) ** np.arange(SHAPE[2])
    image = np.zeros(SHAPE, dtype=np.float32)
    ranks = grain[mask].argsort().argsort()
    image[mask] = gain * np.clip(2 * ranks / len(ranks) - 1 + rng.normal(0, 0.02), -1, 1)
    return image, mask


def cohort(**at_b: float) -> dict[str, np.ndarray]:
    """Features of all probes; the scans of site b differ by what is given."""
    scans = [scan(n, **(at_b if site == "b" else {})) for n, site in enumerate(SITES)]
    return {
        "histogram": np.stack([histogram(*each) for each in scans]),
        "shape": np.stack([shape_features(mask) for _, mask in scans]),
        "thumbnail": np.stack([thumbnail(*each, box=BOX) for each in scans]),
    }


def accuracy(probe: auditing.Probe, features: np.ndarray, **options: int) -> auditing.AuditRow:
    options = {"permutations": 0, **options}
    return audit(probe, features, {"raw": features}, SITES, PEOPLE, **options).rows[1]


def nearest_mean(  # a probe that costs nothing
    features: np.ndarray, classes: np.ndarray, others: list[np.ndarray], seed: int
) -> tuple[list[np.ndarray], bool]:
    means = np.stack([features[classes == n].mean(0) for n in range(classes.max() + 1)])
    far = [np.linalg.norm(each[:, None] - means, axis=-1) for each in others]
    return [np.exp(-each) / np.exp(-each).sum(1, keepdims=True) for each in far], True


@pytest.fixture(scope="module")
def alike() -> dict[str, np.ndarray]:
    return cohort()


class TestPlantedSites:
    def test_gain(self) -> None:
        found = cohort(gain=0.8)
        assert accuracy(logistic, found["histogram"]).balanced_accuracy > 0.95
        assert accuracy(logistic, found["shape"]).balanced_accuracy < 0.75

    def test_size(self) -> None:
        found = cohort(size=1.15)
        assert accuracy(logistic, found["shape"]).balanced_accuracy > 0.95
        assert accuracy(logistic, found["histogram"]).balanced_accuracy < 0.75

    def test_stripes_finer_than_a_block(self) -> None:
        found = cohort(stripes=0.5)
        row = accuracy(convnet(epochs=60), found["thumbnail"])
        assert row.balanced_accuracy > 0.95
        assert row.converged == 1
        for name in ("histogram", "shape"):
            assert accuracy(logistic, found[name]).balanced_accuracy < 0.75

    @pytest.mark.parametrize("name", ["histogram", "shape"])
    def test_nothing(self, alike: dict[str, np.ndarray], name: str) -> None:
        row = accuracy(logistic, alike[name], permutations=20)
        assert row.balanced_accuracy <= row.chance_95
        assert row.chance == pytest.approx(0.5, abs=0.1)

    def test_nothing_for_the_network(self, alike: dict[str, np.ndarray]) -> None:
        row = accuracy(convnet(epochs=10), alike["thumbnail"], permutations=3)
        assert row.balanced_accuracy <= max(row.chance_95, 0.7)

    def test_chance_is_calibrated(self) -> None:
        """Of 20 audits of pure noise, about 1 lies above the 95th percentile of shuffled runs."""
        rng = np.random.default_rng(0)
        rows = [
            accuracy(nearest_mean, rng.standard_normal((PERSONS, 3)), permutations=9)
            for _ in range(20)
        ]
        assert sum(row.balanced_accuracy > row.chance_95 for row in rows) <= 5
        assert np.mean([row.balanced_accuracy >= row.chance for row in rows]) > 0.2
        assert np.mean([row.balanced_accuracy for row in rows]) == pytest.approx(0.5, abs=0.07)

    def test_three_sites(self) -> None:
        rng = np.random.default_rng(0)
        sites = ["a", "b", "c"] * 8
        features = rng.standard_normal((24, 3)) + 6 * np.eye(3)[np.arange(24) % 3]
        row = audit(logistic, features, {"x": features}, sites, PEOPLE, permutations=20).rows[0]
        assert row.balanced_accuracy == 1
        assert row.chance == pytest.approx(1 / 3, abs=0.1)
        assert row.chance_95 < 1


class TestFrozenAndRetrained:
    def test_moved_is_not_removed(self) -> None:
        """The site leaves one feature for another: a frozen probe is fooled, a new one is not."""
        rng = np.random.default_rng(0)
        at_b = np.array([site == "b" for site in SITES])
        raw, moved, removed = (rng.standard_normal((PERSONS, 2)) for _ in range(3))
        raw[at_b, 0] += 10
        moved[at_b, 1] += 10
        outputs = {"moved": moved, "removed": removed}
        found = audit(logistic, raw, outputs, SITES, PEOPLE, permutations=20)
        rows = {(row.method, row.training): row for row in found.rows}
        assert len(rows) == 4
        assert rows["moved", "frozen"].balanced_accuracy < 0.75
        assert rows["moved", "retrained"].balanced_accuracy == 1
        assert rows["moved", "retrained"].chance_95 < 1
        for training in ("frozen", "retrained"):
            row = rows["removed", training]
            assert row.balanced_accuracy <= row.chance_95

    def test_frozen_never_trains_on_outputs(self) -> None:
        trained: list[float] = []

        def probe(x, classes, others, seed):  # type: ignore[no-untyped-def]
            trained.append(float(x.max()))
            return [np.full((len(each), 2), 0.5) for each in others], True

        outputs = {"out": np.ones((PERSONS, 1))}
        audit(probe, np.zeros((PERSONS, 1)), outputs, SITES, PEOPLE, permutations=1)
        assert trained == [0] * 5 + [1] * 5 + [0] * 5


class TestPersons:
    def test_never_cross_folds(self) -> None:
        persons = [f"person-{n // 2}" for n in range(24)]
        sites = ["a"] * 12 + ["b"] * 12
        features = np.arange(24)[:, None] // 2
        tested: list[int] = []

        def probe(x, classes, others, seed):  # type: ignore[no-untyped-def]
            assert not set(x.ravel()) & set(others[0].ravel())
            tested.extend(others[0].ravel())
            return [np.full((len(each), 2), 0.5) for each in others], True

        audit(probe, features, {"x": features}, sites, persons, permutations=3)
        assert sorted(tested) == sorted(list(features.ravel()) * 5)

    def test_shuffle_keeps_persons_whole(self) -> None:
        """Persons 0 to 9 have two scans at one site, 10 and 11 one at each."""
        persons = np.repeat(np.arange(12), 2)
        classes = np.array([0] * 10 + [1] * 10 + [0, 1] * 2)
        rng = np.random.default_rng(0)
        changed = False
        for _ in range(20):
            found = auditing.shuffle(classes, persons, rng).reshape(12, 2)
            assert (found[:10, 0] == found[:10, 1]).all()
            assert found[:10, 0].sum() == 5
            assert (found[10:].sum(axis=1) == 1).all()
            changed |= (found[10] == [1, 0]).all()
        assert changed

    def test_small_sites_are_left_out(self) -> None:
        """Site c has 8 scans of 4 persons."""
        rng = np.random.default_rng(0)
        sites = [*SITES, *["c"] * 8]
        persons = [*PEOPLE, *[f"other-{n // 2}" for n in range(8)]]
        features = rng.standard_normal((32, 2))
        found = audit(logistic, features, {"x": features}, sites, persons, permutations=0)
        assert found.sites == ["a", "b"]
        assert found.persons == PERSONS
        assert np.isnan(found.rows[0].chance_95)

    def test_one_site(self) -> None:
        found = audit(logistic, np.zeros((24, 1)), {"x": np.zeros((24, 1))}, ["a"] * 24, PEOPLE)
        assert found.rows == []

    def test_reproducible(self, alike: dict[str, np.ndarray]) -> None:
        a, b = (accuracy(logistic, alike["shape"], permutations=5) for _ in range(2))
        assert a == b
        a, b = (accuracy(convnet(epochs=3), alike["thumbnail"]) for _ in range(2))
        assert a.balanced_accuracy == b.balanced_accuracy

    def test_side_by_side(self, alike: dict[str, np.ndarray]) -> None:
        """Two processes find what one finds."""
        a, b = (accuracy(logistic, alike["shape"], permutations=5, jobs=n) for n in (1, 2))
        assert a == b

    def test_lengths_differ(self) -> None:
        with pytest.raises(InputError, match="not of the same scans"):
            audit(logistic, np.zeros((3, 1)), {"x": np.zeros((4, 1))}, ["a"] * 3, ["p"] * 3)


class TestFeatures:
    def test_histogram(self) -> None:
        image = np.array([-1.0, -1.0, 1.0, 3.0, 0.0])
        found = histogram(image, np.array([True, True, True, True, False]))
        assert found.shape == (64,)
        assert found[0] == found[-1] == 0.5

    def test_shape(self) -> None:
        mask = np.zeros((20, 20, 20), dtype=bool)
        mask[:10, :4, :5] = True
        found = shape_features(mask, spacing_mm=2)
        assert found[:4] == pytest.approx([1.6, 20, 8, 10])
        assert found[4] == pytest.approx(4 * (10**2 - 1) / 12, rel=0.01)
        assert len(found) == 10

    def test_thumbnail(self) -> None:
        mask = np.zeros((20, 20, 20), dtype=bool)
        mask[4:12, 4:12, 4:12] = True
        image = np.where(mask, 0.5, 9.0)
        image[4:8] += np.where(mask[4:8], (-1.0) ** np.arange(20) * 0.2, 0)
        found = thumbnail(image, mask, box=(2, 2, 2))
        assert found.shape == (2, 2, 2, 2)
        np.testing.assert_allclose(found[0], 0.5, atol=1e-6)
        np.testing.assert_allclose(found[1, 0], 0.2, atol=1e-6)
        np.testing.assert_allclose(found[1, 1], 0, atol=1e-3)

    def test_thumbnail_crops_and_pads(self) -> None:
        mask = np.ones((30, 8, 16), dtype=bool)
        found = thumbnail(np.ones(mask.shape), mask, box=(4, 4, 4))
        assert found.shape == (2, 4, 4, 4)
        np.testing.assert_array_equal(found[0, :, 1:3], 1)
        np.testing.assert_array_equal(found[0, :, [0, 3]], 0)

    def test_empty_mask(self) -> None:
        with pytest.raises(InputError, match="empty"):
            thumbnail(np.zeros(SHAPE), np.zeros(SHAPE, dtype=bool))
