"""Train the second stage within a fixed time, and validate it.

    python experiments/second_stage/train.py --bundle BUNDLE --minutes 8.6 --out OUT
        [--resume src/isochroma/models/default/reviser.safetensors]

Worker processes simulate subjects. The first stage and the refinement make drafts of them, and a
growing pool of whole heads on the GPU gives random patches for training.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import math
import os
import queue
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

START = time.perf_counter()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
for package, parts in {"nibabel": ("affines",), "SimpleITK": ()}.items():
    if importlib.util.find_spec(package) is None:  # imported by the package, not used here
        for module in (package, *(f"{package}.{part}" for part in parts)):
            sys.modules[module] = MagicMock()

import numpy as np  # noqa: E402
import refine_torch  # noqa: E402
import stored  # noqa: E402
import torch  # noqa: E402
from supply import CASES, Supply  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional  # noqa: E402
from validation import calibration, calibration_error, contrast_kept, family, score, table  # noqa: E402

from isochroma.images.masked import centroid  # noqa: E402
from isochroma.method.condition import coordinates  # noqa: E402
from isochroma.method.flow import DRAFT_TIME  # noqa: E402
from isochroma.method.network import ChannelNorm, VelocityNetwork  # noqa: E402
from isochroma.method.reviser import EXTRA, STEEPEST, Reviser  # noqa: E402

MARGIN = 8  # voxels that patches may reach beyond a volume
NAMES = ("image", "draft", "source", "first", "slope", "residual", "edges", "planted")
GRACE = 60.0  # seconds to wait for missing validation sources
LIKELIHOOD, CONSISTENCY = 0.3, 0.1  # weights of the loss's terms
TAIL = 5.0  # degrees of freedom of Student's t


def seconds() -> float:
    """Return the seconds since the start."""
    return time.perf_counter() - START


def say(*words: object) -> None:
    """Print a line with the time."""
    print(f"[{seconds():6.1f}]", *words, flush=True)


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--bundle", type=Path, default=HERE, help="made by build_bundle.py")
    add("--out", type=Path, required=True)
    add("--minutes", type=float, default=8.6, help="wall clock of simulation and training")
    add("--first", type=Path, help="model folder of the first stage; default: the bundle's")
    add("--resume", type=Path, help="weights of an earlier run")
    add("--workers", type=int, default=max(1, cores() - 1))
    add("--patch", type=int, default=80, help="voxels")
    add("--batch", type=int, default=12, help="patches a step, in pairs")
    add("--rate", type=float, default=4e-4)
    add("--warmup", type=int, default=150, help="steps")
    add("--ema", type=float, default=0.999)
    add("--ssim", type=float, default=0.0, help="weight of 1 - SSIM in the loss")
    add("--planted", type=float, default=0.2, help="share of the loss that planted structure adds")
    add("--least", type=int, default=30, help="examples before training starts")
    add("--pool-gb", type=float, default=0.0, help="0: 45 %% of the GPU's memory")
    add("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    add("--cases", nargs="*", default=list(CASES), help="validation sources")
    add("--shrink", type=int, default=0, help="for trials: edge of a central box of each head")
    add("--max-steps", type=int, default=0, help="for trials")
    add("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    scans, cases = options.bundle / "scans", tuple(options.cases)
    # Workers are forked before CUDA starts.
    supply = Supply(scans, options.workers, options.seed, cases, options.shrink)
    say(f"{options.workers} workers, {len(supply.train)} + {len(supply.val)} scans")
    run = None
    try:
        run = Run(options, supply)
        run.train()
        run.finish()
    except BaseException:
        traceback.print_exc()
        if run is not None and run.steps:
            run.export()
    finally:
        supply.close()
        say("end")
    sys.stdout.flush()
    os._exit(0 if run is not None and run.done else 1)  # the reading thread never ends


class Drafts:
    """Make drafts on the device: what the product computes before the second stage.

    Parameters
    ----------
    network : VelocityNetwork
        The first stage, on the device.
    errors : Tensor
        Its error by level, see `refinement.follow_source`.
    device : torch.device
        Where to compute.
    """

    def __init__(self, network: VelocityNetwork, errors: Tensor, device: torch.device) -> None:
        self.network, self.errors, self.device = network, errors, device

    def padded(self, volume: Tensor) -> Tensor:
        """Pad with zeros at the ends of the axes, up to multiples of the network's divisor."""
        divisor = self.network.settings.divisor
        return functional.pad(volume, [p for n in volume.shape[:-4:-1] for p in (0, -n % divisor)])

    def condition(self, signed: Tensor, mask: np.ndarray) -> Tensor:
        """Return signed edges and coordinates of a whole head, padded: (1, 4, I', J', K')."""
        signed = self.padded(signed)
        where = coordinates(centroid(mask), np.zeros(3), tuple(signed.shape))
        return torch.cat([signed[None], torch.from_numpy(where).to(self.device)])[None]

    @torch.no_grad()
    def step(self, state: Tensor, t: float, condition: Tensor, inside: Tensor) -> Tensor:
        """Take one Euler step from t to 1: state and result (I, J, K), 0 outside the mask.

        At t = 0 the preconditioned network does not see the noise and the step takes it away, so a
        state of zeros gives what any noise gives.
        """
        times = torch.full((1,), t, device=self.device)
        velocity = self.network(self.padded(state)[None, None], times, condition)[0, 0]
        i, j, k = state.shape
        return state + (1 - t) * velocity[:i, :j, :k] * inside

    def make(self, source: np.ndarray, edges: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Make first pass and draft of a source: (I, J, K) arrays in, tensors out."""
        inside = torch.from_numpy(mask).to(self.device)
        signed = torch.where(inside, 2.0 * torch.from_numpy(edges).to(self.device) - 1, 0.0)
        condition = self.condition(signed, mask)
        first = self.step(torch.zeros_like(signed), 0.0, condition, inside)
        shown = torch.from_numpy(source).float().to(self.device)
        made = refine_torch.follow_source(first, shown, inside, self.errors)
        return {
            "inside": inside,
            "edges": signed,
            "condition": condition,
            "first": first,
            "source": shown,
            "draft": made.draft,
            "slope": made.slope.clamp(-STEEPEST, STEEPEST),
            "residual": made.residual,
            "variance": made.variance,
            "error": made.error,
        }

    def default(self, case: dict[str, Any]) -> dict[str, Tensor]:
        """Return what the product makes of a draft: the second pass, and its final image."""
        inside = case["inside"]
        second = self.step(DRAFT_TIME * case["draft"], DRAFT_TIME, case["condition"], inside)
        return {"draft": case["draft"], "second": second, "default": self.kept(second, case)}

    def kept(self, output: Tensor, case: dict[str, Any]) -> Tensor:
        """Apply `keep_structure` to an output for a case."""
        return refine_torch.keep_structure(
            output, case["source"], case["inside"], case["error"], case["variance"]
        )

    @torch.no_grad()
    def revised(self, network: Reviser, case: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of a whole head by a reviser."""
        inside = case["inside"]
        parts = {name: case[name] for name in ("source", "first", "slope", "residual")}
        parts["spread"] = case["variance"].sqrt() * inside
        extra = self.padded(torch.stack([parts[name] for name in EXTRA]))[None]
        mean, spread = network(self.padded(case["draft"])[None, None], case["condition"], extra)
        i, j, k = inside.shape
        return mean[0, 0, :i, :j, :k].clamp(-1, 1) * inside, spread[0, 0, :i, :j, :k]


class Pool:
    """Hold whole heads on the device and draw patches from them.

    Parameters
    ----------
    limit : float
        Bytes; once full, the oldest heads are replaced.
    rng : numpy.random.Generator
        Source of the patches.
    device : torch.device
        Where patches go.
    """

    def __init__(self, limit: float, rng: np.random.Generator, device: torch.device) -> None:
        self.limit, self.rng, self.device = limit, rng, device
        self.items: list[dict[str, Any]] = []
        self.bytes, self.oldest, self.seen = 0, 0, 0

    def add(self, pair: Tensor, spread: list[float], centre: np.ndarray) -> None:
        """Add one head from two sources: (2, 8, I, J, K) channels `NAMES`, float16."""
        item = {
            "pair": functional.pad(pair, [MARGIN] * 6),
            "spread": spread,
            "centroid": centre + MARGIN,
        }
        size = item["pair"].numel() * 2
        self.seen += 2
        if self.bytes + size <= self.limit or not self.items:
            self.items.append(item)
            self.bytes += size
            return
        old = self.oldest % len(self.items)
        self.bytes += size - self.items[old]["pair"].numel() * 2
        self.items[old] = item
        self.oldest += 1

    def shrink(self) -> None:
        """Drop a fifth of the heads, and stay so small."""
        self.items = self.items[-max(1, int(0.8 * len(self.items))) :]
        self.bytes = sum(item["pair"].numel() * 2 for item in self.items)
        self.limit = self.bytes

    def batch(self, patch: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw patches; the two halves of the batch show the same places, from two sources.

        Parameters
        ----------
        patch : int
            Edge, voxels.
        count : int
            Patches, an even number.

        Returns
        -------
        channels : (B, 8, P, P, P) Tensor
            Those of `NAMES`.
        where : (B, 3, P, P, P) Tensor
            Coordinates.
        spread : (B,) Tensor
            Standard deviations of the sources around their curves.
        """
        shown, places, spreads = [], [], []
        for _ in range(count // 2):
            item = self.items[self.rng.integers(len(self.items))]
            shape = np.array(item["pair"].shape[2:])
            start = self.rng.integers(0, np.maximum(shape - patch, 0) + 1)
            box = tuple(slice(int(s), int(s) + patch) for s in start)
            part = item["pair"][(slice(None), slice(None), *box)]
            missing = [patch - n for n in part.shape[2:]]
            if any(missing):
                part = functional.pad(part, [p for n in reversed(missing) for p in (0, n)])
            flip = self.rng.random() < 0.5  # left and right
            shown.append(part.flip(2) if flip else part)
            places.append((*(start - item["centroid"]) / 100, -1.0 if flip else 1.0))
            spreads.append(item["spread"])
        known = torch.tensor(places, dtype=torch.float32).to(self.device, non_blocking=True)
        steps = torch.arange(patch, device=self.device) / 100
        x, y, z = (known[:, axis, None] + steps for axis in range(3))
        x = torch.where(known[:, 3:] < 0, x.flip(1), x) * known[:, 3:]
        one = (count // 2, patch, patch, patch)
        axes = (x[:, :, None, None], y[:, None, :, None], z[:, None, None, :])
        where = torch.stack([axis.expand(one) for axis in axes], dim=1)
        channels = torch.stack(shown).transpose(0, 1).flatten(0, 1)
        spread = torch.tensor(spreads).T.flatten().to(self.device, non_blocking=True)
        return channels.float(), where.repeat(2, 1, 1, 1, 1), spread


class Run:
    """Train and validate one reviser.

    Parameters
    ----------
    options : argparse.Namespace
        See `arguments`.
    supply : Supply
        The running workers.
    """

    def __init__(self, options: argparse.Namespace, supply: Supply) -> None:
        self.options, self.supply = options, supply
        self.deadline = 60 * options.minutes
        self.steps, self.done = 0, False
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        torch.set_num_threads(1)
        torch.manual_seed(options.seed)
        torch.backends.cudnn.allow_tf32 = True
        folder = options.first or options.bundle / "isochroma" / "models" / "default"
        first, config = stored.load_first(folder)
        settings = stored.settings_of(config["network"])
        self.network = Reviser(settings)
        if options.resume:
            stored.start_from(self.network, stored.read_state(options.resume), size=0)
        else:
            stored.start_from(self.network, first.state_dict(), options.seed)
        layout = {"memory_format": torch.channels_last_3d}
        first = first.to(self.device).to(**layout).requires_grad_(requires_grad=False)
        self.network.to(self.device).to(**layout)
        self.average = copy.deepcopy(self.network).requires_grad_(requires_grad=False).eval()
        ChannelNorm.forward = stored.fast_norm  # type: ignore[method-assign]
        errors = torch.tensor(config["validation"]["errors"], device=self.device)
        self.drafts = Drafts(first, errors, self.device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), options.rate, betas=(0.9, 0.99), fused=self.cuda
        )
        self.good = copy.deepcopy(self.average.state_dict())
        self.loaded: queue.Queue[Any] = queue.Queue(maxsize=4)
        threading.Thread(target=self.load, daemon=True).start()
        total = torch.cuda.get_device_properties(0).total_memory if self.cuda else 4 * 2**30
        limit = options.pool_gb * 2**30 or 0.45 * total
        self.pool = Pool(limit, np.random.default_rng([options.seed, 2]), self.device)
        self.usual = torch.ones(2, device=self.device)  # mean errors: all, planted
        self.cases: dict[tuple[str, str], dict[str, Any]] = {}
        self.report: dict[str, Any] = {}
        where = torch.cuda.get_device_name() if self.cuda else "CPU"
        count = sum(p.numel() for p in self.network.parameters())
        say(f"torch {torch.__version__} on {where}, {count} parameters")

    def load(self) -> None:
        """Read what the workers made, in a thread of its own."""
        while True:
            kind, name, what, path, _ = self.supply.queue.get()
            arrays = {}
            if path is not None:
                with np.load(path) as stored:
                    arrays = {key: stored[key] for key in stored.files}
                path.unlink()
            self.loaded.put((kind, name, what, arrays))

    def collect(self, wait: float = 0.0) -> None:
        """Take in what a worker made, if there is something."""
        try:
            kind, name, what, arrays = self.loaded.get(wait > 0, wait or None)
        except queue.Empty:
            return
        if kind == "error":
            say("worker:", what)
        elif kind == "case":
            self.cases[what, name] = self.case_of(arrays)
        else:
            self.add(arrays)

    def case_of(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Make the draft of a validation source, with its truth, regions and lesions."""
        made = self.drafts.make(arrays["sources"][0], arrays["edges"][0], arrays["mask"])
        made["truth"] = torch.from_numpy(arrays["truth"]).to(self.device)
        for kind in ("region", "lesion"):
            made[f"{kind}s"] = {
                key.removeprefix(f"{kind}_"): torch.from_numpy(value).to(self.device)
                for key, value in arrays.items()
                if key.startswith(f"{kind}_")
            }
        return made

    def add(self, arrays: dict[str, np.ndarray]) -> None:
        """Make the drafts of a subject's two sources, and put them into the pool."""
        known = {"image": arrays["truth"], "planted": arrays["planted"]}
        shared = {key: torch.from_numpy(value).to(self.device) for key, value in known.items()}
        heads, spread = [], []
        for source, edges in zip(arrays["sources"], arrays["edges"], strict=True):
            made = self.drafts.make(source, edges, arrays["mask"]) | shared
            heads.append(torch.stack([made[key].half() for key in NAMES]))
            spread.append(float(made["variance"]) ** 0.5)
        pair = torch.stack(heads)
        if torch.isfinite(pair.amax()) and torch.isfinite(pair.amin()):
            self.pool.add(pair, spread, centroid(arrays["mask"]))
        else:
            say("a draft is not finite; left out")

    def losses(self, channels: Tensor, where: Tensor, spread: Tensor) -> dict[str, Tensor]:
        """Compute the terms of the loss of a batch, and errors to report.

        The squared error of a patch is divided by its expected value, so that heads that are easy
        to tell count beside noisy ones. The weight depends only on what the network is told, so the
        optimum of this term is the posterior mean. The term of planted structure tilts it towards
        heads with lesions.
        """
        image, draft, source, first, slope, residual, edges, planted = channels.split(1, dim=1)
        inside = (edges != 0).float()
        spread = spread.view(-1, 1, 1, 1, 1) * inside
        extra = torch.cat([source, first, slope, residual, spread], dim=1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda):
            mean, log_variance = self.revise(draft, torch.cat([edges, where], dim=1), extra)
        voxels = inside.sum().clamp(min=1)
        squares = (mean - image).square() * inside
        a, b = mean.chunk(2)
        each = inside.sum((1, 2, 3, 4)).clamp(min=1)
        expected = (log_variance.detach().exp() * inside).sum((1, 2, 3, 4)) / each
        weight = (1 / (expected + 1e-3)).view(-1, 1, 1, 1, 1)
        relative = squares.detach() * (-log_variance).exp() / (TAIL - 2)
        surprise = (log_variance + (TAIL + 1) * relative.log1p()) * inside
        healthy = (inside * (1 - planted).clamp(min=0)).chunk(2)[0]
        found = {
            "weighted": (weight * squares).sum() / voxels,
            "planted": (weight * squares * planted).sum() / voxels,
            "error": 100 * squares.sum() / voxels,
            "draft": 100 * ((draft - image).square() * inside).sum() / voxels,
            "likelihood": 0.5 * surprise.sum() / voxels,
            "consistency": 100 * ((a - b).square() * healthy).sum() * 2 / voxels,
        }
        if self.options.ssim:
            likeness = refine_torch.ssim_map(mean * inside, image, inside)
            found["ssim"] = 1 - (likeness * inside).sum() / voxels
        return found

    def step(self) -> dict[str, Tensor]:
        """Take one step of the optimizer, and move the averaged weights."""
        options = self.options
        torch.backends.cudnn.benchmark = self.cuda  # patches have one size, whole heads have many
        found = self.losses(*self.pool.batch(options.patch, options.batch))
        errors = torch.stack([found["weighted"].detach(), found["planted"].detach()])
        self.usual.lerp_(errors.nan_to_num(1.0), max(0.01, 1 / (1 + self.steps)))
        emphasis = (options.planted * self.usual[0] / self.usual[1].clamp(min=1e-6)).clamp(max=20)
        found["emphasis"] = emphasis
        loss = found["weighted"] + emphasis * found["planted"]
        loss = loss + LIKELIHOOD * found["likelihood"] + CONSISTENCY * found["consistency"]
        if options.ssim:
            loss = loss + options.ssim * found["ssim"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        torch.backends.cudnn.benchmark = False
        self.steps += 1
        decay = min(options.ema, (1 + self.steps) / (20 + self.steps))
        with torch.no_grad():
            now = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(list(self.average.parameters()), now, 1 - decay)
        return {name: value.detach() for name, value in found.items()} | {"loss": loss.detach()}

    def train(self) -> None:
        """Train until the time is up."""
        options = self.options
        while self.pool.seen < options.least:
            self.collect(wait=5.0)
            if seconds() > self.deadline:
                say("too few examples in time")
                return
        say(f"training starts with {self.pool.seen} examples")
        self.revise = (
            torch.compile(self.network, dynamic=False) if options.compile else self.network
        )
        begun = told = stored = seconds()
        total: dict[str, Any] = {}
        number, middle = 0, False
        while seconds() < self.deadline:
            done = (seconds() - begun) / max(self.deadline - begun, 1e-6)
            if options.max_steps:
                done = self.steps / options.max_steps
                if done >= 1:
                    break
            factor = min(1.0, (self.steps + 1) / options.warmup)
            factor *= 0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
            for group in self.optimizer.param_groups:
                group["lr"] = options.rate * factor
            try:
                self.collect()
                found = self.step()
            except torch.OutOfMemoryError:
                self.pool.shrink()
                torch.cuda.empty_cache()
                say(f"out of memory: {len(self.pool.items)} heads kept")
                continue
            except RuntimeError as error:
                if self.revise is self.network:
                    raise
                say("goes on without compilation:", error)
                self.revise = self.network
                continue
            number += 1
            total = {name: total.get(name, 0) + value for name, value in found.items()}
            if seconds() - told > 10 or self.steps == 1:
                means = {name: float(value) / number for name, value in total.items()}
                if not math.isfinite(means["loss"]):
                    self.restore()
                rate = number / max(seconds() - told, 1e-6)
                say(
                    f"step {self.steps}, {rate:.1f}/s, {self.pool.seen} examples,",
                    f"queue {self.waiting()}, lr {options.rate * factor:.1e};",
                    ", ".join(f"{name} {value:.4f}" for name, value in means.items()),
                )
                total, number, told = {}, 0, seconds()
            if seconds() - stored > 60:
                self.export()
                stored = seconds()
            if not middle and done > 0.5:
                middle = True
                self.validate("middle")
        say(f"trained {self.steps} steps, {self.pool.seen} examples")
        self.export()

    def waiting(self) -> int:
        """Return the length of the workers' queue."""
        with contextlib.suppress(NotImplementedError):
            return self.supply.queue.qsize() + self.loaded.qsize()
        return -1

    def restore(self) -> None:
        """Go back to the last good weights."""
        say("the loss is not finite: back to the last good weights")
        for network in (self.network, self.average):
            network.load_state_dict(self.good)
        self.optimizer.state.clear()

    def export(self) -> None:
        """Write the averaged weights."""
        state = self.average.state_dict()
        if not all(bool(v.isfinite().all()) for v in state.values()):
            self.restore()
            state = self.average.state_dict()
        self.good = copy.deepcopy(state)
        options = {
            key: value for key, value in vars(self.options).items() if not isinstance(value, Path)
        }
        record = {"steps": self.steps, "examples": self.pool.seen, "options": options}
        stored.save_reviser(state, self.options.out / "reviser.safetensors", record)

    def validate(self, when: str) -> None:
        """Score draft, second pass, today's default and the new stage on the validation sources."""
        begun = seconds()
        scores: dict[str, dict[str, list[float]]] = {}
        sums: dict[str, Any] = {}
        for (name, _), case in sorted(self.cases.items()):
            if "scores" not in case:
                case["scores"] = {}
                for method, volume in self.drafts.default(case).items():
                    case["scores"] |= self.scores(method, volume, case)
            mean, spread = self.drafts.revised(self.average, case)
            counts, worst = calibration(mean, case["truth"], spread, case["inside"])
            sums[family(name)] = sums.get(family(name), 0) + counts
            own = scores.setdefault(name, {})
            kept = self.drafts.kept(mean, case)
            new = self.scores("new", mean, case) | self.scores("kept", kept, case)
            for key, value in (new | case["scores"]).items():
                own.setdefault(key, []).append(value)
            own.setdefault("worst5", []).append(worst)
        means = {
            name: {key: round(float(np.nanmean(v)), 4) for key, v in own.items()}
            for name, own in scores.items()
        }
        errors = {group: calibration_error(each.cpu().numpy()) for group, each in sums.items()}
        self.report[when] = {
            "steps": self.steps,
            "examples": self.pool.seen,
            "scans": len({scan for _, scan in self.cases}),
            "means": means,
            "each": scores,
            "calibration": errors,
        }
        (self.options.out / "validation.json").write_text(json.dumps(self.report, indent=1))
        say(f"validation ({when}) on {len(self.cases)} sources took {seconds() - begun:.1f} s")
        print(table(means, errors), flush=True)

    def scores(self, method: str, volume: Tensor, case: dict[str, Any]) -> dict[str, float]:
        """Score one image of a validation source."""
        found = score(method, volume, case["truth"], case["inside"], case["regions"])
        return found | contrast_kept(method, volume, case["truth"], case["lesions"])

    def finish(self) -> None:
        """Wait for missing validation sources, validate, export."""
        expected = len(self.options.cases) * len(self.supply.val)
        while len(self.cases) < expected and seconds() < self.deadline + GRACE:
            self.collect(wait=1.0)
        self.validate("end")
        self.export()
        self.done = True


if __name__ == "__main__":
    main()
