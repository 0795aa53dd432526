"""Train a model on one scanner's scans: `isochroma train TARGET_DIR -o MODEL_DIR`.

Only TARGET_DIR is read: the method is blind to every other scanner. Scans are preprocessed once
into a memory-mapped cache, edges included. Lightning runs the loop, so several GPUs, mixed
precision, resumption and SLURM requeueing are its own. Every random choice is a function of the
seed and the step, so a run that was killed continues as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass


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
