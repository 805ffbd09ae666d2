"""Is a file what its name says, and is all of it there? Asked before any reader opens it.

Readers are lenient: a truncated EDF is padded, a web page saved as data gives an obscure error.
Here the first bytes, the sizes the header declares and the chain of FIF tags are compared with the
file.

Source: EDF and EDF+ (Kemp et al. 1992, 2003), BDF (BioSemi), GDF (Schlögl 2006), the
FIF tag layout as MNE documents it.
"""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import BinaryIO

from neurofm.io.quality import Problem, listed, report

_BRAINVISION = (b"Brain Vision", b"BrainVision")
# suffix: bytes the file may start with, and the format's name
MAGIC: dict[str, tuple[tuple[bytes, ...], str]] = {
    ".edf": ((b"0       ",), "EDF"),
    ".bdf": ((b"\xffBIOSEMI",), "BDF"),
    ".gdf": ((b"GDF ",), "GDF"),
    ".vhdr": ((*_BRAINVISION, b"\xef\xbb\xbfBrain", b";"), "BrainVision header"),
    ".set": ((b"MATLAB 5", b"MATLAB 7", b"\x89HDF"), "EEGLAB set"),
    ".fif": ((b"\x00\x00\x00\x64",), "FIF"),
    ".fif.gz": ((b"\x1f\x8b",), "gzip-compressed FIF"),
}
_BLOCK_START, _BLOCK_END = 104, 105
_GDF_BYTES = {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 8, 8: 8, 16: 4, 17: 8}  # by sample type


def suffix_of(path: Path) -> str:
    """Lower-case suffix, two parts when the file is compressed (".fif.gz")."""
    name = path.name.lower()
    for double in (".fif.gz", ".csv.gz", ".tsv.gz"):
        if name.endswith(double):
            return double
    return path.suffix.lower()


def check_file(path: Path) -> None:
    """Refuse a missing, empty, foreign or incomplete file.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: What is there cannot be a whole recording; the message says why.
    """
    if not path.exists():
        kind = "a link to nothing" if path.is_symlink() else "no such file"
        if path.is_symlink() and "annex" in os.readlink(path):
            raise FileNotFoundError(
                f"{path}: a git-annex link whose content is not here. Run `git annex get` or "
                "`datalad get`."
            )
        raise FileNotFoundError(f"{path}: {kind}. Check the path, or fetch the recording again.")
    if path.is_dir():
        return  # CTF .ds and other formats that are folders
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes). Fetch it again.")
    with path.open("rb") as file:
        start = file.read(256)
    refuse_foreign(path, start)
    suffix = suffix_of(path)
    if suffix in MAGIC:
        allowed, name = MAGIC[suffix]
        if not start.startswith(allowed):
            raise ValueError(
                f"{path}: not a {name} file: it starts with {start[:12]!r}, expected "
                f"{' or '.join(repr(item) for item in allowed)}. Fetch it again, or correct its "
                "suffix."
            )
    if suffix in {".edf", ".bdf"}:
        _check_edf(path, size)
    elif suffix == ".gdf":
        _check_gdf(path, size)
    elif suffix == ".fif":
        _check_fif(path, size)
    elif suffix == ".fif.gz":
        _check_gzip(path)


def refuse_foreign(path: Path, start: bytes) -> None:
    """Refuse a web page and a pointer of git-lfs or git-annex by the first bytes of a file.

    Raises:
        ValueError: It is one; the message says how to get the recording.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ValueError(
            f"{path}: this is a web page, not a recording (it starts with {start[:40]!r}). The "
            "download "
            "met an error or log-in page: delete the file and fetch it again."
        )
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: a git-lfs pointer, not the recording. Run `git lfs pull`.")
    if b"annex/objects" in start and len(start) < 256:
        raise ValueError(f"{path}: a git-annex pointer, not the recording. Run `git annex get`.")


def _number(path: Path, header: bytes, start: int, stop: int, what: str) -> float:
    text = header[start:stop].decode("latin-1").strip(" \x00")
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"{path}: the header's {what} (bytes {start} to {stop}) reads {text!r}, expected a "
            "number. "
            "The file is damaged: fetch it again."
        ) from error


def _check_edf(path: Path, size: int) -> None:
    width = 3 if suffix_of(path) == ".bdf" else 2
    with path.open("rb") as file:
        header = file.read(256)
        if len(header) < 256:
            raise ValueError(
                f"{path}: truncated inside the header: {size} bytes, expected at least 256. "
                "Fetch it again."
            )
        header_bytes = int(_number(path, header, 184, 192, "header length"))
        records = int(_number(path, header, 236, 244, "number of data records"))
        signals = int(_number(path, header, 252, 256, "number of signals"))
        if signals < 1 or header_bytes != 256 * (signals + 1):
            raise ValueError(
                f"{path}: the header declares {signals} signals and {header_bytes} header bytes; "
                f"expected 256 x (signals + 1) bytes. The file is damaged: fetch it again."
            )
        table = file.read(256 * signals)
    if len(table) < 256 * signals:
        raise ValueError(
            f"{path}: truncated inside the header: {size} bytes, the header alone takes "
            f"{header_bytes}. "
            "Fetch it again."
        )
    labels = [table[16 * i : 16 * (i + 1)].decode("latin-1").strip() for i in range(signals)]
    counts = [
        int(
            _number(path, table, 216 * signals + 8 * i, 216 * signals + 8 * (i + 1), "sample count")
        )
        for i in range(signals)
    ]
    record_bytes = sum(counts) * width
    if record_bytes <= 0:
        raise ValueError(f"{path}: the header declares data records of no samples. Fetch it again.")
    stored = size - header_bytes
    if records < 0:
        # EDF allows -1 while a recording is running; the file was never closed.
        report(
            Problem(
                "warning",
                "The header does not say how many data records there are (-1); "
                f"{stored // record_bytes} "
                "whole ones are in the file.",
                "The recording was not closed properly: check its end.",
                "open_header",
            ),
            str(path),
            stacklevel=4,
        )
        return
    _compare_size(path, stored, records, record_bytes)
    rates = {
        count
        for label, count in zip(labels, counts, strict=True)
        if label not in {"EDF Annotations", "BDF Annotations"}
    }
    if len(rates) > 1:
        slow = [
            label
            for label, count in zip(labels, counts, strict=True)
            if count < max(rates) and "Annotations" not in label
        ]
        report(
            Problem(
                "warning",
                f"{len(slow)} channels have a lower sampling rate and are stretched to the "
                "highest: "
                f"{listed(slow)}.",
                "List them under `exclude` in the card's reader if they are not wanted.",
                "mixed_rates",
            ),
            str(path),
            stacklevel=4,
        )


def _compare_size(path: Path, stored: int, records: int, record_bytes: int) -> None:
    declared = records * record_bytes
    if stored < declared:
        raise ValueError(
            f"{path}: truncated: the header declares {records} data records ({declared} bytes of "
            "data), "
            f"the file holds {stored / record_bytes:.1f} ({stored} bytes). Fetch it again, or "
            "correct the "
            "header if the recording was stopped early."
        )
    if stored - declared >= record_bytes:
        raise ValueError(
            f"{path}: header and size disagree: {declared} bytes of data declared ({records} "
            "records), "
            f"{stored} bytes found ({stored / record_bytes:.1f} records). The header was changed "
            "or "
            "files were joined: fetch it again or correct the header."
        )


def _check_gdf(path: Path, size: int) -> None:
    """GDF 1 and 2 differ in the width of three fields; an event table may follow the data."""
    with path.open("rb") as file:
        header = file.read(256)
        old = header[4:8].strip() < b"1.9"
        if len(header) == 256:
            records = struct.unpack_from("<q", header, 236)[0]
            signals = struct.unpack_from("<I" if old else "<H", header, 252)[0]
            start = struct.unpack_from("<q" if old else "<H", header, 184)[0] * (1 if old else 256)
            table = file.read(256 * signals)
    if len(header) < 256 or len(table) < 256 * signals:
        raise ValueError(f"{path}: truncated inside the header: {size} bytes. Fetch it again.")
    counts = struct.unpack_from(f"<{signals}i", table, 216 * signals)
    types = struct.unpack_from(f"<{signals}i", table, 220 * signals)
    record = sum(n * _GDF_BYTES.get(kind, 0) for n, kind in zip(counts, types, strict=True))
    if records >= 0 and size - start < records * record:
        raise ValueError(
            f"{path}: truncated: the header declares {records} data records ({records * record} "
            f"bytes of data), the file holds {size - start} bytes. Fetch it again."
        )


def _check_fif(path: Path, size: int) -> None:
    """Walk the tags: a whole file closes every block it opens and ends at a tag's end."""
    depth = 0
    position = 0
    with path.open("rb") as file:
        while position < size:
            kind, length, following = _tag(file, position)
            end = position + 16 + length
            if kind is None or length < 0 or end > size:
                raise ValueError(
                    f"{path}: truncated: a FIF tag at byte {position} runs to byte {end}, the "
                    "file ends at "
                    f"{size}. Fetch it again."
                )
            depth += {_BLOCK_START: 1, _BLOCK_END: -1}.get(kind, 0)
            if following == -1:
                break
            position = following if following > 0 else end
    if depth > 0:
        raise ValueError(
            f"{path}: truncated: {depth} FIF blocks are opened and never closed in {size} bytes. "
            "Fetch it again."
        )


def _tag(file: BinaryIO, position: int) -> tuple[int | None, int, int]:
    file.seek(position)
    header = file.read(16)
    if len(header) < 16:
        return None, 0, 0
    kind, _, length, following = struct.unpack(">iiii", header)
    return kind, length, following


def _check_gzip(path: Path) -> None:
    try:
        with gzip.open(path) as file:
            start = file.read(4)
            while file.read(1 << 20):
                pass
    except (EOFError, OSError) as error:
        raise ValueError(
            f"{path}: the compressed file is incomplete ({error}). Fetch it again."
        ) from error
    if start != MAGIC[".fif"][0][0]:
        raise ValueError(
            f"{path}: not a FIF file inside: it starts with {start!r}. Fetch it again."
        )
