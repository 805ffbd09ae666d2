from __future__ import annotations

import argparse
import json

import pytest

from neurofm.cli.demo import decoding, explaining, steps, training
from neurofm.cli.demo import source as sources
from neurofm.cli.demo.source import find_source
from neurofm.io import SyntheticReader
from neurofm.io.corpus import Corpus


def _corpus(subjects: int) -> Corpus:
    from dataclasses import replace

    from neurofm.io import open_corpus

    corpus = open_corpus("simulated_motor_imagery")
    reader = SyntheticReader(dataset=corpus.name, subjects=subjects, runs=2, seed=3)
    return replace(corpus, reader=reader)


def test_without_recordings_the_demo_shows_the_simulation_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path))

    found = find_source(download=False, simulate=False)

    assert found.simulated
    assert found.lead.startswith("Simulated EEG of 6 people")
    assert not set(found.pretrain) & set(found.evaluate)


@pytest.mark.corpus
def test_with_recordings_the_demo_shows_them(corpora):
    found = find_source(download=False, simulate=False)

    assert found.lead.startswith("Real EEG of")
    assert not found.simulated
    assert found.runs == ["04", "08", "12"]
    assert not set(found.pretrain) & set(found.evaluate)


def test_one_person_is_too_few(monkeypatch):
    monkeypatch.setattr(sources, "open_corpus", lambda name: _corpus(1))
    monkeypatch.setattr(sources, "RUNS", ("1", "2"))

    with pytest.raises(FileNotFoundError, match="two people"):
        sources._real()


def test_the_demo_replaces_an_earlier_demo_and_nothing_else(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")

    with pytest.raises(FileExistsError, match="Choose another --out"):
        steps._empty(mine)
    assert (mine / "thesis.txt").is_file()

    steps._empty(tmp_path / "demo")
    (tmp_path / "demo" / "report.html").write_text("old")
    steps._empty(tmp_path / "demo")
    assert not (tmp_path / "demo" / "report.html").exists()


@pytest.mark.system
def test_a_short_demo_ends_with_a_report_of_every_step(monkeypatch, tmp_path, capsys):
    """All steps with four people, two runs, few channels, two batches; scores are the demo's."""
    corpus = _corpus(4)
    monkeypatch.setattr(sources, "open_corpus", lambda name: corpus)
    monkeypatch.setattr("neurofm.data.module.open_corpus", lambda name, root=None: corpus)
    monkeypatch.setenv("NEUROFM_STORE", str(tmp_path / "store"))
    read = training.read_recipe
    motor = [*explaining._LEFT, "Cz", *explaining._RIGHT]

    def short(*args, **kwargs):
        recipe = read(*args, **kwargs)
        recipe["trainer"] |= {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2}
        pick = {"class_path": "neurofm.data.PickChannels", "init_args": {"names": motor}}
        recipe["data"]["init_args"] |= {"batch_size": 4}
        recipe["data"]["init_args"]["preprocess"].insert(0, pick)
        return recipe

    monkeypatch.setattr(steps, "read_recipe", short)
    monkeypatch.setattr(decoding, "read_recipe", short)
    network = decoding.BraindecodeClassifier
    monkeypatch.setattr(
        decoding,
        "BraindecodeClassifier",
        lambda *args, **kw: network(*args, **kw | {"max_epochs": 1}),
    )
    monkeypatch.setattr(explaining, "_EXPLAINED", 4)
    out = tmp_path / "demo"

    code = steps.run_demo(argparse.Namespace(download=False, simulate=True, out=out, seed=0))

    printed = capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert code == 0
    titles = [section["title"] for section in report["sections"]]
    assert titles == ["Data", "Tokenizer", "Masked pretraining", "Decoding", "Explanation"]
    assert report["lead"].startswith("Simulated EEG")
    for word in ("(audited)", "0 leaks", "tokens/s", "unigram entropy", "chance", "verdict"):
        assert word in printed
    for name in ("CSP + LDA", "Tangent space + LR", "EEGNet", "fine-tuned", "linear probe"):
        assert name in printed
        assert name in page
    assert (out / "model.safetensors").is_file()
