"""Thick slices, contrasts together: python benchmarks/thick_slices.py --data DIR --out OUT.

Tables. Simulated: the target's test scans as T1w, T2w and FLAIR scanners show them in slices
of 2 to 7 mm, against the scan itself; beside it the same refinement without the slices' average,
and scans of one head in 5 mm slices along three axes rendered alone and together. Real: T2w scans
of 5 mm (OpenNeuro ds000011) against the same people's 3D T1w scans, and one MS patient's T1w, T2w
and FLAIR scans of 3 to 4 mm at two visits, all rendered and registered. Regions: what a program
labels (`--segmenter 'CMD {input} {output}'`) in these T2w scans as they are and rendered, against
the 3D T1w scans. OUT keeps every scan's result, so that a stopped run goes on. Nothing is chosen on
these scans.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from held_out import participants

from isochroma.evaluation.measures.regions import Regions, mean_dice, variation
from isochroma.evaluation.phantoms.acquisition import acquire
from isochroma.evaluation.phantoms.sequences import PRESETS
from isochroma.evaluation.program import run_program
from isochroma.evaluation.regions import as_labels
from isochroma.evaluation.store import Store
from isochroma.evaluation.tissues import classify
from isochroma.images import metrics
from isochroma.images.brain import find_brain
from isochroma.images.grid import Grid, resample, resample_mask
from isochroma.images.io import load
from isochroma.images.masked import extend_outside
from isochroma.images.preprocess import Prepared, prepare
from isochroma.images.registration import register_rigidly
from isochroma.pipeline import Harmonizer
from isochroma.together import harmonize_together

SCANNERS = ("mprage-3T", "tse-t2-3T", "flair-3T")
SLICES = [(mm, 2) for mm in (2, 3, 5, 7)] + [(5, 0), (5, 1)]  # thickness in mm, axis
AXES = "xyz"
TOGETHER = {
    "T2w z + FLAIR y": [("tse-t2-3T", 2), ("flair-3T", 1)],
    "T1w x + T2w z": [("mprage-3T", 0), ("tse-t2-3T", 2)],
    "T1w x + T2w z + FLAIR y": [("mprage-3T", 0), ("tse-t2-3T", 2), ("flair-3T", 1)],
}
MS = ("T1w", "T2w", "FLAIR")
LEAST_ML = 1.0  # of a region that counts


class Rendered(NamedTuple):
    """What a scan became on its model grid, model units."""

    output: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    affine: np.ndarray


class Work:
    """Render scans, and keep what they become."""

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out = data, out
        self.harmonizer = Harmonizer.from_pretrained("default")
        config = self.harmonizer.config
        self.store = Store(out / "cache")
        self.key = (config.sha256, config.reviser_sha256)
        rows = participants(data / "target_ds002748")
        self.people = [row["participant_id"] for row in rows if row["split"] == "test"]

    def truth(self, person: str) -> tuple[Prepared, np.ndarray]:
        """Return a test scan on its model grid, and its tissue fractions."""
        path = self.data / "target_ds002748" / f"{person}_T1w.nii.gz"

        def make() -> tuple[Prepared, np.ndarray]:
            scan = load(path)
            made = prepare(scan, find_brain(scan).mask, self.harmonizer.config.preprocess)
            return made, classify(made.image, made.mask)[1]

        return self.store.get(("truth", person), make)

    def simulated(self, person: str, scanner: str, mm: int, axis: int) -> Path:
        """Write a test subject's head as a scanner shows it in slices."""
        path = self.out / "scans" / f"{person}_{scanner}_{mm}mm_{AXES[axis]}.nii.gz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            prepared, fractions = self.truth(person)
            edges = [1.0, 1.0, 1.0]
            edges[axis] = float(mm)
            preset = dataclasses.replace(PRESETS[scanner], voxel_mm=tuple(edges))
            seed = [self.people.index(person), SCANNERS.index(scanner), mm, axis]
            image = acquire(prepared, fractions, preset, np.random.default_rng(seed))
            nib.save(image, path)
        return path

    def render(self, path: Path, aware: bool = True) -> Rendered:
        """Render a scan; without being aware of thick slices if that is asked for."""

        def make() -> Rendered:
            harmonizer = self.harmonizer
            scan = load(path)
            source = prepare(scan, find_brain(scan).mask, harmonizer.preprocess)
            rendering = harmonizer.render(
                source if aware else dataclasses.replace(source, blur=None)
            )
            doubt = harmonizer._doubt(source, rendering)
            assert doubt is not None
            return Rendered(rendering.output, doubt.error, source.mask, source.grid.affine)

        name = str(path.relative_to(self.data if path.is_relative_to(self.data) else self.out))
        return self.store.get(("rendered", name, aware, *self.key), make)

    def labels(self, path: Path, command: str, rendered: bool) -> np.ndarray:
        """Return the regions that a program finds in a scan, as it is or rendered."""
        made = self.render(path)

        def make() -> np.ndarray:
            scan = load(path)
            source = prepare(scan, find_brain(scan).mask, self.harmonizer.preprocess)
            shown = made.output if rendered else source.image
            found = run_program("segmenter", command, dataclasses.replace(source, image=shown))
            return as_labels(found, "segmenter")

        return self.store.get(
            ("labels", path.name, path.parent.name, command, rendered, *self.key), make
        )

    def together(self, paths: Sequence[Path]) -> Rendered:
        """Render scans of one head together."""

        def make() -> Rendered:
            result = harmonize_together(self.harmonizer, paths)
            assert result.doubt is not None
            source = result.source
            output = result.rendering.output
            return Rendered(output, result.doubt.error, source.mask, source.grid.affine)

        return self.store.get(("together", *(path.name for path in paths), *self.key), make)


def over(one: Rendered, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Bring an output and its mask to another grid."""
    own = Grid(one.mask.shape, one.affine)
    output = resample(extend_outside(one.output, one.mask), own, grid)
    return output, resample_mask(one.mask, own, grid)


def ssim(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    """Return the SSIM of two images in model units."""
    return metrics.ssim(first.clip(-1, 1) + 1, second.clip(-1, 1) + 1, mask, 2)


def dice(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean Dice of three tissues, by the classical segmenter."""
    one, other = (
        classify(np.where(mask, image.clip(-1, 1), 0), mask)[0] for image in (first, second)
    )
    found = [
        2 * ((one == t) & (other == t)).sum() / ((one == t).sum() + (other == t).sum())
        for t in (1, 2, 3)
    ]
    return float(np.mean(found))


def spread(values: Sequence[float]) -> str:
    """Write a mean with the range."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def simulated(work: Work, people: Sequence[str]) -> None:
    """Print the tables of simulated scans."""
    print(f"Simulated, n = {len(people)}: SSIM with the truth, mean and range\n")
    print("| scanner | slices | isochroma | without their average | tissue Dice |")
    print("|---|---|---|---|---|", flush=True)
    for scanner, (mm, axis) in itertools.product(SCANNERS, SLICES):
        columns: list[list[float]] = [[], [], []]
        for person in people:
            truth = work.truth(person)[0]
            path = work.simulated(person, scanner, mm, axis)
            for column, aware in zip(columns, (True, False), strict=False):
                output, mask = over(work.render(path, aware), truth.grid)
                both = truth.mask & mask
                column.append(ssim(output, truth.image, both))
                if aware and mm == 5:
                    columns[2].append(dice(output, truth.image, both))
        cells = [spread(each) if each else "" for each in columns]
        print(f"| {scanner} | {mm} mm, {AXES[axis]} | {' | '.join(cells)} |", flush=True)


def together(work: Work, people: Sequence[str]) -> None:
    """Print the table of several simulated scans of one head."""
    print(f"\n5 mm slices of one head, n = {len(people)}: SSIM with the truth; mean errors\n")
    print(
        "| scans | each alone | together | better than the best alone | expected / actual error |"
    )
    print("|---|---|---|---|---|", flush=True)
    for name, parts in TOGETHER.items():
        alone, both, better, errors = [], [], 0, []
        for person in people:
            truth = work.truth(person)[0]
            paths = [work.simulated(person, scanner, 5, axis) for scanner, axis in parts]
            made = [over(work.render(path), truth.grid) for path in paths]
            fused = work.together(paths)
            output, mask = over(fused, truth.grid)
            mask = mask & truth.mask & np.logical_and.reduce([inside for _, inside in made])
            alone.append([ssim(each, truth.image, mask) for each, _ in made])
            both.append(ssim(output, truth.image, mask))
            better += both[-1] > max(alone[-1])
            expected = np.sqrt(np.mean(fused.error[fused.mask] ** 2))
            actual = np.sqrt(np.mean((output - truth.image)[mask] ** 2))
            errors.append((expected, actual))
        each = " / ".join(f"{value:.3f}" for value in np.mean(alone, axis=0))
        expected, actual = np.mean(errors, axis=0)
        told = f"{expected:.3f} / {actual:.3f}"
        print(
            f"| {name} | {each} | {spread(both)} | {better} of {len(people)} | {told} |", flush=True
        )


def moved_over(first: Rendered, second: Rendered) -> Rendered:
    """Move the second output's grid so that the head lies over the first one's."""
    grid, own = (Grid(each.mask.shape, each.affine) for each in (first, second))
    motion = register_rigidly(first.output, first.mask, grid, second.output, second.mask, own)
    return second._replace(affine=np.linalg.inv(motion) @ second.affine)


def registered(first: Rendered, second: Rendered) -> tuple[np.ndarray, np.ndarray]:
    """Bring the second output over the first one, and return it with the common mask."""
    grid, moved = Grid(first.mask.shape, first.affine), moved_over(first, second)
    output, mask = over(moved, grid)
    return output, mask & first.mask


def pairs_of(work: Work) -> list[tuple[str, Path, Path]]:
    """List person, 3D T1w scan and T2w scan of 5 mm."""
    clinical, found = work.data / "clinical_ds000011", []
    for path in sorted(clinical.glob("*_T2w.nii.gz")):
        person = path.name.split("_")[0]
        name = f"{person}_T1w.nii.gz"
        folder = clinical if (clinical / name).is_file() else work.data / "source_ds000011"
        found.append((person, folder / name, path))
    return found


def real(work: Work) -> None:
    """Print the tables of real scans."""
    print("\nReal: T2w of 5 mm against the same person's 3D T1w, both rendered and registered\n")
    print("| person | SSIM | tissue Dice |")
    print("|---|---|---|", flush=True)
    for person, t1w_path, path in pairs_of(work):
        t1w = work.render(t1w_path)
        moved, both = registered(t1w, work.render(path))
        found = ssim(moved, t1w.output, both), dice(moved, t1w.output, both)
        print(f"| {person} | {found[0]:.3f} | {found[1]:.3f} |", flush=True)
    print(
        "\nOne MS patient, T1w, T2w, FLAIR of 3 to 4 mm at two visits: SSIM, rendered, registered\n"
    )
    print("| scans | SSIM |")
    print("|---|---|", flush=True)
    scans = {
        (visit, contrast): work.data / "clinical_ms" / f"ms01_ses-0{visit}_{contrast}.nii.gz"
        for visit in (1, 2)
        for contrast in MS
    }
    pairs = [pair for pair in itertools.combinations(scans, 2) if pair[0][0] == pair[1][0]]
    pairs += [((1, contrast), (2, contrast)) for contrast in MS]
    for one, other in pairs:
        first = work.render(scans[one])
        moved, both = registered(first, work.render(scans[other]))
        names = " and ".join(f"{contrast}, visit {visit}" for visit, contrast in (one, other))
        print(f"| {names} | {ssim(moved, first.output, both):.3f} |", flush=True)


def compared(
    first: np.ndarray, second: np.ndarray, both: np.ndarray, large: np.ndarray, voxel_ml: float
) -> Regions:
    """Put two sets of labels on one grid beside each other."""
    ml = [[float((each == n).sum()) * voxel_ml for each in (first, second)] for n in large]
    return Regions(first[both], second[both], large, np.array(ml))


def regions(work: Work, command: str, people: int) -> None:
    """Print the table of regions, of the first so many people."""
    print("\nRegions in a T2w scan of 5 mm against those in the same person's 3D T1w scan\n")
    print(
        "| person | T2w: Dice | rendered T2w: Dice | rendered T1w: Dice | CV, % | rendered: CV, % |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    for person, *paths in pairs_of(work)[:people]:
        first, second = (work.render(path) for path in paths)
        t1w, rendered_t1w, *t2w = (
            work.labels(path, command, rendered) for path in paths for rendered in (False, True)
        )
        fixed, moved = Grid(first.mask.shape, first.affine), moved_over(first, second)
        own = Grid(moved.mask.shape, moved.affine)
        both = resample_mask(moved.mask, own, fixed) & first.mask
        there = [
            np.rint(resample(each.astype(np.float32), own, fixed, order=0)).astype(int)
            for each in t2w
        ]
        values, counts = np.unique(t1w[t1w > 0], return_counts=True)
        large = values[counts * fixed.voxel_ml >= LEAST_ML]

        one = partial(compared, both=both, large=large, voxel_ml=fixed.voxel_ml)
        dices = [mean_dice(one(t1w, each)) for each in (*there, rendered_t1w)]
        spreads = [variation(one(t1w, there[0])), variation(one(rendered_t1w, there[1]))]
        cells = [*(f"{value:.3f}" for value in dices), *(f"{value:.1f}" for value in spreads)]
        print(f"| {person} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--out", type=Path, required=True, help="what is there is not repeated")
    parser.add_argument("--people", type=int, default=4, help="test subjects that are simulated")
    parser.add_argument("--parts", nargs="*", default=["real", "simulated", "together"])
    parser.add_argument("--segmenter", help="labels regions: 'COMMAND {input} {output}'")
    options = parser.parse_args()
    work = Work(options.data.resolve(), options.out.resolve())
    if "real" in options.parts:
        real(work)
    if "simulated" in options.parts:
        simulated(work, work.people[: options.people])
    if "together" in options.parts:
        together(work, work.people[: options.people])
    if options.segmenter:
        regions(work, options.segmenter, options.people)


if __name__ == "__main__":
    main()
