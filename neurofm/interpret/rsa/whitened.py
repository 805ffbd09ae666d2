"""Similarities that know how the entries of an RDM hang together, without their covariance matrix.

Distances that share a condition share its noise. Without signal their covariance is V = (C S C')
squared entry by entry, with C all contrasts of two conditions and S the covariance of conditions.
V has as many rows as there are pairs; it is never made. With K the inverse of S and P = K - K11'K
/ 1'K1, the product of two RDMs in the metric of V's inverse is tr(P A P B) / 4 for square RDMs A
and B: their Gram matrices' product, in the metric of S.

If pairs are missing, V of the others is inverted by conjugate gradients. V times a vector is the
quadratic form of all contrasts with S L S, L the Laplacian of the vector as a graph; the closed
form without missing pairs is the preconditioner, so that few steps do.

Source: Diedrichsen et al. 2021 (whitened comparison).
Axes: rdm, pair = upper triangle by rows, condition.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from neurofm.interpret.rsa.pairs import n_conditions, pairs_of, squares
from neurofm.shapes import Bool, Float

TOLERANCE = 1e-13  # of conjugate gradients, relative
MOST_STEPS = 1000


def whitened_cosine(
    a: Float[np.ndarray, "first pair"],
    b: Float[np.ndarray, "second pair"],
    sigma_k: Float[np.ndarray, " condition"] | Float[np.ndarray, "condition condition"] | None,
    keep: Bool[np.ndarray, " pair"],
) -> Float[np.ndarray, "first second"]:
    """Cosine in the metric of V's inverse; 0 for an RDM of zeros.

    Args:
        sigma_k: Covariance of conditions, or their variances; identity if not given.
        keep: Pairs that count; the others' values are not looked at.
    """
    n = n_conditions(a.shape[1])
    metric = _Metric.of(n, sigma_k)
    if keep.all():
        products, left, right = metric.closed(a, b)
    else:
        x = np.where(keep, np.concatenate([a, b]), 0.0)
        solved = metric.solve(x, keep)
        products = x[: len(a)] @ solved[len(a) :].T
        norms = np.einsum("kq,kq->k", x, solved)
        left, right = norms[: len(a)], norms[len(a) :]
    scale = np.sqrt(np.maximum(left, 0.0))[:, None] * np.sqrt(np.maximum(right, 0.0))
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)


def rdm_covariance(
    n: int,
    sigma_k: Float[np.ndarray, " condition"]
    | Float[np.ndarray, "condition condition"]
    | None = None,
) -> Float[np.ndarray, "pair pair"]:
    """V of the module's docstring, for a look at it: comparisons never need it."""
    sigma = _Metric.of(n, sigma_k).sigma
    sigma = np.diag(sigma) if sigma.ndim == 1 else sigma
    rows, columns = np.triu_indices(n, 1)
    half = sigma[rows] - sigma[columns]
    return (half[:, rows] - half[:, columns]) ** 2


@dataclass(frozen=True)
class _Metric:
    """S and P of the module's docstring; S as variances if it is diagonal."""

    n: int
    sigma: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, n: int, sigma_k: np.ndarray | None) -> _Metric:
        sigma = np.ones(n) if sigma_k is None else np.asarray(sigma_k, dtype=np.float64)
        if sigma.shape not in ((n,), (n, n)):
            raise ValueError(
                f"compare: sigma_k has shape {sigma.shape} for RDMs of {n} conditions; expected "
                f"({n},) or ({n}, {n})."
            )
        if sigma.ndim == 2 and not (sigma - np.diag(np.diag(sigma))).any():
            sigma = np.diag(sigma).copy()
        if sigma.ndim == 1:
            if not (sigma > 0).all():
                raise ValueError("compare: sigma_k holds variances that are not positive.")
            return cls(n, sigma, 1 / sigma)
        try:
            factor = linalg.cho_factor(sigma)
        except linalg.LinAlgError as error:
            raise ValueError(
                "compare: sigma_k is not positive definite. Shrink it towards its diagonal."
            ) from error
        inverse = linalg.cho_solve(factor, np.eye(n))
        margin = inverse.sum(0)
        return cls(n, sigma, inverse - np.outer(margin, margin) / margin.sum())

    def closed(
        self, a: Float[np.ndarray, "first pair"], b: Float[np.ndarray, "second pair"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Products of all with all, and of each with itself, if no pair is missing."""
        if self.sigma.ndim == 1:
            weight, left, right = self._weight, self._features(a), self._features(b)
            norms = [np.einsum("kf,kf,f->k", x, x, weight) for x in (left, right)]
            return (left * weight) @ right.T, norms[0], norms[1]
        left, right = (
            (squares(x).reshape(-1, self.n) @ self.inverse).reshape(-1, self.n, self.n)
            for x in (a, b)
        )
        norms = [np.einsum("kij,kji->k", x, x) for x in (left, right)]
        turned = right.transpose(0, 2, 1).reshape(len(right), -1)
        return left.reshape(len(left), -1) @ turned.T, norms[0], norms[1]

    def _features(self, x: Float[np.ndarray, "rdm pair"]) -> Float[np.ndarray, "rdm feature"]:
        """Pairs, sums of conditions and their total, each with variances taken out.

        With weights of 2, -2/q and 1/q^2 (q the sum of precisions) their product is the closed
        form: projections need no matrices.
        """
        scale = np.sqrt(self.inverse)
        n, m = self.n, x.shape[1]
        out = np.zeros((len(x), m + n + 1))
        rows, columns = np.triu_indices(n, 1)
        np.multiply(x, scale[rows] * scale[columns], out=out[:, :m])
        sums, start = out[:, m : m + n], 0
        for i in range(n - 1):
            row = out[:, start : start + n - 1 - i]
            sums[:, i] += row @ scale[i + 1 :]
            sums[:, i + 1 :] += row * scale[i]
            start += n - 1 - i
        out[:, -1] = sums @ scale
        return out

    @property
    def _weight(self) -> Float[np.ndarray, " feature"]:
        q, n = self.inverse.sum(), self.n
        return np.concatenate([np.full(n * (n - 1) // 2, 2.0), np.full(n, -2 / q), [1 / q**2]])

    def solve(
        self, x: Float[np.ndarray, "rdm pair"], keep: Bool[np.ndarray, " pair"]
    ) -> Float[np.ndarray, "rdm pair"]:
        """V of the kept pairs, inverted, times each RDM."""
        out, rest = np.zeros_like(x), x.copy()
        ready = self._times_inverse(rest) * keep
        step, size = ready.copy(), np.einsum("kq,kq->k", rest, ready)
        aim = TOLERANCE * np.linalg.norm(x, axis=1)
        for _ in range(MOST_STEPS):
            open_ = np.linalg.norm(rest, axis=1) > aim
            if not open_.any():
                return out
            moved = self._times_v(step) * keep
            length = np.where(open_, size, 0.0) / np.where(
                open_, np.einsum("kq,kq->k", step, moved), 1.0
            )
            out += length[:, None] * step
            rest -= length[:, None] * moved
            ready = self._times_inverse(rest) * keep
            new = np.einsum("kq,kq->k", rest, ready)
            turn = np.where(open_, new, 0.0) / np.where(open_, size, 1.0)
            step, size = ready + turn[:, None] * step, new
        warnings.warn(
            f"compare: {int(open_.sum())} of {len(x)} RDMs with missing pairs were not solved to "
            f"{TOLERANCE} in {MOST_STEPS} steps; sigma_k is nearly singular.",
            stacklevel=4,
        )
        return out

    def _times_v(self, x: Float[np.ndarray, "rdm pair"]) -> Float[np.ndarray, "rdm pair"]:
        graph = -squares(x)
        at = np.arange(self.n)
        graph[:, at, at] = -graph.sum(2)
        if self.sigma.ndim == 1:
            form = graph * np.outer(self.sigma, self.sigma)
        else:
            form = self.sigma @ graph @ self.sigma
        own = form[:, at, at]
        return pairs_of(own[:, :, None] + own[:, None, :] - 2 * form)

    def _times_inverse(self, x: Float[np.ndarray, "rdm pair"]) -> Float[np.ndarray, "rdm pair"]:
        """V's inverse, were no pair missing: P X P / 2."""
        square = squares(x)
        if self.sigma.ndim == 1:
            w = self.inverse
            margin = square @ w / w.sum()
            square += (margin @ w / w.sum())[:, None, None]
            square -= margin[:, :, None] + margin[:, None, :]
            square *= np.outer(w, w) / 2
        else:
            square = self.inverse @ square @ self.inverse / 2
        return pairs_of(square)
