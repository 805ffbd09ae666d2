from __future__ import annotations

import argparse
import io
import os
import re
import signal as signals
import subprocess
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from neurofm import cards
from neurofm.cli import prepare as command
from neurofm.data.preparing import progress
from neurofm.data.preparing.problems import read_problems
from neurofm.io import Store


@pytest.fixture
def command_line():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return lambda *words: command.run(parser.parse_args([str(word) for word in words]))


def test_the_command_prepares_a_simulated_data_set(tmp_path, command_line, capsys):
    arguments = ("simulated_motor_imagery", "--subjects", 1, "--store", tmp_path, "--quiet")
    assert command_line(*arguments) == 0
    assert "recordings" in capsys.readouterr().out
    (folder,) = tmp_path.iterdir()
    assert {entry.recording.subject for entry in Store(folder).entries} != set()
    assert Store(folder).entries[0].sfreq == 256.0


def test_the_command_takes_data_and_steps_from_a_recipe(tmp_path, command_line):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data:\n"
        "  class_path: neurofm.data.BrainData\n"
        "  init_args:\n"
        "    datasets: [simulated_motor_imagery]\n"
        "    subjects: ['1']\n"
        "    dtype: float32\n"
        "    preprocess:\n"
        "      - {class_path: neurofm.data.Resample, init_args: {sfreq: 64.0}}\n"
    )
    assert command_line("--config", recipe, "--store", tmp_path / "store", "--quiet") == 0
    (folder,) = (tmp_path / "store").iterdir()
    entry = Store(folder).entries[0]
    assert (entry.sfreq, entry.dtype) == (64.0, "float32")


def test_a_recipe_may_give_steps_and_subjects_by_data_set(tmp_path, command_line):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data:\n"
        "  init_args:\n"
        "    datasets: [simulated_motor_imagery, synthetic_fmri]\n"
        "    subjects: {simulated_motor_imagery: ['1'], synthetic_fmri: ['2']}\n"
        "    runs: {simulated_motor_imagery: ['3'], synthetic_fmri: ['1']}\n"
        "    preprocess:\n"
        "      simulated_motor_imagery:\n"
        "        - {class_path: neurofm.data.Resample, init_args: {sfreq: 64.0}}\n"
    )
    assert command_line("--config", recipe, "--store", tmp_path / "store", "--quiet") == 0
    stores = [Store(folder) for folder in sorted((tmp_path / "store").iterdir())]
    entries = [entry for store in stores for entry in store.entries]
    assert [(entry.recording.subject, entry.sfreq) for entry in entries] == [
        ("001", 64.0),
        ("002", 0.5),  # images are kept as they are read
    ]


def test_the_command_needs_a_data_set(tmp_path, command_line):
    with pytest.raises(ValueError, match="name a dataset"):
        command_line("--store", tmp_path)
    (tmp_path / "empty.yaml").write_text("data: {}\n")
    with pytest.raises(ValueError, match="does not say what to prepare"):
        command_line("--config", tmp_path / "empty.yaml")


def test_preparing_loads_no_deep_learning_library():
    code = "import sys, neurofm.cli.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.corpus
def test_real_recordings_are_prepared_once(tmp_path, command_line, capsys):
    if not os.environ.get("NEUROFM_DATA"):
        pytest.skip("NEUROFM_DATA is not set: no real recordings")
    arguments = ("eegmmidb", "--subjects", 1, "--runs", 4, "--store", tmp_path, "--quiet")
    assert command_line(*arguments) == 0
    assert command_line(*arguments) == 0
    (folder,) = tmp_path.iterdir()
    (entry,) = Store(folder).entries
    assert (entry.n_channels, entry.sfreq) == (64, 256.0)
    assert {"left_hand", "right_hand"} <= {event.label for event in entry.events}
    assert capsys.readouterr().out.count("1 recordings") == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500MB", 500_000_000), ("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("1000", 1000)],
)
def test_sizes_are_read(text, expected):
    assert command.size(text) == expected


@pytest.mark.parametrize("text", ["", "much", "0", "-5MB", "5 apples"])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 500MB"):
        command.size(text)


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    text = io.StringIO()
    with progress.shown("toy", 3, True, console=Console(file=text)) as counter:
        counter.begin(4)
        counter.advance(3600.0, made=True)
        counter.advance(None, made=False)
        counter.advance(10.0, made=False)
        counter.say("Something [important].")
    lines = text.getvalue().splitlines()
    assert len(lines) == 5
    assert "2 of 3 recordings" in lines[1]
    assert "h of signal per s, 4 workers, 1 failed" in lines[1]
    assert "left" in lines[1]
    assert lines[3] == "Something [important]."
    assert "3 of 3 recordings" in lines[4]


def test_progress_on_a_terminal_is_a_bar():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with progress.shown("toy", 2, True, console=console) as counter:
        counter.advance(10.0, made=False)
        counter.advance(10.0, made=False)
    assert "2/2" in text.getvalue()
    assert "already prepared" in text.getvalue()


def test_quiet_shows_nothing(capsys):
    with progress.shown("toy", 1, False) as counter:
        counter.advance(1.0, made=True)
        counter.say("words")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options",
    [
        ("--workers", 2),
        pytest.param(("--executor", "dask", "--workers", 2), marks=pytest.mark.slow),
    ],
)
def test_the_command_prepares_on_workers(tmp_path, command_line, options):
    arguments = ("simulated_motor_imagery", "--subjects", 1, 2, "--quiet")
    assert command_line(*arguments, "--store", tmp_path / "alone") == 0
    assert command_line(*arguments, "--store", tmp_path / "workers", *options) == 0
    alone, shared = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.bin")}
        for name in ("alone", "workers")
    )
    assert len(alone) > 1
    assert alone == shared


def test_the_command_lists_what_could_not_be_prepared(tmp_path, tiny, command_line, capsys):
    for i in range(25):
        (tmp_path / "raw" / f"{i:02d}.edf").parent.mkdir(exist_ok=True)
        (tmp_path / "raw" / f"{i:02d}.edf").write_bytes(b"<html>not found</html>")
    tiny.edf(tmp_path / "raw" / "99.edf")
    card = tmp_path / "card.yaml"
    card.write_text(
        "{description: d, license: l, citation: c, modality: eeg, line_freq: 50, reader: "
        "{class_path: neurofm.io.FolderReader, init_args: {pattern: '{subject}.edf'}}}"
    )
    words = (card, "--root", tmp_path / "raw", "--store", tmp_path / "store", "--quiet")
    assert command_line(*words) == 1
    shown = capsys.readouterr().out
    assert "25 recordings could not be prepared" in shown
    assert "and 5 more" in shown
    (folder,) = (tmp_path / "store").iterdir()
    assert len(read_problems(folder)) == 25
    assert all("html" in str(item).lower() for item in read_problems(folder).values())


def test_sigterm_ends_the_command_as_ctrl_c_does(tmp_path, command_line, monkeypatch):
    def preparing(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signals.SIGTERM)
        time.sleep(10)

    before = signals.getsignal(signals.SIGTERM)
    monkeypatch.setattr(command, "prepare_corpus", preparing)
    with pytest.raises(KeyboardInterrupt):
        command_line("simulated_motor_imagery", "--store", tmp_path)
    assert signals.getsignal(signals.SIGTERM) == before


def test_commands_in_the_guide_are_understood():
    guide = (cards.root("datasets") / "PREPARING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^neurofm prepare ([^#\n]+)", guide, flags=re.MULTILINE)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parsed = [parser.parse_args(line.split()) for line in lines]
    assert {(item.workers, item.scheduler is None) for item in parsed} >= {
        (16, True),
        (None, False),
    }
    assert max(item.memory for item in parsed) == command.MEMORY
