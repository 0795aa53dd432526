from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isochroma.method.condition import condition_channels, coordinates

SHAPE = (20, 24, 18)
CENTROID = np.array([9.5, 11.5, 8.5])

strides = st.tuples(*[st.integers(1, 3)] * 3)
starts = st.tuples(st.integers(-6, 10), st.integers(-6, 10), st.integers(-6, 10))


class TestCoordinates:
    def test_known_answer(self) -> None:
        """Blocks of 2, 1 and 4 voxels from voxels 10, 0 and -4; 2 mm voxels; unit 100 mm."""
        where = coordinates(
            np.array([5, 1, 0]), np.array([10, 0, -4]), (2, 3, 2), (2, 1, 4), spacing_mm=2
        )
        assert where.shape == (3, 2, 3, 2)
        assert where.dtype == np.float32
        np.testing.assert_allclose(where[0, :, 0, 0], [0.11, 0.15], rtol=1e-6)
        np.testing.assert_allclose(where[1, 0, :, 0], [-0.02, 0, 0.02], atol=1e-7)
        np.testing.assert_allclose(where[2, 0, 0, :], [-0.05, 0.03], rtol=1e-6)
        assert (where[0] == where[0, :, :1, :1]).all()  # each axis varies along itself alone

    @given(starts, strides)
    def test_strided_blocks_are_at_their_centres(
        self, start: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        """The coordinate of a block is the mean of its voxels' coordinates."""
        size = 4
        coarse = coordinates(CENTROID, np.array(start), (size,) * 3, stride)
        fine_shape = tuple(size * s for s in stride)
        fine = coordinates(CENTROID, np.array(start), fine_shape)
        cells = [n for s in stride for n in (size, s)]
        blocks = fine.reshape(3, *cells).mean((2, 4, 6))
        np.testing.assert_allclose(coarse, blocks, atol=1e-6)


class TestChannels:
    def test_known_answer(self) -> None:
        edges, mask = np.zeros((2, 1, 2), bool), np.ones((2, 1, 2), bool)
        edges[0, 0, 0] = True
        mask[1, 0, 1] = False
        where = np.random.default_rng(0).uniform(-1, 1, (3, 2, 1, 2)).astype(np.float32)
        channels = condition_channels(edges, mask, where)
        assert channels.dtype == np.float32
        np.testing.assert_array_equal(channels[0, :, 0], [[1, -1], [-1, 0]])
        np.testing.assert_array_equal(channels[1:], where)
