"""`neurofm explain` on a small run: a rhythm planted at two channels is where it looks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from neurofm import cli
from neurofm.cli.explain.explaining import Held, bands, evidence, filter_patterns
from neurofm.live.decoder import load_decoder

NAMES = ["FC3", "FC4", "C3", "C4", "Cz", "CP3", "CP4", "Pz"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that reads the rhythm over C3 and C4, in simulated people."""
    here = tmp_path_factory.mktemp("explain")
    step = {"class_path": "neurofm.data.PickChannels", "init_args": {"names": NAMES}}
    data = {
        "datasets": ["simulated_motor_imagery"],
        "preprocess": [
            {"class_path": "neurofm.data.Bandpass", "init_args": {"low": 8.0, "high": 30.0}},
            {"class_path": "neurofm.data.Resample", "init_args": {"sfreq": 80.0}},
            step,
        ],
        "store": str(here / "store"),
        "subjects": ["1", "2"],
        "labels": ["left_hand", "right_hand"],
        "window_s": 2.0,
        "offset_s": 0.5,
        "split_by": "run",
        "validate": ["2"],
        "test": ["3"],
        "batch_size": 16,
    }
    network = {
        "class_path": "neurofm.models.BraindecodeModel",
        "init_args": {
            "name": "ShallowFBCSPNet",
            "n_channels": len(NAMES),
            "n_times": 160,
            "sfreq": 80.0,
        },
    }
    content = {
        "seed_everything": 0,
        "trainer": {
            "max_epochs": 12,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "default_root_dir": str(here),
        },
        "model": {
            "class_path": "neurofm.tasks.Decode",
            "init_args": {"model": network, "n_outputs": 2, "backbone_lr": 1.0, "lr": 2e-3},
        },
        "data": {"class_path": "neurofm.data.BrainData", "init_args": data},
    }
    file = here / "small.yaml"
    file.write_text("# Does it look where the rhythm is?\n" + yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert cli.main(["fit", "--config", str(file)]) == 0
    return here / "runs" / "small"


def test_the_page_says_what_the_model_looks_at(
    trained: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["explain", str(trained), "--windows", "16"]) == 0
    told = capsys.readouterr().out
    assert "Evidence:" in told and "amplitude: best" in told and "no cluster test" in told
    (folder,) = trained.rglob("explain")
    report = json.loads((folder / "report.json").read_text())
    titles = [section["title"] for section in report["sections"]]
    assert titles == [
        "Evidence over scalp and time",
        "Frequency bands",
        "Spatial filters",
        "Decoding over time",
    ]
    assert all(section["figures"] for section in report["sections"])
    assert cli.main(["report", str(trained)]) == 0  # and the run's own page shows it too
    (page,) = trained.rglob("report/report.json")
    shown = [section["title"] for section in json.loads(page.read_text())["sections"]]
    assert set(titles) < set(shown)


def test_evidence_lies_over_motor_cortex_and_is_no_accident(trained: Path) -> None:
    decoder = load_decoder(trained)
    config = next(trained.rglob("config.yaml")).parent
    held = Held(config, n=24, seed=0)
    assert {str(held.rows[i].run) for i in held.chosen} == {"03"}
    found = evidence(decoder, held, seed=0)
    for values in found.maps.values():
        np.testing.assert_allclose(values.sum(), 100)
        top = {held.sensors.names[i] for i in np.argsort(-values)[:4]}
        assert top & {"C3", "C4"}
    assert found.completeness_error < 0.1
    assert found.deletion.gain > 0
    assert abs(found.similarity) < 0.3
    assert set(bands(decoder, held)) == {"mu", "beta"}  # what the filter left
    site, picked = filter_patterns(decoder, held)
    assert "spat" in site and picked.values.shape[1] == len(NAMES)


def test_the_model_is_left_as_it_was(trained: Path) -> None:
    decoder = load_decoder(trained)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    evidence(decoder, Held(next(trained.rglob("config.yaml")).parent, n=4, seed=0), seed=0)
    assert all(torch.equal(before[name], value) for name, value in decoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_what_does_not_apply_says_why(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = load_decoder(trained)
    held = Held(next(trained.rglob("config.yaml")).parent, n=4, seed=0)
    given = [(replace(batch, band=(0.0, 0.5)), y) for batch, y in held.batches(held.chosen)]
    monkeypatch.setattr(held, "batches", lambda members: given)
    with pytest.raises(ValueError, match=r"0 to 0.5 Hz, and no band of delta"):
        bands(decoder, held)
    monkeypatch.setattr(Held, "same_sensors", False)
    with pytest.raises(ValueError, match="evidence: the recordings have different channels"):
        evidence(decoder, held, seed=0)


def test_bad_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["explain", str(tmp_path / "nothing")]) != 0
    assert "no such run" in capsys.readouterr().err
