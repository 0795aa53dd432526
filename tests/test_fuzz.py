"""A small share of the campaign: `make fuzz` has all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_share_of_the_malformed_inputs() -> None:
    command = [sys.executable, "-m", "fuzz", "--share", "0.005", "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
