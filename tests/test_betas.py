"""Single-trial betas: the planted patterns are found, and the fast forms equal the slow ones."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.data import CleanBold, DoubleGamma, SingleTrialBetas, design_matrix
from neurofm.data.betas import lsa_weights, lss_weights
from neurofm.data.hrf import frame_times, trial_regressors
from neurofm.data.steps.bold import drifts
from neurofm.io import PatternReader, SyntheticFMRIReader, open_corpus
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

TR, N = 2.0, 150
WHO = Recording("t", "1")


def planted(rng: np.random.Generator, *, gap: float, noise: float, n_trials: int = 20):
    """A run with known betas (channel x trial), drift and one confound."""
    onsets = 6 + gap * np.arange(n_trials)
    events = [Event(float(o), 1.0, "ab"[i % 2]) for i, o in enumerate(onsets)]
    n = int(onsets[-1] / TR) + 14
    betas = rng.standard_normal((30, n_trials)) + 2
    x = trial_regressors(events, frame_times(n, 1 / TR))
    motion = np.cumsum(rng.standard_normal(n))
    slow = drifts(n, 1 / TR, detrend=1)
    data = betas @ x.T + 5 * rng.standard_normal((30, 2)) @ slow.T
    data += rng.standard_normal((30, 1)) * motion + noise * rng.standard_normal((30, n))
    names = ["confound:x", *(f"v{i}" for i in range(30))]
    sensors = Sensors.of_kind(names, Kind.BOLD)
    sensors.kind[0] = int(Kind.OTHER)
    rows = np.r_[motion[None], data].astype(np.float32)
    return Signal(rows, 1 / TR, sensors, tuple(events), WHO), betas


def test_without_noise_the_planted_betas_come_back(rng):
    signal, betas = planted(rng, gap=8.0, noise=0.0)
    found = SingleTrialBetas(method="lsa", confounds=["*"])(signal)
    np.testing.assert_allclose(found.data, betas, atol=2e-3)
    assert [e.label for e in found.events] == [e.label for e in signal.events]
    assert found.sfreq == 1.0 and found.details["samples"] == "trials"
    assert found.details["trial_onset_s"] == [e.onset for e in signal.events]


def test_for_trials_far_apart_both_methods_agree(rng):
    signal, betas = planted(rng, gap=30.0, noise=0.0)
    found = SingleTrialBetas(method="lss", confounds=["*"])(signal)
    assert np.corrcoef(found.data.ravel(), betas.ravel())[0, 1] > 0.99


def test_for_fast_trials_with_noise_lss_and_ridge_scatter_less_than_lsa(rng):
    errors = {}
    for name, step in {
        "lsa": SingleTrialBetas(method="lsa", confounds=["*"]),
        "ridge": SingleTrialBetas(method="lsa", ridge=0.3, confounds=["*"]),
        "lss": SingleTrialBetas(method="lss", confounds=["*"]),
    }.items():
        signal, betas = planted(np.random.default_rng(3), gap=3.0, noise=2.0, n_trials=40)
        errors[name] = np.corrcoef(step(signal).data.ravel(), betas.ravel())[0, 1]
    assert errors["lss"] > errors["lsa"] and errors["ridge"] > errors["lsa"]


@pytest.mark.parametrize("by_condition", [False, True])
def test_lss_is_one_regression_per_trial(by_condition, rng):
    signal, _ = planted(rng, gap=5.0, noise=1.0)
    n = signal.data.shape[1]
    trials = trial_regressors(signal.events, frame_times(n, 1 / TR))
    nuisance = np.c_[drifts(n, 1 / TR, detrend=1), signal.data[0]]
    y = signal.data[1:].T.astype(float)
    labels = np.array([event.label for event in signal.events])
    expected = []
    for i in range(trials.shape[1]):
        rest = np.arange(trials.shape[1]) != i
        others = [trials[:, rest & (labels == label)].sum(1) for label in "ab"]
        others = others if by_condition else [sum(others)]
        design = np.c_[trials[:, i], np.stack(others, 1), nuisance]
        expected.append(np.linalg.lstsq(design, y, rcond=None)[0][0])
    found = SingleTrialBetas(method="lss", confounds=["*"], by_condition=by_condition)(signal)
    np.testing.assert_allclose(found.data, np.array(expected).T, atol=2e-3)


def test_lsa_agrees_with_nilearns_general_linear_model(rng):
    run_glm = pytest.importorskip("nilearn.glm.first_level").run_glm
    signal, _ = planted(rng, gap=8.0, noise=1.0)
    n = signal.data.shape[1]
    trials = trial_regressors(signal.events, frame_times(n, 1 / TR))
    design = np.c_[trials, drifts(n, 1 / TR, detrend=1), signal.data[0]]
    labels, results = run_glm(signal.data[1:].T.astype(float), design, noise_model="ols")
    theirs = results[labels[0]].theta[: trials.shape[1]].T
    found = SingleTrialBetas(method="lsa", confounds=["*"])(signal)
    np.testing.assert_allclose(found.data, theirs, atol=2e-3)


def test_groups_of_channels_give_the_same_betas(rng):
    signal, _ = planted(rng, gap=5.0, noise=1.0)
    step = SingleTrialBetas(confounds=["*"])
    whole = step(signal)
    parts = [step(signal.pick([0, *range(1 + lo, 16 + lo)])) for lo in (0, 15)]
    np.testing.assert_allclose(
        np.concatenate([p.data for p in parts]), whole.data, rtol=1e-5, atol=1e-6
    )


def test_trials_that_cannot_be_told_apart_are_refused(rng):
    signal, _ = planted(rng, gap=5.0, noise=1.0)
    double = (*signal.events, signal.events[3])
    again = Signal(signal.data, signal.sfreq, signal.sensors, double, WHO)
    with pytest.raises(ValueError, match="regressors of 21 trials are not independent"):
        SingleTrialBetas(method="lsa")(again)
    assert np.isfinite(SingleTrialBetas(method="lsa", ridge=0.1)(again).data).all()
    with pytest.raises(ValueError, match=r"no event fits \['c'\]; there are \['a', 'b'\]"):
        SingleTrialBetas(labels=["c"])(signal)


def test_ridge_of_no_size_is_least_squares(rng):
    x = rng.standard_normal((50, 6))
    np.testing.assert_allclose(lsa_weights(x), np.linalg.pinv(x), atol=1e-12)
    one = lss_weights(x[:, :2])
    np.testing.assert_allclose(one, np.linalg.pinv(x[:, :2]), atol=1e-12)


def test_planted_tuning_is_found_and_absent_tuning_is_not():
    """Signal correlation of repeats, beside the same simulation without any tuning."""
    known = SyntheticFMRIReader(dataset="t").truth("001")
    planted = known.patterns - known.patterns.mean(0)
    scores = {}
    for tuning in (0.8, 0.0):
        reader = SyntheticFMRIReader(dataset="t", tuning=tuning, labels="stimulus", noise=0.7)
        patterns: dict[str, list[np.ndarray]] = {}
        for recording in reader.recordings()[:3]:
            step = SingleTrialBetas(high_pass_hz=0.01, confounds=["*"])
            betas = step(reader.load(recording))
            for i, event in enumerate(betas.events):
                patterns.setdefault(event.label, []).append(betas.data[:, i])
        mean = np.array([np.mean(patterns[name], axis=0) for name in sorted(patterns)])
        pair = (mean - mean.mean(0))[:, known.tuned], planted[:, known.tuned]
        scores[tuning] = np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1]
    assert scores[0.8] > 0.6 and abs(scores[0.0]) < 0.15


def test_categories_are_decoded_from_betas_of_other_runs():
    from sklearn.linear_model import LogisticRegression

    reader = SyntheticFMRIReader(dataset="t", subjects=1, noise=0.7)
    step = SingleTrialBetas(high_pass_hz=0.01, confounds=["*"])
    runs = [step(reader.load(recording)) for recording in reader.recordings()]
    x = [run.data.T - run.data.T.mean(0) for run in runs]
    y = [[event.label for event in run.events] for run in runs]
    model = LogisticRegression(C=0.01, max_iter=1000).fit(
        np.concatenate(x[:3]), np.concatenate(y[:3])
    )
    assert model.score(x[3], y[3]) > 0.75
    shuffled = np.random.default_rng(0).permutation(np.concatenate(y[:3]))
    chance = LogisticRegression(C=0.01, max_iter=1000).fit(np.concatenate(x[:3]), shuffled)
    assert 0.2 < chance.score(x[3], y[3]) < 0.8


def test_betas_of_cleaned_data_are_those_of_one_model(rng):
    signal, _ = planted(rng, gap=8.0, noise=1.0)
    together = SingleTrialBetas(method="lsa", confounds=["*"])(signal)
    cleaned = CleanBold(detrend=1, confounds=["*"], keep=True)(signal)
    after = SingleTrialBetas(method="lsa", confounds=["*"])(cleaned)
    np.testing.assert_allclose(after.data, together.data, atol=2e-3)


def test_a_late_response_needs_a_late_model():
    events = [Event(10.0 + 16 * i, 2.0, "a") for i in range(8)]
    x, _ = design_matrix(events, N, 1 / TR, hrf=DoubleGamma(delay_s=1.5))
    sensors = Sensors.of_kind(["v0"], Kind.BOLD)
    signal = Signal(x.T.astype(np.float32), 1 / TR, sensors, tuple(events), WHO)
    right = SingleTrialBetas(method="lsa", delay_s=1.5, detrend=None)(signal)
    np.testing.assert_allclose(right.data, 1.0, atol=1e-3)
    assert SingleTrialBetas(method="lsa", detrend=None)(signal).data.max() < 0.97


# Patterns that come as arrays


def write_patterns(path, rng, **changes):
    arrays = {
        "Y": rng.standard_normal((6, 9)).astype(np.float32),
        "cond": np.array([1, 2, 3, 1, 2, 3]),
        "run": np.array([1, 1, 1, 10, 10, 10]),
    } | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return arrays


def reader_of(folder, **arguments) -> PatternReader:
    return PatternReader("p{subject}.npz", dataset="t", root=folder, **arguments)


def test_each_run_of_patterns_is_a_recording(tmp_path, rng):
    arrays = write_patterns(tmp_path / "p1.npz", rng)
    reader = reader_of(tmp_path, labels={1: "thumb"})
    one, two = reader.recordings()
    assert (one.run, two.run) == ("1", "10") and one.subject == "1"
    signal = reader.load(two)
    np.testing.assert_array_equal(signal.data, arrays["Y"][3:].T)
    assert [(e.onset, e.label) for e in signal.events] == [(0, "thumb"), (1, "2"), (2, "3")]
    assert signal.details == {"samples": "trials", "unit": "arbitrary"}
    (whole,) = reader_of(tmp_path, run=None).recordings()
    assert reader_of(tmp_path, run=None).load(whole).data.shape == (9, 6)


def test_patterns_that_do_not_fit_are_refused(tmp_path, rng):
    write_patterns(tmp_path / "p1.npz", rng, cond=np.array([1, 2]))
    reader = reader_of(tmp_path)
    with pytest.raises(
        ValueError, match=r"'cond' has shape \(2,\), expected one value for each of 6"
    ):
        reader.load(reader.recordings()[0])
    write_patterns(tmp_path / "p1.npz", rng, cond=None)
    with pytest.raises(ValueError, match="no array 'cond'; there are Y, run"):
        reader.load(reader.recordings()[0])
    write_patterns(tmp_path / "p1.npz", rng, Y=np.array([{"a": 1}] * 6, dtype=object))
    with pytest.raises(ValueError, match="'Y' cannot be read"):
        reader.load(reader.recordings()[0])
    (tmp_path / "p1.npz").write_bytes((tmp_path / "p1.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"p1\.npz"):
        reader.recordings()


@pytest.mark.system
@pytest.mark.corpus
def test_fingers_are_read_and_decoded_as_known(corpora):
    """Shrinkage LDA, each run's mean removed, leave one run out; chance is 0.2."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    opened = open_corpus("finger7t")
    runs = [opened.load(recording) for recording in opened.recordings(subjects=["2"])]
    x = [run.data.T - run.data.T.mean(0) for run in runs]
    y = [[event.label for event in run.events] for run in runs]
    assert all(sorted(labels) == [f"finger_{i}" for i in range(1, 6)] for labels in y)
    right = []
    for held in range(len(runs)):
        rest = [i for i in range(len(runs)) if i != held]
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        model.fit(np.concatenate([x[i] for i in rest]), np.concatenate([y[i] for i in rest]))
        right.append(model.score(x[held], y[held]))
    assert np.mean(right) == pytest.approx(0.80, abs=0.03)
