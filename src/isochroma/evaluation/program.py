"""Run a program of the user's own on a scan: a command line that reads and writes NIfTI files."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from isochroma.errors import InputError
from isochroma.images.grid import Grid
from isochroma.images.io import load
from isochroma.images.preprocess import Prepared, from_model_units

INPUT, OUTPUT = "{input}", "{output}"


def check_command(name: str, template: str, argument: str) -> None:
    """Check that a command line names its two files.

    Parameters
    ----------
    name : str
        How messages call the program.
    template : str
        Command line with `{input}` and `{output}` in the places of two NIfTI files.
    argument : str
        Name of the argument that the template came by.

    Raises
    ------
    InputError
        If it lacks one of the two, or a quote in it is not closed.
    """
    for needed in (INPUT, OUTPUT):
        if needed not in template:
            msg = f"the command of {name!r} has no {needed}. Write it where the file goes."
            raise InputError(msg, argument)
    try:
        shlex.split(template)
    except ValueError as error:
        msg = f"the command of {name!r} cannot be split into words ({error}). Check its quotes."
        raise InputError(msg, argument) from error


def run_program(name: str, template: str, scan: Prepared) -> np.ndarray:
    """Run a program on one scan, without a shell.

    Parameters
    ----------
    name : str
        How messages call it.
    template : str
        The command line, see `check_command`.
    scan : Prepared
        The program gets the image as 1 to 1000 in the mask, 0 outside.

    Returns
    -------
    written : (I, J, K) ndarray
        What it wrote, on the scan's grid.

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
        words = shlex.split(template)
        for placeholder, path in ((INPUT, given), (OUTPUT, made)):
            words = [word.replace(placeholder, str(path)) for word in words]
        execute(name, words)
        if not made.is_file():
            msg = f"{name} wrote no file to {OUTPUT}. Check the command."
            raise InputError(msg)
        image = load(made, constant=True)
    if not Grid.of(image).same_as(scan.grid):
        msg = f"{name} wrote {image.shape} on another grid. Keep the input's grid."
        raise InputError(msg)
    return np.asanyarray(image.dataobj)


def execute(name: str, words: list[str]) -> None:
    """Run a command; what it says last is the error if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    except OSError as error:
        msg = f"{name}: {words[0]} cannot be run ({error.strerror}). Check the command."
        raise InputError(msg) from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        msg = f"{name} failed with exit code {done.returncode}: {said}"
        raise InputError(msg)
