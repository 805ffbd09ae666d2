"""Federated training: rounds, weights of clients, clients that fail, runs that resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from test_fleeg import other, small

from neurofm.batch import Batch
from neurofm.data import BrainData
from neurofm.io import load_model
from neurofm.models import FLEEGClients
from neurofm.tasks import Federated, federated_mean

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`"),
]
NAMES = ["first", "second"]
CHANNELS = ["FC3", "FC4", "C3", "Cz", "C4", "CP3"]
Tensors = dict[str, torch.Tensor]


def clients(**changes: Any) -> FLEEGClients:
    """One for each corpus: six channels at 64 Hz, four at 48 Hz."""
    return FLEEGClients(
        [small(n_channels=6, **changes), other(n_channels=4, **changes)], names=NAMES
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("federated")


def make(folder: Path, *, slower: bool = True, **changes: Any) -> BrainData:
    """Two simulated corpora of other channels and, if `slower`, another rate."""
    for seed, name in enumerate(NAMES):
        reader = {"subjects": 3, "runs": 2, "sfreq": 64.0, "seed": seed}
        about = {"description": name, "license": "BSD-3-Clause", "citation": "none"}
        card = about | {
            "modality": "eeg",
            "line_freq": 60,
            "folder": None,
            "reader": {"class_path": "neurofm.io.SyntheticReader", "init_args": reader},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    pick = "neurofm.data.PickChannels"
    steps: dict[str, Any] = {
        "first": [{"class_path": pick, "init_args": {"names": CHANNELS}}],
        "second": [{"class_path": pick, "init_args": {"names": CHANNELS[:4]}}],
    }
    if slower:
        rate = {"class_path": "neurofm.data.Resample", "init_args": {"sfreq": 48.0}}
        steps["second"].append(rate)
    arguments: dict[str, Any] = {
        "datasets": [str(folder / f"{name}.yaml") for name in NAMES],
        "preprocess": steps,
        "store": str(folder / "store"),
        "labels": ["left_hand", "right_hand"],
        "window_s": 2.0,
        "offset_s": 0.5,
        "validate": [f"{name}/2" for name in NAMES],
        "test": [f"{name}/3" for name in NAMES],
        "batch_size": 8,
        "weights": {"first": 0.75, "second": 0.25},
        "epoch_windows": 32,
        "bucket": "sensors",
    }
    return BrainData(**arguments | changes)


class Watch(Callback):
    """Losses of training steps, and states of the clients before and after each round."""

    def __init__(self) -> None:
        self.losses: list[float | None] = []
        self.after: list[list[Tensors]] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]) if outputs else None)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.after.append([state(client) for client in pl_module.model.clients])


def state(module: torch.nn.Module) -> Tensors:
    return {key: value.clone() for key, value in module.state_dict().items()}


def fit(task: Federated, data: Any, *callbacks: Callback, **changes: Any) -> Watch:
    watch, resume = Watch(), changes.pop("ckpt_path", None)
    arguments = {"max_epochs": 1, "limit_val_batches": 0} | changes
    runner = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        callbacks=[watch, *callbacks],
        **arguments,
    )
    lightning.seed_everything(5, verbose=False)
    runner.fit(task, datamodule=data, ckpt_path=resume)
    watch.metrics = dict(runner.callback_metrics)
    return watch


def test_a_round_ends_with_the_average_by_windows_and_the_rest_stays_private(folder: Path) -> None:
    model = clients()
    task = Federated(model, lr=3e-3)
    sent: list[tuple[list[Tensors], dict[str, int], list[Tensors]]] = []
    end = task.end_round

    def spied() -> dict[str, float]:
        before = [client.shared() for client in model.clients]
        sent.append((before, dict(task._trained), [state(c) for c in model.clients]))
        return end()

    task.end_round = spied  # type: ignore[method-assign]
    watch = fit(task, make(folder), max_epochs=2)
    assert len(sent) == 2
    for (shared, trained, before), after in zip(sent, watch.after, strict=True):
        assert trained == {"first": 24, "second": 8}
        mean = federated_mean(shared, [3, 1])
        for own, client in zip(before, after, strict=True):
            for key, value in client.items():
                assert torch.equal(value, mean[key] if key in mean else own[key]), key
    assert not torch.equal(watch.after[0][0]["norm.weight"], watch.after[1][0]["norm.weight"])
    assert float(watch.metrics["train/clients"]) == 2


@pytest.mark.parametrize(("weighting", "share"), [("listed", 0.5), ("equal", 0.5)])
def test_other_weights_are_a_choice(weighting: Any, share: float, folder: Path) -> None:
    task = Federated(clients(), weighting=weighting, lr=3e-3)
    weights: list[dict[str, float]] = []
    end = task.end_round
    task.end_round = lambda: weights.append(end()) or weights[-1]  # type: ignore[method-assign]
    fit(task, make(folder))
    assert weights[0]["first"] / sum(weights[0].values()) == share
    assert weights[0]["first"] == {"listed": 90, "equal": 1}[weighting]  # 3 people x 2 x 15 trials


def test_a_step_of_one_client_leaves_the_others_alone(folder: Path) -> None:
    model = clients(private=5)
    before = [state(client) for client in model.clients]
    task = Federated(model, lr=3e-3, weight_decay=0.5)
    watch = fit(task, make(folder), limit_train_batches=1)
    changed = [
        any(not torch.equal(own[key], after[key]) for key in own)
        for own, after in zip(before, watch.after[0], strict=True)
    ]
    assert sorted(changed) == [False, True]


# Clients that fail


def fail_at(task: Federated, name: str, nth: int, error: str) -> None:
    """The client's nth batch kills it, or leaves it with a loss that is no number."""
    client, calls = task.model[name], [0]
    logits = client.logits

    def dying(batch: Batch) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == nth and error == "dies":
            raise ConnectionError("the line is dead")
        return logits(batch) * (torch.nan if calls[0] == nth else 1)

    client.logits = dying  # type: ignore[method-assign]


@pytest.mark.parametrize("error", ["dies", "nan"])
def test_a_round_goes_on_without_a_client_that_fails(error: str, folder: Path) -> None:
    task = Federated(clients(), lr=3e-3)
    begin = state(task.model["first"])
    fail_at(task, "first", 2, error)
    with pytest.warns(UserWarning, match=r"client first failed in round 0 .*goes on without it"):
        watch = fit(task, make(folder), max_epochs=2)
    first, second = watch.after[0]
    shared = set(task.model["first"].shared_names())
    for key, value in first.items():
        assert torch.equal(value, second[key] if key in shared else begin[key]), key
    assert watch.losses[:4].count(None) == 2  # the one it died in, and the one after
    assert None not in watch.losses[4:]  # it takes part in the next round
    assert not torch.equal(watch.after[1][0]["spatial.weight"], begin["spatial.weight"])


def test_a_client_that_fails_stops_the_run_if_asked_to_and_nothing_is_lost(
    folder: Path, tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(Federated(clients(), lr=3e-3, on_failure="stop"), make(folder))
    task = Federated(clients(), lr=3e-3, on_failure="stop")
    fail_at(task, "first", 3, "dies")
    with pytest.raises(RuntimeError, match=r"first failed in round 0 \(the line is dead\).*resume"):
        fit(task, make(folder), keep)
    last = max(tmp_path.glob("*.ckpt"), key=lambda file: file.stem)
    rest = fit(Federated(clients(), lr=3e-3, on_failure="stop"), make(folder), ckpt_path=last)
    assert 1 <= len(rest.losses) <= 2
    assert rest.losses == whole.losses[-len(rest.losses) :]


def test_a_round_without_any_client_is_an_error(folder: Path) -> None:
    task = Federated(clients(), lr=3e-3)
    for name in NAMES:
        fail_at(task, name, 1, "dies")
    with (
        pytest.warns(UserWarning, match="goes on"),
        pytest.raises(RuntimeError, match="and so did all others"),
    ):
        fit(task, make(folder))


# Resuming


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_run_killed_in_mid_round_takes_the_same_steps(
    step: int, folder: Path, tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(Federated(clients(), lr=3e-3), make(folder), keep, max_epochs=2)
    again = Federated(clients(), lr=3e-3)
    file = tmp_path / f"step={step}.ckpt"
    rest = fit(again, make(folder), max_epochs=2, ckpt_path=file)
    assert rest.losses == whole.losses[step:]
    for mine, theirs in zip(rest.after[-1], whole.after[-1], strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_client_that_failed_before_the_kill_stays_out_of_the_round(
    folder: Path, tmp_path: Path
) -> None:
    task = Federated(clients(), lr=3e-3)
    fail_at(task, "first", 1, "dies")
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    with pytest.warns(UserWarning, match="client first failed"):
        whole = fit(task, make(folder), keep)
    again = Federated(clients(), lr=3e-3)
    file = sorted(tmp_path.glob("*.ckpt"))[0]
    rest = fit(again, make(folder), ckpt_path=file)
    for mine, theirs in zip(rest.after[-1], whole.after[-1], strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


# Data, scores, files


def test_windows_of_several_clients_in_one_batch_go_to_their_own(folder: Path) -> None:
    data = make(folder, slower=False, bucket="rate", weights=None, epoch_windows=None)
    model = FLEEGClients([small(n_channels=6), small(n_channels=4)], names=NAMES)
    watch = fit(Federated(model, lr=3e-3), data)
    assert {name.split("/")[1] for name in watch.metrics if "accuracy" in name} == set(NAMES)


def test_scores_are_of_each_client_and_the_model_can_be_loaded(
    folder: Path, tmp_path: Path
) -> None:
    task = Federated(clients(), lr=3e-3)
    keep = ModelCheckpoint(tmp_path, "best", save_top_k=1)
    watch = fit(task, make(folder), keep, limit_val_batches=1.0)
    assert {f"validate/{name}/balanced_accuracy" for name in NAMES} <= set(watch.metrics)
    loaded: Any = load_model(tmp_path / "best.ckpt")
    batch = make(folder)
    batch.setup()
    given = batch.windows.batch([0, 1])
    assert torch.equal(loaded["first"].logits(given), task.model["first"].eval().logits(given))


def test_data_without_a_client_and_impossible_settings_are_refused(folder: Path) -> None:
    alone = FLEEGClients([small(n_channels=6)], names=["first"])
    with pytest.raises(ValueError, match=r"datasets \['second'\] have no client"):
        fit(Federated(alone), make(folder))
    for change in ({"round_epochs": 0}, {"client_lr": {"third": 1.0}}):
        with pytest.raises(ValueError, match="expected 'trained'"):
            Federated(clients(), **change)  # type: ignore[arg-type]
    # A wrong word is a TypeCheckError where types are checked at run time.
    for wrong in ({"weighting": "best"}, {"on_failure": "ignore"}):
        with pytest.raises(Exception, match=r"best|ignore"):
            Federated(clients(), **wrong)  # type: ignore[arg-type]
    rates = Federated(clients(), client_lr={"second": 0.5}).rates()
    assert [factor for _, factor in rates] == [1.0, 0.5]
