"""Files of every format MNE reads, opened after a look at their integrity.

MNE repairs silently and warns in its own words. Here what concerns the data becomes a `Problem`,
and an error names the file and the remedy.

Axes: channel time.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from neurofm.io.integrity import check_file, suffix_of
from neurofm.io.meeg import signal_from_raw
from neurofm.io.quality import Problem, report
from neurofm.types import Recording, Signal

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

SUFFIXES = (
    ".edf",
    ".bdf",
    ".gdf",
    ".vhdr",
    ".set",
    ".fif",
    ".fif.gz",
    ".sqd",
    ".con",
    ".ds",
    ".cnt",
)


def read_raw_signal(
    path: Path,
    recording: Recording,
    *,
    montage: str | None = None,
    standardize: bool = False,
    rename: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    unit: str | float | Mapping[str, str | float] | None = None,
    event_channel: str | None = None,
) -> Signal:
    """Read one file of any format MNE knows.

    Args:
        path: The file (the `.vhdr` of BrainVision, the folder of CTF).
        recording: What it is.
        montage: As in `signal_from_raw`, like all further arguments.

    Raises:
        FileNotFoundError: The file, or a part of it, is missing.
        ValueError: Empty, truncated, not what its suffix says, or unreadable.
    """
    check_file(path)
    with _mne_warnings(path):
        try:
            raw = _open(path)
            return signal_from_raw(
                raw,
                recording,
                montage=montage,
                standardize=standardize,
                rename=rename,
                kinds=kinds,
                exclude=exclude,
                unit=unit,
                event_channel=event_channel,
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path}: a file it belongs with is missing ({error}). Copy all parts of the "
                "recording."
            ) from error
        except OSError as error:
            raise OSError(f"{path}: cannot be read ({error}).") from error


def _open(path: Path) -> mne.io.BaseRaw:
    import mne

    try:
        raw = mne.io.read_raw(path, preload=False, verbose="WARNING")
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if re.search(r"(ave|evo|epo)\.fif(\.gz)?$", path.name):
            raise ValueError(
                f"{path}: holds averages or epochs, expected a continuous recording."
            ) from error
        raise ValueError(
            f"{path}: MNE cannot read this {suffix_of(path)} file ({type(error).__name__}: "
            f"{error}). "
            "It is damaged or of another format than its suffix says: fetch it again."
        ) from error
    _check_companion(path, raw)
    return raw


def _check_companion(path: Path, raw: mne.io.BaseRaw) -> None:
    """Compare the size of a separate data file (.eeg, .fdt) with what the header declares."""
    suffix = suffix_of(path)
    data = Path(raw.filenames[0]) if raw.filenames and raw.filenames[0] else path
    if suffix == ".vhdr":
        width = {"short": 2, "int": 4, "single": 4, "double": 8}.get(str(raw.orig_format))
        frame = len(raw.ch_names) * width if width else 0
        if frame and data.stat().st_size % frame:
            raise ValueError(
                f"{data}: {data.stat().st_size} bytes are not a multiple of {frame} "
                f"({len(raw.ch_names)} "
                f"channels x {width} bytes): truncated, or {path.name} declares other channels. "
                "Fetch both again."
            )
    elif suffix == ".set" and data.suffix == ".fdt":
        expected = 4 * len(raw.ch_names) * raw.n_times
        if data.stat().st_size != expected:
            raise ValueError(
                f"{data}: {data.stat().st_size} bytes, {path.name} declares {expected} "
                f"({len(raw.ch_names)} channels x {raw.n_times} samples x 4). Fetch both again."
            )


@contextmanager
def _mne_warnings(where: Path) -> Iterator[None]:
    """Turn MNE's warnings into problems where they concern the data, into log lines elsewhere."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for item in caught:
        text = " ".join(str(item.message).split())
        if item.category is not RuntimeWarning:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
        elif (problem := _problem_of_warning(text)) is not None:
            report(problem, str(where))
        else:
            logger.info("%s: %s", where, text)


def _problem_of_warning(text: str) -> Problem | None:
    if "annotation" in text and ("outside" in text or "expanding" in text):
        return Problem(
            "warning",
            f"Events lie beyond the end of the recording ({text.rstrip('.')}).",
            "Those are dropped or shortened: the file may be incomplete.",
            "events_beyond_end",
        )
    if "not unique" in text:
        return Problem(
            "warning",
            f"Channel names appear twice ({text.rstrip('.')}).",
            "They were given running numbers; use `rename` or `exclude` in the card's reader.",
            "duplicate_names",
        )
    return None
