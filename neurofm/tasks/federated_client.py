"""One client of federated training, by itself: in a process, or on a machine, of its own.

It trains its network on its own windows, gives away the tensors that clients share and nothing
else, and takes over their mean. How the tensors travel is not known here (`neurofm federated`).
Its state after each round lies in a file, from which a client that died goes on.

Source: Liu et al. 2024 (FLEEG); McMahan et al. 2017 (FedAvg).
Axes: batch channel time.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.data import BrainData
from neurofm.io import save_model
from neurofm.io.stores.files import atomic_write
from neurofm.io.tensors import read_checkpoint
from neurofm.metrics import balanced_accuracy
from neurofm.models.fleeg import FLEEG
from neurofm.tasks.federated import Federated
from neurofm.tasks.guard import not_finite, some

STATE, MODEL = "client.ckpt", "model.safetensors"


class FederatedClient:
    """Trains one client round by round.

    Args:
        task: Settings, and the networks of all clients as they are at the start; its own is used.
        name: Of the client.
        data: Its own windows alone.
        rounds: In the whole run, over which the learning rate falls.
        folder: For its state, and its network after the last round; a state that is there is taken
            up.
        seed: Of dropout.

    Raises:
        ValueError: No client of this name, or the state of another client.
    """

    def __init__(
        self, task: Federated, name: str, data: BrainData, *, rounds: int, folder: Path, seed: int
    ) -> None:
        self.name, self.data, self.folder = name, data, folder
        self.task, self.model = task, cast(FLEEG, task.model[name])
        self.rounds, self.round_epochs = rounds, task.round_epochs
        data.setup()
        self.loader = data.train_dataloader()
        own = {id(parameter) for parameter in self.model.parameters()}
        groups = [g for g in task.groups() if id(g["params"][0]) in own]
        self.optimizer = torch.optim.AdamW(groups, lr=task.lr, betas=task.betas, eps=task.eps)
        steps = len(self.loader) * self.round_epochs * rounds
        curve = task.curves(task.cosine, steps)[task.model.names.index(name)]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, curve)
        self.generator = torch.Generator().manual_seed(seed).get_state()
        self.finished = 0  # rounds
        self.listed = 0 if data.windows is None else len(data.windows)
        if (folder / STATE).is_file():
            self._take_up(read_checkpoint(folder / STATE))

    def train(self, shared: dict[str, Tensor] | None) -> tuple[dict[str, Tensor], int]:
        """One round.

        Args:
            shared: The mean of the last round; None in the first.

        Returns:
            What the client shares, and how many windows it trained on.

        Raises:
            ValueError: Its loss or its weights are no numbers: it is then as it was before.
        """
        if shared is not None:
            self.model.receive(shared)
        before = deepcopy(self._state())
        try:
            windows = self._epochs()
        except ValueError:
            self._take_up(before)
            raise
        self.finished += 1
        self._save()
        return self.model.shared(), windows

    def _epochs(self) -> int:
        windows = 0
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.generator)
            self.model.train()
            for _ in range(self.round_epochs):
                for batch in self.loader:
                    windows += len(batch)
                    found = self.task.logits(self.name, batch, training=True)
                    loss = F.cross_entropy(found, self._labels(batch))
                    if not bool(loss.detach().isfinite()):
                        raise ValueError(f"client {self.name}: its loss is {float(loss.detach())}.")
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                    self.schedule.step()
            self.generator = torch.get_rng_state()
        bad = not_finite(self.model.state_dict())
        if bad:
            raise ValueError(f"client {self.name}: {some(bad)} hold NaN or infinite values.")
        return windows

    def judge(self, shared: dict[str, Tensor] | None) -> dict[str, float]:
        """Take over the mean, keep the state, and score the validation windows.

        Returns:
            "windows", "loss" and "balanced_accuracy"; the last two only if there are windows.
        """
        if shared is not None:
            self.model.receive(shared)
        self._save()
        if self.finished >= self.rounds:
            save_model(self.model.eval(), self.folder / MODEL)
        split = self.data.split
        if split is None or not split.validate:
            return {"windows": 0.0}
        self.model.eval()
        logits, labels = [], []
        with torch.no_grad():
            for batch in cast(Any, self.data.val_dataloader()):
                logits.append(self.task.logits(self.name, batch, training=False))
                labels.append(self._labels(batch))
        predicted, y = torch.cat(logits), torch.cat(labels)
        return {
            "windows": float(len(y)),
            "loss": float(F.cross_entropy(predicted, y)),
            "balanced_accuracy": float(balanced_accuracy(y.numpy(), predicted.argmax(1).numpy())),
        }

    def _labels(self, batch: Batch) -> Tensor:
        if batch.y is None:
            raise ValueError(f"client {self.name}: windows without labels; set `labels`.")
        return batch.y

    # State

    def _state(self) -> dict[str, Any]:
        return {
            "client": self.name,
            "finished": self.finished,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.schedule.last_epoch,
            "loader": self.loader.epoch,
            "random": self.generator,
        }

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / STATE) as file:
            torch.save(self._state(), file)

    def _take_up(self, state: dict[str, Any]) -> None:
        if state.get("client") != self.name:
            raise ValueError(
                f"{self.folder / STATE}: the state of client {state.get('client')}, not of "
                f"{self.name}. Give every client a folder of its own."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["steps"]
        self.loader.epoch = state["loader"]
        self.generator, self.finished = state["random"], state["finished"]
