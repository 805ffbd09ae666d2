"""Committed results are what their records give, and their windows are those the code makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from neurofm import cards
from neurofm.evaluate.records import read_lines

SUITES = cards.root("recipes") / "benchmarks"
DONE = sorted(path.parent for path in SUITES.glob("*/records.jsonl"))


def test_every_suite_is_listed_and_described() -> None:
    from neurofm.evaluate.suite_cards import read_suite, suites

    text = (SUITES / "README.md").read_text(encoding="utf-8")
    assert suites()
    for name in suites():
        assert f"`{name}`" in text
        suite = read_suite(name)
        assert suite.card["description"].endswith("?")
        assert suite.card["reference"] in suite.methods


def test_every_stage_of_a_suite_names_recipes_and_classes_that_exist() -> None:
    from neurofm.cli.benchmark.training import stage_recipes
    from neurofm.evaluate.suite_cards import read_suite, suites

    for name in suites():
        for method in read_suite(name).methods.values():
            for spec in [method.get("estimator"), method.get("readout")]:
                if spec is not None:
                    cards.load_class(spec["class_path"])
            if "stages" in method:
                stages = stage_recipes(method, dataset="eegmmidb", people=["1"], seed=0)
                for _, recipe in stages:
                    cards.load_class(recipe["model"]["class_path"])
                    assert recipe["data"]["init_args"]["preprocess"]


@pytest.mark.system
@pytest.mark.parametrize("folder", DONE, ids=lambda folder: folder.name)
def test_the_table_is_what_the_records_give(folder: Path) -> None:
    from neurofm.cli.benchmark.found import found_in
    from neurofm.cli.benchmark.pages import documents
    from neurofm.evaluate.records import read_records
    from neurofm.evaluate.suite_cards import read_suite

    suite = read_suite(str(folder / "config.yaml"))
    records = list(read_records(folder).values())

    for name, text in documents(found_in(suite, records)).items():
        assert (folder / name).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("folder", DONE, ids=lambda folder: folder.name)
def test_the_results_are_those_of_the_suite_as_it_is(folder: Path) -> None:
    card = SUITES / f"{folder.name}.yaml"
    was = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    records = read_lines(folder / "records.jsonl")

    assert yaml.safe_load(card.read_text(encoding="utf-8")) == was
    assert {record["method"] for record in records} <= set(was["methods"])
    assert {record["seed"] for record in records} == set(was["seeds"])


@pytest.mark.corpus
@pytest.mark.parametrize("folder", DONE, ids=lambda folder: folder.name)
def test_windows_of_the_results_are_those_the_code_makes(folder: Path, corpora: Path) -> None:
    from neurofm.cli.benchmark.windows import windows_of
    from neurofm.evaluate.suite_cards import read_suite

    suite = read_suite(str(folder / "config.yaml"))
    method = suite.card["reference"]
    known = {}
    for record in read_lines(folder / "records.jsonl"):
        if record["method"] == method and record["fold"] == 0:
            cell = (record["dataset"], record["protocol"], record["share"], record["seed"])
            known[cell] = (record["windows"], record["key"])

    assert known
    dataset = next(iter(known))[0]
    windows = windows_of(suite, dataset, method)
    for protocol in {cell[1] for cell in known if cell[0] == dataset}:
        for cell in suite.cells(dataset, protocol, 1, methods=[method]):
            key, config = windows.key(suite, cell)
            assert known[dataset, protocol, cell.share, cell.seed] == (config["windows"], key)


def test_trials_are_the_same_at_every_rate(tmp_path: Path) -> None:
    from dataclasses import replace

    from neurofm.cli.benchmark.windows import event_onsets
    from neurofm.data import Windows
    from neurofm.evaluate.suites import nested_share, window_hash
    from neurofm.io import seal, write_recording
    from neurofm.types import Event, Recording, Sensors, Signal
    from neurofm.units import Kind

    onsets = np.random.default_rng(0).uniform(1, 55, size=60)
    onsets = np.sort(np.round(onsets * 256) / 256)  # many are half a sample at 128 Hz
    events = tuple(Event(float(t), 0.1, "ab"[i % 2]) for i, t in enumerate(onsets))
    sensors = Sensors.of_kind(["C3", "C4"], Kind.EEG)
    hashes, shares = set(), set()
    for rate, offset_s in ((256, 0.0), (128, 0.0), (100, -0.3)):
        signal = Signal(
            np.zeros((2, 60 * rate), np.float32),
            float(rate),
            sensors,
            events,
            Recording("toy", "1"),
        )
        write_recording(tmp_path / str(rate), signal, key="one", dtype="float32")
        seal(tmp_path / str(rate), keys=["one"], about={})
        windows = Windows(tmp_path / str(rate), window_s=0.5, labels=["a", "b"], offset_s=offset_s)
        found = event_onsets(windows, offset_s=offset_s)
        trials = [replace(r, start=t) for r, t in zip(windows.rows, found, strict=True)]
        np.testing.assert_allclose(found, onsets, atol=1e-6)
        hashes.add(window_hash(trials, range(40), range(40, 60)))
        shares.add(nested_share(trials, range(40), 0.2, seed=0))
    assert len(hashes) == len(shares) == 1
