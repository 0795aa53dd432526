from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from conftest import Phantom
from isochroma.errors import InputError
from isochroma.evaluation.measures.closeness import frechet
from isochroma.evaluation.tools import features


def phantom_scan(phantom: Phantom, seed: int) -> np.ndarray:
    """Model units; every seed is another texture on the same head."""
    grain = np.random.default_rng(seed).standard_normal(phantom.mask.shape)
    image = phantom.data / 500 - 1 + 0.3 * ndimage.gaussian_filter(grain, 1)
    return np.where(phantom.mask, np.clip(image, -1, 1), 0).astype(np.float32)


@pytest.fixture(scope="module")
def space(phantom: Phantom) -> features.FeatureSpace:
    images = [phantom_scan(phantom, seed) for seed in (1, 2, 3)]
    return features.fit_features(images, [phantom.mask] * 3, dimensions=8, per_scan=300)


class TestFeatures:
    def test_network_is_deepbets(self, phantom: Phantom) -> None:
        """With the volume's own statistics, the activations are those of the shipped network."""
        from deepbet.utils import DATA_PATH, load_model

        model = load_model(f"{DATA_PATH}/models/model.pt", no_gpu=True)
        volume = features.fill(phantom_scan(phantom, 0), phantom.mask)
        relu = getattr(model.conv, "2")
        with torch.no_grad():
            first = model.init(relu, torch.from_numpy(volume)[None, None])
            second = model.down0(relu, first.clone())
        found, _ = features.activations(volume)
        torch.testing.assert_close(found, torch.cat([first, second], 1)[0], atol=1e-3, rtol=1e-3)

    def test_one_every_four_voxels(self, phantom: Phantom, space: features.FeatureSpace) -> None:
        found = features.patch_features(phantom_scan(phantom, 0), phantom.mask, space)
        assert found.shape == (phantom.mask[::4, ::4, ::4].sum(), 8)

    def test_reproducible(self, phantom: Phantom, space: features.FeatureSpace) -> None:
        image = phantom_scan(phantom, 0)
        a, b = (features.patch_features(image, phantom.mask, space) for _ in range(2))
        np.testing.assert_array_equal(a, b)

    def test_outside_does_not_matter(self, phantom: Phantom, space: features.FeatureSpace) -> None:
        image = phantom_scan(phantom, 0)
        a, b = (
            features.patch_features(np.where(phantom.mask, image, value), phantom.mask, space)
            for value in (0, 5)
        )
        np.testing.assert_array_equal(a, b)

    def test_changes_are_seen(self, phantom: Phantom, space: features.FeatureSpace) -> None:
        """A held-out scan is closest; gain, blur and inversion are further away."""
        mask = phantom.mask

        def sample(image: np.ndarray) -> np.ndarray:
            return features.pool([features.patch_features(image, mask, space)], 400)

        target = sample(phantom_scan(phantom, 1))
        other = phantom_scan(phantom, 9)
        same = frechet(target, sample(other))
        smooth = ndimage.gaussian_filter(other, 1)
        for changed in (0.7 * (other + 1) - 1, smooth, -other):
            assert frechet(target, sample(changed)) > 3 * same

    def test_pool_takes_as_many_of_each(self) -> None:
        found = features.pool([np.full((50, 2), 1.0), np.full((20, 2), 2.0)], 20)
        assert found.shape == (40, 2)
        assert (found == 1).sum() == (found == 2).sum()

    def test_pool_of_too_few(self) -> None:
        with pytest.raises(InputError, match="20 patches"):
            features.pool([np.zeros((50, 2)), np.zeros((20, 2))], 21)
