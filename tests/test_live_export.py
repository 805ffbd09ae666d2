"""Exported decoders give the probabilities of the decoder they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from live_toys import NAMES, Played, decoder, exported, recording
from torch import nn

from neurofm import cards, load_model
from neurofm.batch import Embedding
from neurofm.io import open_corpus
from neurofm.live import FORMATS, Session, load_exported
from neurofm.live.exported import HEADER, SUFFIXES
from neurofm.live.plain_operations import PlainOperations
from neurofm.models import FLEEG, BraindecodeModel, FunctionalNetwork
from neurofm.nn import FunctionalConv
from neurofm.readouts import PooledLinear
from neurofm.types import Signal

SMALL = {
    "DBConformer": lambda: None,
    "FLEEG": lambda: FLEEG(
        3,
        100,
        sfreq=100.0,
        filters=(4, 6, 8, 10),
        kernels=(5, 3, 3),
        shared_kernel=3,
        pools=(2, 2, 2),
    ),
    "FunctionalNetwork": lambda: FunctionalNetwork(
        [FunctionalConv(3, 4, n_functions=3, resolution=9)], sfreq=100.0
    ),
}


def written(found, folder: Path, form: str, head: Signal | None = None):
    onnx = [pytest.importorskip(name) for name in ("onnx", "onnxruntime")] if form == "onnx" else []
    assert len(onnx) in (0, 2)
    path = folder / f"toy{SUFFIXES[form]}"
    head = recording() if head is None else head
    return path, exported(found, path, format=form, head=head)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        # torch.export takes many seconds for all but the smallest
        pytest.param(
            name, form, marks=[pytest.mark.slow] * (form == "torch" and name != "FunctionalNetwork")
        )
        for name in SMALL
        for form in FORMATS
    ],
)
def test_an_exported_decoder_streams_as_the_run_does(name, form, tmp_path):
    torch.manual_seed(0)
    found = decoder(SMALL[name]())
    path, export = written(found, tmp_path, form)
    usual = Session(found, Played(recording(4.0))).run()
    other = Session(load_exported(path), Played(recording(4.0))).run()

    assert export.difference < 1e-5
    np.testing.assert_allclose(other.probability, usual.probability, atol=1e-5)
    assert np.ptp(usual.probability[:, 0]) > 1e-3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_file_says_what_it_is_and_refuses_other_input(tmp_path):
    found = decoder()
    path, _ = written(found, tmp_path, "torchscript")
    file = load_exported(path)

    assert file.facts == found.facts
    assert file.header["input"] == {
        "channels": list(NAMES),
        "sfreq": 100.0,
        "n_times": 100,
        "unit": "physical",
        "band": [8.0, 30.0],
        "any_batch": True,
    }
    assert set(file.header["versions"]) == {"neurofm", "torch"}
    with pytest.raises(ValueError, match=r"2 channels and 100 samples, expected 3 and 100"):
        file(np.zeros((1, 2, 100), np.float32))
    with pytest.raises(ValueError, match=r"Hz 128.0, the file was exported for 100.0"):
        sensors = recording().sensors
        file.probabilities(
            np.zeros((1, 3, 100), np.float32), sensors, sfreq=128.0, unit="physical", band=None
        )


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_or_foreign_file_is_an_error_that_names_it(form, tmp_path):
    path = tmp_path / f"bad{SUFFIXES[form]}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"bad\.\w+: damaged, or no exported decoder"):
        load_exported(path)


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_a_changed_byte_is_noticed_wherever_it_is(form, tmp_path):
    made = decoder()
    path, _ = written(made, tmp_path, form)
    whole = path.read_bytes()
    said = whole.index(b'"window_s": 1.0')
    stored = [value.numpy().tobytes()[:32] for value in made.state_dict().values()]
    weight = next(whole.index(raw) for raw in stored if len(raw) == 32 and raw in whole)
    assert load_exported(path).facts.window_s == 1.0
    for at in (said + 12, said + 300, weight + 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"toy\.\w+: damaged.*does not fit its checksum"):
            load_exported(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"toy\.\w+: damaged"):
        load_exported(path)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_another_network_under_this_description_is_refused(tmp_path):
    path, _ = written(decoder(), tmp_path, "torchscript")
    said = {HEADER: ""}
    torch.jit.load(str(path), _extra_files=said)
    other = FunctionalNetwork([FunctionalConv(3, 4, n_functions=3, resolution=9)], sfreq=100.0)
    another, _ = written(decoder(other), tmp_path, "torchscript")
    torch.jit.save(torch.jit.load(str(another)), str(another), _extra_files=said)
    with pytest.raises(ValueError, match=r"toy\.pt: damaged.*differ by .* it was written with"):
        load_exported(another)


def test_a_file_that_differs_is_refused_and_nothing_is_left(tmp_path):
    class Noisy(nn.Module):
        dim = 3

        def encode(self, batch):
            x = batch.x.mean(-1) + torch.rand(3)
            return Embedding(x.unsqueeze(1), torch.ones(len(x), 1, dtype=torch.bool))

    with pytest.raises(ValueError, match=r"Noisy cannot be exported as torchscript: its probab"):
        written(decoder(Noisy(), PooledLinear(3, 2), amplitude=1.0), tmp_path, "torchscript")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"a torchscript file ends in \.pt"):
        exported(decoder(), tmp_path / "a.onnx", format="torchscript", head=recording())


def test_a_file_that_was_there_stays_when_an_export_fails(tmp_path):
    path, _ = written(decoder(), tmp_path, "torchscript")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be exported"):
        exported(decoder(), path, format="torchscript", head=recording(), tolerance=-1.0)
    assert path.read_bytes() == before


@pytest.mark.parametrize("n", [7, 8, 200])
def test_plain_operations_equal_those_they_replace(n):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
    found, weight = torch.fft.rfft(x), torch.randn(4, 5)
    with PlainOperations():
        pair = torch.fft.rfft(x)
        torch.testing.assert_close(pair.abs(), found.abs(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.fft.irfft(pair, n), x, atol=1e-5, rtol=1e-4)
        values = x.kthvalue(3).values
        limited = torch.renorm(weight, 2, 0, 1.0)
        turned = torch.view_as_real(
            torch.view_as_complex(x[:, :6].unflatten(-1, (3, 2))) * torch.polar(x[:, :3], x[:, 1:4])
        )
        holed = torch.where(x > 1, torch.nan, x)
        middle = holed.nanmedian(1).values
    torch.testing.assert_close(middle, torch.where(x > 1, torch.nan, x).nanmedian(1).values)
    torch.testing.assert_close(values, x.kthvalue(3).values)
    torch.testing.assert_close(limited, torch.renorm(weight, 2, 0, 1.0))
    expected = torch.view_as_complex(x[:, :6].unflatten(-1, (3, 2)).contiguous())
    expected = expected * torch.polar(x[:, :3], x[:, 1:4])
    torch.testing.assert_close(turned, torch.view_as_real(expected))


# Each decoder by a recipe on simulated data, or by its name in braindecode; the table of
# models/README.md has the same.
EVERY = (
    "scratch_dbconformer_simulated",
    "scratch_mirepnet_simulated",
    "scratch_mvcnet_simulated",
    "scratch_functional_simulated",
    "scratch_patch_simulated",
    "scratch_tfm_simulated",
    "scratch_simulated",
    "scratch_meg_gpt_simulated",
    "federated_fleeg",
    "EEGNet",
    "ShallowFBCSPNet",
)
TOKENIZERS = {
    "scratch_tfm_simulated": "tfm_tokenizer_demo",
    "scratch_simulated": "braintokenizer_demo",
    "scratch_meg_gpt_simulated": "ephys_tokenizer_demo",
}


def of_recipe(name: str):
    """A decoder as its recipe builds it, with random weights, and a recording for it."""
    torch.manual_seed(0)
    file = name if name.startswith("scratch") else "scratch_functional_simulated"
    recipe = yaml.safe_load(cards.path("recipes", file).read_text(encoding="utf-8"))
    data, arguments = recipe["data"]["init_args"], recipe["model"]["init_args"]
    if name == "federated_fleeg":
        model = FLEEG(21, 512, sfreq=128.0, filters=(4, 6, 8, 10))
        readout = PooledLinear(model.dim, 2)
    elif name.startswith("scratch"):
        card = arguments["model"]["init_args"]["name"]
        tokenizer = TOKENIZERS.get(name)
        model = load_model(card, tokenizer=tokenizer) if tokenizer else load_model(card)
        readout = cards.build(arguments.get("readout")) or PooledLinear(model.dim, 2)
    else:
        model = BraindecodeModel(name, n_channels=21, n_times=512, sfreq=128.0)
        readout = PooledLinear(model.dim, 2)
    window_s = 4.0 if not name.startswith("scratch") else data["window_s"]
    corpus = open_corpus("simulated_motor_imagery")
    found = decoder(
        model,
        readout,
        preprocess=tuple(data["preprocess"]),
        window_s=window_s,
        channels=(),
        line_freq=corpus.line_freq,
    )
    return found, corpus.load(corpus.recordings()[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", EVERY)
def test_every_decoder_is_exported(name, form, tmp_path):
    found, head = of_recipe(name)
    before = {key: value.clone() for key, value in found.state_dict().items()}
    path, export = written(found, tmp_path, form, head)

    assert path.is_file() and export.difference < min(1e-4, 0.1 * export.spread)
    after = found.state_dict()
    assert after.keys() == before.keys()  # parametrized still
    same = [torch.equal(after[key], before[key]) for key in before if "quantizer" not in key]
    assert all(same)  # an untrained code book starts at the first window it sees
