"""The `isochroma` command. Heavy imports wait until a command runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from isochroma import __version__
from isochroma.errors import InputError, about

if TYPE_CHECKING:
    from isochroma.pipeline import Harmonizer, Result

app = typer.Typer(
    name="isochroma",
    help="Blind 3D harmonization of brain MR scans: any scanner's scan, as one target scanner "
    "shows it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

LOG_SECONDS = 30

Solver = Literal["euler", "midpoint", "heun"]
Refine = Literal["local", "paper", "none"]
Outside = Literal["zero", "source"]
Dtype = Literal["float32", "input"]
Precision = Literal["float32", "bfloat16"]
Runtime = Literal["torch", "openvino"]
Architecture = Literal["compact", "paper"]


def version(show: bool) -> None:
    """Print the version and stop."""
    if show:
        typer.echo(f"isochroma {__version__}")
        raise typer.Exit


@app.callback()
def common(
    show: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def harmonize(
    scans: Annotated[list[Path], typer.Argument(metavar="IN...", help="Scans: .nii[.gz], .mgz.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder; or a file name, for one scan.")
    ],
    model: Annotated[
        str, typer.Option(help="A shipped model's name, or a model folder.")
    ] = "default",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the solver [1; --paper: 15].")
    ] = None,
    solver: Annotated[
        Solver | None, typer.Option(help="Solver of the flow [euler; --paper: midpoint].")
    ] = None,
    refine: Annotated[
        Refine | None, typer.Option(help="Refinement [local; --paper: paper].")
    ] = None,
    revise: Annotated[
        bool | None,
        typer.Option("--revise/--no-revise", help="Second pass after the local refinement [on]."),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="The paper's sampling: 15 midpoint steps, its refinement."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the initial noise.")] = 0,
    mask: Annotated[Path | None, typer.Option(help="Brain mask on the scan's grid.")] = None,
    n4: Annotated[bool, typer.Option("--n4/--no-n4", help="Correct the bias field.")] = True,
    outside: Annotated[Outside, typer.Option(help="Voxels outside the brain.")] = "zero",
    dtype: Annotated[Dtype, typer.Option(help="Voxel type of the output.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    max_memory: Annotated[
        float, typer.Option(min=0.1, help="Bound on the network's memory, GB; tiles beyond it.")
    ] = 8.0,
    precision: Annotated[
        Precision, typer.Option(help="Of the network; bfloat16 is faster where the CPU has it.")
    ] = "float32",
    runtime: Annotated[
        Runtime, typer.Option(help="What runs the network; openvino is faster on CPUs.")
    ] = "torch",
    uncertainty: Annotated[
        int, typer.Option(min=0, help="Also write a map of the spread over so many runs.")
    ] = 0,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write a before/after PNG.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing outputs.")
    ] = False,
) -> None:
    """Harmonize scans: each becomes the same head as the target scanner shows it.

    Beside each output stand its brain mask and a JSON sidecar that says how it was made.
    """
    from isochroma.images.io import load

    targets = plan_outputs(scans, output, overwrite)
    if mask is not None and len(scans) > 1:
        msg = "--mask goes with one scan. Harmonize scans with masks one at a time."
        raise InputError(msg)

    from isochroma.method.sampling import PAPER_SAMPLING, SamplingSettings
    from isochroma.pipeline import Harmonizer

    chosen: dict[str, Any] = {
        "steps": steps,
        "solver": solver,
        "refine": refine,
        "revise": revise,
    }
    sampling = dataclasses.replace(
        PAPER_SAMPLING if paper else SamplingSettings(),
        seed=seed,
        **{key: value for key, value in chosen.items() if value is not None},
    )
    harmonizer = Harmonizer.from_pretrained(
        model,
        sampling=sampling,
        device=device,
        n4=n4,
        outside=outside,
        max_memory_gb=max_memory,
        precision=precision,
        runtime=runtime,
    )
    if revise and not harmonizer.revises:
        msg = "the second pass needs --refine local, and a model trained for it. Omit --revise."
        raise InputError(msg)
    given = load(mask) if mask is not None else None
    failed = 0
    with progress_bar() as advance:
        for path, files in targets.items():
            try:
                tell = partial(advance, path.name)
                doubts = harmonize_file(
                    harmonizer, path, files, given, dtype, uncertainty, preview, tell
                )
            except InputError as error:
                failed += 1
                report(error)
            else:
                typer.echo(files["image"])
                for doubt in doubts:
                    typer.echo(f"isochroma: beware, {path.name}: {doubt}", err=True)
    if failed:
        raise typer.Exit(1)


def plan_outputs(scans: list[Path], output: Path, overwrite: bool) -> dict[Path, dict[str, Path]]:
    """Files that each scan will become: image, mask, sidecar, and, if asked for, preview and
    uncertainty.

    Raises
    ------
    InputError
        If two scans would become one file, or a file exists and may not be replaced.
    """
    from isochroma.images.io import SUFFIXES, has_volume_suffix, stem

    single = has_volume_suffix(output)
    if single and len(scans) > 1:
        msg = f"{output} is a file name, and there are {len(scans)} scans. Give a folder."
        raise InputError(msg)
    targets: dict[Path, dict[str, Path]] = {}
    taken: dict[Path, Path] = {}
    sources = {scan.resolve() for scan in scans}
    for scan in scans:
        suffix = next((s for s in SUFFIXES[::-1] if scan.name.lower().endswith(s)), ".nii.gz")
        image = output if single else output / f"{stem(scan)}_harmonized{suffix}"
        base = image.parent / stem(image)
        suffix = image.name[len(base.name) :]
        files = {
            "image": image,
            "mask": base.with_name(f"{base.name}_mask{suffix}"),
            "sidecar": base.with_name(f"{base.name}.json"),
            "preview": base.with_name(f"{base.name}.png"),
            "uncertainty": base.with_name(f"{base.name}_uncertainty{suffix}"),
        }
        for path in files.values():
            if path in taken:
                msg = f"{taken[path]} and {scan} would both write {path}. Use two folders."
                raise InputError(msg)
            if path.resolve() in sources:
                msg = f"{path} is one of the scans to harmonize. Give another output."
                raise InputError(msg)
            taken[path] = scan
        existing = [str(path) for path in files.values() if path.exists()]
        if existing and not overwrite:
            msg = f"{existing[0]} exists already. Use --overwrite to replace it."
            raise InputError(msg)
        targets[scan] = files
    return targets


def harmonize_file(
    harmonizer: Harmonizer,
    path: Path,
    files: dict[str, Path],
    mask: Any,
    dtype: str,
    uncertainty: int,
    preview: bool,
    progress: Any,
) -> list[str]:
    """Harmonize one file; its outputs appear together, or not at all, and none of an older run
    stays beside them. Returns the doubts.
    """
    import nibabel as nib

    from isochroma.files import sha256, write_together
    from isochroma.images.io import load
    from isochroma.pipeline import Stopwatch

    watch = Stopwatch(progress)
    with watch.stage("load"):
        scan = load(path)
    with about(path):
        kind = scan.get_data_dtype() if dtype == "input" else dtype
        result = harmonizer.run(scan, mask, kind, progress, uncertainty)
    record = {
        "GeneratedBy": {"Name": "isochroma", "Version": __version__},
        "Source": str(path),
        "SourceSHA256": sha256(path),
        **result.record,
    }

    def write_sidecar(target: Path) -> None:
        seconds = {**result.record["Seconds"], "save": watch.seconds["save"]}
        record["Seconds"] = {"load": watch.seconds["load"], **seconds}
        target.write_text(json.dumps(record, indent=2) + "\n")

    def write_image(target: Path) -> None:
        with watch.stage("save"):
            nib.save(result.image, target)

    writers: dict[Path, Callable[[Path], object]] = {
        files["image"]: write_image,
        files["mask"]: lambda target: nib.save(result.mask, target),
        files["sidecar"]: write_sidecar,
    }
    if preview:
        writers[files["preview"]] = lambda target: before_after(result, target)
    spread = result.uncertainty
    if spread is not None:
        writers[files["uncertainty"]] = lambda target: nib.save(spread, target)
    write_together(writers)
    for old in set(files.values()) - set(writers):
        old.unlink(missing_ok=True)
    return result.record["Doubts"]


def before_after(result: Result, path: Path) -> None:
    """Source and harmonized slices, one above the other."""
    from isochroma.images.slices import save_preview

    volumes = {"source": result.prepared.image, "harmonized": result.output}
    outside = {name: volume - ~result.prepared.mask for name, volume in volumes.items()}
    save_preview(path, outside)


@app.command()
def train(
    target: Annotated[Path, typer.Argument(help="Folder of the target scanner's scans.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model folder to make.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the model [default: the folder's].")
    ] = None,
    architecture: Annotated[
        Architecture, typer.Option(help="compact (4.5 M parameters) or paper (98.5 M).")
    ] = "compact",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 30000,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches a step and device.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    edge_variants: Annotated[
        int, typer.Option(min=0, help="Re-contrasted copies whose edges are learned too.")
    ] = 3,
    variant_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of patches with a copy's edges.")
    ] = 0.5,
    start_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of patches at t = 0.")
    ] = 0.5,
    draft_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of patches that train the second pass.")
    ] = 0.0,
    draft_copies: Annotated[
        int, typer.Option(min=1, help="Drafts of each scan, for the second pass.")
    ] = 3,
    edge_fraction: Annotated[float, typer.Option(help="Edge voxels over brain voxels.")] = 0.16,
    patch_size: Annotated[int, typer.Option(help="Edge of a patch in samples.")] = 64,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 1000,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu, ... (Lightning).")] = "auto",
    devices: Annotated[str, typer.Option(help="Number of devices, or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, 16-mixed.")] = "bf16-mixed",
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw patches.")] = 0,
    compile_network: Annotated[
        bool, typer.Option("--compile", help="Compile the network first (needs a C++ compiler).")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of preprocessed scans.")] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Model whose weights to start from.")
    ] = None,
) -> None:
    """Train a model on the scans of ONE scanner; no other scan is ever read.

    Run the same command again to go on where a stopped run left off.
    """
    try:
        from isochroma.training.fit import train as fit
        from isochroma.training.settings import TrainingSettings
    except ModuleNotFoundError as error:
        msg = f"training needs the package {error.name}. Run: pip install 'isochroma[train]'"
        raise InputError(msg) from error
    from isochroma.method.edges import EdgeSettings
    from isochroma.method.network import COMPACT, PAPER
    from isochroma.method.patches import PatchSettings
    from isochroma.models.config import ModelConfig
    from isochroma.models.folder import load_model

    if devices != "auto" and not devices.isdecimal():
        msg = f"--devices {devices}: give a number or auto."
        raise InputError(msg)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning has its own handler, for SLURM
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = ModelConfig(
        name=name or output.resolve().name,
        edges=EdgeSettings(fraction=edge_fraction),
        network=PAPER if architecture == "paper" else COMPACT,
        patches=PatchSettings(size=patch_size),
    )
    settings = TrainingSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        edge_variants=edge_variants,
        variant_share=variant_share,
        start_share=start_share,
        draft_share=draft_share,
        draft_copies=draft_copies,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        seed=seed,
    )
    initial = None
    if start_from is not None:
        initial = load_model(start_from)
        if initial[1].network != config.network:
            msg = f"{start_from}: its network is {initial[1].network}, not {config.network}."
            raise InputError(msg)
    fit(
        target,
        output,
        config,
        settings,
        accelerator=accelerator,
        devices=int(devices) if devices.isdecimal() else devices,
        precision=precision,
        workers=workers,
        compile_network=compile_network,
        cache=cache,
        initial=initial,
    )
    typer.echo(output)


@app.command()
def evaluate(
    study: Annotated[Path, typer.Argument(help="Study file (.tsv, .yaml) or BIDS folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method to compare (repeat), see docs/evaluation.md [default: all]."),
    ] = None,
    command: Annotated[
        list[str] | None,
        typer.Option(help="Your own method: 'NAME=COMMAND {input} {output}' (repeat)."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A shipped model's name, or a model folder.")
    ] = "default",
    core: Annotated[
        list[str] | None,
        typer.Option(help="Limit this slow method to the study's core scans (repeat)."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One scan a group, few methods: a look, no verdict.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the methods.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes and threads at once.")] = 2,
) -> None:
    """Judge harmonization: one report on closeness, anatomy, downstream tasks and the site audit.

    Writes report.html, results.csv and summary.json. Run the command again to resume.
    """
    try:
        from isochroma.evaluation.measuring import FULL, QUICK
        from isochroma.evaluation.methods import Command, method_names, named_methods
        from isochroma.evaluation.run import Evaluation
    except ModuleNotFoundError as error:
        msg = f"evaluation needs the package {error.name}. Run: pip install 'isochroma[evaluate]'"
        raise InputError(msg) from error

    methods = named_methods(method or method_names(quick), model)
    own = []
    for text in command or []:
        name, separator, template = text.partition("=")
        if not separator:
            msg = f"--command {text!r}: write NAME=COMMAND."
            raise InputError(msg)
        methods.append(Command(name, template))
        own.append(name)
    output.mkdir(parents=True, exist_ok=True)
    shipped = named_methods([name for name in core or [] if name not in own], model)
    limited = [known.name for known in shipped] + [name for name in core or [] if name in own]
    evaluation = Evaluation(study, output, methods, limited, QUICK if quick else FULL, seed, jobs)
    with progress_bar() as advance:
        result = evaluation.run(partial(advance, "evaluate"))
    for failure in result["failures"]:
        report(RuntimeError(f"{failure['scan']}, {failure['method']}: {failure['error']}"))
    typer.echo(output / "report.html")


@app.command()
def simulate(
    scans: Annotated[list[Path], typer.Argument(metavar="IN...", help="T1w scans.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the simulated scans.")],
    preset: Annotated[
        list[str] | None, typer.Option(help="Simulated scanner (repeat) [default: all].")
    ] = None,
    lesions: Annotated[
        bool, typer.Option("--lesions", help="Insert graded white matter lesions first.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of bias, noise and lesions.")] = 0,
) -> None:
    """Show scans as other scanners would: travelling subjects, simulated.

    Writes NAME_PRESET.nii.gz with a JSON sidecar, and study.tsv with each scan's truth; scans that
    study.tsv already names stay in it.
    """
    try:
        from isochroma.evaluation.phantoms.sequences import PRESETS
        from isochroma.evaluation.phantoms.travelling import (
            add_to_study,
            write_travelling_subject,
        )
    except ModuleNotFoundError as error:
        msg = f"simulation needs the package {error.name}. Run: pip install 'isochroma[evaluate]'"
        raise InputError(msg) from error

    rows = []
    with progress_bar() as advance:
        for number, path in enumerate(scans):
            advance(path.name, "simulating", number, len(scans))
            rows += write_travelling_subject(path, output, preset or list(PRESETS), lesions, seed)
    add_to_study(output / "study.tsv", [{**row, "site": "simulated"} for row in rows])
    typer.echo(output / "study.tsv")


@app.command()
def bench(
    scan: Annotated[Path, typer.Argument(help="A scan, better a whole head of 1 mm.")],
    model: Annotated[
        str, typer.Option(help="A shipped model's name, or a model folder.")
    ] = "default",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Of the network.")] = "float32",
    runtime: Annotated[Runtime, typer.Option(help="What runs the network.")] = "torch",
) -> None:
    """Time each stage on this machine, beside the paper's network: seconds and peak memory."""
    import tempfile

    from isochroma.evaluation.bench import measure, paper_network, table
    from isochroma.method.sampling import choose_device
    from isochroma.pipeline import Harmonizer

    harmonizer = Harmonizer.from_pretrained(
        model, device=device, precision=precision, runtime=runtime
    )
    with tempfile.TemporaryDirectory() as folder:
        costs, voxels = measure(scan, harmonizer, Path(folder) / "harmonized.nii.gz")
    typer.echo(table(costs, paper_network(voxels, choose_device(device))))


@app.command()
def models() -> None:
    """List the shipped models."""
    from isochroma.models.folder import CONFIG, SHIPPED, load_config

    for path in sorted(SHIPPED.glob(f"*/{CONFIG}")):
        config = load_config(path.parent)
        typer.echo(f"{path.parent.name}: {config.target.scans} target scans, {path.parent}")


@contextmanager
def progress_bar() -> Iterator[Callable[[str, str, int, int], None]]:
    """Yield a function (scan, stage, done, total) that shows where the work is: a bar on a
    terminal, else (in a log) a line every half minute at most.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=1)
        told = time.monotonic()

        def advance(scan: str, stage: str, done: int, total: int) -> None:
            nonlocal told
            bar.update(task, description=f"{scan}: {stage}", completed=done, total=total)
            if not console.is_terminal and time.monotonic() - told > LOG_SECONDS:
                told = time.monotonic()
                typer.echo(
                    f"{time.strftime('%H:%M:%S')} {scan}: {stage} ({done} of {total} done)",
                    err=True,
                )

        yield advance


def report(error: Exception) -> None:
    """One line on standard error."""
    typer.echo(f"isochroma: {error}", err=True)


def stop(number: int, frame: object) -> None:
    """On a signal: end as after an error, so that no process and no temporary file stays."""
    sys.exit(128 + number)


def main() -> None:
    """Run the command; a known error is one line and exit status 1."""
    signal.signal(signal.SIGTERM, stop)
    try:
        app()
    except (InputError, FloatingPointError) as error:
        report(error)
        sys.exit(1)
    except OSError as error:
        report(
            OSError(f"{error}. Check the disk's space and permissions; nothing was half-written.")
        )
        sys.exit(1)
