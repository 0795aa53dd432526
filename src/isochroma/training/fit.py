"""Train a model on the scans of one scanner.

The method is blind to every other scanner: only the target folder is read.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities import suggested_max_num_workers
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from isochroma.errors import LONGEST_REASON, InputError, one_line, printable
from isochroma.files import alone, write_atomically
from isochroma.models.config import ModelConfig
from isochroma.models.folder import Model
from isochroma.pipeline import Harmonizer, SamplingSettings
from isochroma.training.batches import TargetData
from isochroma.training.data import contrast_suffix, describe_target, find_scans, prepare_scans
from isochroma.training.drafts import add_examples
from isochroma.training.module import Export, FlowTraining, Preview
from isochroma.training.settings import COMPACT_RECIPE, Recipe, TrainerSettings


def train(
    target: Path,
    folder: Path,
    recipe: Recipe = COMPACT_RECIPE,
    trainer: TrainerSettings | None = None,
    start_from: Model | None = None,
    name: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Train a model, or go on where a stopped run left off.

    Parameters
    ----------
    target : Path
        Folder of one scanner's scans.
    folder : Path
        The model folder to make; it also gets checkpoints, logs and previews. If it has a
        checkpoint, the run resumes from there and ends as if it had not been stopped.
    recipe : Recipe
        What to train.
    trainer : TrainerSettings, optional
        Hardware to train on; what is found, if not given.
    start_from : Model, optional
        Model to start from instead of random weights; it also makes the drafts for the second pass.
    name : str, optional
        The model's name; the folder's if not given.
    cache : Path, optional
        Where preprocessed scans are kept; `cache` in the model folder if not given.

    Returns
    -------
    folder : Path
        The model folder, for `load_model`.

    Raises
    ------
    InputError
        If the target folder has too few scans, or the parts of the recipe do not go together.
    FloatingPointError
        If the loss is not finite.

    Examples
    --------
    >>> train("scans/", "my-scanner/")  # doctest: +SKIP
    PosixPath('my-scanner')
    """
    target, folder = Path(target), Path(folder)
    check_recipe(recipe, start_from)
    trainer = trainer or TrainerSettings()
    check_hardware(trainer)
    find_scans(target)
    first = "LOCAL_RANK" not in os.environ  # Lightning starts the processes of further devices
    with alone(folder) if first else contextlib.nullcontext():
        return _train(target, folder, recipe, trainer, start_from, name, cache)


def _train(
    target: Path,
    folder: Path,
    recipe: Recipe,
    trainer: TrainerSettings,
    start_from: Model | None,
    name: str | None,
    cache: Path | None,
) -> Path:
    scans = prepare_scans(target, cache or folder / "cache", recipe)
    if recipe.training.draft_share and start_from is not None:
        first_pass = Harmonizer(start_from, SamplingSettings(revise=False))
        scans = add_examples(scans, first_pass, recipe.training.draft_copies)
    suffix = contrast_suffix(find_scans(target)["train"])
    config = ModelConfig(
        name=printable(name or folder.resolve().name),
        preprocess=recipe.preprocess,
        edges=recipe.edges,
        network=recipe.network,
        patches=recipe.patches,
        target=describe_target(scans.train, recipe.preprocess.spacing_mm, suffix),
    )
    weights = start_from.network.state_dict() if start_from is not None else None
    module = FlowTraining(recipe, weights, trainer.compile)
    fit(folder, config, module, TargetData(scans, recipe, drawing_processes(trainer)), trainer)
    return folder


def check_recipe(recipe: Recipe, start_from: Model | None) -> None:
    """Raise an `InputError` if the parts of a recipe do not go together.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    start_from : Model or None
        The model to start from.
    """
    if recipe.patches.size % recipe.network.divisor:
        msg = (
            f"a patch size of {recipe.patches.size} does not suit this network; "
            f"use a multiple of {recipe.network.divisor}."
        )
        raise InputError(msg, "patch_size")
    if start_from is not None and start_from.config.network != recipe.network:
        msg = (
            f"the model to start from does not fit: its network is {start_from.config.network}, "
            f"not {recipe.network}."
        )
        raise InputError(msg, "start_from")
    if recipe.training.draft_share and start_from is None:
        msg = "the second pass is trained on drafts that a model makes. Give one to start from."
        raise InputError(msg, "start_from")


def check_hardware(settings: TrainerSettings) -> None:
    """Raise an `InputError` if this machine does not have what a run asks for.

    Parameters
    ----------
    settings : TrainerSettings
        Hardware to train on.
    """
    try:
        lightning.Fabric(accelerator=settings.accelerator, devices=settings.devices)
    except (ValueError, RuntimeError, ImportError) as error:
        why = one_line(error, LONGEST_REASON)
        msg = f"cannot train on {settings.accelerator!r} here ({why}). Use cpu, or auto."
        raise InputError(msg, "accelerator") from error


def drawing_processes(settings: TrainerSettings) -> int:
    """Return the number of processes that draw patches on each device.

    Parameters
    ----------
    settings : TrainerSettings
        Hardware to train on; its number of workers, if it has one, is taken.

    Returns
    -------
    workers : int
    """
    if settings.workers is not None:
        return settings.workers
    fabric = lightning.Fabric(accelerator=settings.accelerator, devices=settings.devices)
    if fabric.device.type == "cpu":
        return 0
    return suggested_max_num_workers(fabric.world_size)


def fit(
    folder: Path,
    config: ModelConfig,
    module: FlowTraining,
    data: TargetData,
    settings: TrainerSettings,
) -> None:
    """Run the training loop to its last step, from the last checkpoint if there is one.

    Parameters
    ----------
    folder : Path
        The model folder.
    config : ModelConfig
        The model's config, without validation scores.
    module : FlowTraining
        The network in training.
    data : TargetData
        The scans.
    settings : TrainerSettings
        Hardware to train on.
    """
    export = Export(folder, config)
    trainer = build_trainer(folder, module, settings, export)
    last = folder / "checkpoints" / "last.ckpt"
    resumed = last.exists()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if resumed else None)
    except Exception as error:
        if not resumed or module.started:
            raise
        why = one_line(error, LONGEST_REASON)
        msg = (
            f"{last}: damaged, or of another recipe ({why}). Give another folder, or remove it to "
            "start from the first step."
        )
        raise InputError(msg) from error
    if export.step != module.settings.steps:
        trainer.validate(module, datamodule=data)


def build_trainer(
    folder: Path, module: FlowTraining, settings: TrainerSettings, export: Export
) -> lightning.Trainer:
    """Set up Lightning's trainer with its callbacks and loggers.

    Parameters
    ----------
    folder : Path
        The model folder; gets `checkpoints/`, `logs/` and `previews/`.
    module : FlowTraining
        Its training settings are used.
    settings : TrainerSettings
        Hardware to train on.
    export : Export
        Writes the model.

    Returns
    -------
    trainer : lightning.Trainer
        Stops after `module.settings.steps` steps.
    """
    recipe = module.settings
    checkpoints = ModelCheckpoint(
        folder / "checkpoints",
        filename="last",
        save_last=False,
        enable_version_counter=False,
        every_n_train_steps=recipe.checkpoint_every,
    )
    averaging = EMAWeightAveraging(
        decay=recipe.ema_decay,
        update_starting_at_step=min(recipe.warmup_steps, recipe.steps - 1),
    )
    run = f"run-{len(list(folder.glob('logs/run-*')))}"
    return lightning.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=recipe.precision,  # type: ignore[arg-type]
        default_root_dir=folder,
        max_steps=recipe.steps,
        val_check_interval=min(recipe.validate_every, recipe.steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=recipe.gradient_clip,
        log_every_n_steps=20,
        callbacks=[Preview(folder / "previews"), export, averaging, checkpoints],
        plugins=[AtomicCheckpoints()],
        logger=[kind(folder, "logs", version=run) for kind in (CSVLogger, TensorBoardLogger)],
        use_distributed_sampler=False,
    )


class AtomicCheckpoints(TorchCheckpointIO):
    """Write checkpoints that replace the last one only when they are whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path` in one step, on any file system."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint: plain values and tensors, no code, with all checksums compared."""
        with zipfile.ZipFile(path) as archive:
            packed = any(each.compress_type for each in archive.infolist())
            if packed or archive.testzip() is not None:
                msg = "its checksum is not that of its content"
                raise ValueError(msg)
        loaded: dict[str, Any] = torch.load(path, map_location or "cpu", weights_only=True)
        return loaded
