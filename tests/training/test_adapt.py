"""Another scanner as the target, from its scans alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fixtures_pipeline import (
    RAS,
    AnalyticNetwork,
    head,
    head_image,
    save_tiny_model,
    save_tiny_model_of_two_stages,
    tiny_harmonizer,
)
from isochroma.errors import InputError
from isochroma.images.grid import pad_to_multiple
from isochroma.models.folder import load_model
from isochroma.pipeline import Harmonizer
from isochroma.training.adapt import adapt, save_adapted

DATA, MASK = head()
UPSIDE_DOWN = np.where(MASK, 1200 - DATA, 0).astype(np.float32)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target's scan: white matter dark, CSF bright."""
    path = tmp_path_factory.mktemp("target") / "sub-01_T2w.nii.gz"
    nib.save(nib.Nifti1Image(UPSIDE_DOWN, RAS), path)
    return path


@pytest.fixture(scope="module")
def knowing() -> Harmonizer:
    """A model that renders the drawn head as a T1w scan, whatever it is shown."""
    image = tiny_harmonizer().run(head_image()).source.image
    known = torch.from_numpy(pad_to_multiple(image, 4))[None, None]
    return tiny_harmonizer(network=AnalyticNetwork(lambda condition: known))


class TestAdapt:
    def test_a_scan_of_another_contrast_becomes_the_targets(
        self, knowing: Harmonizer, reference: Path
    ) -> None:
        adapted = adapt(knowing, [reference])
        result = adapted.run(head_image())
        values = np.asarray(result.image.dataobj)
        apart = np.abs(values - UPSIDE_DOWN)[MASK]
        assert apart.mean() < 0.03 * np.ptp(UPSIDE_DOWN[MASK])
        assert np.abs(np.asarray(knowing.run(head_image()).image.dataobj) - UPSIDE_DOWN)[
            MASK
        ].mean() > 0.3 * np.ptp(UPSIDE_DOWN[MASK])
        assert adapted.config.target.suffix == "T2w"
        assert adapted.config.target.scans == 1
        assert adapted.config.training["held_out_ssim"] == []

    def test_white_matter_mode_is_the_targets(self, knowing: Harmonizer, reference: Path) -> None:
        result = adapt(knowing, [reference]).run(head_image())
        modes = result.record.white_matter_mode
        assert modes["Output"] == pytest.approx(modes["Target"], rel=0.1)

    def test_held_out_scans(self, knowing: Harmonizer, reference: Path) -> None:
        quality = adapt(knowing, [reference, reference]).config.training["held_out_ssim"]
        assert len(quality) == 2
        assert min(quality) > 0.9

    def test_the_first_harmonizer_stays(self, knowing: Harmonizer, reference: Path) -> None:
        before = np.asarray(knowing.run(head_image()).image.dataobj)
        adapt(knowing, [reference])
        np.testing.assert_array_equal(np.asarray(knowing.run(head_image()).image.dataobj), before)

    def test_not_twice(self, knowing: Harmonizer, reference: Path) -> None:
        with pytest.raises(InputError, match="adapted already"):
            adapt(adapt(knowing, [reference]), [reference])


class TestFolder:
    @pytest.mark.parametrize("save", [save_tiny_model, save_tiny_model_of_two_stages])
    def test_a_saved_model_does_the_same(
        self, save: Callable[[Path], Path], reference: Path, tmp_path: Path
    ) -> None:
        tiny = Harmonizer(load_model(save(tmp_path / "tiny")))
        adapted = adapt(tiny, [reference])
        (tmp_path / "own").mkdir()
        save_adapted(adapted, tmp_path / "own")
        again = Harmonizer.from_pretrained(tmp_path / "own")
        found, expected = (each.run(head_image()).image.dataobj for each in (again, adapted))
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-3)
        assert again.revises == tiny.revises
