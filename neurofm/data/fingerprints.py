"""Fingerprints of recordings: the same recording is recognised after it was encoded anew.

Hashes of files tell copies apart that differ in nothing but format, unit or sampling rate. Here a
quarter of a second becomes two bits: did the power in 4-13 Hz, and in 13-30 Hz, rise over the last
second? The power is the mean over channels, each against the mean of its kind and divided by its
own power, so that channel order, names, units, gains, a common reference and stationary filters
change few of the bits; artefacts and rhythms come at other moments in every other recording. Where
pieces were joined they are moved to meet: trials laid end to end jump at the same moments in all
people. The first 146 s are described, in at most 196 characters. `neurofm.data.copies` compares
fingerprints.

Signals below 64 Hz (BOLD, calcium) are described sample by sample instead: did the mean over
channels, and the size of their change, rise? These recognise a copy at the same rate only.

A signal too short to tell from others (below about 14 s, or 52 samples of a slow one), or one that
is flat, has the fingerprint "".

Source: the idea of signs of differences of band energies is that of Haitsma & Kalker 2002 (music).
Axes: channel time; frame = a quarter of a second (fast) or a sample (slow), feature = two of them.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
from scipy.fft import ifft, next_fast_len, rfft

from neurofm.data.steps.step import stretches
from neurofm.shapes import Bool, Float, Int
from neurofm.types import Signal
from neurofm.units import BRAIN_KINDS, Kind

HOP_S, WINDOW_S = 0.25, 1.0
LAG = 4  # frames that a difference spans: windows that do not overlap
MAX_FRAMES, MIN_FRAMES = 576, 48
SPAN_S = (MAX_FRAMES + LAG - 1) * HOP_S + WINDOW_S
FAST_HZ = 64.0
BANDS = ((4.0, 13.0), (13.0, 30.0))
_HALVES = ((4.0, 8.0), (8.0, 13.0), (13.0, 20.0), (20.0, 30.0))
_REREFERENCE = 8  # channels of a kind from which their mean says little about each
_CHUNK = 32  # channels transformed at once
_ENOUGH_HZ = 200.0  # neighbouring samples are averaged down to at least this rate
_EDGE_HZ = 2.0
_SILENCE = 1e-6  # of the mean power: below this nothing is compared
_PREFIX = "nf1"


class Fingerprinter:
    """Makes the fingerprint of a recording that arrives as groups of channels.

    Args:
        sfreq: Hz.
    """

    def __init__(self, sfreq: float) -> None:
        if not sfreq > 0:
            raise ValueError(f"Fingerprinter: sfreq is {sfreq} Hz, expected > 0.")
        self._fast = sfreq >= FAST_HZ
        self._block = max(int(sfreq / _ENOUGH_HZ), 1) if self._fast else 1
        self.sfreq = float(sfreq)
        self._n_times = 0  # after averaging
        self._given = 0
        self._spectra: dict[int, list[np.ndarray]] = {}
        self._sums: dict[int, np.ndarray] = {}  # of a slow signal: mean, square of the change

    def add(
        self,
        data: Float[np.ndarray, "channel time"],
        kind: Int[np.ndarray, " channel"],
        joins: Sequence[int] = (),
    ) -> None:
        """Take more channels, over the whole recording. Flat and unfinished ones are passed over.

        Args:
            data: Any unit.
            kind: `Kind` of each channel.
            joins: First sample of every piece but the first.

        Raises:
            ValueError: Another number of samples than before.
        """
        most = round(SPAN_S * self.sfreq) if self._fast else MAX_FRAMES + 1
        if self._given not in (0, data.shape[1]):
            raise ValueError(
                f"Fingerprinter: {data.shape[1]} samples after channels with {self._given}; all "
                "channels of a recording have the same length."
            )
        self._given = data.shape[1]
        self._n_times = min(data.shape[1], most) // self._block
        for value in np.unique(kind):
            chosen = np.flatnonzero(kind == value)
            for part in np.array_split(chosen, -(-len(chosen) // _CHUNK)):
                x, scale = self._cleaned(data[part], joins)
                if not len(x):
                    continue
                if self._fast:
                    spectrum = self._spectrum(x) * scale
                    self._spectra.setdefault(int(value), []).append(spectrum)
                else:
                    self._add_slow(int(value), x)

    def _cleaned(
        self, x: Float[np.ndarray, "channel time"], joins: Sequence[int]
    ) -> tuple[Float[np.ndarray, "alive part"], Float[np.ndarray, "alive 1"]]:
        """Channels that are not flat, without mean, in units of their largest value; and that."""
        x = x[:, : self._n_times * self._block].astype(np.float32)
        if not np.isfinite(x.sum(dtype=np.float64)):
            x = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
        at = [join for join in joins if 0 < join < x.shape[1]]
        if self._fast and at:
            jumps = np.zeros_like(x)
            jumps[:, at] = x[:, at] - x[:, np.array(at) - 1]
            x = x - np.cumsum(jumps, axis=1)
        if self._block > 1:
            x = x.reshape(len(x), self._n_times, self._block).mean(axis=2)
        x = x - x.mean(axis=1, keepdims=True)
        scale = np.maximum(x.max(axis=1, initial=0.0), -x.min(axis=1, initial=0.0))[:, None]
        alive = scale[:, 0] > 0
        return x[alive] / scale[alive], scale[alive]

    def result(self) -> str:
        """The fingerprint; "" if the recording is too short or flat."""
        kinds = self._spectra if self._fast else self._sums
        brain = {key for key in kinds if Kind(key) in BRAIN_KINDS} or set(kinds)
        if not brain:
            return ""
        if self._fast:
            spectra = [np.concatenate(self._spectra[key]) for key in sorted(brain)]
            return _encode(_signs(self._powers(spectra), LAG), "")
        total = np.sum([self._sums[key] for key in sorted(brain)], axis=0)
        return _encode(_signs(total, 1), f"s{round(1e6 / self.sfreq)}")

    def _bins(self) -> tuple[int, float]:
        """Length of the transform, and distance of its bins in Hz."""
        n = next_fast_len(self._n_times, real=True)
        return n, self.sfreq / self._block / n

    def _spectrum(self, x: Float[np.ndarray, "channel time"]) -> np.ndarray:
        n, step = self._bins()
        low, high = int(np.ceil(BANDS[0][0] / step)), int(np.ceil(BANDS[-1][1] / step))
        return rfft(x, n, axis=1)[:, low:high]

    def _powers(self, spectra: list[np.ndarray]) -> Float[np.ndarray, "feature frame"]:
        """Log power of each band in each frame: mean over channels of equal weight."""
        step = self._bins()[1]
        first = int(np.ceil(BANDS[0][0] / step))
        duration = self._n_times * self._block / self.sfreq
        n_frames = int((duration - WINDOW_S) / HOP_S + 1e-6) + 1
        starts = np.arange(max(n_frames, 0)) * HOP_S
        weighted = []
        for spectrum in spectra:
            if len(spectrum) >= _REREFERENCE:
                spectrum = spectrum - spectrum.mean(axis=0)
            power = (np.abs(spectrum) ** 2).mean(axis=1, keepdims=True)
            alive = power[:, 0] > 1e-12 * power.max(initial=0.0)
            weighted.append(spectrum[alive] / np.sqrt(power[alive]))
        every = np.concatenate(weighted)
        logs = []
        for low, high in _HALVES:
            a, b = int(np.ceil(low / step)) - first, int(np.ceil(high / step)) - first
            # The bins of a band alone are its complex envelope, at a low rate of its own. Soft
            # edges keep the ringing of loud moments out of silent ones.
            band = every[:, a:b] * _soft(b - a, step)
            size = next_fast_len(max(2 * band.shape[1], 16))
            envelope = (np.abs(ifft(band, size, axis=1)) ** 2).mean(axis=0, dtype=np.float64)
            running = np.concatenate([[0.0], np.cumsum(envelope)])
            at = np.arange(size + 1) / (step * size)
            amount = np.interp(starts + WINDOW_S, at, running) - np.interp(starts, at, running)
            logs.append(np.log(np.maximum(amount, _SILENCE * running[-1] * WINDOW_S / duration)))
        return np.array([logs[0] + logs[1], logs[2] + logs[3]])

    def _add_slow(self, kind: int, x: Float[np.ndarray, "channel time"]) -> None:
        z = x / x.std(axis=1, keepdims=True)
        change = np.zeros_like(z)
        change[:, 1:] = np.diff(z, axis=1)
        sums = np.stack([z.sum(axis=0, dtype=np.float64), (change**2).sum(axis=0)])
        self._sums[kind] = self._sums.get(kind, 0.0) + sums


def fingerprint(signal: Signal) -> str:
    """What `neurofm.data.copies` recognises this recording by; "" if it is too short or flat.

    Make it of the recording as it is read: bits survive mild filters, not heavy cleaning.
    """
    maker = Fingerprinter(signal.sfreq)
    maker.add(signal.data, signal.sensors.kind, joins_of(signal))
    return maker.result()


def joins_of(signal: Signal) -> list[int]:
    """First sample of every piece of a recording but the first."""
    return [piece.start for piece in stretches(signal)[1:]]


def _soft(n: int, step: float) -> Float[np.ndarray, " bin"]:
    """Ones with half a cosine of `_EDGE_HZ` at each end."""
    near = np.minimum(np.arange(n), np.arange(n)[::-1]) * step / _EDGE_HZ
    return (0.5 - 0.5 * np.cos(np.pi * np.minimum(near, 1.0))).astype(np.float32)


def _signs(
    values: Float[np.ndarray, "feature frame"], lag: int
) -> tuple[Bool[np.ndarray, "feature change"], Bool[np.ndarray, "feature change"]]:
    """Which values rose over `lag` frames, and which did not change at all."""
    change = values[:, lag:] - values[:, :-lag]
    size = np.abs(change).max(initial=0.0)
    return change > 0, np.abs(change) <= 1e-6 * size


def _encode(
    signs: tuple[Bool[np.ndarray, "feature frame"], Bool[np.ndarray, "feature frame"]], family: str
) -> str:
    rose, same = signs
    n_frames = min(rose.shape[1], MAX_FRAMES) // 4 * 4
    rose, same = rose[:, :n_frames].copy(), same[:, :n_frames]
    if n_frames < MIN_FRAMES or same.all(axis=0).sum() > n_frames - MIN_FRAMES:
        return ""
    # Silence (a padded end) is alike everywhere. Coins thrown for it, other ones for every
    # recording, keep two paddings from looking like one recording.
    coins = np.random.default_rng(zlib.crc32(np.packbits(rose & ~same).tobytes()))
    rose[same] = coins.random(int(same.sum())) < 0.5
    packed = np.packbits(rose.T.ravel()).tobytes()
    return f"{_PREFIX}{family}:{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"


def decode_fingerprint(text: str) -> tuple[str, Bool[np.ndarray, "frame feature"]] | None:
    """Family and bits of a fingerprint; None if the text is none of ours (a hash, a name).

    Fingerprints of two families never mean the same recording.
    """
    family, colon, body = text.partition(":")
    if not colon or not family.startswith(_PREFIX):
        return None
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    if not MIN_FRAMES <= 4 * len(packed) <= MAX_FRAMES:
        return None
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8)).astype(bool)
    return family, bits.reshape(-1, 2)
