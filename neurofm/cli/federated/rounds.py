"""The server's part of federated training, whatever carries the messages.

It knows the names and shapes of what clients share, never their data, and keeps after each round
the mean and its number, so that a server that is started again goes on with the next round.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurofm.io.stores.files import atomic_write
from neurofm.io.tensors import read_checkpoint
from neurofm.tasks import Federated, federated_mean

log = logging.getLogger(__name__)
STATE, LINES = "server.ckpt", "rounds.jsonl"


@dataclass(frozen=True)
class Reply:
    """What a client sends after a round.

    Args:
        client: Its name.
        tensors: What clients share, by name.
        trained: Windows it trained on in the round.
        listed: Windows of its dataset.
    """

    client: str
    tensors: Mapping[str, Tensor]
    trained: int
    listed: int


class Rounds:
    """Averages what clients send.

    Args:
        task: Weighting, what to do about failures, and the shapes of what is shared.
        total: Rounds of the run.
        folder: For the mean after each round and a line about it; those that are there are taken
            up.

    Raises:
        ValueError: Clients share nothing, or the folder's mean is of other networks.
    """

    def __init__(self, task: Federated, *, total: int, folder: Path) -> None:
        self.task, self.total, self.folder = task, total, folder
        self.names = task.model.names
        self.expected = {k: v.shape for k, v in task.model[self.names[0]].shared().items()}
        if not self.expected:
            raise ValueError("Federated: the clients keep every layer (`private: 5`).")
        self.done, self.mean = 0, dict[str, Tensor]()
        if (folder / STATE).is_file():
            state = read_checkpoint(folder / STATE)
            self.done, self.mean = int(state["done"]), state["mean"]
            self._refuse_others(self.mean, str(folder / STATE))
        lines = folder / LINES
        self.lines = lines.read_text(encoding="utf-8").splitlines() if lines.is_file() else []

    def close(self, replies: Sequence[Reply], failed: Mapping[str, str]) -> dict[str, Tensor]:
        """End a round.

        Args:
            replies: Of the clients that trained.
            failed: Of the others: client, or any other key, to what went wrong.

        Returns:
            The mean, which is also kept.

        Raises:
            RuntimeError: Nobody replied, or a client failed and the recipe says to stop.
        """
        failed, taking = dict(failed), dict[str, Reply]()
        for reply in replies:
            fault = self._fault(reply, taking)
            if fault:
                failed[reply.client] = fault
            else:
                taking[reply.client] = reply
        number = self.done + 1
        said = "; ".join(f"{name}: {text}" for name, text in failed.items())
        if failed and (self.task.on_failure == "stop" or not taking):
            why = "on_failure is stop" if taking else "nobody is left"
            raise RuntimeError(
                f"Federated: round {number} failed ({said}), and {why}. The mean of round "
                f"{self.done} is kept in {self.folder}: start the server again to go on from it."
            )
        if not taking:
            raise RuntimeError(f"Federated: no client took part in round {number}.")
        if failed:
            log.warning("round %d goes on without %s", number, said)
        weights = {name: self._weight(reply) for name, reply in taking.items()}
        self.mean = federated_mean([r.tensors for r in taking.values()], [*weights.values()])
        self.done = number
        self._save({"round": number, "weights": weights, "failed": failed})
        return self.mean

    def scored(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Keep what clients scored with the mean."""
        self._save({"round": self.done, "scores": {k: dict(v) for k, v in scores.items()}})

    def _weight(self, reply: Reply) -> float:
        counts = {"trained": reply.trained, "listed": reply.listed}
        return float(counts.get(self.task.weighting, 1))

    def _fault(self, reply: Reply, taking: Mapping[str, Reply]) -> str:
        if reply.client not in self.names:
            return f"no client of the recipe, which has {', '.join(self.names)}"
        if reply.client in taking:
            return "two processes have joined under this name"
        try:
            self._refuse_others(reply.tensors, reply.client)
            federated_mean([reply.tensors], [1])
        except ValueError as error:
            return str(error)
        return "" if reply.trained > 0 else "it trained on no window"

    def _refuse_others(self, tensors: Mapping[str, Tensor], where: str) -> None:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        if shapes != self.expected:
            raise ValueError(
                f"{where}: tensors {[f'{k} {tuple(v)}' for k, v in shapes.items()]}, expected "
                f"{[f'{k} {tuple(v)}' for k, v in self.expected.items()]}: is it the same recipe?"
            )

    def _save(self, line: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lines.append(json.dumps(line, sort_keys=True))
        with atomic_write(self.folder / STATE) as file:
            torch.save({"done": self.done, "mean": self.mean}, file)
        with atomic_write(self.folder / LINES) as file:
            file.write(("\n".join(self.lines) + "\n").encode())
