from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isochroma.errors import InputError
from isochroma.images.preprocess import PreprocessSettings
from isochroma.method.edges import EdgeSettings
from isochroma.method.network import NetworkSettings, VelocityNetwork
from isochroma.method.patches import PatchSettings
from isochroma.models.config import ModelConfig, TargetDomain
from isochroma.models.folder import CONFIG as CONFIG_FILE
from isochroma.models.folder import WEIGHTS, find_model, from_dict, load_model, save_model

CONFIG = ModelConfig(
    name="tiny",
    preprocess=PreprocessSettings(n4=False, n4_iterations=(7, 5)),
    edges=EdgeSettings(sigma=1.25, fraction=0.11),
    network=NetworkSettings(width=8, multipliers=(1, 2), data_std=0.4),
    patches=PatchSettings(size=16),
    target=TargetDomain(lower=12.5, upper=980.0, scans=37),
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
    values = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(values | changes))


def refusal(name: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load_model(name)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


class TestRoundTrip:
    def test_weights_within_float16(self, folder: Path) -> None:
        network, _ = load_model(folder)
        loaded = network.state_dict()
        assert loaded.keys() == weights().keys()
        for key, value in weights().items():
            assert loaded[key].dtype == torch.float32
            torch.testing.assert_close(loaded[key], value, rtol=2**-11, atol=1e-7)

    def test_config(self, folder: Path) -> None:
        _, config = load_model(str(folder))
        assert len(config.sha256) == 64
        assert dataclasses.replace(config, sha256="") == CONFIG
        assert isinstance(config.network.multipliers, tuple)

    def test_same_velocity(self, folder: Path) -> None:
        network, _ = load_model(folder)
        original = VelocityNetwork(CONFIG.network)
        original.load_state_dict({key: value.half().float() for key, value in weights().items()})
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((1, 1, 8, 8, 8), generator=generator)
        condition = torch.randn((1, 4, 8, 8, 8), generator=generator)
        with torch.no_grad():
            args = (x, torch.tensor([0.3]), condition)
            torch.testing.assert_close(network(*args), original(*args))

    def test_ready_for_use(self, folder: Path) -> None:
        network, _ = load_model(folder)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_files(self, folder: Path) -> None:
        assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS]
        stored = load_file(folder / WEIGHTS)
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}

    def test_saving_again_replaces(self, folder: Path) -> None:
        save_model(folder, weights(seed=1), CONFIG)
        network, _ = load_model(folder)
        expected = weights(seed=1)["stem.weight"]
        torch.testing.assert_close(
            network.state_dict()["stem.weight"], expected, rtol=1e-3, atol=1e-6
        )


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

    def test_unknown_key(self, folder: Path) -> None:
        edit(folder, colour="red")
        message = refusal(folder)
        assert "['colour']" in message
        assert "'preprocess'" in message  # what is known

    def test_unknown_nested_key(self, folder: Path) -> None:
        values = json.loads((folder / CONFIG_FILE).read_text())
        edit(folder, edges=values["edges"] | {"hue": 1})
        message = refusal(folder)
        assert "['hue']" in message
        assert ".edges" in message
        assert "'sigma'" in message

    def test_broken_json(self, folder: Path) -> None:
        (folder / CONFIG_FILE).write_text('{"name": ')
        assert "Restore the model folder" in refusal(folder)


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
        assert load_model()[1].name == "tiny"

    def test_by_folder(self, shipped: Path, folder: Path) -> None:
        assert find_model(folder) == folder

    def test_missing_model_names_the_shipped_ones(self, shipped: Path) -> None:
        message = refusal("nonesuch")
        assert "'nonesuch'" in message
        assert "one of default, paper." in message

    def test_folder_without_a_config(self, shipped: Path, tmp_path: Path) -> None:
        assert "default, paper" in refusal(tmp_path)


class TestFromDict:
    def test_defaults(self) -> None:
        assert from_dict(ModelConfig, {}) == ModelConfig()

    def test_lists_become_tuples(self) -> None:
        settings = from_dict(NetworkSettings, {"multipliers": [1, 3], "width": 16})
        assert settings == NetworkSettings(multipliers=(1, 3), width=16)

    def test_config_is_plain_json(self, folder: Path) -> None:
        values = json.loads((folder / CONFIG_FILE).read_text())
        assert values["preprocess"]["n4_iterations"] == [7, 5]
        assert values["training"] == {"steps": 3, "psnr": [20.5, 21.0]}
        assert values["network"]["data_std"] == 0.4
