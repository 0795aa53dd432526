"""What the scheduler costs: python benchmarks/scheduler_limit.py [--tasks N] [--slots N].

Sends tasks through the same code as `isochroma bids` to local workers. The work of a scan is
replaced by a sleep; each worker process takes many tasks at a time, so that two processes stand for
a cluster. Prints how many tasks end in a second, and the memory of the process that holds the
scheduler.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from distributed import Client, LocalCluster

from isochroma.cohort.cluster import NO_DASHBOARD, configured
from isochroma.cohort.plan import Scan
from isochroma.cohort.run import harmonize_scans
from isochroma.cohort.work import Outcome
from isochroma.memory import PeakMemory

PROCESSES = 2


def sleep(seconds: float, scan: Scan) -> Outcome:
    """Stand for the work on a scan."""
    time.sleep(seconds)
    return Outcome(scan)


def main() -> None:
    """Send the tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=100, help="tasks at a time")
    parser.add_argument("--seconds", type=float, default=0.0, help="length of the sleep")
    options = parser.parse_args()
    scans = [
        Scan(
            Path("/data/study"),
            f"sub-{number:06}/ses-1/anat/sub-{number:06}_ses-1_T1w.nii.gz",
            {"sub": f"{number:06}", "ses": "1"},
            "T1w",
        )
        for number in range(options.tasks)
    ]
    with (
        configured(1),
        LocalCluster(
            n_workers=PROCESSES,
            threads_per_worker=options.slots // PROCESSES,
            security=True,
            dashboard_address=NO_DASHBOARD,
        ) as cluster,
        Client(cluster) as client,
        PeakMemory() as memory,
    ):
        before, start, first = memory.lap(), time.monotonic(), 0.0
        for number, _ in enumerate(harmonize_scans(client, partial(sleep, options.seconds), scans)):
            first = first or time.monotonic() - start
            assert number < options.tasks
        seconds = time.monotonic() - start
        print(
            f"{options.tasks} tasks of {options.seconds} s, {options.slots} at a time: "
            f"{seconds:.1f} s, {options.tasks / seconds:.0f} a second, the first after "
            f"{first:.1f} s; memory {before:.0f} MB before, {memory.lap():.0f} MB at most"
        )


if __name__ == "__main__":
    main()
