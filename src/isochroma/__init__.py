"""isochroma: blind 3D harmonization of brain MR scans.

The public names are imported when they are first asked for, so that importing the package costs
nothing.

Examples
--------
>>> from isochroma import Harmonizer
>>> harmonizer = Harmonizer.from_pretrained("default")
>>> harmonizer("sub-01_T1w.nii.gz").to_filename("sub-01_harmonized.nii.gz")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from isochroma.version import __version__

if TYPE_CHECKING:
    from isochroma.errors import InputError
    from isochroma.method.sampling import ComputeSettings
    from isochroma.models.folder import load_model
    from isochroma.pipeline import Harmonizer, Result, SamplingSettings
    from isochroma.training.adapt import adapt
    from isochroma.training.fit import train

__all__ = [
    "ComputeSettings",
    "Harmonizer",
    "InputError",
    "Result",
    "SamplingSettings",
    "__version__",
    "adapt",
    "load_model",
    "train",
]

_HOMES = {
    "ComputeSettings": "isochroma.method.sampling",
    "Harmonizer": "isochroma.pipeline",
    "InputError": "isochroma.errors",
    "Result": "isochroma.pipeline",
    "SamplingSettings": "isochroma.pipeline",
    "adapt": "isochroma.training.adapt",
    "load_model": "isochroma.models.folder",
    "train": "isochroma.training.fit",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
