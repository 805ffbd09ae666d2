"""Finding the right item among many by a predicted embedding.

The similarity of items and predictions is a matrix, and every score reads it along one axis:
*forward* compares one prediction with all true items (brain to image), *backward* one true item
with all predictions. A rate says little without the size of the set, so results carry it.

Source: Ozcelik & VanRullen 2023 (two-way identification); Scotti et al. 2023 (retrieval in sets of
300, SoftCLIP); Benchetrit et al. 2024 (relative median rank).
Axes: item = true embedding; query = predicted embedding; feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

from neurofm.metrics.responses import paired_rows, unit_rows
from neurofm.shapes import Float, Int


@dataclass(frozen=True)
class Retrieval:
    """A retrieval score with what it means.

    Args:
        value: The score.
        chance: What random embeddings reach.
        n_items: Size of the set that was searched.
        n_queries: How many searches the score is over.
        k: Of a top-k rate.
    """

    value: float
    chance: float
    n_items: int
    n_queries: int
    k: int | None = None

    def __str__(self) -> str:
        name = "relative median rank" if self.k is None else f"top-{self.k}"
        return (
            f"{name} {self.value:.3f} (chance {self.chance:.3f}; {self.n_queries} queries, "
            f"set of {self.n_items})"
        )


def similarity(
    true: Float[np.ndarray, "item feature"],
    predicted: Float[np.ndarray, "query _"],
    *,
    centred: bool = False,
) -> Float[np.ndarray, "item query"]:
    """Cosine of every true item with every prediction; Pearson r if `centred`.

    An embedding of zeros (centred: a constant one) has similarity 0 with all.
    """
    a, b = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"similarity: true has shape {a.shape} and predicted {b.shape}; expected rows of the "
            "same number of features. Is the embedding the one the decoder was trained on?"
        )
    for word, values in (("true", a), ("predicted", b)):
        if not np.isfinite(values).all():
            raise ValueError(f"similarity: the {word} embeddings hold NaN or infinite values.")
    if centred:
        a, b = (
            np.where(np.ptp(x, -1, keepdims=True) > 0, x - x.mean(-1, keepdims=True), 0)
            for x in (a, b)
        )
    return unit_rows(a) @ unit_rows(b).T


def two_way_by_prediction(
    true: Float[np.ndarray, "stimulus feature"], predicted: Float[np.ndarray, "_ _"]
) -> Float[np.ndarray, " stimulus"]:
    """For each prediction, the share of other true items that correlate less with it than its own.

    The column convention: along rows (one true item against all predictions) it is another number.
    Ties count as wrong, so a constant prediction gets 0.
    """
    a, b = paired_rows("two_way_identification", true, predicted)
    if len(a) < 2:
        raise ValueError("two_way_identification: expected two or more stimuli.")
    r = similarity(a, b, centred=True)
    return (r < np.diag(r)).sum(0) / (len(a) - 1)


def two_way_identification(
    true: Float[np.ndarray, "stimulus feature"], predicted: Float[np.ndarray, "_ _"]
) -> float:
    """Mean of `two_way_by_prediction`; chance 0.5.

    The pairs are not independent: for an interval resample stimuli or people, and no binomial test.
    """
    return float(two_way_by_prediction(true, predicted).mean())


def ranks(
    true: Float[np.ndarray, "item feature"],
    predicted: Float[np.ndarray, "query _"],
    *,
    which: Int[np.ndarray, " query"] | None = None,
    direction: str = "forward",
) -> Int[np.ndarray, " query"]:
    """How many candidates are at least as similar as the right one, 0 = found.

    Args:
        true: The set that is searched; it may hold items that nobody saw.
        predicted: In any number; several predictions may be of one item.
        which: Row of `true` that each prediction is of; the same row if not given.
        direction: "forward": each prediction searches the items. "backward": each item searches
            the predictions (which must be one per item); in the order of the predictions.
    """
    if direction not in ("forward", "backward"):
        raise ValueError(f"ranks: direction {direction!r} is not 'forward' or 'backward'.")
    table = similarity(true, predicted)
    n_items, n_queries = table.shape
    if which is None and n_items != n_queries:
        raise ValueError(
            f"ranks: {n_items} items and {n_queries} predictions. Say with `which` the row of "
            "`true` that each prediction is of."
        )
    place = np.arange(n_queries) if which is None else np.asarray(which)
    if place.shape != (n_queries,) or place.min() < 0 or place.max() >= n_items:
        raise ValueError(f"ranks: `which` must be one row from 0 to {n_items - 1} per prediction.")
    if direction == "backward":
        if not np.array_equal(np.sort(place), np.arange(n_items)):
            raise ValueError("ranks: backward search needs exactly one prediction per item.")
        table = table[place].T
        place = np.arange(n_items)
    own = table[place, np.arange(table.shape[1])]
    return (table >= own).sum(0) - 1


def top_k(
    true: Float[np.ndarray, "item feature"],
    predicted: Float[np.ndarray, "query _"],
    k: int = 5,
    *,
    which: Int[np.ndarray, " query"] | None = None,
    direction: str = "forward",
    set_size: int | None = None,
    n_draws: int = 30,
    seed: int = 0,
) -> Retrieval:
    """Share of searches whose right item is among the k most similar (cosine).

    Args:
        set_size: Search random sets of this many items and average over them (300 and 30 draws
            are usual); all at once if not given. Needs one prediction per item.
    """
    if set_size is None:
        rank = ranks(true, predicted, which=which, direction=direction)
        n = len(true) if direction == "forward" else len(predicted)
        _check_k(k, n)
        return Retrieval(float((rank < k).mean()), k / n, n, len(rank), k)
    if which is not None or len(true) != len(predicted) or not 1 < set_size <= len(true):
        raise ValueError(
            f"top_k: sets of {set_size} from {len(true)} items and {len(predicted)} predictions; "
            "expected one prediction per item and a size from 2 to their number."
        )
    _check_k(k, set_size)
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(n_draws):
        drawn = rng.choice(len(true), set_size, replace=False)
        rank = ranks(np.asarray(true)[drawn], np.asarray(predicted)[drawn], direction=direction)
        rates.append((rank < k).mean())
    return Retrieval(float(np.mean(rates)), k / set_size, set_size, n_draws * set_size, k)


def relative_median_rank(
    true: Float[np.ndarray, "item feature"],
    predicted: Float[np.ndarray, "query _"],
    *,
    which: Int[np.ndarray, " query"] | None = None,
    direction: str = "forward",
) -> Retrieval:
    """Median over searches of rank / size of the set: 0 = always found, about 0.5 = chance."""
    rank = ranks(true, predicted, which=which, direction=direction)
    n = len(true) if direction == "forward" else len(predicted)
    return Retrieval(float(np.median(rank) / n), (n - 1) / (2 * n), n, len(rank))


def n_way_accuracy(
    label: Int[np.ndarray, " stimulus"],
    posterior: Float[np.ndarray, "stimulus output"],
    *,
    n: int = 50,
) -> Float[np.ndarray, " stimulus"]:
    """Chance that the true class outscores n - 1 other classes drawn at random, for each stimulus.

    The mean over all draws in closed form, so there is no random number in it; chance is 1 / n.

    Args:
        label: Class of the true image, such as a classifier says it.
        posterior: The classifier's scores of the reconstruction.
    """
    p, own = np.asarray(posterior, dtype=np.float64), np.asarray(label)
    if p.ndim != 2 or own.shape != p.shape[:1] or not 2 <= n <= p.shape[1]:
        raise ValueError(
            f"n_way_accuracy: labels {own.shape}, posterior {p.shape} and n = {n}; expected one "
            "label per row and 2 to as many ways as columns."
        )
    below = (p < p[np.arange(len(p)), own][:, None]).sum(1)
    others, drawn = p.shape[1] - 1, n - 1
    possible = below >= drawn
    m = np.where(possible, below, drawn)
    log_share = gammaln(m + 1) - gammaln(m - drawn + 1)
    log_share -= gammaln(others + 1) - gammaln(others - drawn + 1)
    return np.where(possible, np.exp(log_share), 0.0)


def soft_clip(
    true: Float[np.ndarray, "stimulus feature"],
    predicted: Float[np.ndarray, "_ _"],
    *,
    temperature: float | int = 0.125,
) -> float:
    """SoftCLIP loss: predictions should be as similar to all true items as their own item is.

    Cross-entropy between the softmax of true-true and of predicted-true cosines, both directions.
    """
    a, b = paired_rows("soft_clip", true, predicted)
    a, b = unit_rows(a), unit_rows(b)
    target = a @ a.T / temperature
    share = np.exp(target - logsumexp(target, axis=1, keepdims=True))
    logits = b @ a.T / temperature
    losses = [
        -(share * (x - logsumexp(x, axis=1, keepdims=True))).sum(1).mean()
        for x in (logits, logits.T)
    ]
    return float(np.mean(losses))


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"top_k: k = {k} of a set of {n}; expected 1 to {n}.")
