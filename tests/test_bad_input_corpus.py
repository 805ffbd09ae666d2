"""Good recordings among bad ones: each bad one is named, the others go on, strict stops."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from neurofm.cli import main
from neurofm.data.preparing.prepare import prepare_corpus
from neurofm.data.preparing.problems import read_problems
from neurofm.io import RecordingWarning, Store, TableReader, open_corpus, open_path
from neurofm.io.quality import collect, silence_problem, silent_ends, strict
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

CARD = """
description: Good and bad recordings.
license: CC0-1.0
citation: nobody
modality: eeg
line_freq: 50
reader:
  class_path: neurofm.io.FolderReader
  init_args: {pattern: "s{subject}.edf", montage: standard_1005}
"""
WEB = b"<!DOCTYPE html><html><body>Please log in</body></html>"
# What is wrong with each recording, and the words that say so.
REFUSED = {
    "cut": "truncated",
    "empty": "the file is empty",
    "web": "this is a web page",
    "wrong": "not a EDF file",
    "annex": "git annex get",
    "link": "git-annex link",
    "header": "number of signals",
}
REPAIRED = {
    "twice": "duplicate_names",
    "late": "events_beyond_end",
    "flat": "flat_channels",
    "silent": "silent_end",
    "renamed": "no_position",
}


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """Two good recordings and one of each kind of bad ones."""
    root = tmp_path / "bad"
    root.mkdir()
    whole = tiny.edf(root / "sgood1.edf").read_bytes()
    tiny.data = tiny.data[:, ::-1].copy()
    tiny.edf(root / "sgood2.edf")
    (root / "scut.edf").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "sempty.edf").write_bytes(b"")
    (root / "sweb.edf").write_bytes(WEB)
    (root / "swrong.edf").write_bytes(b"PK\x03\x04 an archive" * 30)
    (root / "sannex.edf").write_bytes(b"/annex/objects/MD5E-s12--0123456789abcdef.edf\n")
    (root / "slink.edf").symlink_to("../.git/annex/objects/Wq/0x/MD5E-s9--f.edf/MD5E-s9--f.edf")
    (root / "sheader.edf").write_bytes(whole[:252] + b"six " + whole[256:])
    names, data, events = list(tiny.names), tiny.data.copy(), tiny.events
    tiny.names = ["C3", "C3", *names[2:]]
    tiny.edf(root / "stwice.edf")
    tiny.names = ["Elektrode 1", *names[1:]]
    tiny.edf(root / "srenamed.edf")
    tiny.names = names
    tiny.events = (*events, (99.0, 1.0, "T1"))
    tiny.edf(root / "slate.edf")
    tiny.events = events
    tiny.data = np.where(np.arange(len(data))[:, None] == 2, 0.0, data)
    tiny.edf(root / "sflat.edf")
    tiny.data = np.where(np.arange(data.shape[1]) >= 320, 0.0, data)
    tiny.edf(root / "ssilent.edf")
    (tmp_path / "card.yaml").write_text(CARD)
    return tmp_path


def report_of(capsys) -> dict:
    """What `check --json` printed; under pytest MNE's log lines may come before it."""
    printed = capsys.readouterr().out
    return json.loads(printed[printed.index("{\n") :])


def test_prepare_names_each_bad_recording_and_prepares_the_others(folder, capsys):
    arguments = ["prepare", str(folder / "card.yaml"), "--root", str(folder / "bad")]
    assert main([*arguments, "--store", str(folder / "stores"), "--quiet"]) == 1
    (store,) = (folder / "stores").iterdir()
    problems = read_problems(store)
    assert {name.split("sub-")[1] for name in problems} == set(REFUSED)
    for name, reason in problems.items():
        subject = name.split("sub-")[1]
        assert REFUSED[subject] in str(reason) and f"s{subject}.edf" in str(reason)
    prepared = {entry.recording.subject for entry in Store(store).entries}
    assert prepared == {"good1", "good2", *REPAIRED}
    printed = capsys.readouterr().out
    assert f"{len(REFUSED)} recordings could not be prepared" in printed


def test_check_names_each_bad_recording_and_looks_at_the_others(folder, capsys):
    assert main(["check", str(folder / "card.yaml"), "--root", str(folder / "bad"), "--json"]) == 1
    report = report_of(capsys)
    found = {item["subject"]: item for item in report["recordings"]}
    assert set(found) == {"good1", "good2", *REFUSED, *REPAIRED}
    for subject, words in REFUSED.items():
        texts = [p["what"] for p in found[subject]["problems"] if p["severity"] == "error"]
        assert any(words in text for text in texts)
    for subject, code in REPAIRED.items():
        codes = {p["code"] for p in found[subject]["problems"]}
        assert code in codes


@pytest.mark.parametrize("subject", REPAIRED)
def test_strict_refuses_what_is_repaired_otherwise(subject, folder):
    corpus = open_corpus(folder / "card.yaml", root=folder / "bad")
    (recording,) = corpus.recordings(subjects=[subject])
    with pytest.warns(RecordingWarning):
        corpus.load(recording)
    with strict(), pytest.raises(ValueError, match=rf"s{subject}\.edf: .*strict"):
        corpus.load(recording)


def test_prepare_in_strict_mode_stops_at_the_first_bad_recording(folder):
    corpus = open_corpus(folder / "card.yaml", root=folder / "bad")
    with pytest.raises(ValueError, match="strict"):
        prepare_corpus(
            corpus, [], folder / "stores", subjects=["flat"], strict=True, progress=False
        )


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_an_unreadable_recording_does_not_stop_the_others(folder):
    folder.chmod(0o755)
    (folder / "bad" / "sgood1.edf").chmod(0)
    corpus = open_corpus(folder / "card.yaml", root=folder / "bad")
    store_root = folder / "stores"
    store_root.mkdir()
    for place in (*folder.parents, folder, store_root):
        if place.owner() == Path(folder).owner() and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o755)
    store_root.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        found = prepare_corpus(corpus, [], store_root, subjects=["good1", "good2"], progress=False)
    finally:
        if root:
            os.seteuid(0)
    (reason,) = read_problems(found).values()
    assert "sgood1.edf: no permission to read it" in str(reason)
    assert len(Store(found)) == 1


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5", ".csv", ".tsv.gz"])
@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (WEB, "web page")])
def test_a_format_that_needs_a_card_is_looked_at_before_one_is_asked_for(
    suffix, content, words, tmp_path
):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a{suffix}: .*{words}"):
        open_path(path)


@pytest.mark.parametrize(("part", "content"), [(".vmrk", b""), (".vmrk", WEB), (".eeg", b"")])
def test_a_bad_part_of_a_brainvision_recording_is_named(part, content, tiny, tmp_path):
    path = tiny.brainvision(tmp_path / "a.vhdr")
    path.with_suffix(part).write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\{part}: (the file is empty|this is a web page)"):
        open_path(path).load(Recording("x", "1", path=path))


def test_markers_that_are_missing_are_told_and_refused_by_strict(tiny, tmp_path):
    path = tiny.brainvision(tmp_path / "a.vhdr")
    path.with_suffix(".vmrk").unlink()
    corpus = open_path(path)
    (recording,) = corpus.recordings()
    with pytest.warns(RecordingWarning, match=r"names the marker file a\.vmrk, which is not there"):
        assert corpus.load(recording).events == ()
    with strict(), pytest.raises(ValueError, match="no_markers"):
        corpus.load(recording)
    text = path.read_text().replace("MarkerFile=a.vmrk\n", "")
    path.write_text(text)  # a recording without markers is whole
    with collect() as problems:
        corpus.load(recording)
    assert "no_markers" not in {problem.code for problem in problems}


def made(data: np.ndarray, kind: Kind = Kind.EEG) -> Signal:
    sensors = Sensors.of_kind([f"E{i}" for i in range(len(data))], kind)
    return Signal(data.astype(np.float32), 100.0, sensors, (), Recording("toy", "1"))


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 250), (1024, 0), (2100, 130)])
def test_dead_ends_are_measured(first, last, rng):
    data = rng.standard_normal((5, 5000))
    data[:, :first] = 3.0
    data[:, 5000 - last :] = 0.0
    start, end = silent_ends(made(data))
    assert start == pytest.approx(max(first, 1) / 100) and end == pytest.approx(max(last, 1) / 100)
    problem = silence_problem(made(data))
    assert (problem is None) == (max(first, last) < 100)
    if problem is not None and last >= 100:
        assert f"the last {last / 100:.2f} s of 50.00 s" in problem.what


def test_a_channel_that_goes_on_or_a_silent_unit_is_no_dead_end(rng):
    data = rng.standard_normal((3, 1000))
    data[:2, 500:] = 0.0
    assert silence_problem(made(data)) is None
    data[:, 500:] = 0.0
    assert silence_problem(made(data)) is not None
    assert silence_problem(made(data, Kind.UNIT)) is None


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_an_image_among_bad_ones_is_still_checked(suffix, rng, tmp_path, capsys):
    data = (1000 + 10 * rng.standard_normal((4, 4, 4, 30))).astype(np.float32)
    for name, tr, shape in (("good", 2.0, 30), ("zero", 0.0, 30), ("one", 2.0, 1)):
        image = nibabel.Nifti1Image(data[..., :shape], np.eye(4))
        image.header.set_xyzt_units("mm", "sec")
        image.header["pixdim"][4] = tr
        nibabel.save(image, tmp_path / f"{name}_bold{suffix}")
    whole = (tmp_path / f"good_bold{suffix}").read_bytes()
    cut = whole[:-40] if suffix == ".nii" else gzip.compress(gzip.decompress(whole)[:-40])
    (tmp_path / f"cut_bold{suffix}").write_bytes(cut)
    assert main(["check", str(tmp_path), "--json"]) == 1
    report = report_of(capsys)
    wrong = {
        Path(item["path"]).name.split("_")[0]: item["problems"][-1]["what"]
        for item in report["recordings"]
        if any(p["severity"] == "error" for p in item["problems"])
    }
    assert set(wrong) >= {"cut", "zero"} and "good" not in wrong
    assert "truncated" in wrong["cut"] and "TR" in wrong["zero"]


def test_rates_that_differ_within_a_corpus_are_told(tiny, tmp_path, capsys):
    tiny.edf(tmp_path / "s1.edf")
    tiny.sfreq = 64.0
    tiny.data = tiny.data[:, : tiny.data.shape[1] // 2]
    tiny.edf(tmp_path / "s2.edf")
    with collect():
        main(["check", str(tmp_path), "--json"])
    rates = {item["sfreq"] for item in report_of(capsys)["recordings"]}
    assert rates == {128.0, 64.0}


@pytest.mark.parametrize(("end", "told"), [("\n", False), ("\r\n", False), ("", True)])
def test_a_table_that_may_be_cut_inside_its_last_number_is_told(end, told, rng, tmp_path):
    rows = ["a,b", *(f"{x:.3f},{y:.3f}" for x, y in rng.standard_normal((200, 2)) * 20)]
    (tmp_path / "s1.csv").write_text("\n".join(rows) + end, newline="")
    reader = TableReader(
        "s{subject}.csv", dataset="toy", root=tmp_path, sfreq=100.0, channels=["a", "b"], unit="uV"
    )
    with collect() as problems:
        assert reader.load(reader.recordings()[0]).data.shape == (2, 200)
    assert ("unfinished_line" in {problem.code for problem in problems}) == told
