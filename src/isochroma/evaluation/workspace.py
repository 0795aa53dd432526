"""The study's scans and the methods' outputs, each computed once and kept by its content."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from isochroma.evaluation.measures import anatomy
from isochroma.evaluation.measuring import (
    Applied,
    Given,
    apply,
    code,
    content,
    edges_of,
    fit,
    labels_of,
    spread,
)
from isochroma.evaluation.methods import Method
from isochroma.evaluation.study import WITH_LESIONS, Case, Scan, open_case
from isochroma.images.grid import resample
from isochroma.images.masked import extend_outside
from isochroma.images.preprocess import Prepared, PreprocessSettings


class Workspace:
    """Cases and outputs of one study, cached in a folder.

    Parameters
    ----------
    train, scans
        The target's training scans, and all scans that are evaluated.
    folder
        Of the cache (joblib): what is there is not computed again, in this run or the next.
    seed
        Of the methods, unless another is asked for.
    """

    def __init__(
        self, train: Sequence[Scan], scans: Sequence[Scan], folder: Path, seed: int
    ) -> None:
        self.train, self.scans, self.seed = train, scans, seed
        self.memory = joblib.Memory(folder, verbose=0, compress=1)
        self.content = {scan.scan: content(scan) for scan in (*train, *scans)}
        self.target = TargetScans(self)

    def prepare(self, jobs: int) -> Iterator[None]:
        """Preprocess all scans and label their tissues in `jobs` processes; yields after each scan.

        A scan that fails is left to whoever asks for it.
        """
        one = joblib.delayed(self.prepare_scan)
        scans = [*self.train, *self.scans]
        yield from joblib.Parallel(jobs, return_as="generator")(one(scan) for scan in scans)

    def prepare_scan(self, scan: Scan) -> None:
        """Bring one scan's case and tissues into the cache."""
        with suppress(Exception):
            self.tissues(self.case(scan))

    def case(self, scan: Scan) -> Case:
        """The scan, preprocessed."""
        opened = self.memory.cache(open_case, ignore=["scan"])
        case = opened(scan, PreprocessSettings(), self.content[scan.scan])
        return dataclasses.replace(case, scan=scan)

    def classes(self, scan: Scan) -> np.ndarray:
        """Tissue labels by the classical segmenter, of the scan itself."""
        prepared = self.case(scan).prepared
        return self.labels(prepared.image, prepared.mask)

    def labels(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Tissue labels by the classical segmenter."""
        return self.memory.cache(labels_of)(image, mask)

    def tissues(self, case: Case) -> np.ndarray | None:
        """Tissue labels for measures: given ones, else the classical segmenter's on the truth, on
        the scan if it is T1w, or on the co-registered T1w scan. Never on an output.
        """
        scan = case.scan
        if case.tissues is not None:
            return case.tissues * case.prepared.mask
        if case.truth is not None:
            return self.labels(case.truth, case.prepared.mask)
        if scan.contrast == "T1w":
            return self.classes(scan)
        partner = self.partner(scan)
        if partner is None:
            return None
        grid = self.case(partner).prepared.grid
        found = resample(self.classes(partner), grid, case.prepared.grid, order=0)
        return found * case.prepared.mask

    def partner(self, scan: Scan) -> Scan | None:
        """The co-registered T1w scan of the same person."""
        if not scan.grid:
            return None
        found = [s for s in self.scans if s.grid == scan.grid and s.contrast == "T1w"]
        return found[0] if found else None

    def key(self, method: Method) -> str:
        """Stands for a method fitted to these target scans, by this code."""
        fitted = [self.content[scan.scan] for scan in self.train]
        return json.dumps(
            [method.name, method.settings, fitted, code(type(method))], sort_keys=True
        )

    def output_key(self, method: Method, scan: Scan) -> str:
        """Stands for what the method makes of a scan."""
        return f"{self.key(method)} {self.content[scan.scan]} {self.seed}"

    def fitted(self, method: Method) -> Method:
        """The method, fitted to the target's training scans."""
        return self.memory.cache(fit, ignore=["method", "target"])(
            method, self.target, self.key(method)
        )

    def output(self, method: Method, scan: Scan, case: Case, seed: int | None = None) -> Applied:
        """What the method makes of the scan, with its cost."""
        return self.memory.cache(apply, ignore=["method", "prepared"])(
            method,
            case.prepared,
            self.seed if seed is None else seed,
            self.key(method),
            self.content[scan.scan],
        )

    def volume(self, method: Method, scan: Scan) -> tuple[np.ndarray, Case]:
        """The output as a volume, and its case."""
        case = self.case(scan)
        return spread(self.output(method, scan, case).values, case.prepared.mask), case

    def given(self, method: Method, case: Case) -> Given:
        """Tissues and lesions of a case, and what shows the lesions as they are: the truth, or the
        T1w scan on the same grid.
        """
        tissues, scan = self.tissues(case), case.scan
        edges = self.memory.cache(edges_of)(case.prepared.image, case.prepared.mask)
        if case.lesions is None or not case.lesions.any():
            return Given(edges, tissues)
        lesions = anatomy.label_lesions(case.lesions)
        if case.truth is not None:
            return Given(edges, tissues, lesions, case.truth, self.healthy(method, case))
        partner = scan if scan.contrast == "T1w" else self.partner(scan)
        if partner is None:
            return Given(edges, tissues)
        other = self.case(partner).prepared
        shown = resample(extend_outside(other.image, other.mask), other.grid, case.prepared.grid)
        return Given(edges, tissues, lesions, shown)

    def healthy(self, method: Method, case: Case) -> tuple[np.ndarray, np.ndarray] | None:
        """Output and truth of the simulation that differs in the planted lesions alone."""
        scan = case.scan
        preset = scan.preset.removesuffix(WITH_LESIONS)
        for other in self.scans:
            known = (other.person, other.site, other.preset) == (scan.person, scan.site, preset)
            if known and preset != scan.preset:
                output, twin = self.volume(method, other)
                same_grid = twin.prepared.grid.same_as(case.prepared.grid)
                return (output, twin.truth) if same_grid and twin.truth is not None else None
        return None


class TargetScans(Sequence[Prepared]):
    """The target's training scans, each read from the cache when it is asked for."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def __len__(self) -> int:
        """How many."""
        return len(self.workspace.train)

    def __getitem__(self, index: Any) -> Any:
        """One, or a list for a slice."""
        if isinstance(index, slice):
            return [self.workspace.case(scan).prepared for scan in self.workspace.train[index]]
        return self.workspace.case(self.workspace.train[index]).prepared
