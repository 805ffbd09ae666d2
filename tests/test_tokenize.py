"""`neurofm tokenize`: tokens made once, whole or not at all, and found again after any end."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from neurofm import cards, cli
from neurofm.batch import Batch, Tokens
from neurofm.data import Windows
from neurofm.data.preparing.problems import read_problems
from neurofm.data.tokenized.identity import tokenizer_name, with_values
from neurofm.data.tokenized.making import tokenize_store
from neurofm.io import Store, load_tokenizer, save_model, seal, write_recording
from neurofm.io.stores.blocks import Layout
from neurofm.types import Signal
from neurofm.units import Kind

CUT = {"window_s": 4.0, "stride_s": 5.0}


@pytest.fixture(scope="module")
def model(small) -> Any:
    return small.model().eval()


@pytest.fixture(scope="module")
def signal(small) -> Store:
    data = small.data()
    data.setup()
    return Store(data.stores[0])


@pytest.fixture(scope="module")
def make(model, signal) -> Callable[..., Path]:
    def made(out: Path, **changes: Any) -> Path:
        tokenizer = changes.pop("tokenizer", model.tokenizer)
        arguments = {"options": model.token_options, "cut": CUT, "progress": False} | changes
        return tokenize_store(signal, tokenizer, out, **arguments)

    return made


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("tokens"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (folder / "recordings").iterdir()
    return {file.name: file.read_bytes() for file in files}


class Continuous(nn.Module):
    """The mean of every second of every channel, without codes."""

    dim, n_codes = 1, 0

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self._arguments = {"factor": factor}

    def forward(self, batch: Batch) -> Tokens:
        n, channels, _ = batch.x.shape
        values = self.factor * batch.x.unflatten(-1, (-1, 64)).mean(-1).flatten(1).unsqueeze(-1)
        steps = values.shape[1] // channels
        return Tokens(
            values=values,
            mask=batch.channel_mask.repeat_interleave(steps, 1),
            channel=torch.arange(channels).repeat_interleave(steps).expand(n, -1),
            time=(torch.arange(steps) + 0.5).repeat(channels).expand(n, -1),
        )


# What is stored


def test_stored_tokens_are_those_of_the_model_for_every_window(whole, signal, model):
    stored, windows = Windows(whole, **CUT), Windows(signal, **CUT)
    assert len(stored) == len(windows) > 20
    index = [3, 0, 17]
    found, batch = stored.batch(index), windows.batch(index)
    with torch.no_grad():
        expected = model.tokenize(batch)
    for name in ("codes", "mask", "channel", "time"):
        assert torch.equal(getattr(found.tokens, name), getattr(expected, name)), name
    for name in ("kind", "position", "onset", "subject", "recording", "channel_mask"):
        assert torch.equal(getattr(found, name), getattr(batch, name)), name
    assert stored.rows == windows.rows
    assert found.tokens.made_by == tokenizer_name(model.tokenizer, model.token_options)


def test_a_batch_of_tokens_says_that_it_has_no_signal(whole, signal, model):
    batch = Windows(whole, **CUT).batch([0, 1])
    assert not batch.has_signal and Windows(signal, **CUT).batch([0, 1]).has_signal
    assert batch.x.shape == (2, 6, 256) and batch.x.isnan().all()
    assert batch.x.untyped_storage().nbytes() == 4
    assert not batch.to("cpu").has_signal
    with pytest.raises(ValueError, match="stored tokens alone, and this needs the signal"):
        model.tokenizer(replace(batch, tokens=None))


def test_codes_take_their_smallest_type_and_their_values_are_not_kept(whole, signal):
    about = Store(whole).entries[0].details["tokens"]
    assert (about["codes"], about["values"], about["dim"]) == ("|u1", "none", 0)
    assert Store(whole).columns.n_bytes.sum() < 0.3 * signal.columns.n_bytes.sum()


@pytest.mark.parametrize(("kind", "error"), [("float16", 1e-3), ("bfloat16", 8e-3), ("float32", 0)])
def test_values_of_codes_free_tokens_come_back_to_rounding(make, signal, tmp_path, kind, error):
    tokenizer = Continuous()
    folder = make(tmp_path, tokenizer=tokenizer, options={}, values=kind)
    found = Windows(folder, **CUT).batch([1, 12]).tokens
    expected = tokenizer(Windows(signal, **CUT).batch([1, 12]))
    torch.testing.assert_close(found.values, expected.values, rtol=error, atol=error)
    assert found.codes is None


def test_without_a_wish_values_are_kept_only_where_codes_do_not_give_them_back(make, tmp_path):
    folder = make(tmp_path, tokenizer=Continuous(), options={}, recordings=[0])
    assert Store(folder).about["values"] == "float16"


def test_values_too_large_for_float16_are_refused_with_the_way_out(make, tmp_path):
    with pytest.raises(ValueError, match=r"not finite as float16\. Use `--values bfloat16`"):
        make(tmp_path, tokenizer=Continuous(1e6), options={}, strict=True)
    make(tmp_path, tokenizer=Continuous(1e6), options={}, values="bfloat16", recordings=[0])


@pytest.mark.parametrize("name", ["braintokenizer", "tfm_tokenizer", "du_in_tokenizer", "ephys"])
def test_codes_of_our_tokenizers_give_their_values_back(name):
    name = f"{name}_demo" if name != "ephys" else "ephys_tokenizer_demo"
    card = cards.read("models", name)
    torch.manual_seed(0)
    tokenizer: Any = load_tokenizer(name)
    batch = noise(card["expects"])
    with torch.no_grad():
        tokens = tokenizer(batch)
    bare = replace(tokens, values=tokens.values[..., :0], made_by="store")
    found = with_values(bare, tokenizer).values
    torch.testing.assert_close(found[tokens.mask], tokens.values[tokens.mask])


def noise(expects: dict[str, Any]) -> Batch:
    """Two windows of 2 s."""
    n, channels = 2, len(expects.get("channels", range(6)))
    kind = int(Kind[expects["kinds"][0].upper()])
    return Batch(
        x=20 * torch.randn(n, channels, round(2 * expects["sfreq"])),
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), kind),
        position=0.05 * torch.randn(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.ones(n, channels, dtype=torch.bool),
        sfreq=float(expects["sfreq"]),
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.long),
        recording=torch.zeros(n, dtype=torch.long),
    )


# Keys


def test_a_key_depends_on_tokenizer_cut_and_values(make, whole, model, small, tmp_path):
    before = {*contents(whole)}
    other = small.tokenizer()
    other.load_state_dict(model.tokenizer.state_dict())
    assert {*contents(make(tmp_path / "same", tokenizer=other))} == before
    other.quantizer.levels[0].codebook[0, 0] += 1e-3
    changes: list[dict[str, Any]] = [
        {"tokenizer": other},
        {"options": {"overlap": 0.5}},
        {"cut": CUT | {"stride_s": 4.0}},
        {"values": "float16"},
    ]
    for i, change in enumerate(changes):
        folder = make(tmp_path / str(i), recordings=[0], **change)
        assert not {*contents(folder)} & before and folder.name != whole.name


def test_a_rerun_makes_nothing_and_more_recordings_make_only_those(
    make, whole, tmp_path, monkeypatch
):
    folder = make(tmp_path, recordings=[0, 1])
    calls: list[str] = []
    write = sys.modules["neurofm.data.tokenized.making"].write_tokens

    def counted(store: Path, entry: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(entry.recording.id)
        return write(store, entry, *args, **kwargs)

    monkeypatch.setattr(sys.modules["neurofm.data.tokenized.making"], "write_tokens", counted)
    make(tmp_path, recordings=[0, 1])
    assert not calls
    make(tmp_path)
    assert len(calls) == len(Store(folder)) - 2 == 4
    assert contents(folder) == contents(whole)


@pytest.mark.system
def test_processes_write_the_same_bytes(make, whole, tmp_path):
    folder = make(tmp_path, executor="processes", workers=2)
    assert contents(folder) == contents(whole)


# Ends of all kinds

KILLED = """
import sys, time
from pathlib import Path
from neurofm import cards, cli
from neurofm.io.stores.blocks import Layout
pack, calls = Layout.pack, []
def hanging(self, blocks, first):
    calls.append(first)
    if calls.count(0) == 2 and first:
        print("in the second recording", flush=True)
        time.sleep(600)
    return pack(self, blocks, first)
Layout.pack = hanging
cli.main(sys.argv[1:])
"""


@pytest.mark.system
def test_a_run_killed_in_a_recording_loses_that_one_alone(
    signal, model, whole, tmp_path, monkeypatch, capsys
):
    file = save_model(model, tmp_path / "model.safetensors")
    words = ["tokenize", signal.where, "--model", str(file), "--out", str(tmp_path), "--quiet"]
    words += ["--window_s", "4", "--stride_s", "5"]
    command = [sys.executable, "-c", KILLED, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in the second recording\n"
        child.kill()
    folder = tmp_path / whole.name
    assert len([*(folder / "recordings").glob("*.json")]) == 1
    assert [*(folder / "recordings").glob(".*.partial")]
    first = next((folder / "recordings").glob("*.json")).stat().st_mtime_ns
    assert cli.main(words) == 0
    assert "6 recordings" in capsys.readouterr().out
    assert min(f.stat().st_mtime_ns for f in (folder / "recordings").glob("*.json")) == first
    assert contents(folder) == contents(whole)


def test_a_full_disk_leaves_nothing_half_written(make, whole, tmp_path, monkeypatch):
    pack = Layout.pack
    calls = []

    def full(self: Layout, blocks: np.ndarray, first: int) -> memoryview:
        calls.append(first)
        if calls.count(0) == 3 and first:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pack(self, blocks, first)

    with monkeypatch.context() as patch:
        patch.setattr(Layout, "pack", full)
        with pytest.raises(OSError, match="after 2 of 6 recordings"):
            make(tmp_path)
    folder = tmp_path / whole.name
    assert len(Store(folder)) == 2 and not [*folder.rglob("*.partial")]
    make(tmp_path)
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("spoil", ["flip", "cut"])
def test_damage_is_caught_when_read_named_by_verify_and_mended_by_rehash(
    make, whole, tmp_path, capsys, spoil
):
    folder = tmp_path / whole.name
    shutil.copytree(whole, folder)
    store = Store(folder)
    file = folder / "recordings" / f"{store.keys[2]}.bin"
    raw = bytearray(file.read_bytes())
    if spoil == "flip":
        raw[len(raw) // 2] ^= 8
    file.write_bytes(raw if spoil == "flip" else raw[: len(raw) // 2])
    windows = Windows(folder, **CUT)
    mine = np.flatnonzero(windows.recording == 2)
    what = "damaged in block .*window" if spoil == "flip" else "truncated or overwritten after win"
    with pytest.raises(OSError, match=f"{store.recording(2).id}.*{what}.*neurofm tokenize"):
        windows.batch(mine)
    assert cli.main(["verify", str(folder), "--quiet"]) == 1
    out = capsys.readouterr().out
    assert store.recording(2).id in out and "5 of 6 recordings are whole" in out
    assert "neurofm tokenize" in out
    assert cli.main(["verify", str(folder), "--quiet", "--repair"]) == 2
    make(tmp_path, rehash=True)
    assert contents(folder) == contents(whole)


# Bad input


def test_an_untrained_code_book_is_refused_and_not_started(make, small, tmp_path):
    tokenizer = small.tokenizer()
    with pytest.raises(ValueError, match=r"code book of the BrainTokenizer .* is untrained"):
        make(tmp_path, tokenizer=tokenizer)
    assert not tokenizer.quantizer.initialized and not [*tmp_path.iterdir()]


def test_a_card_without_weights_is_refused(signal, tmp_path, capsys):
    words = ["tokenize", signal.where, "--out", str(tmp_path), "--window_s", "4", "--tokenizer"]
    assert cli.main([*words, "tfm_tokenizer_demo"]) == 2
    assert "tfm_tokenizer_demo: a card without weights" in capsys.readouterr().err


def test_a_wrong_rate_names_the_recording_and_both_rates(make, small, tmp_path):
    tokenizer = small.tokenizer(sfreq=128.0)
    for level in tokenizer.quantizer.levels:
        level.initialized.fill_(1)
    with pytest.raises(ValueError, match="64 Hz, expected 128 Hz"):
        make(tmp_path, tokenizer=tokenizer)


def test_a_recording_shorter_than_a_window_is_reported_and_the_others_are_made(
    make, whole, model, signal, small, tmp_path, capsys
):
    mixed = tmp_path / "mixed"
    shutil.copytree(signal.where, mixed)
    entry = signal.entries[0]
    short = Signal(signal.read(0, 0, 100), entry.sfreq, entry.sensors, (), entry.recording)
    write_recording(mixed, replace_run(short), key="short")
    seal(mixed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = tokenize_store(
            Store(mixed),
            model.tokenizer,
            tmp_path / "out",
            options=model.token_options,
            cut=CUT,
            progress=False,
        )
    assert len(Store(folder)) == 6
    (problem,) = read_problems(folder).values()
    assert "no window of 4 s fits into its 1.5625 s" in problem.message


def replace_run(signal: Any) -> Any:
    return replace(signal, recording=replace(signal.recording, run="99"))


# The command


def test_a_recipe_says_everything_and_the_store_commands_know_tokens(
    small, model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    file = save_model(model, tmp_path / "model.safetensors")
    data = small.data_arguments(tokens="tokens", subjects=["1", "2"])
    recipe = {
        "model": {
            "class_path": "neurofm.tasks.Pretrain",
            "init_args": {
                "model": {"class_path": "neurofm.load_model", "init_args": {"name": str(file)}}
            },
        },
        "data": {"class_path": "neurofm.data.BrainData", "init_args": data},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert cli.main(["tokenize", "--config", "recipe.yaml", "--quiet"]) == 0
    out = capsys.readouterr().out
    name = tokenizer_name(model.tokenizer, model.token_options)
    assert "windows of 4 recordings" in out and name in out
    (folder,) = (tmp_path / "tokens").iterdir()
    for words in (["verify", str(folder)], ["store", "du", "tokens"], ["store", "gc", "tokens"]):
        assert cli.main(words) == 0
    assert "4 of 4 recordings are whole" in capsys.readouterr().out
    monkeypatch.setenv("NEUROFM_STORE", str(small.folder / "store"))
    assert cli.main(["store", "explain", str(folder)]) == 0
    out = capsys.readouterr().out
    assert name in out and "Tokenized again, 4 recordings would be kept" in out


def test_without_tokenizer_or_window_the_command_says_what_to_give(signal, capsys):
    assert cli.main(["tokenize", signal.where]) == 2
    assert "--window_s" in capsys.readouterr().err
    assert cli.main(["tokenize", signal.where, "--window_s", "4"]) == 2
    assert "--model NAME, --tokenizer NAME" in capsys.readouterr().err
