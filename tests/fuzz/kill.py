"""Kill commands and run them again: `python -m fuzz.kill` in tests/.

kill -9 before and after every rename of `harmonize`, `bids`, `train` and `evaluate`, and at random
moments of each. Then the same command again: it must end as if nothing had happened, and leave no
file that the undisturbed run does not. What was computed twice is what the kill lost. The scans,
the model and the study are tiny; the code is the command's.

All but an evaluation start afresh for every kill. An evaluation is killed again and again in one
folder, an entry of its store further each time.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
import safetensors.numpy
import torch
from PIL import Image

from fixtures_cohort import make_bids, thread_workers
from fixtures_pipeline import head_image, save_tiny_model
from fuzz.isolated import silence
from fuzz.kinds.training import RECIPE, target
from fuzz.registry import work
from isochroma import cli
from isochroma.cohort import cluster
from isochroma.evaluation.methods import Blur
from isochroma.evaluation.phantoms.travelling import write_study
from isochroma.evaluation.plan import Budget
from isochroma.evaluation.run import evaluate
from isochroma.evaluation.store import Store
from isochroma.files import LEAVING, alone
from isochroma.pipeline import Harmonizer
from isochroma.training.fit import train
from isochroma.training.module import FlowTraining
from isochroma.training.settings import TrainerSettings

MOMENTS = 20
BUDGET = Budget(None, False, False, 2, 2, 0, 20)


@dataclass(frozen=True)
class Victim:
    """A command to kill.

    Attributes
    ----------
    name, unit : str
        What it is, and what it computes one after the other.
    run : callable
        Runs it, with its output in a folder.
    log : callable
        Makes it note each unit that it computes.
    result : callable
        What it left in the folder, without what may differ between two runs.
    chained : bool
        Whether all kills happen to one output folder.
    """

    name: str
    unit: str
    run: Callable[[Path], object]
    log: Callable[[Path], None]
    result: Callable[[Path], Any]
    chained: bool = False


def note(path: Path, text: object) -> None:
    with path.open("a") as stream:
        stream.write(f"{text}\n")


@functools.cache
def material() -> Path:
    """Three scans, a model, a study and a BIDS data set."""
    folder = work() / "material"
    folder.mkdir()
    rows: list[dict[str, object]] = []
    for seed in range(3):
        nib.save(head_image(seed=seed), folder / f"s{seed}.nii.gz")
        site = {"site": "T", "split": "train"} if seed < 2 else {"site": "S"}
        rows.append({"path": f"s{seed}.nii.gz", **site})
    write_study(folder / "study.tsv", rows)
    make_bids(folder / "raw", [f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in (1, 2, 3)])
    save_tiny_model(folder / "model")
    return folder


# The commands


def run_harmonize(folder: Path) -> None:
    scans = map(str, sorted(material().glob("s?.nii.gz")))
    model = str(material() / "model")
    sys.argv = ["isochroma", "harmonize", *scans, "-o", str(folder), "--model", model, "--preview"]
    cli.main()


def run_bids(folder: Path) -> None:
    """With workers in this process, which die with it."""
    cluster.local_workers = lambda *_: thread_workers()  # type: ignore[assignment]
    model = str(material() / "model")
    sys.argv = ["isochroma", "bids", str(material() / "raw"), str(folder), "participant"]
    sys.argv += ["--model", model, "--nprocs", "1"]
    cli.main()


def bids_result(folder: Path) -> Any:
    shown = [name for name in files(folder) if not name.startswith("logs/")]  # a log for each run
    records = [json.loads((folder / name).read_text()) for name in shown if name.endswith("json")]
    images = [np.asarray(nib.load(folder / n).dataobj).tobytes() for n in shown if "nii" in n]
    return shown, [{**record, "Seconds": 0} for record in records], images


def log_harmonize(log: Path) -> None:
    original = Harmonizer.run

    def run(self: Harmonizer, scan: Any, *rest: Any) -> Any:
        note(log, float(np.asarray(scan.dataobj).sum()))
        return original(self, scan, *rest)

    Harmonizer.run = run  # type: ignore[method-assign]


def harmonize_result(folder: Path) -> Any:
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    images = [np.asarray(nib.load(path).dataobj).tobytes() for path in sorted(folder.glob("*.gz"))]
    pictures = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    return files(folder), [{**record, "Seconds": 0} for record in records], images, pictures


def run_train(folder: Path) -> None:
    train(target(), folder, RECIPE, TrainerSettings("cpu", 1))


def log_train(log: Path) -> None:
    original = FlowTraining.training_step

    def training_step(self: FlowTraining, *rest: Any) -> Any:
        note(log, self.global_step)
        return original(self, *rest)

    FlowTraining.training_step = training_step  # type: ignore[method-assign]


def train_result(folder: Path) -> Any:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    averaged = {name: each.numpy().tobytes() for name, each in state["state_dict"].items()}
    shown = [name for name in files(folder) if not name.startswith("logs")]  # a log for each run
    model = [(folder / name).read_bytes() for name in ("weights.safetensors", "config.json")]
    return shown, state["global_step"], averaged, model


def run_evaluate(folder: Path) -> None:
    with alone(folder):  # as the command does
        evaluate(material() / "study.tsv", folder, [Blur()], budget=BUDGET, jobs=1)


def log_evaluate(log: Path) -> None:
    original = Store.get

    def get(self: Store, key: Any, make: Callable[[], Any]) -> Any:
        def noted() -> Any:
            note(log, self.path(key))
            return make()

        return original(self, key, noted)

    Store.get = get  # type: ignore[method-assign]


def evaluate_result(folder: Path) -> Any:
    rows = pd.read_csv(folder / "results.csv")
    failures = json.loads((folder / "summary.json").read_text())["failures"]
    return files(folder), rows[rows["part"] != "cost"].to_csv(), failures


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


VICTIMS = (
    Victim("harmonize", "scans", run_harmonize, log_harmonize, harmonize_result),
    Victim("bids", "scans", run_bids, log_harmonize, bids_result),
    Victim("train", "steps", run_train, log_train, train_result),
    Victim("evaluate", "entries", run_evaluate, log_evaluate, evaluate_result, chained=True),
)


def whole(path: Path) -> bool:
    """Whether a file that is visible after a kill can be read to its end."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".gz": lambda path: np.asarray(nib.load(path).dataobj),
        ".json": lambda path: json.loads(path.read_text()),
        ".pkl": joblib.load,
        ".npy": np.load,
        ".png": lambda path: Image.open(path).load(),
        ".ckpt": lambda path: torch.load(path, weights_only=True),
        ".safetensors": lambda path: safetensors.numpy.load(path.read_bytes()),
    }
    try:
        readers.get(path.suffix, Path.read_bytes)(path)
    except Exception:
        return False
    return True


def child(victim: Victim, out: Path, killed: Path | None) -> None:
    """Run a command that kills itself before or after the first rename that `killed` lacks."""
    silence()
    seen = Counter[str]()
    done = killed.read_text().splitlines() if killed and killed.exists() else []

    def perhaps_kill(moment: str, target: str) -> None:
        place = f"{moment} {seen[target]} {target}"
        if killed and place not in done:
            note(killed, place)
            os.kill(os.getpid(), signal.SIGKILL)

    def killing(move: Callable[..., Any]) -> Callable[..., Any]:
        def moved(source: Any, to: Any, **named: Any) -> Any:
            target = re.sub(f"{LEAVING}[^/]*", LEAVING, os.path.relpath(to, out))
            seen[target] += 1
            perhaps_kill("before", target)
            made = move(source, to, **named)
            perhaps_kill("after", target)
            return made

        return moved

    os.replace, os.rename = killing(os.replace), killing(os.rename)
    victim.log(out.with_name("work.log"))
    victim.run(out)


def attempt(
    victim: Victim, out: Path, killed: Path | None = None, moment: float | None = None
) -> int | None:
    """Run a command in a process of its own until it ends or is killed; return its exit status."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=child, args=(victim, out, killed))
    process.start()
    process.join(moment)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


@dataclass
class Tally:
    """What kills did to a command."""

    kills: int = 0
    most_lost: int = 0
    half_written: int = 0
    otherwise: int = 0


def repeated(out: Path) -> int:
    """Count the units that were computed again."""
    log = out.with_name("work.log")
    units = log.read_text().splitlines() if log.is_file() else []
    return len(units) - len(set(units))


def campaign(victim: Victim) -> dict[str, Tally]:
    """Kill a command at every rename and at random moments; return the tally of each."""
    fresh = new_folder()
    begun = time.monotonic()
    if attempt(victim, fresh) != 0:
        msg = f"{victim.name} does not run at all"
        raise RuntimeError(msg)
    seconds = time.monotonic() - begun
    longest = seconds * 2 / MOMENTS if victim.chained else seconds
    known = victim.result(fresh)
    killed = new_folder()
    rng = np.random.default_rng(0)
    ways: dict[str, Iterable[tuple[Path | None, float | None]]] = {
        "every rename": itertools.repeat((killed, None)),
        "random moments": ((None, float(u) * longest) for u in rng.random(5 * MOMENTS)),
    }
    tallies = {}
    for way, kills in ways.items():
        tally = tallies[way] = Tally()
        out = new_folder()
        for number, (places, moment) in enumerate(kills, 1):
            before = repeated(out)
            over = attempt(victim, out, places, moment) != -signal.SIGKILL
            if not over:
                tally.kills += 1
                tally.half_written += sum(not whole(path) for path in visible(out))
            tally.most_lost = max(tally.most_lost, repeated(out) - before)
            last = over if places else tally.kills == MOMENTS
            if victim.chained and not over and not last:
                continue
            before = repeated(out)
            status = attempt(victim, out)
            tally.most_lost = max(tally.most_lost, repeated(out) - before)
            if status != 0 or victim.result(out) != known:
                tally.otherwise += 1
                print(f"{victim.name}, {way}, kill {number}: status {status}, {out} not {fresh}")
            if last:
                break
            out = new_folder()
    return tallies


def new_folder() -> Path:
    """Name a folder that is not there yet, alone in a folder of its own."""
    return Path(tempfile.mkdtemp(dir=work())) / "out"


def visible(out: Path) -> list[Path]:
    """List the files that a user sees."""
    found = [path for path in out.rglob("*") if path.is_file()]
    hidden = (LEAVING, ".lock")
    return [p for p in found if not any(part.startswith(hidden) for part in p.parts)]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="commands whose name has this")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    material(), target()
    lines = [
        "| command (units) | killed at | kills | most lost | files half-written | ended otherwise |"
    ]
    lines.append("|---|---|---:|---:|---:|---:|")
    bad = 0
    for victim in VICTIMS:
        if options.only in victim.name:
            for way, tally in campaign(victim).items():
                name, lost = f"{victim.name} ({victim.unit})", tally.most_lost
                cells = (name, way, tally.kills, lost, tally.half_written, tally.otherwise)
                lines.append(f"| {' | '.join(map(str, cells))} |")
                bad += tally.half_written + tally.otherwise
    print("\n".join(lines))
    if not bad:
        shutil.rmtree(work())
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
