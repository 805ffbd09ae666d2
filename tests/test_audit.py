"""The auditor: planted leaks are found, clean splits pass, and models remember what they saw."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from neurofm import cli
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
from neurofm.io import Seen, load_model, load_tokenizer, read_card, read_seen, save_model
from neurofm.io.seen import union
from neurofm.io.simulated.synthetic import simulate_motor_imagery

KINDS = ("subject", "session", "time", "stimulus", "duplicate", "fitted", "pretraining")


def table(subjects: int = 6, sessions: int = 2, windows: int = 8) -> list[Row]:
    """Windows of 2 s every 2 s, each with a stimulus of its own."""
    return [
        Row(
            subject=f"{s:02d}",
            session=str(k),
            run="1",
            recording=f"toy_sub-{s:02d}_ses-{k}",
            start=2.0 * w,
            stop=2.0 * w + 2.0,
            label=w % 2,
            stimulus=f"{s}-{k}-{w}",
            fingerprint=f"{s}/{k}",
        )
        for s in range(subjects)
        for k in range(sessions)
        for w in range(windows)
    ]


def sides_of(rows: Sequence[Row], by: str = "subject") -> Split:
    if by == "time":  # the first half of every recording trains
        half = max(row.stop for row in rows) / 2
        train = tuple(i for i, row in enumerate(rows) if row.stop <= half)
        test = tuple(i for i, row in enumerate(rows) if row.start >= half)
        return Split(train, (), test, name="halves", by="time")
    return by_group(rows, by, (0.5, 0.2, 0.3))


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


# Against every pair of rows


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


# neurofm audit


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def documents(rows: Sequence[Row], split: Split) -> list[dict[str, Any]]:
    side = {i: name for name, members in split.sides.items() for i in members}
    return [
        {
            "subject": row.subject,
            "session": row.session,
            "recording": row.recording,
            "start": row.start,
            "stop": row.stop,
            "stimulus": row.stimulus,
            "label": row.label,
            "fingerprint": row.fingerprint,
            "side": side.get(i, ""),
            "fitted_on": "scaler" if side.get(i) == "train" else "",
        }
        for i, row in enumerate(rows)
    ]


def audit(*words: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    code = cli.main(["audit", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


@pytest.fixture
def clean() -> list[dict[str, Any]]:
    rows = table()
    return documents(rows, sides_of(rows))


def spoil(kind: str, rows: list[dict[str, Any]], folder: Path) -> list[str]:
    """Plant one leak; more words for the command line."""
    train = next(row for row in rows if row["side"] == "train")
    test = next(row for row in rows if row["side"] == "test")
    if kind == "subject":
        test["subject"] = train["subject"]
    elif kind == "session":
        test |= {"subject": train["subject"], "session": train["session"]}
        return ["--by", "session"]
    elif kind == "time":
        test |= {"recording": train["recording"], "start": train["start"] + 1}
        return ["--by", "time"]
    elif kind == "stimulus":
        test["stimulus"] = train["stimulus"]
    elif kind == "duplicate":
        test["fingerprint"] = train["fingerprint"]
    elif kind == "fitted":
        test["fitted_on"] = "alignment; scaler"
    elif kind == "pretraining":
        model = torch.nn.Module()
        seen = Seen(("copy",), (test["fingerprint"],), ((),))
        from neurofm.io.tensors import seen_tensor

        path = folder / "model.ckpt"
        torch.save({"state_dict": model.state_dict(), "seen": seen_tensor(seen)}, path)
        return ["--pretrained", str(path)]
    return []


@pytest.mark.parametrize("kind", KINDS)
def test_each_planted_leak_in_a_table_is_found(kind, clean, tmp_path, capsys):
    path = write(tmp_path / "t.csv", clean)
    assert audit(path, capsys=capsys)[:2][0] == 0
    words = spoil(kind, clean, tmp_path)
    code, found, _ = audit(write(path, clean), *words, capsys=capsys)
    kinds = {leak["kind"] for leak in found["leaks"]}
    assert code == 1 and kind in kinds and found["not_looked_for"] == []
    assert all(leak["remedy"] and leak["example"] for leak in found["leaks"])
    assert audit(path, *words, "--allow", *kinds, capsys=capsys)[0] == 0


def test_a_table_is_shown_with_examples_and_remedies(clean, tmp_path, capsys):
    spoil("subject", clean, tmp_path)
    for row in clean:
        del row["fitted_on"]
    assert cli.main(["audit", str(write(tmp_path / "t.csv", clean))]) == 1
    out = capsys.readouterr().out
    assert "train 48, validate 16, test 32; split by subject" in out
    assert "not looked for, columns missing: fitted preprocessing (fitted_on)" in out
    assert "Split by subject." in out and out.rstrip().endswith("1 leak")


def test_spellings_of_columns_sides_and_separators_are_understood(clean, tmp_path, capsys):
    spoil("time", clean, tmp_path)
    say = {"train": "Training", "validate": "dev", "test": "TEST", "": "n/a"}
    rows = [
        {
            "Participant_ID": row["subject"],
            "file": row["recording"],
            "Onset": row["start"],
            "duration": float(row["stop"]) - float(row["start"]),
            "Split": say[row["side"]],
        }
        for row in clean
    ]
    path = write(tmp_path / "t.tsv", rows, delimiter="\t", encoding="utf-8-sig")
    code, found, _ = audit(path, "--by", "time", capsys=capsys)
    assert code == 1 and [leak["kind"] for leak in found["leaks"]] == ["time"]
    assert found["sides"] == {"train": 48, "validate": 16, "test": 32}
    own = [{"pid": r["Participant_ID"], "where": r["Split"]} for r in rows]
    path = write(tmp_path / "own.csv", own, delimiter=";")
    words = ("--column", "subject=pid", "--column", "side=where")
    assert audit(path, *words, capsys=capsys)[0] == 0


def test_run_numbers_are_not_taken_for_names_of_recordings(clean, tmp_path, capsys):
    for row in clean:
        row["recording"] = row["session"]
    code, found, _ = audit(write(tmp_path / "t.csv", clean), capsys=capsys)
    assert code == 0 and "occur with several subjects" in found["notes"][0]


def test_without_sides_copies_within_the_table_are_found(tmp_path, capsys):
    rows = [{"recording": f"r{i}", "fingerprint": f"f{i}"} for i in range(5)]
    path = write(tmp_path / "t.csv", rows)
    assert audit(path, capsys=capsys)[0] == 0
    rows[4]["fingerprint"] = "f1"
    code, found, _ = audit(write(path, rows), capsys=capsys)
    assert code == 1 and [leak["kind"] for leak in found["leaks"]] == ["duplicate"]


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("", (), "empty; expected a line of column names"),
        ("subject,side\n", (), "has column names but no rows"),
        ("a,b\n1,2\n", (), "none of its columns .a, b. says what a row is"),
        ("subject,side\n1,train,x\n", (), "row 1: 3 fields under 2 column names"),
        ("subject,side\n1,train\n2,tset\n", (), "row 2: side is 'tset', expected train"),
        ("subject,Subject,side\n1,1,train\n", (), "column 'subject' appears 2 times"),
        ("recording,start,stop,side\na,0,x,train\n", (), "row 1: stop is 'x', expected seconds"),
        ("recording,start,stop,side\na,3,1,train\n", (), "stops at 1 s, before its start at 3 s"),
        ("subject\n1\n", (), "nothing can be compared"),
        ("subject,side\n1,train\n", ("--by", "session"), "no column session"),
        ("subject,side\n1,train\n", ("--column", "subject"), "expected OURS=YOURS"),
        ("subject,side\n1,train\n", ("--column", "subject=pid"), r"has no column \['pid'\]"),
        ("subject,side\n1,train\n", ("--column", "x=side"), r"there is no column \['x'\]"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(text, words, message, tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text(text)
    code, _, err = audit(path, *words, capsys=capsys)
    assert code == 2 and len(err.splitlines()) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(err)


def test_bytes_that_are_no_text_are_refused(tmp_path, capsys):
    (tmp_path / "t.csv").write_bytes(b"subject,side\n\xff\xfe\x00,train\n")
    assert "not a text table in UTF-8" in audit(tmp_path / "t.csv", capsys=capsys)[2]
    assert audit(tmp_path / "none.csv", capsys=capsys)[2].endswith("no such file.\n")


def test_auditing_a_table_loads_no_deep_learning(clean, tmp_path):
    path = write(tmp_path / "t.csv", clean)
    code = (
        "import sys; from neurofm import cli; cli.main(['audit', sys.argv[1]]);"
        "assert not {'torch', 'lightning', 'mne'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)


# What a model has seen

seconds = st.integers(0, 40).map(lambda k: k / 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), seconds, st.integers(1, 6)), max_size=12))
def test_parts_of_windows_cover_what_the_windows_cover(windows):
    names = ("a", "b", "c", "d")
    owner = np.array([w[0] for w in windows], dtype=np.int64)
    start = np.array([w[1] for w in windows], dtype=np.float64)
    stop = start + np.array([w[2] / 2 for w in windows], dtype=np.float64)
    seen = Seen.of_windows(names, {"a": "x"}, owner, start, stop)
    assert set(seen.recordings) == {names[i] for i in owner}
    for name, spans in zip(seen.recordings, seen.spans, strict=True):
        assert all(spans[k][1] < spans[k + 1][0] for k in range(len(spans) - 1))
        for moment in np.arange(0.25, 25, 0.5):
            inside = any(low < moment < high for low, high in spans)
            mine = owner == names.index(name)
            assert inside == bool(((start < moment) & (moment < stop))[mine].any())
    assert Seen.from_bytes(seen.to_bytes(), where="here") == seen
    assert union([seen, seen]) == seen and union([]) == Seen()


def test_joining_keeps_names_fingerprints_and_parts_of_both():
    one = Seen(("a", "b"), ("x", ""), (((0.0, 1.0),), ((0.0, 2.0),)))
    two = Seen(("b", "c"), ("y", "z"), (((2.0, 3.0),), ()))
    both = union([one, two])
    assert both.recordings == ("a", "b", "c") and both.fingerprints == ("x", "y", "z")
    assert both.spans == (((0.0, 1.0),), ((0.0, 3.0),), ((0.0, np.inf),))
    assert Seen.from_bytes(both.to_bytes(), where="here") == both


@pytest.mark.parametrize("data", [b"", b"nonsense", Seen().to_bytes()[:-4]])
def test_a_damaged_record_is_refused(data):
    with pytest.raises(ValueError, match=r"m\.safetensors: the record of training recordings"):
        Seen.from_bytes(data, where="m.safetensors")


def test_a_record_must_be_one_list_for_each_recording():
    with pytest.raises(ValueError, match=r"2 recordings \(1 names\)"):
        Seen(("a", "a"), ("", ""), ((), ()))


def test_many_recordings_are_kept_beside_the_weights(small, tmp_path):
    rng = np.random.default_rng(0)
    n = 5_000
    alphabet = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
    letters = "".join(alphabet[rng.integers(0, 64, n * 192)])
    model = small.model()
    model.seen = Seen(
        tuple(f"corpus_sub-{i:06d}" for i in range(n)),
        tuple("nf1:" + letters[192 * i : 192 * (i + 1)] for i in range(n)),
        (((0.0, 3600.0),),) * n,
    )
    path = save_model(model, tmp_path / "m.safetensors")
    assert path.stat().st_size < 2e6
    with safe_open(path, framework="pt") as file:
        assert len(str(file.metadata())) < 10_000
    assert read_card(path)["seen"] == n
    assert read_seen(path) == model.seen


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
LABELS = {"labels": ["left_hand", "right_hand"], "offset_s": 0.5, "window_s": 3.0}


def runner(folder: Path, **changes: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **changes,
    )


@pytest.fixture(scope="module")
def pretrained(small, tmp_path_factory) -> Path:
    """A tokenizer trained on person 2, a model on it trained on person 1 (its test person is 3)."""
    from neurofm.tasks import Pretrain, TrainTokenizer

    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = TrainTokenizer(small.tokenizer())
    runner(folder).fit(tokenizer, datamodule=small.data(validate=["1"], test=["3"]))
    save_model(tokenizer.tokenizer, folder / "tokenizer.safetensors")
    model = load_model(str(small.folder / "model.yaml"), tokenizer=folder / "tokenizer.safetensors")
    task = Pretrain(model, cache_tokens=False)
    fitting = runner(folder)
    fitting.fit(task, datamodule=small.data())
    fitting.save_checkpoint(folder / "last.ckpt")
    return save_model(task.model, folder / "model.safetensors").parent


def test_a_model_knows_what_it_and_its_tokenizer_were_trained_on(pretrained):
    people = {"sub-001", "sub-002"}
    for file in ("model.safetensors", "last.ckpt"):
        seen = read_seen(pretrained / file)
        assert {name.split("_")[1] for name in seen.recordings} == people and len(seen) == 4
        assert all(seen.fingerprints) and all(seen.spans)
        assert load_model(pretrained / file).seen == seen
        assert load_tokenizer(pretrained / file).seen == seen
    only = read_seen(pretrained / "tokenizer.safetensors")
    assert {name.split("_")[1] for name in only.recordings} == {"sub-002"}
    assert read_card(pretrained / "model.safetensors")["seen"] == 4


def test_testing_on_pretraining_recordings_is_refused_or_labelled(small, pretrained, tmp_path):
    from neurofm.tasks import Decode

    model = load_model(pretrained / "model.safetensors")
    data = small.data(**LABELS, validate=["2"], test=["1"])
    with pytest.raises(ValueError, match=r"2 recordings of the test side.*allow_overlap: true"):
        runner(tmp_path).test(Decode(model, n_outputs=2), datamodule=data, verbose=False)
    allowed, testing = Decode(model, n_outputs=2, allow_overlap=True), runner(tmp_path)
    with pytest.warns(UserWarning, match="evaluated on data seen in training: pretraining/test: 2"):
        testing.test(allowed, datamodule=data, verbose=False)
    assert float(testing.callback_metrics["test/seen_in_training"]) == 2
    with pytest.warns(UserWarning, match="of the test side of these data, 2 recordings were seen"):
        runner(tmp_path).fit(Decode(model, n_outputs=2), datamodule=data)


@pytest.mark.filterwarnings("error:.*seen in")
def test_testing_on_other_recordings_passes_unlabelled(small, pretrained, tmp_path):
    from neurofm.tasks import Decode

    task = Decode(load_model(pretrained / "model.safetensors"), n_outputs=2)
    data = small.data(**LABELS, validate=["2"], test=["3"])
    fitting = runner(tmp_path)
    fitting.fit(task, datamodule=data)
    fitting.test(task, datamodule=data, verbose=False)
    assert "test/seen_in_training" not in fitting.callback_metrics


@pytest.mark.filterwarnings("error:.*seen in")
def test_parts_of_a_recording_may_be_split_in_time(small, tmp_path):
    from neurofm.tasks import Decode

    task = Decode(small.model(), n_outputs=2)
    data = small.data(**LABELS, split_by="time", validate=0.2, test=0.3)
    fitting = runner(tmp_path)
    fitting.fit(task, datamodule=data)
    fitting.test(task, datamodule=data, verbose=False)


def test_a_finetuned_checkpoint_is_not_tested_on_what_it_was_tuned_on(small, tmp_path):
    from neurofm.tasks import Decode

    task = Decode(small.model(), n_outputs=2)
    fitting = runner(tmp_path)
    fitting.fit(task, datamodule=small.data(**LABELS, validate=["2"], test=["3"]))
    fitting.save_checkpoint(tmp_path / "tuned.ckpt")
    swapped = small.data(**LABELS, validate=["2"], test=["1"])
    with pytest.raises(ValueError, match="were among those the model was trained on"):
        runner(tmp_path).test(
            Decode(small.model(), n_outputs=2),
            datamodule=swapped,
            ckpt_path=tmp_path / "tuned.ckpt",
            weights_only=True,
            verbose=False,
        )
    rebuilt = Decode.load_from_checkpoint(tmp_path / "tuned.ckpt")
    assert rebuilt.seen == task.seen and len(task.seen) == 2


def test_a_frozen_model_has_not_seen_what_its_readout_was_trained_on(small, tmp_path):
    from neurofm.tasks import Decode

    task = Decode(small.model(), n_outputs=2, freeze=True)
    runner(tmp_path).fit(task, datamodule=small.data(**LABELS, validate=["2"], test=["3"]))
    assert len(Seen.of(task.model)) == 0 and len(Seen.of(task)) == 2
