from __future__ import annotations

import time

import numpy as np

from isochroma.memory import PeakMemory


class TestPeakMemory:
    def test_a_large_array_is_seen(self) -> None:
        """100 MB that live for 0.1 s raise the peak of their lap, and of no other."""
        with PeakMemory() as memory:
            before = memory.lap()
            array = np.ones(100_000_000 // 8)
            time.sleep(0.1)
            del array
            assert 80 < memory.lap() - before < 300
            assert memory.lap() - before < 50
