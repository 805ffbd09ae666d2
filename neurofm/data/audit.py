"""Find leakage between the sides of a split, independently of how the split was made.

What counts: the entity that the split claims to separate (subject, session, run, recording) on two
sides; windows of one recording that share time; one stimulus on two sides; two copies of one
recording (by fingerprint) on two sides; statistics (a scaler, an alignment, a choice of channels)
fitted on rows outside the training side; recordings of the test side that a pretrained model has
seen. Sorting and tables, no pairs of windows: a million rows take seconds.

`neurofm audit` does the same for a CSV file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from neurofm.data.columns import Columns
from neurofm.data.copies import find_copies
from neurofm.data.rows import ENTITIES, WITHIN, Row, Split
from neurofm.io.seen import Seen
from neurofm.shapes import Bool, Int

REMEDY = {
    "window": "Make the split with a function of neurofm.data (by_group, kfold, ...).",
    "subject": "Split by subject.",
    "session": "Split by session or subject.",
    "run": "Split by run or subject.",
    "recording": "Split by recording, run or subject.",
    "time": "Split by recording or subject, or by_time with a gap of at least a window.",
    "stimulus": "Group windows by stimulus, or accept it by name: allow=['stimulus'].",
    "duplicate": "Remove one copy of the recording from the corpus.",
    "fitted": "Fit it on the training side alone, once per fold.",
    "pretraining": "Test on recordings that the model has not seen, or pretrain without these.",
}
_WHAT = {
    "time": "windows share time with the other side",
    "window": "windows are on both sides",
    "stimulus": "stimuli are on both sides",
    "duplicate": "recordings are copies of a recording on the other side",
    "fitted": "windows are of what it was fitted on",
    "pretraining": "recordings were among those the model was trained on",
}
_EXAMPLES = 3


@dataclass(frozen=True)
class Leak:
    """Something that two sides of a split share.

    Args:
        kind: A key of `REMEDY`.
        left: Name of one side; of what was fitted; "pretraining".
        right: Name of the other side.
        count: Shared entities; for "time", "window" and "fitted", windows of the right side.
        example: Up to three of them.
    """

    kind: str
    left: str
    right: str
    count: int
    example: str

    def __str__(self) -> str:
        what = _WHAT.get(self.kind, f"{self.kind}s are on both sides")
        return f"{self.left}/{self.right}: {self.count} {what}, such as {self.example}"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDY[self.kind]


@dataclass(frozen=True)
class Fitted:
    """Statistics that were fitted before the model was: on which windows.

    Args:
        name: Such as "scaler", "Euclidean alignment", "channel selection".
        rows: Windows, which need not be cut like those of the split.
    """

    name: str
    rows: Sequence[Row]


def find_leaks(
    rows: Sequence[Row],
    split: Split,
    *,
    by: str | None = None,
    fitted: Sequence[Fitted] = (),
    seen: Seen | None = None,
) -> list[Leak]:
    """All leaks between training, validation and test side.

    Args:
        by: What must not be on two sides, one of `ENTITIES`, or "time" for windows alone; what the
            split says if not given.
        fitted: Statistics that the windows were changed with.
        seen: What the model was trained on before; compared with the test side.

    Raises:
        ValueError: Unknown `by`, or positions outside the rows.
    """
    by = split.by if by is None else by
    _check(len(rows), split, by)
    further = [row for item in fitted for row in item.rows]
    columns = Columns.of([*rows, *further] if further else rows)
    sides = {name: np.asarray(side, dtype=np.int64) for name, side in split.sides.items()}
    ends = len(rows) + np.cumsum([0, *(len(item.rows) for item in fitted)])
    fits = {
        item.name: np.arange(low, high)
        for item, low, high in zip(fitted, ends[:-1], ends[1:], strict=True)
    }
    return leaks_of(columns, sides, by=by, fitted=fits, seen=seen)


def leaks_of(
    columns: Columns,
    sides: Mapping[str, np.ndarray],
    *,
    by: str,
    fitted: Mapping[str, np.ndarray] | None = None,
    seen: Seen | None = None,
) -> list[Leak]:
    """As `find_leaks`, of columns.

    Args:
        sides: Positions of the rows of "train", "validate" and "test"; any may be missing.
        fitted: Positions of the rows that each statistic was fitted on.
    """
    leaks: list[Leak] = []
    for (left, ours), (right, theirs) in combinations(sides.items(), 2):
        if len(ours) and len(theirs):
            leaks += _between(columns, left, ours, right, theirs, by)
    train = sides.get("train", np.zeros(0, dtype=np.int64))
    for name, members in (fitted or {}).items():
        for right in ("validate", "test"):
            theirs = sides.get(right, train[:0])
            hit = theirs[_touched(columns, _without(columns, members, train), theirs, by)]
            if len(hit):
                leaks.append(Leak("fitted", name, right, len(hit), _some(columns, "time", hit)))
    if seen is not None and len(sides.get("test", ())):
        leaks += _pretraining(columns, sides["test"], seen, by, "test")
    return leaks


def find_overlap(
    seen: Seen, rows: Sequence[Row], side: Sequence[int] | None = None, *, by: str = "recording"
) -> list[Leak]:
    """Recordings among these rows that a model was trained on; copies under other names count.

    Args:
        seen: Of the model: its attribute, or `neurofm.io.read_seen` of its file.
        side: Positions of the rows that are evaluated; all if not given.
        by: "time" if other parts of a recording than those trained on may be evaluated.

    Returns:
        One leak, or none.
    """
    members = np.arange(len(rows)) if side is None else np.asarray(side, dtype=np.int64)
    if not len(members) or not len(seen):
        return []
    columns = Columns.of([rows[int(i)] for i in members])
    return _pretraining(columns, np.arange(len(members)), seen, by, "test")


def refuse_leakage(
    rows: Sequence[Row],
    split: Split,
    *,
    by: str | None = None,
    allow: Collection[str] = (),
    fitted: Sequence[Fitted] = (),
    seen: Seen | None = None,
) -> list[Leak]:
    """Stop if the split leaks.

    Args:
        allow: Kinds of leak to accept knowingly, such as "stimulus" if all subjects saw the same.
        fitted: As in `find_leaks`.
        seen: As in `find_leaks`.

    Returns:
        The leaks that were accepted.

    Raises:
        ValueError: The message names the first leaks and the fix.
    """
    unknown = sorted(set(allow) - set(REMEDY))
    if unknown:
        raise ValueError(f"refuse_leakage: allow {unknown}: expected some of {list(REMEDY)}.")
    found = find_leaks(rows, split, by=by, fitted=fitted, seen=seen)
    leaks = [leak for leak in found if leak.kind not in allow]
    if not leaks:
        return found
    shown = "; ".join(str(leak) for leak in leaks[:3])
    more = f"; and {len(leaks) - 3} more" if len(leaks) > 3 else ""
    raise ValueError(
        f"split {split.name} (by {by or split.by}) leaks: {shown}{more}. {leaks[0].remedy}"
    )


def audit_summary(rows: Sequence[Row], split: Split, *, leaks: Sequence[Leak] | None = None) -> str:
    """One line: "split audit: 12 subjects x 3 runs, train 360 / test 180 windows, 0 leaks".

    Args:
        leaks: What an audit of this split has found; looked for if not given.
    """
    _check(len(rows), split, split.by)
    columns = Columns.of(rows)
    sides = {name: np.asarray(side, dtype=np.int64) for name, side in split.sides.items()}
    used = np.concatenate(list(sides.values()))
    subjects = len(np.unique(columns.code["subject"][used]))
    with_run = used[columns.code["run"][used] >= 0]
    runs = len(np.unique(columns.joined("session", "run")[with_run]))
    recordings = len(np.unique(columns.code["recording"][used]))
    what = f"{subjects} subject{'s' * (subjects != 1)}"
    if runs and recordings == subjects * runs:
        what += f" x {runs} run{'s' * (runs != 1)}"
    else:
        what += f", {recordings} recording{'s' * (recordings != 1)}"
    sizes = " / ".join(f"{name} {len(side)}" for name, side in sides.items() if len(side))
    leaks = leaks_of(columns, sides, by=split.by) if leaks is None else leaks
    found = f"{len(leaks)} leak{'s' * (len(leaks) != 1)}"
    if leaks:
        found += f" ({', '.join(dict.fromkeys(leak.kind for leak in leaks))})"
    return f"split audit: {what}, {sizes} windows, {found}"


def _check(n_rows: int, split: Split, by: str) -> None:
    if by not in (*ENTITIES, *WITHIN):
        known = ", ".join((*ENTITIES, *WITHIN))
        raise ValueError(f"find_leaks by {by!r}: expected one of {known}.")
    for name, members in split.sides.items():
        if len(members) and not (min(members) >= 0 and max(members) < n_rows):
            raise ValueError(
                f"find_leaks: split {split.name} names row {max(members)} on its {name} side, "
                f"but there are {n_rows} rows. The split belongs to another table."
            )


def _entities(by: str) -> tuple[str, ...]:
    """What must differ between two sides."""
    return tuple(dict.fromkeys((*(() if by in WITHIN else (by, "recording")), "stimulus")))


def _between(
    columns: Columns,
    left: str,
    ours: Int[np.ndarray, " left"],
    right: str,
    theirs: Int[np.ndarray, " right"],
    by: str,
) -> list[Leak]:
    leaks = []
    twice = np.intersect1d(ours, theirs)
    if len(twice):
        leaks.append(Leak("window", left, right, len(twice), _some(columns, "window", twice)))
    for kind in _entities(by):
        code = columns.entity(kind)
        shared = np.intersect1d(code[ours], code[theirs])
        if kind in ("recording", "stimulus"):  # a subject without a name is one; these are not
            shared = shared[shared >= 0]
        if len(shared):
            first = theirs[np.isin(code[theirs], shared)]
            first = first[np.unique(code[first], return_index=True)[1]]
            leaks.append(Leak(kind, left, right, len(shared), _some(columns, kind, first)))
    late = np.setdiff1d(theirs[columns.overlap(ours, theirs)], twice)
    if len(late):
        leaks.append(Leak("time", left, right, len(late), _some(columns, "time", late)))
    copies = _copies(columns, ours, theirs)
    if copies:
        said = [f"{copy} ({original})" for copy, original in sorted(copies.items())]
        example = "; ".join(said[:_EXAMPLES])
        leaks.append(Leak("duplicate", left, right, len(copies), example))
    return leaks


def _some(columns: Columns, kind: str, rows: Int[np.ndarray, " member"]) -> str:
    return "; ".join(sorted({columns.readable(kind, int(i)) for i in rows[:_EXAMPLES]}))


def _marked(columns: Columns, members: Int[np.ndarray, " member"]) -> list[tuple[int, str, int]]:
    """Distinct (recording, fingerprint) of rows that have one, and a row of each."""
    mark = columns.code["fingerprint"][members]
    recording = columns.code["recording"][members]
    pair, at = np.unique(np.stack([recording, mark]), axis=1, return_index=True)
    names = columns.names["fingerprint"]
    return [
        (int(r), names[int(m)], int(members[i]))
        for (r, m), i in zip(pair.T, at, strict=True)
        if m >= 0 and names[int(m)]
    ]


def _copies(
    columns: Columns, left: Int[np.ndarray, " left"], right: Int[np.ndarray, " right"]
) -> dict[str, str]:
    """Recordings of the right side that are copies of another recording of the left, and of which.

    Rows without the name of a recording are told apart by nothing, so that equal marks count.
    """
    ours, theirs = _marked(columns, left), _marked(columns, right)
    copies: dict[str, str] = {}
    for i, j in find_copies([mark for _, mark, _ in ours], [mark for _, mark, _ in theirs]):
        (original, _, there), (copy, mark, here) = ours[i], theirs[j]
        if original != copy or copy < 0:
            name = columns.value("recording", here) or f"fingerprint {mark[:16]}"
            copies.setdefault(name, columns.value("recording", there) or "no name")
    return copies


def _without(
    columns: Columns, members: Int[np.ndarray, " member"], train: Int[np.ndarray, " train"]
) -> Int[np.ndarray, " rest"]:
    """Those that are not, as they are, windows of the training side."""
    if not len(members) or not len(train):
        return members
    both = np.concatenate([train, members])
    same = np.stack([columns.code["recording"], columns.start, columns.stop])[:, both]
    code = np.unique(same, axis=1, return_inverse=True)[1].reshape(-1)
    named = columns.code["recording"][members] >= 0
    inside = np.isin(code[len(train) :], code[: len(train)]) & named
    return members[~inside & ~np.isin(members, train)]


def _touched(
    columns: Columns,
    members: Int[np.ndarray, " member"],
    side: Int[np.ndarray, " side"],
    by: str,
) -> Bool[np.ndarray, " side"]:
    """Which rows of a side belong to what these rows belong to."""
    if not len(members) or not len(side):
        return np.zeros(len(side), dtype=bool)
    hit = columns.overlap(members, side) | np.isin(side, members)
    for kind in () if by in WITHIN else dict.fromkeys((by, "recording")):
        code = columns.entity(kind)
        hit |= np.isin(code[side], code[members]) & (code[side] >= 0)
    copies = set(_copies(columns, members, side))
    names = columns.names["recording"]
    copied = [i for i, name in enumerate(names) if name in copies]
    return hit | np.isin(columns.code["recording"][side], copied)


def _pretraining(
    columns: Columns, side: Int[np.ndarray, " side"], seen: Seen, by: str, name: str
) -> list[Leak]:
    """The recordings of a side that are among those a model has seen."""
    position = {recording: i for i, recording in enumerate(seen.recordings)}
    found: dict[str, str] = {}
    if by in WITHIN:
        used = [
            (recording, low, high)
            for recording, spans in zip(seen.recordings, seen.spans, strict=True)
            for low, high in spans or ((0.0, np.inf),)
        ]
        parts = Columns.of_values(
            {"recording": [recording for recording, _, _ in used] + _names(columns, side)},
            np.array([low for _, low, _ in used] + columns.start[side].tolist()),
            # An end that is not known lies behind every window.
            np.array(
                [min(high, 1e9) for _, _, high in used] + columns.stop[side].tolist(),
                dtype=np.float64,
            ),
        )
        late = parts.overlap(np.arange(len(used)), np.arange(len(used), len(parts)))
        hit = {columns.value("recording", int(i)) for i in side[late]}
    else:
        hit = {recording for recording in _names(columns, side) if recording in position}
    found = {str(recording): "" for recording in hit if recording is not None}
    marks = [
        (columns.value("recording", row) or f"fingerprint {mark[:16]}", mark)
        for _, mark, row in _marked(columns, side)
    ]
    marks = [(recording, mark) for recording, mark in marks if recording not in position]
    for i, j in find_copies(seen.fingerprints, [mark for _, mark in marks]):
        found.setdefault(marks[j][0], f" (a copy of {seen.recordings[i]})")
    if not found:
        return []
    shown = "; ".join(f"{key}{found[key]}" for key in sorted(found)[:_EXAMPLES])
    return [Leak("pretraining", "pretraining", name, len(found), shown)]


def _names(columns: Columns, rows: Int[np.ndarray, " member"]) -> list[str | None]:
    names = (*columns.names["recording"], None)  # -1 is the last
    return [names[i] for i in columns.code["recording"][rows].tolist()]
