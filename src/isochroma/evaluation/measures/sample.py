"""What the measures take: one output with all that is known of its scan, a pair, a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import ndimage

from isochroma.evaluation.methods import Method
from isochroma.evaluation.study import Case, Scan
from isochroma.evaluation.tools import Tools
from isochroma.evaluation.workspace import EDGES, Workspace
from isochroma.images.grid import resample
from isochroma.images.masked import extend_outside
from isochroma.method.edges import CONNECT_26, detect_edges

T = TypeVar("T")
LEAST_LESION_MM3 = 10.0  # smaller components of a lesion mask are left out


@dataclass(frozen=True)
class Lesions:
    """Lesions of one scan, and what shows them as they are.

    Attributes
    ----------
    labels : (I, J, K) ndarray of int32
        Lesions numbered from 1.
    reference : (I, J, K) ndarray of float32
        The truth with the same lesions, or the patient's T1w scan.
    healthy : tuple of two (I, J, K) ndarray of float32, or None
        For planted lesions: the method's output and the truth of the same head without them.
    """

    labels: np.ndarray
    reference: np.ndarray
    healthy: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Sample:
    """One output, what is known of its scan, and the tools that are fitted to the target.

    Attributes
    ----------
    case : Case
        The scan.
    output : (I, J, K) ndarray of float32
        What a method made of it, model units, 0 outside the mask.
    tools : Tools
        Fitted to the target's training scans.
    edges : (I, J, K) ndarray of bool
        Edges of the scan itself.
    tissues : (I, J, K) ndarray of uint8 or None
        Tissue labels, from anything but the output.
    lesions : Lesions or None
        The scan's lesions.
    shown : sequence of (I, J, K) ndarray
        What shows the head: the scan, co-registered scans, and the truth.
    classical : bool
        Whether the classical segmenter, which is slow, is to run on the output.
    """

    case: Case
    output: np.ndarray
    tools: Tools
    edges: np.ndarray
    tissues: np.ndarray | None = None
    lesions: Lesions | None = None
    shown: Sequence[np.ndarray] = ()
    classical: bool = False

    @property
    def mask(self) -> np.ndarray:
        """The brain mask: (I, J, K) bool."""
        return self.case.prepared.mask

    @property
    def source(self) -> np.ndarray:
        """The preprocessed scan: (I, J, K) float32, model units."""
        return self.case.prepared.image

    @property
    def truth(self) -> np.ndarray:
        """The truth: (I, J, K) float32, model units."""
        return needed(self.case.truth)

    @property
    def labels(self) -> np.ndarray:
        """The study's tissue labels: (I, J, K) uint8."""
        return needed(self.case.tissues)

    @cached_property
    def output_edges(self) -> np.ndarray:
        """Edges of the output: (I, J, K) bool."""
        return detect_edges(replace(self.case.prepared, image=self.output), EDGES)

    @cached_property
    def segmented(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probabilities that the tissue network finds in the output."""
        return self.tools.segmenter.segment(self.output, self.mask)

    def has(self, needs: Sequence[str]) -> bool:
        """Return whether all that a measure needs is known."""
        return all(NEEDS[need].met(self) for need in needs)


def needed(value: T | None) -> T:
    """Return a value that a measure has declared to need.

    Raises
    ------
    ValueError
        If it is None: the measure lacks an entry in `needs`.
    """
    if value is None:
        msg = "a measure uses what it does not declare to need."
        raise ValueError(msg)
    return value


class Need(NamedTuple):
    """Something that a measure needs: in words, and how to tell whether a sample has it."""

    text: str
    met: Callable[[Sample], bool]


NEEDS = {
    "truth": Need(
        "the same head as the target scanner shows it", lambda sample: sample.case.truth is not None
    ),
    "tissues": Need(
        "tissue labels: given, or of the truth or a T1w scan on the same grid",
        lambda sample: sample.tissues is not None,
    ),
    "labels": Need("tissue labels in the study", lambda sample: sample.case.tissues is not None),
    "lesions": Need(
        "a lesion mask, and the truth or a T1w scan on the same grid",
        lambda sample: sample.lesions is not None,
    ),
    "core": Need("a core scan, and no reduced budget", lambda sample: sample.classical),
}


class Pair(NamedTuple):
    """Two outputs of one person on one grid.

    Attributes
    ----------
    first, second : (I, J, K) ndarray
        The outputs on the scale [0, 1].
    mask : (I, J, K) ndarray of bool
        Where both brains are.
    """

    first: np.ndarray
    second: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Group:
    """The outputs of one group of scans.

    Attributes
    ----------
    scans : list of Scan
        Its scans.
    features : callable
        Returns the (N, D) patch features of a scan's output.
    target_features : list of (N, D) ndarray
        Patch features of the target's training scans.
    resamples : int
        Bootstrap samples.
    """

    scans: list[Scan]
    features: Callable[[Scan], np.ndarray]
    target_features: list[np.ndarray]
    resamples: int


class GroupValue(NamedTuple):
    """A group's value, its 95 % interval (NaN if there is none), and the scans behind it."""

    value: float
    low: float
    high: float
    scans: int


def make_sample(
    work: Workspace, method: Method, scan: Scan, tools: Tools, classical: bool
) -> Sample:
    """Collect all that the measures of one output need."""
    case = work.case(scan)
    return Sample(
        case,
        work.volume(method, case),
        tools,
        work.edges(case),
        work.tissues(case),
        find_lesions(work, method, case),
        work.shown(case),
        classical,
    )


def sample_key(work: Workspace, scan: Scan) -> list[object]:
    """Return what determines a sample beside its output: the scans that it is compared with."""
    twin = work.twin(scan)
    others = [*work.together(scan), *([twin] if twin else [])]
    return [scan.contrast, [work.case_key(other) for other in others]]


def find_lesions(work: Workspace, method: Method, case: Case) -> Lesions | None:
    """Find a scan's lesions and what shows them; None if there are none, or nothing shows them."""
    if case.lesions is None or not case.lesions.any():
        return None
    labels = label_lesions(case.lesions)
    if case.truth is not None:
        return Lesions(labels, case.truth, without_lesions(work, method, case))
    partner = case.scan if case.scan.contrast == "T1w" else work.partner(case.scan)
    if partner is None:
        return None
    other = work.case(partner).prepared
    shown = resample(extend_outside(other.image, other.mask), other.grid, case.prepared.grid)
    return Lesions(labels, shown)


def without_lesions(
    work: Workspace, method: Method, case: Case
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return output and truth of the simulation that differs in the planted lesions alone."""
    twin = work.twin(case.scan)
    if twin is None:
        return None
    healthy = work.case(twin)
    if healthy.truth is None or not healthy.prepared.grid.same_as(case.prepared.grid):
        return None
    return work.volume(method, healthy), healthy.truth


def label_lesions(mask: np.ndarray, least_mm3: float = LEAST_LESION_MM3) -> np.ndarray:
    """Give each 26-connected lesion of a mask a number.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        Lesion mask on voxels of 1 mm.
    least_mm3 : float
        Smaller components are left out.

    Returns
    -------
    labels : (I, J, K) ndarray of int32
        Lesions numbered from 1 without gaps.
    """
    labels, _ = ndimage.label(mask, structure=CONNECT_26)
    large = np.bincount(labels.ravel()) >= least_mm3
    large[0] = False
    numbers = np.where(large, np.cumsum(large), 0)
    return numbers[labels].astype(np.int32)
