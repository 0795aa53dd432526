"""Run cases in forked processes, so that none can take the others with it."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import psutil

from isochroma.errors import InputError
from isochroma.images.io import has_volume_suffix, stem

VERDICTS = ("refused", "right", "wrong", "traceback", "hang", "memory", "partial files")
MEMORY_GB = 4
LIMIT_S = 60  # a case that has not ended by then hangs


class Case(NamedTuple):
    """One input.

    Attributes
    ----------
    kind : str
        What is malformed.
    number : int
        Seeds the random choices, together with the kind's name.
    run : callable
        Makes the input in a folder and reads it. It returns whether what was accepted is right, and
        raises `InputError` for what is refused.
    """

    kind: str
    number: int
    run: Callable[[np.random.Generator, Path], bool]


class Outcome(NamedTuple):
    """What became of a case: one of `VERDICTS`, its message, and its cost."""

    verdict: str
    detail: str = ""
    seconds: float = 0.0
    peak_gb: float = 0.0


@dataclass
class Worker:
    """A process that runs cases one after the other."""

    process: BaseProcess
    cases: list[Case]
    since: float


def run_all(batches: Iterable[list[Case]], jobs: int) -> Iterator[tuple[Case, Outcome]]:
    """Run each batch in a process of its own, `jobs` at once; yield the outcomes as they come.

    A case that ends its process is counted, and those behind it get another process.
    """
    waiting = deque(batches)
    running: dict[Connection, Worker] = {}
    gc.collect()
    gc.freeze()  # what was made so far is shared by all processes
    while waiting or running:
        while waiting and len(running) < jobs:
            pipe, worker = start(waiting.popleft())
            running[pipe] = worker
        ready = wait(list(running), timeout=1)
        for pipe, worker in list(running.items()):
            seconds = time.monotonic() - worker.since
            outcome = None
            if pipe in ready:
                with contextlib.suppress(EOFError):
                    outcome = pipe.recv()
            elif seconds > LIMIT_S:
                worker.process.kill()
                outcome = Outcome("hang", f"still running after {LIMIT_S} s", seconds)
            else:
                continue
            if outcome is None:
                worker.process.join()
                status = worker.process.exitcode
                if status:
                    outcome = Outcome("traceback", f"the process died: {status}", seconds)
            if outcome is not None:
                yield worker.cases.pop(0), outcome
                worker.since = time.monotonic()
            if not worker.cases or seconds > LIMIT_S or worker.process.exitcode is not None:
                worker.process.join()
                pipe.close()
                del running[pipe]
                if worker.cases:
                    waiting.append(worker.cases)


def start(cases: list[Case]) -> tuple[Connection, Worker]:
    """Start a process that runs cases and sends their outcomes."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=attempt, args=(cases, theirs))
    process.start()
    theirs.close()
    return mine, Worker(process, list(cases), time.monotonic())


def attempt(cases: list[Case], pipe: Connection) -> None:
    """Run cases within the bound on memory, and send their outcomes."""
    silence()
    limit = psutil.Process().memory_info().vms + MEMORY_GB * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for case in cases:
        with TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
            outcome = outcome_of(case, Path(folder))
            pipe.send(outcome)
        if outcome.verdict == "memory":
            return  # the largest size of a process never falls


def silence() -> None:
    """Let this process print nothing."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


def outcome_of(case: Case, folder: Path) -> Outcome:
    """Run a case in an empty folder."""
    temporary = folder / "temporary"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    rng = np.random.default_rng([*case.kind.encode(), case.number])
    start = time.monotonic()
    try:
        verdict, detail = ("right" if case.run(rng, folder) else "wrong"), ""
    except BaseException as error:  # whatever it is, it is counted
        verdict, detail = verdict_of(error), f"{type(error).__name__}: {error}"
    tempfile.tempdir = None
    left = leavings(folder)
    if left:
        verdict, detail = "partial files", ", ".join(left)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    if peak_gb > MEMORY_GB:
        verdict, detail = "memory", f"{peak_gb:.1f} GB, {detail}"
    return Outcome(verdict, detail, time.monotonic() - start, peak_gb)


def verdict_of(error: BaseException) -> str:
    """Tell a refusal of one printable line from what no user should see."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
            return "memory"
        cause = cause.__cause__ or cause.__context__
    return "refused" if isinstance(error, InputError) and str(error).isprintable() else "traceback"


def leavings(folder: Path) -> list[str]:
    """List what a writer should have taken away: temporary files, and outputs without a sidecar."""
    left = [path for path in folder.rglob("*") if path.name.startswith((".isochroma-", "tmp"))]
    temporary = (folder / "temporary").iterdir()
    left += (path for path in temporary if not path.name.startswith("pymp-"))  # until exit
    images = [path for path in (folder / "out").glob("*") if has_volume_suffix(path)]
    left += (path for path in images if not sidecar_of(path).is_file())
    return [str(path.relative_to(folder)) for path in left]


def sidecar_of(image: Path) -> Path:
    """Return the sidecar of a harmonized image or of its mask."""
    return image.with_name(f"{stem(image).removesuffix('_mask').removesuffix('_uncertainty')}.json")
