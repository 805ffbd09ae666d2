"""The audit of a user's own table of windows."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from audit_tables import sides_of, table

from neurofm import cli
from neurofm.data import (
    Row,
    Split,
)
from neurofm.io import Seen

KINDS = ("subject", "session", "time", "stimulus", "duplicate", "fitted", "pretraining")


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


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
