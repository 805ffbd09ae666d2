"""Embeddings of stimuli as targets, searches among stimuli, and retrieval over time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_batches import batch_of, generator, noise

from neurofm.batch import Batch, Embedding
from neurofm.data import BrainData, StimulusTable
from neurofm.evaluate.retrieval_over_time import (
    NetworkRetriever,
    RidgeRetriever,
    retrieve_over_time,
)
from neurofm.io import open_corpus
from neurofm.models import ImageBrainModule
from neurofm.tasks import Retrieve, search_scores

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")


# Tables


def table(n: int = 4) -> StimulusTable:
    vectors = np.random.default_rng(0).standard_normal((n, 3)).astype(np.float32)
    return StimulusTable(tuple(f"s{i}" for i in range(n)), vectors)


def test_a_table_survives_its_files(tmp_path: Path) -> None:
    made = table()
    made.write(tmp_path / "t.safetensors")
    np.savez(tmp_path / "t.npz", **dict(zip(made.names, made.vectors, strict=True)))
    for name in ("t.safetensors", "t.npz"):
        read = StimulusTable.read(tmp_path / name)
        order = read.positions(made.names)
        np.testing.assert_array_equal(read.vectors[order], made.vectors)


def test_bad_tables_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="comes twice"):
        StimulusTable(("a", "a"), np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        StimulusTable(("a",), np.full((1, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="one shape"):
        StimulusTable.of({"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(ValueError, match="'z'"):
        table().positions(["s1", "z"])
    with pytest.raises(FileNotFoundError):
        StimulusTable.read(tmp_path / "none.npz")
    (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match="not a complete"):
        StimulusTable.read(tmp_path / "t.npz")


# Windows with embeddings


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = """
description: parcels
license: x
citation: x
modality: fmri
folder: null
reader:
  class_path: neurofm.io.SyntheticParcelReader
  init_args: {subjects: 2, runs: 2, pictures: 5, repeats: 2, parcels: 2, dim: 3}
"""
    file = tmp_path_factory.mktemp("cards") / "pictures.yaml"
    file.write_text(text)
    return file


def data(card: Path, **changes: object) -> BrainData:
    arguments = {
        "preprocess": [],
        "store": card.parent / "store",
        "embeddings": "reader",
        "window_s": 8.0,
        "split_by": "stimulus",
        "validate": ["run-02/000"],
        "test": ["run-02/*[1-4]"],
        "batch_size": 4,
    }
    return BrainData([str(card)], **{**arguments, **changes})


def test_windows_carry_the_vectors_of_their_stimuli(card: Path) -> None:
    made = data(card)
    made.setup()
    assert made.windows is not None and made.split is not None
    reader = open_corpus(str(card)).reader
    batch = made.windows.batch(made.split.test)
    names = [made.rows[i].stimulus for i in made.split.test]
    np.testing.assert_allclose(batch.y, reader.embed(names), rtol=1e-6)
    assert set(names) == {f"run-02/{i:03d}" for i in range(1, 5)}
    assert len(made.split.test) == 2 * 4 * 2 and made.n_outputs == 3
    assert all(row.label is None for row in made.rows)


def test_labels_choose_among_the_stimuli_of_a_file(card: Path, tmp_path: Path) -> None:
    names = ("run-01/003", "run-01/001", "elsewhere")
    StimulusTable(names, np.eye(3, dtype=np.float32)).write(tmp_path / "t.safetensors")
    made = data(card, embeddings=tmp_path / "t.safetensors", validate=0.0, test=0.5)
    made.setup()
    assert made.windows is not None and len(made.windows) == 2 * 2 * 2
    assert {row.stimulus for row in made.rows} == set(names[:2])
    chosen = data(
        card, embeddings=tmp_path / "t.safetensors", labels=["run-01/001"], validate=0.0, test=0.0
    )
    chosen.split_by = "run"
    chosen.setup()
    assert chosen.windows is not None
    assert bool((chosen.windows.batch([0, 1]).y == torch.eye(3)[1]).all())


def test_a_stimulus_on_two_sides_is_refused(card: Path) -> None:
    with pytest.raises(ValueError, match=r"stimuli are on both sides.*Group windows by stimulus"):
        data(card, split_by="subject", validate=["1"], test=["2"]).setup()
    with pytest.raises(ValueError, match="no window has"):
        data(card, test=["run-07/*"]).setup()


def test_a_corpus_whose_reader_knows_no_embeddings_says_so(card: Path) -> None:
    made = BrainData(["simulated_oddball"], embeddings="reader", labels=["x"])
    with pytest.raises(ValueError, match="no reader that knows"):
        made._table([])


# The task


def small(n: int = 3, times: int = 32) -> ImageBrainModule:
    torch.manual_seed(0)
    sizes = {"merged": 4, "code": 8, "mixed": 4, "hidden": 4, "depth": 2, "width": 8}
    return ImageBrainModule(
        n_times=times, n_subjects=1, outputs=n, head_width=8, baseline_s=None, **sizes
    )


class Plain(torch.nn.Module):
    """Channels' means as tokens of one feature."""

    dim = 1

    def encode(self, batch: Batch) -> Embedding:
        return Embedding(batch.x.mean(-1, keepdim=True), batch.channel_mask)


def with_targets(n: int = 6) -> Batch:
    return replace(noise(n, time=32), y=torch.randn(n, 3, generator=generator(4)))


def test_loss_is_the_weighted_sum_of_contrast_and_squared_error() -> None:
    batch = with_targets()
    task = Retrieve(small(), n_outputs=3).eval()
    task.record = lambda values, **_: seen.update(values)  # type: ignore[method-assign]
    seen: dict[str, torch.Tensor] = {}
    loss = task.step(batch, "train")
    found = task.estimates(batch)
    torch.testing.assert_close(
        seen["squared_error"], torch.nn.functional.mse_loss(found["mse"], batch.y)
    )
    torch.testing.assert_close(loss, 0.75 * seen["contrast"] + 0.25 * seen["squared_error"])
    assert not torch.equal(found["mse"], found["clip"])


def test_any_model_can_be_read_by_a_readout() -> None:
    assert Retrieve(small(), n_outputs=3).readout is None
    with pytest.raises(ValueError, match="has 3 outputs, n_outputs is 5"):
        Retrieve(small(), n_outputs=5)
    with pytest.raises(ValueError, match="share is 2"):
        Retrieve(small(), n_outputs=3, share=2.0)
    made = Retrieve(Plain(), n_outputs=3)
    assert made(with_targets()).shape == (6, 3)


def test_targets_that_are_classes_are_refused() -> None:
    batch = replace(noise(2, time=32), y=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no embeddings"):
        Retrieve(small(), n_outputs=3).step(batch, "train")


# Searches


def test_search_scores_say_how_many_candidates_there_are() -> None:
    target = np.eye(8)
    right = search_scores(target, target)
    assert right == {
        "candidates": 8.0,
        "top_1": 1.0,
        "top_5": 1.0,
        "relative_median_rank": 0.0,
    }
    far = search_scores(-target, target)
    assert far["top_1"] == 0 and far["relative_median_rank"] == 7 / 8


def test_chance_is_chance() -> None:
    rng = np.random.default_rng(0)
    found = search_scores(rng.standard_normal((400, 6)), rng.standard_normal((400, 6)))
    assert found["top_5"] < 0.04 and abs(found["relative_median_rank"] - 0.5) < 0.08


def test_repeats_are_averaged_for_each_person() -> None:
    rng = np.random.default_rng(0)
    target = np.tile(rng.standard_normal((30, 6)), (12, 1))
    guess = target + 2.5 * rng.standard_normal(target.shape)
    subject = np.repeat([0, 1], 180)
    found = search_scores(guess, target, subject=subject)
    assert found["candidates"] == 30
    assert found["top_1_averaged"] > found["top_1"] + 0.1
    whole = search_scores(guess, target)  # of all people together
    assert whole["top_1_averaged"] >= found["top_1_averaged"]
    assert whole["top_1"] == found["top_1"]


def test_a_larger_pool_is_searched_too() -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal((20, 6)).astype(np.float32)
    guess = target + 0.8 * rng.standard_normal(target.shape)
    pool = np.concatenate([target[:5], rng.standard_normal((300, 6)).astype(np.float32)])
    large = search_scores(guess, target, pool=pool)
    assert large["candidates"] == 320
    assert large["top_1"] < search_scores(guess, target)["top_1"]


# Over time


def late(n: int, seed: int) -> Batch:
    """A code that is there from 0.2 to 0.3 s."""
    random = generator(seed)
    y = torch.randn(n, 3, generator=random)
    x = torch.randn(n, 6, 40, generator=random)
    mixing = torch.randn(6, 3, generator=generator(9))
    x[..., 20:30] += 2 * (y @ mixing.T).unsqueeze(-1)
    return replace(batch_of(x, sfreq=100.0), y=y)


def test_retrieval_over_time_finds_the_moment() -> None:
    train, test = late(120, 1), late(40, 2)
    found = retrieve_over_time(RidgeRetriever, train, test, start_s=-0.1, width_s=0.1, step_s=0.05)
    np.testing.assert_allclose(found.start, [-0.1, -0.05, 0, 0.05, 0.1, 0.15, 0.2])
    top = found.scores["top_5"]
    assert top[4] > 0.8  # the code is there throughout, and nowhere before
    assert top[[0, 1, 2]].max() < 0.35  # chance: 0.125
    growing = retrieve_over_time(
        RidgeRetriever, train, test, width_s=0.1, step_s=0.1, how="growing"
    )
    assert bool((growing.start == 0).all()) and growing.scores["top_5"][-1] > 0.7


def test_a_network_is_a_retriever() -> None:
    train, test = late(64, 1), late(8, 2)
    network = NetworkRetriever(
        lambda n: Retrieve(small(times=n), n_outputs=3, lr=1e-2), steps=2, batch_size=32
    )
    first = network.fit(train).predict(test)
    assert first.shape == (8, 3)
    np.testing.assert_array_equal(network.fit(train).predict(test), first)


def test_bad_searches_over_time_are_refused() -> None:
    train = late(30, 1)
    with pytest.raises(ValueError, match="recognised, not decoded"):
        retrieve_over_time(RidgeRetriever, train, train)
    with pytest.raises(ValueError, match="parts of 1 s"):
        retrieve_over_time(RidgeRetriever, train, late(8, 2), width_s=1.0)
    with pytest.raises(ValueError, match="fit"):
        RidgeRetriever().predict(train)
