"""Two processes take the steps of one, and killed runs go on as if nothing had happened.

The runs are those of `training_runs.py`, started once in a process of their own under a hard limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
EQUALITY = [
    *("residual", "ema", "cosine", "annealed"),
    *("masked codes", "complementary codes", "next codes", "masked signal", "contrastive"),
    *("batch norm", "probe", "modes", "two stages", "fine-tuning"),
]
RESUMED = ["tokenizer", "pretrain", "decode"]
LIMIT_S = 900  # on a busy machine; half a minute of work
pytestmark = [pytest.mark.timeout(960), pytest.mark.system]


class Runs:
    """What the processes of each run left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, world: int) -> list[dict[str, Any]]:
        found = []
        for rank in range(world):
            file = self.folder / f"{name}-{rank}.pt"
            log = (self.folder / f"{name}-{rank}.log").read_text()[-3000:]
            assert file.is_file(), f"{file.name} was not written:\n{log}"
            found.append(torch.load(file, weights_only=True))
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("runs")
    names = [f"equal.{name}.{world}" for name in EQUALITY for world in (1, 2)]
    for name in RESUMED:
        for world in (1, 2):
            names += [f"resume.{name}.{world}.{part}" for part in ("whole", "killed", "rest")]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "training_runs.py"), str(folder), *names],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        _, error = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, error.decode()[-3000:]
        yield Runs(folder)
    finally:
        # Its processes are in its session: none outlives the test.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def mean(values: list[list[float]]) -> list[float]:
    return [sum(step) / len(step) for step in zip(*values, strict=True)]


@pytest.mark.parametrize("name", EQUALITY)
def test_two_processes_take_the_steps_of_one(name: str, runs: Runs) -> None:
    (alone,), both = runs(f"equal.{name}.1", 1), runs(f"equal.{name}.2", 2)
    shares = zip(*(run["windows"] for run in both), strict=True)
    assert [first + second for first, second in shares] == alone["windows"]
    assert len(alone["losses"]) == 4
    assert mean([run["losses"] for run in both]) == pytest.approx(alone["losses"], rel=1e-5)
    for key, value in alone["state"].items():
        assert torch.equal(both[0]["state"][key], both[1]["state"][key]), key
        # Sums over thousands of rows in another order.
        torch.testing.assert_close(
            both[0]["state"][key], value, rtol=1e-4, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("name", ["residual", "ema", "masked codes", "probe", "fine-tuning"])
def test_scores_of_two_processes_are_those_of_one(name: str, runs: Runs) -> None:
    (alone,), both = runs(f"equal.{name}.1", 1), runs(f"equal.{name}.2", 2)
    assert both[0]["scores"] == both[1]["scores"]
    names = {"train/loss_epoch", "validate/loss"}
    if name in ("residual", "ema"):
        names |= {"validate/codebook_perplexity", "train/codebook_usage"}
    if name in ("probe", "fine-tuning"):
        names |= {"validate/balanced_accuracy", "validate/accuracy", "train/accuracy_epoch"}
    assert {n: both[0]["scores"][n] for n in names} == pytest.approx(
        {n: alone["scores"][n] for n in names}, rel=1e-4
    )


def test_what_a_task_does_not_train_rests_where_others_would_wait_for_it(runs: Runs) -> None:
    (alone,), (first, second) = runs("equal.fine-tuning.1", 1), runs("equal.fine-tuning.2", 2)
    resting = set(alone["trained"]) - set(first["trained"])
    assert {"model.mask_token", "model.predict_head.weight"} <= resting
    # `encode` leaves the last block out.
    assert {name.split(".")[1] for name in resting} == {"mask_token", "predict_head", "blocks"}
    assert all(name.startswith("model.blocks.1.") for name in resting if "blocks" in name)
    assert first["trained"] == second["trained"]
    assert runs("equal.residual.2", 2)[0]["trained"] == runs("equal.residual.1", 1)[0]["trained"]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_killed_in_mid_epoch_goes_on_bit_by_bit(name: str, world: int, runs: Runs) -> None:
    """Killed after step 5 of 8, four to an epoch; the last checkpoint is of step 3."""
    whole = runs(f"resume.{name}.{world}.whole", world)
    rest = runs(f"resume.{name}.{world}.rest", world)
    assert not list(runs.folder.glob(f"resume.{name}.{world}.killed-*.pt"))
    for before, after in zip(whole, rest, strict=True):
        assert len(before["losses"]) == 8
        assert after["losses"] == before["losses"][3:]
        assert after["windows"] == before["windows"][3:]
        for key, value in before["state"].items():
            assert torch.equal(after["state"][key], value), key
    seen = list(chain.from_iterable(step for run in whole for step in run["windows"]))
    assert len(seen) == 8 * 4
    assert {recording // 6 for recording, _ in seen} == {0, 1}
