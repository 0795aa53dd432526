"""The training loop's steps: loss, optimizer, validation and export.

Lightning runs the loop, so several GPUs, mixed precision, resumption and SLURM requeueing are its.
Every random choice is a function of the seed, the device and the step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning
import numpy as np
import torch
from torch import Tensor

from isochroma.images import metrics
from isochroma.images.preprocess import from_model_units
from isochroma.images.slices import save_slices
from isochroma.method import flow
from isochroma.method.network import VelocityNetwork, loss_weight
from isochroma.method.refinement import LEVELS, error_levels
from isochroma.method.sampling import FlowSampler
from isochroma.models.config import Capabilities, ModelConfig, Validation
from isochroma.models.folder import save_model
from isochroma.training.batches import Batch
from isochroma.training.data import TargetScan
from isochroma.training.settings import Recipe, TrainingSettings

ERRORS = tuple(f"error_level{number:02d}" for number in range(LEVELS))


class FlowTraining(lightning.LightningModule):
    """Train one velocity network as a rectified flow.

    Parameters
    ----------
    recipe : Recipe
        Shape of the network and training settings.
    weights : mapping of str to Tensor, optional
        Weights to start from; random ones if not given.
    compile_network : bool
        Compile the network first.

    Attributes
    ----------
    started : bool
        Whether training has begun: what a checkpoint has was restored.
    """

    def __init__(
        self,
        recipe: Recipe,
        weights: Mapping[str, Tensor] | None = None,
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        self.settings = recipe.training
        self.spacing_mm = recipe.preprocess.spacing_mm
        torch.manual_seed(self.settings.seed)
        self.network = VelocityNetwork(recipe.network)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if compile_network:
            self.network.compile()
        if weights is not None:
            self.network.load_state_dict(weights)
        self.started = False

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Compute the flow-matching loss of one batch.

        Raises
        ------
        FloatingPointError
            If the loss is not finite.
        """
        generator = torch.Generator(self.device)
        key = [self.settings.seed, self.global_rank, self.global_step]
        generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        noise, t = noise_and_times(batch, self.settings, generator)
        weight = loss_weight(t, self.network.settings.data_std)
        loss = flow.loss(self.network, batch.image, batch.mask, batch.condition, noise, t, weight)
        if not torch.isfinite(loss):
            msg = (
                f"the loss is {loss.item()} at step {self.global_step}. The last checkpoint is "
                "intact; resume from it with a lower learning rate."
            )
            raise FloatingPointError(msg)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Set up Adam with the learning rate of `rate_factor`."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(step, self.settings)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Let a resumed run use the learning rate that it was given, not the stored one."""
        self.started = True
        schedule = cast("torch.optim.lr_scheduler.LambdaLR", self.lr_schedulers())
        peak = self.settings.learning_rate
        schedule.base_lrs = [peak] * len(schedule.base_lrs)
        for group in schedule.optimizer.param_groups:
            group["lr"] = peak * rate_factor(schedule.last_epoch, self.settings)

    def validation_step(self, scan: TargetScan, batch_index: int) -> dict[str, Reconstruction]:
        """Reconstruct one validation scan, and log how well."""
        sampler = FlowSampler(self.network, self.spacing_mm, self.device)
        rebuilt = reconstruct(sampler, scan)
        mask = np.asarray(scan.mask)
        for name, each in rebuilt.items():
            output, truth = (from_model_units(v, 0, 1) for v in (each.output, each.truth))
            scores = {
                f"{name}_psnr": metrics.psnr(each.output, each.truth, mask, data_range=2),
                f"{name}_ssim": metrics.ssim(output, truth, mask, 1),
            }
            self.log_dict(scores, prog_bar=True, batch_size=1, sync_dist=True)
            if name == "val":
                levels = error_levels(each.output, each.truth, mask)
                errors = dict(zip(ERRORS, levels, strict=True))
                self.log_dict(errors, batch_size=1, sync_dist=True)
        return rebuilt


class Reconstruction(NamedTuple):
    """Hold a validation scan as the network reconstructs it; (I, J, K), model units.

    Attributes
    ----------
    truth : ndarray of float32
        The target scan.
    output : ndarray of float32
        What the network makes of the input.
    shown : ndarray
        The input to show in previews: edges as +1 and -1, or the draft.
    """

    truth: np.ndarray
    output: np.ndarray
    shown: np.ndarray


def noise_and_times(
    batch: Batch, settings: TrainingSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw where on its path from noise to image each patch of a batch is learned.

    Parameters
    ----------
    batch : Batch
        Patches.
    settings : TrainingSettings
        Its `start_share` is used.
    generator : torch.Generator
        Source of noise and times.

    Returns
    -------
    noise : (B, 1, S, S, S) Tensor
        Gaussian; for patches with a draft, the draft's error (`flow.as_noise`).
    t : (B,) Tensor
        0 for a share of the patches, `flow.DRAFT_TIME` for those with a draft, otherwise uniform.
    """
    image, device = batch.image, batch.image.device
    noise = torch.randn(image.shape, generator=generator, device=device)
    t = torch.rand(len(image), generator=generator, device=device)
    start = torch.rand(len(image), generator=generator, device=device)
    t = torch.where(start < settings.start_share, 0, t)
    t = torch.where(batch.drafted, flow.DRAFT_TIME, t)
    where = batch.drafted.view(-1, 1, 1, 1, 1)
    return torch.where(where, flow.as_noise(batch.draft, image), noise), t


def rate_factor(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate at a step over the peak: a linear rise, then half a cosine.

    Parameters
    ----------
    step : int
        Optimizer steps done.
    settings : TrainingSettings
        Its `steps`, `warmup_steps` and `final_rate` are used.

    Returns
    -------
    factor : float
        In [0, 1].
    """
    final, progress = settings.final_rate, min(1.0, step / settings.steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / max(1, settings.warmup_steps)) * (final + (1 - final) * cosine)


def reconstruct(sampler: FlowSampler, scan: TargetScan) -> dict[str, Reconstruction]:
    """Reconstruct a target scan from its own edges, and from its drafts if there are any.

    Parameters
    ----------
    sampler : FlowSampler
        Of the network in training.
    scan : TargetScan
        A validation scan.

    Returns
    -------
    reconstructions : dict
        "val" from the edges, by one Euler step from noise; "val_draft0", "val_draft1", ... from the
        drafts, by the second pass.
    """
    mask, edges = np.asarray(scan.mask), scan.edges[0]
    image = np.asarray(scan.image, dtype=np.float32)
    rebuilt = {"val": Reconstruction(image, sampler.sample(edges, mask), edges * 2.0 - 1)}
    for number, example in enumerate(scan.examples):
        draft = np.asarray(example.draft, dtype=np.float32)
        output = sampler.revise(example.edges, mask, draft).image
        image = np.asarray(example.image, dtype=np.float32)
        rebuilt[f"val_draft{number}"] = Reconstruction(image, output, draft)
    return rebuilt


class Preview(lightning.Callback):
    """Save a picture of the first validation scan after each validation.

    Parameters
    ----------
    folder : Path
        Where to save `step-NNNNNN.png`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save truth, output and input of each reconstruction."""
        if batch_idx > 0 or not trainer.is_global_zero:
            return
        shown: dict[str, np.ndarray] = {}
        for name, each in outputs.items():
            shown |= {f"{name}: truth": each.truth, f"{name}: output": each.output}
            shown[f"{name}: input"] = each.shown
        save_slices(self.folder / f"step-{trainer.global_step:06d}.png", shown)


class Export(lightning.Callback):
    """Write the averaged weights as a usable model after each validation.

    Give it to the trainer before the averaging, which puts the raw weights back at the same event.

    Parameters
    ----------
    folder : Path
        The model folder.
    config : ModelConfig
        The model's config, without validation scores.

    Attributes
    ----------
    step : int
        Step of the last export; -1 if there was none.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.folder = folder
        self.config = config
        self.step = -1

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save weights and config, with the validation scores."""
        module = cast("FlowTraining", pl_module)
        self.step = trainer.global_step
        if not trainer.is_global_zero:
            return
        scores = {k: float(v) for k, v in trainer.callback_metrics.items()}
        record = {
            **dataclasses.asdict(module.settings),
            "steps_done": trainer.global_step,
            **{k: round(v, 4) for k, v in scores.items() if k.startswith("val_")},
        }
        validation = Validation(
            psnr=round(scores["val_psnr"], 4),
            ssim=round(scores["val_ssim"], 4),
            errors=tuple(min(round(scores[name], 4), 2.0) for name in ERRORS),
        )
        config = dataclasses.replace(
            self.config,
            capabilities=Capabilities(second_pass=module.settings.draft_share > 0),
            validation=validation,
            training=record,
        )
        save_model(self.folder, module.network.state_dict(), config)
