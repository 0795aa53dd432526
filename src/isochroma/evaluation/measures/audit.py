"""Site audit: measure how well the site can be told from the outputs.

That one classifier, trained on raw scans and then frozen, fails on the outputs proves little: it
may only be out of its depth, while a classifier trained on the outputs finds the site as before
(arXiv:2610.14140). So every probe is trained twice, on raw scans and anew on the outputs, always
until it converges and always tested on persons it has not seen, and its score is set beside what
it reaches on labels that were shuffled. Sites also differ in who was scanned: the shape probe sees
no intensity, and no harmonization of intensities can bring a site below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import joblib
import numpy as np
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from torch.nn import functional as F

from isochroma.errors import InputError
from isochroma.evaluation.measures.registry import SITES, Part

VERSION = 1
LEAST_PERSONS = 5  # of a site
BINS = 64
BLOCK_MM = 4
BOX = (40, 48, 40)  # blocks
FROZEN, RETRAINED = "frozen", "retrained"
# Trains on (features, classes), predicts others' probabilities: (N, C), and whether it converged.
Probe = Callable[[np.ndarray, np.ndarray, list[np.ndarray], int], tuple[list[np.ndarray], bool]]

part = Part(
    "audit",
    "Site audit",
    "Can a probe tell the site? `frozen`: trained on raw scans, tested on outputs; `retrained`: "
    "trained anew on outputs. Balanced accuracy; chance is from permuted sites. The shape probe "
    "sees no intensities: no intensity harmonizer can move it.",
)


@dataclass(frozen=True)
class AuditRow:
    """The score of one probe on one method's outputs.

    Attributes
    ----------
    method : str
        Whose outputs.
    training : str
        "frozen": trained on raw scans; "retrained": on the outputs.
    balanced_accuracy : float
        Over scans of held-out persons, mean of the seeds. Lower is better, down to chance.
    chance, chance_95 : float
        Mean and 95th percentile of the balanced accuracy with shuffled sites; NaN without any.
    converged : float
        Share of the fits to true labels that converged.
    """

    method: str
    training: str
    balanced_accuracy: float
    chance: float
    chance_95: float
    converged: float


@dataclass(frozen=True)
class Audit:
    """The scores of one probe.

    Attributes
    ----------
    rows : list of AuditRow
        Two for each method, none if fewer than two sites have 5 persons.
    sites : list of str
        The sites that are compared: those with 5 persons or more.
    persons : int
        How many persons were scanned there.
    """

    rows: list[AuditRow]
    sites: list[str]
    persons: int


def histogram(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the share of the in-mask voxels in 64 bins over [-1, 1] model units: (64,)."""
    counts, _ = np.histogram(np.clip(image[mask], -1, 1), BINS, (-1, 1))
    return counts / mask.sum()


def shape_features(mask: np.ndarray, spacing_mm: float = 1.0) -> np.ndarray:
    """Describe a brain mask without intensities.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        Brain mask.
    spacing_mm : float
        Edge of its voxels.

    Returns
    -------
    features : (10,) ndarray
        Volume (ml), three extents (mm), and six second moments (mm^2).
    """
    where = np.argwhere(mask) * spacing_mm
    moments = np.cov(where.T)[np.triu_indices(3)]
    volume = len(where) * spacing_mm**3 / 1000
    return np.array([volume, *(np.ptp(where, axis=0) + spacing_mm), *moments])


def thumbnail(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: float = 1.0,
    box: tuple[int, int, int] = BOX,
) -> np.ndarray:
    """Shrink a volume to the mean and standard deviation of the mask's voxels in blocks of 4 mm.

    The standard deviation holds what the mean has lost: noise, blur, and texture finer than 4 mm.

    Parameters
    ----------
    image : (I, J, K) ndarray
        Any unit.
    mask : (I, J, K) ndarray of bool
        Brain mask; its bounding box is centred in `box`.
    spacing_mm : float
        Edge of the voxels.
    box : tuple of int
        Number of blocks (A, B, C); the brain is cropped or padded with 0 to it.

    Returns
    -------
    thumbnail : (2, A, B, C) ndarray of float32
        Means and standard deviations.

    Raises
    ------
    InputError
        If the mask is empty.
    """
    block = max(1, round(BLOCK_MM / spacing_mm))
    found = ndimage.find_objects(mask.astype(np.uint8), max_label=1)[0]
    if found is None:
        msg = "the brain mask is empty. Give another one."
        raise InputError(msg)
    inside = centred(mask[found].astype(np.float64), [n * block for n in box])
    values = centred(np.where(mask, image, 0)[found].astype(np.float64), [n * block for n in box])

    def total(volume: np.ndarray) -> np.ndarray:
        a, b, c = box
        return volume.reshape(a, block, b, block, c, block).sum(axis=(1, 3, 5))

    count = np.maximum(total(inside), 1)
    mean = total(values) / count
    variance = np.maximum(total(values**2) / count - mean**2, 0)
    return np.stack([mean, np.sqrt(variance)]).astype(np.float32)


def centred(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Crop or pad a volume with 0 to `shape`; the middle stays in the middle."""
    for axis, (n, wanted) in enumerate(zip(volume.shape, shape, strict=True)):
        if n > wanted:
            start = (n - wanted) // 2
            volume = np.take(volume, range(start, start + wanted), axis)
    missing = [wanted - n for n, wanted in zip(volume.shape, shape, strict=True)]
    return np.pad(volume, [(n // 2, n - n // 2) for n in missing])


def logistic(
    features: np.ndarray, classes: np.ndarray, others: list[np.ndarray], seed: int
) -> tuple[list[np.ndarray], bool]:
    """Fit a logistic regression to standardised features, all classes of one weight (a `Probe`)."""
    centre, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-12, scale, 1)
    model = LogisticRegression(class_weight="balanced", max_iter=2000)
    model.fit((features - centre) / scale, classes)
    found = [model.predict_proba((x - centre) / scale) for x in others]
    return found, bool(model.n_iter_.max() < model.max_iter)


def convnet(epochs: int = 120, rate: float = 5e-3) -> Probe:
    """Make a `Probe` that is a small 3D convolutional network on thumbnails, of 4,000 parameters.

    It is trained by Adam in batches of 8, each scan moved at random by up to a block along every
    axis, until the training loss is below 0.05 or has not fallen by a hundredth for 30 epochs. The
    thumbnails also show the head's shape: read its scores beside the shape probe's.

    Parameters
    ----------
    epochs : int
        At most so many; a training that they end has not converged.
    rate : float
        Learning rate.

    Returns
    -------
    probe : callable
        See `Probe`.
    """

    def probe(
        features: np.ndarray, classes: np.ndarray, others: list[np.ndarray], seed: int
    ) -> tuple[list[np.ndarray], bool]:
        centre = features.mean(axis=(0, 2, 3, 4), keepdims=True)
        scale = features.std(axis=(0, 2, 3, 4), keepdims=True) + 1e-6

        def tensor(x: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(((x - centre) / scale).astype(np.float32))

        x, y = tensor(features), torch.from_numpy(classes)
        weight = len(y) / torch.bincount(y) / int(y.max() + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Conv3d(x.shape[1], 8, 3, stride=2, padding=1),
                nn.BatchNorm3d(8),
                nn.ReLU(),
                nn.Conv3d(8, 16, 3, stride=2, padding=1),
                nn.BatchNorm3d(16),
                nn.ReLU(),
                nn.AdaptiveAvgPool3d(1),
                nn.Flatten(),
                nn.Linear(16, len(weight)),
            )
            optimizer = torch.optim.Adam(network.parameters(), rate)
            best, since = float("inf"), 0
            for _ in range(epochs):
                loss = 0.0
                for batch in torch.randperm(len(x)).split(8):
                    errors = F.cross_entropy(network(moved(x[batch])), y[batch], reduction="none")
                    error = (weight[y[batch]] * errors).mean()
                    optimizer.zero_grad()
                    error.backward()
                    optimizer.step()
                    loss += error.item() * len(batch) / len(x)
                best, since = (loss, 0) if loss < 0.99 * best else (best, since + 1)
                converged = best < 0.05 or since >= 30
                if converged:
                    break
        network.eval()
        with torch.no_grad():
            found = [network(tensor(each)).double().softmax(1).numpy() for each in others]
        return found, converged

    return probe


def moved(batch: torch.Tensor) -> torch.Tensor:
    """Move each volume of (N, C, A, B, C) by -1, 0 or 1 blocks along every axis."""
    steps = torch.randint(-1, 2, (len(batch), 3)).tolist()
    moved = [volume.roll(step, (1, 2, 3)) for volume, step in zip(batch, steps, strict=True)]
    return torch.stack(moved)


def audit(
    probe: Probe,
    raw: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    sites: Sequence[str],
    persons: Sequence[str],
    *,
    permutations: int = 200,
    seeds: Sequence[int] = (0,),
    folds: int = 5,
    jobs: int = 1,
) -> Audit:
    """Probe raw scans and the outputs of every method for the site.

    Cross-validated in folds that keep each person whole (scikit-learn's StratifiedGroupKFold) and
    pooled over the folds. The shuffled runs repeat it all with sites shuffled between persons, and
    between the scans of a person who was at several sites. Those of the frozen probe are tested on
    the outputs like the true one; those of the retrained one are trained and tested on raw scans,
    once for all methods, since it is the number of scans and persons that sets this level.

    Parameters
    ----------
    probe : callable
        `logistic`, or what `convnet` returns.
    raw : (S, ...) ndarray
        Features of the S raw scans: histograms, shapes or thumbnails.
    outputs : dict of str to (S, ...) ndarray
        The same of each method's outputs, in the same order.
    sites, persons : sequence of str
        Where each scan was made, and of whom.
    permutations : int
        Shuffled runs: 200 for `logistic`; 10 to 20 are affordable for `convnet`.
    seeds : sequence of int
        The folds, and the network's start, are drawn once for each; shuffled runs take turns.
    folds : int
        At most, and no more than the smallest site has persons.
    jobs : int
        Processes that train side by side.

    Returns
    -------
    audit : Audit
        The scores, two for each method.

    Raises
    ------
    InputError
        If the inputs are not of one length.
    """
    if {len(sites)} != {len(persons), len(raw), *(len(each) for each in outputs.values())}:
        msg = "features, sites and persons are not of the same scans. Give one of each a scan."
        raise InputError(msg)
    pairs = set(zip(sites, persons, strict=True))
    counts = Counter(site for site, _ in pairs)
    used = sorted(site for site, count in counts.items() if count >= LEAST_PERSONS)
    keep = np.array([site in used for site in sites], dtype=bool)
    people = np.unique(np.asarray(persons)[keep], return_inverse=True)[1]
    if len(used) < 2:
        return Audit([], used, len(set(people)))
    y = np.array([used.index(site) for site in np.asarray(sites)[keep]])
    raw, outputs = raw[keep], {method: each[keep] for method, each in outputs.items()}
    folds = min(folds, *(counts[site] for site in used))

    rng = np.random.default_rng(seeds[0])
    methods = list(outputs.values())
    runs = [(raw, methods, y, seed) for seed in seeds]
    runs += [(each, [each], y, seed) for each in methods for seed in seeds]
    runs += [
        (raw, [*methods, raw], shuffle(y, people, rng), seeds[n % len(seeds)])
        for n in range(permutations)
    ]
    one = joblib.delayed(cross_validate)
    found = joblib.Parallel(jobs, return_as="generator")(
        one(probe, train, tests, labels, people, folds, seed) for train, tests, labels, seed in runs
    )
    frozen = list(islice(found, len(seeds)))
    retrained = {method: list(islice(found, len(seeds))) for method in outputs}
    shuffled = list(found)
    rows = []
    for index, method in enumerate(outputs):
        rows.append(summary(method, FROZEN, frozen, shuffled, index, index))
        rows.append(summary(method, RETRAINED, retrained[method], shuffled, 0, -1))
    return Audit(rows, used, len(set(people)))


@dataclass(frozen=True)
class Scores:
    """Balanced accuracy on each test set, and the share of folds that converged."""

    accuracies: list[float]
    converged: float


def cross_validate(
    probe: Probe,
    train: np.ndarray,
    tests: list[np.ndarray],
    classes: np.ndarray,
    persons: np.ndarray,
    folds: int,
    seed: int,
) -> Scores:
    """Train without a fold's persons and predict their scans in each test set, for all folds."""
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    predicted = [np.zeros((len(classes), classes.max() + 1)) for _ in tests]
    converged = []
    for rest, held_out in split.split(train, classes, persons):
        known, relabelled = np.unique(classes[rest], return_inverse=True)
        found, done = probe(train[rest], relabelled, [test[held_out] for test in tests], seed)
        for each, probabilities in zip(predicted, found, strict=True):
            each[np.ix_(held_out, known)] = probabilities
        converged.append(done)
    accuracies = [balanced_accuracy_score(classes, each.argmax(1)) for each in predicted]
    return Scores(accuracies, float(np.mean(converged)))


def shuffle(classes: np.ndarray, persons: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the sites by person.

    Persons of one site swap theirs; whoever was at several keeps the set and has it shuffled over
    his scans.
    """
    shuffled = classes.copy()
    single = []
    for person in np.unique(persons):
        scans = np.flatnonzero(persons == person)
        if len(np.unique(classes[scans])) == 1:
            single.append(scans)
        else:
            shuffled[scans] = rng.permutation(classes[scans])
    given = rng.permutation([classes[scans[0]] for scans in single])
    for scans, site in zip(single, given, strict=True):
        shuffled[scans] = site
    return shuffled


def summary(
    method: str,
    training: str,
    runs: list[Scores],
    shuffled: list[Scores],
    index: int,
    shuffled_index: int,
) -> AuditRow:
    """Average the runs' scores of one test set, and describe those of the shuffled runs."""
    chance = np.array([run.accuracies[shuffled_index] for run in shuffled] or [np.nan])
    return AuditRow(
        method,
        training,
        balanced_accuracy=float(np.mean([run.accuracies[index] for run in runs])),
        chance=float(chance.mean()),
        chance_95=float(np.percentile(chance, 95)),
        converged=float(np.mean([run.converged for run in runs])),
    )


PROBES = {"histogram": logistic, "shape": logistic, "network": convnet()}

for _probe in PROBES:
    for _training in (FROZEN, RETRAINED):
        _name = f"{_probe} probe, {_training}"
        part.measure(
            _name, _name, unit="balanced accuracy", of=SITES, source="after arXiv:2610.14140"
        )(audit)
