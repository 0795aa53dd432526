from __future__ import annotations

import numpy as np
import pytest

from isochroma.evaluation.phantoms import sequences
from isochroma.evaluation.phantoms.sequences import PRESETS, TISSUES, Tissue
from isochroma.images.io import MAX_VOXEL_MM

TISSUE = Tissue(t1=900, t2=80, t2_star=50, density=0.8)
CONTRASTS = {name: preset.contrast for name, preset in PRESETS.items()}


def names(contrast: str) -> list[str]:
    return [name for name, its in CONTRASTS.items() if its == contrast]


class TestSpinEcho:
    def test_limits(self) -> None:
        """Fully relaxed and at once: proton density. After T1 ln 2: half. After T2 ln 2: half."""
        assert sequences.spin_echo(TISSUE, tr=1e9, te=0) == pytest.approx(0.8)
        assert sequences.spin_echo(TISSUE, tr=900 * np.log(2), te=0) == pytest.approx(0.4)
        assert sequences.spin_echo(TISSUE, tr=1e9, te=80 * np.log(2)) == pytest.approx(0.4)
        assert sequences.spin_echo(TISSUE, tr=1e-9, te=0) == pytest.approx(0, abs=1e-9)

    def test_nothing_recovers_during_the_train(self) -> None:
        long = sequences.spin_echo(TISSUE, tr=3000, te=90, train=200)
        assert long == pytest.approx(sequences.spin_echo(TISSUE, tr=2800, te=90))


class TestInversionRecovery:
    def test_null(self) -> None:
        null = 900 * np.log(2)
        assert sequences.inversion_recovery(TISSUE, tr=1e9, te=0, ti=null) == pytest.approx(0)
        before, after = (
            sequences.inversion_recovery(TISSUE, tr=1e9, te=0, ti=null * k) for k in (0.9, 1.1)
        )
        assert min(before, after) > 0.04  # magnitudes on both sides

    def test_limits(self) -> None:
        assert sequences.inversion_recovery(TISSUE, tr=1e9, te=0, ti=0) == pytest.approx(0.8)
        assert sequences.inversion_recovery(TISSUE, tr=1e9, te=0, ti=1e8) == pytest.approx(0.8)
        # Inverting right after the excitation inverts nothing: a spin echo after TI.
        at_once = sequences.inversion_recovery(TISSUE, tr=1200, te=20, ti=1200)
        assert at_once == pytest.approx(sequences.spin_echo(TISSUE, tr=1200, te=20))


class TestSpoiledGradientEcho:
    def test_limits(self) -> None:
        whole = sequences.spoiled_gradient_echo(TISSUE, tr=1e9, te=0, flip=90)
        assert whole == pytest.approx(0.8)
        half = sequences.spoiled_gradient_echo(TISSUE, tr=1e9, te=50 * np.log(2), flip=30)
        assert half == pytest.approx(0.8 * 0.5 * 0.5)
        saturated = sequences.spoiled_gradient_echo(TISSUE, tr=500, te=0, flip=90)
        assert saturated == pytest.approx(sequences.spin_echo(TISSUE, tr=500, te=0))

    def test_ernst_angle(self) -> None:
        angles = np.linspace(1, 89, 8801)
        signals = [sequences.spoiled_gradient_echo(TISSUE, tr=20, te=3, flip=a) for a in angles]
        ernst = np.rad2deg(np.arccos(np.exp(-20 / 900)))
        assert angles[np.argmax(signals)] == pytest.approx(ernst, abs=0.01)


class TestMprage:
    @pytest.mark.parametrize("tissue", [*TISSUES[1.5], *TISSUES[3.0]])
    @pytest.mark.parametrize("name", ["mprage-1.5T", "mprage-3T"])
    def test_pulse_by_pulse(self, tissue: Tissue, name: str) -> None:
        """The closed form against 30 cycles, one pulse at a time."""
        p = PRESETS[name].parameters
        cosine, sine = np.cos(np.deg2rad(p["flip"])), np.sin(np.deg2rad(p["flip"]))

        def recover(m: float, ms: float) -> float:
            return 1 + (m - 1) * np.exp(-ms / tissue.t1)

        half, m, middle = int(p["count"]) // 2, 1.0, 0.0
        for _ in range(30):
            m = recover(-m, p["ti"] - half * p["spacing"])
            for pulse in range(int(p["count"])):
                middle = m if pulse == half else middle
                m = recover(m * cosine, p["spacing"])
            m = recover(m, p["tr"] - p["ti"] - half * p["spacing"])
        expected = tissue.density * abs(middle) * sine * np.exp(-p["te"] / tissue.t2_star)
        assert sequences.mprage(tissue, **p) == pytest.approx(expected, rel=1e-9)

    def test_tiny_flip_angle_is_inversion_recovery(self) -> None:
        """Pulses that take nothing: m = 1 - 2 exp(-TI / T1) / (1 + exp(-TR / T1))."""
        signal = sequences.mprage(TISSUE, 2000, 0, ti=800, flip=1e-3, spacing=8, count=100)
        expected = 1 - 2 * np.exp(-800 / 900) / (1 + np.exp(-2000 / 900))
        assert signal / (0.8 * np.sin(np.deg2rad(1e-3))) == pytest.approx(expected, rel=1e-4)

    def test_endless_train_is_a_spoiled_gradient_echo(self) -> None:
        signal = sequences.mprage(TISSUE, 40000, 3, ti=20000, flip=9, spacing=8, count=5000)
        steady = sequences.spoiled_gradient_echo(TISSUE, tr=8, te=3, flip=9)
        assert signal == pytest.approx(steady, rel=1e-6)


class TestPresets:
    def test_contrasts(self) -> None:
        assert set(CONTRASTS.values()) == {"T1w", "T2w", "PDw", "FLAIR"}
        assert len(names("T1w")) == 5
        assert len(names("T2w")) == 2

    @pytest.mark.parametrize("name", names("T1w"))
    def test_t1w_white_over_grey_over_csf(self, name: str) -> None:
        csf, grey, white = PRESETS[name].signals()
        assert white > 1.15 * grey
        assert grey > 1.5 * csf

    @pytest.mark.parametrize("name", names("T2w"))
    def test_t2w_csf_over_grey_over_white(self, name: str) -> None:
        csf, grey, white = PRESETS[name].signals()
        assert csf > 1.3 * grey
        assert grey > 1.3 * white

    @pytest.mark.parametrize("name", names("FLAIR"))
    def test_flair_nulls_csf(self, name: str) -> None:
        csf, grey, white = PRESETS[name].signals()
        assert grey > 1.1 * white
        assert csf < 0.2 * white

    @pytest.mark.parametrize("name", names("PDw"))
    def test_pdw_has_little_contrast(self, name: str) -> None:
        signals = PRESETS[name].signals()
        assert signals[1] > 1.05 * signals[2]
        assert signals.max() < 1.3 * signals.min()

    @pytest.mark.parametrize("name", PRESETS)
    def test_feasible(self, name: str) -> None:
        """Voxels that isochroma reads, and times that fit into the cycle."""
        preset = PRESETS[name]
        assert 1 <= min(preset.voxel_mm) <= max(preset.voxel_mm) <= MAX_VOXEL_MM
        assert "doi:" in preset.source
        p = preset.parameters
        assert p["te"] < p["tr"]
        assert p.get("train", 0) + p.get("ti", 0) < p["tr"]
        if preset.sequence == "MPRAGE":
            half = p["count"] / 2 * p["spacing"]
            assert half <= p["ti"] <= p["tr"] - half
