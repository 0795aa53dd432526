from __future__ import annotations

import shlex
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fixtures_methods import prepared_head
from isochroma.errors import InputError
from isochroma.evaluation.methods import Command
from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared


@pytest.fixture(scope="module")
def scan() -> Prepared:
    return prepared_head(3)


class TestApply:
    def test_copy_gives_the_scan_back(self, scan: Prepared) -> None:
        output = Command("copy", "cp {input} {output}").apply(scan)
        assert np.corrcoef(output[scan.mask], scan.image[scan.mask])[0, 1] > 0.999
        assert (output[~scan.mask] == 0).all()
        assert output.dtype == np.float32

    def test_what_the_command_sees(self, scan: Prepared, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="copy wrote no file"):
            Command("copy", f"sh -c 'cp {{input}} {tmp_path}/seen.nii.gz' {{output}}").apply(scan)
        seen = nib.load(tmp_path / "seen.nii.gz")
        assert Grid.of(seen).same_as(scan.grid)
        values = seen.get_fdata()
        np.testing.assert_array_equal(values > 0, scan.mask)
        assert values[scan.mask].min() == 1
        assert values.max() == pytest.approx(1000)

    def test_unit_of_the_output_does_not_matter(self, scan: Prepared) -> None:
        script = (
            "import sys, nibabel as nib; image = nib.load(sys.argv[1]); "
            "nib.save(nib.Nifti1Image(image.get_fdata() * 7 - 90, image.affine), sys.argv[2])"
        )
        template = f"{sys.executable} -c {shlex.quote(script)} {{input}} {{output}}"
        output = Command("gain", template).apply(scan)
        expected = Command("copy", "cp {input} {output}").apply(scan)
        np.testing.assert_allclose(output, expected, atol=1e-4)

    def test_wrong_grid(self, scan: Prepared, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(scan.image[1:], scan.grid.affine), tmp_path / "cut.nii.gz")
        with pytest.raises(InputError, match="another grid"):
            Command("mine", f"sh -c 'cp {tmp_path}/cut.nii.gz {{output}}' {{input}}").apply(scan)

    @pytest.mark.parametrize(
        ("template", "says"),
        [
            ("sh -c 'echo first >&2; echo last >&2; exit 3' {input} {output}", "code 3: last"),
            ("false {input} {output}", "code 1: no message"),
            ("no-such-program {input} {output}", "no-such-program cannot be run"),
        ],
    )
    def test_failure(self, scan: Prepared, template: str, says: str) -> None:
        with pytest.raises(InputError, match=says):
            Command("mine", template).apply(scan)


@pytest.mark.parametrize(
    ("template", "says"),
    [("cp {input} out", "no {output}"), ("cp in {output}", "no {input}")],
)
def test_incomplete_template(template: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Command("mine", template)
