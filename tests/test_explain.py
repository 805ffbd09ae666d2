"""`neurofm explain` on a small run: a rhythm planted at two channels is where it looks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from neurofm import cli
from neurofm.batch import Batch
from neurofm.cli.explain.dictionary import sparse
from neurofm.cli.explain.explaining import Held, bands, evidence, filter_patterns
from neurofm.cli.explain.inside import _entries, _pooled, by_window, layers, look_inside
from neurofm.cli.explain.intervening import patching
from neurofm.data import Windows
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
    assert "Layers: the class is read best at" in told
    (folder,) = trained.rglob("explain")
    report = json.loads((folder / "report.json").read_text())
    titles = [section["title"] for section in report["sections"]]
    assert titles == [
        "Evidence over scalp and time",
        "Frequency bands",
        "Spatial filters",
        "Decoding over time",
        "Which layer knows the class",
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


def test_broken_windows_and_missing_classes_leave_the_rest(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _held(trained, 12)
    lost = whole.chosen[2]
    plain = Windows.batch

    def batch(self: Windows, members: list[int]) -> Batch:
        given = plain(self, members)
        hit = torch.tensor([i == lost for i in members])
        return replace(given, x=torch.where(hit[:, None, None], torch.nan, given.x))

    def one_class(self: Held, members: list[int], n: int, seed: int) -> list[int]:
        return [i for i in balanced(self, members, n, seed) if self.rows[i].label == "left_hand"]

    monkeypatch.setattr(Windows, "batch", batch)
    held = _held(trained, 12)
    assert held.chosen == [i for i in whole.chosen if i != lost] and held.broken == [lost]
    balanced = Held.balanced
    monkeypatch.setattr(Held, "balanced", one_class)
    methods = ["--methods", "evidence", "patching"]
    arguments = ["explain", str(trained), *methods, "--windows", "12", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Left out for NaN or infinite values: 1 windows" in told
    assert "patching: not possible here." in told
    assert "right_hand at" not in told and "There is no held-out window of right_hand." in told


def _held(trained: Path, n: int) -> Held:
    return Held(next(trained.rglob("config.yaml")).parent, n=n, seed=0)


def test_sites_are_the_entries_of_the_longest_list_of_blocks() -> None:
    def block() -> nn.Sequential:
        return nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))

    model = nn.ModuleDict(
        {
            "tokenizer": nn.ModuleList(block() for _ in range(9)),
            "stem": nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU()),
            "blocks": nn.ModuleList(block() for _ in range(3)),
            "head": nn.Linear(2, 2),
        }
    )
    assert _entries(model) == ["blocks.0", "blocks.1", "blocks.2"]
    both = nn.ModuleDict({k: nn.ModuleList(block() for _ in range(2)) for k in ("time", "space")})
    assert _entries(both) == ["time.0", "time.1", "space.0", "space.1"]
    flat = nn.Sequential(nn.ReLU(), nn.Conv1d(2, 2, 3), nn.Dropout(), nn.ReLU())
    assert _entries(flat) == ["1", "3"]  # before the first weights there is the signal
    assert _entries(nn.ModuleDict({"only": nn.Linear(2, 2)})) == ["only"]


def test_features_keep_channels_apart_and_leave_padding_out() -> None:
    x = np.arange(24.0).reshape(1, 6, 4)  # two channels of three moments
    found = _pooled(x, None, 2).reshape(2, 2, 4)  # mean and spread, channel, unit
    np.testing.assert_allclose(found[0], [x[0, :3].mean(0), x[0, 3:].mean(0)])
    np.testing.assert_allclose(found[1], [x[0, :3].std(0), x[0, 3:].std(0)])
    real = np.array([[True, True, False, True, True, True]])
    np.testing.assert_allclose(_pooled(x, real, 2)[0, :4], x[0, :2].mean(0))
    folded = torch.arange(24.0).reshape(6, 2, 2)  # three rows of each of two windows
    assert torch.equal(by_window(folded, -1, 2)[1], folded[3:].reshape(6, 2))
    with pytest.raises(ValueError, match="for 4 windows cannot be divided"):
        by_window(folded, -1, 4)


def test_layers_of_a_sequential_network_and_what_passes_through_them(trained: Path) -> None:
    decoder, held = load_decoder(trained), _held(trained, 30)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    inside = look_inside(decoder, held, sites=None, seed=0)
    labels = [place.label for place in inside.places]
    assert "network.conv_time_spat" in labels and not any("shuffle" in name for name in labels)
    assert all(place.axis == 1 for place in inside.places)  # filters
    found = layers(inside)
    assert found.n == (30, 30) and set(found.probes.signal) == {"band power", "covariance"}
    scores = {name.rpartition(".")[2]: one.score for name, one in found.probes.layers.items()}
    assert scores["conv_nonlin_exp"] > scores["conv_time_spat"]  # power of filters, not their mean
    moved = patching(inside)
    np.testing.assert_allclose(moved.denoise.value, 1, rtol=1e-4)  # one after the other
    np.testing.assert_allclose(moved.noise.value, 1, rtol=1e-4)
    assert np.abs(moved.control.value).max() < 0.5 and moved.unchanged < 1e-5
    assert all(torch.equal(before[name], value) for name, value in decoder.state_dict().items())
    assert not any(module._forward_hooks for module in decoder.modules())


def test_sites_by_name_and_what_cannot_be_said(trained: Path) -> None:
    decoder, held = load_decoder(trained), _held(trained, 8)
    with pytest.raises(ValueError, match=r"no module 'model.network.pol'.*model.network.pool"):
        look_inside(decoder, held, sites=["network.pol"], seed=0)
    inside = look_inside(decoder, held, sites=["network.pool_nonlin_exp"], seed=0)
    with pytest.raises(ValueError, match="What the network does not do cannot be located"):
        patching(inside)
    found = sparse(inside, steps=20)
    assert found.site == "network.pool_nonlin_exp" and found.n[1:] == (40, 160, 5)
    # A dictionary hardly trained is not to be believed.
    assert not found.explains or found.recovered.from_mean > 0.5


@pytest.mark.slow
def test_all_methods_say_something_or_why_not(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["explain", str(trained), "--methods", "all", "--windows", "48"]
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for name in ("Evidence: ", "Layers: ", "Patching: ", "Sparse: ", "Synthesis: "):
        assert name in told
    assert "familiar: not possible here. familiar: 30 training windows are too few" in told
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["sections"]) == 8
    assert all(section["figures"] for section in report["sections"])


def test_bad_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["explain", str(tmp_path / "nothing")]) != 0
    assert "no such run" in capsys.readouterr().err
