"""BIDS sidecars: which JSON and TSV files go with a recording, and what they say.

A sidecar applies to a recording if it lies in its folder or in one above, down from the root of the
data set, and every entity in its name is in the recording's name with the same value. Of several
JSON files the nearest wins key by key; of several tables only the nearest counts. `space` and
`desc` name versions of a recording: tables of positions, of events and of nuisance signals go with
all of them.

Source: Brain Imaging Data Structure 1.10, common principles (Gorgolewski et al. 2016; Niso et al.
2018 for MEG, Pernet et al. 2019 for EEG, Holdgraf et al. 2019 for iEEG).
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from time import time_ns
from typing import Any

from neurofm.io.integrity import refuse_foreign
from neurofm.io.quality import Problem, report
from neurofm.types import Event

DESCRIPTION = "dataset_description.json"
MISSING = ("n/a", "na", "nan", "")
# What says something about one recording, besides the JSON of its own suffix.
_SUFFIXES = ("channels", "events", "electrodes", "coordsystem", "headshape", "markers")
_VERSIONS = ("space", "desc", "res", "den")  # versions of the same recording
_REST_NS = 2_000_000_000  # the coarsest clock of a file system
_LABELS = ("trial_type", "stim_type", "event_type", "value")


def entities_of(name: str) -> dict[str, str]:
    """Entities in a BIDS file name: {"sub": "01", "task": "rest"}; pieces without "-" are left."""
    stem = name.split(".", 1)[0]
    pairs = (part.split("-", 1) for part in stem.split("_") if "-" in part)
    return {key: value for key, value in pairs if key and value}


def suffix_word(name: str) -> str:
    """Last word of a BIDS name before its extension: "bold", "events"."""
    return name.split(".", 1)[0].rsplit("_", 1)[-1]


def extension_of(name: str) -> str:
    """Everything from the first dot: ".nii.gz"."""
    dot = name.find(".")
    return name[dot:] if dot >= 0 else ""


def bids_root(path: Path) -> Path | None:
    """Nearest folder above `path` (or itself) that is a BIDS data set; None if there is none.

    That is a folder with `dataset_description.json`, or else the one that holds the `sub-` folder.
    """
    for folder in (path, *path.parents):
        if (folder / DESCRIPTION).is_file():
            return folder
    for folder in path.parents:
        if folder.name.startswith("sub-") and not folder.parent.name.startswith("sub-"):
            return folder.parent
    return None


def applying(
    path: Path, root: Path, suffix: str, extension: str, *, free: Sequence[str] | None = None
) -> list[Path]:
    """Files of one suffix and extension that apply to a recording, the nearest first.

    Args:
        path: The recording; it need not exist.
        root: Top folder of the data set.
        suffix: Such as "events".
        extension: Such as ".tsv".
        free: Entities that may differ; if None, those that name versions of a recording, and none
            for the recording's own suffix.

    Raises:
        ValueError: `path` does not lie below `root`.
    """
    own = entities_of(path.name)
    if free is None:
        free = () if suffix == suffix_word(path.name) else _VERSIONS
    found: list[Path] = []
    for folder in _folders(path, root):
        level = []
        for file in _files(folder, suffix):
            if extension_of(file.name) != extension:
                continue
            theirs = {k: v for k, v in entities_of(file.name).items() if k not in free}
            if all(own.get(key) == value for key, value in theirs.items()):
                level.append((len(theirs), file))
        found += [file for _, file in sorted(level, key=lambda pair: (-pair[0], pair[1].name))]
    return [file for file in found if file != path]


def trees(path: Path, root: Path) -> list[tuple[Path, Path]]:
    """Where to look for what belongs to a recording: (its path, root) in each data set.

    One pair for raw data. For a derivative two: events and people are described in the raw data
    set, under the same folders.
    """
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
    if len(parts) > 2 and parts[0] == "derivatives":
        derivative = root / parts[0] / parts[1]
        return [(path, derivative), (root.joinpath(*parts[2:]), root)]
    if root.parent.name == "derivatives":
        raw = root.parent.parent
        return [(path, root), (raw.joinpath(*parts), raw)]
    return [(path, root)]


def sidecars(path: Path, root: Path) -> list[Path]:
    """Every file beside a recording, or above it, that can change what it is read as.

    For a preprocessed image also its table of nuisance signals, its mask and the events of the raw
    data. `participants.tsv` and `scans.tsv` are not among them: they describe people and visits,
    and a person added to a study changes no recording of the others.

    Args:
        path: The recording.
        root: Top folder of the data set.

    Returns:
        Sorted; empty if there is none.
    """
    found: set[Path] = set()
    for place, top in trees(path, root):
        found.update(applying(place, top, suffix_word(path.name), ".json"))
        for suffix in _SUFFIXES:
            for extension in {extension_of(file.name) for file in _named(place, top, suffix)}:
                found.update(applying(place, top, suffix, extension))
    found.update(file for file in (confounds_of(path, root), mask_of(path, root)) if file)
    return sorted(found)


def events_of(path: Path, root: Path) -> Path | None:
    """The `events.tsv` of a recording; None if there is none."""
    candidates = (nearest(place, top, "events", ".tsv") for place, top in trees(path, root))
    return next((file for file in candidates if file is not None), None)


def confounds_of(path: Path, root: Path) -> Path | None:
    """fMRIPrep's table of nuisance signals of an image; None if there is none."""
    place, top = trees(path, root)[0]
    for suffix in ("timeseries", "regressors"):
        for file in applying(place, top, suffix, ".tsv"):
            if entities_of(file.name).get("desc") == "confounds":
                return file
    return None


def mask_of(path: Path, root: Path) -> Path | None:
    """The brain mask fMRIPrep made in the space of an image; None if there is none."""
    place, top = trees(path, root)[0]
    if suffix_word(path.name) != "bold":
        return None
    for extension in (".nii.gz", ".nii"):
        for file in applying(place, top, "mask", extension, free=("desc",)):
            same = entities_of(file.name).get("space") == entities_of(path.name).get("space")
            if same and entities_of(file.name).get("desc") in ("brain", None):
                return file
    return None


def _named(path: Path, root: Path, suffix: str) -> list[Path]:
    return [
        file
        for folder in _folders(path, root)
        for file in _files(folder, suffix)
        if extension_of(file.name) and file.is_file()
    ]


def _files(folder: Path, suffix: str) -> list[Path]:
    """What has this suffix in a folder. Listings of folders at rest are kept: the root of a data
    set with thousands of people is looked into for every recording.
    """
    try:
        changed = os.stat(folder).st_mtime_ns
    except OSError:
        return []
    settled = time_ns() - changed > _REST_NS
    named = _listed(folder, changed) if settled else _listed.__wrapped__(folder, changed)
    return [folder / name for name in named.get(suffix, ())]


@lru_cache(maxsize=1024)
def _listed(folder: Path, changed: int) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            named.setdefault(suffix_word(name), []).append(name)
    except OSError:  # unreadable, as `glob` has it
        return {}
    return named


def _folders(path: Path, root: Path) -> list[Path]:
    """From the recording's folder up to the root."""
    folders = []
    for folder in path.parents:
        folders.append(folder)
        if folder == root:
            return folders
    raise ValueError(f"{path}: does not lie below {root}, the root of its BIDS data set.")


def nearest(path: Path, root: Path, suffix: str, extension: str) -> Path | None:
    """The sidecar that counts: the nearest, and of those in one folder the most specific."""
    return next(iter(applying(path, root, suffix, extension)), None)


def metadata(path: Path, root: Path, suffix: str | None = None) -> dict[str, Any]:
    """The JSON sidecars of a recording merged, the nearest winning key by key.

    Args:
        path: The recording.
        root: Top folder of the data set.
        suffix: Which sidecars; the recording's own suffix if None.

    Raises:
        ValueError: One of them is not a JSON object.
    """
    merged: dict[str, Any] = {}
    for file in reversed(applying(path, root, suffix or suffix_word(path.name), ".json")):
        merged.update(read_json(file))
    return merged


def read_json(path: Path) -> dict[str, Any]:
    """A JSON sidecar.

    Raises:
        ValueError: It is not a JSON object.
    """
    content = path.read_bytes()
    refuse_foreign(path, content[:256])
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}). Correct or remove it.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}, expected a JSON object.")
    return value


def read_table(path: Path) -> dict[str, list[str]]:
    """Columns of a TSV sidecar as text, spaces around values removed.

    Raises:
        ValueError: Not text, no header, or rows of another length than the header.
    """
    content = path.read_bytes()
    refuse_foreign(path, content[:256])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}). Save it as UTF-8.") from error
    rows = [[_bare(cell) for cell in line.split("\t")] for line in re.split(r"\r\n|\r|\n", text)]
    rows = [row for row in rows if any(row)]
    if not rows:
        raise ValueError(f"{path}: the table is empty, expected a line of column names.")
    names = rows[0]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: a column name appears twice: {', '.join(names)}.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise ValueError(
                f"{path}: row {number} has {len(row)} values under {len(names)} column names. "
                "Separate values by single tabs and write n/a where there is none."
            )
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(names)}


def _bare(cell: str) -> str:
    """A cell without spaces and quotes around it: tables are also written by spreadsheets."""
    cell = cell.strip()
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"').strip() if quoted else cell


def read_events(path: Path, *, column: str | None = None) -> tuple[Event, ...]:
    """The events of an `events.tsv`, ordered by onset.

    Args:
        path: The table.
        column: Which one names the events; the first of trial_type, stim_type, event_type and value
            if None. An event without a name there is called by the next of these that has one.

    Raises:
        ValueError: No column `onset`, no such label column, or an onset that is not a number.
    """
    table = read_table(path)
    if "onset" not in table:
        raise ValueError(f"{path}: no column `onset`; there are {', '.join(table)}.")
    if column is not None and column not in table:
        raise ValueError(
            f"{path}: no column {column!r}; there are {', '.join(table)}. Correct `event_column`."
        )
    order = [name for name in (column, *_LABELS) if name in table]
    count = len(table["onset"])
    durations = table.get("duration", ["n/a"] * count)
    events, without = [], 0
    for i in range(count):
        if table["onset"][i].lower() in MISSING:
            without += 1
            continue
        onset = _seconds(path, "onset", table["onset"][i])
        missing = durations[i].lower() in MISSING
        duration = 0.0 if missing else _seconds(path, "duration", durations[i])
        named = (table[name][i] for name in order if name)
        label = next((text for text in named if text.lower() not in MISSING), "event")
        events.append(Event(onset, max(duration, 0.0), label))
    if without:
        problem = Problem(
            "warning",
            f"{without} of {count} events in {path.name} have no onset.",
            "They are left out.",
            "events_without_onset",
        )
        report(problem, str(path))
    return tuple(sorted(events, key=lambda event: event.onset))


def _seconds(path: Path, what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}: {what} {text!r} is not a number of seconds (or n/a).")
    return value


def read_participants(root: Path) -> dict[str, dict[str, Any]]:
    """`participants.tsv`: subject without "sub-" -> what is known (age, sex, group, ...).

    Numbers become numbers; what is missing is left out. Empty if there is no table.

    Raises:
        ValueError: There is no column `participant_id`, or a person appears twice.
    """
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    table = read_table(path)
    key = next((name for name in table if name.lower() in ("participant_id", "participant")), None)
    if key is None:
        raise ValueError(f"{path}: no column `participant_id`; there are {', '.join(table)}.")
    people: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(table[key]):
        subject = name.removeprefix("sub-")
        if subject in people:
            raise ValueError(f"{path}: participant {name!r} has two rows. Remove one of them.")
        people[subject] = {
            column: _value(values[i])
            for column, values in table.items()
            if column != key and column and values[i].lower() not in MISSING
        }
    return people


def _value(text: str) -> str | int | float:
    if not re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", text):  # int() also takes "1_000"
        return text
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def acquisition_time(path: Path, root: Path) -> str | None:
    """When a recording was made, as `scans.tsv` has it; None if it does not say."""
    for folder in _folders(path, root):
        for table_path in sorted(folder.glob("*_scans.tsv")):
            table = read_table(table_path)
            names, times = table.get("filename", []), table.get("acq_time", [])
            wanted = path.relative_to(folder).as_posix()
            for name, time in zip(names, times, strict=False):
                if name == wanted and time.lower() not in MISSING:
                    return time
    return None


def bad_channels(table: dict[str, list[str]]) -> list[str]:
    """Channels that a `channels.tsv` marks as bad."""
    status = table.get("status", [])
    return [n for n, s in zip(table.get("name", []), status, strict=False) if s.lower() == "bad"]
