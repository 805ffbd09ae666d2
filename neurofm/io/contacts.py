"""Intracranial contacts: shaft and number out of a channel's name; electrode tables of BIDS.

Recording systems spell a contact in many ways: "A'12", "LA1", "POL B3", "EEG LAm10-Ref", "LTG-12",
"G_12". Within a shaft, strip or grid the contacts are numbered, from the tip on a shaft. A prime
marks the left hemisphere. Names such as "C3" and "A1" are also places of the scalp: a name alone
never proves that a channel is intracranial, so `depth_problem` only reports, and a card declares.

Source: BIDS-iEEG (Holdgraf et al. 2019); naming with primes as in Talairach-framed stereo-EEG.
Axes: channel x 3, metres.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.electrodes import kind_from_name, standard_name, template_positions
from neurofm.io.integrity import check_file
from neurofm.io.quality import Problem, listed, report
from neurofm.shapes import Float
from neurofm.types import Signal
from neurofm.units import Kind

_PRIMES = str.maketrans(dict.fromkeys("’‘ʹ′`´＇ʼ", "'"))
# Put before or after a contact by recording systems; "POL" is Nihon Kohden's, "EEG" EDF's.
_BEFORE = re.compile(r"^(?:i?eeg|s-?eeg|ecog|pol|lfp)(?:[\s_:-]+|$)", re.IGNORECASE)
_AFTER = re.compile(r"[\s_-]*-\s*(?:ref\d?|le|ar|avg|average|car|gnd|org|com)$", re.IGNORECASE)
_CONTACT = re.compile(r"(?P<shaft>[^\W\d_]+(?:[ _-][^\W\d_]+)*'?)[\s_-]*(?P<number>[0-9]{1,3})")
# A shaft whose own name ends in a number needs a separator: "LT2_3", "G1 12".
_NUMBERED = re.compile(r"(?P<shaft>[^\W\d_][^\W_]*'?)[\s_]+(?P<number>[0-9]{1,3})")
# No shaft or strip has more contacts: what is numbered further is a grid, or a cap.
LONGEST_STRIP = 24
_NOT_A_SHAFT = {
    *("ch", "chan", "channel", "csc", "el", "elec", "electrode", "contact", "eeg", "seeg", "ieeg"),
    *("ecog", "lfp", "pol", "ref", "gnd", "dc", "sti", "stim", "trig", "trigger", "event", "mark"),
    *("misc", "aux", "bio", "spo", "sao", "co", "etco", "resp", "meg", "photic", "pulse", "audio"),
}


@dataclass(frozen=True)
class Contact:
    """One contact of a shaft, strip or grid.

    Args:
        shaft: Letters in the file's spelling, with the prime ("A'"), so that A and A' differ.
        number: As counted by the file.
        hemisphere: "left" if a prime says so, else None: a missing prime proves nothing.
    """

    shaft: str
    number: int
    hemisphere: str | None = None

    @property
    def name(self) -> str:
        """Plain spelling: `A'12`, `LT2_3`."""
        letters = self.shaft.rstrip("'")
        return f"{self.shaft}{'_' if letters[-1:].isdigit() else ''}{self.number}"


def parse_contact(name: str) -> Contact | None:
    """The contact a channel is called after; None if the name is not that of one contact.

    Heart, eye, muscle and auxiliary channels, running numbers ("CH12", "EEG 012") and pairs
    ("A1-A2", "A1-2") give None. Places of the scalp ("C3") are spelt like contacts and are parsed.
    """
    plain = _plain(name)
    if kind_from_name(plain) is not None or (_halves(plain) is not None):
        return None
    return _contact(plain)


def parse_pair(name: str) -> tuple[Contact, Contact] | None:
    """The two contacts of a bipolar channel ("A1-A2", "POL A1-POL A2", "A1-2"), else None."""
    return _halves(_plain(name))


def _plain(name: str) -> str:
    plain = name.translate(_PRIMES).strip().rstrip(".").strip()
    return _AFTER.sub("", _BEFORE.sub("", plain)).strip()


def _contact(plain: str) -> Contact | None:
    match = _CONTACT.fullmatch(plain) or _NUMBERED.fullmatch(plain)
    if match is None or match["shaft"].rstrip("'").casefold() in _NOT_A_SHAFT:
        return None
    shaft = match["shaft"]
    return Contact(shaft, int(match["number"]), "left" if shaft.endswith("'") else None)


def _halves(plain: str) -> tuple[Contact, Contact] | None:
    for at in [i for i, letter in enumerate(plain) if letter in "-–"]:
        left = _contact(_plain(plain[:at]))
        if left is None:
            continue
        text = _plain(plain[at + 1 :])
        digits = re.fullmatch(r"[0-9]{1,3}", text)
        right = Contact(left.shaft, int(text), left.hemisphere) if digits else _contact(text)
        if right is not None and right != left:
            return left, right
    return None


def shafts_of(names: Sequence[str]) -> dict[str, dict[int, int]]:
    """Shaft -> contact number -> index of the name, numbers ascending; other names are left out.

    Raises:
        ValueError: Two channels are the same contact ("A1", "A01").
    """
    found: dict[str, dict[int, int]] = {}
    for i, name in enumerate(names):
        contact = parse_contact(name)
        if contact is None:
            continue
        numbers = found.setdefault(contact.shaft, {})
        if contact.number in numbers:
            raise ValueError(
                f"channels {names[numbers[contact.number]]!r} and {name!r} are both contact "
                f"{contact.number} of {contact.shaft}. Leave one out with `exclude` in the card's "
                "reader."
            )
        numbers[contact.number] = i
    return {shaft: dict(sorted(members.items())) for shaft, members in found.items()}


def depth_problem(signal: Signal) -> Problem | None:
    """A finding if channels called EEG are named like contacts of shafts or strips.

    EDF types every electrode "EEG". The kinds are never changed by this guess. Caps are numbered in
    runs longer than a shaft ("A1" to "A32", "E1" to "E128"), and their sites have positions.
    """
    eeg = np.flatnonzero(signal.sensors.kind == Kind.EEG)
    names = [signal.sensors.names[i] for i in eeg if not signal.sensors.has_position[i]]
    try:
        shafts = [at for at in shafts_of(names).values() if 3 <= len(at) <= LONGEST_STRIP]
    except ValueError:
        return None
    if sum(map(len, shafts)) < 4:
        return None
    scalp = set(template_positions("standard_1005"))
    inside = []
    for members in shafts:
        own = [names[i] for i in members.values()]
        # C1 to C6 and P1 to P10 exist on the scalp; a shaft has more that do not.
        if sum(standard_name(name) in scalp for name in own) < len(own) / 2:
            inside += own
    if len(inside) < max(4, len(eeg) / 4):
        return None
    return Problem(
        "warning",
        f"{len(inside)} of {len(eeg)} channels typed EEG are named like intracranial contacts: "
        f"{listed(inside)}.",
        'If they are, declare it with `kinds` in the card\'s reader (`"*": seeg`, or ecog).',
        "depth_contacts",
    )


@dataclass(frozen=True)
class Electrodes:
    """A table of electrodes.

    Args:
        names: As in the table.
        position: Metres, in `frame`; NaN where unknown.
        frame: One of `types.FRAMES`.
        region: Label of each electrode, "" where unknown; empty if the table has no such column.
        space: The coordinate system's own name, "" if not given.
    """

    names: tuple[str, ...]
    position: Float[np.ndarray, "channel 3"]
    frame: str
    region: tuple[str, ...] = ()
    space: str = ""


_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "microns": 1e-6}
_REGIONS = (
    *("region", "anatomical", "anatomy", "anatomical_label", "brain_area", "location"),
    *("roi", "label", "destrieux_label_text", "dk_label"),
)
_LARGEST = 0.4  # metres from the origin: no electrode of a head is further away
_MISSING = {"", "n/a", "na", "nan", "none", "null"}


def metres_per(unit: str, *, where: str) -> float:
    """Metres in one `unit` of length.

    Raises:
        ValueError: Not a unit of length that is known.
    """
    key = unit.strip().casefold()
    if key not in _METRES:
        raise ValueError(f"{where}: unit of length {unit!r} is not one of {', '.join(_METRES)}.")
    return _METRES[key]


def frame_of_space(space: str) -> str:
    """Our frame for a coordinate system of BIDS: templates in MNI space are "mni"."""
    key = re.sub(r"[\W_]", "", space).casefold()
    if key.startswith(("mni", "icbm", "fsaverage", "ixi549space", "colin27")):
        return "mni"
    if key == "scanras":
        return "scanner"
    return "head" if key in ("captrak", "elektaneuromag", "neuromag") else "unknown"


def read_electrodes(
    table: Path, coordsystem: Path | None = None, *, region: str | None = None
) -> Electrodes:
    """Names, positions and regions from `electrodes.tsv`, their unit from `coordsystem.json`.

    Args:
        table: Tab-separated, columns `name x y z`; "n/a" where unknown.
        coordsystem: Its sidecar. Without it, or for coordinates in pixels of a picture, positions
            are unknown, with a warning.
        region: Column of anatomical labels; by default the first with a usual name.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A column is missing, a coordinate is not a number, a name comes twice, no unit,
            or one that puts electrodes outside any head.
    """
    columns = _columns(table)
    missing = [name for name in ("name", "x", "y", "z") if name not in columns]
    if missing:
        raise ValueError(
            f"{table}: columns {listed(missing)} are missing; it has {listed(list(columns))}. BIDS "
            "asks for name, x, y and z."
        )
    names = columns["name"]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names or "" in names:
        wrong = f"electrodes {listed(twice)} come twice" if twice else "electrodes without a name"
        raise ValueError(f"{table}: {wrong if names else 'no electrodes'}. Correct the table.")
    position = np.array(
        [[_number(columns[axis][i], table, i) for axis in "xyz"] for i in range(len(names))]
    )
    position[~np.isfinite(position).all(axis=1)] = np.nan
    scale, space = _system(table, coordsystem)
    position = position * scale
    known = position[np.isfinite(position).all(axis=1)]
    if len(known) and np.abs(known).max() > _LARGEST:
        raise ValueError(
            f"{table}: an electrode at {np.abs(known).max():.3g} m from the origin. The unit in "
            f"{coordsystem} is probably wrong (expected within {_LARGEST} m)."
        )
    chosen = region or next((name for name in columns if name.casefold() in _REGIONS), None)
    if chosen is not None and chosen not in columns:
        raise ValueError(f"{table}: no column {chosen!r}; it has {listed(list(columns))}.")
    labels = (
        ()
        if chosen is None
        else tuple("" if text.casefold() in _MISSING else text for text in columns[chosen])
    )
    return Electrodes(tuple(names), position, frame_of_space(space), labels, space)


def _columns(path: Path) -> dict[str, list[str]]:
    check_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [r for r in csv.reader(text.splitlines(), delimiter="\t") if any(map(str.strip, r))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a text table ({error}). Fetch it again.") from error
    if not rows:
        raise ValueError(f"{path}: the table is empty. Fetch it again.")
    head = [name.strip() for name in rows[0]]
    ragged = [i for i, row in enumerate(rows, 1) if len(row) != len(head)]
    if ragged or len(set(head)) < len(head):
        what = f"line {ragged[0]} has another number of cells" if ragged else "a column comes twice"
        raise ValueError(f"{path}: {what} (columns {listed(head)}). Cells are separated by tabs.")
    return {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(head)}


def _number(text: str, path: Path, row: int) -> float:
    if text.casefold() in _MISSING:
        return np.nan
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"{path}: coordinate {text!r} of electrode {row + 1} is not a number or n/a."
        ) from None


def _system(table: Path, coordsystem: Path | None) -> tuple[float, str]:
    """Metres per unit (NaN if there is none) and name of the space."""
    if coordsystem is None:
        _without_positions(table, "There is no coordsystem.json beside it, so their unit is not")
        return np.nan, ""
    check_file(coordsystem)
    try:
        content: Any = json.loads(coordsystem.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{coordsystem}: not JSON ({error}). Fetch it again.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{coordsystem}: holds a {type(content).__name__}, expected an object.")
    for prefix in ("iEEG", "EEG", "MEG"):
        unit, space = (content.get(f"{prefix}Coordinate{part}") for part in ("Units", "System"))
        if unit is not None:
            break
    space = space if isinstance(space, str) else ""
    if isinstance(unit, str) and unit.strip().casefold() in {"pixels", *_MISSING}:
        _without_positions(table, f"Their coordinates are in {unit.strip() or 'no unit'}: places")
        return np.nan, space
    if not isinstance(unit, str):
        raise ValueError(
            f"{coordsystem}: iEEGCoordinateUnits is {unit!r}, expected m, cm or mm. Add it: metres "
            "and millimetres cannot be told apart safely."
        )
    return metres_per(unit, where=str(coordsystem)), space


def _without_positions(table: Path, why: str) -> None:
    report(
        Problem(
            "warning",
            f"The positions of the electrodes are not used. {why} in space are not known.",
            "Add `iEEGCoordinateUnits` and coordinates in a space to the sidecar.",
            "electrodes_without_unit",
        ),
        str(table),
        stacklevel=5,
    )
