"""Events around artefacts are left out, counted and still known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from neurofm.cards import build, spec_of
from neurofm.data import RejectEvents
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


def recording() -> Signal:
    """Three channels of small noise; channel 1 jumps by 200 µV from 3.0 to 3.2 s."""
    data = np.random.default_rng(0).normal(scale=5, size=(3, 1000)).astype(np.float32)
    data[1, 300:320] += 200
    sensors = Sensors.of_kind(["A", "B", "C"], Kind.EEG, np.zeros((3, 3)))
    onsets = {1.0: "target", 2.5: "other", 3.1: "target", 3.4: "other", 9.9: "target"}
    events = (*(Event(at, 0.0, label) for at, label in onsets.items()), Event(3.0, 0.2, "BAD x"))
    return Signal(data, 100.0, sensors, events, Recording("toy", "01"), ("read toy",))


def labels(step: RejectEvents, signal: Signal) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [event.label for event in step(signal).events]


def test_events_at_the_artefact_are_renamed_and_neighbours_stay() -> None:
    step = RejectEvents(100.0, window_s=1.0, offset_s=-0.1)
    with pytest.warns(UserWarning, match="2 of 4 events swing by more than 100 within -0.1 to 0.9"):
        found = step(recording())
    renamed = [event.label for event in found.events]
    assert renamed == ["target", "rejected other", "rejected target", "other", "target", "BAD x"]
    assert found.history[-1].startswith("rejected: 2 of 4 events")
    np.testing.assert_array_equal(found.data, recording().data)


def test_only_named_events_and_kinds_are_judged() -> None:
    assert labels(RejectEvents(labels=["oth*"]), recording())[1:3] == ["rejected other", "target"]
    with pytest.raises(ValueError, match="no channel of the kinds mag"):
        RejectEvents(kinds=["mag"])(recording())


def test_a_second_pass_changes_nothing() -> None:
    step = RejectEvents(100.0, offset_s=-0.1)
    with pytest.warns(UserWarning, match="left out"):
        once = step(recording())
    assert labels(step, once) == [event.label for event in once.events]


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(ValueError, match="all 4 of 4 events"):
        RejectEvents(0.1)(recording())
    with pytest.raises(ValueError, match="expected both above 0"):
        RejectEvents(window_s=0)


def test_nan_is_named() -> None:
    signal = recording()
    signal.data[2, 7] = np.nan
    with pytest.raises(ValueError, match=r"RejectEvents: 1 of 3 channels contain NaN"):
        RejectEvents()(signal)


def test_step_is_written_as_a_recipe_writes_it() -> None:
    step = RejectEvents(80.0, window_s=0.9)
    assert spec_of(build(spec_of(step))) == spec_of(step)
    assert build(spec_of(step)).peak_to_peak == 80
