"""What a model has seen stays with it, and a test on it is refused or labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from neurofm.io import Seen, load_model, load_tokenizer, read_card, read_seen, save_model
from neurofm.io.seen import union

seconds = st.integers(0, 40).map(lambda k: k / 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), seconds, st.integers(1, 6)), max_size=12))
def test_parts_of_windows_cover_what_the_windows_cover(windows):
    names = ("a", "b", "c", "d")
    owner = np.array([w[0] for w in windows], dtype=np.int64)
    start = np.array([w[1] for w in windows], dtype=np.float64)
    stop = start + np.array([w[2] / 2 for w in windows], dtype=np.float64)
    seen = Seen.of_windows(names, {"a": "x"}, owner, start, stop)
    assert set(seen.recordings) == {names[i] for i in owner}
    for name, spans in zip(seen.recordings, seen.spans, strict=True):
        assert all(spans[k][1] < spans[k + 1][0] for k in range(len(spans) - 1))
        for moment in np.arange(0.25, 25, 0.5):
            inside = any(low < moment < high for low, high in spans)
            mine = owner == names.index(name)
            assert inside == bool(((start < moment) & (moment < stop))[mine].any())
    assert Seen.from_bytes(seen.to_bytes(), where="here") == seen
    assert union([seen, seen]) == seen and union([]) == Seen()


def test_joining_keeps_names_fingerprints_and_parts_of_both():
    one = Seen(("a", "b"), ("x", ""), (((0.0, 1.0),), ((0.0, 2.0),)))
    two = Seen(("b", "c"), ("y", "z"), (((2.0, 3.0),), ()))
    both = union([one, two])
    assert both.recordings == ("a", "b", "c") and both.fingerprints == ("x", "y", "z")
    assert both.spans == (((0.0, 1.0),), ((0.0, 3.0),), ((0.0, np.inf),))
    assert Seen.from_bytes(both.to_bytes(), where="here") == both


@pytest.mark.parametrize("data", [b"", b"nonsense", Seen().to_bytes()[:-4]])
def test_a_damaged_record_is_refused(data):
    with pytest.raises(ValueError, match=r"m\.safetensors: the record of training recordings"):
        Seen.from_bytes(data, where="m.safetensors")


def test_a_record_must_be_one_list_for_each_recording():
    with pytest.raises(ValueError, match=r"2 recordings \(1 names\)"):
        Seen(("a", "a"), ("", ""), ((), ()))


def test_many_recordings_are_kept_beside_the_weights(small, tmp_path):
    rng = np.random.default_rng(0)
    n = 5_000
    alphabet = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
    letters = "".join(alphabet[rng.integers(0, 64, n * 192)])
    model = small.model()
    model.seen = Seen(
        tuple(f"corpus_sub-{i:06d}" for i in range(n)),
        tuple("nf1:" + letters[192 * i : 192 * (i + 1)] for i in range(n)),
        (((0.0, 3600.0),),) * n,
    )
    path = save_model(model, tmp_path / "m.safetensors")
    assert path.stat().st_size < 2e6
    with safe_open(path, framework="pt") as file:
        assert len(str(file.metadata())) < 10_000
    assert read_card(path)["seen"] == n
    assert read_seen(path) == model.seen


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

LABELS = {"labels": ["left_hand", "right_hand"], "offset_s": 0.5, "window_s": 3.0}


def runner(folder: Path, **changes: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **changes,
    )


@pytest.fixture(scope="module")
def pretrained(small, tmp_path_factory) -> Path:
    """A tokenizer trained on person 2, a model on it trained on person 1 (its test person is 3)."""
    from neurofm.tasks import Pretrain, TrainTokenizer

    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = TrainTokenizer(small.tokenizer())
    runner(folder).fit(tokenizer, datamodule=small.data(validate=["1"], test=["3"]))
    save_model(tokenizer.tokenizer, folder / "tokenizer.safetensors")
    model = load_model(str(small.folder / "model.yaml"), tokenizer=folder / "tokenizer.safetensors")
    task = Pretrain(model, cache_tokens=False)
    fitting = runner(folder)
    fitting.fit(task, datamodule=small.data())
    fitting.save_checkpoint(folder / "last.ckpt")
    return save_model(task.model, folder / "model.safetensors").parent


def test_a_model_knows_what_it_and_its_tokenizer_were_trained_on(pretrained):
    people = {"sub-001", "sub-002"}
    for file in ("model.safetensors", "last.ckpt"):
        seen = read_seen(pretrained / file)
        assert {name.split("_")[1] for name in seen.recordings} == people and len(seen) == 4
        assert all(seen.fingerprints) and all(seen.spans)
        assert load_model(pretrained / file).seen == seen
        assert load_tokenizer(pretrained / file).seen == seen
    only = read_seen(pretrained / "tokenizer.safetensors")
    assert {name.split("_")[1] for name in only.recordings} == {"sub-002"}
    assert read_card(pretrained / "model.safetensors")["seen"] == 4


def test_testing_on_pretraining_recordings_is_refused_or_labelled(small, pretrained, tmp_path):
    from neurofm.tasks import Decode

    model = load_model(pretrained / "model.safetensors")
    data = small.data(**LABELS, validate=["2"], test=["1"])
    with pytest.raises(ValueError, match=r"2 recordings of the test side.*allow_overlap: true"):
        runner(tmp_path).test(Decode(model, n_outputs=2), datamodule=data, verbose=False)
    allowed, testing = Decode(model, n_outputs=2, allow_overlap=True), runner(tmp_path)
    with pytest.warns(UserWarning, match="evaluated on data seen in training: pretraining/test: 2"):
        testing.test(allowed, datamodule=data, verbose=False)
    assert float(testing.callback_metrics["test/seen_in_training"]) == 2
    with pytest.warns(UserWarning, match="of the test side of these data, 2 recordings were seen"):
        runner(tmp_path).fit(Decode(model, n_outputs=2), datamodule=data)


@pytest.mark.filterwarnings("error:.*seen in")
def test_testing_on_other_recordings_passes_unlabelled(small, pretrained, tmp_path):
    from neurofm.tasks import Decode

    task = Decode(load_model(pretrained / "model.safetensors"), n_outputs=2)
    data = small.data(**LABELS, validate=["2"], test=["3"])
    fitting = runner(tmp_path)
    fitting.fit(task, datamodule=data)
    fitting.test(task, datamodule=data, verbose=False)
    assert "test/seen_in_training" not in fitting.callback_metrics


@pytest.mark.filterwarnings("error:.*seen in")
def test_parts_of_a_recording_may_be_split_in_time(small, tmp_path):
    from neurofm.tasks import Decode

    task = Decode(small.model(), n_outputs=2)
    data = small.data(**LABELS, split_by="time", validate=0.2, test=0.3)
    fitting = runner(tmp_path)
    fitting.fit(task, datamodule=data)
    fitting.test(task, datamodule=data, verbose=False)


def test_a_finetuned_checkpoint_is_not_tested_on_what_it_was_tuned_on(small, tmp_path):
    from neurofm.tasks import Decode

    task = Decode(small.model(), n_outputs=2)
    fitting = runner(tmp_path)
    fitting.fit(task, datamodule=small.data(**LABELS, validate=["2"], test=["3"]))
    fitting.save_checkpoint(tmp_path / "tuned.ckpt")
    swapped = small.data(**LABELS, validate=["2"], test=["1"])
    with pytest.raises(ValueError, match="were among those the model was trained on"):
        runner(tmp_path).test(
            Decode(small.model(), n_outputs=2),
            datamodule=swapped,
            ckpt_path=tmp_path / "tuned.ckpt",
            weights_only=True,
            verbose=False,
        )
    rebuilt = Decode.load_from_checkpoint(tmp_path / "tuned.ckpt")
    assert rebuilt.seen == task.seen and len(task.seen) == 2


def test_a_frozen_model_has_not_seen_what_its_readout_was_trained_on(small, tmp_path):
    from neurofm.tasks import Decode, Probe

    task = Decode(small.model(), n_outputs=2, adapt=Probe())
    runner(tmp_path).fit(task, datamodule=small.data(**LABELS, validate=["2"], test=["3"]))
    assert len(Seen.of(task.model)) == 0 and len(Seen.of(task)) == 2
