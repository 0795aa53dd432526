"""Named stages of the work: how long each takes, and events for whoever wants to show progress.

A function marks its stages with `stage` and reports progress with `advance`. Both cost nothing if
nobody listens, and neither needs an argument: listeners belong to the calling context, as log
handlers do.

Examples
--------
>>> with record() as seconds:
...     with stage("edges"):
...         pass
>>> list(seconds)
['edges']
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Event(NamedTuple):
    """What a listener is told.

    Attributes
    ----------
    stage : str
        Name of the running stage; empty for progress outside all stages.
    done, total : int
        Progress of that stage; 0 of 1 when it starts.
    seconds : float or None
        Wall-clock duration when the stage ends, otherwise None.
    """

    stage: str
    done: int = 0
    total: int = 1
    seconds: float | None = None


Listener = Callable[[Event], None]

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_current: ContextVar[str] = ContextVar("current", default="")


def _tell(event: Event) -> None:
    for listener in _listeners.get():
        listener(event)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the events of the body to a listener, beside those that listen already.

    Parameters
    ----------
    listener : callable
        Called with each `Event`.
    """
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Mark the body as a stage.

    Parameters
    ----------
    name : str
        Short name, as it appears in sidecars and benchmarks.
    """
    token = _current.set(name)
    _tell(Event(name))
    start = time.perf_counter()
    try:
        yield
        _tell(Event(name, 1, 1, time.perf_counter() - start))
    finally:
        _current.reset(token)


def advance(done: int, total: int) -> None:
    """Report progress of the running stage.

    Parameters
    ----------
    done, total : int
        Units of work finished, and in all.
    """
    _tell(Event(_current.get(), done, total))


@contextmanager
def record() -> Iterator[dict[str, float]]:
    """Collect the duration of every stage of the body.

    Yields
    ------
    seconds : dict of str to float
        Wall-clock seconds by stage, in the order in which they ended; repeated stages are summed.
    """
    seconds: dict[str, float] = {}

    def add(event: Event) -> None:
        if event.seconds is not None:
            seconds[event.stage] = round(seconds.get(event.stage, 0.0) + event.seconds, 3)

    with listening(add):
        yield seconds
