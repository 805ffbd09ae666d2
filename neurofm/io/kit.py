"""KIT recordings with what says where the head was: marker coils, digitized points, head shape.

A KIT file holds no head position. It follows from three other files: where the marker coils were in
the helmet (`.mrk`, or a recording of its own called `*_mrk.sqd`), and where they and the head's
surface were by the digitizer (`.elp` and `.hsp`, or `*_elp.txt` and `*_hsp.txt`). If all three are
found beside the recording they are used.

Source: MNE-Python's `read_raw_kit`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from neurofm.io.quality import Problem, report

if TYPE_CHECKING:
    import mne

_MARKER = re.compile(r"[_-](mrk|markers?)([_-]?(pre|post|\d+))?\.(sqd|con|mrk|txt)$", re.IGNORECASE)
_PARTS = {
    "mrk": re.compile(rf"{_MARKER.pattern}|\.mrk$", re.IGNORECASE),
    "elp": re.compile(r"[_-]elp\.txt$|\.elp$", re.IGNORECASE),
    "hsp": re.compile(r"[_-]hsp\.txt$|\.hsp$", re.IGNORECASE),
}


def is_marker_file(path: Path) -> bool:
    """Whether a KIT file holds the places of the marker coils instead of a recording."""
    return _MARKER.search(path.name) is not None


def head_files(path: Path) -> dict[str, list[Path]]:
    """Files beside a KIT recording that say where the head was, by `read_raw_kit`'s argument.

    Those that begin with the recording's name come first; without one, the only ones in the folder.
    Markers may be measured before and after the recording.
    """
    found = {}
    for argument, pattern in _PARTS.items():
        files = [item for item in sorted(path.parent.iterdir()) if pattern.search(item.name)]
        own = [item for item in files if item.name.startswith(path.stem)]
        chosen = own or files
        if len(chosen) > (2 if argument == "mrk" else 1):
            return {}  # of another recording, or it is not clear which
        found[argument] = chosen
    return found if all(found.values()) else {}


def open_kit(path: Path) -> mne.io.BaseRaw:
    """A KIT recording, in the head frame if the files for it are there."""
    import mne

    files = head_files(path)
    if not files:
        return mne.io.read_raw_kit(path, verbose="WARNING")
    used = [item.name for group in files.values() for item in group]
    report(
        Problem(
            "info",
            f"Head position from {', '.join(used)}.",
            "Move those files elsewhere if they belong to another recording.",
            "kit_head_position",
        ),
        str(path),
    )
    return mne.io.read_raw_kit(
        path,
        mrk=[str(item) for item in files["mrk"]],
        elp=str(files["elp"][0]),
        hsp=str(files["hsp"][0]),
        verbose="WARNING",
    )
