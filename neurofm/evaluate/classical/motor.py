"""Classical decoders of induced rhythms: what moves is power, and where it is.

`csp_lda`, `tangent_lr` and `mdm` expect windows band-passed to the rhythm in question (8-30 Hz for
movements), `filter_bank_csp` a band that holds all of its own.

Source: Blankertz et al. 2008 (common spatial patterns); Ang et al. 2012 (filter bank); Barachant et
al. 2012 (tangent space, minimum distance to mean).
Axes: window channel time.
"""

from __future__ import annotations

from typing import Any

from pyriemann.classification import MDM
from pyriemann.tangentspace import TangentSpace
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from neurofm.cards import callable_from_cards
from neurofm.data.covariance import riemannian_mean
from neurofm.evaluate.classical.features import (
    BandCovariances,
    CommonSpatialPatterns,
    Covariances,
    most_informative,
)
from neurofm.evaluate.classical.pipeline import WindowPipeline

# 4 Hz wide, side by side, as published.
_BANK = tuple((low, low + 4.0) for low in (4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0, 32.0, 36.0))


def shrinkage_lda() -> LinearDiscriminantAnalysis:
    """Linear discriminant whose covariance is shrunk by the formula of Ledoit and Wolf."""
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


def tangent_steps(
    c: float, *, balanced: bool = True, scale: bool = True
) -> list[tuple[str, object]]:
    """From covariances to classes: tangent space at their mean, z-score, logistic regression."""
    metric = {"mean": riemannian_mean, "map": "riemann"}
    weight = "balanced" if balanced else None
    return [
        ("tangent", TangentSpace(metric=metric)),
        *([("scale", StandardScaler())] if scale else []),
        ("lr", LogisticRegression(C=c, class_weight=weight, max_iter=1000)),
    ]


@callable_from_cards
def csp_lda(*, n_components: int = 6) -> WindowPipeline:
    """Common spatial patterns, log power, linear discriminant with shrinkage.

    After fitting, `pipeline_["csp"].patterns_` holds the scalp pattern of each component (component
    by channel), the most informative ones first.

    Args:
        n_components: At most as many as channels.
    """
    return WindowPipeline(
        Pipeline(
            [
                ("covariance", Covariances("class")),
                ("csp", CommonSpatialPatterns(n_components)),
                ("lda", shrinkage_lda()),
            ]
        ),
        n_components=n_components,
    )


@callable_from_cards
def filter_bank_csp(
    *,
    bands: Any = _BANK,
    n_components: int = 4,
    n_features: int = 8,
    sfreq: float | None = None,
) -> WindowPipeline:
    """Common spatial patterns in every band; the features that say most are kept for the LDA.

    Args:
        bands: Lower and upper edges, Hz. The windows must hold all of them.
        n_components: In each band.
        n_features: Of all bands together, by mutual information with the class.
        sfreq: Hz, if `fit` is not told.
    """
    total = len(bands) * n_components
    if not 1 <= n_features <= total:
        raise ValueError(
            f"filter_bank_csp: n_features is {n_features}; {len(bands)} bands with {n_components} "
            f"components give 1 to {total}."
        )
    return WindowPipeline(
        Pipeline(
            [
                ("covariance", BandCovariances(bands)),
                ("csp", CommonSpatialPatterns(n_components)),
                ("select", most_informative(n_features)),
                ("lda", shrinkage_lda()),
            ]
        ),
        sfreq=sfreq,
        n_components=n_components,
        min_windows=4,  # mutual information looks at three neighbours of the same class
    )


@callable_from_cards
def tangent_lr(*, c: float = 0.1, balanced: bool = True) -> WindowPipeline:
    """Shrunk covariances in the tangent space at their Riemannian mean, then logistic regression.

    Args:
        c: Inverse strength of the ridge penalty.
        balanced: Classes weigh equally, however many windows they have.
    """
    steps = [("covariance", Covariances()), *tangent_steps(c, balanced=balanced)]
    return WindowPipeline(Pipeline(steps))


@callable_from_cards
def mdm() -> WindowPipeline:
    """Shrunk covariances; the class whose Riemannian mean is nearest.

    Probabilities are the softmax of negative squared distances: their order is meant, not their
    size, which with many channels is near 0 or 1.
    """
    metric = {"mean": riemannian_mean, "distance": "riemann"}
    return WindowPipeline(Pipeline([("covariance", Covariances()), ("mdm", MDM(metric=metric))]))
