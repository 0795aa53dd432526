from __future__ import annotations

import numpy as np
import pytest

from fixtures_methods import prepared_head, recontrasted
from fixtures_pipeline import head
from isochroma.errors import InputError
from isochroma.evaluation.methods import WhiteStripe, ZScore
from isochroma.images.preprocess import Prepared


@pytest.mark.parametrize("kind", [ZScore, WhiteStripe])
def test_gain_and_offset_are_undone(kind: type[ZScore | WhiteStripe]) -> None:
    scan = prepared_head(0)
    method = kind()
    method.fit([scan])
    changed = recontrasted(scan, lambda image: 0.4 * image - 0.3)
    np.testing.assert_allclose(method.apply(changed), scan.image, atol=2e-3)


class TestZScore:
    def test_output_has_the_mean_moments(self, target: list[Prepared], source: Prepared) -> None:
        method = ZScore()
        method.fit(target)
        output = method.apply(source)[source.mask]
        values = [scan.image[scan.mask] for scan in target]
        assert output.mean() == pytest.approx(np.mean([v.mean() for v in values]), abs=1e-4)
        assert output.std() == pytest.approx(np.mean([v.std() for v in values]), abs=1e-4)

    def test_constant_scan_is_refused(self, target: list[Prepared], source: Prepared) -> None:
        method = ZScore()
        method.fit(target)
        flat = recontrasted(source, lambda image: 0 * image + 0.5)
        with pytest.raises(InputError, match="z-score cannot be fitted"):
            method.apply(flat)


class TestWhiteStripe:
    def test_finds_white_matter(self, target: list[Prepared]) -> None:
        method = WhiteStripe()
        method.fit(target)
        white = np.concatenate([scan.image[head(seed=0)[0] > 850] for scan in target])
        assert method.mean == pytest.approx(np.median(white), abs=0.1)
