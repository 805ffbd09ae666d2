"""The audit of splits: planted leaks are found, clean splits raise no alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from audit_tables import sides_of, table
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.data import (
    EuclideanAlignment,
    Fitted,
    Row,
    Split,
    Standardize,
    audit_summary,
    by_group,
    find_leaks,
    find_overlap,
    fingerprint,
    refuse_leakage,
)
from neurofm.data.columns import Columns, seen_in
from neurofm.io import Seen
from neurofm.io.seen import union
from neurofm.io.simulated.synthetic import simulate_motor_imagery


def second_session(rows: Sequence[Row]) -> Split:
    """Everybody's second session is tested."""
    parts = [tuple(i for i, row in enumerate(rows) if row.session == name) for name in "01"]
    return Split(parts[0], (), parts[1], name="second session", by="session")


def test_subjects_on_both_sides_are_found():
    rows = table()
    (leak,) = find_leaks(rows, second_session(rows), by="subject")
    assert (leak.kind, leak.count, leak.example) == ("subject", 6, "00; 01; 02")
    assert find_leaks(rows, sides_of(rows, "subject")) == []


def test_sessions_on_both_sides_are_found():
    rows = table()
    split = second_session(rows)
    assert find_leaks(rows, split) == []
    rows[split.test[0]] = replace(rows[split.test[0]], session="0")
    (leak,) = [leak for leak in find_leaks(rows, split) if leak.kind == "session"]
    assert (leak.count, leak.example) == (1, "00 0")


def test_windows_that_share_time_are_found():
    rows = table()
    split = sides_of(rows, "time")
    assert find_leaks(rows, split) == []
    late = split.test[0]
    rows[late] = replace(rows[late], start=rows[late].start - 0.01)
    (leak,) = find_leaks(rows, split)
    assert (leak.kind, leak.count) == ("time", 1)
    assert leak.example == "toy_sub-00_ses-0 at 7.99-10 s"


def test_stimuli_on_both_sides_are_found():
    rows = table()
    split = sides_of(rows)
    i, j = split.train[3], split.test[5]
    rows[j] = replace(rows[j], stimulus=rows[i].stimulus)
    (leak,) = find_leaks(rows, split)
    assert (leak.kind, leak.count, leak.example) == ("stimulus", 1, rows[i].stimulus)
    accepted = refuse_leakage(rows, split, allow=["stimulus"])
    assert accepted == [leak]
    summary = audit_summary(rows, split, leaks=accepted)
    assert summary == audit_summary(rows, split) and summary.endswith("1 leak (stimulus)")


def test_a_copy_under_another_name_is_found_by_its_fingerprint():
    """The copy lost its first second, its unit and half its rate."""
    rows = table()
    split = sides_of(rows)
    ours, theirs = rows[split.train[0]].recording, rows[split.test[0]].recording
    first = simulate_motor_imagery("a", "1", n_trials=6)
    copy = replace(first, data=1e-6 * first.data[:, 160::2], sfreq=80.0)
    marks = {ours: fingerprint(first), theirs: fingerprint(copy)}
    assert marks[ours] != marks[theirs]
    rows = [replace(row, fingerprint=marks.get(row.recording)) for row in rows]
    (leak,) = find_leaks(rows, split)
    assert (leak.kind, leak.count, leak.example) == ("duplicate", 1, f"{theirs} ({ours})")


def test_statistics_fitted_outside_the_training_side_are_found():
    rows = table()
    split = sides_of(rows)
    x = np.random.default_rng(0).standard_normal((len(rows), 4, 16))
    everything = Standardize().fit(x, rows=rows)
    own = [rows[i] for i in split.train]
    honest = EuclideanAlignment().fit(x[list(split.train)], [r.subject for r in own], rows=own)
    fits = [Fitted("scaler", everything.fitted_on), Fitted("alignment", honest.fitted_on)]
    leaks = find_leaks(rows, split, fitted=fits)
    assert {(leak.kind, leak.left, leak.right) for leak in leaks} == {
        ("fitted", "scaler", "validate"),
        ("fitted", "scaler", "test"),
    }
    assert leaks[1].count == len(split.test)
    with pytest.raises(ValueError, match=r"scaler/.*Fit it on the training side alone"):
        refuse_leakage(rows, split, fitted=fits)
    refuse_leakage(rows, split, fitted=fits[1:])


def test_a_fit_on_other_windows_of_a_test_subject_counts():
    rows = table()
    split = sides_of(rows)
    tested = rows[split.test[0]]
    calibration = replace(tested, recording="calibration", start=500.0, stop=600.0, fingerprint="c")
    fits = [Fitted("channel selection", [calibration])]
    (leak,) = find_leaks(rows, split, fitted=fits)
    assert leak.kind == "fitted" and leak.count == 16  # all windows of that person
    assert find_leaks(rows, split, fitted=fits, by="time") == []


def test_declared_rows_must_match_the_windows():
    x = np.random.default_rng(0).standard_normal((2, 3, 9))
    with pytest.raises(ValueError, match="3 rows for 2 windows"):
        Standardize().fit(x, rows=table()[:3])
    alignment = EuclideanAlignment()
    alignment.fit(x, rows=table()[:2]).update(x, rows=table()[2:4])
    assert alignment.fitted_on == tuple(table()[:4])


def test_test_recordings_that_a_model_has_seen_are_found():
    rows = table()
    split = sides_of(rows)
    before = seen_in(rows, split.train)
    assert find_leaks(rows, split, seen=before) == []
    tested = rows[split.test[0]]
    known = union([before, Seen((tested.recording,), ("",), ((),))])
    (leak,) = find_leaks(rows, split, seen=known)
    assert (leak.kind, leak.right, leak.count) == ("pretraining", "test", 1)
    copy = Seen(("other_sub-9",), (str(tested.fingerprint),), (((0.0, 4.0),),))
    (leak,) = find_overlap(copy, rows, split.test)
    assert leak.example == f"{tested.recording} (a copy of other_sub-9)"


@pytest.mark.filterwarnings("ignore:.*lack a class")
def test_a_hundred_random_clean_splits_raise_no_alarm():
    rng = np.random.default_rng(1)
    for seed in range(100):
        rows = table(int(rng.integers(4, 12)), int(rng.integers(1, 4)), int(rng.integers(2, 12)))
        by = ("subject", "session", "recording", "time")[seed % 4]
        if by == "session":  # a session of one person is what must stay whole
            rows = [replace(row, session=f"{row.subject}-{row.session}") for row in rows]
        split = sides_of(rows, by) if by == "time" else by_group(rows, by, (0.5, 0.2, 0.3), seed)
        fits = [Fitted("scaler", [rows[i] for i in split.train])]
        seen = seen_in(rows, split.train)
        assert find_leaks(rows, split, fitted=fits, seen=seen) == []


def test_two_real_fingerprints_per_side_raise_no_alarm():
    """Recordings of the same people with the same times of trials on both sides."""
    marks = {
        f"toy_sub-{s:02d}_ses-{k}": fingerprint(simulate_motor_imagery(str(s), str(k), n_trials=5))
        for s in range(6)
        for k in range(2)
    }
    rows = [replace(row, fingerprint=marks[row.recording]) for row in table()]
    assert find_leaks(rows, sides_of(rows)) == []
    assert find_leaks(rows, second_session(rows)) == []


@st.composite
def small_tables(draw: st.DrawFn) -> tuple[list[Row], Split, list[Row]]:
    few = st.integers(0, 2)
    rows = []
    marks = [draw(st.sampled_from([None, "x", "y", "z"])) for _ in range(5)]
    for _ in range(draw(st.integers(2, 9))):
        start, recording = draw(st.integers(0, 6)), draw(st.integers(0, 4))
        rows.append(
            Row(
                subject=f"s{draw(few)}",
                session=draw(st.sampled_from([None, "1", "2"])),
                run=draw(st.sampled_from([None, "1"])),
                recording=f"r{recording}",
                start=start * 0.5,
                stop=(start + draw(st.integers(1, 4))) * 0.5,
                stimulus=draw(st.sampled_from([None, "a", "b", "c"])),
                fingerprint=marks[recording],
            )
        )
    where = [draw(st.integers(0, 3)) for _ in rows]
    chosen = [tuple(i for i, side in enumerate(where) if side == k) for k in range(3)]
    by = draw(st.sampled_from(["subject", "session", "run", "recording", "time"]))
    fitted = [rows[i] for i in draw(st.sets(st.integers(0, len(rows) - 1), max_size=3))]
    return rows, Split(*chosen, name="any", by=by), fitted


def pairwise(a: Row, b: Row, by: str) -> set[str]:
    """What two rows on two sides share, by definition."""
    found = set()
    entity = {
        "subject": lambda r: r.subject,
        "session": lambda r: (r.subject, r.session),
        "run": lambda r: (r.subject, r.session, r.run),
        "recording": lambda r: r.recording,
    }
    if by != "time":
        found |= {kind for kind in (by, "recording") if entity[kind](a) == entity[kind](b)}
    if a.stimulus is not None and a.stimulus == b.stimulus:
        found.add("stimulus")
    if a.recording == b.recording and max(a.start, b.start) < min(a.stop, b.stop):
        found.add("time")
    if a.fingerprint is not None and a.fingerprint == b.fingerprint and a.recording != b.recording:
        found.add("duplicate")
    return found


def counted(rows: list[Row], kind: str, members: set[int]) -> int:
    """How many entities (or windows) these rows of the right side are."""
    keys: dict[str, Any] = {
        "subject": lambda r: r.subject,
        "session": lambda r: (r.subject, r.session),
        "run": lambda r: (r.subject, r.session, r.run),
        "recording": lambda r: r.recording,
        "stimulus": lambda r: r.stimulus,
        "duplicate": lambda r: r.recording,
    }
    return len({keys[kind](rows[i]) for i in members} if kind in keys else members)


@settings(max_examples=150, deadline=None)
@given(small_tables())
def test_the_audit_agrees_with_comparing_every_pair_of_rows(drawn):
    rows, split, fitted = drawn
    expected = {}
    names = ("train", "validate", "test")
    for k, left in enumerate(names):
        for right in names[k + 1 :]:
            hits: dict[str, set[int]] = {}
            for i in split.sides[left]:
                for j in split.sides[right]:
                    for kind in pairwise(rows[i], rows[j], split.by):
                        hits.setdefault(kind, set()).add(j)
            for kind, members in hits.items():
                expected[kind, left, right] = counted(rows, kind, members)
    trained = {(rows[i].recording, rows[i].start, rows[i].stop) for i in split.train}
    mine = [row for row in fitted if (row.recording, row.start, row.stop) not in trained]
    for right in names[1:]:
        bad = {
            j
            for j in split.sides[right]
            if any(pairwise(row, rows[j], split.by) - {"stimulus"} for row in mine)
        }
        if bad:
            expected["fitted", "scaler", right] = len(bad)
    found = find_leaks(rows, split, fitted=[Fitted("scaler", fitted)])
    assert {(leak.kind, leak.left, leak.right): leak.count for leak in found} == expected


@settings(max_examples=150, deadline=None)
@given(small_tables())
def test_overlap_with_a_model_agrees_with_comparing_every_pair(drawn):
    rows, split, _ = drawn
    if not split.train or not split.test:
        return
    seen = seen_in(rows, split.train)
    mark = dict(zip(seen.recordings, seen.fingerprints, strict=True))
    bad = set()
    for j in split.test:
        known = rows[j].recording in mark
        if split.by == "time":
            same = any("time" in pairwise(rows[i], rows[j], "time") for i in split.train)
        else:
            same = known
        copy = not known and rows[j].fingerprint in {m for m in mark.values() if m}
        if same or copy:
            bad.add(rows[j].recording)
    leaks = find_overlap(seen, rows, split.test, by=split.by)
    assert sum(leak.count for leak in leaks) == len(bad)


def test_clock_times_of_many_recordings_are_compared_exactly():
    rows = [
        replace(row, start=row.start + 1.7e9, stop=row.stop + 1.7e9)
        for row in table(subjects=40, sessions=3)
    ]
    split = sides_of(rows)
    assert find_leaks(rows, split, by="time") == []
    rows[split.test[0]] = replace(rows[split.train[0]], start=1.7e9 + 1.999, stop=1.7e9 + 4)
    assert "time" in {leak.kind for leak in find_leaks(rows, split, by="time")}


def test_hundreds_of_thousands_of_rows_are_audited():
    n = 400_000
    i = np.arange(n)
    recording = [f"r{k}" for k in (i // 500).tolist()]
    columns = Columns.of_values(
        {
            "subject": [f"s{k}" for k in (i // 1000).tolist()],
            "recording": recording,
            "fingerprint": recording,
        },
        (i % 500) * 2.0,
        (i % 500) * 2.0 + 2.0,
    )
    from neurofm.data.audit import leaks_of

    sides = {"train": i[: n // 2], "validate": i[n // 2 : n // 4 * 3], "test": i[n // 4 * 3 :]}
    assert leaks_of(columns, sides, by="subject") == []


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
