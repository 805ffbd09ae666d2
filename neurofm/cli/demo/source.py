"""Which recordings the demo shows: real ones if they are there, a simulation otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from neurofm.io import fetch, open_corpus
from neurofm.io.corpus import Corpus

RUNS = ("4", "8", "12")  # of EEGMMIDB: imagined left or right fist
LABELS = ("left_hand", "right_hand")
_FETCH = (1, 2, 3)


@dataclass(frozen=True)
class Source:
    """Recordings of the demo.

    Args:
        corpus: Opened.
        recipes: Ending of the names of the recipes for this corpus.
        lead: First line of the report.
        pretrain: People whose unlabelled recordings train tokenizer and model; the last one
            validates.
        evaluate: Other people, who are decoded.
        runs: Of each person.
    """

    corpus: Corpus
    recipes: str
    lead: str
    pretrain: list[str]
    evaluate: list[str]
    runs: list[str]

    @property
    def simulated(self) -> bool:
        """Whether the truth is known."""
        return self.recipes == "simulated"


def find_source(*, download: bool, simulate: bool) -> Source:
    """Real recordings under `$NEUROFM_DATA` (fetched first if asked for), else the simulation."""
    if not simulate:
        if download:
            fetch("eegmmidb", subjects=_FETCH, runs=[int(run) for run in RUNS])
        try:
            return _real()
        except FileNotFoundError:
            if download:
                raise
    corpus = open_corpus("simulated_motor_imagery")
    subjects, runs = _complete(corpus, None)
    lead = (
        f"Simulated EEG of {len(subjects)} people (sources in motor cortex through a spherical "
        "head). Set NEUROFM_DATA to a folder with eegmmidb/ in it, or use --download, for real "
        "recordings."
    )
    return _halves(corpus, "simulated", lead, subjects, runs)


def _real() -> Source:
    corpus = open_corpus("eegmmidb")
    subjects, runs = _complete(corpus, RUNS)
    if len(subjects) < 2:
        raise FileNotFoundError(
            f"{corpus.root}: the demo needs two people with runs {', '.join(RUNS)}, found "
            f"{len(subjects)}."
        )
    lead = (
        f"Real EEG of {len(subjects)} people: PhysioNet EEG Motor Movement/Imagery, runs "
        f"{', '.join(RUNS)} (imagined left or right fist)."
    )
    return _halves(corpus, "eegmmidb", lead, subjects, runs)


def _complete(corpus: Corpus, runs: tuple[str, ...] | None) -> tuple[list[str], list[str]]:
    """People who have all the runs, at most twelve, and the runs."""
    found: dict[str, list[str]] = {}
    for recording in corpus.recordings(runs=runs):
        found.setdefault(recording.subject, []).append(recording.run or "")
    wanted = len(runs) if runs else max(len(own) for own in found.values())
    complete = sorted(subject for subject, own in found.items() if len(own) >= wanted)
    return complete[:12], sorted(found[complete[0]]) if complete else []


def _halves(
    corpus: Corpus, recipes: str, lead: str, subjects: list[str], runs: list[str]
) -> Source:
    """Decode the first half of the people, pretrain on the others."""
    half = len(subjects) // 2
    return Source(corpus, recipes, lead, subjects[half:], subjects[:half], runs)
