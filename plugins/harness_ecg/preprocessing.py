"""Filter an ECG as study B does: remove baseline wander and mains hum.

B names a 5th-order Butterworth high-pass at 0.5 Hz and a forward-backward moving average against 50 Hz, and is
silent on whether the high-pass is causal. We run it forward and backward too: a causal one of this order shifts
frequencies near the heart rate unequally and so bends the ST segment, on which two of the labels rest. The two
together are NeuroKit2's ``ecg_clean`` (Makowski et al., Behav Res Methods 2021, 10.3758/s13428-020-01516-y).
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import signal

#: Raise it whenever the same recording would give other numbers.
VERSION = "1"


@functools.cache
def _high_pass(rate: float) -> NDArray[np.float64]:
    sections: NDArray[np.float64] = signal.butter(5, 0.5, "highpass", output="sos", fs=rate)
    return sections


def clean(recordings: NDArray[np.float64], rate: float = 100.0) -> NDArray[np.float64]:
    """Filter recordings (..., samples), in mV at ``rate`` Hz, each by itself; zero phase.

    The moving average spans one period of 50 Hz, which at 100 Hz is two samples; forward and backward with odd
    extension at the ends it is the kernel (1, 2, 1) / 4, whose zero lies at exactly 50 Hz.
    """
    if rate != 100:
        raise ValueError(f"the moving average is laid out for 100 Hz, not {rate} Hz")
    filtered: NDArray[np.float64] = signal.sosfiltfilt(_high_pass(rate), recordings, axis=-1)
    smooth = filtered.copy()  # odd extension leaves the first and last sample as they are
    inner = smooth[..., 1:-1]
    inner *= 2
    inner += filtered[..., :-2]
    inner += filtered[..., 2:]
    inner /= 4
    return smooth
