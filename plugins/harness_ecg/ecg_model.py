"""Simulate a 12-lead ECG: the heart's dipole is a sum of Gaussian waves, and twelve leads are projections of it.

After McSharry et al., IEEE TBME 2003, 10.1109/TBME.2003.808805 (waves), and Sameni et al., EURASIP JASP 2007,
10.1155/2007/43407 (dipole); leads by Dower's transform (Dower, Machado and Osborne, Clin Cardiol 1980,
10.1002/clc.1980.3.2.87). It is for trying software: the morphologies carry the labels' textbook signs, and
results on them mean nothing for patients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

#: Leads I, II, V1 ... V6 from the dipole's components to the left, the feet and the back.
_DOWER = {
    "I": (0.632, -0.235, 0.059),
    "II": (0.235, 1.066, -0.132),
    "V1": (-0.515, 0.157, -0.917),
    "V2": (0.044, 0.164, -1.387),
    "V3": (0.882, 0.098, -1.277),
    "V4": (1.213, 0.127, -0.601),
    "V5": (1.125, 0.127, -0.086),
    "V6": (0.831, 0.076, 0.230),
}
#: The direction of each territory: an infarct shows in the leads that face it.
_TERRITORIES = np.array([(0.4, 0.0, -1.0), (0.1, 1.0, 0.1), (1.0, -0.2, 0.1)])
TERRITORIES = ("anterior", "inferior", "lateral")
#: The samples around an R peak that contain all waves of its beat.
REACH = np.arange(-40, 75)


def projection() -> NDArray[np.float64]:
    """Return the matrix (12, 3) from the dipole to the leads I, II, III, aVR, aVL, aVF, V1 ... V6."""
    i, ii = np.array(_DOWER["I"]), np.array(_DOWER["II"])
    limb = [i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2]
    return np.array([*limb, *(np.array(_DOWER[f"V{k}"]) for k in range(1, 7))])


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The properties that all recordings of a patient share."""

    rotation: NDArray[np.float64]
    size: float
    rate: float
    repolarisation: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Anatomy:
        """Draw a patient: electrical axis within 30 degrees, amplitude, heart rate in beats a minute, T wave."""
        frontal, horizontal = np.deg2rad(random.normal(0, 15, 2).clip(-30, 30))
        (c, s), (k, t) = (np.cos(frontal), np.sin(frontal)), (np.cos(horizontal), np.sin(horizontal))
        around_front = np.array([(c, -s, 0), (s, c, 0), (0, 0, 1)])
        around_foot = np.array([(k, 0, -t), (0, 1, 0), (t, 0, k)])
        return cls(
            around_front @ around_foot, random.uniform(0.7, 1.35), random.uniform(55, 95), random.uniform(0.6, 1.3)
        )


def waves(
    labels: Iterable[str], territory: int, left_bundle: bool, sign: float, anatomy: Anatomy
) -> NDArray[np.float64]:
    """Return the Gaussian waves of one beat, a row each: centre and width in s from the R peak, amplitude (3) in mV.

    ``sign`` scales the changes that the labels make to a normal beat. ``territory`` is that of the infarct;
    ``left_bundle`` says whether the left bundle is blocked, or the right one.
    """
    labels = set(labels)
    wide = 1 + 0.8 * sign if "CD" in labels else 1.0
    septal = np.array((-0.12, -0.05, -0.20))
    main = np.array((1.10, 0.90, 0.20))
    basal = np.array((-0.15, -0.10, 0.35))
    recovery = np.array((0.32, 0.25, -0.22)) * anatomy.repolarisation
    added: list[tuple[float, float, NDArray[np.float64]]] = []
    if "MI" in labels:  # pathological Q, lost R and raised ST, in the territory
        towards = _TERRITORIES[territory] / np.linalg.norm(_TERRITORIES[territory])
        main = main - 0.6 * sign * max(0.0, float(main @ towards)) * towards
        added.append((-0.035, 0.015, -0.55 * sign * towards))
        added.append((0.12, 0.05, 0.22 * sign * towards))
    if "HYP" in labels:  # tall R to the left, deep S in front, strain-free
        main = main + sign * np.array((1.0, -0.25, 0.75))
    if "CD" in labels:  # a late second peak towards the blocked side, and no septal q if the left bundle is blocked
        late = np.array((0.75, -0.20, 0.45)) if left_bundle else np.array((-0.55, 0.05, -0.75))
        added.append((0.055 * wide / 1.4, 0.016 * wide, sign * late))
        septal = septal * (1 - sign) if left_bundle else septal
    if "STTC" in labels:  # depressed ST and inverted T
        recovery = recovery * (1 - 1.6 * sign)
        added.append((0.12, 0.05, -0.14 * sign * np.array((0.8, 0.5, -0.4))))
    stretch = np.sqrt(60 / anatomy.rate)
    rows = [
        (-0.16, 0.022, np.array((0.07, 0.11, -0.02))),
        (-0.028 * wide, 0.010 * wide, septal),
        (0.0, 0.014 * wide, main),
        (0.030 * wide, 0.013 * wide, basal),
        (0.27 * stretch, 0.050 * stretch, recovery),
        (0.31 * stretch, 0.035 * stretch, 0.6 * recovery),
        *added,
    ]
    return np.array([(centre, width, *(anatomy.size * anatomy.rotation @ vector)) for centre, width, vector in rows])


def recording(beat: NDArray[np.float64], rate: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Simulate ten seconds at 100 Hz in mV, (12, 1000): ``beat`` at a varying heart ``rate``, wander, hum and noise."""
    time = np.arange(1000) / 100
    # Beats vary by breathing and by chance; the first begins before the recording does, the last ends after it.
    breath, phase = random.uniform(0.2, 0.35), random.uniform(0, 2 * np.pi)
    count = int(13.5 * rate / 60) + 2
    intervals = 60 / rate * (1 + 0.04 * np.sin(np.arange(count) * 2 * np.pi * breath * 60 / rate + phase))
    intervals += random.normal(0, 0.012, count)
    peaks = np.cumsum(intervals) - 2.5 + random.uniform(0, 60 / rate)
    dipole = np.zeros((3, 1500))  # from 3 s before the recording
    centre, width, vectors = beat[:, 0, None], beat[:, 1, None], beat[:, 2:]
    for peak in peaks[peaks < 10.5]:
        here = round((peak + 3) * 100) + REACH
        dipole[:, here] += vectors.T @ np.exp(-0.5 * ((here / 100 - 3 - peak - centre) / width) ** 2)
    dipole = dipole[:, 300:1300]
    leads = projection() @ dipole
    leads *= 1 + 0.05 * np.sin(2 * np.pi * breath * time + phase)
    wander = random.normal(0, 0.08, (12, 1)) * np.sin(2 * np.pi * breath * time + phase)
    # Just under 50 Hz: at exactly half of the sampling rate, hum would only be an alternating sign.
    hum = random.exponential(0.015, (12, 1)) * np.sin(2 * np.pi * random.normal(49.9, 0.03) * time)
    noise = random.normal(0, random.uniform(0.02, 0.06), (12, 1000))
    disturbed: NDArray[np.float64] = leads + wander + hum + noise
    return disturbed
