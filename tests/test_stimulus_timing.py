"""Features of sounds and words, and features brought to the times of a brain's measurements."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.data import DoubleGamma
from neurofm.stimuli import (
    at_samples,
    at_volumes,
    delayed,
    downsample,
    embed_words,
    envelope,
    hashed_words,
    mel_spectrogram,
    read_embeddings,
    require_same_length,
    with_lags,
    word_lengths,
    word_rate,
)

RATE = 8000
TIME = np.arange(RATE) / RATE


@pytest.mark.parametrize("hz", [300, 1000, 2500])
def test_a_tone_is_loudest_in_its_mel_band(hz):
    found = mel_spectrogram(np.sin(2 * np.pi * hz * TIME), RATE, bands=20)
    edges = np.linspace(*2595 * np.log10(1 + np.array([50, 4000]) / 700), 22)
    centre = 700 * (10 ** (edges[1:-1] / 2595) - 1)
    assert found.shape == (100, 20)
    assert abs(found[50].argmax() - np.abs(centre - hz).argmin()) <= 1


def test_envelope_follows_the_modulation_and_frames_are_on_time():
    slow = 1 + 0.8 * np.sin(2 * np.pi * 3 * TIME)
    found = envelope(slow * np.sin(2 * np.pi * 800 * TIME), RATE, frame_hz=50, exponent=1.0)
    assert np.corrcoef(found, slow[:: RATE // 50])[0, 1] > 0.99
    click = np.zeros(RATE)
    click[4000] = 1
    assert mel_spectrogram(click, RATE).mean(1).argmax() == 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sound": np.zeros((2, 100))}, "one channel"),
        ({"frame_hz": 9000}, "no more than the sound's rate"),
        ({"bands": 300}, "hold no frequency"),
        ({"high_hz": 5000}, "between 0 and 4000 Hz"),
    ],
)
def test_wrong_sounds_and_bands_are_refused(arguments, words):
    given = {"sound": np.zeros(RATE), "sfreq": RATE} | arguments
    with pytest.raises(ValueError, match=words):
        mel_spectrogram(given.pop("sound"), given.pop("sfreq"), **given)


def test_words_have_lengths_rates_and_vectors(tmp_path):
    assert word_lengths(["don't", "a"]).tolist() == [4, 1]
    rate = word_rate(np.array([0.1, 0.2, 1.5]), np.array([0.0, 1.0, 2.0]))
    assert rate.tolist() == [2, 1, 0]
    vectors = hashed_words(["Cat", "dog", "cat"], dim=16)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    table = tmp_path / "table.txt"
    table.write_text("3 2\ncat 1 2\ndog 3 4\nfox 5 6\n")
    read = read_embeddings(table, ["Cat", "dog"])
    assert set(read) == {"cat", "dog"}
    found = embed_words(["Cat", "owl"], read)
    assert found.values.tolist() == [[1, 2], [0, 0]] and found.known.tolist() == [True, False]
    with pytest.raises(ValueError, match="none of 1 words"):
        embed_words(["owl"], read)
    table.write_text("cat 1 2\ndog 3\n")
    with pytest.raises(ValueError, match="line 2 has 1 numbers, the first had 2"):
        read_embeddings(table)
    with pytest.raises(FileNotFoundError, match="GloVe"):
        read_embeddings(tmp_path / "none.txt")


def test_an_event_becomes_its_response_times_its_features():
    features = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    found = at_volumes(features, np.array([4.0, 20.0]), 2.0, 30, 2.0)
    times = np.arange(30) * 2.0
    hrf = DoubleGamma()
    one, two = hrf.response(times, 4.0, 2.0), hrf.response(times, 20.0, 2.0)
    np.testing.assert_allclose(found, np.outer(one, [1, 2]) + np.outer(two, [3, -1]), atol=1e-6)


def test_other_lengths_and_late_events_are_refused():
    with pytest.raises(ValueError, match=r"run-2: features of 5 .* for 6 responses"):
        require_same_length(np.zeros((5, 2)), np.zeros(6), what="run-2")
    with pytest.raises(ValueError, match="features of 2"):
        at_volumes(np.zeros((2, 1)), np.zeros(3), 0, 10, 2)
    with pytest.raises(ValueError, match=r"1 of 2 events begin after the 20 s of 10 volumes"):
        at_volumes(np.zeros((2, 1)), np.array([1.0, 25.0]), 0, 10, 2)
    with pytest.raises(ValueError, match="1 of 2 events lie outside the 1 s"):
        at_samples(np.zeros((2, 1)), np.array([0.5, 1.5]), 100, 100)


def test_lanczos_keeps_slow_features_and_removes_fast_ones():
    times = np.arange(0, 200, 0.1)
    slow, fast = np.sin(2 * np.pi * 0.02 * times), np.sin(2 * np.pi * 0.9 * times)
    found = downsample(np.stack([slow, fast, np.ones_like(slow)], 1), times, 100, 2.0)
    middle = (np.arange(100) + 0.5) * 2
    np.testing.assert_allclose(found[3:-3, 0], np.sin(2 * np.pi * 0.02 * middle)[3:-3], atol=0.03)
    assert np.abs(found[3:-3, 1]).max() < 0.05
    np.testing.assert_allclose(found[:, 2], 1, atol=1e-6)


def test_means_and_sums_of_volumes():
    values, times = np.array([[1.0], [3.0], [10.0], [7.0]]), np.array([0.1, 1.9, 2.0, 9.0])
    assert downsample(values, times, 3, 2.0, how="mean")[:, 0].tolist() == [2, 10, 0]
    assert downsample(values, times, 3, 2.0, how="sum")[:, 0].tolist() == [4, 10, 0]
    with pytest.raises(ValueError, match="how is 'median'"):
        downsample(values, times, 3, 2.0, how="median")


def test_delays_and_lags_find_a_planted_response():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 2))
    y = 0.0 * x[:, 0]
    y[3:] += 2 * x[:-3, 0]  # 30 ms after
    y[:-1] -= x[1:, 1]  # 10 ms before
    lags = with_lags(x, 100, start_s=-0.02, stop_s=0.05)
    weights = np.linalg.lstsq(lags, y, rcond=None)[0].reshape(8, 2)
    expected = np.zeros((8, 2))
    expected[5, 0], expected[1, 1] = 2, -1
    np.testing.assert_allclose(weights, expected, atol=1e-8)
    np.testing.assert_array_equal(delayed(x, (1,))[1:], x[:-1])
    with pytest.raises(ValueError, match="increasing lags"):
        with_lags(x, 100, start_s=0.2, stop_s=0.1)
