"""A target domain of three drawn heads, and a recipe that trains on it in a second."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import pytest

from fixtures_pipeline import config, head_image
from isochroma.training.settings import Recipe, TrainingSettings


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people, scanned by one scanner; the third is for validation."""
    folder = tmp_path_factory.mktemp("target")
    for number in (1, 2, 3):
        nib.save(head_image(seed=number), folder / f"sub-{number:02d}_T1w.nii.gz")
    rows = ["participant_id\tsplit", "sub-01\ttrain", "sub-02\ttrain", "sub-03\tval"]
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preprocessed scans that all tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Six steps on 2 mm voxels without N4."""
    tiny = config()
    training = TrainingSettings(
        steps=6,
        batch_size=2,
        learning_rate=3e-3,
        warmup_steps=2,
        ema_decay=0.5,
        precision="32-true",
        edge_variants=1,
        validate_every=6,
        checkpoint_every=3,
    )
    return Recipe(tiny.preprocess, tiny.edges, tiny.network, tiny.patches, training)
