"""The simulated oddball has the response that was planted, and nothing else tells targets."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.evaluate import samples_lda
from neurofm.io import SyntheticOddballReader, open_corpus, simulate_oddball
from neurofm.metrics import auroc
from neurofm.types import Signal

READER = SyntheticOddballReader(dataset="toy", subjects=2, runs=2, n_stimuli=300)


def windows(signal: Signal) -> tuple[np.ndarray, np.ndarray]:
    """-0.1 to 0.9 s; 1 for targets."""
    rate = signal.sfreq
    starts = [round((event.onset - 0.1) * rate) for event in signal.events]
    x = np.stack([signal.data[:, s : s + round(rate)] for s in starts]).astype(float)
    return x, np.array([event.label == "target" for event in signal.events], dtype=int)


def test_difference_of_means_is_the_planted_response() -> None:
    truth = READER.truth("001")
    quiet = SyntheticOddballReader(dataset="toy", subjects=2, runs=2, n_stimuli=300, p300=0.0)
    with_, without = (r.load(r.recordings()[0]) for r in (READER, quiet))
    assert [e.onset for e in with_.events] == [e.onset for e in without.events]
    x, y = windows(with_)
    evoked = (x - windows(without)[0])[y == 1].mean(0)
    strongest = int(np.abs(truth.pattern).argmax())
    peak = int(np.abs(evoked[strongest]).argmax())
    assert peak / 256 - 0.1 == pytest.approx(truth.latency_s, abs=0.02)
    np.testing.assert_allclose(evoked[:, peak], truth.pattern, rtol=0.25)


def test_same_arguments_give_the_same_run_and_other_runs_differ() -> None:
    first, second = READER.recordings()[:2]
    np.testing.assert_array_equal(READER.load(first).data, READER.load(first).data)
    assert not np.allclose(READER.load(first).data[:, :5000], READER.load(second).data[:, :5000])


@pytest.mark.parametrize(("p300", "low", "high"), [(12.0, 0.7, 1.0), (0.0, 0.35, 0.65)])
def test_targets_are_decoded_exactly_as_far_as_there_is_a_response(
    p300: float, low: float, high: float
) -> None:
    runs = [simulate_oddball("1", run, p300=p300, n_stimuli=300) for run in ("1", "2")]
    (x, y), (judged, truth) = (windows(run) for run in runs)
    p = samples_lda(every=8).fit(x, y).predict_proba(judged)
    assert low < auroc(truth, p) < high


def test_card_opens_and_one_stimulus_in_six_is_a_target() -> None:
    corpus = open_corpus("simulated_oddball")
    signal = corpus.load(corpus.recordings()[0])
    hits = [event.label == "target" for event in signal.events]
    assert (sum(hits), len(hits)) == (20, 120)
    assert np.abs(signal.data).max() < 500


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 12 stimuli"):
        simulate_oddball("1", "1", n_stimuli=5)
    with pytest.raises(ValueError, match="no subject '9'"):
        READER.truth("9")
