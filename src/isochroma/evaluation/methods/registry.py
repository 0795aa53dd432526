"""What is compared: ours, what a user would otherwise pick, and controls, behind one interface.

Every method sees the target scanner's training scans once (`fit`) and then one preprocessed
source scan at a time, whose contrast it is not told. Outputs are not clipped.
"""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from intensity_normalization.adapters.images import create_image
from intensity_normalization.domain.exceptions import NormalizationError
from intensity_normalization.domain.protocols import BaseNormalizer
from intensity_normalization.normalizers.individual.whitestripe import WhiteStripeNormalizer
from intensity_normalization.normalizers.individual.zscore import ZScoreNormalizer
from intensity_normalization.normalizers.population.nyul import NyulNormalizer

from isochroma.errors import InputError
from isochroma.evaluation.methods import baselines
from isochroma.evaluation.methods.blindharmony import BlindHarmony
from isochroma.images.grid import Grid
from isochroma.images.io import load
from isochroma.images.preprocess import (
    Prepared,
    PreprocessSettings,
    from_model_units,
    intensity_limits,
    to_model_units,
)
from isochroma.pipeline import PAPER_SAMPLING, Harmonizer, SamplingSettings

PROBABILITIES = np.linspace(0, 1, 101)
PACKAGE = f"intensity-normalization {version('intensity-normalization')}"


class Method(Protocol):
    """A way to make a scan look as the target scanner shows it."""

    @property
    def name(self) -> str:
        """For tables."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that, with the target scans and the seed, determines the outputs; plain JSON."""

    def fit(self, target: Sequence[Prepared]) -> None:
        """Learn from the target's training scans, and from nothing else."""

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """(I, J, K) float32 in the target's model units, 0 outside the mask."""


def target_quantiles(target: Sequence[Prepared]) -> np.ndarray:
    """(101,) in-mask quantiles at equal probabilities, averaged over the target scans."""
    return np.mean([np.quantile(scan.image[scan.mask], PROBABILITIES) for scan in target], axis=0)


def inside(scan: Prepared, values: np.ndarray) -> np.ndarray:
    """In-mask values (V,) as a volume (I, J, K) float32, 0 elsewhere."""
    output = np.zeros(scan.image.shape, dtype=np.float32)
    output[scan.mask] = values
    return output


class Stateless:
    """A method that learns nothing from the target scans."""

    def fit(self, target: Sequence[Prepared]) -> None:
        """Nothing to learn."""


class Raw(Stateless):
    """The preprocessed scan as it is."""

    name = "raw"

    def __init__(self) -> None:
        self.settings = {"method": "raw"}

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        return scan.image.copy()


class Blur(Stateless):
    """The preprocessed scan, blurred: no score that matters should rise.

    sigma
        Of the Gaussian, in voxels.
    """

    name = "blur"

    def __init__(self, sigma: float = 2.0) -> None:
        self.settings: dict[str, Any] = {"method": "blur", "sigma": sigma}

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        return baselines.blur(scan.image, scan.mask, self.settings["sigma"])


class TargetMean:
    """The target's mean head, stretched to the scan's brain mask: of the right scanner and of the
    wrong person.
    """

    name = "target mean"

    def __init__(self) -> None:
        self.settings = {"method": "target mean"}

    def fit(self, target: Sequence[Prepared]) -> None:
        self.head = baselines.mean_head((scan.image, scan.mask) for scan in target)

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        return baselines.place_head(self.head, scan.mask)


class HistogramMatching:
    """`baselines.match_histogram` to the target's mean quantiles."""

    name = "histogram matching"

    def __init__(self) -> None:
        self.settings = {"method": "histogram matching"}

    def fit(self, target: Sequence[Prepared]) -> None:
        self.quantiles = target_quantiles(target)

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        return baselines.match_histogram(scan.image, scan.mask, self.quantiles)


class SSIMHistogramMatching:
    """`baselines.specify_histogram_by_ssim` to the target's mean quantiles: SSIMH.

    iterations, step
        Of the ascent on SSIM.
    """

    name = "SSIMH"

    def __init__(self, iterations: int = 10, step: float = 0.02) -> None:
        self.ascent: dict[str, Any] = {"iterations": iterations, "step": step}
        self.settings = {"method": "SSIMH", **self.ascent}

    def fit(self, target: Sequence[Prepared]) -> None:
        self.quantiles = target_quantiles(target)

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        return baselines.specify_histogram_by_ssim(
            scan.image, scan.mask, self.quantiles, **self.ascent
        )


class Nyul:
    """Piecewise linear histogram standardisation (Nyul and Udupa 1999,
    doi:10.1002/(SICI)1522-2594(199912)42:6<1072::AID-MRM11>3.0.CO;2-M), by
    intensity-normalization. The ends of its standard scale are the means of the target scans' 1st
    and 99th percentiles, so its unit is the target's.
    """

    name = "Nyul"

    def __init__(self) -> None:
        self.settings = {"method": "Nyul", "package": PACKAGE}

    def fit(self, target: Sequence[Prepared]) -> None:
        values = [scan.image[scan.mask] for scan in target]
        low, high = np.mean([np.percentile(brain, [1, 99]) for brain in values], axis=0)
        self.normalizer = NyulNormalizer(output_min_value=low, output_max_value=high)
        self.normalizer.fit_population(*as_images(values))

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        (image,), (mask,) = as_images([scan.image[scan.mask]])
        return inside(scan, self.normalizer.transform(image, mask).get_data())


class LinearNormalizer:
    """A normalizer of intensity-normalization that maps mean to 0 and standard deviation to 1 of
    something, then back to the averages of these two over the target scans.
    """

    name: str
    make: Callable[[], Any]

    def __init__(self) -> None:
        self.settings = {"method": self.name, "package": PACKAGE}

    def fit(self, target: Sequence[Prepared]) -> None:
        found = [self.measure(scan)[0] for scan in target]
        self.mean = float(np.mean([normalizer.mean for normalizer in found]))
        self.std = float(np.mean([normalizer.std for normalizer in found]))

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        normalizer, image = self.measure(scan)
        return inside(scan, normalizer.transform(image).get_data() * self.std + self.mean)

    def measure(self, scan: Prepared) -> tuple[Any, Any]:
        """The normalizer fitted to one scan's brain, and that brain as its image type."""
        (image,), (mask,) = as_images([scan.image[scan.mask]])
        normalizer: BaseNormalizer = self.make()
        try:
            return normalizer.fit(image, mask), image
        except NormalizationError as error:
            msg = f"{self.name} cannot be fitted to the scan ({error}). Leave the method out."
            raise InputError(msg) from error


class ZScore(LinearNormalizer):
    """Mean and standard deviation of the brain become the target's."""

    name = "z-score"
    make = ZScoreNormalizer


class WhiteStripe(LinearNormalizer):
    """Mean and standard deviation of the white stripe, around the mode of the white matter
    (Shinohara et al. 2014, doi:10.1016/j.nicl.2014.08.008), become the target's.

    The white matter is sought as the last mode of the histogram, which is right for T1w alone. A
    blind method is not told the contrast, so on other contrasts it is expected to fail.
    """

    name = "WhiteStripe"
    make = WhiteStripeNormalizer


def as_images(values: Sequence[np.ndarray]) -> tuple[list[Any], list[Any]]:
    """Brains (V,) as images of intensity-normalization, and masks that are True everywhere.

    With no voxel of the background there, model units below 0 are not taken for it.
    """
    return (
        [create_image(np.asarray(brain, np.float32)) for brain in values],
        [create_image(np.ones(brain.shape, np.float32)) for brain in values],
    )


class Ours(Stateless):
    """isochroma itself. Blind: its model was trained on the target before, so nothing is fitted.

    model
        Name of a shipped model, or a model folder. Its preprocessing must be the study's.
    sampling
        Solver, steps and refinement; the seed is that of `apply`.
    name
        For tables.
    """

    def __init__(
        self,
        model: str | Path = "default",
        sampling: SamplingSettings | None = None,
        name: str = "isochroma",
    ) -> None:
        self.name = name
        self.harmonizer = Harmonizer.from_pretrained(model, sampling=sampling)
        sampled = dataclasses.asdict(dataclasses.replace(self.harmonizer.sampling, seed=0))
        sampled["revise"] = self.harmonizer.revises
        self.settings = {
            "method": "isochroma",
            "model": self.harmonizer.config.sha256,
            "errors": self.harmonizer.config.validation.errors,
            "edges": dataclasses.asdict(self.harmonizer.config.edges),
            "sampling": sampled,
        }

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        self.harmonizer.sampling = dataclasses.replace(self.harmonizer.sampling, seed=seed)
        return self.harmonizer.render(scan).output


class Command(Stateless):
    """A method of the user's own: a command line, run once a scan, without a shell.

    name
        For tables.
    template
        The command, with `{input}` and `{output}` for two NIfTI files. The input is the prepared
        scan on the model grid: 1 to 1000 in the mask, 0 outside. The output must lie on the same
        grid. Its unit is not known: its in-mask 0.5 and 99.5 percentiles become -1 and +1.

    Notes
    -----
    The command line stands for the program: after a change of the program itself, clear the cache.
    """

    def __init__(self, name: str, template: str) -> None:
        for needed in ("{input}", "{output}"):
            if needed not in template:
                msg = f"the command of {name!r} has no {needed}. Write it where the file goes."
                raise InputError(msg)
        self.name = name
        self.settings = {"method": "command", "template": template}

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        values = np.clip(from_model_units(scan.image, 0, 1000), 1, None)
        values = np.where(scan.mask, values, 0).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / "input.nii.gz", Path(folder) / "output.nii.gz"
            nib.save(nib.Nifti1Image(values, scan.grid.affine), given)
            self.run({"{input}": str(given), "{output}": str(made)})
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

    def run(self, files: dict[str, str]) -> None:
        """Run the command with the file names filled in."""
        words = shlex.split(self.settings["template"])
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


EDGES_ALONE = SamplingSettings(refine="none", revise=False)
METHODS: dict[str, Callable[[str], Method]] = {
    "raw": lambda model: Raw(),
    "histogram-matching": lambda model: HistogramMatching(),
    "nyul": lambda model: Nyul(),
    "whitestripe": lambda model: WhiteStripe(),
    "zscore": lambda model: ZScore(),
    "ssimh": lambda model: SSIMHistogramMatching(),
    "blindharmony": lambda model: BlindHarmony(),
    "default": Ours,
    "edges-alone": lambda model: Ours(model, EDGES_ALONE, "isochroma, edges alone"),
    "paper": lambda model: Ours(model, PAPER_SAMPLING, "isochroma, paper mode"),
    "blur": lambda model: Blur(),
    "target-mean": lambda model: TargetMean(),
}
QUICK_METHODS = ("raw", "histogram-matching", "default", "blur")


def named_methods(names: Sequence[str], model: str = "default") -> list[Method]:
    """Methods by their names on the command line, ours with the given model.

    Raises
    ------
    InputError
        If a name is unknown.
    """
    for name in names:
        if name not in METHODS:
            msg = f"method {name!r} is unknown; choose from {', '.join(METHODS)}."
            raise InputError(msg)
    return [METHODS[name](model) for name in names]
