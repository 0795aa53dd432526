"""A common space: the mean brain of the target's training scans, to align every scan to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.evaluation.tissues import GREY, WHITE

VERSION = 1
FWHM_MM = 8.0  # of the smoothing, as Franke et al. 2010, doi:10.1016/j.neuroimage.2010.01.005
SIGMA_MM = FWHM_MM / np.sqrt(8 * np.log(2))
MARGIN_MM = 16.0  # room for the smoothing: two FWHM
SUPPORT = 0.2  # mean grey plus white matter in the template's voxels that count as brain


class Placement(NamedTuple):
    """Where a scan lies in the common space.

    Attributes
    ----------
    centre : (3,) ndarray
        Voxel of the scan that the affine takes for the origin.
    affine : (12,) ndarray
        SimpleITK's parameters of the affine from the common space to the scan, mm.
    """

    centre: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class CommonSpace:
    """The mean brain of the target's training scans, onto which every scan is aligned.

    An affine (12 degrees of freedom) takes each scan there, so that position, head size and
    proportions are equal. The maps are not modulated by its Jacobian determinant: that of an affine
    is one number, the brain's size against the mean, which tells sex rather than age. Atrophy,
    the part of the brain's outline that tissue fills, stays in the maps.

    Attributes
    ----------
    template : (X, Y, Z, 2) ndarray of float32
        Mean smoothed probabilities of grey and white matter.
    voxel_mm : float
        Edge of the template's voxels.
    spacing_mm : float
        Edge of the model grid's voxels.
    """

    template: np.ndarray
    voxel_mm: float
    spacing_mm: float

    @classmethod
    def build(
        cls,
        maps: Iterable[np.ndarray],
        spacing_mm: float = 1.0,
        voxel_mm: float = 4.0,
        rounds: int = 2,
    ) -> CommonSpace:
        """Average the scans at their centres of mass, then align them to the average in rounds.

        Parameters
        ----------
        maps : iterable of (I, J, K, 2) ndarray
            Probabilities of grey and white matter of each scan, on its model grid; taken one by
            one, and not kept.
        spacing_mm, voxel_mm : float
            Edge of the voxels of the model grid and of the template.
        rounds : int
            How often the scans are aligned to their average.

        Returns
        -------
        space : CommonSpace
            The last average.

        Raises
        ------
        InputError
            If there are no scans, or one without tissue.
        """
        scans = [_smooth(scan, centre_of(scan), spacing_mm, voxel_mm) for scan in maps]
        if not scans:
            msg = "no tissue maps to build the common space from. Give the target's training scans."
            raise InputError(msg)
        extents = [np.multiply(scan.GetSize(), scan.GetSpacing()) for scan in scans]
        shape = np.ceil(np.max(extents, axis=0) / voxel_mm).astype(int)[::-1]
        space = cls(np.zeros((*shape, 2), dtype=np.float32), voxel_mm, spacing_mm)
        aligned = [sitk.Resample(scan, space._image()) for scan in scans]
        for _ in range(rounds):
            space = space._averaging(aligned)
            template = space._image()
            aligned = [sitk.Resample(scan, template, _align(scan, template)) for scan in scans]
        return space._averaging(aligned)

    def locate(self, maps: np.ndarray) -> Placement:
        """Find where a scan lies.

        Parameters
        ----------
        maps : (I, J, K, 2) ndarray
            Probabilities of grey and white matter.

        Returns
        -------
        placement : Placement
            For `place`.

        Raises
        ------
        InputError
            If the maps hold no tissue, or cannot be aligned.
        """
        centre = centre_of(maps)
        scan = _smooth(maps, centre, self.spacing_mm, self.voxel_mm)
        return Placement(centre, np.array(_align(scan, self._image()).GetParameters()))

    def place(self, volumes: np.ndarray, placement: Placement) -> np.ndarray:
        """Smooth volumes of one scan (8 mm FWHM) and take them to the template's grid.

        Parameters
        ----------
        volumes : (I, J, K, C) ndarray
            On the grid of the maps that the scan was located by; 0 outside the brain.
        placement : Placement
            What `locate` found.

        Returns
        -------
        placed : (X, Y, Z, C) ndarray of float32
            The volumes where the template lies.
        """
        scan = _smooth(volumes, placement.centre, self.spacing_mm, self.voxel_mm)
        affine = sitk.AffineTransform(3)
        affine.SetParameters(placement.affine.tolist())
        return sitk.GetArrayFromImage(sitk.Resample(scan, self._image(), affine))

    @property
    def brain(self) -> np.ndarray:
        """The template's voxels that count as brain: (X, Y, Z) bool."""
        return self.template.sum(-1) > SUPPORT

    def _averaging(self, aligned: list[sitk.Image]) -> CommonSpace:
        mean = np.mean([sitk.GetArrayViewFromImage(image) for image in aligned], axis=0)
        return replace(self, template=mean)

    def _image(self) -> sitk.Image:
        """Convert the template to an image whose middle is the origin."""
        image = sitk.GetImageFromArray(self.template, isVector=True)
        image.SetSpacing([self.voxel_mm] * 3)
        image.SetOrigin([-self.voxel_mm * (n - 1) / 2 for n in image.GetSize()])
        return image


def centre_of(maps: np.ndarray) -> np.ndarray:
    """Return the centre of mass (3,) of grey and white matter, voxels.

    Raises
    ------
    InputError
        If there is neither.
    """
    tissue = maps.sum(-1)
    if not tissue.sum() > 0:
        msg = "the maps hold no grey or white matter. Check the segmentation."
        raise InputError(msg)
    return np.array(ndimage.center_of_mass(tissue))


def _smooth(
    volumes: np.ndarray, centre: np.ndarray, spacing_mm: float, voxel_mm: float
) -> sitk.Image:
    """Smooth padded volumes, the centre at the origin, on half the template's voxels."""
    margin = round(MARGIN_MM / spacing_mm)
    padded = np.pad(volumes.astype(np.float32), [(margin, margin)] * 3 + [(0, 0)])
    image = sitk.GetImageFromArray(padded, isVector=True)
    image.SetSpacing([spacing_mm] * 3)
    image.SetOrigin([-(c + margin) * spacing_mm for c in centre[::-1]])
    shrunk = sitk.BinShrink(image, [max(1, int(voxel_mm / (2 * spacing_mm)))] * 3)
    return sitk.SmoothingRecursiveGaussian(shrunk, SIGMA_MM)


def _align(scan: sitk.Image, template: sitk.Image) -> sitk.AffineTransform:
    """Find the affine from the template to one scan (SimpleITK).

    Grey plus white matter is registered, which a segmenter that mistakes one for the other leaves
    alone. Mean squares of all voxels, two resolutions: nothing is drawn at random.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # one order of summation
    method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=100
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 0.0])
    method.SetInitialTransform(sitk.AffineTransform(3), inPlace=False)
    try:
        found = method.Execute(_tissue(template), _tissue(scan))
    except RuntimeError as error:
        msg = "the tissue maps cannot be aligned to the common space. Check the segmentation."
        raise InputError(msg) from error
    return sitk.AffineTransform(sitk.CompositeTransform(found).GetNthTransform(0))


def _tissue(maps: sitk.Image) -> sitk.Image:
    grey, white = (sitk.VectorIndexSelectionCast(maps, index) for index in (0, 1))
    return grey + white


def matter(probabilities: np.ndarray) -> np.ndarray:
    """Take grey and white matter (I, J, K, 2) from the probabilities (I, J, K, 3) of all."""
    return probabilities[..., [GREY - 1, WHITE - 1]]
