"""Decoders on streams: nothing depends on how samples arrive, and what is lost is known."""

from __future__ import annotations

import json
import resource
import signal as signals
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_toys import CAUSAL, LABELS, NAMES, Played, decoder, facts, recording, scaled

from neurofm.data import (
    AlignRecording,
    Bandpass,
    Clip,
    HighGamma,
    InterpolateBads,
    Notch,
    PickChannels,
    Rereference,
    Resample,
    StandardizeRecording,
)
from neurofm.live import (
    FileSource,
    Piece,
    PredictionTable,
    Processing,
    Regular,
    Session,
    at_events,
    causal_form,
    compare,
    score,
)

DECODER = decoder()


def played(source, **options):
    session = Session(DECODER, source, **options)
    return session, session.run()


@settings(max_examples=8)
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_predictions_do_not_depend_on_how_samples_arrive(sizes):
    _, usual = played(Played(recording()))
    _, other = played(Played(recording(), sizes=sizes))

    assert [p.first for p in other.predictions] == [p.first for p in usual.predictions]
    np.testing.assert_allclose(other.probability, usual.probability, atol=1e-6)


def test_a_stream_predicts_what_the_whole_recording_gives():
    session, outcome = played(Played(recording()))
    found = compare(session, outcome)

    assert len(outcome.predictions) == found.n == 45  # every 0.25 s from 1 s to 12 s
    assert found.same == 1.0 and found.largest < 1e-6
    assert np.ptp(outcome.probability[:, 0]) > 0.01  # or agreement would say nothing


def test_windows_end_at_whole_steps_for_ever():
    _, outcome = played(Played(recording(20.0)), step_s=0.333)

    ends = [p.first + 100 for p in outcome.predictions]
    exact = [33.3 * p.number for p in outcome.predictions]
    np.testing.assert_allclose(ends, exact, rtol=0, atol=0.5 + 1e-9)
    assert [p.number for p in outcome.predictions] == list(range(3, 61))


def test_a_hole_is_filled_marked_and_its_windows_are_skipped():
    kept = np.r_[0:800, 816:1920]  # 0.1 s from 5 s on
    _, outcome = played(Played(recording(), kept=kept))
    ends = [p.time_s for p in outcome.predictions]

    assert (outcome.faults.holes, outcome.faults.missing) == (1, 16)
    assert not [t for t in ends if 5.0 < t < 6.1] and 5.0 in ends and 6.25 in ends
    assert outcome.with_hole == 4


def test_windows_with_a_hole_are_predicted_and_marked_on_request():
    kept = np.r_[0:800, 816:1920]
    session, outcome = played(Played(recording(), kept=kept), holes="predict")

    assert [p.time_s for p in outcome.predictions if p.hole] == [5.25, 5.5, 5.75, 6.0]
    assert compare(session, outcome).largest < 1e-6


def test_a_long_pause_begins_anew_and_no_window_reaches_over_it():
    times = np.arange(1920) / 160.0
    times[960:] += 100.0
    session, outcome = played(Played(recording(), times=times))

    assert outcome.faults.restarts == 1 and outcome.faults.missing == 0
    assert not [p for p in outcome.predictions if 6.0 < p.time_s < 7.0]
    assert compare(session, outcome).largest < 1e-6


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), size=st.integers(1, 64))
def test_jitter_and_drift_of_time_stamps_change_no_sample(seed, size):
    rng = np.random.default_rng(seed)
    n = 3200
    times = np.arange(n) / 160.0 * (1 + 5e-5) + rng.uniform(-0.004, 0.004, n)
    data = rng.standard_normal((2, n)).astype(np.float32)
    regular, parts = Regular(160.0), []
    for first in range(0, n, size):
        piece = Piece(data[:, first : first + size], times[first : first + size], 0.0)
        parts += [part for part, _ in regular(piece)]

    np.testing.assert_array_equal(np.concatenate(parts, axis=1), data)
    assert regular.faults.holes == regular.faults.late == 0
    assert 0.001 < regular.faults.jitter_s < 0.004


def test_samples_that_come_twice_are_left_out():
    regular, data = Regular(100.0), np.arange(40, dtype=np.float32)[None]
    times = np.arange(40) / 100.0
    parts = [part for part, _ in regular(Piece(data[:, :30], times[:30], 0.0))]
    parts += [part for part, _ in regular(Piece(data[:, 20:], times[20:], 0.0))]

    np.testing.assert_array_equal(np.concatenate(parts, axis=1), data)
    assert regular.faults.late == 10


def test_samples_that_are_not_finite_are_held_and_marked():
    signal = recording()
    signal.data[1, 700:705] = np.nan
    _, outcome = played(Played(signal))

    assert outcome.faults.not_finite == 5 and outcome.faults.bad_channels == {1: 5}
    assert np.isfinite(outcome.probability).all()
    assert not [p for p in outcome.predictions if 4.38 < p.time_s < 5.37]


def test_channels_in_another_order_and_extra_ones_change_nothing():
    signal = recording(names=("Fz", *NAMES))
    mixed = signal.pick([3, 0, 2, 1])
    renamed = replace(mixed, sensors=replace(mixed.sensors, names=("C4.", "FZ", "Cz..", "EEG C3")))
    _, usual = played(Played(signal.pick([1, 2, 3])))
    session, outcome = played(Played(renamed))

    np.testing.assert_array_equal(outcome.probability, usual.probability)
    assert any("order of training" in note for note in session.processing.notes)


def test_a_missing_channel_is_named_with_those_that_are_near():
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 channels.*: C4\. Near C4: .*C3"):
        Session(DECODER, Played(recording(names=("C3", "Cz", "C6"))))


def test_a_wrong_unit_stops_with_the_factor():
    with pytest.raises(ValueError, match=r"typical amplitude.*1e\+6.*--unit"):
        played(Played(scaled(recording(), 1e-6)))


def test_a_rate_that_the_stamps_contradict_stops():
    times = np.arange(1920) / 320.0
    with pytest.raises(ValueError, match=r"says 160 Hz, .* 3.125 ms apart, which is 320 Hz"):
        played(Played(recording(), times=times))


def test_a_stream_that_ends_too_soon_predicts_nothing_and_says_so():
    _, outcome = played(Played(recording(0.5)))

    assert not outcome.predictions and np.isnan(outcome.latency_s(50))
    assert outcome.seconds == 0.5


@pytest.mark.parametrize("seconds", [slice(0, 5), slice(4, 9), slice(None)], ids=str)
def test_an_amplifier_that_is_off_is_not_decoded_and_ends_no_stream(seconds):
    signal = recording()
    rate = round(signal.sfreq)
    signal.data[:, slice(*(at and at * rate for at in (seconds.start, seconds.stop)))] = 0
    steps = (*CAUSAL, AlignRecording(window_s=2.0, causal=True))
    session = Session(decoder(steps=steps), Played(signal))
    outcome = session.run()

    ends = [prediction.time_s for prediction in outcome.predictions]
    assert outcome.refused and "the amplifier is off" in outcome.refused_why
    if seconds.stop is None:
        assert not ends
    else:
        assert not [end for end in ends if seconds.start + 2 < end <= seconds.stop]  # it rings
        assert ends[-1] == 12.0 and compare(session, outcome).largest < 1e-5


def test_control_c_ends_with_what_was_there():
    class Stopped(Played):
        def pieces(self):
            for number, piece in enumerate(super().pieces()):
                if number == 60:
                    signals.raise_signal(signals.SIGINT)
                yield piece

    before = signals.signal(signals.SIGINT, signals.default_int_handler)  # a shell may ignore it
    try:
        session, outcome = played(Stopped(recording()))
    finally:
        signals.signal(signals.SIGINT, before)

    assert outcome.ended == "interrupted" and outcome.seconds == 6.0
    assert len(outcome.predictions) == compare(session, outcome).n == 21


def test_a_slow_decoder_drops_windows_and_stays_in_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("neurofm.live.session.time.perf_counter", lambda: clock[0])
    usual = DECODER.probabilities

    class Slow:
        facts = DECODER.facts

        def probabilities(self, *args, **options):
            clock[0] += 0.6
            return usual(*args, **options)

    source = Played(recording(), sizes=[160])
    source.live = True
    pieces = source.pieces
    source.pieces = lambda: (replace(p, arrived=clock[0]) for p in pieces())
    outcome = Session(Slow(), source, step_s=0.25).run()

    # Of the four windows of a second: one, and the newest.
    assert outcome.too_late == 2 * 11 and len(outcome.predictions) == 2 * 11 + 1
    assert max(p.latency_s for p in outcome.predictions) == pytest.approx(1.2)


def test_alignment_in_a_stream_warms_up_and_agrees():
    steps = (*CAUSAL, AlignRecording(window_s=2.0, causal=True))
    session = Session(decoder(steps=steps), Played(recording()))
    outcome = session.run()

    assert outcome.warming_up == 8 and outcome.predictions[0].time_s == 3.0
    assert compare(session, outcome).largest < 1e-5


def test_zero_phase_steps_become_causal_and_the_price_is_told():
    steps = (Notch([50.0]), Bandpass(8.0, 30.0), Resample(100.0), Rereference())
    session = Session(decoder(steps=steps), Played(recording()))
    outcome = session.run()
    own = compare(session, outcome, own_steps=True)

    assert len(session.processing.notes) == 4
    assert compare(session, outcome).largest < 1e-5
    assert own.n == len(outcome.predictions) and own.largest > 0.01


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (HighGamma(), "HighGamma has no causal form.*Train a recipe without it"),
        (InterpolateBads(), "InterpolateBads has no causal form.*detect: false"),
        (StandardizeRecording(robust=True), "robust has no causal form.*robust: false"),
    ],
)
def test_a_step_without_a_causal_form_is_named(step, words):
    with pytest.raises(ValueError, match=words):
        causal_form(step)


@settings(max_examples=10)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_all_steps_together_give_in_pieces_what_one_pass_gives(sizes):
    steps = [
        Notch([50.0]),
        Bandpass(4.0, 30.0),
        Resample(128.0),
        Clip(100.0),
        AlignRecording(window_s=1.0),
        PickChannels(["C4", "C3"]),
    ]
    signal = recording(5.0)
    processing, parts, first = Processing(steps, signal), [], 0
    for size in [*sizes, 10_000]:
        parts.append(processing(signal.data[:, first : first + size]))
        first += size

    whole = processing.offline(signal).data
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-5)
    assert processing.delay_s > 0.02 and processing.head.sensors.names == ("C4", "C3")


def test_events_are_scored_at_the_windows_of_training():
    _, outcome = played(Played(recording()))
    at, y = at_events(
        outcome.predictions,
        recording().events,
        labels=LABELS,
        window_s=1.0,
        offset_s=0.5,
        step_s=0.25,
    )
    right = np.array([[1.0, 0.0], [0.0, 1.0]])[y]
    probability = np.full((len(outcome.predictions), 2), 0.5)
    probability[at] = right

    assert [outcome.predictions[i].time_s for i in at] == [4.5, 7.5] and y.tolist() == [0, 1]
    found = score(probability, at, y)
    assert (found.balanced, found.chance, found.n) == (1.0, 0.5, 2)
    assert score(probability, at[:1], y[:1]) is None


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_predictions_are_appended_and_a_cut_line_is_closed(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    for _ in range(2):
        with PredictionTable(path, LABELS) as table:
            Session(DECODER, Played(recording(2.0))).run(table)
    with path.open("ab") as file:
        file.write(b'{"time' if suffix == ".jsonl" else b"1.0,le")
    with PredictionTable(path, LABELS) as table:
        Session(DECODER, Played(recording(1.0))).run(table)
    lines = path.read_text().splitlines()

    assert len(lines) == 5 + 5 + 1 + 1 + (suffix == ".csv")
    if suffix == ".jsonl":
        assert json.loads(lines[-1])["time_s"] == 1.0
    with pytest.raises(ValueError, match="other columns"):
        PredictionTable(path, ("a", "b"))


def test_a_full_disk_leaves_whole_lines(tmp_path):
    path = tmp_path / "out.csv"
    outcome = Session(DECODER, Played(recording(2.0))).run()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with PredictionTable(path, LABELS) as table:
        table(outcome.predictions[0])
        before = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
        try:
            with pytest.raises(OSError):
                table(outcome.predictions[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert path.read_bytes() == before


def test_a_file_is_played_at_its_speed(tmp_path, monkeypatch):
    slept = []
    signal = recording(1.0)
    monkeypatch.setattr("neurofm.live.sources._read", lambda path, datasets: signal)
    monkeypatch.setattr("neurofm.live.sources.time.perf_counter", lambda: sum(slept))
    monkeypatch.setattr("neurofm.live.sources.time.sleep", slept.append)
    found = list(FileSource(tmp_path, speed=2.0, piece_s=0.25).pieces())

    np.testing.assert_array_equal(np.concatenate([p.data for p in found], axis=1), signal.data)
    assert [p.arrived for p in found] == [0.125, 0.25, 0.375, 0.5] and sum(slept) == 0.5
    assert [p.times[0] for p in found] == [0.0, 0.25, 0.5, 0.75]


def test_a_step_shorter_than_a_sample_is_refused():
    with pytest.raises(ValueError, match="less than a sample at 100 Hz"):
        Session(DECODER, Played(recording()), step_s=0.001)
    assert facts().steps()[0] == Bandpass(8.0, 30.0, causal=True)
