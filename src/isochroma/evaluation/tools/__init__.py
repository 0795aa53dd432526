"""What the measures need, fitted to the target's training scans and to nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from isochroma.evaluation.tools import features, profile, segmenter, space
from isochroma.evaluation.tools.features import FeatureSpace
from isochroma.evaluation.tools.profile import TargetProfile
from isochroma.evaluation.tools.segmenter import Segmenter
from isochroma.evaluation.tools.space import CommonSpace, matter
from isochroma.evaluation.workspace import Workspace

LEAST_WITH_AGE = 20  # people of one site that an age predictor is made from
VERSIONS = {part.__name__: part.VERSION for part in (features, profile, segmenter, space)}


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
    space : CommonSpace or None
        Where scans of known age are compared; None if no site has 20 people of known age.
    """

    profile: TargetProfile
    features: FeatureSpace
    target_features: list[np.ndarray]
    segmenter: Segmenter
    space: CommonSpace | None


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
        found = features.fit_features(images, masks)
        return found, [features.patch_features(scan.image, scan.mask, found) for scan in scans]

    known = store.get(("profile", profile.VERSION, work.target_key), make_profile)
    place, own = store.get(("feature space", features.VERSION, work.target_key), make_features)
    network = store.get(
        ("segmenter", segmenter.VERSION, steps, work.target_key),
        lambda: Segmenter().fit(target, labels(), steps),
    )

    def maps() -> Iterator[np.ndarray]:
        for scan in target:
            yield matter(network.segment(scan.image, scan.mask)[1])

    common = None
    if max(people_of_known_age(work).values(), default=0) >= LEAST_WITH_AGE:
        common = store.get(
            ("common space", space.VERSION, segmenter.VERSION, steps, work.target_key),
            lambda: CommonSpace.build(maps()),
        )
    return Tools(known, place, own, network, common)


def people_of_known_age(work: Workspace) -> dict[str, int]:
    """Count, by site, the people with a real T1w scan whose age is known."""
    persons: dict[str, set[str]] = {}
    for scan in (*work.train, *work.scans):
        if np.isfinite(scan.age) and scan.contrast == "T1w" and not scan.preset:
            persons.setdefault(scan.site, set()).add(scan.person)
    return {site: len(each) for site, each in persons.items()}
