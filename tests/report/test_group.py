"""The page of all scans: numbers that are known in advance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fixtures_report import row, two_sites
from isochroma.report.group import Row, guess_sites, interval, outliers, write_page


def content(tmp_path: Path, rows: list[Row]) -> str:
    return write_page(tmp_path / "group.html", "A study", rows).read_text()


def test_sites_that_differ_before_and_not_after(tmp_path: Path) -> None:
    page = content(tmp_path, two_sites())
    assert "right for 100% [61%, 100%] of 6 scans before and 50%" in page
    assert "always naming the largest site is right for 50%" in page
    assert "Histograms of two people of two sites are 0.688 of the range apart before" in page
    assert "of one site are 0.000 of the range apart before and 0.000 after" in page
    assert "proves nothing alone" in page


def test_too_few_people_for_a_probe(tmp_path: Path) -> None:
    assert "was not tried: it takes two sites of 3 people" in content(tmp_path, two_sites(4))


def test_scans_without_figures(tmp_path: Path) -> None:
    page = content(tmp_path, [Row("sub-01", status="failed", failure="no <brain>")])
    assert "No figures were found" in page
    assert "1 scans of 1 people: 0 done" in page
    assert "no <brain>" not in page  # escaped


def test_the_table_holds_every_scan(tmp_path: Path) -> None:
    page = content(tmp_path, [*two_sites(), row(7, "C", 3, warnings="brain-size", page="x.html#a")])
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert len(data["rows"]) == 7
    names = [column["name"] for column in data["columns"]]
    assert data["rows"][-1][0] == ["sub-07", "x.html#a", False]
    assert data["rows"][-1][names.index("agreement, least")][0] == 0.8
    assert data["rows"][-1][names.index("warnings")][0] == "brain-size"


def test_outliers() -> None:
    rows = [row(n, "A", 10, contrast=1 + 0.01 * n) for n in range(12)] + [row(12, "A", 10, 5.0)]
    marked = outliers(rows)
    assert marked[-1] == {"contrast, before", "contrast, after"}
    assert not any(marked[:-1])
    assert not any(outliers(rows[-4:]))  # too few to tell


def test_interval_is_over_people() -> None:
    assert interval([("a", 1.0), ("b", 1.0)], 1) == "1.0 [1.0, 1.0]"
    assert interval([("a", 0.0), ("a", 2.0), ("b", 3.0)], 1).startswith("2.0 [1.0, 3.0")
    assert interval([("a", None)]) == "-"


def test_guesses_leave_the_person_out() -> None:
    """A person whose two scans are alike and alone in their place is not found by itself."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    persons = np.array(list("abcdefghii"))
    features = labels[:, None] + 0.01 * rng.standard_normal((10, 3))
    assert (guess_sites(features, labels, persons) == labels).all()
    features[-2:] = -1.0
    assert guess_sites(features, labels, persons)[-2:].tolist() == [0, 0]


def test_ten_thousand_scans(tmp_path: Path) -> None:
    few = two_sites(20)
    path = write_page(tmp_path / "group.html", "Large", few * 500)
    assert path.stat().st_size < 5e6


@pytest.mark.parametrize("agreement", [{}, {"a": None}])
def test_no_agreement(tmp_path: Path, agreement: dict) -> None:
    rows = two_sites()
    rows[0].report["Agreement"] = agreement
    assert "agreement, least" in content(tmp_path, rows)
