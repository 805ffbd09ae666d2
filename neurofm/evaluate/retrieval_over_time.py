"""When a stimulus can be told from brain activity: retrieval from ever other parts of a window.

For every part a decoder is trained anew. Parts of one length that slide over the window say when
the information is there; parts that grow from its start say how soon there is enough.

Source: Benchetrit et al. 2024 (arXiv 2310.19812). Length and step of the paper are not stated:
250 ms and 25 ms are ours.
Axes: window channel time; part; feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from neurofm.batch import Batch
from neurofm.shapes import Float
from neurofm.tasks.in_memory import fit_windows
from neurofm.tasks.retrieve import Retrieve, search_scores

PENALTIES = tuple(10.0**k for k in range(-1, 8))
_MANY = 256  # windows at once where no gradient is needed


class Retriever(Protocol):
    """From windows to embeddings of stimuli."""

    def fit(self, windows: Batch) -> Any:
        """Learn from windows with embeddings as targets."""
        ...

    def predict(self, windows: Batch) -> Float[np.ndarray, "window feature"]:
        """Estimates to search with."""
        ...


class RidgeRetriever:
    """The linear baseline: ridge regression of the embedding on all samples of all channels.

    Every channel and sample is standardized by the training windows. Padded channels are left out;
    all windows must have the same sensors.

    Args:
        penalties: One is chosen by leaving out single training windows (of standardized features,
            times their number).
    """

    def __init__(self, penalties: Sequence[float] = PENALTIES) -> None:
        self.penalties = tuple(penalties)
        self.model: RidgeCV | None = None

    def fit(self, windows: Batch) -> RidgeRetriever:
        """Learn from windows with embeddings as targets."""
        x, y = _flat(windows), _targets(windows)
        self._mean, self._scale = x.mean(0), x.std(0)
        self._scale[self._scale == 0] = 1.0
        n_features = x.shape[1]
        # The same penalty means as much for any number of channels and samples.
        self.model = RidgeCV(alphas=[p * n_features / 1e3 for p in self.penalties])
        self.model.fit((x - self._mean) / self._scale, y)
        return self

    def predict(self, windows: Batch) -> Float[np.ndarray, "window feature"]:
        """Estimates to search with."""
        if self.model is None:
            raise ValueError("RidgeRetriever: call fit() first.")
        return self.model.predict((_flat(windows) - self._mean) / self._scale)


class NetworkRetriever:
    """A network, trained for a fixed number of steps.

    Args:
        build: A fresh task for windows of so many samples.
        steps: Of the training.
        batch_size: Windows in a step.
        seed: Of weights, dropout and the order of windows.
    """

    def __init__(
        self, build: Callable[[int], Retrieve], *, steps: int, batch_size: int = 128, seed: int = 0
    ) -> None:
        self.build, self.steps, self.batch_size, self.seed = build, steps, batch_size, seed
        self.task: Retrieve | None = None

    def fit(self, windows: Batch) -> NetworkRetriever:
        """Learn from windows with embeddings as targets."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.task = self.build(windows.x.shape[-1])
            fit_windows(
                self.task, windows, steps=self.steps, batch_size=self.batch_size, seed=self.seed
            )
        return self

    def predict(self, windows: Batch) -> Float[np.ndarray, "window feature"]:
        """Estimates to search with."""
        if self.task is None:
            raise ValueError("NetworkRetriever: call fit() first.")
        task = self.task.eval()
        parts = torch.arange(len(windows)).split(_MANY)
        with torch.no_grad():
            found = [task(windows._map(lambda tensor, i=i: tensor[i])) for i in parts]
        return torch.cat(found).float().flatten(1).numpy()


@dataclass(frozen=True)
class RetrievalOverTime:
    """Scores of every part of a window.

    Args:
        start: Of each part, seconds after the stimulus.
        stop: Of each part, seconds after the stimulus.
        scores: By name, see `tasks.search_scores`.
    """

    start: Float[np.ndarray, " part"]
    stop: Float[np.ndarray, " part"]
    scores: dict[str, Float[np.ndarray, " part"]]


def retrieve_over_time(
    make: Callable[[], Retriever],
    train: Batch,
    test: Batch,
    *,
    start_s: float = 0.0,
    width_s: float = 0.25,
    step_s: float = 0.025,
    how: Literal["sliding", "growing"] = "sliding",
) -> RetrievalOverTime:
    """Train a decoder for every part of a window, and search with it.

    Args:
        make: A fresh decoder.
        train: Windows with embeddings as targets.
        test: Windows of other stimuli, with the same sensors, rate and length.
        start_s: Of the windows after their stimulus, seconds; negative if before it.
        width_s: Length of a part; of the first one if they grow.
        step_s: From part to part.
        how: "sliding" or "growing" from the start of the window.

    Raises:
        ValueError: A stimulus is on both sides, sides differ in rate or length, or no part fits.
    """
    same = train.sfreq == test.sfreq and train.x.shape[-1] == test.x.shape[-1]
    if not same or how not in ("sliding", "growing"):
        raise ValueError(
            f"retrieve_over_time: training windows of {train.x.shape[-1]} samples at "
            f"{train.sfreq:g} Hz, test windows of {test.x.shape[-1]} at {test.sfreq:g} Hz, how "
            f"{how!r}; expected the same of both sides, and 'sliding' or 'growing'."
        )
    refuse_shared_stimuli(train, test)
    n, rate = train.x.shape[-1], train.sfreq
    width, step = round(width_s * rate), max(1, round(step_s * rate))
    if not 0 < width <= n:
        raise ValueError(
            f"retrieve_over_time: parts of {width_s:g} s are {width} samples of windows of {n}; "
            "expected at least one and at most all."
        )
    stops = np.arange(width, n + 1, step)
    starts = stops - width if how == "sliding" else np.zeros_like(stops)
    found: list[dict[str, float]] = []
    subject = test.subject.numpy()
    for first, last in zip(starts.tolist(), stops.tolist(), strict=True):
        decoder = make()
        decoder.fit(part_of(train, first, last))
        guesses = decoder.predict(part_of(test, first, last))
        found.append(search_scores(guesses, _targets(test), subject=subject))
    scores = {name: np.array([part[name] for part in found]) for name in found[0]}
    return RetrievalOverTime(start_s + starts / rate, start_s + stops / rate, scores)


def of_subject(windows: Batch, subject: int) -> Batch:
    """The windows of one person."""
    mine = windows.subject == subject
    return windows._map(lambda tensor: tensor[mine])


def part_of(windows: Batch, first: int, last: int) -> Batch:
    """The same windows with samples from `first` to before `last` alone."""
    return replace(
        windows, x=windows.x[..., first:last], onset=windows.onset + first / windows.sfreq
    )


def refuse_shared_stimuli(train: Batch, test: Batch) -> None:
    """Stop if a stimulus of the test is among those of the training.

    Raises:
        ValueError: With their number.
    """
    known = {row.tobytes() for row in _targets(train)}
    shared = {row.tobytes() for row in _targets(test)} & known
    if shared:
        raise ValueError(
            f"{len(shared)} stimuli of the test windows are among those of the training, so that "
            "they are recognised, not decoded. Split by stimulus."
        )


def _targets(windows: Batch) -> Float[np.ndarray, "window feature"]:
    if windows.y is None or not windows.y.is_floating_point():
        raise ValueError(
            "The targets of these windows are no embeddings. Cut them with `embeddings` "
            "(`neurofm.data.Windows`)."
        )
    return np.ascontiguousarray(windows.y.flatten(1).float().numpy())


def _flat(windows: Batch) -> Float[np.ndarray, "window feature"]:
    """All samples of all channels of a window in a row."""
    mask = windows.channel_mask
    if not bool((mask == mask[:1]).all()):
        raise ValueError(
            "RidgeRetriever: windows have different channels. Fit one for each person, or choose "
            "channels that all have (`PickChannels`)."
        )
    return windows.x[:, mask[0]].flatten(1).double().numpy()
