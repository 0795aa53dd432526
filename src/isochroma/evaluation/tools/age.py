"""Age from what a scan shows in the common space: principal components and ridge regression.

After Franke et al. 2010, doi:10.1016/j.neuroimage.2010.01.005, with ridge regression for their
relevance vector machine. The features are in one unit and are not standardised, which would lift
the noise at the brain's rim; all components are kept, and leave-one-out chooses the strength of the
ridge inside the training scans. Nothing else is chosen.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline

from isochroma.errors import InputError

ALPHAS = np.logspace(-2, 6, 33)  # strengths of the ridge that are tried
LEAST_SCANS = 10
FOLDS = 10


def fit_age(features: np.ndarray, ages: np.ndarray) -> Pipeline:
    """Fit a regressor to scans of known age.

    Parameters
    ----------
    features : (N, F) ndarray
        As `isochroma.evaluation.downstream.Findings` has them.
    ages : (N,) ndarray
        Years.

    Returns
    -------
    regressor : Pipeline
        Fitted; its `predict` takes features (M, F) to ages (M,).

    Raises
    ------
    InputError
        If there are fewer than ten scans, or a value is missing.
    """
    if len(ages) < LEAST_SCANS or not (np.isfinite(ages).all() and np.isfinite(features).all()):
        msg = (
            f"{len(ages)} scans, {np.isfinite(ages).sum()} of known age, are no basis for an age "
            f"regressor. Give {LEAST_SCANS} or more, all with ages and complete features."
        )
        raise InputError(msg)
    regressor = make_pipeline(PCA(svd_solver="full"), RidgeCV(ALPHAS))
    return regressor.fit(np.asarray(features, np.float64), ages)


def cross_validated(
    features: np.ndarray, ages: np.ndarray, persons: np.ndarray, folds: int = FOLDS, seed: int = 0
) -> np.ndarray:
    """Predict each scan's age by regressors that have not seen the person.

    Where these predictions are no better than the mean age (R2 about 0), the regressor has no skill
    at home, and its errors at other sites say nothing of harmonization.

    Parameters
    ----------
    features : (N, F) ndarray
        As for `fit_age`.
    ages : (N,) ndarray
        Years.
    persons : (N,) ndarray
        Who was scanned; scans of one person stay in one fold.
    folds : int
        Parts that the persons are split into.
    seed : int
        Seed of the split.

    Returns
    -------
    predicted : (N,) ndarray
        Years.
    """
    predicted = np.full(len(ages), np.nan)
    split = GroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in split.split(features, groups=persons):
        predicted[test] = fit_age(features[train], ages[train]).predict(features[test])
    return predicted
