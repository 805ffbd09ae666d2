"""Where windows may lie: parts of recordings between events to avoid, rows, and large tables."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm.data import Row, Windows
from neurofm.data.columns import Columns
from neurofm.data.cuts import Cut, Parts
from neurofm.data.table import Codes, RecordingTable
from neurofm.io import Store, seal, write_recording
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

AVOID = ("BAD*", "EDGE*")


def store_of(folder: Path, *events: tuple[Event, ...], seconds: float = 10.0) -> Store:
    sensors = Sensors.of_kind(("Cz",), Kind.EEG)
    for i, held in enumerate(events):
        data = np.arange(round(seconds * 100), dtype=np.float32)[None]
        signal = Signal(data, 100.0, sensors, held, Recording("toy", f"{i:02d}", run="1"))
        write_recording(folder, signal, key=f"k{i}", dtype="float32", fingerprint=f"f{i}" * (i > 0))
    seal(folder)
    return Store(folder)


def starts(windows: Windows) -> list[tuple[int, float]]:
    return [(int(row.subject), row.start) for row in windows.rows]


def table_of(n_times: list[int], events: list[tuple[int, float, float, str]]) -> RecordingTable:
    n = len(n_times)
    none = Codes(np.zeros(n, dtype=np.int32), ("x",))
    labels = tuple(dict.fromkeys(event[3] for event in events)) or ("none",)
    events = sorted(events, key=lambda event: event[0])
    code = np.array([labels.index(event[3]) for event in events], dtype=np.int32)
    return RecordingTable(
        store=np.zeros(n, dtype=np.int32),
        place=np.arange(n, dtype=np.int32),
        n_times=np.array(n_times, dtype=np.int64),
        n_channels=np.ones(n, dtype=np.int64),
        sfreq=np.full(n, 10.0),
        sensors=np.zeros(n, dtype=np.int32),
        sensor_set=np.zeros((1, 2), dtype=np.int32),
        **dict.fromkeys(("dataset", "subject", "session", "run", "task"), none),
        event_recording=np.array([event[0] for event in events], dtype=np.int64),
        event_onset=np.array([event[1] for event in events], dtype=np.float64),
        event_duration=np.array([event[2] for event in events], dtype=np.float64),
        event_label=Codes(code, labels),
    )


def test_windows_start_anew_behind_a_join(tmp_path):
    edges = tuple(Event(at, 0.0, "EDGE boundary") for at in (0.0, 2.5, 5.0, 10.0))
    store = store_of(tmp_path, edges, ())
    with pytest.warns(UserWarning, match=r"take 0.000 of 20.000 s .* leave 4 parts, 0 .* shorter"):
        windows = Windows(store, window_s=2.0)
    assert [s for i, s in starts(windows) if i == 0] == [0.0, 2.5, 5.0, 7.0]
    assert [s for i, s in starts(windows) if i == 1] == [0.0, 2.0, 4.0, 6.0, 8.0]
    batch = windows.batch([1])
    np.testing.assert_array_equal(batch.x[0, 0], np.arange(250, 450))


def test_windows_leave_out_unusable_parts_in_any_case(tmp_path):
    store = store_of(tmp_path, (Event(3.0, 1.0, "bad muscle"), Event(3.5, 2.0, "BAD_acq_skip")))
    with pytest.warns(UserWarning, match=r"BAD\* or EDGE\* take 2.500 of 10.000 s") as caught:
        windows = Windows(store, window_s=1.0)
    assert len(caught) == 1
    assert [s for _, s in starts(windows)] == [0.0, 1.0, 2.0, 5.5, 6.5, 7.5, 8.5]


def test_other_patterns_and_none_at_all_may_be_avoided(tmp_path):
    store = store_of(tmp_path, (Event(3.0, 1.0, "BAD"), Event(8.0, 2.0, "sleep spindle")))
    with pytest.warns(UserWarning, match=r"labelled \*spindle"):
        assert len(Windows(store, window_s=1.0, avoid=["*spindle"])) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Windows(store, window_s=1.0, avoid=[])) == 10


def test_windows_at_events_touch_nothing_to_avoid(tmp_path):
    events = (
        Event(1.0, 0.0, "go"),  # fits
        Event(2.5, 0.0, "go"),  # crosses the join at 3 s
        Event(3.0, 0.0, "EDGE boundary"),
        Event(3.0, 0.0, "go"),  # starts with the join
        Event(5.0, 0.0, "go"),  # ends where the unusable part begins
        Event(6.0, 0.1, "BAD x"),
        Event(6.05, 0.0, "go"),
        Event(9.5, 0.0, "go"),  # beyond the end
    )
    with pytest.warns(UserWarning) as caught:
        windows = Windows(store_of(tmp_path, events), window_s=1.0, labels=["go"])
    texts = [str(item.message) for item in caught]
    assert "1 of 6 events are too close" in texts[0] and "2 of 6 windows touch" in texts[1]
    assert [s for _, s in starts(windows)] == [1.0, 3.0, 5.0]
    assert windows.batch([0, 1, 2]).y.tolist() == [0, 0, 0]


def test_nothing_left_names_the_events_that_took_it(tmp_path):
    store = store_of(tmp_path, (Event(0.0, 10.0, "BAD all"),))
    with (
        pytest.warns(UserWarning, match="leave 0 parts"),
        pytest.raises(ValueError, match="Events to avoid: BAD all"),
    ):
        Windows(store, window_s=1.0)


recordings = st.lists(st.integers(1, 60), min_size=1, max_size=4)
event = st.tuples(
    st.integers(0, 3), st.floats(-1, 7), st.sampled_from([0.0, 0.05, 0.5, 2.0]), st.just("BAD")
)


@given(recordings, st.lists(event, max_size=8))
def test_parts_are_exactly_the_samples_outside_events(n_times, events):
    events = [e for e in events if e[0] < len(n_times)]
    table = table_of(n_times, events)
    parts = Parts.of(table, np.arange(len(n_times)), avoid=AVOID)
    free = [np.ones(n, dtype=bool) for n in n_times]
    cut: list[set[int]] = [set() for _ in n_times]
    for i, onset, duration, _ in events:
        low = int(np.floor(onset * 10 + 1e-6))
        high = int(np.ceil((onset + duration) * 10 - 1e-6))
        free[i][max(low, 0) : max(high, 0)] = False
        cut[i].add(min(max(low, 0), n_times[i]))
    covered = [np.zeros(n, dtype=int) for n in n_times]
    for i, start, stop in zip(parts.recording, parts.start, parts.stop, strict=True):
        covered[i][start:stop] += 1
        assert not any(start < at < stop for at in cut[i])
    for is_free, times in zip(free, covered, strict=True):
        np.testing.assert_array_equal(is_free, times == 1)
        assert times.max(initial=0) <= 1


@given(recordings, st.lists(event, max_size=8), st.integers(0, 3), st.integers(-5, 60))
def test_a_window_is_held_if_one_part_has_all_of_it(n_times, events, which, start):
    table = table_of(n_times, [e for e in events if e[0] < len(n_times)])
    parts = Parts.of(table, np.arange(len(n_times)), avoid=AVOID)
    expected = any(
        i == which and low <= start and start + 5 <= high
        for i, low, high in zip(parts.recording, parts.start, parts.stop, strict=True)
    )
    found = parts.holding(np.array([which]), np.array([start]), np.array([start + 5]))
    assert found.tolist() == [expected]


def test_ten_million_windows_are_cut():
    n = 100_000
    events = [(i, 100.0, 1.0, "BAD") for i in range(0, n, 2)]
    table = table_of([4000] * n, events)
    cut = Cut(4.0, 4.0, None, 0.0, AVOID)
    with pytest.warns(UserWarning, match="leave 150000 parts"):
        recording, start, y = cut.windows(table, np.arange(n))
    assert len(start) == n * 100 - n // 2 and y is None
    assert recording.nbytes + start.nbytes == 8 * len(start)


# Rows


def test_rows_are_made_when_looked_at_and_compare_as_lists_do(tmp_path):
    store = store_of(tmp_path, (Event(1.0, 0.0, "a"), Event(4.0, 0.0, "b")), ())
    rows = Windows(store, window_s=2.0, labels=["b", "a"]).rows
    expected = [
        Row("00", None, "1", "toy_sub-00_run-1", start, start + 2, label)
        for start, label in ((1.0, "a"), (4.0, "b"))
    ]
    assert list(rows) == expected == [rows[0], rows[-1]] == rows[:]
    assert rows == expected and rows != expected[:1] and rows != "rows"


def test_rows_carry_the_fingerprint_of_their_recording(tmp_path):
    rows = Windows(store_of(tmp_path, (), ()), window_s=5.0).rows
    assert [row.fingerprint for row in rows] == [None, None, "f1", "f1"]


def test_columns_of_windows_are_those_of_their_rows(tmp_path):
    events = (Event(1.0, 0.0, "a"), Event(4.0, 0.0, "b"))
    windows = Windows(store_of(tmp_path, events, (), events), window_s=2.0, labels=["b", "a"])
    found, expected = Columns.of(windows.rows), Columns.of(list(windows.rows))
    assert dict(found.names) == dict(expected.names)
    for name, code in expected.code.items():
        np.testing.assert_array_equal(found.code[name], code)
    np.testing.assert_array_equal(found.start, expected.start)
    np.testing.assert_array_equal(found.stop, expected.stop)


def test_distinct_rows_span_the_windows_of_a_recording_and_label(tmp_path):
    events = tuple(Event(float(at), 0.0, "ab"[at % 2]) for at in range(1, 7))
    windows = Windows(store_of(tmp_path, events, events), window_s=1.0, labels=["a", "b"])
    few, of_window = windows.rows.distinct()
    assert [(row.subject, row.start, row.stop, row.label) for row in few] == [
        (subject, *span) for subject in ("00", "01") for span in ((2, 7, "a"), (1, 6, "b"))
    ]
    for row, i in zip(windows.rows, of_window, strict=True):
        assert (row.subject, row.label) == (few[i].subject, few[i].label)
