"""Fit and try the expected error (`isochroma.method.doubt`) on simulated sources with known truth.

    python experiments/doubt.py --data DIR --out OUT

DIR is the target's folder, as for `isochroma train`; its three validation scans are used. OUT keeps
each rendered source, so that a second run goes on. About 35 minutes on one core. Prints Markdown:
how much of each source its edges explain, the weights, and what is told of each kind of source.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage, optimize

sys.path.insert(0, str(Path(__file__).parent / "second_stage"))

import simulation as sim

from isochroma.checks import Doubt, check_doubt
from isochroma.evaluation.tissues import classify
from isochroma.images.brain import find_brain
from isochroma.images.grid import Grid
from isochroma.images.io import load
from isochroma.images.preprocess import Prepared, PreprocessSettings, prepare
from isochroma.method.doubt import PREDICTED, error_terms, expected_error
from isochroma.method.sampling import Revised
from isochroma.pipeline import Harmonizer

VALIDATION = ("sub-12", "sub-19", "sub-56")
SAMPLE = 60_000  # voxels of each source that the fit sees
TUMOUR_RADIUS = 15.0  # voxels
NO_MR = ("ct-quiet", "ct", "ct-noisy", "pet", "angiography", "noise", "noise-2", "noise-6")
TURNED = {"upside-down": (1, 2), "mirrored": (2,)}
TUMOURS = ("tumour-mprage-3T", "tumour-tse-t2-3T", "tumour-flair-3T")


def no_mr(head: sim.Head, kind: str, rng: np.random.Generator) -> sim.Case:
    """Make what is no MR scan: CT (Hounsfield units), PET, angiography, or noise of some width."""
    noise = rng.standard_normal(head.mask.shape)
    if kind.startswith("ct"):
        deviation = {"ct-quiet": 8, "ct": 16, "ct-noisy": 30}[kind]
        scan = ndimage.gaussian_filter(head.fractions @ np.array([8.0, 37, 29]), 0.6)
        scan += deviation * ndimage.gaussian_filter(noise, 0.5)
    elif kind == "pet":
        scan = ndimage.gaussian_filter(head.fractions @ np.array([0.0, 4, 1]), 2.7)
        scan *= 1 + 1.2 * ndimage.gaussian_filter(noise, 1.5)
    elif kind == "angiography":
        tissue = head.fractions @ np.array([0.7, 1, 1.02]) + 0.06 * noise
        scan = np.where(sim.vessel_map(head, rng), 4, tissue)
    else:
        width = float(kind.partition("-")[2] or 0)
        scan = ndimage.gaussian_filter(noise, width) if width else noise
    return sim.Case(kind, sim.as_source(scan, head.mask), head.image, head.mask)


def tumour(head: sim.Head, name: str, rng: np.random.Generator) -> sim.Case:
    """Plant a tumour of 14 ml with longer relaxation times than grey matter."""
    preset = sim.PRESETS[name.partition("-")[2]]
    tissues = sim.TISSUES[preset.field]
    deep = np.argwhere(ndimage.distance_transform_edt(head.mask) > 22)
    rough = sim.lumps(head.mask.shape, 4, rng)
    centre = deep[rng.integers(len(deep))]
    found = sim.blob(head.mask, centre, TUMOUR_RADIUS, np.ones(3), rough, 0.2, 1.5)
    assert found is not None
    box, weight = found
    target = -0.15 + sim.TARGET_NOISE * rng.standard_normal(weight.shape, dtype=np.float32)
    truth = head.image.copy()
    truth[box] += weight * (target - truth[box])
    _, grey, _ = tissues
    tissue = grey._replace(t1=grey.t1 * 1.35, t2=grey.t2 * 1.9, t2_star=grey.t2_star * 1.4)
    equation, field = sim.SEQUENCES[preset.sequence], preset.field
    contrast = sim.sequence_contrast(
        equation, dict(preset.parameters), tissues, field, rng, name.partition("-")[2]
    )
    subject = sim.Subject(head, truth, head.mask, [sim.Structure(box, weight, -0.15, tissue)])
    source = sim.show(subject, contrast, sim.preset_acquisition(preset), rng)
    inside = np.zeros(head.mask.shape, bool)
    inside[box] = weight > 0.5
    return sim.Case(name, source, truth, head.mask, {"tumour": inside})


def sources(head: sim.Head, seed: int) -> Iterator[tuple[str, Callable[[], sim.Case]]]:
    """Name every source of a head, with a function that makes it."""
    for name in sim.CASES:
        yield name, lambda name=name: sim.validation_case(head, name, seed)
    for name in NO_MR:
        yield name, lambda name=name: no_mr(head, name, np.random.default_rng([seed, 7]))
    for name in TUMOURS:
        yield name, lambda name=name: tumour(head, name, np.random.default_rng([seed, 9]))
    for name, axes in TURNED.items():
        image, mask = (np.flip(each, axes).copy() for each in (head.image, head.mask))
        yield name, lambda name=name, image=image, mask=mask: sim.Case(name, image, image, mask)


def render_all(data: Path, out: Path) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """Render every source of every validation scan, or read what is there."""
    harmonizer = Harmonizer.from_pretrained()
    for seed, subject in enumerate(VALIDATION):
        image = load(next(data.glob(f"**/{subject}*T1w.nii.gz")))
        scan = prepare(image, find_brain(image).mask, PreprocessSettings())
        head = sim.Head(scan.image, scan.mask, classify(scan.image, scan.mask)[1])
        for name, make in sources(head, seed):
            path = out / f"{subject}_{name}.npz"
            if not path.is_file():
                case = make()
                grid = Grid(case.mask.shape, scan.grid.affine)
                made = harmonizer.render(Prepared(case.source, case.mask, grid, 0.0, 1.0))
                assert made.revised is not None
                np.savez_compressed(
                    path,
                    source=case.source,
                    truth=case.truth,
                    mask=case.mask,
                    first=made.first,
                    refined=made.refined,
                    output=made.output,
                    variance=made.variance,
                    explained=made.explained,
                    revised=made.revised.image,
                    predicted=made.revised.error,
                    **{f"in {key}": region for key, region in case.regions.items()},
                )
            yield subject, name, dict(np.load(path))


def calibration_error(predicted: np.ndarray, squares: np.ndarray) -> float:
    """Compute the expected calibration error over 20 bins of equal size, share of the range."""
    parts = np.array_split(np.argsort(predicted), 20)
    apart = [abs(predicted[p].mean() ** 0.5 - squares[p].mean() ** 0.5) for p in parts]
    return float(np.mean(apart)) / 2


def main() -> None:
    """Render, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    levels = Harmonizer.from_pretrained().config.validation.error_levels
    samples: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    rows = defaultdict(list)
    for subject, name, kept in render_all(options.data, options.out):
        volumes = [kept[key] for key in ("first", "refined", "output", "source", "mask")]
        revised = Revised(kept["revised"], kept["predicted"])
        known = (*volumes, levels, float(kept["variance"]), revised)
        error, mask = expected_error(*known), kept["mask"]
        squares = (kept["output"] - kept["truth"])[mask].astype(float) ** 2
        grid = Grid(mask.shape, np.eye(4))
        doubt = Doubt.of(error, Prepared(kept["source"], mask, grid, 0.0, 1.0))
        top = error[mask] > np.quantile(error[mask], 0.9)
        worst = error[mask] > np.quantile(error[mask], 0.95)
        rows[name].append(
            {
                "explained": float(kept["explained"]),
                "error": squares.mean() ** 0.5,
                "expected": doubt.mean,
                "worst": squares[worst].sum() / squares.sum(),
                "told": bool(check_doubt(doubt)),
                "largest": doubt.regions[0].volume_ml if doubt.regions else 0.0,
                **{key: top[kept[key][mask]].mean() for key in kept if key.startswith("in ")},
            }
        )
        if name not in (*NO_MR, *TURNED):
            at = np.random.default_rng(0).choice(len(squares), SAMPLE, replace=False)
            terms = error_terms(*known)
            shown = np.stack([terms[name] for name in PREDICTED], axis=1)
            samples[subject].append((shown[at], squares[at]))
    print("| source | explained | error | expected | worst 5 % hold | largest region, ml | told |")
    print("|---|---|---|---|---|---|---|")
    for name, own in rows.items():
        cells = [f"{np.mean([r[k] for r in own]):.3f}" for k in ("error", "expected", "worst")]
        least = ", ".join(f"{r['explained']:.3f}" for r in own)
        largest = ", ".join(f"{r['largest']:.1f}" for r in own)
        told = f"{sum(r['told'] for r in own)} of {len(own)}"
        print(f"| {name} | {least} | {' | '.join(cells)} | {largest} | {told} |")
        for key in own[0]:
            if key.startswith("in "):
                share = np.mean([r[key] for r in own])
                print(f"| {key}: in the top 10 % of voxels | {share:.2f} | | | | | |")

    def fit(chosen: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        return optimize.nnls(*(np.concatenate(each) for each in zip(*chosen, strict=True)))[0]

    print(
        "\nweights of",
        ", ".join(PREDICTED),
        fit([pair for own in samples.values() for pair in own]).round(2),
    )
    for subject in VALIDATION:
        weights = fit([pair for other in VALIDATION if other != subject for pair in samples[other]])
        terms, squares = (np.concatenate(each) for each in zip(*samples[subject], strict=True))
        found = calibration_error(terms @ weights, squares)
        print(f"without {subject}: {weights.round(2)}, calibration error on it {found:.4f}")


if __name__ == "__main__":
    main()
