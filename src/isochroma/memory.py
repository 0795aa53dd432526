"""Peak memory of this process."""

from __future__ import annotations

import threading

import psutil

INTERVAL_S = 0.01


class PeakMemory:
    """Sample the resident memory of this process every 10 ms while the context is entered.

    Examples
    --------
    >>> with PeakMemory() as memory:
    ...     values = [0.0] * 1000
    >>> memory.lap() > 0
    True
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._peak = 0.0

    def __enter__(self) -> PeakMemory:
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_S):
            self.look()

    def look(self) -> float:
        """Sample once and return the peak of the current lap.

        Returns
        -------
        peak : float
            Resident memory, MB (10^6 bytes).
        """
        self._peak = max(self._peak, self._process.memory_info().rss / 1e6)
        return self._peak

    def lap(self) -> float:
        """Return the peak since the last lap and start the next lap.

        Returns
        -------
        peak : float
            Resident memory, MB (10^6 bytes).
        """
        peak, self._peak = self.look(), 0.0
        return peak
