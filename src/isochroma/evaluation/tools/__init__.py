"""What the measures need, fitted to the target's training scans and to nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from isochroma.evaluation.tools import age, features, profile, segmenter
from isochroma.evaluation.tools.age import AgeModel
from isochroma.evaluation.tools.features import FeatureSpace
from isochroma.evaluation.tools.profile import TargetProfile
from isochroma.evaluation.tools.segmenter import Segmenter
from isochroma.evaluation.workspace import Workspace

LEAST_WITH_AGE = 20  # target scans with an age that an age predictor is made from
VERSIONS = {part.__name__: part.VERSION for part in (age, features, profile, segmenter)}


@dataclass(frozen=True)
class Tools:
    """What the measures need, fitted to the target's training scans.

    Attributes
    ----------
    profile : TargetProfile
        Intensities of the target domain.
    features : FeatureSpace
        Where patches are compared.
    target_features : list of (N, D) ndarray
        Patch features of each training scan.
    segmenter : Segmenter
        Tissue network.
    age : AgeModel or None
        Age predictor; None if fewer than 20 training scans have an age.
    """

    profile: TargetProfile
    features: FeatureSpace
    target_features: list[np.ndarray]
    segmenter: Segmenter
    age: AgeModel | None


def fit_tools(work: Workspace, steps: int) -> Tools:
    """Fit all tools to the target's training scans.

    Parameters
    ----------
    work : Workspace
        The scans.
    steps : int
        Training steps of the tissue network.

    Returns
    -------
    tools : Tools
        Taken from the store where they are kept there.
    """
    store, target = work.store, work.target

    def labels() -> list[np.ndarray]:
        return [work.brightness_labels(scan) for scan in work.train]

    def make_profile() -> TargetProfile:
        scans = list(target)
        images, masks = [scan.image for scan in scans], [scan.mask for scan in scans]
        return profile.target_profile(images, masks, labels())

    def make_features() -> tuple[FeatureSpace, list[np.ndarray]]:
        scans = list(target)
        images, masks = [scan.image for scan in scans], [scan.mask for scan in scans]
        space = features.fit_features(images, masks)
        return space, [features.patch_features(scan.image, scan.mask, space) for scan in scans]

    known = store.get(("profile", profile.VERSION, work.target_key), make_profile)
    space, own = store.get(("feature space", features.VERSION, work.target_key), make_features)
    network = store.get(
        ("segmenter", segmenter.VERSION, steps, work.target_key),
        lambda: Segmenter().fit(target, labels(), steps),
    )

    def maps() -> Iterator[np.ndarray]:
        for scan in target:
            yield age.matter(network.segment(scan.image, scan.mask)[1])

    ages = np.array([scan.age for scan in work.train])
    predictor = None
    if np.isfinite(ages).sum() >= LEAST_WITH_AGE:
        predictor = store.get(
            ("age", age.VERSION, segmenter.VERSION, steps, ages.tolist(), work.target_key),
            lambda: age.fit_age(maps, ages),
        )
    return Tools(known, space, own, network, predictor)
