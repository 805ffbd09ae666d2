"""A small decoder, a recording, and a stream that plays pieces a test chose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import config

from neurofm.cards import spec_of
from neurofm.data import Bandpass, Resample
from neurofm.live import Facts, Piece, RunDecoder, export_decoder
from neurofm.live.export import Export
from neurofm.live.sources import head_of
from neurofm.models import DBConformer
from neurofm.readouts import PooledLinear
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

NAMES = ("C3", "Cz", "C4")
CAUSAL = (Bandpass(8.0, 30.0, causal=True), Resample(100.0, causal=True))
LABELS = ("left_hand", "right_hand")


def recording(
    seconds: float = 12.0, *, sfreq: float = 160.0, names: Sequence[str] = NAMES, seed: int = 0
) -> Signal:
    rng = np.random.default_rng(seed)
    data = 20 * rng.standard_normal((len(names), round(seconds * sfreq)))
    events = (Event(3.0, 1.0, "left_hand"), Event(6.0, 1.0, "right_hand"), Event(9.0, 1.0, "rest"))
    sensors = Sensors.of_kind(names, Kind.EEG)
    return Signal(data.astype(np.float32), sfreq, sensors, events, Recording("toy", "1"))


def facts(steps: Sequence[Any] = CAUSAL, **changed: Any) -> Facts:
    given = {
        "name": "toy",
        "labels": LABELS,
        "datasets": (),
        "preprocess": tuple(spec_of(step) for step in steps),
        "line_freq": 50.0,
        "window_s": 1.0,
        "channels": NAMES,
        "amplitude": 10.0,
    }
    return Facts(**{**given, **changed})


def decoder(
    model: torch.nn.Module | None = None, readout: Any = None, **changed: Any
) -> RunDecoder:
    torch.manual_seed(0)
    if model is None:
        model = DBConformer(
            n_channels=3, n_times=100, sfreq=100.0, patch=25, dim=8, heads=2, n_classes=None
        )
    with torch.no_grad():  # logits that differ between windows
        readout = readout or PooledLinear(model.dim, 2)
        for parameter in readout.parameters():
            parameter.mul_(3)
    return RunDecoder(model, readout, facts(**changed))


def exported(found: RunDecoder, path: Path, **options: Any) -> Export:
    """`export_decoder`. In a trace sizes are tensors, which no check of shapes understands."""
    config.update("jaxtyping_disable", True)
    try:
        return export_decoder(found, path, **options)
    finally:
        config.update("jaxtyping_disable", False)


class Played:
    """Samples of a recording in pieces, their time stamps as given."""

    live = False

    def __init__(
        self,
        signal: Signal,
        sizes: Sequence[int] = (16,),
        times: np.ndarray | None = None,
        kept: np.ndarray | None = None,
    ) -> None:
        self.whole: Signal | None = signal
        self.head = head_of(signal)
        self._data = signal.data if kept is None else signal.data[:, kept]
        usual = np.arange(signal.data.shape[1]) / signal.sfreq
        self._times = (usual if kept is None else usual[kept]) if times is None else times
        self._sizes = sizes

    def pieces(self) -> Iterator[Piece]:
        first = number = 0
        while first < len(self._times):
            last = first + self._sizes[number % len(self._sizes)]
            yield Piece(self._data[:, first:last], self._times[first:last], 0.0)
            first, number = last, number + 1


def scaled(signal: Signal, factor: float) -> Signal:
    return replace(signal, data=signal.data * np.float32(factor))
