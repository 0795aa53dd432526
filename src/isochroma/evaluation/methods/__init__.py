"""Compared methods behind one interface: reference methods, isochroma, negative controls.

Each module holds one family and registers its methods; importing this package fills `METHODS`.
"""

from isochroma.evaluation.methods.base import (
    METHODS,
    Control,
    Entry,
    Method,
    Role,
    Stateless,
    Uncorrected,
    method_names,
    named_methods,
    register,
)
from isochroma.evaluation.methods.blindharmony import BlindHarmony
from isochroma.evaluation.methods.command import Command
from isochroma.evaluation.methods.controls import N4, Blur, Raw, TargetMean
from isochroma.evaluation.methods.histograms import (
    HistogramMatching,
    HistogramMatchingWithoutN4,
    Nyul,
    SSIMHistogramMatching,
)
from isochroma.evaluation.methods.linear import WhiteStripe, ZScore
from isochroma.evaluation.methods.ours import Ours

__all__ = [
    "METHODS",
    "N4",
    "BlindHarmony",
    "Blur",
    "Command",
    "Control",
    "Entry",
    "HistogramMatching",
    "HistogramMatchingWithoutN4",
    "Method",
    "Nyul",
    "Ours",
    "Raw",
    "Role",
    "SSIMHistogramMatching",
    "Stateless",
    "TargetMean",
    "Uncorrected",
    "WhiteStripe",
    "ZScore",
    "method_names",
    "named_methods",
    "register",
]
