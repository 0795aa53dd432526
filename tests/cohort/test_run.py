"""Scans on workers: order, failures, workers that are killed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from distributed import LocalCluster

from fixtures_cohort import fail_some, kill_some, scan_named, thread_workers
from isochroma.cohort.cluster import (
    NO_DASHBOARD,
    SETTINGS,
    Workers,
    local_workers,
    plan_workers,
    remote_workers,
)
from isochroma.cohort.run import Rate, harmonize_scans
from isochroma.errors import InputError


def test_what_work_raises_is_a_failure_of_its_scan() -> None:
    scans = [scan_named(f"sub-{label}_T1w") for label in ("01", "bad", "02")]
    with thread_workers() as client:
        outcomes = {each.scan.name: each for each in harmonize_scans(client, fail_some, scans)}
    assert outcomes.keys() == {scan.name for scan in scans}
    assert outcomes["sub-bad_T1w"].failure == "RuntimeError: odd things"
    assert {each.failure for name, each in outcomes.items() if "bad" not in name} == {""}


def test_scans_that_kill_their_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One kills always and is given up; one survives alone; the rest is done."""
    monkeypatch.setitem(SETTINGS, "distributed.scheduler.allowed-failures", 0)
    labels = ["01", "bad", "02", "unlucky", *(f"{n:02}" for n in range(3, 9))]
    scans = [scan_named(f"sub-{label}_T1w") for label in labels]
    with local_workers(Workers(2, 1, 2.0)) as client:
        outcomes = list(harmonize_scans(client, partial(kill_some, tmp_path), scans))
    failures = {each.scan.entities["sub"]: each.failure for each in outcomes}
    assert len(outcomes) == len(scans)
    assert "its worker was killed each time" in failures.pop("bad")
    assert set(failures.values()) == {""}
    assert len(list(tmp_path.glob("bad-*"))) == 2
    assert len(list(tmp_path.glob("unlucky-*"))) == 2


class TestWorkers:
    def test_memory_bounds_their_number(self) -> None:
        assert plan_workers(8, 2, 8.0) == Workers(4, 2, 2.0)
        assert plan_workers(2, 2, 8.0) == Workers(2, 2, 4.0)

    def test_too_little_memory(self) -> None:
        with pytest.raises(InputError, match="too little: a head takes") as caught:
            plan_workers(1, 1, 1.0)
        assert caught.value.argument == "memory_gb"

    def test_workers_that_cannot_start(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with (
            pytest.raises(InputError, match=r"the workers do not start \(.*Not a directory"),
            local_workers(Workers(1, 1, 2.0), tmp_path / "file"),
        ):
            pass

    def test_a_running_cluster(self) -> None:
        scan = scan_named("sub-01_T1w")
        with (
            LocalCluster(
                n_workers=1,
                processes=False,
                protocol="tcp",
                host="127.0.0.1",
                dashboard_address=NO_DASHBOARD,
            ) as cluster,
            remote_workers(cluster.scheduler_address) as other,
        ):
            assert [each.scan for each in harmonize_scans(other, fail_some, [scan])] == [scan]

    def test_no_running_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("isochroma.cohort.cluster.CONNECT_SECONDS", 0.5)
        with (
            pytest.raises(InputError, match="no Dask scheduler at") as caught,
            remote_workers("tcp://127.0.0.1:9"),
        ):
            pass
        assert caught.value.argument == "scheduler"


def test_rate_of_the_last_scans() -> None:
    times = iter([0.0, *(1000.0 + 10 * n for n in range(60))])
    rate = Rate(100, clock=lambda: next(times))
    assert str(rate) == "100 scans"
    for _ in range(60):
        rate.count()
    assert rate.an_hour == pytest.approx(360)
    assert str(rate) == "360 scans an hour, 0 h 07 min left"
