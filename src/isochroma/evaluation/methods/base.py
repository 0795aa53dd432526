"""The interface of a compared method, and the registry of all methods.

A method sees the target scanner's training scans once (`fit`) and then one prepared source scan at
a time (`apply`), whose contrast it is not told. To add a method, write it in a module of its own,
decorate it with `register`, and import that module in `isochroma.evaluation.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from isochroma.errors import InputError
from isochroma.images.preprocess import Prepared

Factory = TypeVar("Factory", bound=Callable[..., "Method"])


class Method(Protocol):
    """What a compared method provides.

    Attributes
    ----------
    name : str
        Title in tables and figures, unique within an evaluation.
    version : int
        Raised by one whenever the same settings would give other outputs, so that stored outputs
        are computed anew.
    settings : dict
        Everything that, with the target scans and the seed, determines the outputs: plain JSON,
        with the version.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def fit(self, target: Sequence[Prepared]) -> None:
        """Learn from the target's training scans, and from nothing else.

        Parameters
        ----------
        target : sequence of Prepared
            Training scans of the target scanner.
        """

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Harmonize one scan.

        Parameters
        ----------
        scan : Prepared
            The source, in model units.
        seed : int
            Seed of random choices, if the method makes any.

        Returns
        -------
        output : (I, J, K) ndarray of float32
            In the target's model units, not clipped; 0 outside the mask.
        """


class Stateless:
    """Base of methods that learn nothing from the target."""

    def fit(self, target: Sequence[Prepared]) -> None:
        """Learn nothing."""


class Uncorrected:
    """Base of methods that get the scan without the correction of its bias field (N4)."""


class Control:
    """Base of negative controls, which no score should reward and no verdict is against."""


class Role(IntEnum):
    """What a method is in the comparison for, in the order of reports."""

    UNPROCESSED = 0
    REFERENCE = 1
    ISOCHROMA = 2
    CONTROL = 3


class Entry(NamedTuple):
    """A registered method.

    Attributes
    ----------
    make : callable
        Builds the method, given the name or folder of isochroma's model.
    role : Role
        What it is in the comparison for.
    quick : bool
        Whether a quick evaluation includes it.
    """

    make: Callable[[str], Method]
    role: Role
    quick: bool


METHODS: dict[str, Entry] = {}
"""The registered methods by the name that users ask for, in the order of reports."""


def register(
    name: str, role: Role, *, quick: bool = False, takes_model: bool = False
) -> Callable[[Factory], Factory]:
    """Make a decorator that enters a method into `METHODS`.

    Parameters
    ----------
    name : str
        How users ask for the method.
    role : Role
        What it is in the comparison for.
    quick : bool
        Whether a quick evaluation includes it.
    takes_model : bool
        Whether the decorated class or function is called with the name of isochroma's model
        instead of with nothing.

    Returns
    -------
    decorator : callable
        Registers a class or function and returns it unchanged.
    """

    def add(factory: Factory) -> Factory:
        make = factory if takes_model else lambda model: factory()
        METHODS[name] = Entry(make, role, quick)
        ordered = sorted(METHODS.items(), key=lambda item: item[1].role)
        METHODS.clear()
        METHODS.update(ordered)
        return factory

    return add


def method_names(quick: bool = False) -> list[str]:
    """List the registered methods.

    Parameters
    ----------
    quick : bool
        Whether to list the methods of a quick evaluation only.

    Returns
    -------
    names : list of str
        In the order of reports.
    """
    return [name for name, entry in METHODS.items() if entry.quick or not quick]


def named_methods(names: Sequence[str], model: str = "default") -> list[Method]:
    """Build registered methods.

    Parameters
    ----------
    names : sequence of str
        Keys of `METHODS`.
    model : str
        Name or folder of the model that isochroma's own methods use.

    Returns
    -------
    methods : list of Method
        One a name, not fitted.

    Raises
    ------
    InputError
        If a name is unknown.
    """
    for name in names:
        if name not in METHODS:
            msg = f"method {name!r} is unknown; choose from {', '.join(METHODS)}."
            raise InputError(msg, "method")
    return [METHODS[name].make(model) for name in names]
