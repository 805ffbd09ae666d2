"""Views: what changes in a window, what does not, and what becomes of its class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import hilbert

from neurofm.batch import Batch
from neurofm.cards import build, spec_of
from neurofm.data import (
    EuclideanAlignment,
    Flip,
    ReflectChannels,
    ShiftFrequency,
    mirrored_classes,
    mirrored_names,
    shift_frequency,
)
from neurofm.io.electrodes import positions_of
from neurofm.units import Kind

HANDS = ("left_hand", "right_hand")
# BNCI2014001 in its order, and the channels that MVCNet exchanges in it.
NAMES = [
    *("Fz", "FC3", "FC1", "FCz", "FC2", "FC4", "C5", "C3", "C1", "Cz", "C2"),
    *("C4", "C6", "CP3", "CP1", "CPz", "CP2", "CP4", "P1", "Pz", "P2", "POz"),
]
LEFT, RIGHT = (1, 2, 6, 7, 8, 13, 14, 18), (5, 4, 12, 11, 10, 17, 16, 20)


def make_batch(names: list[str] = NAMES, *, n: int = 3, sfreq: float = 250.0) -> Batch:
    """Noise at electrodes in their standard places."""
    place = torch.from_numpy(positions_of(names, "standard_1005")).float()
    shape = (n, len(names))
    return Batch(
        x=torch.randn(*shape, 200, generator=torch.Generator().manual_seed(0)),
        channel_mask=torch.ones(shape, dtype=torch.bool),
        kind=torch.full(shape, int(Kind.EEG)),
        position=place.expand(n, -1, -1),
        orientation=torch.zeros(*shape, 3),
        has_position=torch.ones(shape, dtype=torch.bool),
        sfreq=sfreq,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
        y=torch.arange(n) % 2,
        names=tuple(names),
    )


@pytest.mark.parametrize("view", [Flip(), ShiftFrequency(0.3), ReflectChannels(HANDS)])
def test_the_batch_itself_is_not_changed(view: torch.nn.Module) -> None:
    batch = make_batch()
    x, y = batch.x.clone(), batch.y.clone()
    seen = view(batch)
    assert torch.equal(batch.x, x) and torch.equal(batch.y, y)
    assert seen.x.shape == x.shape and not torch.equal(seen.x, x) and seen.tokens is None
    assert spec_of(build(spec_of(view))) == spec_of(view)


def test_flip_turns_the_sign_and_keeps_the_class() -> None:
    batch = make_batch()
    assert torch.equal(Flip()(batch).x, -batch.x)
    assert torch.equal(Flip()(batch).y, batch.y)


# Frequency


def wave(hz: float, sfreq: float, n: int = 2048) -> torch.Tensor:
    return (2 * torch.pi * hz * torch.arange(n, dtype=torch.float64) / sfreq).cos()


@pytest.mark.parametrize("sfreq", [100.0, 160.0, 512.0])
@pytest.mark.parametrize("hz", [0.5, -0.5])
def test_a_rhythm_moves_by_the_hertz_asked_for_at_any_rate(sfreq: float, hz: float) -> None:
    # A whole number of periods: nothing is at its edges.
    own = 80 * sfreq / 2048
    x = wave(own, sfreq).expand(1, 1, -1)
    batch = replace(make_batch(["Cz"], n=1, sfreq=sfreq), x=x)
    moved = ShiftFrequency(hz)(batch).x[0, 0]
    torch.testing.assert_close(moved, wave(own + hz, sfreq), atol=1e-6, rtol=0)


def test_the_original_s_assumed_rate_moves_a_rhythm_too_far_at_another_rate() -> None:
    x = wave(80 * 512 / 2048, 512.0).expand(1, 1, -1)
    batch = replace(make_batch(["Cz"], n=1, sfreq=512.0), x=x)
    moved = ShiftFrequency(0.1, sfreq=250.0)(batch).x[0, 0]
    torch.testing.assert_close(moved, wave(20 + 0.1 * 512 / 250, 512.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("n", [1, 100, 128, 129])
def test_shift_equals_scipy_s_analytic_signal_padded_to_a_power_of_two(n: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, n))
    padded = 2 ** int(np.ceil(np.log2(n)))
    turned = np.exp(2j * np.pi * 3.0 * np.arange(n) / 160)
    expected = (hilbert(x, padded)[..., :n] * turned).real
    got = shift_frequency(torch.from_numpy(x), 3.0, sfreq=160.0)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)
    same = shift_frequency(torch.from_numpy(x), 0.0, sfreq=160.0)
    np.testing.assert_allclose(same.numpy(), x, atol=1e-12)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="sfreq is 0"):
        ShiftFrequency(sfreq=0.0)


# Space


def test_pairs_by_name_are_those_the_original_lists() -> None:
    order = mirrored_names(NAMES)
    exchanged = dict(zip(LEFT + RIGHT, RIGHT + LEFT, strict=True))
    assert order == [exchanged.get(i, i) for i in range(len(NAMES))]
    batch = make_batch()
    by_number = ReflectChannels(HANDS, pairs=list(zip(LEFT, RIGHT, strict=True)))
    assert torch.equal(by_number(batch).x, ReflectChannels(HANDS)(batch).x)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["C3", "CZ", "C4"], [2, 1, 0]),
        (["c3..", "Cz.", "c4 "], [2, 1, 0]),
        (["T9", "T10", "PO7", "PO8", "Iz"], [1, 0, 3, 2, 4]),
        (["FFC1h", "FFC2h", "T3", "T4"], [1, 0, 3, 2]),
    ],
)
def test_names_of_the_10_20_system_tell_the_side(names: list[str], order: list[int]) -> None:
    assert mirrored_names(names) == order


def test_without_names_places_tell_the_pairs() -> None:
    batch = make_batch()
    expected = ReflectChannels(HANDS)(batch).x
    assert torch.equal(ReflectChannels(HANDS)(replace(batch, names=None)).x, expected)
    own = tuple(f"E{i}x" for i in range(len(NAMES)))
    assert torch.equal(ReflectChannels(HANDS)(replace(batch, names=own)).x, expected)


def test_a_rhythm_over_the_left_hand_area_comes_to_the_right_and_changes_its_class() -> None:
    batch = make_batch()
    x = torch.zeros_like(batch.x)
    x[:, NAMES.index("C3")] = 1.0
    x[:, NAMES.index("Cz")] = 2.0
    seen = ReflectChannels(HANDS)(replace(batch, x=x))
    assert seen.x[0, :, 0].nonzero().flatten().tolist() == [9, 11]
    assert (seen.x[:, NAMES.index("C4")] == 1).all() and (seen.x[:, NAMES.index("Cz")] == 2).all()
    assert seen.y.tolist() == [1, 0, 1]
    again = ReflectChannels(HANDS)(seen)
    assert torch.equal(again.x, x) and torch.equal(again.y, batch.y)


def test_padding_stays_where_it_is() -> None:
    batch = make_batch()
    one = {"channel_mask": False, "has_position": False, "kind": -1}
    padded = {}
    for key in ("x", "channel_mask", "kind", "position", "orientation", "has_position"):
        value = getattr(batch, key)
        more = torch.full((len(value), 1, *value.shape[2:]), one.get(key, 7), dtype=value.dtype)
        padded[key] = torch.cat([value, more], 1)
    for names in (batch.names, None):
        seen = ReflectChannels(HANDS)(replace(batch, names=names, **padded))
        assert torch.equal(seen.x[:, :-1], ReflectChannels(HANDS)(batch).x)
        assert (seen.x[:, -1] == 7).all()


def test_reflecting_aligned_windows_is_aligning_reflected_ones() -> None:
    batch = make_batch(n=8)
    mixing = np.random.default_rng(0).standard_normal((len(NAMES), len(NAMES)))
    raw = mixing @ batch.x.double().numpy()
    order = mirrored_names(NAMES)
    aligned = EuclideanAlignment().fit_transform(raw)
    reflected = EuclideanAlignment().fit_transform(raw[:, order])
    np.testing.assert_allclose(aligned[:, order], reflected, atol=1e-4)


@pytest.mark.parametrize(
    ("classes", "image"),
    [
        (["left_hand", "right_hand"], [1, 0]),
        (["feet", "right_hand", "tongue", "left_hand"], [0, 3, 2, 1]),
        (["Left", "right", "left"], [0, 2, 1]),
    ],
)
def test_classes_are_exchanged_by_their_names(classes: list[str], image: list[int]) -> None:
    assert mirrored_classes(classes) == image
    batch = replace(make_batch(n=len(classes)), y=torch.arange(len(classes)))
    assert ReflectChannels(classes)(batch).y.tolist() == image


def test_a_class_without_a_mirror_image_is_refused_or_kept_as_asked() -> None:
    with pytest.raises(ValueError, match=r"'right_hand' is 'left_hand', which.*unpaired: keep"):
        ReflectChannels(["right_hand", "feet"])
    kept = ReflectChannels(["right_hand", "feet"], unpaired="keep")
    assert kept(make_batch()).y.tolist() == [0, 1, 0]
    with pytest.raises(Exception, match="'drop'"):  # TypeCheckError where types are checked
        ReflectChannels(HANDS, unpaired="drop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("C3", "Cz", "FC4")}, r"C3, FC4 of 3 channels have no partner.*PickChannels"),
        ({"names": None}, r"2 of 3 EEG channels, number 0 first, have no channel within 1 cm"),
        ({"y": torch.tensor([0, 2, 1])}, "a label is 2, but there are 2 classes"),
    ],
)
def test_a_montage_or_label_without_a_mirror_image_is_refused(
    change: dict[str, object], message: str
) -> None:
    batch = make_batch(["C3", "Cz", "FC4"] if "names" in change else ["C3", "Cz", "C4"])
    with pytest.raises(ValueError, match=message):
        ReflectChannels(HANDS)(replace(batch, **change))


def test_unknown_or_different_places_are_refused() -> None:
    batch = replace(make_batch(), names=None)
    nowhere = replace(batch, has_position=torch.zeros_like(batch.has_position))
    moved = batch.position.clone()
    moved[1] += 0.01
    for wrong in (nowhere, replace(batch, position=moved)):
        with pytest.raises(ValueError, match="no position, or windows differ"):
            ReflectChannels(HANDS)(wrong)


def test_pairs_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="name a channel twice"):
        ReflectChannels(HANDS, pairs=[[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="channel 22, but the batch has 22"):
        ReflectChannels(HANDS, pairs=[[0, 22]])(make_batch())


def test_windows_without_labels_are_reflected_too() -> None:
    assert ReflectChannels(HANDS)(replace(make_batch(), y=None)).y is None
