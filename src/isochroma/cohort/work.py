"""What a worker does: harmonize one scan, and report on it."""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import SimpleITK as sitk
import torch

from isochroma.checks import ScanWarning
from isochroma.cohort.derivative import output_files, source_entries
from isochroma.cohort.pages import report_scan
from isochroma.cohort.plan import Scan
from isochroma.errors import InputError, one_line, printable
from isochroma.files import remove_leavings
from isochroma.job import Job
from isochroma.memory import PeakMemory
from isochroma.method.sampling import ComputeSettings
from isochroma.pipeline import Harmonizer, SamplingSettings


@dataclass(frozen=True)
class Recipe:
    """How the scans of a study are harmonized: the same for all of them.

    Attributes
    ----------
    folder : Path
        The derivative; absolute.
    model : str
        Name of a shipped model, or an absolute model folder.
    sampling : SamplingSettings
        How the flow is solved and its result refined.
    compute : ComputeSettings
        Where the network runs.
    n4 : bool
        Whether the bias field is corrected, if the model's preprocessing does.
    threads : int
        CPU threads of a worker.
    uncertainty : bool
        Whether maps of the expected error are written.
    outside, grid : str
        Of the outputs, see `Harmonizer`.
    """

    folder: Path
    model: str = "default"
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    n4: bool = True
    threads: int = 1
    uncertainty: bool = False
    outside: str = "zero"
    grid: str = "source"

    def harmonizer(self) -> Harmonizer:
        """Load the model."""
        return Harmonizer.from_pretrained(
            self.model, self.sampling, self.compute, self.n4, self.outside, self.grid
        )

    def job(self, harmonizer: Harmonizer, scan: Scan) -> Job:
        """Return the work on one scan.

        Parameters
        ----------
        harmonizer : Harmonizer
            From `harmonizer`.
        scan : Scan
            The input.

        Returns
        -------
        job : Job
        """
        files = output_files(self.folder, scan, harmonizer.config.target.suffix)
        return Job(
            harmonizer,
            scan.path,
            files,
            source_entries(scan),
            uncertainty=self.uncertainty,
            others=tuple(scan.root / other for other in scan.others),
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a scan.

    Attributes
    ----------
    scan : Scan
        The input.
    seconds : float
        Time that a worker spent on it.
    peak_gb : float
        Peak resident memory of the worker meanwhile (10^9 bytes).
    warnings : tuple of ScanWarning
        What is unusual about it.
    failure : str
        Why there is no output, in one line; empty if there is.
    details : str
        The traceback of a failure that is not the scan's.
    no_figures : str
        Why the pages have no figures of it, in one line.
    """

    scan: Scan
    seconds: float = 0.0
    peak_gb: float = 0.0
    warnings: tuple[ScanWarning, ...] = ()
    failure: str = ""
    details: str = ""
    no_figures: str = ""


_alone = threading.Lock()  # a worker of several threads harmonizes one scan at a time, too


@lru_cache(maxsize=1)
def _ready(recipe: Recipe) -> Harmonizer:
    """Load the model once a worker."""
    torch.set_num_threads(recipe.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(recipe.threads)
    return recipe.harmonizer()


def harmonize_scan(recipe: Recipe, scan: Scan) -> Outcome:
    """Harmonize one scan and write its outputs, whatever it raises.

    Parameters
    ----------
    recipe : Recipe
        How.
    scan : Scan
        The input.

    Returns
    -------
    outcome : Outcome
        With the failure, if there was one.
    """
    start = time.monotonic()
    failure, details, no_figures = "", "", ""
    warnings: tuple[ScanWarning, ...] = ()
    with _alone, PeakMemory() as memory:
        try:
            job = recipe.job(_ready(recipe), scan)
            remove_leavings(job.files.image.parent)
            # a worker that was lost after its last write leaves the scan done, but not reported
            if not job.is_finished(replace=True):
                warnings = tuple(job.run())
            no_figures = _report(job)
        except InputError as error:
            failure = one_line(error).removeprefix(f"{printable(scan.path)}: ")
        except Exception as error:  # whatever one scan raises, the others go on
            failure = f"{type(error).__name__}: {one_line(error)}"
            details = traceback.format_exc()
    seconds = time.monotonic() - start
    peak_gb = memory.lap() / 1000
    return Outcome(scan, seconds, peak_gb, warnings, failure, details, no_figures)


def report_again(recipe: Recipe, scan: Scan) -> Outcome:
    """Make the figures of a finished scan again.

    Parameters
    ----------
    recipe : Recipe
        As it was harmonized.
    scan : Scan
        The input.

    Returns
    -------
    outcome : Outcome
        With what failed, if anything did.
    """
    start = time.monotonic()
    failure = _report(recipe.job(_ready(recipe), scan))
    return Outcome(scan, time.monotonic() - start, failure=failure)


def _report(job: Job) -> str:
    """Make the figures of a finished scan; return why not, whatever was raised."""
    try:
        report_scan(job.files, job.path, job.harmonizer.config.target)
    except Exception as error:  # a picture is no reason to lose a scan
        return f"{type(error).__name__}: {one_line(error)}"
    return ""
