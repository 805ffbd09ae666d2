"""Federated: train the networks of several datasets, of which only shared weights meet.

A simulation in one process. An epoch of the training loader is a round: every client takes the
steps of its own windows, then the server averages what clients share and sends it back, and
clients are validated with it. Clients have no parameter in common, so that the order in which
their batches come makes no difference, and one optimizer keeps the moments of each by itself.

A client that fails in mid-round is left out of it (or stops the run): it goes back to how it began
the round, the server averages the others, and it takes part again in the next one. A run that is
killed resumes in mid-round.

Source: McMahan et al. 2017 (FedAvg); Liu et al. 2024 (FLEEG: which layers are shared);
Schirrmeister et al. 2017 (crops).
Axes: batch class.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.cards import configured
from neurofm.metrics import balanced_accuracy
from neurofm.models.fleeg import FLEEGClients
from neurofm.nn.processes import place
from neurofm.tasks.base import Curve, Rate, Task
from neurofm.tasks.guard import not_finite, some

log = logging.getLogger(__name__)
Weighting = Literal["trained", "listed", "equal"]


def federated_mean(
    sent: Sequence[Mapping[str, Tensor]], weights: Sequence[int] | Sequence[float]
) -> dict[str, Tensor]:
    """Weighted mean of what clients sent.

    Args:
        sent: Tensors of each client by name, of equal names and shapes.
        weights: Of each client, such as its number of windows; they need not sum to one.

    Raises:
        ValueError: No client, other names or shapes, weights that are negative or all zero, or
            values that are not finite.
    """
    total = float(sum(weights))
    if not sent or len(sent) != len(weights) or min(weights) < 0 or not total > 0:
        raise ValueError(
            f"federated_mean: {len(sent)} clients with weights {list(weights)}; expected one "
            "weight for each, none negative, not all zero."
        )
    shapes = [{name: tuple(value.shape) for name, value in own.items()} for own in sent]
    for i, own in enumerate(sent):
        if shapes[i] != shapes[0]:
            raise ValueError(
                f"federated_mean: client {i} sent {shapes[i]}, the first one {shapes[0]}."
            )
        bad = [name for name, value in own.items() if not bool(value.isfinite().all())]
        if bad:
            raise ValueError(f"federated_mean: client {i} sent NaN or infinite values in {bad}.")
    mean = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in sent[0].items()}
    for own, weight in zip(sent, weights, strict=True):
        for name, value in own.items():
            mean[name] += value * (weight / total)
    return {name: mean[name].to(value.dtype) for name, value in sent[0].items()}


@configured
class Federated(Task):
    """Predict classes in several datasets, with layers in common.

    Args:
        model: One client for each of the data's datasets, by its name.
        weighting: What a client counts in the average: "trained", the windows it trained on in the
            round; "listed", all windows of its dataset, of all sides, as the original; "equal".
        round_epochs: Local epochs in a round.
        on_failure: What to do when a client fails in mid-round: "continue" with the others, or
            "stop" the run, whose last checkpoint stays.
        client_lr: Learning rates of clients as fractions of `lr`, by name; 1 where not named.
        crops: With windows longer than the networks take: in training they are read at a place that
            is drawn for each batch, otherwise the logits of so many places are averaged. 0 refuses
            longer windows.

    Source of the defaults: the original's AdamW 0.01, weight decay 5e-4, cosine to zero. Biases and
    batch norms take no weight decay here.
    """

    def __init__(
        self,
        model: FLEEGClients,
        *,
        weighting: Weighting = "trained",
        round_epochs: int = 1,
        on_failure: Literal["continue", "stop"] = "continue",
        client_lr: dict[str, float] | None = None,
        crops: int = 0,
        lr: float = 0.01,
        weight_decay: float = 5e-4,
        betas: Sequence[float] = (0.9, 0.999),
        warmup: float = 0.0,
        final_lr: float = 0.0,
    ) -> None:
        super().__init__(
            lr=lr,
            weight_decay=weight_decay,
            betas=betas,
            eps=1e-8,
            warmup=warmup,
            final_lr=final_lr,
        )
        unknown = sorted(set(client_lr or ()) - set(model.names))
        if weighting not in get_args(Weighting) or round_epochs < 1 or crops < 0 or unknown:
            raise ValueError(
                f"Federated: weighting {weighting!r}, round_epochs {round_epochs}, crops {crops}, "
                f"client_lr for {unknown}; expected 'trained', 'listed' or 'equal', at least one "
                f"epoch, 0 or more crops, and clients among {model.names}."
            )
        if on_failure not in ("continue", "stop"):
            raise ValueError(f"Federated: on_failure is {on_failure!r}, not 'continue' or 'stop'.")
        self.model = model
        self.weighting, self.round_epochs = weighting, round_epochs
        self.on_failure, self.client_lr = on_failure, client_lr or {}
        self.crops = crops
        self.failures: dict[str, str] = {}  # of this round: client to what went wrong
        self._trained: dict[str, int] = {}  # windows in this round
        self._listed: dict[str, int] = {}
        self._began: dict[str, dict[str, Tensor]] = {}  # states at the start of the round
        self._number = -1  # of the round that began
        self._owner: list[int] = []
        self._scored: list[Tensor] = []

    # Which windows are whose

    def setup(self, stage: str) -> None:
        """Find out whose recordings are whose."""
        if place()[1] > 1:
            raise ValueError(
                "Federated: clients take turns in one process; run it with trainer.devices: 1."
            )
        data = cast(Any, getattr(self.trainer, "datamodule", None))
        windows = getattr(data, "windows", None)
        if windows is None:
            raise ValueError("Federated: needs a data module with windows of several datasets.")
        names = [windows.table.dataset.names[i] for i in windows.table.dataset.index]
        unknown = sorted(set(names) - set(self.model.names))
        if unknown:
            raise ValueError(
                f"Federated: datasets {unknown} have no client; there are {self.model.names}."
            )
        self._owner = [self.model.names.index(name) for name in names]
        owners = torch.tensor(self._owner)[torch.as_tensor(windows.recording)]
        self._listed = {n: int((owners == i).sum()) for i, n in enumerate(self.model.names)}
        super().setup(stage)

    def _agree(self, stage: str) -> None:
        """Nothing as a whole: every client compares each batch with what it was built for."""

    def _parts(self, batch: Batch) -> dict[str, Batch]:
        """The windows of each client."""
        owner = torch.tensor([self._owner[i] for i in batch.recording.tolist()])
        if bool((owner == owner[0]).all()):
            return {self.model.names[int(owner[0])]: batch}
        found = {}
        for i in owner.unique().tolist():
            chosen = (owner == i).nonzero().flatten().to(batch.x.device)
            found[self.model.names[i]] = batch._map(lambda tensor, c=chosen: tensor[c])
        return found

    def logits(self, name: str, part: Batch, *, training: bool) -> Tensor:
        """Logits, batch x class, of one client; see `crops` for windows longer than it takes."""
        client = self.model[name]
        n, given = client.contract.n_times, part.x.shape[-1]
        if not self.crops or n is None or given <= n:
            return client.logits(part)
        if training:
            starts = [int(torch.randint(given - n + 1, ()))]
        else:
            starts = torch.linspace(0, given - n, self.crops).round().int().tolist()
        found = [client.logits(replace(part, x=part.x[..., at : at + n])) for at in starts]
        return torch.stack(found).mean(0)

    # Training

    def rates(self) -> list[Rate]:
        """Each client at its own rate."""
        return [(self.model[name], self.client_lr.get(name, 1.0)) for name in self.model.names]

    def curves(self, cosine: Callable[[int, int], float], total: int) -> list[Curve]:
        """The full rate from the first step on where there is no warm-up, as in the original."""
        first = 0 if self.warmup else 1
        return [lambda step: cosine(max(step, first), total)] * len(self.rates())

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """Sum of the clients' losses; None if no client of the batch takes part in this round."""
        if self._began and self._number != self.round:
            self.end_round()  # of a checkpoint taken after the last step, before the average
        if not self._began:
            self._begin_round()
        if all(name in self.failures for name in self._parts(batch)):
            return None
        with self._named(batch):
            loss = self.step(batch, "train")
        return loss if loss.requires_grad else None

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Cross-entropy, summed over the clients whose windows these are."""
        if batch.y is None:
            raise ValueError("Federated: the batch has no labels; set `labels` in the data.")
        total = torch.zeros((), device=batch.x.device)
        for name, part in self._parts(batch).items():
            if stage != "train":
                loss = self._score(name, part, stage)
            elif name not in self.failures:
                loss = self._train(name, part)
            else:
                continue
            total = total + loss
        return total

    def _train(self, name: str, part: Batch) -> Tensor:
        y = cast(Tensor, part.y)
        try:
            logits = self.logits(name, part, training=True)
            loss = F.cross_entropy(logits, y)
            if not bool(loss.detach().isfinite()):
                raise ValueError(f"its loss is {float(loss.detach())}")
        except Exception as error:  # whatever a client dies of
            self._fail(name, error)
            return torch.zeros((), device=part.x.device)
        self._trained[name] = self._trained.get(name, 0) + len(part)
        right = (logits.argmax(1) == y).float().mean()
        values = {f"{name}/loss": loss, f"{name}/accuracy": right}
        self.record(values, stage="train", size=len(part), bar=f"{name}/loss")
        return loss

    def _fail(self, name: str, error: Exception) -> None:
        """Leave a client out of this round, as it was at its start; or stop."""
        said = f"Federated: client {name} failed in round {self.round} ({error})"
        if self.on_failure == "stop":
            raise RuntimeError(
                f"{said}. Remove the cause and resume from the last checkpoint, or go on without "
                "it with `on_failure: continue`."
            ) from error
        self.model[name].load_state_dict(self._began[name])
        for parameter in self.model[name].parameters():
            parameter.grad = None
        self.failures[name] = str(error)
        self._trained.pop(name, None)
        if len(self.failures) == len(self.model.names):
            raise RuntimeError(
                f"{said}, and so did all others: {self.failures}. There is nothing to average; "
                "resume from the last checkpoint."
            ) from error
        warnings.warn(f"{said}; the round goes on without it.", stacklevel=2)

    # Rounds

    @property
    def round(self) -> int:
        """Number of the current round, from 0."""
        return self.current_epoch // self.round_epochs

    def _begin_round(self) -> None:
        self._number, self.failures, self._trained = self.round, {}, {}
        self._began = {
            name: {k: v.detach().clone() for k, v in self.model[name].state_dict().items()}
            for name in self.model.names
        }

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Average after the last step of a round, before clients are validated."""
        last = self.trainer.is_last_batch and (self.current_epoch + 1) % self.round_epochs == 0
        if last and self._began:
            self.end_round()

    def end_round(self) -> dict[str, float]:
        """Average what clients share, send it to all, and log who took part.

        Returns:
            Weight of each client that did.
        """
        for name in list(self._trained):
            bad = not_finite(self.model[name].state_dict())
            if bad:
                self._fail(name, ValueError(f"{some(bad)} hold NaN or infinite values"))
        taking = [n for n in self.model.names if self._trained.get(n) and n not in self.failures]
        idle = [n for n in self.model.names if n not in taking and n not in self.failures]
        if idle:
            log.warning("Federated: %s had no window in round %d.", ", ".join(idle), self.round)
        counts = {"trained": self._trained, "listed": self._listed}.get(self.weighting)
        weight = {name: float(counts[name]) if counts else 1.0 for name in taking}
        if self.model[self.model.names[0]].shared_names() and weight:
            mean = federated_mean([self.model[n].shared() for n in weight], list(weight.values()))
            for name in self.model.names:
                self.model[name].receive(mean)
        self.log("train/clients", float(len(taking)), on_step=False, on_epoch=True, batch_size=1)
        self._began = {}
        return weight

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the place in the round too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["round"] = {
            "began": self._began,
            "number": self._number,
            "trained": dict(self._trained),
            "failures": dict(self.failures),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on in mid-round."""
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint.get("round", {})
        self._began, self._number = kept.get("began", {}), kept.get("number", -1)
        self._trained, self.failures = kept.get("trained", {}), kept.get("failures", {})

    # Scores

    def _score(self, name: str, part: Batch, stage: str) -> Tensor:
        logits = self.logits(name, part, training=False)
        loss = F.cross_entropy(logits, cast(Tensor, part.y))
        self.record({f"{name}/loss": loss}, stage=stage, size=len(part))
        self.record({"loss": loss}, stage=stage, size=len(part), bar="loss")
        owner = torch.full_like(part.recording, self.model.names.index(name))
        self._scored.append(torch.stack([owner, logits.argmax(1), cast(Tensor, part.y)], 1))
        return loss

    def _balanced(self, stage: str) -> None:
        if not self._scored:
            return
        scored, self._scored = torch.cat(self._scored).cpu().numpy(), []
        for i, name in enumerate(self.model.names):
            own = scored[scored[:, 0] == i]
            if len(own):
                self.log(
                    f"{stage}/{name}/balanced_accuracy",
                    float(balanced_accuracy(own[:, 2], own[:, 1])),
                )

    def on_validation_epoch_end(self) -> None:
        """Balanced accuracy of each client over its whole validation side."""
        self._balanced("validate")

    def on_test_epoch_end(self) -> None:
        """Balanced accuracy of each client over its whole test side."""
        self._balanced("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits, batch x class, of each window's own client."""
        out: Tensor | None = None
        owner = torch.tensor([self._owner[i] for i in batch.recording.tolist()])
        for name, part in self._parts(batch).items():
            logits = self.logits(name, part, training=False)
            out = logits.new_zeros(len(batch), logits.shape[1]) if out is None else out
            out[owner.to(logits.device) == self.model.names.index(name)] = logits
        return cast(Tensor, out)
