"""`neurofm check`: what it says about every modality, about folders, and against a card's facts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from neurofm.cli import main
from neurofm.cli.check import facts
from neurofm.io import Corpus, open_path
from neurofm.io.paths import auxiliary, cards_of, rest_of
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

pytestmark = pytest.mark.filterwarnings("ignore::neurofm.io.quality.RecordingWarning")


def image(path: Path, *, volumes: int = 12, seed: int = 0) -> Path:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (4, 4, 4, volumes) if volumes > 1 else (4, 4, 4)
    data = 1000 + 10 * np.random.default_rng(seed).standard_normal(shape)
    made = nibabel.Nifti1Image(np.round(data).astype(np.int16), np.diag([3.0, 3.0, 3.0, 1.0]))
    if volumes > 1:
        made.header.set_zooms((3.0, 3.0, 3.0, 2.5))
    made.header.set_xyzt_units("mm", "sec")
    made.to_filename(path)
    return path


def checked(words: list[str], capsys) -> dict:
    main(["check", *words, "--json"])
    return json.loads(capsys.readouterr().out)


def codes(found: dict) -> set[str]:
    every = [p for item in found["recordings"] for p in item["problems"]] + found["problems"]
    return {problem["code"] for problem in every}


def mine(tmp_path: Path, **expected: object) -> str:
    card = {"description": "d", "license": "l", "citation": "c", "modality": "eeg"}
    arguments = {"pattern": "{subject}-{run}.edf", "montage": "standard_1005"}
    card["reader"] = {"class_path": "neurofm.io.FolderReader", "init_args": arguments}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**card, "expected": expected}))
    return str(path)


def test_an_image_is_told_by_its_repetition_time_and_percent(tmp_path, capsys):
    image(tmp_path / "run.nii.gz")
    assert main(["check", str(tmp_path / "run.nii.gz")]) == 0
    text = capsys.readouterr().out
    assert "BOLD" in text and "TR 2.5 s" in text and "%" in text and "space: scanner" in text


def test_a_folder_of_many_kinds_is_opened_and_what_is_no_recording_is_named(tmp_path, tiny, capsys):
    image(tmp_path / "run.nii.gz")
    image(tmp_path / "mask.nii.gz", volumes=1)
    tiny.edf(tmp_path / "a.edf")
    (tmp_path / "README.md").write_text("words")
    found = checked([str(tmp_path)], capsys)
    assert [Path(item["path"]).name for item in found["recordings"]] == ["a.edf", "run.nii.gz"]
    assert any(line.startswith("mask.nii.gz: 4 x 4 x 4 voxels") for line in found["other_files"])


def test_a_folder_of_images_of_one_volume_is_described_without_an_error(tmp_path, capsys):
    image(tmp_path / "atlas.nii.gz", volumes=1)
    assert main(["check", str(tmp_path)]) == 0
    assert "atlas.nii.gz" in capsys.readouterr().out
    assert auxiliary(tmp_path / "atlas.nii.gz") == auxiliary(tmp_path)


def test_arrays_without_a_card_say_that_a_card_must_explain_them(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", data=np.zeros((2, 10)))
    assert main(["check", str(tmp_path / "x.npz")]) == 2
    assert "`neurofm check CARD --root FOLDER`" in capsys.readouterr().err
    assert main(["check", str(tmp_path)]) == 2
    assert "x.npz: .npz files do not say their rate" in capsys.readouterr().err


def test_a_folder_named_as_a_card_s_is_read_with_that_card(tmp_path, tiny, capsys):
    folder = tmp_path / "eegmmidb"
    tiny.edf(folder / "S001" / "S001R04.edf")
    assert cards_of(folder) == [("eegmmidb", folder)]
    found = checked([str(folder)], capsys)
    assert found["name"] == "eegmmidb"
    assert found["recordings"][0]["events"] == {"left_hand": 1, "right_hand": 1}


def test_a_folder_above_those_of_cards_finds_them_and_the_rest_besides(tmp_path, tiny, capsys):
    raw = tmp_path / "nsd" / "nsddata_rawdata"
    image(raw / "sub-01" / "func" / "sub-01_task-nsdcore_bold.nii.gz")
    tiny.edf(tmp_path / "nsd" / "other.edf")
    both = [("nsd", raw), ("nsd_betas", tmp_path / "nsd")]  # of which only the first has recordings
    assert cards_of(tmp_path / "nsd") == both
    found = checked([str(tmp_path / "nsd")], capsys)
    assert [corpus["name"] for corpus in found["corpora"]] == ["nsd", "nsd (no card)"]
    assert rest_of(tmp_path / "nsd", [open_path(tmp_path / "nsd")]) is None


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        ({"sfreq": 256}, "unexpected_sfreq"),
        ({"kinds": {"eeg": 5}}, "unexpected_channels"),
        ({"kinds": {"eeg": 6, "eog": 1}}, "unexpected_channels"),
        ({"unit": "fT"}, "unexpected_unit"),
        ({"tr_s": 2.0}, "unexpected_tr_s"),
        ({"labels": ["T1"]}, "unexpected_labels"),
        ({"subjects": 3}, "part_of_corpus"),
        ({"runs": 3}, "part_of_runs"),
    ],
)
def test_each_expected_fact_is_compared(expected, code, tmp_path, tiny, capsys):
    tiny.edf(tmp_path / "anna-1.edf")
    found = checked([mine(tmp_path, **expected), "--root", str(tmp_path)], capsys)
    assert code in codes(found)


def test_facts_that_fit_raise_no_problem(tmp_path, tiny, capsys):
    tiny.edf(tmp_path / "anna-1.edf")
    expected = {"sfreq": [100, 128], "kinds": {"eeg": 6}, "unit": "µV", "labels": ["T1", "T2"]}
    found = checked(
        [mine(tmp_path, **expected, subjects=1, runs=[1, 2]), "--root", str(tmp_path)], capsys
    )
    assert codes(found) == set()


def test_other_signals_of_the_body_do_not_contradict_a_card(tmp_path, tiny, capsys):
    tiny.names[0] = "EOG1"
    tiny.edf(tmp_path / "anna-1.edf")
    found = checked([mine(tmp_path, kinds={"eeg": 5}), "--root", str(tmp_path)], capsys)
    assert "unexpected_channels" not in codes(found)


def test_strict_takes_warnings_for_errors(tmp_path, tiny, capsys):
    tiny.names[0] = "nowhere"
    tiny.edf(tmp_path / "anna-1.edf")
    words = ["check", mine(tmp_path), "--root", str(tmp_path)]
    assert main(words) == 0
    assert main([*words, "--strict"]) == 1
    assert "no known position" in capsys.readouterr().out


def test_json_stands_alone_whatever_a_reader_prints(tmp_path, tiny, capsys, monkeypatch):
    tiny.edf(tmp_path / "a.edf")
    read = Corpus.load
    monkeypatch.setattr(Corpus, "load", lambda *a, **k: print("MNE says") or read(*a, **k))
    assert checked([str(tmp_path)], capsys)["ok"]


def test_people_are_counted_by_what_is_known_of_them(tmp_path, tiny, capsys):
    tiny.edf(tmp_path / "d" / "anna-1.edf")
    (tmp_path / "d" / "participants.tsv").write_text(
        "participant_id\tage\tsex\nanna\t30\tF\nben\tn/a\tM\n"
    )
    assert main(["check", mine(tmp_path), "--root", str(tmp_path / "d")]) == 0
    assert "people: 2 in participants.tsv (sex of 2, age of 1)" in capsys.readouterr().out
    (tmp_path / "d" / "participants.tsv").write_text("participant_id\tage\nanna\tn/a\n")
    assert main(["check", mine(tmp_path), "--root", str(tmp_path / "d")]) == 0
    assert "people: 1 in participants.tsv\n" in capsys.readouterr().out


def test_what_rests_most_of_the_time_is_not_called_flat(tiny):
    data = np.zeros((2, tiny.data.shape[1]), dtype=np.float32)
    data[:, -50:] = 3.0
    sensors = Sensors.of_kind(["x", "y"], Kind.OTHER)
    signal = Signal(data, 100.0, sensors, events=(), recording=Recording("d", "1"))
    assert (facts._amplitude(signal) > 0).all()


@pytest.mark.system
@pytest.mark.corpus
def test_every_folder_of_real_recordings_is_read_without_an_error(corpora, capsys):
    for folder in sorted(path for path in corpora.iterdir() if path.is_dir()):
        assert main(["check", str(folder)]) == 0, capsys.readouterr().out
