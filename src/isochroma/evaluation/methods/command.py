"""Any program as a compared method: a command line that reads and writes NIfTI files."""

from __future__ import annotations

from typing import Any

import numpy as np

from isochroma.evaluation.methods.base import Stateless
from isochroma.evaluation.program import check_command, run_program
from isochroma.images.preprocess import (
    Prepared,
    PreprocessSettings,
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
        check_command(name, template, "command")
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
        output = run_program(self.name, self.template, scan).astype(np.float32)
        limits = intensity_limits(output[scan.mask], PreprocessSettings())
        return to_model_units(output, scan.mask, *limits)
