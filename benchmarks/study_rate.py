"""Scans an hour of `isochroma bids`: python benchmarks/study_rate.py BIDS OUT [--kill].

Harmonizes a BIDS data set with each split of the cores into workers and threads, and with --kill
ends a run of one split at a random moment without warning, runs it again, and compares the outputs.
The clock runs from the command to its end: start of Python and workers, and loading of the model,
are included. Core seconds are processor time of all processes, which other programs on the machine
disturb less. Memory is the sum over all processes, sampled every 0.1 s.
"""

from __future__ import annotations

import argparse
import random
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from isochroma.files import sha256


class Run(NamedTuple):
    """A run of the command: exit status, clock, processor time, peak memory and last line."""

    status: int
    seconds: float
    core_seconds: float
    peak_gb: float
    summary: str


def command(study: Path, out: Path, extra: list[str], kill_after: float | None = None) -> Run:
    """Run `isochroma bids`, and kill it after some seconds if told to."""
    words = [sys.executable, "-m", "isochroma", "bids", str(study), str(out), "participant", *extra]
    start, peak, spent = time.monotonic(), 0, core_seconds()
    process = psutil.Popen(words, stderr=subprocess.PIPE, text=True)
    family = [process]
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            # unique memory: pages that processes share, of libraries say, count once
            peak = max(peak, sum(each.memory_full_info().pss for each in family))
        except psutil.Error:
            pass
        if kill_after is not None and time.monotonic() - start > kill_after:
            process.kill()
            kill_after = None
        time.sleep(0.1)
    seconds = time.monotonic() - start
    psutil.wait_procs(family, timeout=60)
    alive = [each for each in family if each.is_running()]
    if alive:
        print(f"{len(alive)} processes outlived the command", file=sys.stderr)
    lines = process.stderr.read().splitlines()
    last = lines[-1] if lines else ""
    return Run(process.returncode, seconds, core_seconds() - spent, peak / 1e9, last)


def core_seconds() -> float:
    """Return the processor time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def images(out: Path) -> dict[str, str]:
    """Return the hash of each volume by its path."""
    return {str(path.relative_to(out)): sha256(path) for path in sorted(out.rglob("sub-*.nii.gz"))}


def main() -> None:
    """Run the splits, and the interrupted run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path, help="folder for the derivatives")
    parser.add_argument("--split", action="append", help="workers x threads, such as 2x1 (repeat)")
    parser.add_argument("--kill", action="store_true", help="also kill a run, and resume it")
    parser.add_argument("--seed", type=int, default=0, help="of the moment")
    parser.add_argument("--options", default="", help="options of isochroma bids, in quotes")
    options = parser.parse_args()
    print("split\tscans\tseconds\tscans an hour\tcore s a scan\tpeak GB\tstatus\tsummary")
    for split in options.split or ["1x2", "2x1"]:
        workers, threads = split.split("x")
        extra = ["--nprocs", workers, "--omp-nthreads", threads, *shlex.split(options.options)]
        run = command(options.study, options.out / split, extra)
        scans = len(images(options.out / split)) // 2  # volume and mask
        rate, cores = 3600 * scans / run.seconds, run.core_seconds / max(scans, 1)
        row = (split, scans, f"{run.seconds:.0f}", f"{rate:.0f}", f"{cores:.0f}")
        print(*row, f"{run.peak_gb:.2f}", run.status, run.summary, sep="\t", flush=True)
    if options.kill:
        moment = random.Random(options.seed).uniform(0.2, 0.8) * run.seconds
        killed = command(options.study, options.out / "killed", extra, moment)
        found = images(options.out / "killed")
        print(f"killed after {moment:.0f} s: status {killed.status}, {len(found)} volumes there")
        again = command(options.study, options.out / "killed", extra)
        same = images(options.out / "killed") == images(options.out / split)
        print(f"resumed: status {again.status}, {again.seconds:.0f} s; {again.summary}")
        print(f"outputs {'equal' if same else 'DIFFER FROM'} those of the run that was not killed")


if __name__ == "__main__":
    main()
