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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from neurofm.io.epochs import read_epochs, read_evokeds
from neurofm.io.fif_tags import content_of
from neurofm.io.head_position import remove_chpi as subtract_chpi
from neurofm.io.integrity import BTI, check_file, suffix_of
from neurofm.io.kit import open_kit
from neurofm.io.meeg import signal_from_raw
from neurofm.io.mne_channels import Channels
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
    BTI,
)
_FIF = (".fif", ".fif.gz")
_KIT = (".sqd", ".con")
_CONTINUOUS = "a continuous recording"


class _HoldsEpochsError(ValueError):
    """An EEGLAB file of epochs, which only opening it tells."""


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
    compensation: int | None = None,
    remove_chpi: bool = False,
) -> Signal:
    """Read one file of any format MNE knows: a continuous recording, epochs or averages.

    Args:
        path: The file (the `.vhdr` of BrainVision, the folder of CTF, the "c,rf..." of 4D, with
            "config" and, if there is one, "hs_file" beside it).
        recording: What it is.
        montage: As in `signal_from_raw`, like the following.
        compensation: Grade of compensation by the reference channels the data shall have (CTF: 0
            to 3); as stored if not given.
        remove_chpi: Subtract the signals of continuous head position coils.

    Raises:
        FileNotFoundError: The file, or a part of it, is missing.
        ValueError: Empty, truncated, not what its suffix says, or unreadable; epochs or averages
            together with `compensation`, `remove_chpi` or an `event_channel`.
    """
    check_file(path, exclude=exclude)
    content = content_of(path) if suffix_of(path) in _FIF else _CONTINUOUS
    channels = Channels(montage, standardize, rename or {}, kinds or {}, exclude, unit)
    with _mne_warnings(path), _clear_errors(path):
        if content in ("epochs", "averages"):
            _refuse_continuous_only(path, content, compensation, remove_chpi, event_channel)
            read = read_epochs if content == "epochs" else read_evokeds
            return read(path, recording, channels=channels)
        if content != _CONTINUOUS:
            raise ValueError(
                f"{path}: a FIF file that holds {content}, not a recording, epochs or averages."
            )
        try:
            raw = _open(path)
        except _HoldsEpochsError:
            _refuse_continuous_only(path, "epochs", compensation, remove_chpi, event_channel)
            return read_epochs(path, recording, channels=channels)
        done = []
        if compensation is not None:
            done.append(_compensate(raw, compensation, path))
        if remove_chpi:
            done.append(subtract_chpi(raw, where=str(path)))
        signal = signal_from_raw(
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
        return replace(signal, history=(*signal.history, *done))


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Errors of the operating system under the name of the recording."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: a file it belongs with is missing ({error}). Copy all parts of the recording."
        ) from error
    except PermissionError as error:
        raise PermissionError(f"{path}: no permission to read a part of it ({error}).") from error
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error}).") from error


def _refuse_continuous_only(
    path: Path,
    content: str,
    compensation: int | None,
    remove_chpi: bool,
    event_channel: str | None,
) -> None:
    asked = {
        "compensation": compensation is not None,
        "remove_chpi": remove_chpi,
        "event_channel": event_channel not in (None, "auto"),
    }
    for name, given in asked.items():
        if given:
            raise ValueError(
                f"{path}: holds {content}, and `{name}` works on continuous recordings only. Leave "
                "it out of the card's reader, or read the continuous file."
            )


def _compensate(raw: mne.io.BaseRaw, grade: int, path: Path) -> str:
    """Bring a recording to a grade of compensation, in place; the line for its history."""
    before = raw.compensation_grade or 0
    stored = sorted({0, *(int(comp["kind"]) for comp in raw.info["comps"])})
    if grade not in stored:
        raise ValueError(
            f"{path}: no compensation of grade {grade} in the file, which offers "
            f"{', '.join(str(item) for item in stored)}. Correct `compensation` in the card's "
            "reader."
        )
    if grade != before:
        raw.apply_gradient_compensation(grade, verbose="ERROR")
    return f"compensation by reference channels brought from grade {before} to {grade}"


def open_raw(path: Path) -> mne.io.BaseRaw:
    """A continuous recording as MNE opens it, not loaded, after a look at its integrity.

    Raises:
        FileNotFoundError: The file, or a part of it, is missing.
        ValueError: As `read_raw_signal`.
    """
    check_file(path)
    with _mne_warnings(path), _clear_errors(path):
        return _open(path)


def _open(path: Path) -> mne.io.BaseRaw:
    import mne

    if suffix_of(path) == ".vhdr":
        _check_brainvision(path)
    try:
        if suffix_of(path) == BTI:
            raw = _open_bti(path)
        elif suffix_of(path) in _KIT:
            raw = open_kit(path)
        elif suffix_of(path) in _FIF:
            # Active shielding needs SSS before use: `details_of` and a warning say so.
            raw = mne.io.read_raw_fif(path, allow_maxshield="yes", verbose="WARNING")
        else:
            raw = mne.io.read_raw(path, preload=False, verbose="WARNING")
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if "Split raw file detected" in str(error):
            raise FileNotFoundError(
                f"a later part of the split recording: {' '.join(str(error).split())}"
            ) from error
        if "read_epochs_eeglab" in str(error):
            raise _HoldsEpochsError(
                f"{path}: holds epochs, expected a continuous recording."
            ) from error
        raise ValueError(
            f"{path}: MNE cannot read this {suffix_of(path)} file ({type(error).__name__}: "
            f"{error}). It is damaged or of another format than its suffix says: fetch it again."
        ) from error
    _check_companion(path, raw)
    if raw.info.get("maxshield"):
        report(
            Problem(
                "warning",
                "Recorded with active shielding (MaxShield) and not yet cleaned.",
                "Apply signal-space separation (MaxFilter, or MNE's maxwell_filter) first.",
                "maxshield",
            ),
            str(path),
        )
    return raw


def _open_bti(path: Path) -> mne.io.BaseRaw:
    """4D Neuroimaging: the data file with its configuration and head shape beside it."""
    import mne

    config, shape = path.with_name("config"), path.with_name("hs_file")
    if not config.is_file():
        raise FileNotFoundError(f"{config.name} beside {path.name}")
    return mne.io.read_raw_bti(
        path,
        config_fname=str(config),
        head_shape_fname=str(shape) if shape.is_file() else None,
        verbose="WARNING",
    )


def _check_brainvision(path: Path) -> None:
    """Look at the files that a BrainVision header names; MNE reads on without the markers."""
    text = path.read_text(encoding="utf-8", errors="replace")
    for key in ("DataFile", "MarkerFile"):
        named = re.search(rf"^[ \t]*{key}[ \t]*=[ \t]*(\S.*?)[ \t]*$", text, re.MULTILINE)
        if named is None:
            continue
        part = path.parent / named[1].replace("$b", path.stem)
        if part.exists() or part.is_symlink():
            check_file(part)
        elif key == "MarkerFile":
            report(
                Problem(
                    "warning",
                    f"The header names the marker file {part.name}, which is not there.",
                    "The recording has no events: copy all its files, or correct `MarkerFile` in "
                    "the header.",
                    "no_markers",
                ),
                str(path),
            )


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
                f"({len(raw.ch_names)} channels x {width} bytes): truncated, or {path.name} "
                "declares other channels. Fetch both again."
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
