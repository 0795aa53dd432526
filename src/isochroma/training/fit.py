"""Train a model on one scanner's scans: `isochroma train TARGET_DIR -o MODEL_DIR`.

Only TARGET_DIR is read: the method is blind to every other scanner. Scans are preprocessed once
into a memory-mapped cache, edges included. Lightning runs the loop, so several GPUs, mixed
precision, resumption and SLURM requeueing are its own. Every random choice is a function of the
seed and the step, so a run that was killed continues as if it had not been.
"""

from __future__ import annotations

import dataclasses
import io
import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from isochroma.errors import InputError
from isochroma.files import write_atomically
from isochroma.method.network import VelocityNetwork
from isochroma.models.config import ModelConfig
from isochroma.models.folder import Model
from isochroma.pipeline import Harmonizer, SamplingSettings
from isochroma.training.data import (
    cache_examples,
    cache_scan,
    describe_target,
    find_target_scans,
    open_cached,
)
from isochroma.training.module import Export, FlowTraining
from isochroma.training.settings import TrainingSettings

logger = logging.getLogger(__name__)


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that replace the last one only when they are whole, on any file system."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path` in one step."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def train(
    target: Path,
    folder: Path,
    config: ModelConfig,
    settings: TrainingSettings,
    accelerator: str = "auto",
    devices: int | str = "auto",
    precision: Any = "bf16-mixed",
    workers: int = 0,
    compile_network: bool = False,
    cache: Path | None = None,
    initial: tuple[VelocityNetwork, ModelConfig] | None = None,
) -> Path:
    """Train on the scans of `target`; leave the model, its logs and checkpoints in `folder`.

    A run that finds `folder/checkpoints/last.ckpt` resumes from it.

    Parameters
    ----------
    target
        Folder of one scanner's scans.
    folder
        The model folder to fill.
    config
        Preprocessing, edges, patches and network; its target domain is filled in here.
    settings
        The recipe.
    accelerator, devices, precision
        As in lightning.Trainer.
    workers
        Processes that draw patches.
    cache
        Where preprocessed scans are kept; `folder/cache` by default.
    initial
        Model to start from instead of random weights; it makes the drafts, too.

    Returns
    -------
    The model folder.
    """
    if config.patches.size % config.network.divisor:
        msg = (
            f"a patch size of {config.patches.size} does not suit this network; "
            f"use a multiple of {config.network.divisor}."
        )
        raise InputError(msg)
    cache = cache or folder / "cache"
    scans: dict[str, list[Path]] = {}
    for split, paths in find_target_scans(target).items():
        scans[split] = []
        for number, path in enumerate(paths, 1):
            logger.info("preparing %s scan %d of %d: %s", split, number, len(paths), path.name)
            scans[split].append(cache_scan(path, cache, config, settings.edge_variants))
    if settings.draft_share:
        if initial is None:
            msg = "drafts are made by a trained model. Give one to start from (--start-from)."
            raise InputError(msg)
        first_pass = Harmonizer(Model(*initial), SamplingSettings(revise=False))
        for number, path in enumerate([*scans["train"], *scans["val"]], 1):
            logger.info("drafts of scan %d: %s", number, path.name)
            cache_examples(path, first_pass, settings.draft_copies)
    trained = [open_cached(path) for path in scans["train"]]
    domain = describe_target(trained, config.preprocess.spacing_mm)
    config = dataclasses.replace(config, target=domain)
    drafts_by = initial[1].sha256 if initial else ""
    module = FlowTraining(config, settings, scans, folder, workers, compile_network, drafts_by)
    if initial is not None:
        module.network.load_state_dict(initial[0].state_dict())
    checkpoints = ModelCheckpoint(
        folder / "checkpoints",
        filename="last",
        save_last=False,
        enable_version_counter=False,
        every_n_train_steps=settings.checkpoint_every,
    )
    last = folder / "checkpoints" / "last.ckpt"
    run = f"run-{len(list(folder.glob('logs/run-*')))}"
    averaging = EMAWeightAveraging(
        decay=settings.ema_decay,
        update_starting_at_step=min(settings.warmup_steps, settings.steps - 1),
    )
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=devices,
        precision=precision,
        default_root_dir=folder,
        max_steps=settings.steps,
        val_check_interval=min(settings.validate_every, settings.steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=settings.gradient_clip,
        log_every_n_steps=20,
        callbacks=[Export(), averaging, checkpoints],
        plugins=[AtomicCheckpoints()],
        logger=[kind(folder, "logs", version=run) for kind in (CSVLogger, TensorBoardLogger)],
        use_distributed_sampler=False,
    )
    trainer.fit(module, ckpt_path=str(last) if last.is_file() else None)
    if settings.steps % settings.validate_every:
        trainer.validate(module)
    return folder
