"""Ridge over tokens against one scikit-learn fit per token, and matching of moments."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from neurofm.linear import TokenwiseRidge
from neurofm.metrics import Moments, moment_match

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(params=[15, 90], ids=["fewer voxels than images", "more voxels than images"])
def problem(request: pytest.FixtureRequest) -> Problem:
    rng = np.random.default_rng(0)
    p = request.param
    x, new = rng.normal(size=(40, p)) + 3, rng.normal(size=(9, p)) + 3
    y = (x @ rng.normal(size=(p, 12)) + rng.normal(size=(40, 12))).reshape(40, 3, 4) + 5
    return x, y, new


def test_every_token_has_the_weights_of_its_own_regression(problem: Problem):
    x, y, new = problem
    model = TokenwiseRidge(30).fit(x, y)
    for token in range(3):
        fit = Ridge(alpha=30).fit(x, y[:, token])
        np.testing.assert_allclose(model.coef[:, token], fit.coef_.T, atol=1e-10)
        np.testing.assert_allclose(model.predict(new)[:, token], fit.predict(new), atol=1e-10)
    narrow = TokenwiseRidge(30).fit(x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(narrow.predict(new), model.predict(new), atol=1e-4)


@pytest.mark.parametrize("match", [None, "batch", "training"])
def test_predictions_need_no_weights(problem: Problem, match: str | None, tmp_path):
    x, y, new = problem
    expected = TokenwiseRidge(30, match=match).fit(x, y).predict(new)
    streamed = TokenwiseRidge(30, match=match, max_bytes=1)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float64, (9, 3, 4))
    assert streamed.fit_predict(x, y, new, out=out) is out
    np.testing.assert_allclose(out, expected, atol=1e-10)


def test_predictions_of_a_batch_get_the_moments_of_the_targets(problem: Problem):
    x, y, new = problem
    made = TokenwiseRidge(30, match="batch", ddof=1).fit(x, y).predict(new)
    np.testing.assert_allclose(made.mean(0), y.mean(0))
    np.testing.assert_allclose(made.std(0, ddof=1), y.std(0, ddof=1))


def test_single_trials_are_matched_by_leave_one_out_predictions(problem: Problem):
    x, y, new = problem
    flat = y.reshape(40, -1)
    held = [
        Ridge(alpha=30).fit(np.delete(x, i, 0), np.delete(flat, i, 0)).predict(x[i : i + 1])[0]
        for i in range(40)
    ]
    plain = TokenwiseRidge(30).fit(x, y).predict(new[:1])
    expected = moment_match(plain, y, source=np.reshape(held, y.shape))
    model = TokenwiseRidge(30, match="training").fit(x, y)
    np.testing.assert_allclose(model.predict(new[:1]), expected, atol=1e-9)


def test_spread_of_single_trials_is_that_of_the_targets():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 300))
    weights = rng.normal(size=(300, 20)) / 17
    y = x @ weights + rng.normal(size=(500, 20))
    new = rng.normal(size=(500, 300))
    plain = TokenwiseRidge(300).fit(x, y).predict(new)
    matched = TokenwiseRidge(300, match="training").fit(x, y).predict(new)
    assert plain.std() < 0.7 * y.std()
    assert matched.std() == pytest.approx(y.std(), rel=0.08)


def test_one_row_cannot_be_matched_by_itself(problem: Problem):
    x, y, new = problem
    with pytest.raises(ValueError, match=r"1 row has no spread.*source"):
        TokenwiseRidge(30, match="batch").fit(x, y).predict(new[:1])


def test_a_target_that_never_changes_is_predicted_as_it_is(problem: Problem):
    x, y, new = problem
    y = y.copy()
    y[:, 1, 2] = 4.0
    for match in (None, "batch", "training"):
        made = TokenwiseRidge(30, match=match).fit(x, y).predict(new)
        np.testing.assert_allclose(made[:, 1, 2], 4.0)


def test_what_does_not_fit_is_refused(problem: Problem):
    x, y, new = problem
    with pytest.raises(ValueError, match="penalty 0"):
        TokenwiseRidge(0)
    with pytest.raises(ValueError, match="'all' is none of"):
        TokenwiseRidge(match="all")
    model = TokenwiseRidge(30).fit(x, y)
    with pytest.raises(ValueError, match="features; fitted on"):
        model.predict(new[:, 1:])
    with pytest.raises(ValueError, match=r"expected \(9, 3, 4\)"):
        model.predict(new, out=np.empty((9, 4, 3)))
    with pytest.raises(ValueError, match="C order"):
        model.predict(new, out=np.empty((4, 3, 9)).T)


def test_moments_of_other_columns_are_refused():
    with pytest.raises(ValueError, match=r"columns \(3,\), the target \(2,\)"):
        moment_match(np.zeros((4, 3)), Moments(np.zeros(2), np.ones(2)))
    with pytest.raises(ValueError, match="too few for ddof 1"):
        Moments.of(np.zeros((1, 3)), ddof=1)
