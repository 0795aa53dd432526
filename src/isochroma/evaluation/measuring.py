"""What is computed for one scan, method or output: plain functions whose results are kept.

Arguments that only stand for content (`key`, `content`, `budget`) are there for the cache.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from isochroma.errors import InputError
from isochroma.evaluation.measures import anatomy, closeness, segmentation
from isochroma.evaluation.measures.age import AgeRegressor, CommonSpace, cross_validated, scores
from isochroma.evaluation.methods import Method
from isochroma.evaluation.study import FILES, Case, Scan
from isochroma.evaluation.tissues import GREY, WHITE, classify
from isochroma.files import sha256
from isochroma.images.metrics import ncc, psnr, ssim
from isochroma.images.preprocess import Prepared, from_model_units
from isochroma.method.edges import EdgeSettings, canny

if TYPE_CHECKING:
    from isochroma.evaluation.workspace import Workspace

LEAST_TARGET_SCANS = 20  # for the age regressor


@dataclass(frozen=True)
class Budget:
    """How much is computed; the measures stay the same.

    target_scans
        Training scans of the target that are used (None: all).
    one_a_group
        Whether of each site and contrast (or simulated scanner) one scan is enough.
    classical
        Whether the classical segmenter, which is slow, runs on the outputs for core scans.
    segmenter_steps, permutations, convnet_permutations, resamples
        Training steps of the tissue network, shuffled runs of the cheap and of the convolutional
        site probe (0: left out), bootstrap samples.
    """

    target_scans: int | None = None
    one_a_group: bool = False
    classical: bool = True
    segmenter_steps: int = 600
    permutations: int = 200
    convnet_permutations: int = 10
    resamples: int = 2000


FULL = Budget()
QUICK = Budget(
    target_scans=6,
    one_a_group=True,
    classical=False,
    segmenter_steps=40,
    permutations=20,
    convnet_permutations=0,
    resamples=500,
)


@dataclass(frozen=True)
class AgeModel:
    """The age regressor and its space; its cross-validated scores on the target's training scans,
    and the mean absolute error there of always saying the others' mean age.
    """

    space: CommonSpace
    regressor: AgeRegressor
    target_scores: dict[str, float]
    mean_age_error: float


@dataclass(frozen=True)
class Tools:
    """What the measures need, all of it made from the target's training scans alone."""

    profile: closeness.TargetProfile
    features: closeness.FeatureSpace
    target_features: list[np.ndarray]
    segmenter: segmentation.Segmenter
    age: AgeModel | None


class Given(NamedTuple):
    """What is known of a scan, on its model grid.

    edges
        (I, J, K) bool, of the scan itself.
    tissues
        (I, J, K) labels.
    lesions, shown
        (I, J, K) numbered lesions, and the volume that shows them as they are.
    healthy
        For planted lesions: the method's output and the truth of the same simulation without them.
    """

    edges: np.ndarray
    tissues: np.ndarray | None = None
    lesions: np.ndarray | None = None
    shown: np.ndarray | None = None
    healthy: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Applied:
    """One output: in-mask values (V,) float32 clipped to [-1, 1] as all prepared scans are,
    wall-clock seconds, and peak memory in MB above what the process held before.
    """

    values: np.ndarray
    seconds: float
    megabytes: float


def content(scan: Scan) -> str:
    """Hash of all files of a row."""
    files = [getattr(scan, name) for name in FILES]
    return " ".join(sha256(path)[:16] if path else "-" for path in files)


@functools.cache
def code(kind: type | None = None) -> str:
    """Hash of the code that a method is made of, its own module and those of the package's root; of
    the evaluation's, that of the measures, if no method is given.
    """
    here = Path(__file__).parent
    own = here.glob("*.py") if kind is None else [Path(inspect.getfile(kind))]
    modules = [*sorted(here.parent.rglob("*.py")), *sorted(own)]
    return hashlib.sha256(" ".join(sha256(path) for path in modules).encode()).hexdigest()[:16]


def labels_of(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Labels of the classical segmenter."""
    return classify(image, mask)[0]


def edges_of(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Canny edges as the models' default takes them."""
    return canny(image, mask, EdgeSettings())


def fit(method: Method, target: Sequence[Prepared], key: str) -> Method:
    """Fit and return the method."""
    method.fit(target)
    return method


def apply(method: Method, prepared: Prepared, seed: int, key: str, content: str) -> Applied:
    """Run the method once, with the clock and the memory watched."""
    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    try:
        output = method.apply(prepared, seed)
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    values = np.clip(output[prepared.mask], -1, 1).astype(np.float32)
    if not np.isfinite(values).all():
        msg = f"{method.name} gave values that are not finite."
        raise InputError(msg)
    return Applied(values, round(seconds, 3), round((peak - before) / 1e6, 1))


def spread(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """In-mask values as a volume, 0 outside."""
    volume = np.zeros(mask.shape, np.float32)
    volume[mask] = values
    return volume


def train_segmenter(
    images: Sequence[Prepared], labels: Sequence[np.ndarray], steps: int, key: list[str]
) -> segmentation.Segmenter:
    """The tissue network."""
    return segmentation.Segmenter().fit(images, labels, steps)


def train_age(
    segmenter: segmentation.Segmenter,
    images: Sequence[Prepared],
    ages: np.ndarray,
    key: list[str],
    steps: int,
) -> AgeModel:
    """The common space, the age regressor, and how good it is on the target itself."""

    def maps() -> Iterator[np.ndarray]:
        for prepared in images:
            yield matter(segmenter.segment(prepared.image, prepared.mask)[1])

    known = np.isfinite(ages)
    space = CommonSpace.build(maps())
    features = np.stack([space.features(each) for each in maps()])[known]
    ages = ages[known]
    apart = np.abs(ages - (ages.sum() - ages) / (len(ages) - 1))  # from the others' mean
    return AgeModel(
        space,
        AgeRegressor().fit(features, ages),
        scores(ages, cross_validated(features, ages)),
        float(apart.mean()),
    )


def matter(probabilities: np.ndarray) -> np.ndarray:
    """(I, J, K, 2) probabilities of grey and white matter, of (I, J, K, 3) of all tissues."""
    return probabilities[..., [GREY - 1, WHITE - 1]]


def measures(
    case: Case,
    values: np.ndarray,
    given: Given,
    tools: Tools,
    classical: bool,
    key: tuple[str, str, float, list[float]],
    budget: dict[str, Any],
) -> dict[str, dict[str, float]]:
    """Every measure of one output: part -> measure -> value.

    Parameters
    ----------
    values
        (V,) the output inside the case's mask.
    classical
        Whether to run the classical segmenter on the output too.
    """
    tissues = given.tissues
    prepared = case.prepared
    mask, source = prepared.mask, prepared.image
    output = spread(values, mask)
    found: dict[str, dict[str, float]] = {}
    if case.truth is not None:
        unit, true_unit = (from_model_units(volume, 0, 1) for volume in (output, case.truth))
        found["truth"] = {
            "psnr": psnr(output, case.truth, mask, 2),
            "ssim": ssim(unit, true_unit, mask, 1),
            "ncc": ncc(output, case.truth, mask),
        }
    distances = closeness.histogram_distances(output, mask, tissues, tools.profile)
    found["closeness"] = {
        f"wasserstein {name}".removesuffix(" brain"): value for name, value in distances.items()
    }
    found["closeness"]["change"] = closeness.change(output, source, mask)
    edges = anatomy.edge_agreement(edges_of(output, mask), given.edges, mask)
    found["anatomy"] = {
        "edges kept": edges.kept,
        "edges invented": 1 - edges.supported,
        "local ncc": anatomy.local_ncc(output, source, mask),
    }
    if tissues is not None:
        found["closeness"]["contrast"] = closeness.contrast_gap(output, tissues, tools.profile)
        if given.lesions is not None and given.shown is not None:
            kept = anatomy.contrast_kept(output, given.shown, given.lesions, tissues, given.healthy)
            if np.isfinite(kept).any():
                found["anatomy"]["lesion contrast"] = float(np.nanmedian(kept))
                found["anatomy"]["lesion recall"] = anatomy.recall(kept)
    # A simulation of a target scan tells nothing of age that its truth has not told better.
    wants_age = tools.age is not None and np.isfinite(case.scan.age) and case.truth is None
    if case.tissues is not None or wants_age:
        labels, probabilities = tools.segmenter.segment(output, mask)
    if case.tissues is not None:
        common = mask & (case.tissues > 0)
        overlaps = segmentation.dice(labels, case.tissues, common)
        found["segmentation"] = {f"dice {name}": value for name, value in overlaps.items()}
        if classical:
            overlaps = segmentation.dice(classify(output, mask)[0], case.tissues, common)
            found["segmentation"]["dice mean, classical"] = overlaps["mean"]
    if wants_age and tools.age is not None:
        features = tools.age.space.features(matter(probabilities))
        predicted = float(tools.age.regressor.predict(features[None])[0])
        found["age"] = {
            "predicted": predicted,
            "error": predicted - case.scan.age,
            "absolute error": abs(predicted - case.scan.age),
        }
    return found


def target_space(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], key: list[str]
) -> tuple[closeness.FeatureSpace, list[np.ndarray]]:
    """The space in which patches are compared, and the target's own patches in it."""
    space = closeness.fit_features(images, masks)
    found = [
        closeness.patch_features(image, mask, space)
        for image, mask in zip(images, masks, strict=True)
    ]
    return space, found


def make_tools(work: Workspace, budget: Budget, tell: Callable[[str, int, int], None]) -> Tools:
    """Fit everything that the measures need to the target's training scans."""
    labels = []
    for number, scan in enumerate(work.train):
        tell(f"target: tissues of {scan.scan}", number, len(work.train))
        labels.append(work.classes(scan))
    tell("target: profile and features", 0, 1)
    images = [prepared.image for prepared in work.target]
    masks = [prepared.mask for prepared in work.target]
    profile = closeness.target_profile(images, masks, labels)
    key = [work.content[scan.scan] for scan in work.train]
    features, target_features = work.memory.cache(target_space, ignore=["images", "masks"])(
        images, masks, key
    )
    tell("target: training the tissue network", 0, 1)
    segmenter = work.memory.cache(train_segmenter, ignore=["images", "labels"])(
        work.target, labels, budget.segmenter_steps, key
    )
    ages = np.array([scan.age for scan in work.train])
    age = None
    if np.isfinite(ages).sum() >= LEAST_TARGET_SCANS:
        tell("target: age", 0, 1)
        age = work.memory.cache(train_age, ignore=["segmenter", "images"])(
            segmenter, work.target, ages, key, budget.segmenter_steps
        )
    return Tools(profile, features, target_features, segmenter, age)
