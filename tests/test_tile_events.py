"""Long events cut into pieces."""

from __future__ import annotations

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
