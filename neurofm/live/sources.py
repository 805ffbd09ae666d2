"""Where a stream comes from: a recording played at true speed, or a Lab Streaming Layer stream."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from neurofm.compat import optional
from neurofm.io.corpus import open_corpus
from neurofm.io.electrodes import kind_from_name, positions_of, standard_name
from neurofm.io.paths import open_path
from neurofm.live.decoder import Facts
from neurofm.live.samples import Piece
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import UNITS, Kind, si_factor

_MICRO = {"microvolts": "uV", "microvolt": "uV", "volts": "V", "volt": "V", "millivolts": "mV"}
_POLL_S = 0.002


@runtime_checkable
class Source(Protocol):
    """A stream.

    Attributes:
        head: Channels, rate and recording; its one sample means nothing.
        live: Time passes whether we keep up or not.
        whole: The recording it plays, if it plays one.
    """

    head: Signal
    live: bool
    whole: Signal | None

    def pieces(self) -> Iterator[Piece]:
        """Samples as they come, until the stream ends."""
        ...


class FileSource:
    """Plays a recording.

    Args:
        path: Any file neurofm reads.
        datasets: Cards to look for it in first, for names of channels and events.
        speed: 1 is true speed; 0 as fast as possible.
        piece_s: Seconds that come at once.

    Raises:
        FileNotFoundError: No such file.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        datasets: Sequence[str] = (),
        speed: float = 1.0,
        piece_s: float = 1 / 16,
    ) -> None:
        if speed < 0 or not piece_s > 0:
            raise ValueError(f"FileSource: speed {speed} and piece_s {piece_s}, expected above 0.")
        self.whole: Signal | None = _read(Path(path), datasets)
        self.head = head_of(self.whole)
        self.live = speed > 0
        self.speed, self.piece_s = speed, piece_s

    def pieces(self) -> Iterator[Piece]:
        """The samples in order; when a computation took too long, those that are due at once."""
        assert self.whole is not None
        data, sfreq = self.whole.data, self.whole.sfreq
        n = max(round(self.piece_s * sfreq), 1)
        begin = time.perf_counter()
        for first in range(0, data.shape[1], n):
            last = min(first + n, data.shape[1])
            arrived = time.perf_counter()
            if self.live:
                due = begin + last / sfreq / self.speed
                if due > arrived:
                    time.sleep(due - arrived)
                arrived = due
            yield Piece(data[:, first:last], np.arange(first, last) / sfreq, arrived)


def _read(path: Path, datasets: Sequence[str]) -> Signal:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file to play, and no `lsl` stream.")
    for name in datasets:
        try:
            corpus = open_corpus(name)
        except FileNotFoundError:
            continue
        for recording in corpus.recordings():
            if recording.path is not None and recording.path.resolve() == path.resolve():
                return corpus.load(recording)
    corpus = open_path(path)
    recordings = corpus.recordings()
    if len(recordings) != 1:
        raise ValueError(f"{path}: holds {len(recordings)} recordings; name one of them.")
    return corpus.load(recordings[0])


def head_of(signal: Signal) -> Signal:
    """A recording without its samples and events."""
    zero = np.zeros((len(signal.sensors), 1), dtype=np.float32)
    return replace(signal, data=zero, events=())


def example_head(facts: Facts, like: Path | str | None = None) -> Signal:
    """Channels and rate of what a decoder was trained on.

    Args:
        like: A recording; the first of the decoder's first data set if not given.
    """
    if like is not None:
        return head_of(_read(Path(like), facts.datasets))
    corpus = open_corpus(facts.datasets[0])
    return head_of(corpus.load(corpus.recordings()[0]))


class LslSource:
    """A Lab Streaming Layer stream.

    Args:
        name: Of the stream; the only one there is if not given.
        wait_s: Longest wait for the stream, and for its next sample before it counts as ended.
        unit: Of its numbers, such as "uV", instead of what it says.
        montage: Where positions are looked up by name.

    Raises:
        ImportError: mne-lsl is not installed.
        ValueError: No such stream, no regular rate, or units that say nothing.
    """

    live = True
    whole: Signal | None = None

    def __init__(
        self,
        name: str | None = None,
        *,
        wait_s: float = 10.0,
        unit: str | None = None,
        montage: str = "standard_1005",
    ) -> None:
        lsl = optional("mne_lsl").lsl
        self.wait_s = wait_s
        found = lsl.resolve_streams(timeout=min(wait_s, 0.5))
        named = [info for info in found if name is None or info.name == name]
        deadline = time.monotonic() + wait_s
        while not named and time.monotonic() < deadline:
            found = lsl.resolve_streams(timeout=1.0)
            named = [info for info in found if name is None or info.name == name]
        if len(named) != 1:
            raise ValueError(_which(name, [info.name for info in found], len(named), wait_s))
        # Not "dejitter": it spreads a gap over the seconds behind it, where nobody finds it.
        self._inlet = lsl.StreamInlet(named[0], processing_flags=["clocksync"])
        self._inlet.open_stream(timeout=wait_s)
        info = self._inlet.get_sinfo(timeout=wait_s)
        if not info.sfreq > 0:
            raise ValueError(f"LSL stream {info.name!r} has no regular rate; it holds no signal.")
        sensors, self._scale = _channels(info, unit, montage)
        recording = Recording("lsl", str(info.name))
        zero = np.zeros((len(sensors), 1), dtype=np.float32)
        self.head = Signal(zero, float(info.sfreq), sensors, (), recording)

    def pieces(self) -> Iterator[Piece]:
        """Samples as they come; ends when none came for `wait_s`."""
        last = time.monotonic()
        while time.monotonic() - last < self.wait_s:
            try:
                data, times = self._inlet.pull_chunk(timeout=0.0, max_samples=8192)
            except RuntimeError:  # the stream was closed and does not recover
                return
            if not len(times):
                time.sleep(_POLL_S)
                continue
            last = time.monotonic()
            numbers = (np.asarray(data, dtype=np.float64).T * self._scale).astype(np.float32)
            yield Piece(numbers, np.array(times), time.perf_counter())

    def close(self) -> None:
        """Leave the stream."""
        self._inlet.close_stream()


def _which(name: str | None, there: Sequence[str], n: int, wait_s: float) -> str:
    listed = ", ".join(map(repr, there)) or "none"
    if n > 1:
        return f"LSL: {n} streams fit; there are {listed}. Choose one by --source lsl:NAME."
    near = difflib.get_close_matches(name or "", there, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    what = "no stream" if name is None else f"no stream called {name!r}"
    return f"LSL: {what} within {wait_s:g} s; there are {listed}.{hint}"


def _channels(info: Any, unit: str | None, montage: str) -> tuple[Sensors, np.ndarray]:
    """Sensors, and working units in one number of each channel."""
    n = info.n_channels
    names = info.get_channel_names() or [f"ch{i}" for i in range(n)]
    kinds = info.get_channel_types() or [str(info.stype).lower()] * n
    units = [unit] * n if unit is not None else (info.get_channel_units() or [None] * n)
    kind, factor = [], []
    for i in range(n):
        declared = str(kinds[i]).upper()
        found = Kind[declared] if declared in Kind.__members__ else kind_from_name(names[i])
        kind.append(Kind.OTHER if found is None else found)
        said = units[i]
        if said in (None, "", "none", "arbitrary"):
            if UNITS[kind[i]].per_si == 1:
                factor.append(1.0)
                continue
            raise ValueError(
                f"LSL stream {info.name!r}: channel {names[i]} does not say its unit. Give it, "
                "such as --unit uV."
            )
        text = str(said)
        if text.lstrip("-").isdigit():  # a power of ten of the SI unit, as MNE-LSL writes it
            si = 10.0 ** int(text)
        else:
            si = si_factor(_MICRO.get(text.lower(), text), where=f"LSL channel {names[i]}")
        factor.append(si * UNITS[kind[i]].per_si)
    standard = [standard_name(x) if k == Kind.EEG else x for x, k in zip(names, kind, strict=True)]
    standard = standard if len(set(standard)) == n else list(names)
    sensors = Sensors(
        names=tuple(standard),
        kind=np.array(kind, dtype=np.int8),
        position=np.asarray(positions_of(standard, montage), dtype=np.float64),
        orientation=np.zeros((n, 3)),
    )
    return sensors, np.array(factor)[:, None]
