"""Worker processes that simulate training subjects and validation sources.

Workers are forked before a GPU is used. Arrays travel as files in a folder in memory, and their
names through a queue.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from packing import unpack
from simulation import CASES, Head, make_subject, random_source, validation_case

from isochroma.method.edges import EdgeSettings, canny

SETTINGS = EdgeSettings(sigma=1.0, fraction=0.16, low_ratio=0.5)
FORK = multiprocessing.get_context("fork")
EARLY = 48  # subjects that come before the validation sources


def scratch_folder(least_gb: float = 8) -> Path:
    """Make a folder in memory if it has room, else on the disk."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > least_gb * 2**30:
        return Path(tempfile.mkdtemp(prefix="reviser-", dir=memory))
    return Path(tempfile.mkdtemp(prefix="reviser-"))


class Supply:
    """Run the workers and their queue.

    Parameters
    ----------
    scans : Path
        Folder of packed scans, `train_*.scan` and `val_*.scan`.
    workers : int
        Number of processes.
    seed : int
        Job n depends on the seed and n alone.
    cases : tuple of str
        Names of the validation sources to make of each validation scan.
    shrink : int
        For trials on a CPU: edge of a central box to keep of each head; 0 for the whole head.
    """

    def __init__(
        self, scans: Path, workers: int, seed: int, cases: tuple[str, ...] = CASES, shrink: int = 0
    ) -> None:
        self.scratch = scratch_folder()
        self.train = sorted(scans.glob("train_*.scan"))
        self.val = sorted(scans.glob("val_*.scan"))
        if not self.train or not self.val:
            msg = f"{scans}: no packed scans"
            raise FileNotFoundError(msg)
        self.seed, self.shrink = seed, shrink
        pairs = [(path, case) for case in cases for path in self.val]
        self.jobs: list[Any] = [("case", *pair) for pair in pairs]
        self.early = EARLY if workers > 2 else 2
        self.next = FORK.Value("l", 0)
        self.queue = FORK.Queue(maxsize=3 * workers)
        self.processes = [
            FORK.Process(target=self.work, args=(number, workers), daemon=True)
            for number in range(workers)
        ]
        for process in self.processes:
            process.start()

    def job(self, number: int) -> tuple[str, Path, Any]:
        """Return job n: the first subjects, the validation sources, then more subjects."""
        late = number - self.early
        if 0 <= late < len(self.jobs):
            return self.jobs[late]
        index = number if late < 0 else number - len(self.jobs)
        turn = np.random.default_rng([self.seed, index // len(self.train)])
        chosen = turn.permutation(len(self.train))[index % len(self.train)]
        return "subject", self.train[chosen], index

    def work(self, number: int, workers: int) -> None:
        """Unpack a share of the scans, then do job after job."""
        os.nice(5)
        for path in (self.val + self.train)[number::workers]:
            self.opened(path)
        while True:
            with self.next.get_lock():
                job, self.next.value = self.next.value, self.next.value + 1
            start = time.perf_counter()
            try:
                kind, path, what = self.job(job)
                head = self.opened(path)
                arrays = self.make_case(head, what) if kind == "case" else self.make(head, what)
                out = self.scratch / f"job{job}.npz"
                np.savez(out, **arrays)
                name = path.stem.removeprefix("val_")
                self.queue.put((kind, name, what, out, time.perf_counter() - start))
            except Exception:  # a bad draw must not end the run
                self.queue.put(("error", "", traceback.format_exc(), None, 0.0))

    def opened(self, path: Path) -> Head:
        """Open a scan, which is unpacked once for all workers."""
        stored = self.scratch / f"{path.stem}.npz"
        if not stored.is_file():
            head = unpack(path.read_bytes())
            if self.shrink:
                centre = [n // 2 for n in head.mask.shape]
                box = tuple(slice(c - self.shrink // 2, c + self.shrink // 2) for c in centre)
                faces = np.zeros((self.shrink,) * 3, dtype=bool)
                faces[4:-4, 4:-4, 4:-4] = True
                mask = head.mask[box] & faces
                head = Head(
                    np.where(mask, head.image[box], 0), mask, head.fractions[box] * mask[..., None]
                )
            parts = np.rint(head.fractions * 255).astype(np.uint8)
            temporary = stored.with_name(f"{stored.stem}-{os.getpid()}.partial.npz")
            np.savez(temporary, image=head.image.astype(np.float32), mask=head.mask, parts=parts)
            temporary.replace(stored)
        with np.load(stored) as found:
            parts = found["parts"].astype(np.float32)
            parts /= np.maximum(parts.sum(-1, keepdims=True), 1)
            return Head(found["image"], found["mask"], parts)

    def make(self, head: Head, index: int) -> dict[str, np.ndarray]:
        """Make a subject with two sources and their edges."""
        rng = np.random.default_rng([self.seed, 1, index])
        subject = make_subject(head, rng)
        sources = [random_source(subject, rng) for _ in range(2)]
        edges = [canny(source, subject.mask, SETTINGS) for source in sources]
        return {
            "truth": subject.truth.astype(np.float16),
            "planted": subject.planted().astype(np.float16),
            "mask": subject.mask,
            "sources": np.stack(sources).astype(np.float16),
            "edges": np.stack(edges),
        }

    def make_case(self, head: Head, case: str) -> dict[str, np.ndarray]:
        """Make a validation source with its edges, truth, regions and lesions."""
        made = validation_case(head, case, seed=7)
        regions = {f"region_{name}": region for name, region in made.regions.items()}
        lesions = {f"lesion_{name}": found for name, found in made.lesions.items()}
        return {
            "truth": made.truth.astype(np.float32),
            "mask": made.mask,
            "sources": made.source[None].astype(np.float32),
            "edges": canny(made.source, made.mask, SETTINGS)[None],
            **regions,
            **lesions,
        }

    def close(self) -> None:
        """End the workers and remove the files."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(timeout=2)
        shutil.rmtree(self.scratch, ignore_errors=True)
