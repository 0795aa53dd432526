"""Model folders: saved whole, checked when they are loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixtures_pipeline import random_reviser, save_tiny_model, save_tiny_model_of_two_stages
from isochroma.errors import InputError
from isochroma.images.preprocess import PreprocessSettings
from isochroma.memory import PeakMemory
from isochroma.method.edges import EdgeSettings
from isochroma.method.network import NetworkSettings, VelocityNetwork
from isochroma.method.patches import PatchSettings
from isochroma.models.config import Capabilities, ModelConfig, TargetDomain
from isochroma.models.folder import CONFIG as CONFIG_FILE
from isochroma.models.folder import (
    MAX_WEIGHT_BYTES,
    REVISER,
    WEIGHTS,
    find_model,
    load_config,
    load_model,
    save_model,
    shipped_models,
)

CONFIG = ModelConfig(
    name="tiny",
    preprocess=PreprocessSettings(n4=False, n4_iterations=(7, 5)),
    edges=EdgeSettings(sigma=1.25, fraction=0.11),
    network=NetworkSettings(width=8, multipliers=(1, 2), data_std=0.4),
    patches=PatchSettings(size=16),
    target=TargetDomain(lower=12.5, upper=980.0, scans=37),
    capabilities=Capabilities(second_pass=True),
    training={"steps": 3, "psnr": [20.5, 21.0]},
)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    state = VelocityNetwork(CONFIG.network).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(value.shape, generator=generator) for key, value in state.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "tiny", weights(), CONFIG)
    return tmp_path / "tiny"


def edit(folder: Path, **changes: object) -> None:
    """Change entries of a config file; those of a group one by one."""
    values = json.loads((folder / CONFIG_FILE).read_text())
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    (folder / CONFIG_FILE).write_text(json.dumps(values))


def refusal(name: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load_model(name)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


class TestRoundTrip:
    def test_weights_within_float16(self, folder: Path) -> None:
        network = load_model(folder).network
        loaded = network.state_dict()
        assert loaded.keys() == weights().keys()
        for key, value in weights().items():
            assert loaded[key].dtype == torch.float32
            torch.testing.assert_close(loaded[key], value, rtol=2**-11, atol=1e-7)

    def test_config(self, folder: Path) -> None:
        config = load_model(str(folder)).config
        assert dataclasses.replace(config, sha256="") == CONFIG
        weights_hash = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        assert config.sha256 == weights_hash

    def test_same_velocity(self, folder: Path) -> None:
        network = load_model(folder).network
        original = VelocityNetwork(CONFIG.network)
        original.load_state_dict({key: value.half().float() for key, value in weights().items()})
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((1, 1, 8, 8, 8), generator=generator)
        condition = torch.randn((1, 4, 8, 8, 8), generator=generator)
        with torch.no_grad():
            args = (x, torch.tensor([0.3]), condition)
            torch.testing.assert_close(network(*args), original(*args))

    def test_ready_for_use(self, folder: Path) -> None:
        network = load_model(folder).network
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_files(self, folder: Path) -> None:
        assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS]
        stored = load_file(folder / WEIGHTS)
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}

    def test_saving_again_replaces(self, folder: Path) -> None:
        save_model(folder, weights(seed=1), CONFIG)
        network = load_model(folder).network
        expected = weights(seed=1)["stem.weight"]
        torch.testing.assert_close(
            network.state_dict()["stem.weight"], expected, rtol=1e-3, atol=1e-6
        )


class TestSecondStage:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return save_tiny_model_of_two_stages(tmp_path / "two")

    def test_round_trip(self, folder: Path) -> None:
        model = load_model(folder)
        assert model.config.second_stage == "own network"
        stored = hashlib.sha256((folder / REVISER).read_bytes()).hexdigest()
        assert model.config.reviser_sha256 == stored
        assert model.reviser is not None
        assert not model.reviser.training
        for key, value in random_reviser().state_dict().items():
            found = model.reviser.state_dict()[key]
            torch.testing.assert_close(found, value, rtol=2**-11, atol=1e-6)

    @pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"other")])
    def test_missing_or_other_weights(self, folder: Path, harm: Callable[[Path], object]) -> None:
        harm(folder / REVISER)
        message = refusal(folder)
        assert REVISER in message
        assert "Install or copy it anew." in message

    def test_weights_of_a_first_stage_do_not_fit(self, folder: Path) -> None:
        shutil.copyfile(folder / WEIGHTS, folder / REVISER)
        edit(folder, reviser_sha256=load_config(folder).sha256)
        assert "do not fit" in refusal(folder)

    def test_a_model_without_it_has_none(self, tmp_path: Path) -> None:
        model = load_model(save_tiny_model(tmp_path / "one"))
        assert model.reviser is None
        assert model.config.second_stage == "none"


class TestRefusals:
    def test_other_weights(self, folder: Path) -> None:
        before = json.loads((folder / CONFIG_FILE).read_text())["sha256"]
        save_model(folder, weights(seed=1), CONFIG)
        edit(folder, sha256=before)
        message = refusal(folder)
        assert str(folder / WEIGHTS) in message
        assert "Install or copy it anew" in message

    def test_one_flipped_bit(self, folder: Path) -> None:
        path = folder / WEIGHTS
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        assert "not the weights" in refusal(folder)

    def test_missing_weights(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        assert "missing" in refusal(folder)

    def test_weights_of_another_shape(self, folder: Path) -> None:
        """The hash is right, and the network that the config describes is wider."""
        edit(folder, network={"width": 16})
        message = refusal(folder)
        assert message.startswith(f"{folder / WEIGHTS}: the weights do not fit the network")

    @pytest.mark.parametrize(
        ("edits", "message"),
        [
            ({"colour": "red"}, "colour: no such setting."),
            ({"edges": {"hue": 1}}, "edges.hue: no such setting."),
            ({"edges": {"fraction": 2}}, "edges.fraction: input should be less than or equal to"),
            ({"edges": {"sigma": float("nan")}}, "edges.sigma: input should be a finite number"),
            ({"preprocess": {"n4": "off"}}, "preprocess.n4: input should be a valid boolean"),
            ({"network": {"width": 1500}}, "network.width: input should be less than or equal to"),
            ({"preprocess": {"spacing_mm": 0.1}}, "preprocess.spacing_mm: input should be greater"),
            ({"preprocess": {"n4_iterations": [10**6] * 4}}, "preprocess.n4_iterations.0: input"),
            ({"preprocess": None}, "preprocess: "),
            ({"target": {"upper": float("nan")}}, "target.upper: input should be a finite number"),
            ({"target": {"upper": -1e9}}, "target: upper must be above lower"),
            ({"training": [1]}, "training: input should be an object"),
            ({"name": "\x1b[2J"}, "name: string should match pattern"),
            ({"schema_version": 99}, "its schema_version is 99; this isochroma reads 1."),
        ],
    )
    def test_config_that_is_not_valid(
        self, folder: Path, edits: dict[str, object], message: str
    ) -> None:
        edit(folder, **edits)
        assert refusal(folder).startswith(f"{folder / CONFIG_FILE}: {message}")

    def test_without_a_schema_version(self, folder: Path) -> None:
        values = json.loads((folder / CONFIG_FILE).read_text())
        del values["schema_version"]
        (folder / CONFIG_FILE).write_text(json.dumps(values))
        assert "not a model config with a schema_version" in refusal(folder)

    def test_a_network_too_large_is_never_allocated(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """400 billion weights, within the range of every single setting."""
        largest = {"width": 512, "multipliers": [32] * 6, "blocks": 8, "attention": True}
        edit(folder, network=largest)
        with PeakMemory() as memory:
            before = memory.lap()
            assert "the weights do not fit the network" in refusal(folder)
            assert memory.lap() < before + 100
        monkeypatch.setattr("isochroma.models.folder.MAX_PARAMETERS", 1000)
        edit(folder, network=dataclasses.asdict(CONFIG.network))
        assert "the weights do not fit the network" in refusal(folder)

    @pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}"])
    def test_damaged_weights_with_their_own_hash(self, folder: Path, content: bytes) -> None:
        (folder / WEIGHTS).write_bytes(content)
        edit(folder, sha256=hashlib.sha256(content).hexdigest())
        assert "the weights do not fit the network" in refusal(folder)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, tmp_path: Path, value: float) -> None:
        """A stranger's, with the right hash: the output would be NaN."""
        state = weights()
        state["stem.weight"].view(-1)[0] = value
        save_model(tmp_path / "tiny", state, CONFIG)
        assert "weights that are not finite" in refusal(tmp_path / "tiny")

    def test_weights_too_large_are_not_read(self, folder: Path) -> None:
        with (folder / WEIGHTS).open("r+b") as stream:
            stream.truncate(MAX_WEIGHT_BYTES + 1)  # sparse: no disk is filled
        assert "not the weights" in refusal(folder)

    def test_a_config_that_never_ends(self, folder: Path) -> None:
        (folder / CONFIG_FILE).write_text(" " * (2**20 + 1))
        assert "larger than 1 MB" in refusal(folder)

    @pytest.mark.parametrize("content", ['{"name": ', "[1]", "7", "", "[" * 100_000])
    def test_no_config_at_all(self, folder: Path, content: str) -> None:
        (folder / CONFIG_FILE).write_text(content)
        message = refusal(folder)
        assert str(folder / CONFIG_FILE) in message
        assert "Restore the model folder" in message


class TestSavingFails:
    """The disk is full when the second file is written."""

    @pytest.fixture
    def full_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write_text = Path.write_text

        def write(path: Path, text: str) -> int:
            if path.name == CONFIG_FILE:
                write_text(path, text[:9])
                raise OSError(28, "No space left on device")
            return write_text(path, text)

        monkeypatch.setattr(Path, "write_text", write)

    @pytest.mark.usefixtures("full_disk")
    def test_neither_file_appears(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="No space left"):
            save_model(tmp_path / "new", weights(), CONFIG)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    @pytest.mark.parametrize("stopped", [WEIGHTS, CONFIG_FILE])
    def test_a_usable_model_at_every_moment(
        self, folder: Path, stopped: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that ends just before either file is replaced leaves the old model."""
        before = load_model(folder).network.state_dict()
        replace = Path.replace

        def killed(self: Path, target: Path) -> Path:
            if Path(target).name == stopped:
                raise KeyboardInterrupt
            return replace(self, target)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Path, "replace", killed)
            save_model(folder, weights(seed=1), CONFIG)
        after = load_model(folder).network.state_dict()
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        save_model(folder, weights(seed=1), CONFIG)
        assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS]

    def test_the_old_model_survives(self, folder: Path, request: pytest.FixtureRequest) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        request.getfixturevalue("full_disk")
        with pytest.raises(OSError, match="No space left"):
            save_model(folder, weights(seed=1), CONFIG)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


class TestFindModel:
    @pytest.fixture
    def shipped(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        for name in ("default", "paper"):
            save_model(tmp_path / "models" / name, weights(), CONFIG)
        (tmp_path / "models" / "unfinished").mkdir()
        monkeypatch.setattr("isochroma.models.folder.SHIPPED", tmp_path / "models")
        return tmp_path / "models"

    def test_by_name(self, shipped: Path) -> None:
        assert find_model("paper") == shipped / "paper"
        assert load_model().config.name == "tiny"

    def test_by_folder(self, shipped: Path, folder: Path) -> None:
        assert find_model(folder) == folder

    def test_a_folder_of_the_same_name_shadows_no_shipped_model(
        self, shipped: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.rename(folder.with_name("default"))
        monkeypatch.chdir(folder.parent)
        assert find_model("default") == shipped / "default"
        assert find_model("./default") == Path("default")

    def test_a_folder_needs_a_separator(
        self, shipped: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder.parent)
        assert refusal("tiny") == "no model 'tiny': it is a folder: write ./tiny."

    def test_missing_model_names_the_shipped_ones(self, shipped: Path) -> None:
        message = refusal("nonesuch")
        assert "'nonesuch'" in message
        assert "one of default, paper." in message

    def test_folder_without_a_config(self, shipped: Path, tmp_path: Path) -> None:
        assert "default, paper" in refusal(tmp_path)

    def test_shipped_models_are_the_folders_with_a_config(self, shipped: Path) -> None:
        assert shipped_models() == {name: shipped / name for name in ("default", "paper")}


def test_the_shipped_default_can_be_loaded() -> None:
    network, config, reviser = load_model()
    assert config.name == "default"
    assert config.capabilities.second_pass
    assert config.second_stage == "own network"
    assert network.settings == config.network
    assert reviser is not None
