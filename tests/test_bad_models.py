"""Bad input to every small model card of ours: an error that says what, never a number."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from card_roles import reads_batches
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from neurofm import cards
from neurofm.batch import Batch
from neurofm.io import load_model, load_tokenizer, save_model
from neurofm.units import Kind

SMALL = [n for n in cards.names("models") if n.endswith("_demo") and reads_batches(n)]
MODELS = [name for name in SMALL if "okenizer" not in name]


@cache
def loaded(name: str) -> Any:
    torch.manual_seed(0)
    return (load_model if name in MODELS else load_tokenizer)(name)


def good(name: str) -> Batch:
    """Noise of 2 s, or as long as a card insists on, in the order, unit and band it expects."""
    expects = cards.read("models", name)["expects"]
    channels = expects.get("channels") or [f"E{i}" for i in range(expects.get("n_channels", 6))]
    c, sfreq = len(channels), float(expects["sfreq"])
    n_times = expects.get("n_times", max(round(2 * sfreq), 8))
    unit = "z" if expects.get("unit") == "z" else "physical"
    x = (1 if unit == "z" else 20) * torch.randn(
        2, c, n_times, generator=torch.Generator().manual_seed(0)
    )
    known = torch.ones(2, c, dtype=torch.bool)
    return Batch(
        x=x,
        channel_mask=known,
        kind=torch.full((2, c), int(Kind[expects["kinds"][0].upper()])),
        position=0.05 * torch.randn(2, c, 3, generator=torch.Generator().manual_seed(1)),
        orientation=torch.zeros(2, c, 3),
        has_position=known,
        sfreq=sfreq,
        onset=torch.arange(2, dtype=torch.float64),
        subject=torch.zeros(2, dtype=torch.long),
        recording=torch.zeros(2, dtype=torch.long),
        names=tuple(channels),
        band=tuple(map(float, expects["band"])) if "band" in expects else None,
        unit=unit,
    )


def output(model: Any, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.encode(batch).tokens if hasattr(model, "encode") else model(batch).values


@pytest.mark.parametrize("name", SMALL)
def test_what_a_card_expects_is_accepted(name: str) -> None:
    assert torch.isfinite(output(loaded(name), good(name))).all()


FAULTS = {
    "rate": (
        lambda b: replace(b, sfreq=1.5 * b.sfreq),
        r"has [\d.]+ Hz, expected [\d.]+ Hz.*Resample",
    ),
    "unit": (lambda b: replace(b, unit="V"), "unit 'V', which is not 'physical' or 'z'"),
    "band": (lambda b: replace(b, band=(0.0, 9e3)), r"band of 0-9000 Hz, expected .*Bandpass"),
    "kind": (
        lambda b: replace(b, kind=torch.full_like(b.kind, int(Kind.UNIT))),
        "UNIT channels, expected .*PickKinds",
    ),
    "nothing real": (
        lambda b: replace(b, channel_mask=torch.zeros_like(b.channel_mask)),
        "no real channel|has 0 channels",
    ),
    "one window masked": (
        lambda b: replace(b, channel_mask=b.channel_mask & torch.tensor([[True], [False]])),
        r"no real channel|has 0 to \d+ channels",
    ),
    "NaN": (
        lambda b: replace(b, x=b.x.where(torch.arange(b.x.shape[-1]) != 7, torch.nan)),
        "NaN or infinite",
    ),
    "infinity": (
        lambda b: replace(b, x=b.x.where(torch.arange(b.x.shape[-1]) != 7, torch.inf)),
        "NaN or infinite",
    ),
    "without a square": (
        lambda b: replace(b, x=b.x.where(torch.arange(b.x.shape[-1]) != 7, 1e25)),
        "above 1e15",
    ),
}


@pytest.mark.parametrize(
    ("name", "fault"),
    [(n, f) for n in SMALL for f in FAULTS if f != "band" or good(n).band is not None],
)
def test_bad_input_is_an_error_in_words(name: str, fault: str) -> None:
    spoil, words = FAULTS[fault]
    with pytest.raises(ValueError, match=words):
        output(loaded(name), spoil(good(name)))


@pytest.mark.parametrize(
    "name",
    [n for n in SMALL if "brain" not in n and n not in ("ephys_tokenizer_demo", "wave_demo")],
)
def test_a_window_too_short_is_an_error_in_words(name: str) -> None:
    batch = good(name)
    with pytest.raises(ValueError, match=r"window_s|at least|too few"):
        output(loaded(name), replace(batch, x=batch.x[..., :3]))


@pytest.mark.parametrize(
    "name", [n for n in SMALL if "channels" in cards.read("models", n)["expects"]]
)
def test_channels_in_another_order_are_an_error(name: str) -> None:
    batch = good(name)
    names = batch.names or ()
    with pytest.raises(ValueError, match=r"right channels in another order.*PickChannels"):
        output(loaded(name), replace(batch, names=names[::-1]))
    with pytest.raises(ValueError, match=f"lacking {names[0]}; not known Q1"):
        output(loaded(name), replace(batch, names=("Q1", *names[1:])))


def trained(name: str, path: Path) -> Path:
    """A file that says what a training would have written."""
    model, expects = loaded(name), dict(cards.read("models", name)["expects"])
    expects.pop("tokenizer", None)
    kind = expects["kinds"][0]
    return save_model(
        model,
        path,
        expects={**expects, "unit": "physical"},
        statistics={"amplitude": {kind: {"median": 20.0, "spread": 2.0, "n": 9}}},
    )


@pytest.mark.parametrize("name", [n for n in SMALL if good(n).unit == "physical"])
def test_volts_for_microvolts_are_an_error_with_the_factor(name: str, tmp_path: Path) -> None:
    path = trained(name, tmp_path / "m.safetensors")
    model = (load_model if name in MODELS else load_tokenizer)(path)
    batch = good(name)
    output(model, batch)
    with pytest.raises(ValueError, match=r"look like volts.*Multiply by 1e\+6"):
        output(model, replace(batch, x=1e-6 * batch.x))
    with pytest.raises(ValueError, match="unit 'z', expected 'physical'"):
        output(model, replace(batch, unit="z"))


@pytest.mark.parametrize("name", MODELS)
def test_files_that_are_damaged_or_of_another_model_are_refused(name: str, tmp_path: Path) -> None:
    path = save_model(loaded(name), tmp_path / "m.safetensors")
    whole = path.read_bytes()
    for n in (7, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match="not a complete safetensors file"):
            load_model(path)
    n = struct.unpack("<Q", whole[:8])[0]
    for at in (0, 8, 8 + n // 2, len(whole) - 3):  # length, header, header, weights
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"m\.safetensors"):
            load_model(path)
    path.write_bytes(whole)
    other = "mirepnet_demo" if name != "mirepnet_demo" else "brainomni_demo"
    with pytest.raises(ValueError, match=r"does not fit|contradict|but the card"):
        load_model(other, weights=path)


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["neurofm"])


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("license", "removed", "description lacks license"),
        ("expects.unit", "removed", r"description lacks expects\.unit"),
        ("statistics", "removed", "description lacks statistics"),
        ("versions", "removed", "description lacks versions"),
        ("seen", "removed", "description lacks seen"),
        ("digest", "removed", "description lacks digest"),
        ("expects.sfreq", 200, r"sfreq is 200, but the card mirepnet_demo says 250"),
        ("expects.channels", ["C3", "C4"], r"channels is 2 names, but the card mirepnet_demo"),
        ("expects.kinds", ["mag"], "kinds is .'mag'., but the card"),
        ("expects.unit", "furlong", "unit 'furlong' is not"),
        ("expects.band", [30, 8], "band .* expected 0 <= low < high"),
        ("expects.colour", "red", "unknown fields colour"),
        ("statistics", {"amplitude": {"eeg": {"median": -1}}}, "median amplitude of eeg is -1"),
        ("seen", 3, "3 recordings were seen in training, the file names 0|digest"),
        ("license", "CC0", "digest does not match"),
        ("format", 1, r"format 1, this version.*load_model\(NAME, weights="),
        ("format", 9, "format 9, this version of neurofm reads 2. Update"),
    ],
)
def test_a_description_that_lacks_a_field_or_lies_is_refused(
    field: str, value: Any, words: str, tmp_path: Path
) -> None:
    path = save_model(loaded("mirepnet_demo"), tmp_path / "m.safetensors")
    card = header(path)
    *outer, last = field.split(".")
    place = card[outer[0]] if outer else card
    if value == "removed":
        del place[last]
    else:
        place[last] = value
    save_file(load_file(path), path, metadata={"neurofm": json.dumps(card)})
    with pytest.raises(ValueError, match=words):
        load_model(path)


def test_a_description_may_not_contradict_the_network(tmp_path: Path) -> None:
    model = loaded("mirepnet_demo")
    for wrong in ({"sfreq": 200}, {"channels": ["C3", "C4"]}, {"kinds": ["bold"]}):
        expects = {**model.card["expects"], **wrong}
        with pytest.raises(ValueError, match=f"contradict each other.*{next(iter(wrong))}"):
            save_model(model, tmp_path / "m.safetensors", expects=expects)
    assert list(tmp_path.iterdir()) == []
