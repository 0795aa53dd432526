"""One scan to harmonize: what determines its outputs, whether they are there, and making them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from isochroma.checks import ScanWarning
from isochroma.errors import about
from isochroma.images.io import load, load_mask, slice_thickness
from isochroma.outputs import OutputFiles, identity, is_finished, sidecar, write_outputs
from isochroma.pipeline import Harmonizer
from isochroma.stages import record, stage
from isochroma.together import harmonize_together


@dataclass(frozen=True)
class Job:
    """One scan to harmonize.

    Attributes
    ----------
    harmonizer : Harmonizer
        The model and its settings.
    path : Path
        The scan.
    files : OutputFiles
        Where the outputs go.
    source : dict
        Entries of the sidecar that name the scan.
    mask : Path or None
        Brain mask on the scan's grid.
    dtype : str
        Voxel type of the output; "input" for the scan's own.
    uncertainty : bool
        Whether to write a map of the expected error.
    preview : bool
        Whether to write a PNG.
    others : tuple of Path
        Scans of the same session that are harmonized together with it (`harmonize_together`).
    """

    harmonizer: Harmonizer
    path: Path
    files: OutputFiles
    source: dict[str, Any]
    mask: Path | None = None
    dtype: str = "float32"
    uncertainty: bool = False
    preview: bool = False
    others: tuple[Path, ...] = ()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines the outputs."""
        return identity(self.harmonizer, self.path, self.mask, self.dtype, self.others)

    def is_finished(self, replace: bool = False) -> bool:
        """Tell whether the same outputs are there already.

        Parameters
        ----------
        replace : bool
            Whether other outputs may be replaced; otherwise they are an error.

        Returns
        -------
        finished : bool
        """
        if not self.files.sidecar.exists() or not self.path.is_file():
            return False  # without reading the scan
        return is_finished(self.files, self.identity, self.preview, self.uncertainty, replace)

    def run(self) -> list[ScanWarning]:
        """Harmonize the scan and write its outputs.

        Returns
        -------
        warnings : list of ScanWarning
            What is unusual about the scan or the result.
        """
        with record() as seconds:
            with stage("load"):
                scan = load(self.path)
                given = load_mask(self.mask) if self.mask is not None else None
            with about(self.path):
                kind = scan.get_data_dtype() if self.dtype == "input" else self.dtype
                if self.others:
                    scans = (self.path, *self.others)
                    result = harmonize_together(self.harmonizer, scans, given, kind)
                else:
                    result = self.harmonizer.run(scan, given, kind, slice_thickness(self.path))
                uncertainty = self.harmonizer.uncertainty(result) if self.uncertainty else None
        content = sidecar(result, self.source, self.identity, seconds)
        target = self.harmonizer.config.target
        write_outputs(self.files, result, content, uncertainty, self.preview, target)
        return list(result.warnings)
