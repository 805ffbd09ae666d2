"""Decoders of patterns by name. Penalties are chosen inside the training runs.

Axes: trial voxel, or trial voxel time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC, LinearSVC

from neurofm.evaluate.patterns.around import ChosenByRuns, Ensemble, NoiseWhitened, OverVolumes
from neurofm.evaluate.patterns.discriminants import CorrelationClassifier, ShrinkageLDA
from neurofm.evaluate.patterns.rotated import Rotated, RotatedLinear

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def _logistic() -> ChosenByRuns:
    return ChosenByRuns(
        {
            f"C={c:g}": RotatedLinear(LogisticRegression(C=c, max_iter=2000, tol=1e-3))
            for c in _PENALTIES
        }
    )


def _svm() -> ChosenByRuns:
    return ChosenByRuns(
        {f"C={c:g}": RotatedLinear(LinearSVC(C=c, max_iter=20000)) for c in _PENALTIES[:4]}
    )


def _ridge() -> ChosenByRuns:
    return ChosenByRuns(
        {f"alpha={a:g}": RotatedLinear(RidgeClassifier(alpha=a)) for a in (1, 1e1, 1e2, 1e3, 1e4)}
    )


def _rbf() -> ChosenByRuns:
    return ChosenByRuns(
        {f"C={c:g}": Rotated(SVC(C=c, gamma="scale", kernel="rbf")) for c in (0.3, 1, 3, 10)}
    )


def _network() -> Ensemble:
    """One hidden layer; five of them, because one depends on where it started."""
    nets = [
        Rotated(MLPClassifier((64,), alpha=1e-2, max_iter=400, tol=1e-3, random_state=seed))
        for seed in range(5)
    ]
    return Ensemble(nets)


def _whitened_correlation() -> NoiseWhitened:
    return NoiseWhitened(CorrelationClassifier())


DECODERS: dict[str, Callable[[], Any]] = {
    "lda": ShrinkageLDA,
    "lda_by_class": lambda: ShrinkageLDA("by_class", priors="empirical"),
    "logistic": _logistic,
    "svm": _svm,
    "ridge": _ridge,
    "naive_bayes": GaussianNB,
    "correlation": CorrelationClassifier,
    "whitened_correlation": _whitened_correlation,
    "rbf": _rbf,
    "network": _network,
}


def make_decoder(name: str) -> Any:
    """An unfitted decoder of `trial voxel`.

    Args:
        name: "lda" (shrunk discriminants, the first to try), "lda_by_class" (as scikit-learn has
            it), "logistic", "svm", "ridge", "naive_bayes", "correlation" (Haxby et al. 2001),
            "whitened_correlation", "rbf" (support vectors with a Gaussian kernel), "network".

    Raises:
        ValueError: Another name.
    """
    if name not in DECODERS:
        raise ValueError(f"decoder {name!r} is not one of {', '.join(DECODERS)}.")
    return DECODERS[name]()


def volumes_decoder(n_volumes: int, *, n_trial: int | None = None) -> ChosenByRuns:
    """Discriminants for trials of many volumes; which volumes to read is chosen by inner runs.

    Every window is as long as the trial and begins 0, 1, 2 ... volumes after it, as far as the
    volumes go: the delay of the response in this person and region. Within a window three ways of
    learning are tried: the mean, single volumes, and both together.

    Args:
        n_volumes: Of every pattern, from the beginning of the trial.
        n_trial: Volumes that the trial itself lasts; a window's length. The longest that leaves
            four windows if not given.

    Raises:
        ValueError: The window is longer than the volumes.
    """
    length = max(1, n_volumes - 3) if n_trial is None else n_trial
    if not 1 <= length <= n_volumes:
        raise ValueError(
            f"volumes_decoder: windows of {length} volumes in patterns of {n_volumes}."
        )
    options: dict[str, Any] = {}
    for first in range(n_volumes - length + 1):
        mean, single = (
            OverVolumes(ShrinkageLDA(), first, first + length, learn)
            for learn in ("mean", "volumes")
        )
        options |= {
            f"{first}, mean": mean,
            f"{first}, volumes": single,
            f"{first}, both": Ensemble([mean, single]),
        }
    return ChosenByRuns(options)
