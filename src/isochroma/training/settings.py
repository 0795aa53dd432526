"""Settings of a training run: what is trained (`Recipe`) and on what (`TrainerSettings`).

Two recipes are complete: `COMPACT_RECIPE`, the default, and `PAPER_RECIPE`, the paper's. Change
single values with `dataclasses.replace`.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic import Field, field_validator

from isochroma.images.preprocess import PreprocessSettings
from isochroma.method.edges import EdgeSettings
from isochroma.method.network import COMPACT, PAPER, NetworkSettings
from isochroma.method.patches import PatchSettings
from isochroma.settings import choose, settings

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Floating-point precisions of a training run, as `lightning.Trainer` names them."""

MAX_DEVICES = 1024

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]


@settings
class TrainingSettings:
    """How the network is trained.

    Attributes
    ----------
    steps : int
        Optimizer steps.
    batch_size : int
        Patches in each step, per device.
    learning_rate : float
        Peak learning rate of Adam.
    final_rate : float
        Learning rate at the last step over the peak, in [0, 1]. The rate follows half a cosine from
        the peak to there; 1 keeps it constant.
    warmup_steps : int
        Steps of the linear rise to the peak; 0 for none.
    ema_decay : float
        Decay per step of the exponential moving average of the weights, in [0, 1]. The averaged
        weights are validated and exported.
    gradient_clip : float
        Largest gradient norm; larger gradients are scaled down to it.
    precision : str
        Name in `PRECISIONS`; Lightning replaces "16-mixed" by "bf16-mixed" on a CPU.
    edge_variants : int
        Re-contrasted copies of each scan whose edges are computed too (0 or more).
    variant_share : float
        Share of the patches that take the edges of such a copy, in [0, 1]; the image stays the
        target's.
    start_share : float
        Share of the patches at t = 0, where only the edges tell the image, in [0, 1]. The times of
        the others are uniform. At each t the optimum of the loss stays the same.
    draft_share : float
        Share of the patches that train the second pass, in [0, 1]; 0 trains none.
    draft_copies : int
        Drafts made of each scan for the second pass.
    validate_every : int
        Steps between validations, each of which exports the model.
    checkpoint_every : int
        Steps between checkpoints; a killed run loses at most these.
    seed : int
        Seed of every random choice, below 2^63.
    """

    steps: Count = 30000
    batch_size: Count = 2
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    final_rate: Share = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    ema_decay: Share = 0.999
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    precision: str = "bf16-mixed"
    edge_variants: Annotated[int, Field(ge=0)] = 3
    variant_share: Share = 0.5
    start_share: Share = 0.5
    draft_share: Share = 0.0
    draft_copies: Count = 3
    validate_every: Count = 1000
    checkpoint_every: Count = 200
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("precision")
    @classmethod
    def _known_precision(cls, value: str) -> str:
        return choose(value, PRECISIONS)


@settings
class Recipe:
    """Everything that shapes a model, except the target scans.

    Attributes
    ----------
    preprocess : PreprocessSettings
        From a scan to the image that the model sees.
    edges : EdgeSettings
        Edge detector.
    network : NetworkSettings
        Shape of the velocity network.
    patches : PatchSettings
        Training patches.
    training : TrainingSettings
        Optimization, augmentation and validation.
    """

    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    network: NetworkSettings = COMPACT
    patches: PatchSettings = field(default_factory=PatchSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)


COMPACT_RECIPE = Recipe()
"""The default: the compact network, re-contrasted edges and half of the patches at t = 0."""

PAPER_RECIPE = Recipe(
    network=PAPER,
    patches=PatchSettings(size=64, strided_probability=0.2),
    training=TrainingSettings(
        steps=150_000,
        batch_size=8,
        learning_rate=5e-5,
        final_rate=1.0,
        warmup_steps=0,
        precision="16-mixed",
        edge_variants=0,
        variant_share=0.0,
        start_share=0.0,
        draft_share=0.0,
    ),
)
"""The paper's recipe (Jeong et al. 2025, arXiv:2505.00133).

The network of 98.5 M parameters sees the edges of the target scan itself, at uniform times, in
patches of 64^3 samples of which a share of 0.2 is strided. Adam with a rate of 5e-5, batches of 8,
fp16, averaged weights, 150,000 to 300,000 steps; no second pass. The paper publishes no rule for
the edge threshold, no schedule of the learning rate (here: constant), no decay of the average and
no gradient clipping (here: as in the default).
"""


@settings
class TrainerSettings:
    """Hardware of a training run; it does not change what is trained.

    Attributes
    ----------
    accelerator : str
        "auto", "cpu", "gpu", ..., as in `lightning.Trainer`.
    devices : int or str
        Number of devices, or "auto". Each device computes its own batch.
    workers : int or None
        Processes that draw patches; 0 draws them in the main process. None: with a GPU one for
        each processor core but one, shared among the devices; 0 on a CPU.
    compile : bool
        Compile the network first; needs a C++ compiler.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    workers: Annotated[int, Field(ge=0)] | None = None
    compile: bool = False

    @field_validator("devices")
    @classmethod
    def _number_or_auto(cls, value: int | str) -> int | str:
        if value != "auto" and not (isinstance(value, int) and 0 < value <= MAX_DEVICES):
            msg = f"give a number of devices up to {MAX_DEVICES}, or auto"
            raise ValueError(msg)
        return value
