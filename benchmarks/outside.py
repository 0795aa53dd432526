"""Can other tools use a head whose surroundings were matched to the brain? Prints Markdown.

    python benchmarks/outside.py HEAD...

HEAD is a scan with skull. For the head and for the result of `--outside matched`: Dice of deepbet's
mask with the mask of the run, and Dice of that mask with the brain of `examples/ch2.nii.gz`, a
whole head, after a rigid and an affine registration to it (mutual information).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from isochroma.images.brain import deepbet
from isochroma.images.io import load
from isochroma.pipeline import Harmonizer

ATLAS = Path(__file__).parents[1] / "examples" / "ch2.nii.gz"


def registered(path: Path, atlas: sitk.Image) -> sitk.Transform:
    """Register a head to the atlas: rigid, then affine; mutual information, three resolutions."""
    moving = sitk.ReadImage(str(path), sitk.sitkFloat32)
    found: sitk.Transform = sitk.CenteredTransformInitializer(
        atlas, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    for kind in (sitk.Euler3DTransform, sitk.AffineTransform):
        start = sitk.AffineTransform(3) if kind is sitk.AffineTransform else found
        if kind is sitk.AffineTransform:
            rigid = sitk.Euler3DTransform(found)
            start.SetMatrix(rigid.GetMatrix())
            start.SetTranslation(rigid.GetTranslation())
            start.SetCenter(rigid.GetCenter())
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(48)
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentagePerLevel([1.0, 0.5, 0.2])
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsGradientDescentLineSearch(1.0, 100)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([8, 4, 2])
        method.SetSmoothingSigmasPerLevel([6, 4, 2])
        method.SetInitialTransform(start, inPlace=True)
        method.Execute(atlas, moving)
        found = start
    return found


def main() -> None:
    """Measure each head and print a table."""
    atlas = sitk.ReadImage(str(ATLAS), sitk.sitkFloat32)
    atlas_brain = deepbet(load(ATLAS)).mask
    harmonizer = Harmonizer.from_pretrained(outside="matched")
    print("| head | deepbet: source, matched | registered: source, matched |\n|---|---|---|")
    for name in sys.argv[1:]:
        scan = load(name)
        made = harmonizer.run(scan)
        mask = np.asanyarray(made.mask.dataobj) > 0
        found, overlap = [], []
        with tempfile.TemporaryDirectory() as folder:
            brain = save(made.mask, mask.astype(np.uint8), Path(folder) / "mask.nii.gz")
            for image in (scan, made.image):
                found.append(dice(deepbet(image).mask, mask))
                path = save(image, np.asanyarray(image.dataobj), Path(folder) / "head.nii.gz")
                to_atlas = registered(path, atlas)
                there = sitk.Resample(
                    sitk.ReadImage(str(brain)), atlas, to_atlas, sitk.sitkNearestNeighbor
                )
                overlap.append(dice(sitk.GetArrayFromImage(there).T > 0, atlas_brain))
        cells = [", ".join(f"{each:.3f}" for each in pair) for pair in (found, overlap)]
        print(f"| {Path(name).name} | {' | '.join(cells)} |", flush=True)


def save(image: nib.spatialimages.SpatialImage, data: np.ndarray, path: Path) -> Path:
    """Write data on an image's grid as NIfTI, and return the path."""
    nib.save(nib.Nifti1Image(data, image.affine), path)
    return path


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the Dice coefficient of two masks."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


if __name__ == "__main__":
    main()
