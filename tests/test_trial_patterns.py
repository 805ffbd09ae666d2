"""From runs to patterns: the right volumes, one mask, one rate, and nothing silently wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neurofm.data import SingleTrialBetas
from neurofm.evaluate.patterns import decode_patterns, trial_patterns
from neurofm.io.simulated.synthetic_fmri import simulate_bold
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

TR = 2.0


def run_of(name: str = "1", n: int = 40, voxels: int = 5, tr: float = TR, **changes) -> Signal:
    data = np.tile(np.arange(n, dtype=np.float32), (voxels, 1))
    data += np.arange(voxels, dtype=np.float32)[:, None]
    position = np.stack([0.003 * np.arange(voxels), np.zeros(voxels), np.zeros(voxels)], axis=1)
    signal = Signal(
        data=data,
        sfreq=1 / tr,
        sensors=Sensors.of_kind([f"v{i}" for i in range(voxels)], Kind.BOLD, position, frame="mni"),
        events=(
            Event(10.0, 8.0, "face"),
            Event(30.0, 8.0, "house"),
            Event(50.0, 4.0, "BAD motion"),
        ),
        recording=Recording("toy", "1", run=name),
    )
    return replace(signal, **changes)


def plain(signals, **about):
    return trial_patterns(signals, clean=None, standardize=False, **about)


def test_a_pattern_is_the_mean_of_the_volumes_after_the_delay():
    found = plain([run_of()], start_s=4, stop_s=4)

    # 14 to 22 s are volumes 7 to 10; 34 to 42 s are 17 to 20.
    np.testing.assert_allclose(found.values[:, 0], [8.5, 18.5])
    assert found.stimulus == ("face", "house") and found.run == ("1", "1")
    assert found.unit == "%" and len(found.sensors) == 5


def test_a_volume_that_begins_where_a_window_ends_is_outside():
    assert plain([run_of()], start_s=0, stop_s=0, average=False).values.shape == (2, 5, 4)
    found = plain([run_of()], start_s=0, stop_s=0, average=False)
    np.testing.assert_allclose(found.values[0, 0], [5, 6, 7, 8])
    assert found.sfreq == 0.5 and found.start_s == 0


def test_runs_are_cleaned_by_themselves():
    other = run_of("2")
    pair = [run_of(), replace(other, data=other.data * 7 + 100)]
    rng = np.random.default_rng(0)
    pair = [replace(s, data=s.data + 3 * rng.standard_normal(s.data.shape)) for s in pair]
    together, alone = trial_patterns(pair), trial_patterns(pair[:1])

    np.testing.assert_allclose(together.values[:2], alone.values, atol=1e-6)
    assert together.unit == "z" and abs(together.values).max() < 5


def test_labels_choose_trials_and_marks_are_never_trials():
    assert plain([run_of()], labels=["hou*"]).stimulus == ("house",)
    with pytest.raises(ValueError, match="no trial"):
        plain([run_of()], labels=["cat"])


def test_recordings_of_patterns_are_taken_as_they_are():
    ready = run_of(tr=1.0, details={"samples": "trials", "unit": "arbitrary"})
    ready = replace(ready, events=(Event(0.0, 1.0, "a"), Event(3.0, 1.0, "b")))
    found = trial_patterns([ready])

    np.testing.assert_allclose(found.values[:, 0], [0, 3])
    assert found.unit == "arbitrary"


def test_betas_stand_in_for_means_and_only_tuned_people_are_decoded():
    def result(tuning: float):
        runs = [simulate_bold("1", str(r), n_voxels=80, tuning=tuning) for r in (1, 2, 3)]
        made = trial_patterns(runs, betas=SingleTrialBetas(method="lss"))
        assert made.values.shape == (72, 80)
        return decode_patterns(made.values, made.stimulus, made.run).result

    assert result(2.5).value > 0.75
    assert abs(result(0.0).value - 0.5) < 0.2


def test_constant_voxels_are_left_out_of_all_runs_and_counted():
    flat = run_of("2")
    flat = replace(flat, data=np.where(np.arange(5)[:, None] == 2, 1.0, flat.data))
    with pytest.warns(UserWarning, match="1 of 5 voxels"):
        found = plain([run_of(), flat])
    assert found.sensors.names == ("v0", "v1", "v3", "v4") and found.values.shape == (4, 4)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (run_of("2", tr=2.5), "every 2.5 s, .* every 2 s"),
        (run_of("2", voxels=4), "4 of|4 voxels"),
        (replace(run_of("2"), recording=Recording("toy", "2", run="2")), "another person"),
        (run_of("1"), "given twice"),
    ],
)
def test_runs_that_do_not_fit_are_refused(other: Signal, words: str):
    with pytest.raises(ValueError, match=words):
        plain([run_of(), other])


def test_a_mask_of_another_space_is_refused():
    moved = run_of("2")
    position = moved.sensors.position + 0.002
    for sensors in (
        replace(moved.sensors, position=position),
        replace(moved.sensors, frame="scanner"),
    ):
        with pytest.raises(ValueError, match="one mask"):
            plain([run_of(), replace(moved, sensors=sensors)])


def test_trials_without_volumes_are_refused():
    with pytest.raises(ValueError, match="1 of 2 trials have no volume"):
        plain([run_of(n=18)], start_s=6)
    with pytest.raises(ValueError, match="no runs"):
        trial_patterns([])
    with pytest.raises(ValueError, match="betas"):
        trial_patterns([run_of()], average=False, betas=SingleTrialBetas())
