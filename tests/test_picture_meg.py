"""Simulated MEG of people looking at pictures tells of the picture when it was planted to."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.io import SyntheticPictureMEGReader, open_corpus
from neurofm.io.simulated.pictures import draw_pictures, picture_name

SMALL = {"subjects": 2, "runs": 2, "n_train": 72, "n_test": 8, "dim": 4, "size": 32, "sfreq": 60}
SAMPLES = 61


@pytest.fixture(scope="module")
def reader() -> SyntheticPictureMEGReader:
    return SyntheticPictureMEGReader(**SMALL)


@pytest.fixture(scope="module")
def loud(reader):
    return reader.responses("001")


def test_pictures_depend_on_name_and_seed_alone() -> None:
    names = [picture_name(1, 2), picture_name(3, 4)]
    both = draw_pictures(names, size=32)
    np.testing.assert_array_equal(both[1:], draw_pictures(names[1:], size=32))
    assert both.min() >= 0 and both.max() <= 1
    assert np.abs(both - draw_pictures(names, seed=1, size=32)).mean() > 0.05
    with pytest.raises(ValueError, match="names look like 'category-03_0017'"):
        draw_pictures(["cat"])


def test_design_keeps_test_categories_apart_and_repeats_test_pictures(reader, loud) -> None:
    found = loud
    assert found.values.shape == (72 + 2 * 8, 102, SAMPLES) and found.sfreq == 60
    assert found.start_s == pytest.approx(-0.2)
    counts = {name: len(trials) for name, trials in found.repeats().items()}
    shared = set(reader.shared())
    assert all(counts[name] == (2 if name in shared else 1) for name in counts)
    train = {name.split("_")[0] for name in reader.train}
    assert not train & set(reader.categories_of(list(shared)))


def test_code_is_in_late_responses_and_not_before_the_picture(reader) -> None:
    clear = SyntheticPictureMEGReader(**SMALL, signal_nam=300.0)
    found, truth = clear.responses("002"), clear.truth("002")
    code = clear.embed(found.stimulus)
    design = np.column_stack([np.ones(len(code)), code])
    fitted = np.linalg.lstsq(design, found.values.reshape(len(code), -1), rcond=None)[0]
    left = found.values.reshape(len(code), -1) - design @ fitted
    share = 1 - left.var(0) / found.values.reshape(len(code), -1).var(0)
    share = share.reshape(102, -1).mean(0)
    late = (truth.times > 0.25) & (truth.times < 0.35)
    chance = code.shape[1] / len(code)
    assert share[late].mean() > 0.5
    assert share[truth.times < 0].mean() < 2.5 * chance
    # What was planted gives the weights of the code back.
    planted = truth.lead_field[:, 16:] @ (
        truth.courses[16:, late, None] * truth.mixing[:, None]
    ).reshape(32, -1)
    got = np.moveaxis(fitted[1:].reshape(4, 102, -1)[:, :, late], 0, -1).reshape(102, -1)
    assert np.corrcoef(planted.ravel(), got.ravel())[0, 1] > 0.95


def test_noise_does_not_depend_on_the_signal(loud) -> None:
    quiet = SyntheticPictureMEGReader(**SMALL, signal_nam=0.0).responses("001")
    assert quiet.stimulus == loud.stimulus
    before = loud.start_s + np.arange(SAMPLES) / 60 < 0.02
    np.testing.assert_allclose(quiet.values[..., before], loud.values[..., before], atol=1e-2)


def test_load_gives_the_same_samples_as_responses(reader, loud) -> None:
    signal = reader.load(reader.recordings()[0])
    first = loud.values[:44]
    np.testing.assert_array_equal(signal.data[:, : 2 * SAMPLES], np.concatenate(first[:2], axis=1))
    pictures = [event for event in signal.events if event.label.startswith("category")]
    assert len(pictures) == 44 and pictures[1].onset == pytest.approx((SAMPLES + 12) / 60)


def test_card_opens_and_wrong_arguments_are_named() -> None:
    assert len(open_corpus("simulated_picture_meg").recordings()) == 16
    with pytest.raises(ValueError, match="sensors 'eeg'"):
        SyntheticPictureMEGReader(sensors="eeg")
    with pytest.raises(ValueError, match=r"from 0\.1 to"):
        SyntheticPictureMEGReader(start_s=0.1)
    with pytest.raises(ValueError, match="no subject '9'"):
        SyntheticPictureMEGReader(**SMALL).responses("9")
