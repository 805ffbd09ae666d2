"""Find leakage between the sides of a split, independently of how the split was made.

What counts: the entity that the split claims to separate (subject, session, run, recording) on two
sides; windows of one recording that share time; one stimulus on two sides; two copies of one
recording (equal fingerprints) on two sides. Sorting and tables, no pairs of windows: a million rows
take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

from neurofm.data.rows import ENTITIES, Row, Split, overlapping

_REMEDY = {
    "window": "Make the split with a function of neurofm.data (by_group, kfold, ...).",
    "subject": "Split by subject.",
    "session": "Split by session or subject.",
    "run": "Split by run or subject.",
    "recording": "Split by recording, run or subject.",
    "time": "Split by recording or subject, or by_time with a gap of at least a window.",
    "stimulus": "Group windows by stimulus, or accept it by name: allow=['stimulus'].",
    "duplicate": "Remove one copy of the recording from the corpus.",
}


@dataclass(frozen=True)
class Leak:
    """Something that two sides of a split share.

    Args:
        kind: "window", "subject", "session", "run", "recording", "time", "stimulus" or "duplicate".
        left: Name of one side.
        right: Name of the other.
        count: Shared entities; for "time" and "window", windows of the right side.
        example: One of them.
    """

    kind: str
    left: str
    right: str
    count: int
    example: str

    def __str__(self) -> str:
        what = {
            "time": "windows share time with the other side",
            "window": "windows are on both sides",
            "stimulus": "stimuli are on both sides",
            "duplicate": "recordings are copies of a recording on the other side",
        }.get(self.kind, f"{self.kind}s are on both sides")
        return f"{self.left}/{self.right}: {self.count} {what}, such as {self.example}"


def find_leaks(rows: Sequence[Row], split: Split, *, by: str | None = None) -> list[Leak]:
    """All leaks between training, validation and test side.

    Args:
        by: What must not be on two sides, one of `ENTITIES`, or "time" for windows alone; what the
            split says if not given.

    Raises:
        ValueError: Unknown `by`, or positions outside the rows.
    """
    by = split.by if by is None else by
    if by not in (*ENTITIES, "time"):
        raise ValueError(f"find_leaks by {by!r}: expected one of {', '.join(ENTITIES)}, time.")
    for name, members in split.sides.items():
        if len(members) and not (min(members) >= 0 and max(members) < len(rows)):
            raise ValueError(
                f"find_leaks: split {split.name} names row {max(members)} on its {name} side, "
                f"but there are {len(rows)} rows. The split belongs to another table."
            )
    leaks: list[Leak] = []
    for (left, ours), (right, theirs) in combinations(split.sides.items(), 2):
        if not len(ours) or not len(theirs):
            continue
        twice = set(ours) & set(theirs)
        if twice:
            leaks.append(Leak("window", left, right, len(twice), _describe(rows[min(twice)])))
        for kind, key in _keys(by):
            shared = {key(rows[i]) for i in ours} & {key(rows[i]) for i in theirs}
            shared.discard(None)
            if shared:
                example = min(map(_readable, shared))
                leaks.append(Leak(kind, left, right, len(shared), example))
        late = overlapping(rows, ours, theirs) - twice
        if late:
            leaks.append(Leak("time", left, right, len(late), _describe(rows[min(late)])))
        copies = _copies(rows, ours, theirs)
        if copies:
            leaks.append(Leak("duplicate", left, right, len(copies), min(copies)))
    return leaks


def refuse_leakage(
    rows: Sequence[Row], split: Split, *, by: str | None = None, allow: Collection[str] = ()
) -> None:
    """Stop if the split leaks.

    Args:
        allow: Kinds of leak to accept knowingly, such as "stimulus" if all subjects saw the same.

    Raises:
        ValueError: The message names the first leaks and the fix.
    """
    unknown = sorted(set(allow) - set(_REMEDY))
    if unknown:
        raise ValueError(f"refuse_leakage: allow {unknown}: expected some of {list(_REMEDY)}.")
    leaks = [leak for leak in find_leaks(rows, split, by=by) if leak.kind not in allow]
    if not leaks:
        return
    shown = "; ".join(str(leak) for leak in leaks[:3])
    more = f"; and {len(leaks) - 3} more" if len(leaks) > 3 else ""
    raise ValueError(
        f"split {split.name} (by {by or split.by}) leaks: {shown}{more}. {_REMEDY[leaks[0].kind]}"
    )


def audit_summary(rows: Sequence[Row], split: Split) -> str:
    """One line: "split audit: 12 subjects x 3 runs, train 360 / test 180 windows, 0 leaks"."""
    used = [i for members in split.sides.values() for i in members]
    subjects = {rows[i].subject for i in used}
    runs = {(rows[i].session, rows[i].run) for i in used if rows[i].run is not None}
    recordings = {rows[i].recording for i in used}
    what = f"{len(subjects)} subject{'s' * (len(subjects) != 1)}"
    if runs and len(recordings) == len(subjects) * len(runs):
        what += f" x {len(runs)} run{'s' * (len(runs) != 1)}"
    else:
        what += f", {len(recordings)} recording{'s' * (len(recordings) != 1)}"
    sizes = " / ".join(f"{name} {len(side)}" for name, side in split.sides.items() if len(side))
    leaks = find_leaks(rows, split)
    found = f"{len(leaks)} leak{'s' * (len(leaks) != 1)}"
    if leaks:
        found += f" ({', '.join(dict.fromkeys(leak.kind for leak in leaks))})"
    return f"split audit: {what}, {sizes} windows, {found}"


def _keys(by: str) -> list[tuple[str, Callable[[Row], Hashable]]]:
    """What must differ between two sides, with its name."""
    entity: dict[str, Callable[[Row], Hashable]] = {
        "subject": lambda row: row.subject,
        "session": lambda row: (row.subject, row.session),
        "run": lambda row: (row.subject, row.session, row.run),
    }
    keys: list[tuple[str, Callable[[Row], Hashable]]] = []
    if by in entity:
        keys.append((by, entity[by]))
    if by != "time":
        keys.append(("recording", lambda row: row.recording))
    keys.append(("stimulus", lambda row: row.stimulus))
    return keys


def _copies(rows: Sequence[Row], left: Sequence[int], right: Sequence[int]) -> set[str]:
    """Recordings of the right side with the fingerprint of another recording of the left."""
    owners: dict[str, set[str]] = {}
    for i in left:
        mark = rows[i].fingerprint
        if mark is not None:
            owners.setdefault(mark, set()).add(rows[i].recording)
    copies = set()
    for i in right:
        mark = rows[i].fingerprint
        if mark in owners and owners[mark] - {rows[i].recording}:
            copies.add(rows[i].recording)
    return copies


def _describe(row: Row) -> str:
    return f"{row.recording} at {row.start:g}-{row.stop:g} s"


def _readable(value: Hashable) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    return " ".join(str(part) for part in parts if part is not None)
