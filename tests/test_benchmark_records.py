"""Records of suites in one file: what they have in common stands once, and nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest
from suite_toys import toy_records

from neurofm.evaluate.records import LINES, claimed, read_lines, read_records, write_lines


def published(folder: Path) -> tuple[list[dict[str, Any]], Path]:
    """Records of two methods that decoded the same trials, and the file they are in."""
    records = [
        {**record, "seed": seed, "key": f"{name}{seed}{record['fold']}", "method": name}
        for name in "ab"
        for seed in (0, 1)
        for record in toy_records({name: 1.0}, people=4, folds=3)
    ]
    for record in records:
        record |= {"weights": "none", "versions": {"torch": "2"}, "pretraining": [{"cpu_s": 1.5}]}
    records[0] |= {"people": {"001": {"auroc": float("nan")}}, "pretraining": []}
    write_lines(folder / LINES, records)
    return records, folder / LINES


def texts(records: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(record, sort_keys=True) for record in records)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records, file = published(tmp_path)
    before = texts(records)

    assert texts(read_lines(file)) == before == texts(list(read_records(tmp_path).values()))
    written = file.read_bytes()
    write_lines(file, reversed(read_lines(file)))
    assert file.read_bytes() == written


def test_trials_stand_once(tmp_path: Path) -> None:
    _, file = published(tmp_path)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    shared = [line["values"] for line in lines if "shared" in line]

    own = [values for values in shared if isinstance(values, dict) and "window" in values]
    assert len(own) == len({json.dumps(v, sort_keys=True) for v in own}) == 3
    assert shared.count({"torch": "2"}) == shared.count([{"cpu_s": 1.5}]) == 1
    assert all(set(line["test"]) == {"p", "shared"} for line in lines if "key" in line)


def test_a_record_without_its_trials_is_named(tmp_path: Path) -> None:
    _, file = published(tmp_path)
    lines = file.read_text(encoding="utf-8").splitlines()
    trials = next(i for i, line in enumerate(lines) if '"window"' in line)
    file.write_text("\n".join(lines[:trials] + lines[trials + 1 :]), encoding="utf-8")

    with pytest.raises(ValueError, match=r"records\.jsonl, line \d+: record a00 refers to \w+ for"):
        read_records(tmp_path)
    file.write_text("\n".join(lines).replace('"001"', '"002"', 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"line \d+: the values of \w+ were changed"):
        read_records(tmp_path)
    file.write_text("\n".join(lines)[:-9], encoding="utf-8")
    with pytest.raises(ValueError, match=r"records\.jsonl, line \d+: not a record"):
        read_records(tmp_path)


def hold(folder: Path, key: str) -> None:
    with claimed(folder, key):
        (folder / f"held {key}").touch()


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_a_cell_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    mine, other = "f" * 16, "e" * 16
    with claimed(tmp_path, mine):
        waiting, free = (fork.Process(target=hold, args=(tmp_path, k)) for k in (mine, other))
        waiting.start()
        free.start()
        free.join(60)
        waiting.join(0.2)
        assert (tmp_path / f"held {other}").exists() and waiting.is_alive()
    waiting.join(60)
    assert (tmp_path / f"held {mine}").exists()
