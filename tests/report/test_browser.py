"""The pages in a browser: everything can be clicked, and nothing is written to the console."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures_report import SIDECAR, TARGET, finished, two_sites
from isochroma.report import group, participant
from isochroma.report.pages import write_shared
from isochroma.report.scan import write_scan

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

FLAGS = (
    "--headless --no-sandbox --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-unsafe-swiftshader --use-angle=swiftshader "
    "--window-size=1400,1200"
)


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, with the console's log."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.chrome.service.Service(programs[1])
    )
    yield driver
    driver.quit()


def errors(browser: webdriver.Chrome) -> list[str]:
    lines = browser.get_log("browser")
    return [line["message"] for line in lines if line["level"] in ("SEVERE", "WARNING")]


def wait_for(browser: webdriver.Chrome, script: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not browser.execute_script(f"return {script}"):
        assert time.monotonic() < end, script
        time.sleep(0.1)


def test_participant(browser: webdriver.Chrome, tmp_path: Path) -> None:
    files = finished(tmp_path, "sub-01_T1w")
    write_scan(files, TARGET, {})
    write_shared(tmp_path)
    shown = participant.Shown(
        "sub-01_T1w",
        "T1w",
        "sub-01/anat/sub-01_T1w.nii.gz",
        SIDECAR,
        {**two_sites()[0].report, "Agreement": {}},
        files.folder.relative_to(tmp_path) / files.stem,
        1000,
    )
    page = participant.write_page(tmp_path / "sub-01.html", "sub-01", [shown])
    browser.get(page.as_uri())
    browser.execute_script("for (const each of document.images) each.loading = 'eager'")
    wait_for(browser, "[...document.images].every(each => each.naturalWidth)", 10)
    label = "document.querySelector('.flicker span').textContent"
    browser.find_element("css selector", ".flicker").click()
    assert browser.execute_script(f"return {label}") == "harmonized"
    button = browser.find_element("css selector", "[data-flicker]")
    button.click()
    wait_for(browser, f"{label} === 'source'", 5)
    button.click()
    browser.find_element("css selector", "[data-viewer]").click()
    wait_for(browser, "document.querySelector('[data-viewer]').textContent === 'Volumes'")
    assert len(browser.find_elements("css selector", ".viewer canvas")) == 2
    browser.find_element("css selector", "[data-copy]").click()
    assert errors(browser) == []


def test_group(browser: webdriver.Chrome, tmp_path: Path) -> None:
    page = group.write_page(tmp_path / "group.html", "A study", two_sites(300))
    browser.get(page.as_uri())

    def first() -> str:
        return browser.find_element("css selector", "#table tbody td").text

    assert first() == "sub-00"
    heading = browser.find_element("css selector", "#table th button")
    heading.click()
    heading.click()
    assert first() == "sub-299"
    assert browser.find_element("id", "place").text == "1 to 200 of 300"
    browser.find_element("id", "next").click()
    assert browser.find_element("id", "place").text == "201 to 300 of 300"
    browser.find_element("id", "filter").send_keys("sub-07")
    assert first() == "sub-07"
    assert browser.find_element("id", "place").text == "1 to 1 of 1"
    assert errors(browser) == []
