"""Workers: processes of this machine, jobs of a SLURM cluster, or a Dask cluster that is there.

Every connection that is made here is encrypted and authenticated by certificates that live as long
as the run: other users of the machine or the cluster cannot send work to it.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT

from isochroma.errors import InputError, one_line

HEAD_GB = 2.0  # peak of a worker with a 1 mm head and one thread
SLURM_GB = 4.0  # of a job, unless told otherwise
DEATHS = 2  # workers that a scan may take with it before it is tried alone
CONNECT_SECONDS = 30
NO_DASHBOARD = "127.0.0.1:0"  # any free port, for this machine only

SETTINGS = {
    # a worker holds no results, so there is nothing to spill and no reason to pause
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
    "distributed.scheduler.allowed-failures": DEATHS - 1,
    # a worker gets its next scan when it has none, so that its death concerns one scan
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.logging.distributed": "critical",
}
"""Settings of Dask for few long tasks that may end their worker."""


@dataclass(frozen=True)
class Workers:
    """How many workers, and what each may use.

    Attributes
    ----------
    count : int
        Processes.
    threads : int
        CPU threads of each.
    memory_gb : float
        Memory of each (10^9 bytes); a worker that exceeds it is restarted.
    """

    count: int
    threads: int
    memory_gb: float


def plan_workers(count: int | None, threads: int, memory_gb: float | None) -> Workers:
    """Fit local workers into the machine's cores and memory, or into those given.

    Cores and memory are those of the container or job, where it has bounds.

    Parameters
    ----------
    count : int or None
        Workers at most; by default as many as there are cores for.
    threads : int
        CPU threads of each.
    memory_gb : float or None
        Memory of all together; by default 90 % of the machine's.

    Returns
    -------
    workers : Workers

    Raises
    ------
    InputError
        If the memory does not suffice for one worker.

    Examples
    --------
    >>> plan_workers(4, 1, 6.0)
    Workers(count=3, threads=1, memory_gb=2.0)
    """
    memory_gb = memory_gb or 0.9 * MEMORY_LIMIT / 1e9
    fit = int(memory_gb / HEAD_GB)
    if not fit:
        msg = f"{memory_gb:.1f} GB of memory is too little: a head takes {HEAD_GB:.1f} GB."
        raise InputError(msg, "memory_gb")
    wanted = count or max(1, CPU_COUNT // threads)
    chosen = min(wanted, fit)
    return Workers(chosen, threads, round(memory_gb / chosen, 3))


@contextmanager
def local_workers(workers: Workers, scratch: Path | None = None) -> Iterator[Client]:
    """Start processes on this machine, and end them after the body.

    Parameters
    ----------
    workers : Workers
        How many.
    scratch : Path, optional
        Folder for Dask's temporary files.

    Yields
    ------
    client : Client

    Raises
    ------
    InputError
        If they do not start.
    """
    with configured(workers.threads):
        try:
            cluster = LocalCluster(
                n_workers=workers.count,
                threads_per_worker=1,
                memory_limit=int(workers.memory_gb * 1e9),
                host="127.0.0.1",
                security=True,
                dashboard_address=NO_DASHBOARD,
                local_directory=str(scratch) if scratch else None,
            )
        except (RuntimeError, OSError) as error:
            msg = (
                f"the workers do not start ({one_line(_first_cause(error), 100)}). Can /dev/shm "
                "and the folder of temporary files be written, and 127.0.0.1 be reached?"
            )
            raise InputError(msg) from error
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def slurm_workers(options: str, workers: Workers, logs: Path) -> Iterator[Client]:
    """Submit a SLURM job for each worker, and cancel them after the body.

    Jobs that end early, at their time limit say, are submitted again while there is work.

    Parameters
    ----------
    options : str
        A partition, then options of `sbatch`.
    workers : Workers
        How many jobs; cores and memory of each.
    logs : Path
        Folder on a shared file system for the jobs' output and the run's certificates.

    Yields
    ------
    client : Client

    Examples
    --------
    >>> slurm_workers("long --time=12:00:00", Workers(8, 2, 4), Path("logs"))  # doctest: +SKIP
    """
    from dask_jobqueue import SLURMCluster

    partition, *directives = shlex.split(options)
    logs.mkdir(parents=True, exist_ok=True)
    with (
        configured(workers.threads),
        SLURMCluster(
            queue=partition,
            job_extra_directives=directives,
            job_directives_skip=["-t 00:30:00"],  # the partition's limit, unless one is given
            cores=workers.threads,
            job_cpu=workers.threads,
            processes=1,
            memory=f"{workers.memory_gb:.3f}GB",
            worker_extra_args=["--nthreads", "1"],
            job_script_prologue=_environment(workers.threads),
            log_directory=str(logs),
            shared_temp_directory=str(logs),
            security=True,
            scheduler_options={"dashboard_address": NO_DASHBOARD},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cluster.adapt(minimum_jobs=1, maximum_jobs=workers.count)
        yield client


@contextmanager
def remote_workers(address: str) -> Iterator[Client]:
    """Use a Dask cluster that is running; it stays after the body.

    Parameters
    ----------
    address : str
        Of the scheduler.

    Yields
    ------
    client : Client

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        msg = f"no Dask scheduler at {address} ({one_line(error, 100)}). Check the address."
        raise InputError(msg, "scheduler") from error
    with client:
        yield client


@contextmanager
def configured(threads: int) -> Iterator[None]:
    """Apply `SETTINGS` to clusters that are started in the body, and silence Dask's log.

    Parameters
    ----------
    threads : int
        CPU threads of a worker.
    """
    environ = {"distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": threads}
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with dask.config.set({**SETTINGS, **environ}):
            yield
    finally:
        logger.setLevel(level)


def _first_cause(error: BaseException) -> BaseException:
    before = error.__cause__ or error.__context__
    return _first_cause(before) if before else error


def _environment(threads: int) -> list[str]:
    """Export the settings for workers that other machines start."""
    names = {key: f"DASK_{key.replace('.', '__').replace('-', '_').upper()}" for key in SETTINGS}
    settings = [f"export {name}={SETTINGS[key]}" for key, name in names.items()]
    return [*settings, f"export OMP_NUM_THREADS={threads}"]
