"""Downstream task 2, age: does a predictor made from the target scanner's scans work on others?

Voxel-based: smoothed tissue maps in a common space, reduced to principal components, ridge
regression (after Franke et al. 2010, doi:10.1016/j.neuroimage.2010.01.005). All of it, the space
included, is built from the target's training scans.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, RepeatedKFold, cross_val_predict
from sklearn.pipeline import Pipeline

from isochroma.errors import InputError

FWHM_MM = 8.0
SIGMA_MM = FWHM_MM / np.sqrt(8 * np.log(2))
MARGIN_MM = 16.0
SUPPORT = 0.2  # mean grey plus white matter in the template's voxels that count as brain
COMPONENTS = (2, 4, 8, 16, 32)
ALPHAS = np.logspace(-2, 6, 33)
FOLDS, REPEATS = 5, 2


@dataclass(frozen=True)
class CommonSpace:
    """The mean brain of the target's training scans, onto which every scan is aligned.

    An affine (12 degrees of freedom) takes each scan there, so that position, head size and
    proportions are equal. The maps are not modulated by its Jacobian determinant: that of an affine
    is one number, the brain's size against the mean, which tells sex rather than age. Atrophy,
    the part of the brain's outline that tissue fills, stays in the maps.

    template
        (X, Y, Z, 2) float32, mean smoothed probabilities of grey and white matter.
    voxel_mm
        Edge of the template's voxels.
    spacing_mm
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
        maps
            (I, J, K, 2) probabilities of grey and white matter of each scan, on its model grid;
            taken one by one, and not kept.
        spacing_mm, voxel_mm
            Of the model grid and of the template.
        rounds
            How often to align them to their average.

        Raises
        ------
        InputError
            If there are no scans, or one without tissue.
        """
        scans = [_smooth(scan, spacing_mm, voxel_mm) for scan in maps]
        if not scans:
            msg = "no tissue maps to build the common space from. Give the target's training scans."
            raise InputError(msg)
        extents = [np.multiply(scan.GetSize(), scan.GetSpacing()) for scan in scans]
        shape = np.ceil(np.max(extents, axis=0) / voxel_mm).astype(int)[::-1]
        space = cls(np.zeros((*shape, 2), dtype=np.float32), voxel_mm, spacing_mm)
        aligned = [sitk.Resample(scan, space._image()) for scan in scans]
        for _ in range(rounds):
            space = space._averaging(aligned)
            aligned = [_align(scan, space._image()) for scan in scans]
        return space._averaging(aligned)

    def align(self, maps: np.ndarray) -> np.ndarray:
        """Smooth one scan's maps (I, J, K, 2), FWHM 8 mm, and take them to the template's grid.

        Returns
        -------
        (X, Y, Z, 2) float32.

        Raises
        ------
        InputError
            If the maps hold no tissue, or cannot be aligned.
        """
        scan = _smooth(maps, self.spacing_mm, self.voxel_mm)
        return sitk.GetArrayFromImage(_align(scan, self._image()))

    def features(self, maps: np.ndarray) -> np.ndarray:
        """The aligned maps inside the template's brain: (F,) float32."""
        return self.align(maps)[self.template.sum(-1) > SUPPORT].ravel()

    def _averaging(self, aligned: list[sitk.Image]) -> CommonSpace:
        mean = np.mean([sitk.GetArrayViewFromImage(image) for image in aligned], axis=0)
        return replace(self, template=mean)

    def _image(self) -> sitk.Image:
        """The template as an image whose middle is the origin."""
        image = sitk.GetImageFromArray(self.template, isVector=True)
        image.SetSpacing([self.voxel_mm] * 3)
        image.SetOrigin([-self.voxel_mm * (n - 1) / 2 for n in image.GetSize()])
        return image


def _smooth(maps: np.ndarray, spacing_mm: float, voxel_mm: float) -> sitk.Image:
    """Smoothed maps with room around them, their centre of mass at the origin, on about half of
    the template's voxel size.
    """
    tissue = maps.sum(-1)
    if not tissue.sum() > 0:
        msg = "the maps hold no grey or white matter. Check the segmentation."
        raise InputError(msg)
    margin = round(MARGIN_MM / spacing_mm)
    padded = np.pad(maps.astype(np.float32), [(margin, margin)] * 3 + [(0, 0)])
    image = sitk.GetImageFromArray(padded, isVector=True)
    image.SetSpacing([spacing_mm] * 3)
    centre = np.array(ndimage.center_of_mass(tissue)) + margin
    image.SetOrigin([-c * spacing_mm for c in centre[::-1]])
    shrunk = sitk.BinShrink(image, [max(1, int(voxel_mm / (2 * spacing_mm)))] * 3)
    return sitk.SmoothingRecursiveGaussian(shrunk, SIGMA_MM)


def _align(scan: sitk.Image, template: sitk.Image) -> sitk.Image:
    """Affine registration by SimpleITK of grey plus white matter, which a segmenter that mistakes
    one for the other leaves alone: mean squares of all voxels, so without chance; two resolutions.
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
        transform = method.Execute(_tissue(template), _tissue(scan))
    except RuntimeError as error:
        msg = "the tissue maps cannot be aligned to the common space. Check the segmentation."
        raise InputError(msg) from error
    return sitk.Resample(scan, template, transform)


def _tissue(maps: sitk.Image) -> sitk.Image:
    grey, white = (sitk.VectorIndexSelectionCast(maps, index) for index in (0, 1))
    return grey + white


class AgeRegressor(RegressorMixin, BaseEstimator):
    """Principal components and ridge regression, by scikit-learn.

    The features are probabilities in one unit and are not standardised, which would lift the noise
    at the brain's rim. Cross-validation inside the training scans chooses the number of components,
    leave-one-out the ridge's strength.

    Parameters
    ----------
    seed
        Of the folds.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, features: np.ndarray, ages: np.ndarray) -> AgeRegressor:
        """Fit to the features (N, F) of scans whose ages (N,), years, are known.

        Raises
        ------
        InputError
            If there are fewer than ten scans, or a value is missing.
        """
        features, ages = np.asarray(features, dtype=np.float64), np.asarray(ages, dtype=np.float64)
        if len(ages) < 2 * FOLDS or not (np.isfinite(ages).all() and np.isfinite(features).all()):
            msg = (
                f"{len(ages)} scans, {np.isfinite(ages).sum()} of known age, are no basis for an "
                f"age regressor. Give {2 * FOLDS} or more, all with ages and complete features."
            )
            raise InputError(msg)
        folds = RepeatedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=self.seed)
        most = min(min(len(train) for train, _ in folds.split(features)) - 1, features.shape[1])
        search = GridSearchCV(
            Pipeline([("pca", PCA(svd_solver="full")), ("ridge", RidgeCV(ALPHAS))]),
            {"pca__n_components": sorted({min(number, most) for number in COMPONENTS})},
            scoring="neg_mean_squared_error",
            cv=folds,
        )
        # A rotation without loss of the N scans into N dimensions, so that each fold is cheap.
        self.model_ = Pipeline([("rotation", PCA(svd_solver="full")), ("search", search)])
        self.model_.fit(features, ages)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Ages (N,), years, from features (N, F)."""
        return self.model_.predict(np.asarray(features, dtype=np.float64))


def cross_validated(
    features: np.ndarray, ages: np.ndarray, folds: int = 10, seed: int = 0
) -> np.ndarray:
    """Each training scan's age (N,), predicted by regressors that have not seen it.

    To be read first: where they are no better than the mean age (R2 about 0), the regressor has no
    skill at home, and its errors on harmonized scans say nothing of harmonization.
    """
    split = KFold(folds, shuffle=True, random_state=seed)
    return cross_val_predict(AgeRegressor(seed), features, ages, cv=split)


def scores(age: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """How well ages (N,) are predicted (N,), years.

    Returns
    -------
    MAE
        Mean absolute error, years. Lower is better.
    R2
        1 - sum((predicted - age)^2) / sum((age - mean age)^2): 1 is perfect, 0 no better than
        these scans' mean age, negative worse. Higher is better. NaN if all are of one age.
    bias
        Mean of predicted - age, years: positive where the scans look older than they are. Nearer
        to 0 is better.
    r
        Pearson correlation in [-1, 1], blind to bias and scale. Higher is better. NaN if all ages
        or all predictions are equal.
    """
    age, predicted = np.asarray(age, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    error = predicted - age
    varies = np.ptp(age) > 0
    related = varies and np.ptp(predicted) > 0
    return {
        "MAE": float(np.abs(error).mean()),
        "R2": float(1 - np.mean(error**2) / age.var()) if varies else float("nan"),
        "bias": float(error.mean()),
        "r": float(np.corrcoef(age, predicted)[0, 1]) if related else float("nan"),
    }
