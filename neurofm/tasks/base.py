"""Task: what all training tasks share: optimiser, schedule, and checkpoints that resume exactly.

AdamW with a linear warm-up and a cosine decay, stepped per batch. Parameters with one axis (norms,
biases) and those a model lists in `no_decay` take no weight decay.

Several processes take the step of one with all their windows (`nn.processes`) and average the logs.

A task keeps what it was trained on (`Seen`, with what its model had seen before) in its
checkpoints, and says so when it is tested on it.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from neurofm.cards import build, spec_of
from neurofm.data.audit import Leak, find_overlap
from neurofm.data.columns import seen_in
from neurofm.data.loader import BatchLoader
from neurofm.data.response_data import PairLoader
from neurofm.data.rows import Row
from neurofm.io.seen import Seen, union
from neurofm.io.tensors import read_checkpoint, seen_from, seen_tensor
from neurofm.nn.processes import average, gather, place
from neurofm.tasks.agreement import card_of, check_data, described, learned_from
from neurofm.tasks.guard import Guard, not_finite, some, windows_of
from neurofm.tasks.idle import idle_parameters

log = logging.getLogger(__name__)
Rate = tuple[nn.Module | Sequence[nn.Parameter], float]
Curve = Callable[[int], float]
_LOADERS = (BatchLoader, PairLoader)  # that resume anywhere


class Task(lightning.LightningModule):
    """A model plus a reason to train it; subclasses write `step` and, if needed, `rates`.

    Args:
        lr: Peak learning rate.
        weight_decay: Of AdamW.
        betas: Of AdamW.
        eps: Of AdamW.
        warmup: Fraction of all steps spent rising from a tenth of the peak.
        final_lr: Learning rate at the end, as a fraction of the peak.
    """

    best = ("validate/loss", "min")  # by which the command line keeps the best epoch

    def __init__(
        self,
        *,
        lr: float,
        weight_decay: float = 0.05,
        betas: Sequence[float] = (0.9, 0.95),
        eps: float = 1e-6,
        warmup: float = 0.1,
        final_lr: float = 0.1,
    ) -> None:
        super().__init__()
        self.lr, self.weight_decay, self.eps = lr, weight_decay, eps
        self.warmup, self.final_lr, self.betas = warmup, final_lr, (betas[0], betas[1])
        self.seen = Seen()
        self._seen_tensor: Tensor | None = None
        self._resume: dict[str, Any] = {}
        self._idle: list[Tensor] = []
        self._guard = Guard(self._stop)

    def setup(self, stage: str) -> None:
        """Compare the data with what the model expects, and bring it into training mode."""
        self._agree(stage)
        if stage == "fit":
            self.train()
            leaks = self.overlap()
            if leaks:
                warnings.warn(
                    f"{type(self).__name__}: of the test side of these data, {leaks[0].count} "
                    f"recordings were seen in an earlier training of the model, such as "
                    f"{leaks[0].example}. A test score on them says little. {leaks[0].remedy}",
                    stacklevel=2,
                )
            if place()[1] > 1:
                self.rest()

    def rest(self) -> None:
        """Freeze for this run what the task does not train, see `idle_parameters`."""
        source = self.trainer.datamodule if hasattr(self.trainer, "datamodule") else None
        if source is None:
            return
        names = idle_parameters(self, source.train_dataloader())
        parameters = dict(self.named_parameters())
        self._idle = [parameters[name].requires_grad_(False) for name in names]
        if names:
            log.info("%s does not train %s", type(self).__name__, ", ".join(names))

    def teardown(self, stage: str) -> None:
        """Thaw what only this run left alone."""
        for parameter in self._idle:
            parameter.requires_grad_(True)
        self._idle = []

    @property
    def _subject(self) -> nn.Module | None:
        """The model, or the tokenizer that is trained by itself."""
        return getattr(self, "model", None) or getattr(self, "tokenizer", None)

    def _agree(self, stage: str) -> None:
        """Stop before a run on data that the model was not made for."""
        found = described(getattr(self.trainer, "datamodule", None), stage)
        if found is not None and self._subject is not None:
            check_data(self._subject, found)

    def step(self, batch: Any, stage: str) -> Tensor:
        """Loss of one batch; logs what is worth a curve as `stage/name`."""
        raise TypeError(f"{type(self).__name__} must define step(batch, stage).")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of a training batch.

        Raises:
            ValueError: It is NaN or infinite, here or in another process.
        """
        with self._named(batch):
            loss = self.step(batch, "train")
        self._guard.watch(loss, batch, self.global_step)
        return loss

    @contextmanager
    def _named(self, batch: Any) -> Iterator[None]:
        """Say which windows hold NaN or infinite samples if a model refuses them."""
        try:
            yield
        except ValueError as error:
            damaged = windows_of(batch, getattr(self.trainer, "datamodule", None), damaged=True)
            if not damaged:
                raise
            raise ValueError(f"{error} The windows: {some(damaged)}.") from error

    def _stop(self, step: int, batch: Any) -> None:
        data = getattr(self.trainer, "datamodule", None)
        begin = f"{type(self).__name__}: the loss of step {step} is NaN or infinite"
        damaged = windows_of(batch, data, damaged=True)
        if damaged:
            raise ValueError(
                f"{begin}, and so are samples of {some(damaged)}. Leave these recordings out, or "
                "interpolate their channels (`neurofm check` names them)."
            )
        raise ValueError(
            f"{begin}, but the samples are not ({some(windows_of(batch, data, damaged=False))}): "
            f"the training diverges. Resume from the last checkpoint with a smaller lr than "
            f"{self.lr:g} or with trainer.gradient_clip_val."
        )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the scores of a validation batch."""
        with self._same_draws(batch_idx), self._named(batch):
            self.step(batch, "validate")

    def overlap(self) -> list[Leak]:
        """Recordings of the data module's test side that the model was trained on before."""
        found = self._rows("test")
        return [] if found is None else find_overlap(Seen.of(self), *found[:2], by=found[2])

    def _rows(self, side: str) -> tuple[Sequence[Row], Sequence[int], str] | None:
        """All windows of the data, those of one side, and what the split separates."""
        data = getattr(self.trainer, "datamodule", None)
        split = getattr(data, "split", None)
        if data is not None and split is not None:
            return data.rows, getattr(split, side), split.by
        loader = self.trainer.train_dataloader if side == "train" else None
        if isinstance(loader, BatchLoader):
            return loader.windows.rows, loader.indices.tolist(), "recording"
        return None

    def _remember(self) -> None:
        """From now on the parts that learn have seen the windows of the training side."""
        found = self._rows("train")
        if found is None:
            return
        self.seen = union([Seen.of(self), seen_in(*found[:2])])
        self._seen_tensor = seen_tensor(self.seen)
        for part in self.children():
            if any(parameter.requires_grad for parameter in part.parameters()):
                part.seen = self.seen  # type: ignore[assignment]
                data = described(getattr(self.trainer, "datamodule", None), "train")
                if part is self._subject and data is not None:
                    learned_from(part, data)

    def on_test_start(self) -> None:
        """Say if the test side was seen in training."""
        self._label("evaluated on")

    def on_predict_start(self) -> None:
        """Say if the test side was seen in training."""
        self._label("predicts for")

    def _label(self, what: str) -> None:
        for leak in self.overlap():
            warnings.warn(
                f"{type(self).__name__} {what} data seen in training: {leak}.", stacklevel=3
            )

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the scores of a test batch."""
        with self._same_draws(batch_idx), self._named(batch):
            self.step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Tasks that predict nothing say so."""
        raise ValueError(f"{type(self).__name__} predicts no labels; use a recipe of Decode.")

    @contextmanager
    def _same_draws(self, batch_idx: int) -> Iterator[None]:
        """The same masks and noise for a batch every time, so that epochs can be compared."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(batch_idx)
            yield

    def on_train_epoch_end(self) -> None:
        """Let a checkpoint of this moment continue with the next epoch; call it in subclasses."""
        loader = self.trainer.train_dataloader
        if isinstance(loader, _LOADERS):
            loader.finish()

    def record(self, values: dict[str, Tensor], *, stage: str, size: int, bar: str = "") -> None:
        """Log scalars under `stage/`; the one called `bar` also shows on the progress bar."""
        numbers = torch.stack([value.detach().float() for value in values.values()])
        if stage == "train" and place()[1] > 1:
            numbers = average(numbers)
        for name, value in zip(values, numbers.unbind(), strict=True):
            self.log(
                f"{stage}/{name}",
                value,
                on_step=stage == "train",
                on_epoch=True,
                prog_bar=name == bar,
                batch_size=size,
                sync_dist=stage != "train",
            )

    def rates(self) -> list[Rate]:
        """What learns, and the factor on its learning rate; by default everything at 1."""
        return [(self, 1.0)]

    def curves(self, cosine: Callable[[int, int], float], total: int) -> list[Curve]:
        """Factor at each step, for each of `rates`; `cosine(step, steps)` is that of one run."""
        return [lambda step: cosine(step, total)] * len(self.rates())

    def cosine(self, step: int, total: int) -> float:
        """Factor on the learning rate at a step of a run of `total` steps."""
        warmup = max(int(self.warmup * total), 1)
        if step < warmup:
            return 0.1 + 0.9 * step / warmup
        done = min((step - warmup) / max(total - warmup, 1), 1.0)
        return self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * done))

    def groups(self) -> Iterator[dict[str, Any]]:
        """Parameters for the optimizer, by rate and weight decay."""
        seen: set[int] = set()
        idle = {id(p) for p in self._idle}  # in the optimizer all the same, as in one process
        skip = {id(p) for m in self.modules() for p in getattr(m, "no_decay", list)()}
        for number, (part, factor) in enumerate(self.rates()):
            every = part.parameters() if isinstance(part, nn.Module) else part
            fresh = [p for p in every if (p.requires_grad or id(p) in idle) and id(p) not in seen]
            seen |= {id(p) for p in fresh}
            for decays in (True, False):
                chosen = [p for p in fresh if (p.ndim > 1 and id(p) not in skip) == decays]
                if chosen:
                    decay = self.weight_decay if decays else 0.0
                    rate = {"lr": self.lr * factor, "weight_decay": decay, "rate": number}
                    yield {"params": chosen, **rate}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay over the whole run."""
        # One pass over a parameter and its state. Lightning cannot clip for it in mixed precision.
        mixed = str(self.trainer.precision).endswith("-mixed")
        fused = self.device.type in ("cpu", "cuda") and not (
            mixed and self.trainer.gradient_clip_val
        )
        groups = list(self.groups())
        optimizer = torch.optim.AdamW(
            groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused
        )
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError(
                f"{type(self).__name__}: the learning rate follows the length of the run, and this "
                "one has no end. Set trainer.max_epochs or trainer.max_steps."
            )

        curves = self.curves(self.cosine, max(int(steps), 1))
        factors = [curves[group["rate"]] for group in groups]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what rebuilds the task, the state of the random numbers, and the place in the epoch.

        Plain data only. Lightning stores the state of the loader too, but does not restore it when
        the loader was asked for its length before, which our learning rate does. All processes
        must come here: each has random numbers of its own.

        Raises:
            ValueError: Weights or the last loss are NaN or infinite. The file is not written, so
                that the checkpoint before stays.
        """
        self._guard.close()
        bad = not_finite(checkpoint["state_dict"])
        if bad:
            raise ValueError(
                f"{type(self).__name__}: {some(bad)} hold NaN or infinite values at step "
                f"{self.global_step}; the earlier checkpoint is kept. Resume from it with a "
                f"smaller lr than {self.lr:g} or with trainer.gradient_clip_val."
            )
        spec = spec_of(self)
        checkpoint |= {"task": spec["class_path"], "hyper_parameters": spec["init_args"]}
        if self._subject is not None:
            checkpoint["card"] = card_of(self._subject)
        if self._seen_tensor is None and len(Seen.of(self)):
            self._seen_tensor = seen_tensor(Seen.of(self))
        if self._seen_tensor is not None:
            checkpoint["seen"] = self._seen_tensor
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        # process byte
        gathered = {k: gather(state.to(self.device)).cpu() for k, state in random.items()}
        checkpoint["random"] = gathered
        loader = self.trainer.train_dataloader
        if isinstance(loader, _LOADERS):
            checkpoint["loader"] = loader.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another task before its weights are tried."""
        task, mine = checkpoint.get("task"), spec_of(self)["class_path"]
        if task != mine:
            raise ValueError(
                f"This checkpoint was written by {task}, not by {mine}. To start from its model, "
                "name it in the recipe by `neurofm.load_model`; `--ckpt_path` resumes one task."
            )
        self.seen = union([self.seen, seen_from(checkpoint.get("seen"), where="The checkpoint")])
        if self.trainer.state.fn == "fit":
            self._resume = {k: checkpoint[k] for k in ("random", "loader") if k in checkpoint}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, *, trusted: tuple[str, ...] = ("neurofm",)
    ) -> Any:
        """Rebuild task, model and readout from a checkpoint, without pickle.

        Args:
            trusted: Packages whose classes the file may name.

        Raises:
            ValueError: Damaged, or not a checkpoint of this task.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        class_path = checkpoint.get("task")
        if class_path is None:
            raise ValueError(f"{checkpoint_path}: not a checkpoint of one of neurofm's tasks.")
        spec = {"class_path": class_path, "init_args": checkpoint["hyper_parameters"]}
        task = build(spec, trusted=trusted, written=True)
        if not isinstance(task, cls):
            raise ValueError(f"{checkpoint_path}: holds a {class_path}, not a {cls.__name__}.")
        task.load_state_dict(checkpoint["state_dict"])
        task.seen = seen_from(checkpoint.get("seen"), where=str(checkpoint_path))
        return task.eval()

    def on_train_start(self) -> None:
        """Remember the training side; when resuming, go on at the next batch and random number."""
        self._remember()
        resume, self._resume = self._resume, {}
        if not resume:
            return
        loader = self.trainer.train_dataloader
        if isinstance(loader, _LOADERS) and "loader" in resume:
            loader.load_state_dict(resume["loader"])
        random, rank = resume["random"], place()[0]
        # A process more than there were goes on with the first one's numbers. A copy: torch reads
        # a state from the start of its memory.
        own = {k: v[rank if rank < len(v) else 0].cpu().clone() for k, v in random.items()}
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)

    def on_train_end(self) -> None:
        """Fail for the last step too."""
        self._guard.close()
