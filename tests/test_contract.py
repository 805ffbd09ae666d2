"""What a model expects is compared with data before a run, and learned from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from neurofm.amplitudes import check_amplitudes
from neurofm.contract import Contract, Given
from neurofm.data.history import band_of, unit_of
from neurofm.data.steps.filters import Bandpass, Notch, Resample, chained
from neurofm.io import load_model, load_tokenizer
from neurofm.tasks import TrainTokenizer
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

NAMES = ("C3", "Cz", "C4")


def given(**changes: Any) -> Given:
    return Given(**{"sfreq": 100.0, "n_times": 200, "names": NAMES, "band": (1.0, 40.0)} | changes)


@pytest.mark.parametrize(
    ("expects", "words"),
    [
        ({"sfreq": 128}, r"have 100 Hz, expected 128 Hz.*Resample\(sfreq=128\)"),
        ({"unit": "z"}, "unit 'physical', expected 'z'"),
        ({"n_times": 256}, "windows of 200 samples, expected 256. Set window_s to 2.56"),
        ({"window_s": 4}, "windows of 2 s, expected 4 s"),
        ({"min_window_s": 2.5}, "at least 2.5 s"),
        ({"channels": ["C4", "Cz", "C3"]}, "number 0 is C3, expected C4"),
        ({"channels": ["C3", "Cz"]}, "lacking none; not known C4"),
        ({"channels": ["F3", "C3", "Cz", "C4"]}, "lacking F3"),
        ({"n_channels": 4}, "3 channels, expected 4 in a fixed order"),
        ({"max_channels": 2}, "3 channels, expected at most 2"),
        ({"positions": True}, "2 channels without a known position"),
        ({"kinds": ["mag"]}, "EEG channels, expected MAG"),
        ({"band": [8, 30]}, r"band of 1-40 Hz, expected 8-30 Hz.*Bandpass\(low=8, high=30\)"),
    ],
)
def test_each_field_is_compared_and_names_its_remedy(expects: dict[str, Any], words: str) -> None:
    data = given(kinds=("eeg",), n_channels=(3, 3), n_unplaced=2)
    with pytest.raises(
        ValueError, match=f"^Net: the data {'have ' * (words[:4] != 'have')}.*{words}"
    ):
        Contract.of(expects, where="card").compare(data, model="Net")


def test_everything_that_is_wrong_is_said_at_once() -> None:
    words = r"have 100 Hz, .*Also: windows of 200 .*window_s to 2, or build .*Also: a band of 1-40"
    with pytest.raises(ValueError, match=words):
        Contract(sfreq=128.0, n_times=256, band=(8.0, 30.0)).compare(given(), model="Net")


def test_standardized_data_that_do_not_say_so_are_refused() -> None:
    known = {"eeg": {"median": 20.0}}
    with pytest.raises(ValueError, match="EEG channels of the batch are standardized"):
        check_amplitudes({"eeg": [1.0] * 8}, known, model="Net", what="the batch")
    for values in ([1.0] * 4, [1.0] * 7 + [1.5]):
        check_amplitudes({"eeg": values}, known, model="Net", what="the batch")
    check_amplitudes({"eeg": [1.0] * 8}, {"eeg": {"median": 1.0}}, model="Net", what="the batch")


def test_what_cannot_hurt_is_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"band of 1-40 Hz, expected 0\.1-96 Hz.*misses the rest"):
        Contract(band=(0.1, 96.0)).compare(given(), model="Net")
    with pytest.warns(UserWarning, match="was not made for"):
        Contract(band=(8.0, 30.0)).compare(given(), model="Net", fresh=True)
    Contract(band=(8.0, 30.0)).compare(given(band=None), model="Net")  # unknown


def test_the_first_channels_are_enough_for_a_model_that_takes_fewer() -> None:
    longer = Contract(channels=("c3", "CZ", "C4", "T3"), max_channels=8)
    longer.compare(given(), model="Net")
    longer.compare(given(names=("C3", "Cz", "C4", "T7")), model="Net")
    with pytest.raises(ValueError, match="other channels"):
        Contract(channels=("C3", "CZ", "C4", "T3")).compare(given(), model="Net")


def test_the_band_is_read_off_the_steps_that_were_applied() -> None:
    data = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)).numpy()
    sensors = Sensors.of_kind(("C3", "C4"), Kind.EEG)
    signal = Signal(data, 500.0, sensors, (), Recording("d", "s"), ("read x.edf",))
    assert band_of(signal.history, sfreq=500.0) is None
    for steps, band in (
        ([Bandpass(1.0, 40.0), Resample(100.0)], (1.0, 40.0)),
        ([Notch([50.0]), Resample(100.0)], (0.0, 50.0)),
        ([Bandpass(0.5, None)], (0.5, 250.0)),
        ([Bandpass(None, 30.0), Bandpass(4.0, 90.0)], (4.0, 30.0)),
    ):
        made = signal
        for step in chained(steps):
            made = step(made)
        assert band_of(made.history, sfreq=made.sfreq) == band
        assert unit_of(made.history) == "physical"


def test_amplitudes_within_an_order_pass_and_others_name_the_factor() -> None:
    known = {"eeg": {"median": 15.0}}
    check_amplitudes({"eeg": [3.0], "mag": [1e-9]}, known, model="Net", what="the data")
    for value, words in ((1.5e-5, r"volts.*1e\+6"), (0.02, r"millivolts.*1e\+3"), (1e9, "1e-8")):
        with pytest.raises(ValueError, match=words):
            check_amplitudes({"eeg": [value]}, known, model="Net", what="the data")


def test_a_run_says_what_it_learned_from_and_the_next_one_is_held_to_it(
    small: Any, tmp_path: Path
) -> None:
    def trainer() -> lightning.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return lightning.Trainer(
            max_steps=1,
            accelerator="cpu",
            default_root_dir=tmp_path,
            limit_val_batches=0,
            enable_checkpointing=False,
            **quiet,
        )

    run = trainer()
    run.fit(TrainTokenizer(small.tokenizer()), datamodule=small.data())
    run.save_checkpoint(tmp_path / "last.ckpt")
    loaded: Any = load_tokenizer(tmp_path / "last.ckpt")
    (told,) = loaded.card["trained_on"]
    assert (told["recordings"], told["window_s"], told["sfreq"]) == (2, 4.0, 64.0)
    assert "pick 6 of 64 channels by name" in told["preparation"]
    assert loaded.contract.unit == "physical"
    assert 1 < loaded.card["statistics"]["amplitude"]["eeg"]["median"] < 100
    loaded._amplitudes = {"eeg": {"median": 1e-5}}
    with pytest.raises(ValueError, match="EEG channels of the data have an amplitude of"):
        trainer().fit(TrainTokenizer(loaded), datamodule=small.data())


def test_a_card_knows_channels_by_place() -> None:
    assert load_model("tfm_encoder_demo").contract.max_channels == 64
    assert load_model("mirepnet_demo").contract.n_channels == 45
    assert load_model("brainomni_demo").contract.max_channels is None
