"""Our refinement: the source as a measurement of what the output shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from nibabel.affines import from_matvec
from scipy import ndimage

from isochroma.images.grid import Grid
from isochroma.images.resolution import Blur, blur_of
from isochroma.method.refinement import (
    LEVELS,
    MISMATCH,
    error_levels,
    follow_source,
    keep_structure,
    noise_variance,
    to_level,
    typical_voxels,
)

LARGE = (40, 44, 36)
MAPS = {
    "rising": lambda x: 0.4 * x + 0.3,
    "gamma": lambda x: 2 * ((x + 1) / 2) ** 0.6 - 1,
    "falling": lambda x: -0.7 * x,
    "turning": lambda x: 1 - 2 * np.abs(x - 0.2),
}


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A textured truth, an output that has lost its detail, and the mask."""
    rng = np.random.default_rng(0)
    coarse, fine = (ndimage.gaussian_filter(rng.standard_normal(LARGE), sigma) for sigma in (4, 1))
    truth = np.clip(0.6 * coarse / coarse.std() + 0.15 * fine / fine.std(), -1, 1)
    mask = np.zeros(LARGE, dtype=bool)
    mask[3:-3, 3:-3, 3:-3] = True
    output = np.clip(0.6 * coarse / coarse.std(), -1, 1)
    truth, output = (np.where(mask, v, 0).astype(np.float32) for v in (truth, output))
    return truth, output, mask


def rms(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b)[mask] ** 2)))


class TestFollowSource:
    """Sources of several contrasts."""

    @pytest.mark.parametrize("name", list(MAPS))
    def test_detail_of_the_source_comes_back_whatever_its_contrast(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray], name: str
    ) -> None:
        truth, output, mask = drawn
        source = np.where(mask, MAPS[name](truth), 0)
        refined, *_ = follow_source(output, source, mask)
        # Near a turning point the source cannot tell the sides apart: less comes back there.
        share = 0.7 if name == "turning" else 0.55
        assert rms(refined, truth, mask) < share * rms(output, truth, mask)

    @pytest.mark.parametrize("name", ["rising", "falling"])
    def test_a_lesion_that_the_output_lacks_appears_with_the_targets_sign(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray], name: str
    ) -> None:
        truth, output, mask = drawn
        lesion = np.zeros(LARGE, dtype=bool)
        lesion[18:22, 20:24, 16:20] = True
        changed = np.where(lesion, np.clip(truth - 0.4, -1, 1), truth)
        source = np.where(mask, MAPS[name](changed), 0)
        refined, *_ = follow_source(output, source, mask)
        healthy, *_ = follow_source(output, np.where(mask, MAPS[name](truth), 0), mask)
        kept = (healthy - refined)[lesion].mean() / (truth - changed)[lesion].mean()
        assert 0.6 < kept < 1.2

    def test_a_flat_source_tells_nothing(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        _, output, mask = drawn
        refined, *_ = follow_source(output, np.where(mask, 0.3, 0), mask)
        np.testing.assert_allclose(refined, output, atol=1e-6)

    def test_surprise_is_believed_up_to_a_bound(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        """A dip that the output does not know: the deeper it is, the larger the share that shows,
        and, within 3 standard deviations, never more than a doubled variance of the output's error
        gives.
        """
        _, output, mask = drawn
        shares = []
        for depth in (0.05, 0.14, 0.2):
            source = output.copy()
            source[20, 22, 18] -= depth
            refined, *_ = follow_source(output, source, mask, [0.1])
            shares.append((output - refined)[20, 22, 18] / depth)
        assert 0.6 < shares[0] < shares[1] - 0.02 < shares[2]
        assert shares[2] < 0.02 / (0.02 + MISMATCH) + 0.1

    @pytest.mark.parametrize("name", ["rising", "falling"])
    def test_what_no_curve_explains_is_found(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray], name: str
    ) -> None:
        """Lumps that the target does not show, larger than noise: their variance, 0.04."""
        truth, output, mask = drawn
        lumps = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(LARGE), 1)
        source = np.where(mask, 0.7 * MAPS[name](truth) + 0.2 * lumps / lumps[mask].std(), 0)
        error = rms(output, truth, mask)
        assert follow_source(output, source, mask, [error])[1] == pytest.approx(0.04, rel=0.15)

    def test_a_function_of_the_target_leaves_the_least(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        truth, output, mask = drawn
        source = np.where(mask, MAPS["rising"](truth), 0)
        found = follow_source(output, source, mask, [rms(output, truth, mask)]).variance
        assert found == pytest.approx(MISMATCH + noise_variance(source, mask))

    @pytest.mark.parametrize("name", ["gamma", "falling"])
    def test_a_tumour_that_the_output_does_not_know_appears(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray], name: str
    ) -> None:
        """Large, and as far from the output as CSF from white matter: neither does it bend the
        curve around itself, nor is its own place on the curve out of reach.
        """
        truth, output, mask = drawn
        tumour = np.zeros(LARGE, dtype=bool)
        tumour[12:26, 14:28, 10:24] = True
        output = np.where(tumour, 0.6, output).astype(np.float32)
        changed = np.where(tumour, truth.clip(-0.1, 0.1) - 0.7, truth)
        noise = 0.03 * np.random.default_rng(8).standard_normal(LARGE)
        source = np.where(mask, MAPS[name](changed) + noise, 0)
        refined, *_ = follow_source(output, source, mask)
        assert rms(refined, changed, tumour) < 0.25 * rms(output, changed, tumour)

    def test_vessels_do_not_hide_a_lesion(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        """Bright voxels that the target does not show, 2 %: R and a lesion stay what they were."""
        truth, output, mask = drawn
        changed = truth.copy()
        changed[18:22, 20:24, 16:20] -= 0.4
        rng = np.random.default_rng(4)
        noise = 0.05 * rng.standard_normal(LARGE)
        vessels = rng.random(LARGE) < 0.02
        vessels[17:23, 19:25, 15:21] = False
        error = rms(output, truth, mask)

        def shown(image: np.ndarray, bright: np.ndarray) -> tuple[float, float]:
            source = np.where(mask, np.where(bright, 1, 0.4 * image + noise), 0)
            refined, variance = follow_source(output, source, mask, [error])[:2]
            return refined[18:22, 20:24, 16:20].mean(), variance

        (healthy, plain), (lesion, _) = (shown(i, vessels & False) for i in (truth, changed))
        (other_healthy, found), (other_lesion, _) = (shown(i, vessels) for i in (truth, changed))
        assert found < 1.3 * plain
        assert other_healthy - other_lesion > 0.8 * (healthy - lesion) > 0.1

    @pytest.mark.parametrize("height", [0.5, 0.7, 0.9])
    def test_outliers_tell_nothing(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray], height: float
    ) -> None:
        """Beyond 6 standard deviations of the largest error that is thought possible: 0.46."""
        _, output, mask = drawn
        source = output.copy()
        source[20, 22, 18] += height
        refined, *_ = follow_source(output, source, mask, [0.02])
        assert refined[20, 22, 18] == pytest.approx(output[20, 22, 18], abs=0.005)

    def test_noise_alone_hardly_moves_the_output(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        _, output, mask = drawn
        noise = 0.3 * np.random.default_rng(1).standard_normal(LARGE)
        refined, *_ = follow_source(output, np.where(mask, np.clip(noise, -1, 1), 0), mask)
        assert rms(refined, output, mask) < 0.03

    def test_trust_in_the_output_limits_the_change(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        truth, output, mask = drawn
        noisy = truth + 0.1 * np.random.default_rng(2).standard_normal(LARGE)
        changes = [
            rms(follow_source(output, np.where(mask, noisy, 0), mask, [error])[0], output, mask)
            for error in (0.01, 0.05, 0.2)
        ]
        assert changes == sorted(changes)
        assert changes[0] < 0.01

    def test_the_source_counts_most_where_the_output_errs_most(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        """Large errors where the output is dark, small ones where it is bright."""
        truth, output, mask = drawn
        noisy = np.where(mask, truth + 0.1 * np.random.default_rng(2).standard_normal(LARGE), 0)
        dark = mask & (output < -0.2)
        bright = mask & (output > 0.2)
        apart, sure, unsure = (
            np.abs(follow_source(output, noisy, mask, errors)[0] - output)
            for errors in ([0.2, 0.2, 0.2, 0.03, 0.03, 0.03], [0.03], [0.2])
        )
        assert 0.9 * unsure[dark].mean() < apart[dark].mean() <= unsure[dark].mean()
        assert sure[bright].mean() < apart[bright].mean() < 0.7 * unsure[bright].mean()


class TestTypicalVoxels:
    """Which voxels the curve is estimated from."""

    def test_fluid_and_skull_both_count_where_the_output_is_dark(self) -> None:
        """A T2w source: where the output is dark, fluid is bright and skull dark."""
        rng = np.random.default_rng(3)
        tissue = rng.uniform(-0.2, 1, 30_000)
        output = np.concatenate([tissue, np.full(2_000, -0.9), np.full(500, 0.6)])
        source = np.concatenate([-0.6 * tissue, np.full(1_400, -0.9), np.full(600, 0.9)])
        source = np.append(source, np.full(500, 0.9))  # a tumour, not on the curve
        source += 0.05 * rng.standard_normal(len(source))
        typical = typical_voxels(to_level(output), source)
        assert typical[output == -0.9].all()
        assert not typical[output == 0.6].any()


class TestErrorLevels:
    def test_each_level_has_its_own(self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        _, output, mask = drawn
        rng = np.random.default_rng(6)
        size = np.where(output < 0, 0.1, 0.3)
        truth = output + size * rng.standard_normal(LARGE)
        found = error_levels(output, truth, mask)
        assert found.shape == (LEVELS,)
        np.testing.assert_allclose(found[1:5], 0.1, rtol=0.1)
        np.testing.assert_allclose(found[7:-1], 0.3, rtol=0.1)

    def test_a_level_that_does_not_occur_has_the_error_of_the_whole(self) -> None:
        mask = np.ones((10, 10, 10), dtype=bool)
        output = np.full(mask.shape, 0.5, dtype=np.float32)
        found = error_levels(output, output - 0.1, mask)
        np.testing.assert_allclose(found, 0.1, rtol=1e-5)


class TestKeepStructure:
    """What a second pass lost comes back if it is structure, and stays away if it is noise."""

    NOISE = 0.06

    def shown(
        self, image: np.ndarray, mask: np.ndarray, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        noise = self.NOISE * np.random.default_rng(5).standard_normal(LARGE)
        return np.where(mask, MAPS[name](image) + noise, 0), noise

    @pytest.mark.parametrize("name", ["rising", "falling"])
    def test_a_lost_lesion_comes_back(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray], name: str
    ) -> None:
        _, output, mask = drawn
        changed = output.copy()
        changed[18:22, 20:24, 16:20] -= 0.4
        source, _ = self.shown(changed, mask, name)
        refined = keep_structure(output, source, mask, 0.2, self.NOISE**2)
        kept = (output - refined)[18:22, 20:24, 16:20].mean() / 0.4
        assert 0.6 < kept < 1.05

    @pytest.mark.parametrize("name", ["rising", "falling"])
    def test_noise_stays_away(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray], name: str
    ) -> None:
        """About a third of what inverting the curve would bring, at most."""
        _, output, mask = drawn
        source, noise = self.shown(output, mask, name)
        slope = {"rising": 0.4, "falling": -0.7}[name]
        refined = keep_structure(output, source, mask, 0.2, self.NOISE**2)
        share = rms(refined, output, mask) / rms(noise / slope, 0 * noise, mask)
        assert share < 0.35

    def test_a_doubled_error_is_the_bound(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        """Up to the largest disagreement that is no outlier, the gain is that of P = 2 error^2."""
        _, output, mask = drawn
        source = output.copy()
        source[18:22, 20:24, 16:20] -= 0.33
        refined = keep_structure(output, source, mask, 0.05, 0.01)
        share = (output - refined)[19:21, 21:23, 17:19].mean() / 0.33
        bound = 2 * 0.05**2 / (2 * 0.05**2 + 0.01)
        assert 0.5 * bound < share < 1.3 * bound

    def test_where_the_second_stage_expects_an_error_less_comes_back(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        """The gain P / (P + R) with P halved at 0.2, and a tenth of it at 0.346."""
        _, output, mask = drawn
        source = output.copy()
        source[18:22, 20:24, 16:20] -= 0.33

        def restored(predicted: float | None) -> float:
            known = None if predicted is None else np.full(LARGE, predicted, np.float32)
            refined = keep_structure(output, source, mask, 0.05, 0.01, None, known)
            return float((output - refined)[19:21, 21:23, 17:19].mean())

        everything, half, tenth = (restored(each) for each in (None, 0.2, 0.346))
        gains = [p / (p + 0.01) for p in (0.005, 0.0025, 0.0005)]
        assert half / everything == pytest.approx(gains[1] / gains[0], rel=0.1)
        assert tenth / everything == pytest.approx(gains[2] / gains[0], rel=0.15)
        assert restored(0.02) == pytest.approx(everything, rel=0.01)

    @pytest.mark.parametrize("name", ["rising", "falling"])
    def test_vessels_that_the_output_lacks_stay_away(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray], name: str
    ) -> None:
        """A strand that no intensity near the output's explains: neither it nor a halo shows."""
        _, output, mask = drawn
        plain, _ = self.shown(output, mask, name)
        source = plain.copy()
        strand = (slice(19, 21), slice(6, 38), slice(17, 19))
        source[strand] = np.where(plain[strand] > 0, -1, 1)
        clean, refined = (
            keep_structure(output, each, mask, 0.1, self.NOISE**2) for each in (plain, source)
        )
        around = (slice(17, 23), slice(4, 40), slice(15, 21))
        assert np.abs(refined - clean)[around].max() < 0.1
        assert rms(refined[around], output[around], mask[around]) < 0.05


class TestThickSlices:
    """A source of slices of 5 voxels shows a blurred function of the image."""

    @pytest.fixture
    def shown(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Blur]:
        truth, _, mask = drawn
        scan = Grid((*LARGE[:2], LARGE[2] // 5), np.diag([1.0, 1, 5, 1]))
        model = Grid(LARGE, from_matvec(np.eye(3), [0, 0, -2]))
        blur = blur_of(scan, model)
        assert blur is not None
        source = np.where(mask, blur.apply(MAPS["falling"](truth), mask), 0)
        return truth, source, mask, blur

    def test_detail_between_slices_stays(
        self, shown: tuple[np.ndarray, np.ndarray, np.ndarray, Blur]
    ) -> None:
        truth, source, mask, blur = shown
        aware, unaware = (
            rms(keep_structure(truth, source, mask, 0.2, 0.005, each), truth, mask)
            for each in (blur, None)
        )
        assert aware < 0.3 * unaware
        refined = follow_source(truth, source, mask, [0.2], blur)
        assert rms(refined.image, truth, mask) < 0.3 * rms(
            follow_source(truth, source, mask, [0.2]).image, truth, mask
        )

    def test_detail_within_slices_comes_from_the_source(
        self, shown: tuple[np.ndarray, np.ndarray, np.ndarray, Blur]
    ) -> None:
        """A square of one slice that the output lacks."""
        truth, _, mask, blur = shown
        changed = truth.copy()
        changed[18:22, 20:24, 15:20] -= 0.4
        source = np.where(mask, blur.apply(MAPS["falling"](changed), mask), 0)
        refined = follow_source(truth, source, mask, [0.2], blur).image
        kept = (truth - refined)[19:21, 21:23, 16:19].mean() / 0.4
        assert 0.5 < kept < 1.2


@pytest.mark.parametrize(
    "refine",
    [lambda *scan: follow_source(*scan)[0], partial(keep_structure, error=0.2, variance=0.005)],
)
def test_range_outside_and_inputs(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray], refine: Callable[..., np.ndarray]
) -> None:
    truth, output, mask = drawn
    outside = output + np.where(mask, 0, 7).astype(np.float32)
    before = outside.copy()
    refined = refine(outside, -truth, mask)
    assert refined.dtype == np.float32
    assert np.abs(refined[mask]).max() <= 1
    np.testing.assert_array_equal(refined[~mask], 7)
    np.testing.assert_array_equal(outside, before)


class TestNoiseVariance:
    def test_known_noise_on_a_smooth_image(self) -> None:
        rng = np.random.default_rng(3)
        ramp = np.linspace(-1, 1, 40)[:, None, None] * np.ones((40, 40, 40))
        found = noise_variance(ramp + 0.05 * rng.standard_normal(ramp.shape), ramp < 2)
        assert found == pytest.approx(0.05**2, rel=0.05)

    def test_never_zero(self) -> None:
        assert noise_variance(np.zeros((9, 9, 9)), np.ones((9, 9, 9), bool)) > 0
        assert noise_variance(np.zeros((3, 3, 3)), np.ones((3, 3, 3), bool)) > 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_explained_share(share: float) -> None:
    """A source that is partly a function of the output, partly noise of its own."""
    rng = np.random.default_rng(0)
    mask = np.ones((40, 40, 40), bool)
    output = np.clip(0.4 * rng.standard_normal(mask.shape), -1, 1)
    noise = 0.4 * rng.standard_normal(mask.shape)
    source = np.clip(share**0.5 * output + (1 - share) ** 0.5 * noise, -1, 1)
    found = follow_source(output, source, mask).explained
    assert found == pytest.approx(share, abs=0.05)
