"""Fingerprints: the same recording is found after re-encoding, another one never."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import signal as dsp

from neurofm.data import Fingerprinter, find_copies, fingerprint, same_recording, similarity
from neurofm.data import copies as search
from neurofm.data.fingerprints import MAX_FRAMES, SPAN_S, decode_fingerprint
from neurofm.io import read_raw_signal
from neurofm.io.simulated.synthetic import simulate_motor_imagery
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind


def eeg(subject: str = "a", run: str = "1", n_trials: int = 8, sfreq: float = 160.0) -> Signal:
    """About 66 s with the same times of trials in every recording, as in a real corpus."""
    return simulate_motor_imagery(subject, run, n_trials=n_trials, sfreq=sfreq)


@pytest.fixture(scope="module")
def original() -> Signal:
    return eeg()


@pytest.fixture(scope="module")
def others() -> list[Signal]:
    return [eeg(subject, run) for subject in "ab" for run in ("2", "3", "4")]


def resampled(given: Signal, sfreq: int) -> Signal:
    data = dsp.resample_poly(given.data, sfreq, round(given.sfreq), axis=1)
    return replace(given, data=data.astype(np.float32), sfreq=float(sfreq))


def filtered(given: Signal, low: float, high: float, *, causal: bool = False) -> Signal:
    sos = dsp.butter(4, [low, high], "band", fs=given.sfreq, output="sos")
    run = dsp.sosfilt if causal else dsp.sosfiltfilt
    return replace(given, data=run(sos, given.data, axis=1).astype(np.float32))


def quantized(given: Signal) -> Signal:
    step = np.abs(given.data).max(axis=1, keepdims=True) / 32767
    return replace(given, data=np.round(given.data / step).astype(np.float32) * step)


def renamed(given: Signal) -> Signal:
    sensors = replace(given.sensors, names=tuple(f"EEG {n}-REF" for n in given.sensors.names))
    return replace(given, sensors=sensors)


def shuffled(given: Signal) -> Signal:
    return given.pick(np.random.default_rng(0).permutation(len(given.sensors)))


def trimmed(given: Signal, start_s: float, stop_s: float = 0.0) -> Signal:
    first, last = round(start_s * given.sfreq), round(stop_s * given.sfreq)
    return replace(given, data=given.data[:, first : given.data.shape[1] - last])


def rereferenced(given: Signal) -> Signal:
    return replace(given, data=given.data - given.data.mean(axis=0))


CHANGES = {
    "nothing": lambda s: s,
    "volts": lambda s: replace(s, data=s.data * 1e-6),
    "steps of int16": quantized,
    "half the rate": lambda s: resampled(s, 80),
    "256 Hz": lambda s: resampled(s, 256),
    "0.5-40 Hz": lambda s: filtered(s, 0.5, 40),
    "4-40 Hz": lambda s: filtered(s, 4, 40),
    "0.5-40 Hz causal": lambda s: filtered(s, 0.5, 40, causal=True),
    "other order": shuffled,
    "other names": renamed,
    "average reference": rereferenced,
    "every second channel": lambda s: s.pick(np.arange(0, 64, 2)),
    "first 0.4 s lost": lambda s: trimmed(s, 0.4),
    "first 8.1 s lost": lambda s: trimmed(s, 8.1),
    "last 5 s lost": lambda s: trimmed(s, 0, 5),
    "a dead channel more": lambda s: replace(
        s, data=np.concatenate([np.zeros_like(s.data[:1]), s.data[1:]])
    ),
    "everything": lambda s: quantized(
        trimmed(resampled(filtered(rereferenced(shuffled(s)), 0.5, 40), 200), 1.3)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_recording_encoded_anew_is_recognised_and_no_other(change, original, others):
    made = fingerprint(CHANGES[change](original))
    assert same_recording(fingerprint(original), made)
    assert similarity(fingerprint(original), made) > 0.7
    for other in others:
        assert not same_recording(fingerprint(other), made)
        assert similarity(fingerprint(other), made) < 0.4


def test_edf_and_fif_of_one_recording_match(original, tmp_path, tiny):
    tiny.data, tiny.sfreq, tiny.events = original.data[:, :9600], 160.0, ()
    tiny.names = list(original.sensors.names)
    files = tiny.edf(tmp_path / "a.edf"), tiny.fif(tmp_path / "b_raw.fif")
    recording = Recording("toy", "1")
    one, two = (fingerprint(read_raw_signal(file, recording)) for file in files)
    assert similarity(one, two) > 0.98 and same_recording(one, two)


def test_a_fingerprint_is_short_and_its_code_is_read_back(original):
    long = simulate_motor_imagery("a", "1", n_trials=40, sfreq=64.0)
    mark = fingerprint(long)
    assert len(mark) <= 200 and mark.isascii()
    family, bits = decode_fingerprint(mark) or ("", np.zeros(0))
    assert family == "nf1" and bits.shape == (MAX_FRAMES, 2)
    assert 0.3 < bits.mean() < 0.7


def test_what_comes_after_the_span_does_not_matter():
    long = simulate_motor_imagery("a", "1", n_trials=20, sfreq=64.0)
    assert long.duration > SPAN_S
    other = long.data.copy()
    other[:, round(SPAN_S * 64) :] = 0.0
    assert fingerprint(replace(long, data=other)) == fingerprint(long)


def test_groups_of_channels_give_the_fingerprint_of_the_whole(original):
    maker = Fingerprinter(original.sfreq)
    for part in np.array_split(np.arange(64), [5, 40]):
        maker.add(original.data[part], original.sensors.kind[part])
    assert similarity(maker.result(), fingerprint(original)) > 0.999
    with pytest.raises(ValueError, match="all channels of a recording have the same length"):
        maker.add(original.data[:, :500], original.sensors.kind)


def test_channels_that_are_not_of_the_brain_do_not_count(original):
    extra = Sensors.of_kind(["stim", "ecg"], Kind.ECG)
    maker = Fingerprinter(original.sfreq)
    maker.add(original.data, original.sensors.kind)
    maker.add(np.random.default_rng(0).normal(size=(2, original.data.shape[1])), extra.kind)
    assert maker.result() == fingerprint(original)


@pytest.mark.parametrize(
    "data",
    [
        np.random.default_rng(0).normal(size=(8, 48)),  # 0.3 s
        np.random.default_rng(0).normal(size=(8, 160 * 12)),
        np.zeros((8, 160 * 60)),
        np.full((8, 160 * 60), np.nan),
        np.zeros((0, 160 * 60)),
        np.pad(np.random.default_rng(0).normal(size=(8, 320)), ((0, 0), (0, 160 * 60))),
    ],
    ids=["0.3 s", "12 s", "flat", "NaN", "no channels", "2 s and a minute of padding"],
)
def test_too_little_signal_has_no_fingerprint(data):
    n = len(data)
    given = Signal(
        data.astype(np.float32),
        160.0,
        Sensors.of_kind([str(i) for i in range(n)], Kind.EEG),
        (),
        Recording("toy", "1"),
    )
    assert fingerprint(given) == ""
    assert similarity("", "") == 0.0 and find_copies(["", "x"], ["", "x"]) == [(1, 1)]


def test_equal_padding_makes_no_copies(others):
    """A minute of signal, then a minute of zeros, in every recording."""
    marks = []
    for other in others:
        padded = np.pad(other.data, ((0, 0), (0, 160 * 60)))
        marks.append(fingerprint(replace(other, data=padded)))
    assert find_copies(marks, marks) == [(i, i) for i in range(len(marks))]
    assert all(same_recording(m, fingerprint(o)) for m, o in zip(marks, others, strict=True))


def test_missing_samples_are_bridged(original):
    holes = original.data.copy()
    holes[3, 1000:1200] = np.nan
    holes[10, 5] = np.inf
    assert similarity(fingerprint(replace(original, data=holes)), fingerprint(original)) > 0.9


def bold(seed: int, n_times: int = 150) -> Signal:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((3, n_times))
    data = rng.standard_normal((200, 3)) @ common + rng.standard_normal((200, n_times))
    names = [str(i) for i in range(200)]
    sensors = Sensors.of_kind(names, Kind.BOLD, frame="scanner")
    return Signal(data.astype(np.float32), 0.5, sensors, (), Recording("toy", "1"))


def test_slow_signals_are_told_apart_at_their_own_rate():
    first = bold(0)
    offset = np.random.default_rng(9).uniform(500, 900, (200, 1))
    raw = replace(first, data=np.round(offset * (1 + first.data / 100)).astype(np.float32))
    dummies = replace(first, data=first.data[:, 4:])
    assert fingerprint(first).startswith("nf1s2000000:")
    assert same_recording(fingerprint(first), fingerprint(raw))
    assert same_recording(fingerprint(first), fingerprint(dummies))
    assert not any(same_recording(fingerprint(first), fingerprint(bold(i))) for i in range(1, 12))
    assert not same_recording(fingerprint(first), fingerprint(replace(first, sfreq=1.0)))
    assert fingerprint(bold(0, n_times=40)) == ""


def test_marks_of_other_makers_match_only_where_equal(original):
    mark = fingerprint(original)
    for strange in ("sha256:abc", "nf1", "nf1:", "nf1:a", "nf1:!!!!", "nf1:" + "A" * 400):
        assert decode_fingerprint(strange) is None
        assert similarity(strange, strange) == 1.0 and similarity(strange, mark) == 0.0
    assert find_copies(["d41d", mark], [mark, "d41d", "e5"]) == [(0, 1), (1, 0)]


# Searching many


def encoded(bits: np.ndarray) -> str:
    return "nf1:" + base64.urlsafe_b64encode(np.packbits(bits.ravel()).tobytes()).decode()


def many(n: int, seed: int) -> np.ndarray:
    """Bits that depend on their neighbours as real ones do."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.standard_normal((n, MAX_FRAMES + 4, 2), dtype=np.float32), axis=1)
    return walk[:, 4:] > walk[:, :-4]


def copied(bits: np.ndarray, shift: int, errors: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    moved = np.roll(bits, -shift, axis=0)
    moved[-shift:] = rng.random((shift, 2)) < 0.5
    return moved ^ (rng.random(moved.shape) < errors)


def test_searching_by_shared_runs_finds_what_comparing_all_pairs_finds(monkeypatch):
    ours, theirs = many(150, 0), many(120, 1)
    for i in range(40):
        theirs[i] = copied(ours[i], 1 + i % 30, 0.03, i)
    left, right = [encoded(b) for b in ours], [encoded(b) for b in theirs]
    every = find_copies(left, right)
    assert every == [(i, i) for i in range(40)]
    monkeypatch.setattr(search, "_PAIRS", 0)
    assert find_copies(left, right) == every
    monkeypatch.setattr(search, "_WORDS", 40_000)  # keeps half of the runs
    assert len(set(find_copies(left, right)) & set(every)) >= 38


def test_copies_are_found_among_thousands_of_fingerprints():
    ours, theirs = many(8000, 2), many(2000, 3)
    theirs[:100] = [copied(ours[i], 8, 0.03, i) for i in range(100)]
    left, right = [encoded(b) for b in ours], [encoded(b) for b in theirs]
    found = find_copies(left, right)
    assert set(found) <= {(i, i) for i in range(100)} and len(found) > 95


def test_the_same_run_of_bits_everywhere_costs_nothing(monkeypatch):
    monkeypatch.setattr(search, "_PAIRS", 0)
    ours = many(400, 4)
    ours[:, 100:200] = False
    assert find_copies([encoded(b) for b in ours], [encoded(many(1, 5)[0])]) == []


# Real recordings


def recordings(folder: Path) -> list[Signal]:
    from neurofm.io import open_corpus

    corpus = open_corpus("eegmmidb", root=folder / "eegmmidb")
    return [corpus.load(item) for item in corpus.recordings(subjects=["1", "2", "3", "4"])]


@pytest.mark.system
@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")
def test_real_recordings_of_one_person_and_montage_are_told_apart(corpora):
    signals = recordings(corpora)
    marks = [fingerprint(signal) for signal in signals]
    for name in ("256 Hz", "0.5-40 Hz", "first 0.4 s lost", "everything", "half the rate"):
        changed = [fingerprint(CHANGES[name](signal)) for signal in signals]
        assert find_copies(marks, changed) == [(i, i) for i in range(len(marks))]
