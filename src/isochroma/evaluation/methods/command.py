"""Any program as a compared method: a command line that reads and writes NIfTI files."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from isochroma.errors import InputError
from isochroma.evaluation.methods.base import Stateless
from isochroma.images.grid import Grid
from isochroma.images.io import load
from isochroma.images.preprocess import (
    Prepared,
    PreprocessSettings,
    from_model_units,
    intensity_limits,
    to_model_units,
)


class Command(Stateless):
    """Run a program of the user's own on each scan, without a shell.

    Parameters
    ----------
    name : str
        Title in tables and figures.
    template : str
        Command line with `{input}` and `{output}` in the places of two NIfTI files. The input is
        the prepared scan on the model grid: 1 to 1000 in the mask, 0 outside. The output must lie
        on the same grid. Its unit does not matter: its in-mask 0.5 and 99.5 percentiles become -1
        and +1.

    Raises
    ------
    InputError
        If the template lacks one of the two.

    Notes
    -----
    Outputs are stored under the command line. After a change of the program itself, delete the
    evaluation's cache.

    Examples
    --------
    >>> Command("smooth", "smooth --sigma 2 {input} {output}").name
    'smooth'
    """

    version = 1

    def __init__(self, name: str, template: str) -> None:
        for needed in ("{input}", "{output}"):
            if needed not in template:
                msg = f"the command of {name!r} has no {needed}. Write it where the file goes."
                raise InputError(msg, "command")
        self.name = name
        self.template = template
        self.settings: dict[str, Any] = {
            "method": "command",
            "version": self.version,
            "template": template,
        }

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Run the program on the scan; see `Method.apply`.

        Raises
        ------
        InputError
            If the program cannot be run, fails, or writes no file or one on another grid.
        """
        values = np.clip(from_model_units(scan.image, 0, 1000), 1, None)
        values = np.where(scan.mask, values, 0).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / "input.nii.gz", Path(folder) / "output.nii.gz"
            nib.save(nib.Nifti1Image(values, scan.grid.affine), given)
            self._run({"{input}": str(given), "{output}": str(made)})
            if not made.is_file():
                msg = f"{self.name} wrote no file to {{output}}. Check the command."
                raise InputError(msg)
            image = load(made)
            if not Grid.of(image).same_as(scan.grid):
                msg = f"{self.name} wrote {image.shape} on another grid. Keep the input's grid."
                raise InputError(msg)
            output = np.asarray(image.dataobj, dtype=np.float32)
        limits = intensity_limits(output[scan.mask], PreprocessSettings())
        return to_model_units(output, scan.mask, *limits)

    def _run(self, files: dict[str, str]) -> None:
        """Fill in the file names and run the command."""
        words = shlex.split(self.template)
        for placeholder, path in files.items():
            words = [word.replace(placeholder, path) for word in words]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        except OSError as error:
            msg = f"{self.name}: {words[0]} cannot be run ({error.strerror}). Check the command."
            raise InputError(msg) from error
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            msg = f"{self.name} failed with exit code {done.returncode}: {said}"
            raise InputError(msg)
