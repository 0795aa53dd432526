"""The scans of a study and the methods' outputs, each computed once and kept in the store."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isochroma.errors import InputError
from isochroma.evaluation.methods import Method, Uncorrected
from isochroma.evaluation.store import Store
from isochroma.evaluation.study import WITH_LESIONS, Case, Scan, contents, open_case
from isochroma.evaluation.tissues import classify
from isochroma.images.grid import resample
from isochroma.images.masked import extend_outside, scatter
from isochroma.images.preprocess import Prepared, PreprocessSettings
from isochroma.memory import PeakMemory
from isochroma.method.edges import EdgeSettings, detect_edges

PREPROCESS, EDGES = PreprocessSettings(), EdgeSettings()
VERSION = 2  # raise it where cases, tissue labels or edges come out differently


@dataclass(frozen=True)
class Output:
    """What a method makes of one scan, and its cost.

    Attributes
    ----------
    values : (V,) ndarray of float32
        In-mask values, clipped to [-1, 1] as all prepared scans are.
    seconds : float
        Wall-clock time.
    megabytes : float
        Peak resident memory above what the process held before.
    """

    values: np.ndarray
    seconds: float
    megabytes: float


def apply(method: Method, prepared: Prepared, seed: int) -> Output:
    """Run a fitted method on one scan and measure time and memory.

    Raises
    ------
    InputError
        If the method gives values that are not finite.
    """
    with PeakMemory() as memory:
        before = memory.lap()
        start = time.perf_counter()
        volume = method.apply(prepared, seed)
        seconds = time.perf_counter() - start
        used = memory.lap() - before
    values = np.clip(volume[prepared.mask], -1, 1).astype(np.float32)
    if not np.isfinite(values).all():
        msg = f"{method.name} gave values that are not finite."
        raise InputError(msg)
    return Output(values, round(seconds, 3), round(used, 1))


def fit(method: Method, target: Sequence[Prepared]) -> Method:
    """Fit a method to the target's training scans and return it."""
    method.fit(target)
    return method


class Workspace:
    """Cases, tissue labels and outputs of one study.

    Parameters
    ----------
    train : sequence of Scan
        The target's training scans.
    scans : sequence of Scan
        All scans that are evaluated.
    folder : Path
        Folder of the store.
    seed : int
        Seed of the methods, unless another one is asked for.
    """

    def __init__(
        self, train: Sequence[Scan], scans: Sequence[Scan], folder: Path, seed: int
    ) -> None:
        self.train, self.scans, self.seed = tuple(train), tuple(scans), seed
        self.store = Store(folder)
        self._settings = [VERSION, dataclasses.asdict(PREPROCESS), dataclasses.asdict(EDGES)]
        self._contents: dict[Scan, str] = {}
        self.target = TargetScans(self)
        self.target_key = [self._settings, *(self.case_key(scan)[-1] for scan in train)]

    def case_key(self, scan: Scan) -> list[Any]:
        """Return what determines a case, its tissue labels and its edges."""
        if scan not in self._contents:
            self._contents[scan] = contents(scan)
        return [self._settings, self._contents[scan]]

    def case(self, scan: Scan) -> Case:
        """Return the scan, preprocessed, with all that is known of it."""
        case = self.store.get(("case", *self.case_key(scan)), lambda: open_case(scan, PREPROCESS))
        return dataclasses.replace(case, scan=scan)

    def edges(self, case: Case) -> np.ndarray:
        """Return the edges of the scan itself: (I, J, K) bool."""
        return self.store.get(
            ("edges", *self.case_key(case.scan)),
            lambda: detect_edges(case.prepared, EDGES),
        )

    def brightness_labels(self, scan: Scan) -> np.ndarray:
        """Return the classical segmenter's tissue labels of a T1w scan: (I, J, K) uint8."""

        def make() -> np.ndarray:
            prepared = self.case(scan).prepared
            return classify(prepared.image, prepared.mask)[0]

        return self.store.get(("labels", "scan", *self.case_key(scan)), make)

    def tissues(self, case: Case) -> np.ndarray | None:
        """Return the tissue labels (I, J, K) that measures use; they are never made from an output.

        The study's labels. Without them the classical segmenter's on the truth, on the scan if it
        is T1w, or on the co-registered T1w scan. None if there is none of these, or if the study
        has labels for others of the group: means over two kinds of labels would tell nothing.
        """
        scan, prepared = case.scan, case.prepared
        if case.tissues is not None:
            return case.tissues * prepared.mask
        if any(other.tissues and other.group == scan.group for other in self.scans):
            return None
        shown: Scan | None = scan
        if scan.truth is not None:
            shown = Scan(scan.truth, scan.site, scan.scan, scan.person)
        elif scan.contrast != "T1w":
            shown = self.partner(scan)
        if shown is None:
            return None
        labels, grid = self.brightness_labels(shown), self.case(shown).prepared.grid
        return resample(labels, grid, prepared.grid, order=0) * prepared.mask

    def partner(self, scan: Scan) -> Scan | None:
        """Return the co-registered T1w scan of the same person, if there is one."""
        known = [scan, *self.together(scan)]
        return next((one for one in known if scan.grid and one.contrast == "T1w"), None)

    def together(self, scan: Scan) -> list[Scan]:
        """List the real scans that are co-registered with a scan, but for itself."""
        return [
            other
            for other in self.scans
            if scan.grid and other.grid == scan.grid and not other.preset and other != scan
        ]

    def shown(self, case: Case) -> list[np.ndarray]:
        """Return what shows the head, each (I, J, K): scan, co-registered scans, and truth."""
        volumes = [case.prepared.image]
        for scan in self.together(case.scan):
            other = self.case(scan).prepared
            outside = extend_outside(other.image, other.mask)
            volumes.append(resample(outside, other.grid, case.prepared.grid))
        return volumes if case.truth is None else [*volumes, case.truth]

    def twin(self, scan: Scan) -> Scan | None:
        """Return the same simulation without the planted lesions, if there is one."""
        preset = scan.preset.removesuffix(WITH_LESIONS)
        if preset == scan.preset:
            return None
        same = (scan.site, preset, scan.person)
        return next((s for s in self.scans if (s.site, s.preset, s.person) == same), None)

    def method_key(self, method: Method) -> list[Any]:
        """Return what determines a fitted method: settings, version and training scans."""
        return [method.name, method.settings, method.version, self.target_key]

    def output_key(self, method: Method, scan: Scan, seed: int | None = None) -> list[Any]:
        """Return what determines a method's output for a scan."""
        seed = self.seed if seed is None else seed
        return [*self.method_key(method), *self.case_key(scan), seed]

    def fitted(self, method: Method) -> Method:
        """Return the method, fitted to the target's training scans."""
        key = ("fitted", *self.method_key(method))
        return self.store.get(key, lambda: fit(method, self.target))

    def output(self, method: Method, scan: Scan, seed: int | None = None) -> Output:
        """Return what a fitted method makes of the scan, with its cost."""
        key = ("output", *self.output_key(method, scan, seed))
        seed = self.seed if seed is None else seed
        return self.store.get(key, lambda: apply(method, self.seen_by(method, scan), seed))

    def seen_by(self, method: Method, scan: Scan) -> Prepared:
        """Return the scan as a method gets it, with N4 or without."""
        if not isinstance(method, Uncorrected):
            return self.case(scan).prepared
        settings = dataclasses.replace(PREPROCESS, n4=False)
        key = ("without N4", *self.case_key(scan))
        return self.store.get(key, lambda: open_case(scan, settings).prepared)

    def volume(self, method: Method, case: Case) -> np.ndarray:
        """Return what a fitted method makes of the scan as a volume (I, J, K) float32."""
        return scatter(self.output(method, case.scan).values, case.prepared.mask)


class TargetScans(Sequence[Prepared]):
    """The target's training scans, each read from the store when it is asked for."""

    def __init__(self, work: Workspace) -> None:
        self._work = work

    def __len__(self) -> int:
        return len(self._work.train)

    def __getitem__(self, index: Any) -> Any:
        scans = self._work.train[index]
        if isinstance(index, slice):
            return [self._work.case(scan).prepared for scan in scans]
        return self._work.case(scans).prepared
