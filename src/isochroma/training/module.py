"""Train a model on one scanner's scans: `isochroma train TARGET_DIR -o MODEL_DIR`.

Only TARGET_DIR is read: the method is blind to every other scanner. Scans are preprocessed once
into a memory-mapped cache, edges included. Lightning runs the loop, so several GPUs, mixed
precision, resumption and SLURM requeueing are its own. Every random choice is a function of the
seed and the step, so a run that was killed continues as if it had not been.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from isochroma.images import metrics
from isochroma.images.preprocess import from_model_units
from isochroma.method import flow
from isochroma.method.network import VelocityNetwork, loss_weight
from isochroma.method.refinement import LEVELS, error_levels
from isochroma.method.sampling import FlowSampler
from isochroma.models.config import Capabilities, ModelConfig, Validation
from isochroma.models.folder import save_model
from isochroma.training.data import PatchStream, TargetScan, open_cached, open_examples
from isochroma.training.settings import TrainingSettings

ERRORS = tuple(f"error_level{number:02d}" for number in range(LEVELS))


class FlowTraining(lightning.LightningModule):
    """Rectified-flow training of one velocity network."""

    def __init__(
        self,
        config: ModelConfig,
        settings: TrainingSettings,
        scans: dict[str, list[Path]],
        folder: Path,
        workers: int = 0,
        compile_network: bool = False,
        drafts_by: str = "",
    ) -> None:
        super().__init__()
        self.config = config
        self.settings = settings
        self.scans = scans
        self.folder = folder
        self.workers = workers
        self.drafts_by = drafts_by
        torch.manual_seed(settings.seed)
        self.network = VelocityNetwork(config.network)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if compile_network:
            self.network.compile()

    def opened(self, path: Path) -> TargetScan:
        """A cached scan, with its examples for the second pass."""
        count = self.settings.draft_copies if self.settings.draft_share else 0
        return open_cached(path)._replace(examples=open_examples(path, self.drafts_by, count))

    def train_dataloader(self) -> DataLoader:
        """Patches, from the present step on."""
        stream = PatchStream(
            [self.opened(path) for path in self.scans["train"]],
            self.config.patches,
            self.settings.batch_size,
            self.settings.seed,
            variant_share=self.settings.variant_share,
            draft_share=self.settings.draft_share,
            first_step=self.global_step,
            rank=self.global_rank,
            spacing_mm=self.config.preprocess.spacing_mm,
        )
        return DataLoader(stream, batch_size=None, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        """Numbers of the validation scans."""
        return DataLoader(list(range(len(self.scans["val"]))), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """Flow-matching loss of one batch, noise and times drawn from (seed, rank, step)."""
        image, mask, draft, condition, drafted = batch
        generator = torch.Generator(self.device)
        key = [self.settings.seed, self.global_rank, self.global_step]
        generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        noise = torch.randn(image.shape, generator=generator, device=self.device)
        t = torch.rand(len(image), generator=generator, device=self.device)
        start = torch.rand(len(image), generator=generator, device=self.device)
        t = torch.where(start < self.settings.start_share, 0, t)
        t = torch.where(drafted, flow.DRAFT_TIME, t)
        where = drafted.view(-1, 1, 1, 1, 1)
        noise = torch.where(where, flow.as_noise(draft, image), noise)
        weight = loss_weight(t, self.config.network.data_std)
        loss = flow.loss(self.network, image, mask, condition, noise, t, weight)
        if not torch.isfinite(loss):
            msg = (
                f"the loss is {loss.item()} at step {self.global_step}. The last checkpoint is "
                "intact; resume from it with a lower --learning-rate."
            )
            raise FloatingPointError(msg)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam with a linear warm-up and a cosine decay to 1 % over the run."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)
        warmup, steps = self.settings.warmup_steps, self.settings.steps

        def factor(step: int) -> float:
            progress = min(1.0, step / steps)
            return min(1.0, (step + 1) / max(1, warmup)) * (
                0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
            )

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Let a resumed run follow the learning rate that it was given, not the stored one."""
        schedule = cast("torch.optim.lr_scheduler.LambdaLR", self.lr_schedulers())
        schedule.base_lrs = [self.settings.learning_rate] * len(schedule.base_lrs)

    def validation_step(self, index: int, batch_index: int) -> None:
        """Reconstruct one held-out target scan from its own edges, by one Euler step; and from its
        drafts, if there are any.
        """
        scan = self.opened(self.scans["val"][index])
        mask = np.asarray(scan.mask)
        shown: dict[str, np.ndarray] = {}
        cases: dict[str, tuple[Any, Any, Any]] = {"val": (scan.image, scan.edges[0], None)}
        for number, example in enumerate(scan.examples):
            cases[f"val_draft{number}"] = (example.image, example.edges, example.draft)
        sampler = FlowSampler(self.network, self.config.preprocess.spacing_mm, self.device)
        for name, (image, edges, draft) in cases.items():
            truth = np.asarray(image, dtype=np.float32)
            if draft is None:
                output = sampler.sample(edges, mask)
            else:
                output = sampler.revise(edges, mask, np.asarray(draft, dtype=np.float32))
            shown |= {f"{name}: truth": truth, f"{name}: output": output}
            shown[f"{name}: input"] = edges * 2.0 - 1 if draft is None else draft
            unit, true_unit = (from_model_units(volume, 0, 1) for volume in (output, truth))
            scores = {
                f"{name}_psnr": metrics.psnr(output, truth, mask, data_range=2),
                f"{name}_ssim": metrics.ssim(unit, true_unit, mask, 1),
            }
            self.log_dict(scores, prog_bar=True, batch_size=1, sync_dist=True)
            if name == "val":
                errors = dict(zip(ERRORS, error_levels(output, truth, mask), strict=True))
                self.log_dict(errors, batch_size=1, sync_dist=True)
        if batch_index == 0 and self.trainer.is_global_zero:
            from isochroma.images.slices import save_slices

            save_slices(self.folder / "previews" / f"step-{self.global_step:06d}.png", shown)


class Export(lightning.Callback):
    """Write the averaged weights as a usable model after each validation.

    Listed before the averaging, which takes its weights back at the same moment.
    """

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save weights, config and scores."""
        module = cast("FlowTraining", pl_module)
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
            errors=tuple(round(scores[name], 4) for name in ERRORS),
        )
        config = dataclasses.replace(
            module.config,
            capabilities=Capabilities(second_pass=module.settings.draft_share > 0),
            validation=validation,
            training=record,
        )
        save_model(module.folder, module.network.state_dict(), config)
