"""Tables of windows with and without leaks."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm.data import (
    Row,
    Split,
    by_group,
)


def table(subjects: int = 6, sessions: int = 2, windows: int = 8) -> list[Row]:
    """Windows of 2 s every 2 s, each with a stimulus of its own."""
    return [
        Row(
            subject=f"{s:02d}",
            session=str(k),
            run="1",
            recording=f"toy_sub-{s:02d}_ses-{k}",
            start=2.0 * w,
            stop=2.0 * w + 2.0,
            label=w % 2,
            stimulus=f"{s}-{k}-{w}",
            fingerprint=f"{s}/{k}",
        )
        for s in range(subjects)
        for k in range(sessions)
        for w in range(windows)
    ]


def sides_of(rows: Sequence[Row], by: str = "subject") -> Split:
    if by == "time":  # the first half of every recording trains
        half = max(row.stop for row in rows) / 2
        train = tuple(i for i, row in enumerate(rows) if row.stop <= half)
        test = tuple(i for i, row in enumerate(rows) if row.start >= half)
        return Split(train, (), test, name="halves", by="time")
    return by_group(rows, by, (0.5, 0.2, 0.3))
