"""Positions tracked by video, as the Trodes software writes them, also gzip-compressed.

A text header of `key: value` lines between `<Start settings>` and `<End settings>` names the clock
rate and the fields of the little-endian records that follow.

Source: the export format of Trodes (SpikeGadgets).
Axes: sample = video frame.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from neurofm.io.integrity import check_file
from neurofm.io.quality import Problem, report
from neurofm.io.spiking.spike_lists import Track

_END = b"<End settings>\n"
_FIELD = re.compile(r"<(\w+) (u?int(?:8|16|32|64)|float|double|single)>")
_NUMPY = {"float": "<f4", "single": "<f4", "double": "<f8"}
_LONGEST_HEADER = 65_536


def read_position(path: Path) -> tuple[Track, ...]:
    """x and y of the first tracked point, in pixels (centimetres if the header has a scale).

    Frames whose time stamp repeats or goes back are left out and counted.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: Not such a file, or cut off in a record.
    """
    check_file(path)
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: incomplete gzip file ({error}). Fetch it again.") from error
    end = content.find(_END, 0, _LONGEST_HEADER)
    if not content.startswith(b"<Start settings>") or end < 0:
        raise ValueError(
            f"{path}: not a position file of Trodes: it starts with {content[:20]!r}, expected "
            "'<Start settings>' and later '<End settings>'."
        )
    header = _header(content[:end].decode("latin-1"))
    kinds = [
        (name, _NUMPY.get(kind, f"<{kind[0]}{_width(kind)}"))
        for name, kind in _FIELD.findall(header.get("fields", ""))
    ]
    names = [name for name, _ in kinds]
    missing = [name for name in ("time", "xloc", "yloc") if name not in names]
    if missing or len(set(names)) < len(names):
        raise ValueError(f"{path}: its header names the fields {names}, expected time, xloc, yloc.")
    try:
        clock = float(header["clockrate"])
        scale = float(header.get("pixel scale", "0").split()[0])
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path}: clockrate or pixel scale is missing or no number ({error})."
        ) from error
    if not (np.isfinite(clock) and clock > 0 and np.isfinite(scale)):
        raise ValueError(
            f"{path}: clockrate {clock} Hz and scale {scale}, expected numbers above 0."
        )
    record = np.dtype(kinds)
    body = content[end + len(_END) :]
    if not body or len(body) % record.itemsize:
        raise ValueError(
            f"{path}: truncated: {len(body)} bytes of records of {record.itemsize} bytes. Fetch "
            "it again."
        )
    frames = np.frombuffer(body, dtype=record)
    times = frames["time"].astype(np.float64) / clock
    forward = np.concatenate([[True], times[1:] > np.maximum.accumulate(times)[:-1]])
    if not forward.all():
        report(
            Problem(
                "info",
                f"{int((~forward).sum())} of {len(forward)} video frames repeat a time or go back.",
                "They are left out.",
                "frames_out_of_order",
            ),
            str(path),
        )
    unit, per_pixel = ("cm", 1.0 / scale) if scale > 0 else ("pixel", 1.0)
    return tuple(
        Track(name, times[forward], frames[key][forward].astype(np.float64) * per_pixel, unit)
        for name, key in (("x", "xloc"), ("y", "yloc"))
    )


def _header(text: str) -> dict[str, str]:
    lines = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip().casefold(): value.strip() for key, value in lines}


def _width(kind: str) -> int:
    digits = re.search(r"\d+", kind)
    return int(digits.group()) // 8 if digits else 0
