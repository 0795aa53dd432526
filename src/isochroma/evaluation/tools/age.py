"""An age predictor made from the target's training scans alone.

Voxel-based: smoothed tissue maps in a common space, reduced to principal components, ridge
regression (after Franke et al. 2010, doi:10.1016/j.neuroimage.2010.01.005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from isochroma.evaluation.tissues import GREY, WHITE

VERSION = 1
FWHM_MM = 8.0  # of the smoothing, as Franke et al.
SIGMA_MM = FWHM_MM / np.sqrt(8 * np.log(2))
MARGIN_MM = 16.0  # room for the smoothing: two FWHM
SUPPORT = 0.2  # mean grey plus white matter in the template's voxels that count as brain
COMPONENTS = (2, 4, 8, 16, 32)  # numbers of principal components that are tried
ALPHAS = np.logspace(-2, 6, 33)  # strengths of the ridge that are tried
FOLDS, REPEATS = 5, 2  # of the cross-validation that chooses the number of components


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
        """Smooth one scan's maps (8 mm FWHM) and take them to the template's grid.

        Parameters
        ----------
        maps : (I, J, K, 2) ndarray
            Probabilities of grey and white matter.

        Returns
        -------
        aligned : (X, Y, Z, 2) ndarray of float32
            The maps where the template lies.

        Raises
        ------
        InputError
            If the maps hold no tissue, or cannot be aligned.
        """
        scan = _smooth(maps, self.spacing_mm, self.voxel_mm)
        return sitk.GetArrayFromImage(_align(scan, self._image()))

    def features(self, maps: np.ndarray) -> np.ndarray:
        """Align the maps and take the voxels of the template's brain: (F,) float32."""
        return self.align(maps)[self.template.sum(-1) > SUPPORT].ravel()

    def _averaging(self, aligned: list[sitk.Image]) -> CommonSpace:
        mean = np.mean([sitk.GetArrayViewFromImage(image) for image in aligned], axis=0)
        return replace(self, template=mean)

    def _image(self) -> sitk.Image:
        """Convert the template to an image whose middle is the origin."""
        image = sitk.GetImageFromArray(self.template, isVector=True)
        image.SetSpacing([self.voxel_mm] * 3)
        image.SetOrigin([-self.voxel_mm * (n - 1) / 2 for n in image.GetSize()])
        return image


def _smooth(maps: np.ndarray, spacing_mm: float, voxel_mm: float) -> sitk.Image:
    """Smooth the padded maps, their centre of mass at the origin, on half the template's voxels."""
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
    """Align one scan to the template by an affine (SimpleITK).

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
        transform = method.Execute(_tissue(template), _tissue(scan))
    except RuntimeError as error:
        msg = "the tissue maps cannot be aligned to the common space. Check the segmentation."
        raise InputError(msg) from error
    return sitk.Resample(scan, template, transform)


def _tissue(maps: sitk.Image) -> sitk.Image:
    grey, white = (sitk.VectorIndexSelectionCast(maps, index) for index in (0, 1))
    return grey + white


class AgeRegressor(RegressorMixin, BaseEstimator):
    """Predict ages by principal components and ridge regression (scikit-learn).

    The features are probabilities in one unit and are not standardised, which would lift the noise
    at the brain's rim. Cross-validation inside the training scans chooses the number of components,
    leave-one-out the ridge's strength.

    Parameters
    ----------
    seed : int
        Seed of the folds.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, features: np.ndarray, ages: np.ndarray) -> AgeRegressor:
        """Fit to scans whose ages are known.

        Parameters
        ----------
        features : (N, F) ndarray
            As `CommonSpace.features` returns them.
        ages : (N,) ndarray
            Years.

        Returns
        -------
        regressor : AgeRegressor
            This one.

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
        """Predict the ages (N,), years, from features (N, F)."""
        return self.model_.predict(np.asarray(features, dtype=np.float64))


def cross_validated(
    features: np.ndarray, ages: np.ndarray, folds: int = 10, seed: int = 0
) -> np.ndarray:
    """Predict each training scan's age by regressors that have not seen it.

    Where these predictions are no better than the mean age (R2 about 0), the regressor has no skill
    at home, and its errors on harmonized scans say nothing of harmonization.

    Parameters
    ----------
    features : (N, F) ndarray
        As `CommonSpace.features` returns them.
    ages : (N,) ndarray
        Years.
    folds : int
        Parts that the scans are split into.
    seed : int
        Seed of the folds.

    Returns
    -------
    predicted : (N,) ndarray
        Years.
    """
    split = KFold(folds, shuffle=True, random_state=seed)
    return cross_val_predict(AgeRegressor(seed), features, ages, cv=split)


def r_squared(age: np.ndarray, predicted: np.ndarray) -> float:
    """Return the coefficient of determination of predicted ages.

    1 - sum((predicted - age)^2) / sum((age - mean age)^2): 1 is perfect, 0 no better than these
    scans' mean age, negative worse.

    Parameters
    ----------
    age, predicted : (N,) ndarray
        Years.

    Returns
    -------
    r2 : float
        At most 1; NaN if all scans are of one age.
    """
    age, predicted = np.asarray(age, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if not np.ptp(age) > 0:
        return float("nan")
    return float(1 - np.mean((predicted - age) ** 2) / age.var())


@dataclass(frozen=True)
class AgeModel:
    """The age predictor and its skill on the target's own training scans.

    Attributes
    ----------
    space : CommonSpace
        Where tissue maps are compared.
    regressor : AgeRegressor
        From aligned maps to ages.
    error, r2 : float
        Mean absolute error (years) and R2 of the cross-validated predictions.
    mean_age_error : float
        Mean absolute error (years) of always saying the other scans' mean age.
    """

    space: CommonSpace
    regressor: AgeRegressor
    error: float
    r2: float
    mean_age_error: float

    def predict(self, probabilities: np.ndarray) -> float:
        """Predict the age, years, from the probabilities (I, J, K, 3) of the tissues."""
        features = self.space.features(matter(probabilities))
        return float(self.regressor.predict(features[None])[0])


def fit_age(maps: Callable[[], Iterable[np.ndarray]], ages: np.ndarray) -> AgeModel:
    """Build the common space, fit the regressor, and measure its skill.

    Parameters
    ----------
    maps : callable
        Gives the maps (I, J, K, 2) of all training scans, one by one; called twice.
    ages : (N,) ndarray
        Years, NaN where unknown; scans of unknown age shape the common space only.

    Returns
    -------
    model : AgeModel
        The fitted predictor.
    """
    known = np.isfinite(ages)
    space = CommonSpace.build(maps())
    features = np.stack([space.features(each) for each in maps()])[known]
    ages = ages[known]
    apart = np.abs(ages - (ages.sum() - ages) / (len(ages) - 1))  # from the others' mean
    regressor = AgeRegressor().fit(features, ages)
    predicted = cross_validated(features, ages)
    error = float(np.abs(predicted - ages).mean())
    return AgeModel(space, regressor, error, r_squared(ages, predicted), float(apart.mean()))


def matter(probabilities: np.ndarray) -> np.ndarray:
    """Take grey and white matter (I, J, K, 2) from the probabilities (I, J, K, 3) of all."""
    return probabilities[..., [GREY - 1, WHITE - 1]]
