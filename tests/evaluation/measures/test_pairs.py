from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fixtures_pipeline import RAS, SHAPE, head
from isochroma.evaluation.measures.pairs import bring_together, ncc, rigid_motion, same_person, ssim
from isochroma.evaluation.study import Case, Scan
from isochroma.images.grid import Grid, resample
from isochroma.images.preprocess import Prepared


def scan(name: str, **known: str) -> Scan:
    return Scan(
        Path(f"{name}.nii"), known.pop("site", "S"), name, known.pop("person", name), **known
    )  # type: ignore[arg-type]


def prepared(affine: np.ndarray = RAS) -> Prepared:
    """The drawn head on a grid of its shape."""
    data, mask = head(SHAPE, affine)
    image = np.where(mask, data / 500 - 1, 0).astype(np.float32)
    return Prepared(image, mask, Grid(SHAPE, affine), 0.0, 1000.0)


class TestSamePerson:
    def test_pairs_of_contrasts_and_of_repetitions(self) -> None:
        scans = [
            scan("k1", person="k", grid="kirby", contrast="T1w"),
            scan("k2", person="k", grid="kirby", contrast="T2w"),
            scan("o1", person="o"),
            scan("o2", person="o"),
            scan("p1", person="p"),
            scan("q1", person="o", site="other"),
            scan("o3", person="o", preset="flair-3T"),
        ]
        found = [(group, a.scan, b.scan) for group, a, b in same_person(scans)]
        assert found == [("kirby", "k1", "k2"), ("rescan", "o1", "o2")]


class TestBringTogether:
    def test_identical_scans_agree(self) -> None:
        case = Case(scan("a"), prepared())
        pair = bring_together(case.prepared.image, case.prepared.image, case, case)
        assert ssim(pair) == pytest.approx(1, abs=1e-4)
        assert ncc(pair) == pytest.approx(1, abs=1e-6)

    def test_inverted_scan_disagrees(self) -> None:
        case = Case(scan("a"), prepared())
        image = case.prepared.image
        assert ncc(bring_together(image, -image, case, case)) == pytest.approx(-1, abs=1e-3)

    def test_crops_of_one_grid_are_compared_where_they_lie(self) -> None:
        whole = prepared()
        box = (slice(3, 44), slice(2, 50), slice(1, 40))
        cropped = dataclasses.replace(
            whole, image=whole.image[box], mask=whole.mask[box], grid=whole.grid.crop(box)
        )
        cases = Case(scan("a"), whole), Case(scan("b"), cropped)
        assert ncc(bring_together(whole.image, cropped.image, *cases)) > 0.9999


class TestRigidMotion:
    def test_finds_a_known_motion(self) -> None:
        fixed = prepared()
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xyz", [4, -3, 6], degrees=True).as_matrix()
        turn[:3, 3] = [3.0, -2.0, 1.5]
        # The moving scan shows at x what the fixed one shows at turn(x): turn brings it there.
        data = resample(fixed.image, fixed.grid, Grid(SHAPE, turn @ RAS))
        mask = resample(fixed.mask.astype(np.float32), fixed.grid, Grid(SHAPE, turn @ RAS), 1) > 0.5
        moving = Prepared(np.where(mask, data, 0), mask, fixed.grid, 0.0, 1000.0)
        found = rigid_motion(fixed, moving)
        corners = np.array([[30, 30, 30, 1], [-30, 30, -30, 1], [0, -40, 20, 1]]).T
        assert np.abs((found - turn) @ corners)[:3].max() < 1.0  # half a voxel
        cases = Case(scan("a"), fixed), Case(scan("b"), moving)
        before = ncc(bring_together(fixed.image, moving.image, *cases))
        after = ncc(bring_together(fixed.image, moving.image, *cases, found))
        assert after > 0.95 > before
        np.testing.assert_allclose(rigid_motion(fixed, moving), found, atol=1e-4)
