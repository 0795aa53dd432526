"""Send the scans of a study to workers, and collect what became of them."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

from distributed import Client, as_completed
from distributed.scheduler import KilledWorker

from isochroma.cohort.plan import Scan
from isochroma.cohort.work import Outcome, Recipe
from isochroma.errors import one_line
from isochroma.pipeline import Harmonizer

READERS = 4  # threads that hash scans
BATCH = 1000  # tasks in a message to the scheduler
WINDOW = 50  # scans over which the rate is averaged


def split_finished(
    recipe: Recipe, harmonizer: Harmonizer, scans: Iterable[Scan]
) -> tuple[list[Scan], list[Scan]]:
    """Tell the scans whose outputs are there from those that must be harmonized.

    A scan is finished if its sidecar names the same content of the file (by hash), model and
    settings.

    Parameters
    ----------
    recipe : Recipe
        How the scans are harmonized.
    harmonizer : Harmonizer
        With the recipe's model and settings, on any device.
    scans : iterable of Scan
        All of them.

    Returns
    -------
    waiting, finished : list of Scan
    """

    def is_finished(scan: Scan) -> bool:
        try:
            return recipe.job(harmonizer, scan).is_finished(replace=True)
        except OSError:
            return False  # a worker will say why

    scans = list(scans)
    with ThreadPoolExecutor(READERS) as pool:
        known = list(pool.map(is_finished, scans))
    waiting = [scan for scan, finished in zip(scans, known, strict=True) if not finished]
    return waiting, [scan for scan, finished in zip(scans, known, strict=True) if finished]


def harmonize_scans(
    client: Client, work: Callable[[Scan], Outcome], scans: Iterable[Scan]
) -> Iterator[Outcome]:
    """Harmonize scans on the workers of a client.

    All scans are sent at once (12 kB each), and the scheduler holds them back until a worker is
    free: it knows how many are left, and asks a cluster for workers accordingly. A scan whose
    workers died more often than the scheduler allows is tried again at the end, alone, since it may
    have been another's fault, or memory may then suffice. If that fails, it is given up.

    Parameters
    ----------
    client : Client
        Of a Dask cluster.
    work : callable
        `harmonize_scan` with a recipe.
    scans : iterable of Scan
        The inputs.

    Yields
    ------
    outcome : Outcome
        In the order in which they end.
    """
    suspects = []
    for outcome in _send(client, work, list(scans)):
        if isinstance(outcome, Scan):
            suspects.append(outcome)
        else:
            yield outcome
    for scan in suspects:
        for outcome in _send(client, work, [scan]):
            if isinstance(outcome, Scan):
                why = "its worker was killed each time: out of memory? Give workers more memory."
                outcome = Outcome(scan, failure=why)
            yield outcome


def _send(
    client: Client, work: Callable[[Scan], Outcome], scans: list[Scan]
) -> Iterator[Outcome | Scan]:
    """Yield outcomes, and scans whose workers died."""
    # one group, which the scheduler may hold back; new keys, so that a scan can be sent again
    keys = [f"scan-{uuid.uuid4()}-{scan.name}" for scan in scans]
    futures = client.map(work, scans, key=keys, pure=False, batch_size=BATCH)
    sent = dict(zip((future.key for future in futures), scans, strict=True))
    done = as_completed(futures, loop=client.loop)
    del futures  # else results stay with the workers, and are lost and redone with them
    for future in done:
        scan = sent.pop(future.key)
        outcome: Outcome | Scan
        try:
            outcome = future.result()  # waits, if it was lost with its worker and is made again
        except KilledWorker:
            outcome = scan
        except CancelledError:
            outcome = Outcome(scan, failure="the scheduler was lost. Run the command again.")
        except Exception as error:
            outcome = Outcome(scan, failure=f"{type(error).__name__}: {one_line(error)}")
        yield outcome


class Rate:
    """How fast the scans end, over the last 50 of them.

    Parameters
    ----------
    total : int
        All scans.
    clock : callable
        Returns seconds.

    Examples
    --------
    >>> times = iter([0.0, 30.0, 60.0])
    >>> rate = Rate(200, clock=lambda: next(times))
    >>> rate.count(); rate.count()
    >>> print(rate)
    120 scans an hour, 1 h 39 min left
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self.clock = clock
        self.ends = deque([clock()], maxlen=WINDOW + 1)

    def count(self) -> None:
        """Count one more scan."""
        self.done += 1
        self.ends.append(self.clock())

    @property
    def an_hour(self) -> float:
        """Scans an hour; 0 before the first."""
        span = self.ends[-1] - self.ends[0]
        return 3600 * (len(self.ends) - 1) / span if span > 0 else 0.0

    def __str__(self) -> str:
        if not self.an_hour:
            return f"{self.total} scans"
        minutes = round(60 * (self.total - self.done) / self.an_hour)
        return f"{self.an_hour:.0f} scans an hour, {minutes // 60} h {minutes % 60:02} min left"
