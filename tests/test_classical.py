"""Classical decoders find what was planted, and say what is wrong with their input."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from pyriemann.estimation import Covariances as PyriemannCovariances
from pyriemann.geometry.mean import mean_riemann
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from neurofm import cards, evaluate
from neurofm.data.covariance import oas_covariances, riemannian_mean
from neurofm.evaluate.classical.features import BandPower, band_coefficients

SFREQ = 80.0
RHYTHM = ("csp_lda", "tangent_lr", "mdm", "filter_bank_csp")
SPECTRA = ("band_power_svm", "spectrum_lda", "spectrum_ridge", "entropy_lda")
EVOKED = ("samples_lda", "xdawn_lda", "xdawn_tangent_lr", "erp_tangent_lr", "trca")
SETTINGS: dict[str, dict[str, object]] = {
    "filter_bank_csp": {
        "bands": [(8.0, 12.0), (12.0, 16.0), (16.0, 20.0)],
        "n_components": 2,
        "n_features": 4,
    },
    "samples_lda": {"every": 8},
    "xdawn_lda": {"n_components": 2, "every": 8},
    "xdawn_tangent_lr": {"n_components": 2},
    "band_power_svm": {"bands": [(8.0, 12.0), (16.0, 24.0)]},
    "spectrum_lda": {"high": 30.0},
    "spectrum_ridge": {"high": 30.0},
    "entropy_lda": {"bands": [(4.0, 8.0), (8.0, 14.0), (14.0, 30.0)]},
    "snr_lda": {"frequencies": [10.0, 15.0]},
}
ALL = (*RHYTHM, *SPECTRA, *EVOKED, "snr_lda")


def make(name: str):
    return getattr(evaluate, name)(**SETTINGS.get(name, {}))


@functools.cache
def windows(what: str, seed: int = 0, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Six mixed channels, two seconds; class 1 has a stronger rhythm, a response, or a flicker."""
    rng = np.random.default_rng(seed)
    t, y = np.arange(160) / SFREQ, np.arange(n) % 2
    source = rng.standard_normal((n, 6, 160))
    phase = rng.uniform(0, 2 * np.pi, (n, 1))
    if what == "rhythm":
        source[:, 2] += np.where(y, 2.0, 0.4)[:, None] * np.sin(2 * np.pi * 10 * t + phase)
    if what == "response":
        source[:, 2] += 2 * y[:, None] * np.exp(-(((t - 0.4) / 0.1) ** 2))
        source[:, 4] -= 2 * (1 - y)[:, None] * np.exp(-(((t - 0.9) / 0.1) ** 2))
    if what == "flicker":
        source[:, 2] += np.sin(2 * np.pi * np.where(y, 15.0, 10.0)[:, None] * t)
    mixing = np.random.default_rng(7).standard_normal((6, 6))
    return 10 * mixing @ source, y


def score(name: str, what: str) -> float:
    x, y = windows(what)
    fitted = make(name).fit(x[:40], y[:40], **({} if name in EVOKED else {"sfreq": SFREQ}))
    return roc_auc_score(y[40:], fitted.predict_proba(x[40:])[:, 1])


@pytest.mark.parametrize("name", [*RHYTHM, *SPECTRA])
def test_a_stronger_rhythm_is_decoded(name: str):
    assert score(name, "rhythm") > 0.9


@pytest.mark.parametrize("name", EVOKED)
def test_a_response_is_decoded(name: str):
    assert score(name, "response") > 0.85


@pytest.mark.parametrize("name", ["snr_lda", "trca"])
def test_a_flicker_is_decoded(name: str):
    assert score(name, "flicker") > 0.95


@pytest.mark.parametrize("name", ALL)
def test_without_a_difference_the_score_is_chance(name: str):
    # 40 test windows: standard deviation 0.09
    assert 0.2 < score(name, "nothing") < 0.8


@pytest.mark.parametrize("name", ALL)
def test_decoders_are_estimators_that_can_be_cloned_and_fitted_again(name: str):
    x, y = windows("rhythm")
    labels = np.array(["left", "right"])[y]
    given = make(name)
    one = clone(given).fit(x, labels, sfreq=SFREQ)
    two = clone(one).fit(x, labels, sfreq=SFREQ)
    p = one.predict_proba(x)
    np.testing.assert_allclose(p, two.predict_proba(x))
    np.testing.assert_allclose(p.sum(1), 1)
    assert p.min() >= 0
    assert one.classes_.tolist() == ["left", "right"]
    assert set(one.predict(x)) <= {"left", "right"}
    assert not hasattr(given, "pipeline_")


@pytest.mark.parametrize("name", ["csp_lda", "filter_bank_csp", "tangent_lr", "mdm", "trca"])
def test_more_than_two_classes_are_decoded(name: str):
    x, y = windows("rhythm")
    extra, _ = windows("flicker", 3)
    x, y = np.concatenate([x, extra[1::2] * 1.5]), np.concatenate([y, np.full(40, 2)])
    p = make(name).fit(x, y, sfreq=SFREQ).predict_proba(x)
    assert p.shape == (120, 3)
    assert np.isfinite(p).all()


@pytest.mark.parametrize("name", ALL)
def test_average_reference_and_doubled_channels_are_no_obstacle(name: str):
    x, y = windows("rhythm")
    x = np.concatenate([x, x[:, :1]], axis=1)
    x = x - x.mean(axis=1, keepdims=True)
    fitted = make(name).fit(x[:40], y[:40], sfreq=SFREQ)
    assert np.isfinite(fitted.predict_proba(x[40:])).all()


def spoiled(how: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = windows("rhythm")
    x = x.copy()
    if how == "nan":
        x[3, 2, 7] = np.nan
    if how == "flat":
        x[:, 4] = 5.0
    if how == "flat window":
        x[3] = 5.0
    if how == "short":
        x = x[..., :2]
    if how == "one class":
        y = np.zeros_like(y)
    if how == "rare class":
        y = np.eye(80, dtype=int)[0]
    if how == "labels":
        y = y[:-1]
    if how == "flat array":
        x = x.reshape(80, -1)
    return x, y


@pytest.mark.parametrize("name", ["csp_lda", "entropy_lda"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "window 3 holds NaN or infinity in channel 2"),
        ("flat", "1 of 6 channels are flat in all training windows: e. Leave them out"),
        ("flat window", "1 of 80 windows are flat in all channels, first window 3"),
        ("short", "windows of 2 samples; this pipeline needs 8 or more. Use a longer window_s"),
        ("one class", r"training windows by class: \{0: 80\}; expected two or more classes"),
        ("rare class", r"training windows by class: \{0: 79, 1: 1\}"),
        ("labels", "80 windows, 79 labels"),
        ("flat array", r"shape \(80, 960\); expected \(window, channel, time\)"),
    ],
)
def test_input_that_cannot_be_decoded_is_refused(name: str, how: str, message: str):
    x, y = spoiled(how)
    with pytest.raises(ValueError, match=message):
        make(name).fit(x, y, sfreq=SFREQ, names=list("abcdef"))


@pytest.mark.parametrize("name", ["mdm", "trca", "tangent_lr"])
def test_a_flat_window_is_no_class(name: str):
    x, y = windows("rhythm")
    fitted = make(name).fit(x, y)
    with pytest.raises(ValueError, match="1 of 80 windows are flat in all channels, first window"):
        fitted.predict(spoiled("flat window")[0])


@pytest.mark.parametrize("name", ["csp_lda", "filter_bank_csp", "xdawn_lda", "xdawn_tangent_lr"])
def test_more_components_than_channels_or_windows_are_refused(name: str):
    x, y = windows("rhythm")
    with pytest.raises(ValueError, match="n_components is 7, with 6 channels and 80 training"):
        getattr(evaluate, name)(n_components=7).fit(x, y, sfreq=SFREQ)
    with pytest.raises(ValueError, match="n_components is 5, with 6 channels and 4 training"):
        getattr(evaluate, name)(n_components=5).set_params(min_windows=2).fit(
            x[:4], y[:4], sfreq=SFREQ
        )


def test_windows_of_another_shape_than_fitted_are_refused():
    x, y = windows("rhythm")
    fitted = make("csp_lda").fit(x, y)
    with pytest.raises(ValueError, match="5 channels and 160 samples; fitted on 6 channels"):
        fitted.predict_proba(x[:, :5])
    with pytest.raises(ValueError, match="call fit before"):
        make("csp_lda").predict_proba(x)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("band_power_svm", {}, "sfreq is None"),
        ("band_power_svm", {"bands": [(30.0, 50.0)], "sfreq": 80.0}, "band 30-50 Hz: windows of 2"),
        ("entropy_lda", {"bands": [(8.1, 8.4)], "sfreq": 80.0}, "hold 0 of its frequencies"),
        ("spectrum_lda", {"segment_s": 3.0, "sfreq": 80.0}, "segment_s 3 is 240 samples"),
        ("spectrum_lda", {"low": 8.2, "high": 8.8, "sfreq": 80.0}, "no frequency between"),
        ("snr_lda", {"frequencies": [39.0], "sfreq": 80.0}, "39 Hz and 4 neighbours"),
    ],
)
def test_frequencies_that_windows_do_not_hold_are_refused(
    name: str, arguments: dict[str, object], message: str
):
    x, y = windows("rhythm")
    with pytest.raises(ValueError, match=message):
        getattr(evaluate, name)(**arguments).fit(x, y)


def test_features_are_no_more_than_there_are():
    with pytest.raises(ValueError, match="2 bands with 2 components give 1 to 4"):
        evaluate.filter_bank_csp(bands=[(8, 12), (12, 16)], n_components=2, n_features=5)


def test_the_filter_bank_keeps_the_band_in_which_classes_differ():
    x, y = windows("rhythm")
    fitted = make("filter_bank_csp").fit(x, y, sfreq=SFREQ)
    assert fitted.pipeline_["select"].get_support()[:2].any()  # of 8-12 Hz
    assert fitted.pipeline_["csp"].patterns_.shape == (6, 6)


def test_band_power_is_that_of_a_sine_in_its_band_and_nothing_elsewhere():
    t = np.arange(400) / 100.0
    x = (3.0 * np.sin(2 * np.pi * 10 * t))[None, None]
    log = BandPower([(8.0, 12.0), (20.0, 30.0)], sfreq=100.0).fit(x).transform(x)[0]
    assert np.exp(log[0]) == pytest.approx(4.5, rel=1e-6)  # variance of the sine
    assert np.exp(log[1]) < 1e-6


def test_bands_side_by_side_share_the_variance_of_noise():
    x = np.random.default_rng(0).standard_normal((200, 1, 200))
    edges = [(0.0, 10.0), (10.0, 30.0), (30.0, 50.0)]
    parts = [
        (np.abs(band_coefficients(x, sfreq=100.0, low=a, high=b)) ** 2).sum(2).mean()
        for a, b in edges
    ]
    assert parts == pytest.approx([0.2, 0.4, 0.4], abs=0.03)


def test_differential_entropy_is_that_of_a_gaussian():
    x, _ = windows("rhythm")
    bands = [(8.0, 12.0)]
    power = BandPower(bands, sfreq=SFREQ).fit(x).transform(x)
    entropy = BandPower(bands, measure="entropy", sfreq=SFREQ).fit(x).transform(x)
    np.testing.assert_allclose(entropy, 0.5 * np.log(2 * np.pi * np.e * np.exp(power)))


def test_covariances_of_all_windows_at_once_are_those_of_pyriemann():
    x, _ = windows("rhythm")
    np.testing.assert_allclose(
        oas_covariances(x), PyriemannCovariances("oas").transform(x), rtol=1e-10
    )


def test_the_riemannian_mean_stops_close_to_that_of_pyriemann():
    c = oas_covariances(windows("rhythm")[0])
    np.testing.assert_allclose(riemannian_mean(c), mean_riemann(c), rtol=1e-4, atol=1e-3)


def test_all_decoders_can_be_named_in_cards():
    for name in ALL:
        spec = {"class_path": f"neurofm.evaluate.{name}", "init_args": SETTINGS.get(name, {})}
        assert isinstance(cards.build(spec), evaluate.WindowPipeline)
