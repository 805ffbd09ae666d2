"""Files that are not what their name says, or not whole: refused by name, whatever the format."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurofm.io import Problem, RecordingWarning
from neurofm.io.fif_tags import content_of
from neurofm.io.integrity import MAGIC, check_file, refuse_foreign, suffix_of
from neurofm.io.quality import collect, event_problem, recording_problems, report, strict
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

EVERY = [*MAGIC, ".csv", ".tsv", ".json", ".xyz"]


def kit(path: Path) -> Path:
    """A KIT directory of three entries: itself, a text and 200 samples."""
    entries = [(0, 16, 3, 3), (48, 1, 16, 16), (64, 2, 200, 200)]
    table = b"".join(struct.pack("<4i", *entry) for entry in entries)
    path.write_bytes(table + b"t" * 16 + b"\1" * 400)
    return path


def nifti(path: Path) -> Path:
    data = np.arange(4000, dtype=np.int16).reshape(10, 10, 10, 4)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)
    return path


def nifti2(path: Path) -> Path:
    data = np.arange(4000, dtype=np.float32).reshape(10, 10, 10, 4)
    nibabel.save(nibabel.Nifti2Image(data, np.eye(4)), path)
    return path


def archive(path: Path) -> Path:
    np.savez(path, data=np.arange(1000), names=np.array(["a", "b"]))
    return path


def matlab(path: Path) -> Path:
    scipy.io.savemat(path, {"data": np.arange(500.0), "name": "x"})
    return path


def matlab_packed(path: Path) -> Path:
    rng = np.random.default_rng(0)
    scipy.io.savemat(path, {"a": rng.random(300), "b": rng.random(99)}, do_compression=True)
    return path


def hdf5(path: Path, *, userblock: int = 0, newest: bool = False) -> Path:
    h5py = pytest.importorskip("h5py")
    libver = "latest" if newest else "earliest"
    with h5py.File(path, "w", userblock_size=userblock, libver=libver) as file:
        file["data"] = np.arange(3000)
    return path


def matlab73(path: Path) -> Path:
    hdf5(path, userblock=512)
    content = bytearray(path.read_bytes())
    content[:19] = b"MATLAB 7.3 MAT-file"
    path.write_bytes(content)
    return path


def hdf5_newest(path: Path) -> Path:
    return hdf5(path, newest=True)


WRITERS = {
    "a.sqd": kit,
    "a.con": kit,
    "a.nii": nifti,
    "a.nii.gz": nifti,
    "b.nii": nifti2,
    "a.npz": archive,
    "a.mat": matlab,
    "b.mat": matlab_packed,
    "c.mat": matlab73,
    "a.nwb": hdf5,
    "b.nwb": hdf5_newest,
    "a.h5": hdf5,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_whole_file_passes(name, tmp_path):
    check_file(WRITERS[name](tmp_path / name))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file_is_refused(name, share, tmp_path):
    path = WRITERS[name](tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"{name}: (truncated|not a).*"):
        check_file(path)


@pytest.mark.parametrize("suffix", EVERY)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "this is a web page"),
        (b'<?xml version="1.0"?>\n<html xmlns="x">', "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"/annex/objects/MD5E-s12--0123456789abcdef.dat\n", "git annex get a.* or `datalad get"),
        (b"..\\..\\annex\\objects\\MD5E-s12--0123.dat\r\n", "git annex get"),
    ],
)
def test_every_suffix_is_looked_at(suffix, content, words, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a{suffix}: .*{words}"):
        check_file(path)


@pytest.mark.parametrize("suffix", MAGIC)
def test_a_foreign_file_under_a_known_suffix_names_both(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"\x7fELF\x02\x01\x01 a program" * 20)
    with pytest.raises(ValueError, match=r"not a .* file: it starts with b'.x7fELF"):
        check_file(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json"])
def test_bytes_under_the_suffix_of_a_text_are_refused(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"PK\x03\x04\x00\x00")
    with pytest.raises(ValueError, match="not a text file"):
        check_file(path)
    path.write_text("time,Cz\n0,1\n")
    check_file(path)


def test_a_gifti_file_is_xml_and_no_web_page(tmp_path):
    array = nibabel.gifti.GiftiDataArray(np.zeros((3, 3), np.float32))
    nibabel.save(nibabel.gifti.GiftiImage(darrays=[array]), tmp_path / "a.gii")
    check_file(tmp_path / "a.gii")


def test_a_compressed_image_of_several_gzip_members_passes(tmp_path):
    content = nifti(tmp_path / "a.nii").read_bytes()
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(content[:3000]) + gzip.compress(content[3000:]))
    check_file(packed)
    packed.write_bytes(gzip.compress(content[:3000]) + gzip.compress(content[3000:-200]))
    with pytest.raises(ValueError, match="truncated: the header declares 8352 bytes, the file unp"):
        check_file(packed)


def test_a_header_no_image_has_is_refused(tmp_path):
    path = nifti(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[40:42] = struct.pack("<h", 42)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="declares 42 dimensions"):
        check_file(path)


def test_a_link_git_annex_has_not_filled_says_how_to(tmp_path):
    link = tmp_path / "a.edf"
    link.symlink_to("../.git/annex/objects/Wq/0x/MD5E-s9--f.edf/MD5E-s9--f.edf")
    with pytest.raises(FileNotFoundError, match=r"a\.edf: a git-annex link .* `git annex get a\.e"):
        check_file(link)
    other = tmp_path / "b.edf"
    other.symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="a link to nothing"):
        check_file(other)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("locked", ["file", "folder"])
def test_a_file_that_may_not_be_read_says_so(locked, tmp_path):
    path = kit(tmp_path / "inner.sqd" if locked == "file" else tmp_path / "a.sqd")
    (path if locked == "file" else tmp_path).chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # permissions do not stop root
    try:
        with pytest.raises(PermissionError, match=r"\.sqd: no permission to read it.*chmod u\+r"):
            check_file(path)
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a_raw.FIF.gz", ".fif.gz"),
        ("bold.nii.gz", ".nii.gz"),
        ("bold.dtseries.nii", ".nii"),
        ("c,rfhp0.1Hz", "c,rf"),
        ("c,rfDC", "c,rf"),
        ("S1.edf", ".edf"),
        ("README", ""),
    ],
)
def test_suffixes_are_told_by_the_whole_name(name, suffix):
    assert suffix_of(Path("sub-1") / name) == suffix


def test_the_content_of_a_fif_file_is_found_through_compression(tiny, tmp_path):
    path = tiny.fif(tmp_path / "a_raw.fif")
    packed = tmp_path / "b_raw.fif.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert content_of(path) == content_of(packed) == "a continuous recording"


DAMAGE = st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=8)), max_size=6)


@pytest.mark.parametrize("name", [*WRITERS, "a.edf", "a.bdf", "a.gdf", "a_raw.fif", "b_raw.fif.gz"])
def test_damaged_headers_give_no_other_error(name, tiny, tmp_path_factory):
    """Whatever bytes a header holds, the answer is a pass or a ValueError that names the file."""
    path = tmp_path_factory.mktemp("fuzz") / name
    if name in WRITERS:
        WRITERS[name](path)
    else:
        getattr(tiny, suffix_of(path).split(".")[1])(path)
    whole = path.read_bytes()

    @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
    @given(DAMAGE)
    def damage(changes: list[tuple[int, bytes]]) -> None:
        content = bytearray(whole)
        for at, new in changes:
            content[at % len(whole) : at % len(whole) + len(new)] = new
        path.write_bytes(content)
        try:
            with collect():
                check_file(path)
        except ValueError as error:
            assert name in str(error)

    damage()


@given(st.binary(max_size=256))
def test_any_start_of_a_file_is_judged_without_failing(start):
    try:
        refuse_foreign(Path("a.edf"), start)
    except ValueError as error:
        assert str(error).startswith("a.edf: ")


FLAT = Problem("warning", "Two channels are flat.", "Leave them out.", "flat_channels")


def test_strict_turns_repairs_into_errors_except_those_allowed():
    with (
        strict(),
        pytest.raises(ValueError, match=r"here: Two channels are flat.*\[flat_channels\]"),
    ):
        report(FLAT, "here")
    with strict(allow=["flat_*"]), pytest.warns(RecordingWarning, match="flat"):
        report(FLAT, "here")
    with strict(), pytest.warns(RecordingWarning, match="Nothing"):
        report(Problem("info", "Nothing.", "", "x"), "here")
    with pytest.warns(RecordingWarning, match="flat"):
        report(FLAT, "here")


def signal_with(*events: Event) -> Signal:
    rng = np.random.default_rng(0)
    data = 20 * rng.standard_normal((2, 1280)).astype(np.float32)
    sensors = Sensors.of_kind(["C3", "C4"], Kind.EEG)
    return Signal(data, 128.0, sensors, events, Recording("tiny", "1"))


def test_overlapping_events_of_different_names_are_told():
    overlapping = signal_with(
        Event(1.0, 2.0, "left"), Event(2.0, 2.0, "right"), Event(5.0, 1.0, "left")
    )
    problem = event_problem(overlapping)
    assert problem is not None
    assert "1 of 3 events overlap" in problem.what and "left (1.00 s, 2.00 s long)" in problem.what
    assert problem.code in [found.code for found in recording_problems(overlapping, 50.0)]


@pytest.mark.parametrize(
    "events",
    [
        (Event(1.0, 1.0, "left"), Event(2.0, 1.0, "right")),
        (Event(1.0, 1.001, "left"), Event(2.0, 1.0, "right")),
        (Event(0.0, 10.0, "rest"), Event(2.0, 1.0, "right")),
        (Event(1.0, 3.0, "BAD jump"), Event(2.0, 1.0, "right")),
        (Event(1.0, 3.0, "left"), Event(2.0, 1.0, "left")),
        (Event(1.0, 0.0, "left"), Event(1.0, 0.0, "shown")),
    ],
)
def test_events_that_follow_each_other_are_no_problem(events):
    assert event_problem(signal_with(*events)) is None
