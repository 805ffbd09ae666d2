"""The preprocessing of a recipe as one causal machine: pieces of a stream in, samples out.

Filters, changes of rate and running statistics become their causal forms (`data.steps.causal`);
steps that look at single moments are called on every piece. What needs the whole recording is
refused by name. The same steps on a whole recording (`offline`) give the same samples.

Axes: channel time.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from neurofm.cards import spec_of
from neurofm.data.history import band_of, unit_of
from neurofm.data.steps.align_recording import AlignRecording
from neurofm.data.steps.causal import Causal, Running
from neurofm.data.steps.channels import Clip, InterpolateBads, PickChannels, PickKinds
from neurofm.data.steps.filters import Bandpass, Chain, Notch, Resample
from neurofm.data.steps.pairs import ElectrodePairs
from neurofm.data.steps.reference import Bipolar, Laplacian, Rereference
from neurofm.data.steps.sensors import ToTemplate
from neurofm.data.steps.standardize import StandardizeRecording
from neurofm.data.steps.step import Step
from neurofm.io.electrodes import standard_name
from neurofm.shapes import Float
from neurofm.types import Signal

_FILTERS = (Notch, Bandpass, Resample)
_MOMENTS = (PickKinds, PickChannels, Clip, ElectrodePairs, ToTemplate)
_REFERENCES = (Rereference, Bipolar, Laplacian)


def unchained(steps: Sequence[Step]) -> list[Step]:
    """The steps one by one."""
    return [one for step in steps for one in (step.steps if isinstance(step, Chain) else [step])]


def causal_form(step: Step) -> tuple[Step, str]:
    """A step that needs no future, and what that changes; "" where nothing does.

    Raises:
        ValueError: It has no such form; the message says what to use.
    """
    name = type(step).__name__
    if (isinstance(step, Causal) and step.causal) or isinstance(step, _MOMENTS):
        return step, ""
    if isinstance(step, _FILTERS):
        return replace(step, causal=True, engine="fft"), f"{name} is causal, not zero-phase"
    if isinstance(step, AlignRecording):
        note = "AlignRecording uses the tiles before, not all windows of the recording"
        return replace(step, causal=True, labels=None), note
    if isinstance(step, StandardizeRecording):
        note = "StandardizeRecording uses the tiles before, not the whole recording"
        return replace(step, causal=True), note
    if isinstance(step, _REFERENCES):
        if not step.detect:
            return step, ""
        return replace(step, detect=False), f"{name} does not look for bad channels"
    if isinstance(step, InterpolateBads):
        if not step.detect:
            return step, ""
        raise ValueError(
            "InterpolateBads has no causal form: it finds bad channels in the whole recording. "
            "Train with `detect: false` and their `names`."
        )
    known = ", ".join(c.__name__ for c in (*_FILTERS, AlignRecording, StandardizeRecording))
    raise ValueError(
        f"{name} has no causal form, so a stream cannot pass through it. Train a recipe without "
        f"it. Causal forms have {known}, references and choices of channels."
    )


class _EachMoment(Running):
    """A step that looks at single moments."""

    def __init__(self, step: Step, head: Signal) -> None:
        self._step, self._head = step, replace(head, events=())
        self._channels = len(step(self._head).sensors)

    def __call__(
        self, x: Float[np.ndarray, "channel time"], *, restart: bool = False
    ) -> Float[np.ndarray, "new_channel time"]:
        """As many samples as came."""
        if not x.shape[1]:  # a change of rate may give none for a small piece
            return np.zeros((self._channels, 0), dtype=np.float32)
        return self._step(replace(self._head, data=x)).data


class _Linear(Running):
    """A step that is a matrix, which it is asked for once."""

    def __init__(self, step: Step, head: Signal) -> None:
        impulses = np.eye(len(head.sensors), dtype=np.float32)
        self._matrix = step(replace(head, data=impulses, events=())).data

    def __call__(
        self, x: Float[np.ndarray, "channel time"], *, restart: bool = False
    ) -> Float[np.ndarray, "new_channel time"]:
        """As many samples as came."""
        return self._matrix @ x


class Processing:
    """The causal steps of a recipe in the middle of a stream.

    Args:
        steps: As `build_steps` gives them.
        head: A sample of the stream: channels, rate, unit.
        channels: Names that must come out, in this order; extra ones are left out. None for all.
        notes: What differs from the recipe, in words; filled here.

    Raises:
        ValueError: A step without a causal form, or channels that are missing.
    """

    def __init__(self, steps: Sequence[Step], head: Signal, channels: Sequence[str] = ()) -> None:
        self.notes: list[str] = []
        self.steps: list[Step] = []
        self._running: list[Running] = []
        self.warm_up_s = 0.0
        head = replace(head, data=np.zeros((len(head.sensors), 1), np.float32), events=())
        for step in unchained(steps):
            form, note = causal_form(step)
            self.notes += [note] if note else []
            head = self._add(form, head)
        if channels:
            chosen = _in_order(head, channels)
            if chosen is not None:
                self.notes.append(
                    f"{len(channels)} of {len(head.sensors)} channels, put in the order of training"
                )
                head = self._add(chosen, head)
        self.head = replace(head, events=())

    def _add(self, step: Step, head: Signal) -> Signal:
        if isinstance(step, Causal) and step.causal:
            running = step.running(head)
        else:
            linear = isinstance(step, InterpolateBads)
            running = _Linear(step, head) if linear else _EachMoment(step, head)
        self.warm_up_s = max(self.warm_up_s, running.warm_up / head.sfreq)
        self.steps.append(step)
        self._running.append(running)
        return step(head)

    @property
    def sfreq(self) -> float:
        """Hz, of what comes out."""
        return self.head.sfreq

    @property
    def unit(self) -> str:
        """What `Batch.unit` is."""
        return unit_of(self.head.history)

    @property
    def band(self) -> tuple[float, float] | None:
        """Hz, what the filters leave."""
        return band_of(self.head.history, sfreq=self.sfreq)

    @property
    def delay_s(self) -> float:
        """Seconds by which the middle of the band comes late."""
        low, high = self.band or (0.0, self.sfreq / 2)
        middle = (low * high) ** 0.5 or high / 4
        return sum(running.delay(middle) for running in self._running)

    def __call__(
        self, x: Float[np.ndarray, "channel time"], *, restart: bool = False
    ) -> Float[np.ndarray, "new_channel new_time"]:
        """The next samples."""
        for running in self._running:
            x = running(x, restart=restart)
        return x

    def offline(self, signal: Signal) -> Signal:
        """A whole recording by the same steps."""
        for step in self.steps:
            signal = step(signal)
        return signal

    def specs(self) -> list[dict[str, Any]]:
        """The steps as plain data."""
        return [spec_of(step) for step in self.steps]


def _in_order(head: Signal, channels: Sequence[str]) -> PickChannels | None:
    """A choice of channels by any spelling; None if they are right already."""
    have = {standard_name(name).upper(): name for name in head.sensors.names}
    wanted = [standard_name(name).upper() for name in channels]
    missing = [own for own, name in zip(channels, wanted, strict=True) if name not in have]
    if missing:
        near = difflib.get_close_matches(standard_name(missing[0]).upper(), have, n=3, cutoff=0.5)
        hint = f" Near {missing[0]}: {', '.join(have[name] for name in near)}." if near else ""
        raise ValueError(
            f"the stream lacks {len(missing)} of the {len(channels)} channels that the model was "
            f"trained on: {', '.join(missing[:8])}.{hint} Rename the channels of the stream, or "
            "train on those it has."
        )
    names = [have[name] for name in wanted]
    return None if names == list(head.sensors.names) else PickChannels(names)
