"""Does a file hold as many bytes as its own header declares?

Readers are lenient: a truncated EDF is padded with zeros, a cut image gives an obscure error or
none. Each function reads the header of one format and compares what it declares with the file. No
samples are read.

Source: EDF and EDF+ (Kemp et al. 1992, 2003), BDF (BioSemi), GDF (Schlögl 2006), NIfTI-1 and
NIfTI-2 headers, the HDF5 superblock, the MATLAB level 5 file layout, RFC 1952 (gzip); the KIT
directory and the CTF resource file as MNE reads them.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from neurofm.io.quality import Problem, listed, matches, report

_GDF_BYTES = {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 8, 8: 8, 16: 4, 17: 8}  # by sample type
_CTF_HEADER = 8  # bytes before the samples of a .meg4
_MAT_COMPRESSED = 15
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _number(path: Path, header: bytes, start: int, stop: int, what: str) -> float:
    text = header[start:stop].decode("latin-1").strip(" \x00")
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"{path}: the header's {what} (bytes {start} to {stop}) reads {text!r}, expected a "
            "number. The file is damaged: fetch it again."
        ) from error


def check_edf(path: Path, size: int, *, width: int, exclude: Sequence[str] = ()) -> None:
    """EDF (2 bytes a sample) and BDF (3); `exclude` as in `check_file`."""
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
            if count < max(rates) and "Annotations" not in label and not matches(label, exclude)
        ]
        if slow:
            report(
                Problem(
                    "warning",
                    f"Channels of a lower sampling rate, stretched to the highest: {listed(slow)}.",
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


def check_gdf(path: Path, size: int) -> None:
    """GDF 1 and 2 differ in the width of three fields; an event table may follow the data."""
    with path.open("rb") as file:
        header = file.read(256)
        old = header[4:8].strip() < b"1.9"
        if len(header) == 256:
            records = struct.unpack_from("<q", header, 236)[0]
            signals = struct.unpack_from("<I" if old else "<H", header, 252)[0]
            start = struct.unpack_from("<q" if old else "<H", header, 184)[0] * (1 if old else 256)
            table = file.read(min(256 * signals, size))
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


def check_nifti(path: Path, size: int) -> None:
    """NIfTI-1 and -2, also gzip-compressed and CIFTI-2."""
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if packed else path.open("rb") as file:
        try:
            header = file.read(540)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{path}: truncated or not compressed ({error}). Fetch it again."
            ) from error
    needed = _nifti_bytes(path, header)
    if not packed:
        if size < needed:
            raise ValueError(
                f"{path}: truncated: the header declares {needed} bytes, the file holds {size}. "
                "Fetch it again."
            )
        return
    with path.open("rb") as raw:
        raw.seek(-min(4, size), 2)
        tail = raw.read(4)
    # The last four bytes of a gzip member are its length. Several members are legal and rare: then
    # only unpacking tells.
    if len(tail) < 4 or struct.unpack("<I", tail)[0] != needed % 2**32:
        _unpack(path, needed)


def _nifti_bytes(path: Path, header: bytes) -> int:
    """Bytes a NIfTI file of this header has at least."""
    if len(header) < 352:
        raise ValueError(
            f"{path}: truncated inside the header: {len(header)} bytes, expected at least 352. "
            "Fetch it again."
        )
    for order in "<>":
        length = struct.unpack_from(f"{order}i", header)[0]
        if length == 348:
            n, *shape = struct.unpack_from(f"{order}8h", header, 40)
            bits, offset = (
                struct.unpack_from(f"{order}h", header, 72)[0],
                struct.unpack_from(f"{order}f", header, 108)[0],
            )
            break
        if length == 540 and len(header) == 540:
            bits = struct.unpack_from(f"{order}h", header, 14)[0]
            n, *shape = struct.unpack_from(f"{order}8q", header, 16)
            offset = struct.unpack_from(f"{order}q", header, 168)[0]
            break
    else:
        raise ValueError(
            f"{path}: not a NIfTI file: its header declares a length of neither 348 nor 540 bytes. "
            "Fetch it again, or correct its suffix."
        )
    if not 1 <= n <= 7 or min(shape[:n]) < 0 or bits < 1 or not math.isfinite(offset):
        raise ValueError(
            f"{path}: the header declares {n} dimensions {tuple(shape)} of {bits} bits, which no "
            "image has. The file is damaged: fetch it again."
        )
    # A header and image pair keeps its data in another file.
    if header[344:347] == b"ni1":
        return 348
    return int(offset) + math.ceil(math.prod(shape[:n]) * bits / 8)


def _unpack(path: Path, needed: int) -> None:
    total = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 20):
                total += len(block)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path}: truncated: the compressed file is incomplete ({error}). Fetch it again."
        ) from error
    if total < needed:
        raise ValueError(
            f"{path}: truncated: the header declares {needed} bytes, the file unpacks to {total}. "
            "Fetch it again."
        )


def check_zip(path: Path) -> None:
    """Archives such as .npz: the table of contents is at the end."""
    try:
        with zipfile.ZipFile(path) as archive:
            empty = not archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path}: truncated or damaged: the archive's table of contents is missing ({error}). "
            "Fetch it again."
        ) from error
    if empty:
        raise ValueError(f"{path}: the archive holds nothing. Fetch it again.")


def check_hdf5(path: Path, size: int) -> None:
    """HDF5 and what is built on it (NWB, MATLAB 7.3): the superblock names the end of the file."""
    with path.open("rb") as file:
        block = file.read(1024)
    # MATLAB puts a text header of 512 bytes in front.
    base = next((at for at in (0, 512) if block[at : at + 8] == HDF5_SIGNATURE), None)
    if base is None:
        raise ValueError(f"{path}: not an HDF5 file: no signature found. Fetch it again.")
    block = block[base:]
    if len(block) <= 13:
        width, at = 0, 0
    elif block[8] < 2:
        width, at = block[13], 24 + 4 * (block[8] == 1)
    else:
        width, at = block[9], 12
    end = at + 2 * width
    if width not in (2, 4, 8) or len(block) < end + width:
        raise ValueError(
            f"{path}: truncated inside the HDF5 header ({size} bytes). Fetch it again."
        )
    declared = int.from_bytes(block[end : end + width], "little")
    if size < declared:
        raise ValueError(
            f"{path}: truncated: the file declares {declared} bytes and holds {size}. Fetch it "
            "again."
        )


def check_mat(path: Path, size: int) -> None:
    """MATLAB level 5: a chain of elements that ends with the file. Level 7.3 is HDF5."""
    with path.open("rb") as file:
        header = file.read(128)
        if header.startswith(b"MATLAB 7.3"):
            check_hdf5(path, size)
            return
        if not header.startswith(b"MATLAB 5") or len(header) < 128:
            return
        order = "<" if header[126:128] == b"IM" else ">"
        position = 128
        while position < size:
            file.seek(position)
            tag = file.read(8)
            kind, length = struct.unpack(f"{order}II", tag) if len(tag) == 8 else (0, 0)
            position += 8 + length
            if len(tag) < 8 or position > size:
                raise ValueError(
                    f"{path}: truncated: a variable runs to byte {position}, the file ends at "
                    f"{size}. Fetch it again."
                )
            if kind != _MAT_COMPRESSED:
                position += -position % 8


def check_kit(path: Path, size: int) -> None:
    """KIT: a directory of (offset, bytes per item, room, count) at the start of the file."""
    with path.open("rb") as file:
        first = file.read(16)
        if len(first) < 16:
            raise ValueError(f"{path}: truncated inside the header: {size} bytes. Fetch it again.")
        entries = struct.unpack("<4i", first)[3]
        table = file.read(min(16 * max(entries - 1, 0), size))
    if entries < 2 or len(table) < 16 * (entries - 1):
        raise ValueError(
            f"{path}: truncated inside the header: {size} bytes, {entries} directory entries "
            "declared. Fetch it again."
        )
    for offset, item, _, count in struct.iter_unpack("<4i", table):
        end = offset + item * count
        if count > 0 and end > size:
            raise ValueError(
                f"{path}: truncated: the directory declares data up to byte {end}, the file ends "
                f"at {size}. Fetch it again."
            )


def check_ctf(path: Path) -> None:
    """A CTF folder: its resource file declares how long the samples' files are together.

    Raises:
        FileNotFoundError: A file is missing in it.
        ValueError: A file is foreign or truncated.
    """
    header = path / f"{path.stem}.res4"
    parts = sorted(path.glob(f"{path.stem}.meg4")) + sorted(path.glob(f"{path.stem}.*_meg4"))
    for file, present in ((header, header.is_file()), (path / f"{path.stem}.meg4", bool(parts))):
        if not present:
            inside = listed(sorted(item.name for item in path.iterdir())) or "nothing"
            raise FileNotFoundError(
                f"{path}: {file.name} is missing in the CTF folder, which holds {inside}. Copy "
                "the whole folder under its own name."
            )
    with header.open("rb") as resource:
        start = resource.read(1314)
    if not start.startswith(b"MEG4") or len(start) < 1314:
        raise ValueError(
            f"{header}: not a CTF resource file, or truncated: {len(start)} bytes that start with "
            f"{start[:8]!r}, expected b'MEG4'. Fetch it again."
        )
    n_times, n_channels = struct.unpack_from(">ih", start, 1288)
    trials = struct.unpack_from(">h", start, 1312)[0]
    trial_bytes = 4 * n_times * n_channels
    if trial_bytes <= 0:
        raise ValueError(
            f"{header}: declares {n_channels} channels of {n_times} samples. The file is damaged: "
            "fetch it again."
        )
    stored = sum(part.stat().st_size - _CTF_HEADER for part in parts)
    if stored < trial_bytes or stored % trial_bytes:
        raise ValueError(
            f"{path}: truncated: {stored} bytes of data in {len(parts)} .meg4 files are not whole "
            f"trials of {trial_bytes} bytes ({n_channels} channels x {n_times} samples x 4). Fetch "
            "it again, all parts of it."
        )
    if stored < trials * trial_bytes:
        report(
            Problem(
                "warning",
                f"{stored // trial_bytes} of {trials} trials are in the file.",
                "The recording was stopped early, or a .meg4 part is missing.",
                "fewer_trials",
            ),
            str(path),
        )
