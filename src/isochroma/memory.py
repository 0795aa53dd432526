"""How much memory a scan needs, and how much this process took at its peak."""

from __future__ import annotations

import threading

import psutil

INTERVAL_S = 0.01
BASE_GB = 0.5  # Python and its libraries
SCAN_BYTES = 16  # a voxel of the scan: its data, masks, the result
GRID_BYTES = 130  # a voxel of the model grid, in the refinement; resampling and N4 take less
EXTRACTION_GB = 0.85  # deepbet


def needed_gb(scan_voxels: int, grid_voxels: int = 0) -> float:
    """Estimate the peak memory of harmonizing a scan, without the network's activations.

    The constants lie 5 to 25 % above what was measured on heads of 5 to 134 million voxels.

    Parameters
    ----------
    scan_voxels : int
        Voxels of the scan.
    grid_voxels : int
        Voxels of the model grid.

    Returns
    -------
    needed : float
        GB (10^9 bytes), Python included.
    """
    return BASE_GB + (SCAN_BYTES * scan_voxels + GRID_BYTES * grid_voxels) / 1e9


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
