"""Train a model on one scanner's scans: `isochroma train TARGET_DIR -o MODEL_DIR`.

Only TARGET_DIR is read: the method is blind to every other scanner. Scans are preprocessed once
into a memory-mapped cache, edges included. Lightning runs the loop, so several GPUs, mixed
precision, resumption and SLURM requeueing are its own. Every random choice is a function of the
seed and the step, so a run that was killed continues as if it had not been.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from isochroma import flow, metrics, patches
from isochroma.drafts import Example, make_example
from isochroma.edges import canny
from isochroma.errors import InputError, about
from isochroma.harmonize import Harmonizer, SamplingSettings, sample
from isochroma.model import ModelConfig, TargetDomain, save_model
from isochroma.network import VelocityNetwork, loss_weight
from isochroma.patches import PatchSettings
from isochroma.preprocess import brain_mask, from_model_units, prepare
from isochroma.refine import LEVELS, error_levels
from isochroma.simulate import random_scanner
from isochroma.trust import brain_extent
from isochroma.volume import has_volume_suffix, load, sha256, stem, write_atomically

logger = logging.getLogger(__name__)

ERRORS = tuple(f"error_level{number:02d}" for number in range(LEVELS))


@dataclass(frozen=True)
class TrainingSettings:
    """The recipe.

    steps, batch_size
        Optimizer steps, and patches in each (per device).
    learning_rate, warmup_steps
        Peak of the cosine schedule, and the steps of the linear rise to it.
    ema_decay
        Of the averaged weights, the ones that are used.
    gradient_clip
        Largest gradient norm.
    edge_variants
        How many re-contrasted copies of each scan give edges too.
    variant_share
        Share of the patches that take the edges of a copy; the image stays the target's (0: the
        paper's training).
    start_share
        Share of the patches at t = 0, where the edges alone must tell the image; the others' t is
        uniform (0: the paper's training). The optimum of the loss at each t stays what it is.
    draft_share, draft_copies
        Share of the patches that train the second pass, and of how many copies of each scan.
    validate_every, checkpoint_every
        Steps between validations, and between checkpoints.
    seed
        Of every random choice.
    """

    steps: int = 30000
    batch_size: int = 2
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    edge_variants: int = 3
    variant_share: float = 0.5
    start_share: float = 0.5
    draft_share: float = 0.0
    draft_copies: int = 3
    validate_every: int = 1000
    checkpoint_every: int = 200
    seed: int = 0


class TargetScan(NamedTuple):
    """One cached scan: (I, J, K) image, mask; (V, I, J, K) edge maps, the scan's own first; and
    examples for the second pass, if there are any.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    edges: np.ndarray
    centroid: np.ndarray
    lower: float
    upper: float
    examples: tuple[Example, ...] = ()


# ---------------------------------------------------------------- target scans and their cache


def find_target_scans(folder: Path) -> dict[str, list[Path]]:
    """Training and validation scans of a target folder.

    With a `participants.tsv` that has a `split` column, the scans of "train" and "val"
    participants ("test" is never read); otherwise all scans, every tenth (at least one) for
    validation.
    """
    folder = Path(folder)
    if not folder.is_dir():
        msg = f"{folder}: no such folder. Give the folder that holds the target scans."
        raise InputError(msg)
    scans = sorted(p for p in folder.rglob("*") if p.is_file() and has_volume_suffix(p))
    table = folder / "participants.tsv"
    splits = {}
    if table.is_file():
        with table.open(newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                splits[row["participant_id"]] = row.get("split")
    if any(splits.values()):
        chosen: dict[str, list[Path]] = {"train": [], "val": []}
        for path in scans:
            split = splits.get(stem(path).split("_")[0])
            if split in chosen:
                chosen[split].append(path)
    else:
        chosen = {"val": scans[::10], "train": [p for i, p in enumerate(scans) if i % 10]}
    if not chosen["train"] or not chosen["val"]:
        msg = f"{folder}: {len(scans)} scans found; training needs one, and validation one more."
        raise InputError(msg)
    return chosen


def cache_scan(path: Path, folder: Path, config: ModelConfig, variants: int) -> Path:
    """Preprocess one scan into `folder`, unless the same file with the same settings is there."""
    settings = {
        "sha256": sha256(path),
        "preprocess": dataclasses.asdict(config.preprocess),
        "edges": dataclasses.asdict(config.edges),
        "variants": variants,
    }
    settings = json.loads(json.dumps(settings))
    cached = folder / f"{stem(path)}-{settings['sha256'][:8]}"
    record = cached / "settings.json"
    if record.is_file() and json.loads(record.read_text())["settings"] == settings:
        return cached
    scan = load(path)
    with about(path):
        prepared = prepare(scan, brain_mask(scan)[0], config.preprocess)
    rng = np.random.default_rng(int(settings["sha256"][:8], 16))
    unit = from_model_units(prepared.image, 0, 1)
    maps = [canny(prepared.image, prepared.mask, config.edges)]
    for _ in range(variants):
        copy = random_scanner(rng).render(unit, prepared.mask, rng)
        maps.append(canny(copy, prepared.mask, config.edges))
    with into_place(cached) as work:
        np.save(work / "image.npy", prepared.image.astype(np.float16))
        np.save(work / "mask.npy", prepared.mask)
        np.save(work / "edges.npy", np.stack(maps))
        limits = {"lower": prepared.lower, "upper": prepared.upper}
        (work / "settings.json").write_text(json.dumps({"settings": settings, **limits}))
    return cached


@contextlib.contextmanager
def into_place(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which then replaces `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        work = Path(temporary) / folder.name
        work.mkdir()
        yield work
        shutil.rmtree(folder, ignore_errors=True)
        try:
            work.rename(folder)
        except OSError:  # another process of the same run may have been first
            if not folder.is_dir():
                raise


def cache_examples(cached: Path, harmonizer: Harmonizer, count: int) -> None:
    """Make `count` examples for the second pass beside a cached scan, unless they are there."""
    scan = open_cached(cached)
    folder = cached / f"drafts-{harmonizer.config.sha256[:8]}"
    image, mask = np.asarray(scan.image, dtype=np.float32), np.asarray(scan.mask)
    for number in range(count):
        if (folder / str(number)).is_dir():
            continue
        seed = [int(cached.name[-8:], 16), number]
        example = make_example(image, mask, harmonizer, np.random.default_rng(seed))
        with into_place(folder / str(number)) as work:
            for name, volume in example._asdict().items():
                kind = volume.dtype if volume.dtype == bool else np.float16
                np.save(work / f"{name}.npy", volume.astype(kind))


def open_examples(cached: Path, model: str, count: int) -> tuple[Example, ...]:
    """Memory-map `count` examples that the model of this hash made."""
    folders = [cached / f"drafts-{model[:8]}" / str(number) for number in range(count)]
    return tuple(
        Example(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Example._fields))
        for folder in folders
    )


def open_cached(folder: Path) -> TargetScan:
    """Memory-map a cached scan."""
    image, mask, edges = (
        np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("image", "mask", "edges")
    )
    record = json.loads((folder / "settings.json").read_text())
    centroid = patches.centroid_of(np.asarray(mask))
    return TargetScan(folder.name, image, mask, edges, centroid, record["lower"], record["upper"])


def describe_target(scans: list[TargetScan], spacing_mm: float) -> TargetDomain:
    """Intensity limits, mean quantiles and brain sizes of the target domain's training scans."""
    probabilities = np.linspace(0, 1, 101)
    quantiles = [np.quantile(np.asarray(s.image)[s.mask], probabilities) for s in scans]
    extents = np.array([brain_extent(np.asarray(scan.mask)) * spacing_mm for scan in scans])
    return TargetDomain(
        lower=float(np.median([scan.lower for scan in scans])),
        upper=float(np.median([scan.upper for scan in scans])),
        scans=len(scans),
        quantiles=tuple(round(float(q), 4) for q in np.mean(quantiles, axis=0)),
        smallest_mm=tuple(float(size) for size in extents.min(0)),
        largest_mm=tuple(float(size) for size in extents.max(0)),
    )


# ---------------------------------------------------------------- batches


class PatchStream(IterableDataset):
    """Endless batches of patches; batch n is a function of (seed, rank, n) alone.

    Iteration begins with batch `first_step`, so a resumed run goes on where it stopped.
    """

    def __init__(
        self,
        scans: list[TargetScan],
        settings: PatchSettings,
        batch_size: int,
        seed: int,
        variant_share: float = 0.5,
        draft_share: float = 0.0,
        first_step: int = 0,
        rank: int = 0,
        spacing_mm: float = 1.0,
    ) -> None:
        self.scans = scans
        self.settings = settings
        self.batch_size = batch_size
        self.seed = seed
        self.variant_share = variant_share
        self.draft_share = draft_share
        self.first_step = first_step
        self.rank = rank
        self.spacing_mm = spacing_mm

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Batch number `step`: image, mask and draft (B, 1, S, S, S), condition (B, 4, S, S, S),
        and (B,) bool, which have a draft.
        """
        rng = np.random.default_rng([self.seed, self.rank, step])
        drawn = []
        for _ in range(self.batch_size):
            scan = self.scans[rng.integers(len(self.scans))]
            copies = len(scan.edges) - 1
            variant = (
                rng.integers(1, copies + 1) if copies and rng.random() < self.variant_share else 0
            )
            image, edges, draft = scan.image, scan.edges[variant], None
            if scan.examples and rng.random() < self.draft_share:
                image, edges, draft = scan.examples[rng.integers(len(scan.examples))]
            volumes = (image, scan.mask, edges, scan.centroid)
            patch = patches.draw(*volumes, self.settings, rng, self.spacing_mm, draft)
            drawn.append((*patch, np.array(draft is not None)))
        return tuple(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        worker = torch.utils.data.get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.first_step + index
        while True:
            yield self.batch(step)
            step += count


# ---------------------------------------------------------------- the Lightning module


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
        for name, (image, edges, draft) in cases.items():
            truth = np.asarray(image, dtype=np.float32)
            output = sample(
                self.network,
                edges,
                mask,
                SamplingSettings(),
                self.device,
                self.config.preprocess.spacing_mm,
                draft=None if draft is None else np.asarray(draft, dtype=np.float32),
            )
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
            from isochroma.preview import save_preview

            save_preview(self.folder / "previews" / f"step-{self.global_step:06d}.png", shown)


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
        errors = tuple(round(scores[name], 4) for name in ERRORS)
        config = dataclasses.replace(module.config, errors=errors, training=record)
        save_model(module.folder, module.network.state_dict(), config)


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
        first_pass = Harmonizer(*initial, SamplingSettings(revise=False))
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
