"""Long events cut into pieces, and days without the hours around the night."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


def night() -> Signal:
    sensors = Sensors.of_kind(["Fz"], Kind.EEG, np.zeros((1, 3)))
    events = (Event(0.0, 95.0, "n2"), Event(95.0, 30.0, "rem"), Event(125.0, 61.0, "BAD move"))
    data = np.zeros((1, 2000), dtype=np.float32)
    return Signal(data, 10.0, sensors, events, Recording("toy", "01"), ("read toy",))


def test_every_piece_is_an_event_and_the_rest_is_left_out() -> None:
    from neurofm.data import TileEvents

    tiled = TileEvents(30.0)(night())
    assert [(e.onset, e.duration, e.label) for e in tiled.events] == [
        (0.0, 30.0, "n2"),
        (30.0, 30.0, "n2"),
        (60.0, 30.0, "n2"),
        (95.0, 30.0, "rem"),
        (125.0, 61.0, "BAD move"),
    ]
    assert "3 are now 5" in tiled.history[-1]
    assert len(TileEvents(30.0, labels=["rem"])(night()).events) == 3
    with pytest.raises(ValueError, match="every_s is 0"):
        TileEvents(0.0)


def test_waking_long_before_and_after_the_night_is_left_out() -> None:
    from neurofm.data import KeepAround

    stages = ["wake"] * 4 + ["n1", "wake", "n2"] + ["wake"] * 4
    events = tuple(Event(30.0 * i, 30.0, stage) for i, stage in enumerate(stages))
    events += (Event(0.0, 1.0, "BAD cable"),)
    signal = replace(night(), events=events)
    kept = KeepAround(["n*"], within_s=60.0)(signal)
    assert [e.onset for e in kept.events if e.label != "BAD cable"] == [
        30.0 * i for i in range(2, 9)
    ]
    assert "8 of 12" in kept.history[-1]
    assert [e.label for e in KeepAround(["rem"], within_s=60.0)(signal).events] == ["BAD cable"]
    with pytest.raises(ValueError, match="within_s is -1"):
        KeepAround(["n*"], within_s=-1.0)
