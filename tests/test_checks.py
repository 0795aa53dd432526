from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fixtures_pipeline import config, head_image, random_network
from isochroma import checks, uncertainty
from isochroma.errors import InputError
from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared
from isochroma.models.config import TargetDomain
from isochroma.pipeline import Harmonizer, Result


@pytest.fixture(scope="module")
def harmonizer() -> Harmonizer:
    return Harmonizer(random_network(), config(training={"val_psnr": 20.0}), device="cpu")


@pytest.fixture(scope="module")
def result(harmonizer: Harmonizer) -> Result:
    return harmonizer.run(head_image(), uncertainty=3)


class TestUncertainty:
    def test_zero_outside_and_not_inside(self, result: Result) -> None:
        assert result.uncertainty is not None
        spread, mask = (np.asarray(i.dataobj) for i in (result.uncertainty, result.mask))
        assert spread.shape == mask.shape
        assert (spread >= 0).all()
        assert not spread[mask == 0].any()
        assert 0.1 < spread[mask > 0].mean() < 200  # the target's range is 400

    def test_seeded(self, harmonizer: Harmonizer, result: Result) -> None:
        a, b = (uncertainty.uncertainty(harmonizer, result.prepared, 2) for _ in range(2))
        np.testing.assert_array_equal(a, b)

    def test_more_noise_less_certain(self, harmonizer: Harmonizer, result: Result) -> None:
        prepared = result.prepared
        noise = 0.2 * np.random.default_rng(0).standard_normal(prepared.mask.shape)
        noisy = np.where(prepared.mask, np.clip(prepared.image + noise, -1, 1), 0)
        plain, worse = (
            uncertainty.uncertainty(
                harmonizer, dataclasses.replace(prepared, image=image.astype(np.float32)), 3
            )[prepared.mask].mean()
            for image in (prepared.image, noisy)
        )
        assert worse > 1.5 * plain

    def test_standard_deviation_of_two_runs(
        self, harmonizer: Harmonizer, result: Result, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Outputs 0 and 1: their standard deviation is 1 / sqrt 2."""
        outputs = iter([np.zeros(result.prepared.mask.shape), np.ones(result.prepared.mask.shape)])
        monkeypatch.setattr(harmonizer, "translate", lambda prepared, edges: next(outputs))
        spread = uncertainty.uncertainty(harmonizer, result.prepared, 2)
        np.testing.assert_allclose(spread, 0.5**0.5, rtol=1e-6)

    @pytest.mark.parametrize("runs", [1, -2])
    def test_too_few_runs(self, harmonizer: Harmonizer, runs: int) -> None:
        with pytest.raises(InputError, match=f"2 runs or more, not {runs}"):
            harmonizer.run(head_image(), uncertainty=runs)

    def test_a_share_that_is_unsure_is_told(self, result: Result) -> None:
        share = result.record["Uncertainty"]["UnsureShare"]
        assert 0 <= share <= 1
        assert any("less certain" in each for each in result.record["Doubts"]) == (share > 0.05)


class TestDoubts:
    HEAD = TargetDomain(smallest_mm=(68.0, 84.0, 68.0), largest_mm=(74.0, 90.0, 74.0))

    def test_none_for_a_head_like_the_targets(self, result: Result) -> None:
        assert checks.doubts(result.prepared, np.full(3, 2.0), self.HEAD) == []

    def test_thick_slices(self, result: Result) -> None:
        (found,) = checks.doubts(result.prepared, np.array([2, 1.4, 1.4]), self.HEAD)
        assert found == "voxels of 2.0 x 1.4 x 1.4 mm: detail finer than 2 mm is lost."
        (found,) = checks.doubts(result.prepared, np.array([2, 2, 4.0]), self.HEAD)
        assert "2.0 x 2.0 x 4.0 mm" in found

    def test_the_lower_third_is_missing(self, result: Result) -> None:
        mask = result.prepared.mask.copy()
        mask[:, :, : mask.shape[2] // 3] = False
        (found,) = checks.doubts(
            dataclasses.replace(result.prepared, mask=mask), np.full(3, 2.0), self.HEAD
        )
        assert "mm high" in found
        assert "68 to 74" in found

    def test_unknown_sizes(self, result: Result) -> None:
        assert checks.doubts(result.prepared, np.full(3, 2.0), TargetDomain()) == []

    def test_extent_of_a_box(self) -> None:
        mask = np.zeros((20, 20, 20), bool)
        mask[2:12, 3:18, 5:10] = True
        np.testing.assert_array_equal(checks.brain_extent(mask), [10, 15, 5])

    def test_a_stray_voxel_does_not_count(self) -> None:
        mask = np.zeros((40, 40, 40), bool)
        mask[2:22, 2:22, 2:22] = True
        mask[39, 39, 39] = True
        np.testing.assert_array_equal(checks.brain_extent(mask), [20, 20, 20])


class TestStrangeness:
    """A refinement that moves a ball of ever larger size."""

    ERROR = 0.15

    def found(self, radius_mm: float, change: float = 1.0, spacing_mm: float = 1.0) -> list[str]:
        shape = (60, 60, 60)
        rng = np.random.default_rng(0)
        output = np.clip(0.4 * rng.standard_normal(shape), -1, 1)
        refined = output + self.ERROR * rng.standard_normal(shape)
        distance = np.sqrt(((np.indices(shape) - 30) ** 2).sum(0)) * spacing_mm
        refined[distance < radius_mm] -= change
        grid = Grid(shape, np.diag([spacing_mm] * 3 + [1]))
        prepared = Prepared(output, np.ones(shape, dtype=bool), grid, 0, 1)
        return checks.strangeness(output, refined, prepared, self.ERROR)

    def test_errors_like_the_models_are_usual(self) -> None:
        assert self.found(0) == []

    def test_small_lesions_are_usual(self) -> None:
        assert self.found(6) == []

    def test_slight_changes_are_usual(self) -> None:
        assert self.found(18, change=0.3) == []

    @pytest.mark.parametrize(("radius", "spacing"), [(14, 1.0), (14, 0.9), (18, 1.2)])
    def test_a_large_one_is_told_with_its_size(self, radius: float, spacing: float) -> None:
        (doubt,) = self.found(radius, spacing_mm=spacing)
        size = float(doubt.removeprefix("a region of ").split()[0])
        assert size == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.2)

    def test_stands_in_the_record(
        self, harmonizer: Harmonizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checks, "strangeness", lambda *given: ["strange."])
        assert "strange." in harmonizer.run(head_image()).record["Doubts"]
