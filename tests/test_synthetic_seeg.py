"""Simulated depth electrodes: planted units are where the truth says, runs are their own."""

from __future__ import annotations

import pytest
import torch

from neurofm.data import fingerprint, similarity
from neurofm.io import simulate_words
from neurofm.io.simulated.synthetic_seeg import UNIT_HZ, UNIT_S, SyntheticSEEGReader


def test_simulated_units_lie_where_the_truth_says() -> None:
    reader = SyntheticSEEGReader(dataset="simulated_seeg", strength=200.0)
    signal = reader.load(reader.recordings()[0])
    truth = reader.truth(signal.recording.subject)
    pairs = signal.data[:-1] - signal.data[1:]
    for number, hz in enumerate(UNIT_HZ):
        power = torch.zeros(len(pairs))
        for event in signal.events:
            place = truth.words[event.label].index(number)
            start = round((event.onset + 0.3 + place * UNIT_S) * signal.sfreq)
            part = torch.as_tensor(pairs[:, start : start + round(UNIT_S * signal.sfreq)])
            wave = torch.exp(2j * torch.pi * hz * torch.arange(part.shape[1]) / signal.sfreq)
            power += ((part - part.mean(1, keepdim=True)) * wave).sum(1).abs()
        power[5] = 0  # the last contact of one shaft and the first of the next are no pair
        assert int(power.argmax()) == int(truth.places[number])


def test_simulated_runs_repeat_themselves_and_differ_from_each_other() -> None:
    first, again = simulate_words("001", "01"), simulate_words("001", "01")
    assert (first.data == again.data).all()
    others = [simulate_words("001", "02"), simulate_words("002", "01")]
    mine = fingerprint(first)
    assert max(similarity(mine, fingerprint(other)) for other in others) < 0.3
    with pytest.raises(ValueError, match="at least 125 Hz"):
        simulate_words("001", "01", sfreq=100.0)
