"""Several scans of one head, rendered as one image."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fixtures_pipeline import RAS, SHAPE, config, head, head_image, tiny_harmonizer
from isochroma.errors import InputError
from isochroma.models.config import Capabilities
from isochroma.pipeline import Harmonizer
from isochroma.together import harmonize_together

ABLE = config(capabilities=Capabilities(second_pass=True))


@pytest.fixture(scope="module")
def harmonizer() -> Harmonizer:
    return tiny_harmonizer(model_config=ABLE)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A scan, and the same one with noise of its own and its world moved by 4 mm."""
    folder = tmp_path_factory.mktemp("session")
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    moved = RAS.copy()
    moved[:3, 3] += (4, -3, 2)
    data, mask = head()
    nib.save(head_image(), folder / "T1w.nii.gz")
    noisy = np.where(mask, data + noise, 0).astype(np.float32)
    nib.save(nib.Nifti1Image(noisy, moved), folder / "PDw.nii.gz")
    return [folder / "T1w.nii.gz", folder / "PDw.nii.gz"]


def test_two_scans_of_one_head(harmonizer: Harmonizer, scans: list[Path]) -> None:
    result = harmonize_together(harmonizer, scans)
    alone = harmonizer.run(scans[0])
    first, second = result.record.together
    assert (first.scan, second.scan) == ("T1w.nii.gz", "PDw.nii.gz")
    assert first.share + second.share == pytest.approx(1, abs=0.002)
    assert 0.2 < second.share < 0.8
    assert second.likeness > 0.9
    inside = result.source.mask
    np.testing.assert_array_equal(result.mask.dataobj, alone.mask.dataobj)
    apart = np.abs(result.rendering.output - alone.rendering.output)[inside]
    assert 0 < apart.mean() < 0.1
    assert not result.rendering.output[~inside].any()
    assert "register" in result.record.seconds


def test_the_image_lies_between_both(harmonizer: Harmonizer, scans: list[Path]) -> None:
    """The same scan twice is the scan alone, and so is its expected error."""
    result, alone = harmonize_together(harmonizer, [scans[0], scans[0]]), harmonizer.run(scans[0])
    inside = result.source.mask
    np.testing.assert_allclose(result.rendering.output, alone.rendering.output, atol=0.02)
    assert result.doubt is not None
    assert alone.doubt is not None
    expected = np.maximum(alone.doubt.error, 0.03)[inside]
    np.testing.assert_allclose(result.doubt.error[inside], expected, rtol=0.2)


@pytest.mark.parametrize("kind", ["another head", "broken"])
def test_a_scan_that_does_not_fit_is_left_out(
    kind: str, harmonizer: Harmonizer, scans: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.nii.gz"
    if kind == "broken":
        other.write_bytes(b"no scan")
    else:
        rng = np.random.default_rng(1)
        mask = head()[1]
        data = np.where(mask, rng.uniform(100, 900, SHAPE), 0).astype(np.float32)
        nib.save(nib.Nifti1Image(data, RAS), other)
    result, alone = harmonize_together(harmonizer, [scans[0], other]), harmonizer.run(scans[0])
    (told,) = [each for each in result.warnings if each.code == "left-out"]
    assert told.text.startswith("other.nii.gz is left out: ")
    np.testing.assert_allclose(result.rendering.output, alone.rendering.output, atol=1e-6)
    assert [each.scan for each in result.record.together] == ["T1w.nii.gz"]


def test_on_the_grid_of_the_model(harmonizer: Harmonizer, scans: list[Path]) -> None:
    fine = tiny_harmonizer(model_config=ABLE, grid="model")
    result = harmonize_together(fine, scans)
    assert result.record.grid == "model"
    np.testing.assert_allclose(result.image.header.get_zooms(), 2)
    assert fine.grid == "model"


def test_a_type_that_cannot_hold_the_target_is_refused(
    harmonizer: Harmonizer, scans: list[Path]
) -> None:
    with pytest.raises(InputError, match="cannot hold the target's intensities"):
        harmonize_together(harmonizer, scans, dtype=np.int8)


def test_surroundings_of_another_contrast_are_told(scans: list[Path]) -> None:
    """The tiny network's output has no contrast in common with the head."""
    matched = tiny_harmonizer(model_config=ABLE, outside="matched")
    result = harmonize_together(matched, scans)
    assert "outside-contrast" in [each.code for each in result.warnings]


def test_it_needs_the_second_stage(scans: list[Path]) -> None:
    with pytest.raises(InputError, match="needs the second stage"):
        harmonize_together(tiny_harmonizer(), scans)
