"""A stream's predictions beside those that the whole recording gives.

Two comparisons: the same causal steps in one pass, where any difference would be a fault of the
stream; and the recipe's own steps, which may look into the future, where the difference is what
causality costs. With events, both are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.live.decoder import LiveDecoder
from neurofm.live.processing import Processing
from neurofm.live.session import Outcome, Prediction, Session
from neurofm.metrics import balanced_accuracy
from neurofm.shapes import Float, Int
from neurofm.stats import chance_level
from neurofm.types import Event, Signal

_TOGETHER = 64


@dataclass(frozen=True)
class Agreement:
    """Predictions of the same windows in two ways.

    Args:
        n: Windows.
        same: Share with the same class.
        largest: Largest difference of a probability.
        probability: The other predictions.
    """

    n: int
    same: float
    largest: float
    probability: Float[np.ndarray, "window class"]


@dataclass(frozen=True)
class Score:
    """How often a stream was right where events say what was right.

    Args:
        n: Windows, one at each event.
        balanced: Balanced accuracy.
        chance: That of guessing.
        luck: What guessing reaches in one of twenty recordings of this length.
    """

    n: int
    balanced: float
    chance: float
    luck: float


def compare(session: Session, outcome: Outcome, *, own_steps: bool = False) -> Agreement | None:
    """Predictions of a stream beside those of its raw samples as one recording.

    Args:
        own_steps: By the recipe's own steps instead of their causal forms.

    Returns:
        None where nothing was kept or predicted.
    """
    if outcome.raw is None or not outcome.predictions:
        return None
    raw, processing = outcome.raw, session.processing
    if own_steps and session.source.whole is not None:
        raw = session.source.whole
    signal = processing.offline(raw)
    if own_steps:
        signal = _by_own_steps(session.decoder, raw, processing)
    n = session.n
    inside = [p for p in outcome.predictions if p.first + n <= signal.data.shape[1]]
    if not inside:
        return None
    other = _predicted(session.decoder, signal, [p.first for p in inside], n, processing)
    mine = np.stack([p.probability for p in inside])
    return Agreement(
        n=len(inside),
        same=float((mine.argmax(1) == other.argmax(1)).mean()),
        largest=float(np.abs(mine - other).max()),
        probability=other,
    )


def _by_own_steps(decoder: LiveDecoder, raw: Signal, processing: Processing) -> Signal:
    signal = raw
    for step in decoder.facts.steps():
        signal = step(signal)
    place = {name: i for i, name in enumerate(signal.sensors.names)}
    return signal.pick([place[name] for name in processing.head.sensors.names])


def _predicted(
    decoder: LiveDecoder, signal: Signal, firsts: Sequence[int], n: int, processing: Processing
) -> Float[np.ndarray, "window class"]:
    found = []
    for at in range(0, len(firsts), _TOGETHER):
        windows = [signal.data[:, first : first + n] for first in firsts[at : at + _TOGETHER]]
        found.append(
            decoder.probabilities(
                np.stack(windows),
                signal.sensors,
                sfreq=processing.sfreq,
                unit=processing.unit,
                band=processing.band,
            )
        )
    return np.concatenate(found)


def at_events(
    predictions: Sequence[Prediction],
    events: Sequence[Event],
    *,
    labels: Sequence[str],
    window_s: float,
    offset_s: float,
    step_s: float,
) -> tuple[Int[np.ndarray, " event"], Int[np.ndarray, " event"]]:
    """Which prediction saw the window of each event, as in training, and the event's class.

    Returns:
        Positions in `predictions`, and classes. Events without a window within half a step are
        left out.
    """
    starts = np.array([p.time_s - window_s for p in predictions])
    found, classes = [], []
    for event in events:
        if event.label not in labels or not len(starts):
            continue
        away = np.abs(starts - event.onset - offset_s)
        best = int(away.argmin())
        if away[best] <= step_s / 2 + 1e-6:
            found.append(best)
            classes.append(list(labels).index(event.label))
    return np.array(found, dtype=np.int64), np.array(classes, dtype=np.int64)


def score(
    probability: Float[np.ndarray, "window class"],
    at: Int[np.ndarray, " event"],
    y: Int[np.ndarray, " event"],
) -> Score | None:
    """Balanced accuracy at events; None with fewer than two classes among them."""
    if len(np.unique(y)) < 2:
        return None
    return Score(
        n=len(y),
        balanced=balanced_accuracy(y, probability[at].argmax(1)),
        chance=1 / probability.shape[1],
        luck=chance_level(y)[1],
    )
