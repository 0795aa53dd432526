from __future__ import annotations

import pytest

from fixtures_methods import gamma, prepared_head, recontrasted
from isochroma.images.preprocess import Prepared


@pytest.fixture(scope="session")
def target() -> list[Prepared]:
    """Two scans of the target domain."""
    return [prepared_head(seed) for seed in (0, 1)]


@pytest.fixture(scope="session")
def source() -> Prepared:
    """A third head in another contrast."""
    return recontrasted(prepared_head(3), gamma)
