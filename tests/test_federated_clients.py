"""Federated clients by themselves: the simulation's result; failing, resuming, through Flower."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_federated import NAMES, fit, make, state

from neurofm import load_model
from neurofm.cli import main
from neurofm.cli.federated.recipe import FederatedRecipe, read_recipe
from neurofm.cli.federated.rounds import LINES, Reply, Rounds
from neurofm.data import BrainData
from neurofm.tasks.federated_client import MODEL, STATE, FederatedClient

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]
ROUNDS = 2
SIZE = {
    "filters": [6, 6, 6, 8],
    "shared_kernel": 4,
    "shared_pool": 2,
    "dropout": 0.0,  # each process has random numbers of its own
}
CLIENTS: list[dict[str, Any]] = [
    {"n_channels": 6, "n_times": 128, "sfreq": 64.0, "kernels": [8, 4, 4], "pools": [2, 2, 2]},
    {"n_channels": 4, "n_times": 96, "sfreq": 48.0, "kernels": [5, 4, 4], "pools": [2, 3, 1]},
]


def written(folder: Path, **changes: Any) -> Path:
    """A recipe of two simulated corpora whose windows fit into one batch."""
    data = make(folder, weights=None, epoch_windows=None, batch_size=64)
    networks = [
        {"class_path": "neurofm.models.FLEEG", "init_args": SIZE | client} for client in CLIENTS
    ]
    clients = {"names": NAMES, "clients": networks}
    task = {
        "model": {"class_path": "neurofm.models.FLEEGClients", "init_args": clients},
        "lr": 3e-3,
        "final_lr": 1.0,
    }
    names = ("datasets", "preprocess", "store", "labels", "window_s", "offset_s", "bucket")
    arguments = {name: getattr(data, name) for name in names}
    arguments |= {"store": str(data.store), "batch_size": 64, "split_by": "subject"}
    arguments |= {side: [f"{name}/{n}" for name in NAMES] for side, n in SIDES.items()}
    recipe = {
        "seed_everything": 5,
        "trainer": {"max_epochs": ROUNDS},
        "model": {"class_path": "neurofm.tasks.Federated", "init_args": task | changes},
        "data": {"class_path": "neurofm.data.BrainData", "init_args": arguments},
    }
    file = folder / f"recipe{len(list(folder.glob('recipe*')))}.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


SIDES = {"validate": "2", "test": "3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def recipe_file(folder: Path) -> Path:
    return written(folder)


def client(recipe: FederatedRecipe, name: str, out: Path) -> FederatedClient:
    data = recipe.data_of(name)
    rounds = {"rounds": recipe.rounds, "seed": recipe.seed}
    return FederatedClient(recipe.task, name, data, folder=out / name, **rounds)


def reply(own: FederatedClient, mean: dict[str, torch.Tensor] | None) -> Reply:
    tensors, windows = own.train(mean)
    return Reply(own.name, tensors, windows, own.listed)


def in_one_process(file: Path) -> dict[str, dict[str, torch.Tensor]]:
    """States of the clients after the simulation."""
    recipe = read_recipe(str(file))
    watch = fit(recipe.task, BrainData(**recipe.data), max_epochs=ROUNDS)
    return dict(zip(NAMES, watch.after[-1], strict=True))


def assert_same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for key, value in theirs.items():
        if key in ("temporal.bias", "norm.running_mean"):
            continue  # the norm takes the bias out: its gradient is rounding, which Adam enlarges
        torch.testing.assert_close(mine[key], value, rtol=2e-3, atol=2e-5, msg=key)


def test_clients_by_themselves_end_where_the_simulation_does(
    recipe_file: Path, tmp_path: Path
) -> None:
    simulated = in_one_process(recipe_file)
    recipes = {name: read_recipe(str(recipe_file)) for name in NAMES}
    clients = [client(recipe, name, tmp_path) for name, recipe in recipes.items()]
    start = {own.name: state(own.model) for own in clients}
    rounds = Rounds(read_recipe(str(recipe_file)).task, total=ROUNDS, folder=tmp_path)
    mean = None
    for _ in range(ROUNDS):
        mean = rounds.close([reply(own, mean) for own in clients], {})
        scores = {own.name: own.judge(mean) for own in clients}
        rounds.scored(scores)
    for own in clients:
        assert_same(state(own.model), simulated[own.name])
        assert not torch.equal(own.model.norm.weight, start[own.name]["norm.weight"])
        assert 0 <= scores[own.name]["balanced_accuracy"] <= 1
        loaded: Any = load_model(own.folder / MODEL)
        assert_same(state(loaded), state(own.model))
    lines = [json.loads(line) for line in (tmp_path / LINES).read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 1, 2, 2]


def test_only_shared_tensors_are_given_away(recipe_file: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(recipe_file))
    tensors, windows = client(recipe, "first", tmp_path).train(None)
    assert sorted(tensors) == ["blocks.2.conv.weight", "head.bias", "head.weight"]
    assert windows == 30  # one of three people, two runs of 15 trials
    own = recipe.data_of("second")
    own.setup()
    assert {row.recording.split("_")[0] for row in own.rows} == {"second"}


def test_a_client_that_died_goes_on_from_its_last_round(recipe_file: Path, tmp_path: Path) -> None:
    whole = client(read_recipe(str(recipe_file)), "first", tmp_path / "whole")
    whole.train(None)
    whole.train(None)
    died = client(read_recipe(str(recipe_file)), "first", tmp_path)
    died.train(None)
    again = client(read_recipe(str(recipe_file)), "first", tmp_path)
    assert again.finished == 1
    again.train(None)
    for key, value in state(whole.model).items():
        assert torch.equal(state(again.model)[key], value), key
    with pytest.raises(ValueError, match="state of client first, not of second"):
        (tmp_path / "second").mkdir()
        (tmp_path / "second" / STATE).write_bytes((tmp_path / "first" / STATE).read_bytes())
        client(read_recipe(str(recipe_file)), "second", tmp_path)


def test_a_client_whose_loss_is_no_number_is_as_before(recipe_file: Path, tmp_path: Path) -> None:
    own = client(read_recipe(str(recipe_file)), "first", tmp_path)
    before, logits = state(own.model), own.model.logits
    own.model.logits = lambda batch: logits(batch) * torch.nan  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="client first: its loss is nan"):
        own.train(None)
    assert all(torch.equal(before[k], v) for k, v in state(own.model).items())
    assert own.finished == 0


# The server's part


def replies(task: Any, **changes: Any) -> list[Reply]:
    return [
        Reply(**{"client": n, "tensors": task.model[n].shared(), "trained": t, "listed": 50} | c)
        for n, t, c in zip(NAMES, (30, 10), (changes, {}), strict=True)
    ]


@pytest.mark.parametrize(
    ("weighting", "share"), [("trained", 0.75), ("listed", 0.5), ("equal", 0.5)]
)
def test_clients_weigh_as_the_recipe_says(
    weighting: str, share: float, folder: Path, tmp_path: Path
) -> None:
    task = read_recipe(str(written(folder, weighting=weighting))).task
    mean = Rounds(task, total=1, folder=tmp_path).close(replies(task), {})
    first, second = (task.model[name].shared()["head.bias"] for name in NAMES)
    torch.testing.assert_close(mean["head.bias"], share * first + (1 - share) * second)


def test_a_round_goes_on_or_stops_and_a_server_resumes(folder: Path, tmp_path: Path) -> None:
    task = read_recipe(str(written(folder))).task
    rounds = Rounds(task, total=5, folder=tmp_path)
    mean = rounds.close(replies(task)[1:], {"first": "the line is dead"})
    torch.testing.assert_close(mean["head.bias"], task.model["second"].shared()["head.bias"])
    assert json.loads(rounds.lines[0])["failed"] == {"first": "the line is dead"}
    again = Rounds(task, total=5, folder=tmp_path)
    assert again.done == 1 and torch.equal(again.mean["head.bias"], mean["head.bias"])
    with pytest.raises(RuntimeError, match=r"round 2 failed \(first: gone\), and nobody is left"):
        again.close([], {"first": "gone"})
    strict = read_recipe(str(written(folder, on_failure="stop"))).task
    with pytest.raises(RuntimeError, match=r"on_failure is stop\. The mean of round 1 is kept"):
        Rounds(strict, total=5, folder=tmp_path).close(replies(strict)[1:], {"first": "gone"})
    assert Rounds(task, total=5, folder=tmp_path).done == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client": "third"}, "no client of the recipe, which has first, second"),
        ({"client": "second"}, "two processes have joined under this name"),
        ({"tensors": {"norm.weight": torch.ones(6)}}, "is it the same recipe"),
        ({"trained": 0}, "it trained on no window"),
    ],
)
def test_what_does_not_belong_is_left_out(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    task = read_recipe(str(written(folder))).task
    rounds = Rounds(task, total=1, folder=tmp_path)
    rounds.close(replies(task, **changes), {})
    assert message in str(json.loads(rounds.lines[0])["failed"])


# The command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve", "--address", "0.0.0.0:8080"], "give --certificates for TLS, or --insecure"),
        (["join", "--address", "server.org:80", "--client", "first"], "give --root-certificate"),
        (["join"], r"which client\? --client, one of \('first', 'second'\)"),
        (["join", "--client", "third"], "no client 'third'; its datasets are first, second"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str], message: str, recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["federated", words[0], str(recipe_file), *words[1:]]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert main(["federated", "run", "federated_fleeg_of_nobody"]) == 2


flower = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import flwr"], capture_output=True).returncode != 0,
    reason="needs Flower: pip install 'neurofm[federated]'",
)
MAIN = "import sys; from neurofm.cli import main; sys.exit(main())"


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAIN, "federated", *words]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE)


@flower
@pytest.mark.timeout(900)
def test_processes_through_flower_end_where_the_simulation_does(
    recipe_file: Path, tmp_path: Path
) -> None:
    made = start("run", str(recipe_file), "--out", str(tmp_path), "--wait", "600")
    _, said = made.communicate(timeout=800)
    assert made.returncode == 0, said
    for name, expected in in_one_process(recipe_file).items():
        assert_same(state(load_model(tmp_path / name / MODEL)), expected)  # type: ignore[arg-type]


@flower
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_a_process_that_is_killed_in_mid_round(
    on_failure: str, folder: Path, tmp_path: Path
) -> None:
    recipe = written(folder, on_failure=on_failure)
    text = recipe.read_text().replace(f"max_epochs: {ROUNDS}", "max_epochs: 400")
    recipe.write_text(text)
    common = [str(recipe), "--address", "127.0.0.1:18731", "--out", str(tmp_path), "--wait", "600"]
    server = start("serve", *common)
    clients = [start("join", *common, "--client", name) for name in NAMES]
    try:
        while not (tmp_path / LINES).is_file():
            assert server.poll() is None, server.communicate()[1]
        clients[1].kill()
        if on_failure == "stop":
            _, said = server.communicate(timeout=800)
            assert server.returncode == 1
            assert "on_failure is stop" in said
        else:
            rest = start("join", *common, "--client", "second")
            clients.append(rest)
            _, said = server.communicate(timeout=800)
            assert server.returncode == 0, said
            lines = [json.loads(line) for line in (tmp_path / LINES).read_text().splitlines()]
            taking = [set(line["weights"]) for line in lines if "weights" in line]
            assert {"first"} in taking and taking[-1] == set(NAMES)
        assert (tmp_path / "second" / STATE).is_file()
    finally:
        for process in (server, *clients):
            process.kill()
