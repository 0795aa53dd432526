"""isochroma: blind 3D harmonization of brain MR scans.

The public API is `Harmonizer`; it is imported when first asked for, so that importing the package
costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isochroma.method.sampling import SamplingSettings
    from isochroma.pipeline import Harmonizer

__version__ = "0.1.0"
__all__ = ["Harmonizer", "SamplingSettings", "__version__"]


def __getattr__(name: str) -> object:
    if name in {"Harmonizer", "SamplingSettings"}:
        from isochroma import pipeline
        from isochroma.method import sampling

        return getattr(pipeline if name == "Harmonizer" else sampling, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
