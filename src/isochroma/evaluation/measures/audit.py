"""Can the site still be told from the outputs?

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
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from torch.nn import functional as F

from isochroma.errors import InputError
from isochroma.evaluation.measures.anatomy import tissue_volumes

LEAST_PERSONS = 5
BINS = 64
BLOCK = 4  # mm
BOX = (40, 48, 40)  # blocks
# Trains on (features, classes), predicts others' probabilities: (N, C), and whether it converged.
Probe = Callable[[np.ndarray, np.ndarray, list[np.ndarray], int], tuple[list[np.ndarray], bool]]


@dataclass(frozen=True)
class AuditRow:
    """One probe on one method's outputs; chance is what the site audit aims at.

    method
        Whose outputs.
    training
        "frozen": on raw scans; "retrained": on the outputs.
    balanced_accuracy, auc
        Over scans of held-out persons, mean of the seeds. Lower is better, down to chance.
    chance, chance_95
        Mean and 95th percentile of the balanced accuracy with shuffled sites.
    auc_chance_95
        The same percentile of the AUC.
    p
        Share of the shuffled runs, the true one counted in, with as high a balanced accuracy.
    permutations
        How many.
    converged
        Share of the fits to true labels that converged.
    """

    method: str
    training: str
    balanced_accuracy: float
    auc: float
    chance: float
    chance_95: float
    auc_chance_95: float
    p: float
    permutations: int
    converged: float


@dataclass(frozen=True)
class Audit:
    """Rows, the sites and the number of persons they compare, and the sites that were left out
    since they have fewer than 5 persons.
    """

    rows: list[AuditRow]
    sites: list[str]
    persons: int
    left_out: list[str]


def histogram(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share of the in-mask voxels in 64 bins over [-1, 1] model units: (64,)."""
    counts, _ = np.histogram(np.clip(image[mask], -1, 1), BINS, (-1, 1))
    return counts / mask.sum()


def shape_features(
    mask: np.ndarray, tissues: np.ndarray | None = None, spacing_mm: float = 1.0
) -> np.ndarray:
    """What can be said without intensities: (10,), or (13,) with tissues.

    Volume (ml), extents (mm), the six second moments of the mask (mm^2), and the tissues' volumes
    (ml). Give labels of the source or the truth, the same for all methods.
    """
    where = np.argwhere(mask) * spacing_mm
    moments = np.cov(where.T)[np.triu_indices(3)]
    volume = len(where) * spacing_mm**3 / 1000
    volumes = [] if tissues is None else list(tissue_volumes(tissues, spacing_mm).values())
    return np.array([volume, *(np.ptp(where, axis=0) + spacing_mm), *moments, *volumes])


def thumbnail(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: float = 1.0,
    box: tuple[int, int, int] = BOX,
) -> np.ndarray:
    """Mean and standard deviation of the voxels in the mask, by blocks of 4 mm: (2, A, B, C).

    The standard deviation holds what the mean has lost: noise, blur, and texture finer than 4 mm.
    The brain's box is centred in `box` blocks, cropped or padded with 0 to it.
    """
    block = max(1, round(BLOCK / spacing_mm))
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
    """Crop or pad with 0 to `shape`, the middle staying in the middle."""
    for axis, (n, wanted) in enumerate(zip(volume.shape, shape, strict=True)):
        if n > wanted:
            start = (n - wanted) // 2
            volume = np.take(volume, range(start, start + wanted), axis)
    missing = [wanted - n for n, wanted in zip(volume.shape, shape, strict=True)]
    return np.pad(volume, [(n // 2, n - n // 2) for n in missing])


def logistic(
    features: np.ndarray, classes: np.ndarray, others: list[np.ndarray], seed: int
) -> tuple[list[np.ndarray], bool]:
    """Logistic regression on standardised features, classes weighted equally (a `Probe`)."""
    centre, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-12, scale, 1)
    model = LogisticRegression(class_weight="balanced", max_iter=2000)
    model.fit((features - centre) / scale, classes)
    found = [model.predict_proba((x - centre) / scale) for x in others]
    return found, bool(model.n_iter_.max() < model.max_iter)


def convnet(epochs: int = 120, rate: float = 5e-3) -> Probe:
    """A small 3D convolutional network on thumbnails, 4,000 parameters (a `Probe`).

    Trained by Adam in batches of 8, each scan moved at random by up to a block along every axis,
    until the training loss is below 0.05 or has not fallen by a hundredth for 30 epochs, or else
    for `epochs`; only the last counts as not converged. The thumbnails also show the head's shape:
    read it beside the shape probe.
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
    """Each volume of (N, C, A, B, C) moved by -1, 0 or 1 along every axis."""
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
    probe
        `logistic`, or what `convnet` returns.
    raw
        (S, ...) features of the S raw scans: histograms, shapes or thumbnails.
    outputs
        Per method (S, ...) the same of its outputs, in the same order.
    sites, persons
        (S,) where each scan was made, and of whom.
    permutations
        Shuffled runs: 200 for `logistic`; 10 to 20 are affordable for `convnet`. NaN if 0.
    seeds
        The folds, and the network's start, are drawn once for each; shuffled runs take turns.
    folds
        At most, and no more than the smallest site has persons.
    jobs
        Processes that train side by side.

    Returns
    -------
    An `Audit`, without rows if fewer than two sites have 5 persons.
    """
    if {len(sites)} != {len(persons), len(raw), *(len(each) for each in outputs.values())}:
        msg = "features, sites and persons are not of the same scans. Give one of each a scan."
        raise InputError(msg)
    pairs = set(zip(sites, persons, strict=True))
    counts = Counter(site for site, _ in pairs)
    used = sorted(site for site, count in counts.items() if count >= LEAST_PERSONS)
    left_out = sorted(set(counts) - set(used))
    keep = np.array([site in used for site in sites], dtype=bool)
    people = np.unique(np.asarray(persons)[keep], return_inverse=True)[1]
    if len(used) < 2:
        return Audit([], used, len(set(people)), left_out)
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
        chance = np.array([scores.values[index] for scores in shuffled]).reshape(-1, 2)
        rows.append(summary(method, "frozen", frozen, index, chance))
        chance = np.array([scores.values[-1] for scores in shuffled]).reshape(-1, 2)
        rows.append(summary(method, "retrained", retrained[method], 0, chance))
    return Audit(rows, used, len(set(people)), left_out)


@dataclass(frozen=True)
class Scores:
    """Balanced accuracy and AUC for each test set, and the share of folds that converged."""

    values: list[tuple[float, float]]
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
    """Train on `train` without the persons of a fold, predict their scans in each of `tests`."""
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    predicted = [np.zeros((len(classes), classes.max() + 1)) for _ in tests]
    converged = []
    for rest, held_out in split.split(train, classes, persons):
        known, relabelled = np.unique(classes[rest], return_inverse=True)
        found, done = probe(train[rest], relabelled, [test[held_out] for test in tests], seed)
        for each, probabilities in zip(predicted, found, strict=True):
            each[np.ix_(held_out, known)] = probabilities
        converged.append(done)
    return Scores([score(classes, each) for each in predicted], float(np.mean(converged)))


def score(classes: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Balanced accuracy and area under the ROC curve (mean of one site against the rest)."""
    accuracy = balanced_accuracy_score(classes, probabilities.argmax(1))
    if probabilities.shape[1] == 2:
        return accuracy, roc_auc_score(classes, probabilities[:, 1])
    return accuracy, roc_auc_score(classes, probabilities, multi_class="ovr")


def shuffle(classes: np.ndarray, persons: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sites shuffled by person: persons of one site swap theirs, whoever was at several keeps the
    set and has it shuffled over his scans.
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
    method: str, training: str, runs: list[Scores], index: int, chance: np.ndarray
) -> AuditRow:
    """Mean over the seeds, beside the scores (P, 2) of the shuffled runs."""
    accuracy, auc = np.mean([scores.values[index] for scores in runs], axis=0)
    none = np.full((1, 2), np.nan)
    percentiles = np.percentile(chance if len(chance) else none, 95, axis=0)
    as_high = (chance[:, 0] >= accuracy).sum()
    return AuditRow(
        method,
        training,
        balanced_accuracy=float(accuracy),
        auc=float(auc),
        chance=float((chance if len(chance) else none)[:, 0].mean()),
        chance_95=float(percentiles[0]),
        auc_chance_95=float(percentiles[1]),
        p=float((1 + as_high) / (1 + len(chance))) if len(chance) else float("nan"),
        permutations=len(chance),
        converged=float(np.mean([scores.converged for scores in runs])),
    )
