"""Signal equations of MR sequences, relaxation times of tissues, and presets of known protocols.

`isochroma.evaluation.phantoms.acquisition` makes scans of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Tissue(NamedTuple):
    """A tissue's relaxation times and proton density.

    Attributes
    ----------
    t1, t2, t2_star : float
        Relaxation times, ms.
    density : float
        Proton density relative to CSF.
    """

    t1: float
    t2: float
    t2_star: float
    density: float


TISSUES: dict[float, tuple[Tissue, Tissue, Tissue]] = {
    1.5: (
        Tissue(2569, 329, 58, 1.0),
        Tissue(833, 83, 69, 0.86),
        Tissue(500, 70, 61, 0.77),
    ),
    3.0: (
        Tissue(4309, 1886, 58, 1.0),
        Tissue(1331, 110, 52, 0.86),
        Tissue(832, 80, 45, 0.77),
    ),
}
"""CSF, grey matter and white matter (the order of the tissue fractions) by field strength in T.

1.5 T: all values are BrainWeb's (Collins et al. 1998, doi:10.1109/42.712135; Kwan et al. 1999,
doi:10.1109/42.816072). 3 T: grey and white matter from Wansapura et al. 1999
(doi:10.1002/(SICI)1522-2586(199904)9:4<531::AID-JMRI4>3.0.CO;2-L; T2* of the frontal lobe),
T1 and T2 of subarachnoid CSF as measured at 3 T (Magn Reson Med 2023, PMC10696635). Proton
densities do not depend on the field, and the T2* of CSF hardly matters at the echo times of
gradient echoes, so BrainWeb's values serve at 3 T too.
"""

LESION: dict[float, Tissue] = {
    field: Tissue(grey.t1, 2 * white.t2, grey.t2_star, grey.density)
    for field, (_, grey, white) in TISSUES.items()
}
"""White matter lesions by field strength in T, chosen and not measured.

With grey matter's T1 and density and twice white matter's T2, they look like grey matter in T1w
scans, and brighter than any tissue but CSF in T2w and FLAIR: on no curve through the tissues.
"""


def spin_echo(tissue: Tissue, tr: float, te: float, train: float = 0) -> float:
    """Compute the signal of a spin echo, or of a fast spin echo at its effective echo time.

    S = PD (1 - exp(-(TR - train) / T1)) exp(-TE / T2).

    Parameters
    ----------
    tissue : Tissue
        Relaxation times and proton density.
    tr, te : float
        Repetition and echo time, ms.
    train : float
        Time from the excitation to the last echo, in which nothing recovers, ms.

    Returns
    -------
    signal : float
        Relative to the fully relaxed signal of CSF.
    """
    return tissue.density * -np.expm1(-(tr - train) / tissue.t1) * np.exp(-te / tissue.t2)


def inversion_recovery(tissue: Tissue, tr: float, te: float, ti: float, train: float = 0) -> float:
    """Compute the magnitude of an inversion-recovery (fast) spin echo, such as FLAIR.

    S = PD |1 - 2 exp(-TI / T1) + exp(-(TR - train) / T1)| exp(-TE / T2).

    Parameters
    ----------
    tissue : Tissue
        Relaxation times and proton density.
    tr, te, ti : float
        Repetition, echo and inversion time, ms.
    train : float
        Time from the excitation to the last echo, ms.

    Returns
    -------
    signal : float
        Relative to the fully relaxed signal of CSF.
    """
    recovered = 1 - 2 * np.exp(-ti / tissue.t1) + np.exp(-(tr - train) / tissue.t1)
    return tissue.density * abs(recovered) * np.exp(-te / tissue.t2)


def spoiled_gradient_echo(tissue: Tissue, tr: float, te: float, flip: float) -> float:
    """Compute the steady-state signal of a spoiled gradient echo (FLASH, SPGR).

    S = PD sin a (1 - E) / (1 - E cos a) exp(-TE / T2*) with E = exp(-TR / T1).

    Parameters
    ----------
    tissue : Tissue
        Relaxation times and proton density.
    tr, te : float
        Repetition and echo time, ms.
    flip : float
        Flip angle a, degrees.

    Returns
    -------
    signal : float
        Relative to the fully relaxed signal of CSF.

    References
    ----------
    Ernst and Anderson 1966, doi:10.1063/1.1719961.
    """
    angle, e = np.deg2rad(flip), np.exp(-tr / tissue.t1)
    steady = (1 - e) / (1 - e * np.cos(angle))
    return tissue.density * np.sin(angle) * steady * np.exp(-te / tissue.t2_star)


def mprage(
    tissue: Tissue, tr: float, te: float, ti: float, flip: float, spacing: float, count: float
) -> float:
    """Compute the magnitude of an MPRAGE at the centre of its echo train.

    A cycle is a perfect inversion, a recovery, a train of pulses and a second recovery. With
    E = exp(-spacing / T1), u = E cos a and s = (1 - E) / (1 - u), a train of n pulses takes the
    magnetisation m to s + (m - s) u^n, and a recovery of t takes it to 1 + (m - 1) exp(-t / T1).
    Both are linear, so the cycle's steady state has a closed form. S = PD sin a |m| exp(-TE / T2*).

    Parameters
    ----------
    tissue : Tissue
        Relaxation times and proton density.
    tr : float
        Duration of a cycle, ms.
    te : float
        Echo time, ms.
    ti : float
        Time from the inversion to the middle pulse, ms.
    flip : float
        Flip angle a, degrees.
    spacing : float
        Time between pulses, ms.
    count : float
        Number of pulses.

    Returns
    -------
    signal : float
        Relative to the fully relaxed signal of CSF.

    References
    ----------
    Deichmann et al. 2000, doi:10.1006/nimg.2000.0601; Wang et al. 2014,
    doi:10.1371/journal.pone.0096899.
    """
    angle, e = np.deg2rad(flip), np.exp(-spacing / tissue.t1)
    u = e * np.cos(angle)
    s = (1 - e) / (1 - u)
    half = count / 2
    before = np.exp(-(ti - half * spacing) / tissue.t1)
    after = np.exp(-(tr - ti - half * spacing) / tissue.t1)
    # The cycle takes m, just before the inversion, to offset - before * u^count * after * m.
    offset = 1 + (s + (1 - before - s) * u**count - 1) * after
    end = offset / (1 + before * u**count * after)
    first = 1 - (1 + end) * before
    middle = s + (first - s) * u**half
    return tissue.density * np.sin(angle) * abs(middle) * np.exp(-te / tissue.t2_star)


SEQUENCES: dict[str, Callable[..., float]] = {
    "SE": spin_echo,
    "IR": inversion_recovery,
    "SPGR": spoiled_gradient_echo,
    "MPRAGE": mprage,
}


@dataclass(frozen=True)
class Preset:
    """A simulated protocol on a scanner.

    Attributes
    ----------
    contrast : str
        T1w, T2w, PDw or FLAIR.
    sequence : str
        Key of `SEQUENCES`.
    parameters : mapping of str to float
        Arguments of the sequence's equation beside the tissue (ms, degrees).
    field : float
        Field strength in T, a key of `TISSUES`.
    voxel_mm : tuple of 3 floats
        Voxel edges along right, anterior and superior, mm.
    source : str
        The protocol that it imitates.
    bias : float
        Peak deviation of the smooth multiplicative field from 1.
    noise : float
        Standard deviation of each channel of the Rician noise, relative to white matter's signal.
    blur_mm : float
        Standard deviation of the Gaussian blur in addition to the voxel size, mm.
    """

    contrast: str
    sequence: str
    parameters: Mapping[str, float]
    field: float
    voxel_mm: tuple[float, float, float]
    source: str
    bias: float = 0.2
    noise: float = 0.03
    blur_mm: float = 0.4

    def signals(self) -> np.ndarray:
        """Compute the signals of pure tissues.

        Returns
        -------
        signals : (3,) ndarray of float
            Of CSF, grey matter and white matter, relative to fully relaxed CSF.
        """
        return np.array([self.signal(tissue) for tissue in TISSUES[self.field]])

    def signal(self, tissue: Tissue) -> float:
        """Compute the signal of one tissue, relative to fully relaxed CSF."""
        return SEQUENCES[self.sequence](tissue, **self.parameters)

    def lesion_contrast(self) -> float:
        """Compute what lesions differ from white matter by, over what grey matter does."""
        _, grey, white = self.signals()
        return float((self.signal(LESION[self.field]) - white) / (grey - white))


OASIS = "OASIS-1 (doi:10.1162/jocn.2007.19.9.1498): TI 20 ms before, TD 200 ms after the train"
ADNI = "ADNI (doi:10.1002/jmri.21049); echo spacing and number of partitions assumed"
BRAINWEB = "ICBM protocol of BrainWeb (doi:10.1109/42.712135); slice thickness chosen here"
MPM = "T1w scan of multi-parameter mapping (doi:10.3389/fnins.2013.00095), first echo"
MS_SMART = "MS-SMART (doi:10.1136/bmjopen-2018-021944); slices thinner, length of the train assumed"
PRESETS: dict[str, Preset] = {
    "mprage-1.5T": Preset(
        "T1w",
        "MPRAGE",
        {"tr": 1462, "te": 4.0, "ti": 641, "flip": 10, "spacing": 9.7, "count": 128},
        1.5,
        (1.25, 1.0, 1.0),
        OASIS,
        bias=0.25,
        noise=0.04,
    ),
    "mprage-3T": Preset(
        "T1w",
        "MPRAGE",
        {"tr": 2300, "te": 2.98, "ti": 900, "flip": 9, "spacing": 7.1, "count": 160},
        3.0,
        (1.2, 1.0, 1.0),
        ADNI,
        bias=0.3,
        noise=0.02,
    ),
    "spgr-1.5T": Preset(
        "T1w", "SPGR", {"tr": 18, "te": 10, "flip": 30}, 1.5, (1.0, 1.0, 1.0), BRAINWEB
    ),
    "spgr-3T": Preset(
        "T1w", "SPGR", {"tr": 18.7, "te": 2.2, "flip": 20}, 3.0, (1.0, 1.0, 1.0), MPM, bias=0.3
    ),
    "se-t1-1.5T": Preset(
        "T1w", "SE", {"tr": 518, "te": 12}, 1.5, (1.0, 1.0, 2.5), MS_SMART, noise=0.02
    ),
    "tse-t2-3T": Preset(
        "T2w", "SE", {"tr": 2700, "te": 97, "train": 97}, 3.0, (1.0, 1.0, 2.0), MS_SMART, bias=0.3
    ),
    "se-t2-1.5T": Preset(
        "T2w",
        "SE",
        {"tr": 3300, "te": 120, "train": 120},
        1.5,
        (1.0, 1.0, 2.5),
        BRAINWEB,
        noise=0.05,
    ),
    "tse-pd-1.5T": Preset(
        "PDw",
        "SE",
        {"tr": 3300, "te": 16, "train": 100},
        1.5,
        (1.0, 1.0, 2.0),
        MS_SMART,
        noise=0.02,
    ),
    "flair-3T": Preset(
        "FLAIR",
        "IR",
        {"tr": 9500, "te": 100, "ti": 2400, "train": 150},
        3.0,
        (1.0, 1.0, 2.0),
        MS_SMART,
        bias=0.3,
    ),
}
