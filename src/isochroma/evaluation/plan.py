"""What an evaluation is to compute: scans, methods and budget."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isochroma.errors import InputError
from isochroma.evaluation.measures.pairs import RESCAN, same_person
from isochroma.evaluation.measures.regions import LEAST_PERSONS, judged
from isochroma.evaluation.methods import N4, HistogramMatching, Method, Raw
from isochroma.evaluation.program import check_command
from isochroma.evaluation.study import Scan, read_study
from isochroma.evaluation.tools import LEAST_WITH_AGE, Tools
from isochroma.evaluation.workspace import Workspace

FEW = 10  # persons; with fewer, bootstrap intervals are too narrow


@dataclass(frozen=True)
class Budget:
    """How much is computed; the measures stay the same.

    Attributes
    ----------
    target_scans : int or None
        Training scans of the target that are used; None for all.
    one_a_group : bool
        Take one scan of each site and contrast, or simulated scanner.
    classical : bool
        Run the classical segmenter, which is slow, on the outputs for core scans.
    segmenter_steps : int
        Training steps of the tissue network.
    permutations, convnet_permutations : int
        Shuffled runs of the cheap site probes and of the convolutional one; 0 leaves them out.
    resamples : int
        Bootstrap samples.
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
class Plan:
    """An evaluation that can be run.

    Attributes
    ----------
    study : Path
        The study file or BIDS folder.
    out : Path
        Folder of the report; the store is its folder cache.
    work : Workspace
        The study's scans.
    methods : tuple of Method
        What is compared.
    only_core : frozenset of str
        Names of the methods that get the core scans alone.
    budget : Budget
        How much is computed.
    jobs : int
        Processes that work side by side, a scan each.
    segmenter : str or None
        Command line of an outside segmenter, if there is one.
    """

    study: Path
    out: Path
    work: Workspace
    methods: tuple[Method, ...]
    only_core: frozenset[str]
    budget: Budget
    jobs: int
    segmenter: str | None = None

    @property
    def site(self) -> str:
        """The target site."""
        return self.work.train[0].site

    @property
    def sources(self) -> list[Scan]:
        """The scans that harmonization should change: other sites', and simulated ones."""
        return [scan for scan in self.work.scans if scan.site != self.site or scan.preset]

    def scans_of(self, method: Method) -> list[Scan]:
        """Return the scans that a method gets."""
        limited = method.name in self.only_core
        return [scan for scan in self.work.scans if scan.core or not limited]


def make_plan(
    study: Path,
    out: Path,
    methods: Sequence[Method],
    only_core: Sequence[str] = (),
    budget: Budget = FULL,
    seed: int = 0,
    jobs: int = 2,
    segmenter: str | None = None,
) -> Plan:
    """Read the study and check what is asked for; arguments as in `evaluate`.

    Raises
    ------
    InputError
        If the study cannot be used or has nothing to evaluate, `only_core` names a method that is
        not compared, or the segmenter's command does not name its files.
    """
    if segmenter is not None:
        check_command("the segmenter", segmenter, "segmenter")
    known = read_study(study)
    train = [scan for scan in known if scan.split == "train"][: budget.target_scans]
    scans = [scan for scan in known if scan.split not in ("train", "val")]
    if budget.one_a_group:
        first = {scan.group: scan for scan in reversed(scans)}
        scans = [scan for scan in scans if scan is first[scan.group]]
    if not scans:
        msg = f"{study}: no scans to evaluate beside the target's training scans."
        raise InputError(msg)
    always: list[Method] = [Raw(), N4(), HistogramMatching()]
    named = {method.name: method for method in [*always, *methods]}
    unknown = set(only_core) - set(named)
    if unknown:
        msg = f"{min(unknown)!r} is not among the methods: {', '.join(named)}."
        raise InputError(msg)
    work = Workspace(train, scans, out / "cache", seed)
    chosen = tuple(named.values()), frozenset(only_core), budget, jobs, segmenter
    return Plan(study, out, work, *chosen)


def notes(plan: Plan, tools: Tools) -> list[str]:
    """List what the study does not allow to measure, what was limited, and what to beware of."""
    scans, work = plan.work.scans, plan.work
    lines = [
        f"{name}: the study has no {what}."
        for name, (what, known) in REPORTED_IF.items()
        if not any(known(scan) for scan in scans)
    ]
    if not any(True for _ in same_person(scans)):
        lines.append("pairs: the study has no co-registered or repeated scans.")
    if plan.segmenter is not None:
        lines += notes_on_regions(plan.segmenter, scans)
    if tools.space is None:
        lines.append(f"age, sites: no site has {LEAST_WITH_AGE} people of known age.")
    persons: dict[str, set[str]] = {}
    for scan in scans:
        persons.setdefault(scan.group, set()).add(scan.person)
    if min(map(len, persons.values())) < FEW:
        lines.append(
            f"a bootstrap over fewer than {FEW} persons gives intervals that are too narrow: "
            "for such groups read them as the spread, not as a test."
        )
    if plan.budget != FULL:
        lines.append(f"a reduced budget: {dataclasses.asdict(plan.budget)}.")
    for name in sorted(plan.only_core):
        count = sum(scan.core for scan in work.scans)
        lines.append(f"{name}: on the {count} core scans only, and not in the site audit.")
    return lines


def notes_on_regions(segmenter: str, scans: Sequence[Scan]) -> list[str]:
    """Say which segmenter labelled how many outputs, and whether there are enough rescans."""
    count = len(judged(scans))
    if not count:
        return [
            "regions: nothing to judge the segmenter on. It takes co-registered contrasts that are "
            "core scans, scans that were repeated, or core scans with region labels."
        ]
    lines = [f"regions: of {count} scans, by `{segmenter}`."]
    twice = {(a.group, a.person) for group, a, _ in same_person(scans) if group == RESCAN}
    people = Counter(group for group, _ in twice)
    if max(people.values(), default=0) < LEAST_PERSONS:
        lines.append(
            f"regions: no site has {LEAST_PERSONS} people who were scanned twice: no intraclass "
            "correlation."
        )
    return lines


REPORTED_IF: dict[str, tuple[str, Callable[[Scan], bool]]] = {
    "truth": ("scans with a truth", lambda scan: scan.truth is not None),
    "segmentation": ("scans with tissue labels", lambda scan: scan.tissues is not None),
    "lesions": ("scans with a lesion mask", lambda scan: scan.lesions is not None),
}
