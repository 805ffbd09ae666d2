"""The people and runs of a simulated corpus: nothing lies on disk, so they are counted."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm.types import Recording


def numbered(dataset: str, *, subjects: int, runs: int, task: str) -> list[Recording]:
    """Every run of every subject: "001", "002", ... and "01", "02", ...

    Raises:
        ValueError: There would be none.
    """
    if subjects < 1 or runs < 1:
        raise ValueError(f"{dataset}: {subjects} subjects, {runs} runs; at least 1 each.")
    return [
        Recording(dataset, f"{subject:03d}", run=f"{run:02d}", task=task)
        for subject in range(1, subjects + 1)
        for run in range(1, runs + 1)
    ]


def require_known(recording: Recording, recordings: Sequence[Recording]) -> None:
    """Raise ValueError if a recording is not of this corpus."""
    if recording not in recordings:
        raise ValueError(
            f"{recording.id} is not one of the {len(recordings)} recordings of this simulation; "
            "take one from `recordings()`."
        )


def require_subject(subject: str, recordings: Sequence[Recording]) -> None:
    """Raise ValueError if nobody of this name is in the corpus."""
    names = sorted({recording.subject for recording in recordings})
    if subject not in names:
        raise ValueError(f"no subject {subject!r}; there are {names[0]} to {names[-1]}.")
