"""The README's numbers are those of the evaluation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_is_the_evaluations() -> None:
    script = ROOT / "benchmarks" / "readme_table.py"
    table = subprocess.run(
        [sys.executable, script], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")
