"""What can be computed of sounds without any network: mel spectrogram, envelope.

Source: Stevens et al. 1937 (mel, as 2595 log10(1 + f / 700)); Drullman et al. 1994 (envelope).
Axes: time = frame of a feature; feature = band. Hz, seconds.
"""

from __future__ import annotations

import numpy as np
from scipy import signal

from neurofm.shapes import Float


def mel_spectrogram(
    sound: np.ndarray,
    sfreq: float | int,
    *,
    frame_hz: float | int = 100.0,
    bands: int = 32,
    low_hz: float | int = 50.0,
    high_hz: float | int | None = None,
    window_s: float = 0.025,
) -> Float[np.ndarray, "time feature"]:
    """Log power in bands that are equally wide in mel.

    Args:
        sound: One channel.
        sfreq: Of the sound.
        frame_hz: Of the result; frame k is centred at k / frame_hz seconds.
        high_hz: Upper end; half of `sfreq` if not given.

    Raises:
        ValueError: Bands outside the sound's range, or so narrow that one holds no frequency.
    """
    _check(sound, sfreq, frame_hz, "mel_spectrogram")
    top = sfreq / 2 if high_hz is None else high_hz
    if not 0 <= low_hz < top <= sfreq / 2 or bands < 1:
        raise ValueError(
            f"mel_spectrogram: {bands} bands from {low_hz} to {top} Hz of a sound at {sfreq} Hz; "
            f"expected at least one band between 0 and {sfreq / 2:g} Hz."
        )
    length = max(2, round(window_s * sfreq))
    n_fft = 1 << (length - 1).bit_length()
    centres = np.round(np.arange(_frames(len(sound), sfreq, frame_hz)) * sfreq / frame_hz)
    padded = np.pad(np.asarray(sound, dtype=np.float64), length)
    index = (centres.astype(int) + length - length // 2)[:, None] + np.arange(length)
    window = signal.get_window("hann", length)
    freqs = np.fft.rfftfreq(n_fft, 1 / sfreq)
    weights = _triangles(freqs, _mels(float(low_hz), float(top), bands + 2))
    found = np.empty((len(index), bands), dtype=np.float32)
    for lo in range(0, len(index), 4096):
        power = np.abs(np.fft.rfft(padded[index[lo : lo + 4096]] * window, n_fft)) ** 2
        found[lo : lo + 4096] = np.log(power @ weights / (window**2).sum() + 1e-10)
    return found


def envelope(
    sound: np.ndarray,
    sfreq: float | int,
    *,
    frame_hz: float | int = 100.0,
    exponent: float = 0.6,
) -> Float[np.ndarray, " time"]:
    """How loud it is: modulus of the analytic signal, smoothed below half of `frame_hz`.

    Args:
        exponent: Compression, 1 for none.
    """
    _check(sound, sfreq, frame_hz, "envelope")
    loud = np.abs(signal.hilbert(np.asarray(sound, dtype=np.float64)))
    if frame_hz < sfreq:
        filt = signal.butter(4, 0.45 * frame_hz / (sfreq / 2), output="sos")
        loud = signal.sosfiltfilt(filt, loud) if len(loud) > 30 else loud
    at = np.arange(_frames(len(sound), sfreq, frame_hz)) * sfreq / frame_hz
    loud = np.interp(at, np.arange(len(loud)), loud).clip(min=0)
    return (loud**exponent).astype(np.float32)


def _frames(n: int, sfreq: float | int, frame_hz: float | int) -> int:
    return int(np.floor((n - 1) / sfreq * frame_hz + 1e-9)) + 1


def _check(sound: np.ndarray, sfreq: float | int, frame_hz: float | int, where: str) -> None:
    sound = np.asarray(sound)
    if sound.ndim != 1 or len(sound) < 2 or not np.isfinite(sound).all():
        raise ValueError(
            f"{where}: a sound of shape {sound.shape}"
            f"{'' if np.isfinite(sound).all() else ' with NaN'}; expected numbers of one channel. "
            "Average channels first."
        )
    if not 0 < frame_hz <= sfreq:
        raise ValueError(
            f"{where}: {frame_hz} frames a second of a sound at {sfreq} Hz; expected above 0 and "
            "no more than the sound's rate."
        )


def _mels(low: float, high: float, n: int) -> np.ndarray:
    first, last = 2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700)
    return 700 * (10 ** (np.linspace(first, last, n) / 2595) - 1)


def _triangles(freqs: np.ndarray, edges: np.ndarray) -> Float[np.ndarray, "frequency feature"]:
    rise = (freqs[:, None] - edges[None, :-2]) / np.diff(edges)[:-1]
    fall = (edges[None, 2:] - freqs[:, None]) / np.diff(edges)[1:]
    weights = np.minimum(rise, fall).clip(min=0)
    empty = int((weights.sum(axis=0) == 0).sum())
    if empty:
        raise ValueError(
            f"mel_spectrogram: {empty} of {weights.shape[1]} bands hold no frequency. Use fewer "
            "bands or a longer window."
        )
    return weights / weights.sum(axis=0)
