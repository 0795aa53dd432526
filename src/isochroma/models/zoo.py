"""Models that a user installs, from a folder or from the web, and what their cards tell."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pooch

from isochroma.errors import InputError, one_line
from isochroma.files import replacing
from isochroma.models.config import ModelConfig
from isochroma.models.folder import (
    CARD,
    CONFIG,
    INSTALLED,
    REVISER,
    WEIGHTS,
    installed_models,
    load_config,
    load_model,
    shipped_models,
)


def add_model(source: str, name: str | None = None, sha256: str | None = None) -> Path:
    """Install a model, so that it can be used by its name.

    Parameters
    ----------
    source : str
        A model folder, or the address of a zip file that holds one.
    name : str, optional
        What to call it; the folder's name, or the file's, if not given.
    sha256 : str, optional
        Of the zip file. An address needs it: what is downloaded must be what was meant.

    Returns
    -------
    folder : Path
        Where it is.

    Raises
    ------
    InputError
        If there is no usable model, its name is taken, or it cannot be downloaded.
    """
    if "://" not in source:
        return _install(Path(source), name or Path(source).resolve().name)
    if sha256 is None:
        msg = "the SHA-256 of a file from the web must be given. Ask those who published it."
        raise InputError(msg, "sha256")
    pooch.get_logger().setLevel("WARNING")  # what it says beside an error
    with TemporaryDirectory() as temporary:
        try:
            unzip = pooch.Unzip(extract_dir="model")
            pooch.retrieve(source, f"sha256:{sha256}", path=temporary, processor=unzip)
        except (OSError, ValueError) as error:
            msg = f"{source}: {one_line(error)}"
            raise InputError(msg) from error
        found = sorted((Path(temporary) / "model").rglob(CONFIG))
        if len(found) != 1:
            msg = f"{source}: holds {len(found)} models, not one."
            raise InputError(msg)
        return _install(found[0].parent, name or Path(source).stem)


def _install(source: Path, name: str) -> Path:
    """Check a model folder and copy what belongs to the model."""
    folder = INSTALLED / name
    if name != folder.name or name in shipped_models() | installed_models():
        msg = f"{name!r} is no name, or there is a model of it. Give another name."
        raise InputError(msg, "name")
    load_model(source.resolve())
    with replacing(folder) as temporary:
        for part in (CONFIG, WEIGHTS, REVISER, CARD):
            if (source / part).is_file():
                shutil.copyfile(source / part, temporary / part)
    return folder


def show_model(folder: Path) -> str:
    """Return the card of a model; what its config tells if it has none."""
    card = folder / CARD
    return card.read_text() if card.is_file() else card_of(load_config(folder))


def card_of(config: ModelConfig) -> str:
    """Write down what a config tells of a model, Markdown.

    Parameters
    ----------
    config : ModelConfig
        Of the model.

    Returns
    -------
    card : str
        What its config does not tell is left to fill in.
    """
    target, validation = config.target, config.validation
    quality = config.training.get("held_out_ssim")
    rows = {
        "target": f"{target.suffix}, {target.scans} scans, intensities {target.lower:.0f} to "
        f"{target.upper:.0f}",
        "data and licence": "not noted",
        "made from": config.training.get("adapted_from", "scans of the target, by training"),
        "held-out scans, SSIM": ", ".join(f"{each:.3f}" for each in quality or ()) or "none",
        "first pass, on the network's own target": f"PSNR {validation.psnr:.1f} dB"
        if validation.psnr
        else "none",
        "second stage": config.second_stage,
        "weights, SHA-256": config.sha256,
        "second stage's weights, SHA-256": config.reviser_sha256 or "none",
    }
    lines = [f"# Model card: {config.name}", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {key} | {value} |" for key, value in rows.items())]) + "\n"
