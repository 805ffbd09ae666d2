"""Classical decoders of evoked responses: what counts is the time course after a stimulus.

Source: Blankertz et al. 2011 (shrinkage LDA); Rivet et al. 2009 (xDAWN); Barachant & Congedo 2014
(covariances with the mean responses); Nakanishi et al. 2018 (task-related components).
Axes: window channel time.
"""

from __future__ import annotations

import numpy as np
from pyriemann.estimation import ERPCovariances, XdawnCovariances
from pyriemann.spatialfilters import Xdawn
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline

from neurofm.cards import callable_from_cards
from neurofm.data.covariance import covariances, oas_share, shrunk
from neurofm.evaluate.classical.features import EveryKth
from neurofm.evaluate.classical.motor import shrinkage_lda, tangent_steps
from neurofm.evaluate.classical.pipeline import WindowPipeline
from neurofm.shapes import Float


@callable_from_cards
def samples_lda(*, every: int = 4) -> WindowPipeline:
    """Linear discriminant with shrinkage on every k-th sample of all channels.

    Args:
        every: Samples; windows should hold no frequencies above half the rate that is left.
    """
    return WindowPipeline(Pipeline([("samples", EveryKth(every)), ("lda", shrinkage_lda())]))


@callable_from_cards
def xdawn_lda(*, n_components: int = 4, every: int = 4) -> WindowPipeline:
    """Components in which the mean response of each class stands out, then as `samples_lda`.

    Args:
        n_components: For each class; at most as many as channels.
        every: Samples.
    """
    steps = [
        ("xdawn", Xdawn(n_components, estimator="lwf")),
        ("samples", EveryKth(every)),
        ("lda", shrinkage_lda()),
    ]
    return WindowPipeline(Pipeline(steps), n_components=n_components)


@callable_from_cards
def xdawn_tangent_lr(*, n_components: int = 4, c: float = 0.1) -> WindowPipeline:
    """Covariances of xDAWN components and their mean responses, tangent space, logistic regression.

    Args:
        n_components: For each class; at most as many as channels.
        c: Inverse strength of the ridge penalty.
    """
    covariance = XdawnCovariances(n_components, estimator="oas", xdawn_estimator="lwf")
    steps = [("covariance", covariance), *tangent_steps(c)]
    return WindowPipeline(Pipeline(steps), n_components=n_components)


@callable_from_cards
def erp_tangent_lr(*, c: float = 0.1, scale: bool = True, balanced: bool = True) -> WindowPipeline:
    """Covariances of windows and the mean response of each class, tangent space, then regression.

    For few channels: with n of them and k classes the matrices have (k + 1) n rows.

    Args:
        c: Inverse strength of the ridge penalty.
        scale: z-score features. The penalty then weighs noise and responses alike: with four
            channels 1 to 3 points of the area under the curve are lost.
        balanced: Classes weigh equally, however many windows they have.
    """
    steps = tangent_steps(c, balanced=balanced, scale=scale)
    return WindowPipeline(Pipeline([("covariance", ERPCovariances(estimator="oas")), *steps]))


@callable_from_cards
def trca() -> WindowPipeline:
    """Task-related components, as `TaskRelatedComponents`, for windows locked to a flicker."""
    return WindowPipeline(Pipeline([("trca", TaskRelatedComponents())]))


class TaskRelatedComponents(ClassifierMixin, BaseEstimator):
    """One spatial filter for each class, whose output repeats from window to window.

    A window belongs to the class whose mean response it correlates with most, filters of all
    classes taken together (the "ensemble" of the source). Probabilities are the softmax of the
    correlations times the square root of the number of samples that entered them.
    """

    def fit(
        self, x: Float[np.ndarray, "window channel time"], y: np.ndarray
    ) -> TaskRelatedComponents:
        """Filters and mean responses."""
        self.classes_ = np.unique(y)
        x = x - x.mean(axis=2, keepdims=True)
        filters, templates = [], []
        for label in self.classes_:
            own = x[y == label]
            total = own.sum(axis=0)
            each = np.einsum("wct,wdt->cd", own, own)
            within = covariances(own).mean(axis=0, keepdims=True)
            share = oas_share(within, own.shape[0] * own.shape[2])
            between = total @ total.T - each  # covariance of different windows with each other
            _, vectors = eigh(between, shrunk(within, share)[0])
            filters.append(vectors[:, -1])
            templates.append(own.mean(axis=0))
        self.filters_ = np.stack(filters)
        self.templates_ = np.stack(templates)
        return self

    def predict_proba(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window output"]:
        """Probability of each class."""
        x = x - x.mean(axis=2, keepdims=True)
        given = np.einsum("fc,wct->wft", self.filters_, x).reshape(len(x), -1)
        mean = np.einsum("fc,kct->kft", self.filters_, self.templates_)
        mean = mean.reshape(len(self.classes_), -1)
        given /= np.linalg.norm(given, axis=1, keepdims=True)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        score = given @ mean.T * np.sqrt(x.shape[2])
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        return weight / weight.sum(axis=1, keepdims=True)

    def predict(self, x: Float[np.ndarray, "window channel time"]) -> np.ndarray:
        """The most probable class."""
        return self.classes_[self.predict_proba(x).argmax(1)]
