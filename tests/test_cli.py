"""The command line: dispatch, help, errors, check, doctor and cards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neurofm import __version__, cli
from neurofm.cli import doctor


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_help_names_every_command_with_an_example(capsys):
    code, out, _ = run(capsys=capsys)
    assert code == 0
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in out and f"$ {command.example}" in out
        assert command.example.startswith(f"neurofm {name}")


@pytest.mark.parametrize("name", ["check", "doctor", "list", "show", "copy"])
def test_each_command_has_its_own_help(name, capsys):
    code, out, _ = run(name, "--help", capsys=capsys)
    assert code == 0
    assert f"usage: neurofm {name}" in out and "Example: neurofm" in out


def test_version_is_printed(capsys):
    assert run("--version", capsys=capsys)[:2] == (0, f"neurofm {__version__}\n")


def test_a_mistyped_command_names_near_misses(capsys):
    code, _, err = run("chek", capsys=capsys)
    assert code == 2
    assert "no command 'chek'. Did you mean `neurofm check`?" in err


def test_an_error_is_one_line_without_a_traceback_unless_asked_for(capsys):
    code, _, err = run("check", "eegmidb", capsys=capsys)
    assert code == 2
    assert err.startswith(
        "neurofm: error: There is no dataset called 'eegmidb'. Did you mean eegmm"
    )
    assert len(err.splitlines()) == 1
    assert "Traceback" in run("check", "eegmidb", "--debug", capsys=capsys)[2]


def test_control_c_leaves_with_one_line(capsys, monkeypatch):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", stop)
    code, _, err = run("doctor", capsys=capsys)
    assert code == 130 and len(err.splitlines()) == 1


def test_training_commands_get_their_words_untouched(monkeypatch):
    import types

    seen = []
    fake = types.ModuleType("neurofm.cli.train")
    fake.main = lambda argv: seen.append(argv) or 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "neurofm.cli.train", fake)
    assert cli.main(["fit", "--config", "x", "--model.init_args.lr", "1e-3"]) == 3
    assert seen == [["fit", "--config", "x", "--model.init_args.lr", "1e-3"]]


@pytest.mark.parametrize(
    "words",
    [["doctor", "--json"], ["list"], ["show", "datasets/eegmmidb"], ["check", "PATH", "--json"]],
)
def test_commands_that_do_not_train_import_no_deep_learning(words, tiny, tmp_path):
    path = tiny.edf(tmp_path / "a.edf")
    words = [str(path) if word == "PATH" else word for word in words]
    code = (
        "import sys; from neurofm.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'braindecode'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_check_of_a_file_shows_what_it_holds(tiny, tmp_path, capsys):
    code, out, _ = run("check", tiny.edf(tmp_path / "a.edf"), capsys=capsys)
    assert code == 0
    row = next(line for line in out.splitlines() if "EEG" in line).split()
    assert row[:6] == ["1", "EEG", "6", "6", "128", "Hz"]
    assert "20" in " ".join(row[6:]) or "19" in " ".join(row[6:])  # µV
    assert "1 of 1 recordings can be read" in out


def test_check_of_a_corpus_as_json(tiny_corpus, capsys):
    code, out, _ = run("check", "eegmmidb", "--json", capsys=capsys)
    found = json.loads(out)
    assert found["summary"]["recordings"] == found["summary"]["readable"] == 6
    assert found["summary"]["events"]["left_hand"] == 2
    first = found["recordings"][0]
    assert first["kinds"]["eeg"]["with_position"] == 6
    assert first["kinds"]["eeg"]["amplitude"] == pytest.approx(20, rel=0.1)
    codes = {problem["code"] for problem in found["problems"]}
    # six channels at 128 Hz: the card expects 64; 128 Hz is one of its rates
    assert codes == {"unexpected_channels", "part_of_corpus", "part_of_runs"}
    assert code == 1 and not found["ok"]


def test_check_goes_on_after_files_that_cannot_be_read(tiny, tmp_path, capsys):
    tiny.edf(tmp_path / "good.edf")
    (tmp_path / "cut.edf").write_bytes((tmp_path / "good.edf").read_bytes()[:-300])
    (tmp_path / "page.edf").write_text("<!DOCTYPE html>")
    (tmp_path / "volts.edf").write_bytes(tiny.edf(tmp_path / "v.edf", unit="V").read_bytes())
    (tmp_path / "v.edf").unlink()
    code, out, _ = run("check", tmp_path, capsys=capsys)
    assert code == 1
    assert "1 of 4 recordings can be read" in out and "3 errors" in out
    for words in ("cut.edf: truncated", "page.edf: this is a web page", "Multiplying by 1e-6"):
        assert words in out


def test_check_reports_problems_with_remedies(tiny, tmp_path, capsys):
    tiny.data[1] = 0
    tiny.data[2, :9] = np.nan
    tiny.names[0] = "X1"
    code, out, _ = run("check", tiny.fif(tmp_path / "a_raw.fif"), capsys=capsys)
    assert code == 0  # warnings, no error
    for words in ("NaN or infinite values (9 samples): Cz", "flat: C3", "no known position: X1"):
        assert words in out
    assert out.count("-> ") >= 3 and "3 warnings" in out


def test_check_finds_copies_of_a_recording(tiny, tmp_path, capsys):
    tiny.edf(tmp_path / "a.edf")
    (tmp_path / "b.edf").write_bytes((tmp_path / "a.edf").read_bytes())
    code, out, _ = run("check", tmp_path, capsys=capsys)
    assert code == 1 and "hold the same numbers" in out


def test_check_says_when_there_are_no_events(tiny, tmp_path, capsys):
    tiny.events = ()
    _, out, _ = run("check", tiny.edf(tmp_path / "a.edf"), "--json", capsys=capsys)
    (recording,) = json.loads(out)["recordings"]
    assert [problem["code"] for problem in recording["problems"]] == ["no_events"]


def test_check_takes_some_subjects_and_runs(tiny_corpus, capsys):
    words = ("check", "eegmmidb", "--subjects", "2", "--runs", "4", "6", "--json")
    _, out, _ = run(*words, capsys=capsys)
    found = [item["id"] for item in json.loads(out)["recordings"]]
    assert found == ["eegmmidb_sub-002_run-04", "eegmmidb_sub-002_run-06"]


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["eegmmidb", "eegmat", "muse_erp", "eeglab_sample"])
def test_check_finds_no_fault_with_real_corpora(corpora: Path, name, capsys):
    words = ["check", name, "--json"] + (["--subjects", "1"] if name == "eegmmidb" else [])
    code, out, _ = run(*words, capsys=capsys)
    found = json.loads(out)
    assert code == 0 and found["ok"]
    assert found["summary"]["warning"] == 0


def test_list_shows_every_card(capsys):
    from neurofm import cards

    _, out, _ = run("list", capsys=capsys)
    for kind in cards.KINDS:
        assert all(name in out for name in cards.names(kind))
    _, out, _ = run("list", "datasets", capsys=capsys)
    assert "eegmmidb" in out and "recipes" not in out.split()


def test_show_prints_the_card_as_it_is(capsys):
    from neurofm import cards

    text = cards.path("datasets", "eegmmidb").read_text(encoding="utf-8")
    for name in ("datasets/eegmmidb", "eegmmidb"):
        assert run("show", name, capsys=capsys)[1].endswith(text)


def test_show_of_an_unknown_name_suggests_others(capsys):
    code, _, err = run("show", "datasets/eegmidb", capsys=capsys)
    assert code == 2 and "eegmmidb" in err
    assert "datasets/eegmmidb" in run("show", "eegmidb", capsys=capsys)[2]
    assert "kind 'data'" in run("show", "data/eegmmidb", capsys=capsys)[2]


def test_copy_refuses_to_overwrite_unless_forced(tmp_path, capsys):
    assert run("copy", "datasets/eegmat", tmp_path, capsys=capsys)[0] == 0
    mine = tmp_path / "eegmat.yaml"
    mine.write_text("changed")
    code, _, err = run("copy", "datasets/eegmat", tmp_path, capsys=capsys)
    assert code == 2 and "--force" in err and mine.read_text() == "changed"
    assert run("copy", "datasets/eegmat", mine, "--force", capsys=capsys)[0] == 0
    assert mine.read_text().startswith("description:")


def test_doctor_has_one_fix_per_finding_that_is_not_ok(tmp_path, capsys):
    code, out, _ = run("doctor", "--json", "--store", tmp_path, capsys=capsys)
    lines = json.loads(out)
    assert code == int(any(line["status"] == "fix" for line in lines))
    assert all(line["fix"] for line in lines if line["status"] != "ok")
    assert any("torch" in line["what"] for line in lines)


@pytest.mark.parametrize(
    ("versions", "statuses"),
    [
        ((None, None, None), ["fix"]),
        (("2.13.0+cpu", None, None), ["ok"]),
        (("2.13.0+cpu", "2.11.0", None), ["ok", "warn"]),
        (("2.13.0+cpu", "2.13.0+cpu", "0.28.0"), ["ok", "ok", "warn"]),
        (("2.13.0", "2.13.0", "0.28.0"), ["ok", "ok", "ok"]),
    ],
)
def test_doctor_sees_mixed_builds_of_torch(versions, statuses):
    assert [line.status for line in doctor.torch_lines(*versions)] == statuses


@pytest.mark.parametrize(
    ("cores", "visible", "settings", "fix"),
    [
        (2.0, 2, {}, ""),
        (2.0, 2, {"OMP_NUM_THREADS": "2"}, ""),
        (2.0, 64, {}, "export OMP_NUM_THREADS=2"),
        (2.0, 64, {"MKL_NUM_THREADS": "64"}, "export MKL_NUM_THREADS=2"),
        (8.0, 8, {"OMP_NUM_THREADS": "1"}, "export OMP_NUM_THREADS=8"),
        (8.0, 8, {"OMP_NUM_THREADS": "many"}, "unset OMP_NUM_THREADS"),
    ],
)
def test_doctor_compares_threads_with_cores(cores, visible, settings, fix):
    assert [line.fix for line in doctor.thread_lines(cores, visible, settings)] == [fix]


def test_doctor_finds_a_data_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path / "gone"))
    (line,) = [line for line in doctor.findings(tmp_path) if "NEUROFM_DATA" in line.what]
    assert line.status == "fix"
