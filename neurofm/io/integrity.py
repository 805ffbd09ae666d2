"""Is a file what its name says, and is all of it there? Asked before any reader opens it.

A web page saved as data, a pointer left by git-annex or a file cut off in the middle give obscure
errors later, or none. `check_file` is the one function all readers call: it looks at the first
bytes, and has `declared_size` and `fif_tags` compare what the header declares with the file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from neurofm.io.declared_size import (
    check_ctf,
    check_edf,
    check_gdf,
    check_hdf5,
    check_kit,
    check_mat,
    check_nifti,
    check_zip,
)
from neurofm.io.fif_tags import check_fif, check_gzip

BTI = "c,rf"  # 4D Neuroimaging's data files have no suffix; their names begin so
_DOUBLE = (".fif.gz", ".csv.gz", ".tsv.gz", ".txt.gz", ".nii.gz")
_BRAINVISION = (b"Brain Vision", b"BrainVision")
_GZIP = (b"\x1f\x8b",)
_HDF5 = (b"\x89HDF",)
_NIFTI = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
_XML = (b"<?xml", b"\xef\xbb\xbf<?xml", b"<GIFTI", b"<!DOCTYPE GIFTI")
# suffix: bytes the file may start with, and the format's name
MAGIC: dict[str, tuple[tuple[bytes, ...], str]] = {
    ".edf": ((b"0       ",), "EDF"),
    ".bdf": ((b"\xffBIOSEMI",), "BDF"),
    ".gdf": ((b"GDF ",), "GDF"),
    ".vhdr": ((*_BRAINVISION, b"\xef\xbb\xbfBrain", b";"), "BrainVision header"),
    ".vmrk": ((*_BRAINVISION, b"\xef\xbb\xbfBrain", b";"), "BrainVision marker"),
    ".set": ((b"MATLAB 5", b"MATLAB 7", *_HDF5), "EEGLAB set"),
    ".cnt": ((b"Version 3", b"RIFF", b"RF64"), "Neuroscan or ANT CNT"),
    ".fif": ((b"\x00\x00\x00\x64",), "FIF"),
    ".fif.gz": (_GZIP, "gzip-compressed FIF"),
    ".sqd": ((b"\x00\x00\x00\x00\x10\x00\x00\x00",), "KIT"),
    ".con": ((b"\x00\x00\x00\x00\x10\x00\x00\x00",), "KIT"),
    ".nii": (_NIFTI, "NIfTI"),
    ".nii.gz": (_GZIP, "gzip-compressed NIfTI"),
    ".gii": (_XML, "GIFTI"),
    # the third is MATLAB level 4, which has no name in it
    ".mat": ((b"MATLAB 5", b"MATLAB 7", b"\x00\x00\x00\x00", *_HDF5), "MATLAB"),
    ".npz": ((b"PK\x03\x04",), "numpy archive"),
    ".npy": ((b"\x93NUMPY",), "numpy array"),
    ".nwb": (_HDF5, "NWB"),
    ".h5": (_HDF5, "HDF5"),
    ".hdf5": (_HDF5, "HDF5"),
    ".csv.gz": (_GZIP, "gzip-compressed table"),
    ".tsv.gz": (_GZIP, "gzip-compressed table"),
    ".txt.gz": (_GZIP, "gzip-compressed table"),
}
_TEXT = {".csv", ".tsv", ".txt", ".json", ".vhdr", ".vmrk"}


def suffix_of(path: Path) -> str:
    """Lower-case suffix, two parts when the file is compressed (".fif.gz").

    Data files of 4D Neuroimaging ("c,rfDC", "c,rfhp0.1Hz") have none: they give "c,rf".
    """
    if path.name.startswith(BTI):
        return BTI
    name = path.name.lower()
    for double in _DOUBLE:
        if name.endswith(double):
            return double
    return path.suffix.lower()


def check_file(path: Path, *, exclude: Sequence[str] = ()) -> None:
    """Refuse a missing, unreadable, empty, foreign or incomplete file.

    Every suffix gets the general checks; those in `MAGIC` the ones of their format. Of folders only
    CTF's are looked into.

    Args:
        path: File or folder.
        exclude: Names or wildcards of channels that nobody will read.

    Raises:
        FileNotFoundError: There is nothing at `path`, or git-annex has not fetched it.
        PermissionError: It may not be read.
        ValueError: What is there cannot be a whole recording; the message says why.
    """
    try:
        size = _size(path)
        if path.is_dir():
            if suffix_of(path) == ".ds":
                check_ctf(path)
            return
        if size == 0:
            raise ValueError(f"{path}: the file is empty (0 bytes). Fetch it again.")
        with path.open("rb") as file:
            start = file.read(256)
        _check_start(path, start)
        _check_whole(path, size, start, exclude)
    except PermissionError as error:
        raise PermissionError(
            f"{path}: no permission to read it. Ask its owner, or run `chmod u+r` on the file and "
            "`chmod u+rx` on its folders."
        ) from error


def _size(path: Path) -> int:
    """Bytes; raises FileNotFoundError with the reason if there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        pass
    if not path.is_symlink():
        raise FileNotFoundError(
            f"{path}: no such file. Check the path, or fetch the recording again."
        )
    if "annex/objects" in os.readlink(path).replace(os.sep, "/"):
        raise FileNotFoundError(
            f"{path}: a git-annex link whose content is not here. {_annex(path)}"
        )
    raise FileNotFoundError(
        f"{path}: a link to nothing. Check the path, or fetch the recording again."
    )


def _annex(path: Path) -> str:
    return f"Run `git annex get {path.name}` or `datalad get {path.name}` in its folder."


def _check_start(path: Path, start: bytes) -> None:
    suffix = suffix_of(path)
    refuse_foreign(path, start)
    if suffix in MAGIC:
        allowed, name = MAGIC[suffix]
        if not start.startswith(allowed):
            raise ValueError(
                f"{path}: not a {name} file: it starts with {start[:12]!r}, expected "
                f"{' or '.join(repr(item) for item in allowed)}. Fetch it again, or correct its "
                "suffix."
            )
    if suffix in _TEXT and b"\x00" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(
            f"{path}: not a text file: it starts with {start[:12]!r}. Fetch it again, or correct "
            "its suffix."
        )


def _check_whole(path: Path, size: int, start: bytes, exclude: Sequence[str]) -> None:
    suffix = suffix_of(path)
    if suffix in {".edf", ".bdf"}:
        check_edf(path, size, width=3 if suffix == ".bdf" else 2, exclude=exclude)
    elif suffix == ".gdf":
        check_gdf(path, size)
    elif suffix == ".fif":
        check_fif(path, size)
    elif suffix == ".fif.gz":
        check_gzip(path, MAGIC[".fif"][0][0])
    elif suffix in {".sqd", ".con"}:
        check_kit(path, size)
    elif suffix in {".nii", ".nii.gz"}:
        check_nifti(path, size)
    elif suffix == ".npz":
        check_zip(path)
    elif suffix in {".nwb", ".h5", ".hdf5"} or start.startswith(_HDF5):
        check_hdf5(path, size)
    elif suffix in {".mat", ".set"}:
        check_mat(path, size)


def refuse_foreign(path: Path, start: bytes) -> None:
    """Refuse a web page and a pointer of git-lfs or git-annex by the first bytes of a file.

    Args:
        path: For the message, and its suffix: GIFTI files are XML.
        start: Up to 256 bytes.

    Raises:
        ValueError: It is one; the message says how to get the recording.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    pages = (b"<!doctype html", b"<html", b"<head", b"<body")
    xml = () if suffix_of(path) in {".gii", ".xml"} else (b"<?xml", b"<!doctype")
    if text.startswith(pages + xml) or (text.startswith(b"<?xml") and b"<html" in text):
        raise ValueError(
            f"{path}: this is a web page, not a recording (it starts with {start[:40]!r}). The "
            "download met an error or log-in page: delete the file and fetch it again."
        )
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: a git-lfs pointer, not the recording. Run `git lfs pull`.")
    if b"annex/objects" in start.replace(b"\\", b"/") and len(start) < 256:
        raise ValueError(f"{path}: a git-annex pointer, not the recording. {_annex(path)}")
