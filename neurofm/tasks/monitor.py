"""Callbacks that look inside a network while it is trained: massive activations, drift, NaN.

In a recipe::

    trainer:
      callbacks:
        - class_path: neurofm.tasks.MassiveActivationMonitor
          init_args: {sites: [model.blocks.0, model.blocks.3]}

Sites are paths below the task, as `neurofm.interpret.record` takes them. What is found is logged
beside the losses and kept in `history`, which draws itself.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from neurofm.interpret.activations import apply_reduction
from neurofm.interpret.monitoring import Drift, History, attention_entropy, massive_activations
from neurofm.interpret.patching import Context, Patched, patched
from neurofm.interpret.places import find, names_of

log = logging.getLogger(__name__)


class _Watcher(Callback, ABC):
    """Reads values at sites in some batches; hooks are there in these batches alone."""

    def __init__(self, sites: Sequence[str], *, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise ValueError(f"{type(self).__name__}: every {every_n_steps} steps; expected 1 up.")
        self.sites = names_of(sites, who=type(self).__name__)
        self.every_n_steps = every_n_steps
        self.history = History("step")
        self._open: Patched | None = None
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fail for a site that does not exist before anything is trained."""
        for name in self.sites:
            find(pl_module, name, who=type(self).__name__)

    @abstractmethod
    def look(self, value: Tensor, context: Context) -> None:
        """What is done with each value."""

    def begin(self, pl_module: LightningModule) -> None:
        """Put the hooks in."""

        def see(value: Tensor, context: Context) -> Tensor:
            with torch.no_grad():
                self.look(value.detach(), context)
            return value

        self.end()
        self._open = patched(pl_module, dict.fromkeys(self.sites, see))
        self._open.__enter__()

    def end(self, *, complete: bool = False) -> None:
        """Take them out.

        Args:
            complete: The batch went through, so every site must have been reached.
        """
        opened, self._open = self._open, None
        if opened is not None:
            kind = None if complete else RuntimeError
            opened.__exit__(kind, None if kind is None else kind(), None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """No hook stays."""
        self.end()


class _StepWatcher(_Watcher):
    """Looks at every so many training steps."""

    @abstractmethod
    def stepped(self, trainer: Trainer, pl_module: LightningModule, *, looked: bool) -> None:
        """What is done after each step."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at this step, if it is its turn."""
        self._step = trainer.global_step
        if self._step % self.every_n_steps == 0:
            self.begin(pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take the hooks out, and hand on what was seen."""
        looked = self._open is not None
        if looked:
            self.end(complete=True)
        self.stepped(trainer, pl_module, looked=looked)


class MassiveActivationMonitor(_StepWatcher):
    """Largest magnitudes over the median at hidden states, and how many are massive.

    Args:
        sites: Whose values are `batch token channel`: the raw residual stream.
        every_n_steps: How often to look.
        abs_min: See `neurofm.interpret.monitoring.massive_activations`.
        ratio_min: The same.
        ratio_alone: The same.
    """

    def __init__(
        self,
        sites: Sequence[str],
        *,
        every_n_steps: int = 100,
        abs_min: float = 100.0,
        ratio_min: float = 1000.0,
        ratio_alone: float = 100.0,
    ) -> None:
        super().__init__(sites, every_n_steps=every_n_steps)
        self.thresholds = {"abs_min": abs_min, "ratio_min": ratio_min, "ratio_alone": ratio_alone}
        self._row: dict[str, float] = {}

    def look(self, value: Tensor, context: Context) -> None:
        """Summarise one layer."""
        if value.ndim < 3 or not value.isfinite().all():
            return  # the loss says so, and NotFiniteMonitor where it began
        mask = context.mask
        shape = value.shape[:-1]
        fits = mask is not None and mask.shape == shape and bool(mask.any(-1).all())
        found = massive_activations(
            value.float().cpu().numpy(),
            mask=mask.cpu().numpy() if fits and mask is not None else None,
            **self.thresholds,
        )
        name = context.site if not context.call else f"{context.site}@{context.call}"
        self._row |= {
            f"{name}/top_ratio": float(found.top_ratio[..., 0].mean()),
            f"{name}/massive": float(found.massive.sum()),
            f"{name}/outliers": float(found.outlier.sum()),
        }

    def stepped(self, trainer: Trainer, pl_module: LightningModule, *, looked: bool) -> None:
        """Log what was seen."""
        if not looked:
            return
        row, self._row = self._row, {}
        self.history.rows.append(row | {"step": float(self._step)})
        pl_module.log_dict({f"massive/{key}": value for key, value in row.items()}, on_step=True)


class NotFiniteMonitor(_StepWatcher):
    """Where NaN and infinite activations begin: counts per site and step.

    On an accelerator the counts stay there until `flush_every` steps, the end, or an error, so that
    no step waits. When a run stops at a loss that is no number, the first site and step are logged.

    Args:
        sites: In the order of the forward pass.
        every_n_steps: How often to look.
        flush_every: Steps between two readings.
    """

    def __init__(
        self, sites: Sequence[str], *, every_n_steps: int = 1, flush_every: int = 50
    ) -> None:
        super().__init__(sites, every_n_steps=every_n_steps)
        self.flush_every = flush_every
        self.totals = {name: (0, 0) for name in self.sites}
        self.first: tuple[int, str] | None = None
        self._pending: list[tuple[int, str, Tensor]] = []

    def look(self, value: Tensor, context: Context) -> None:
        """Count on the device."""
        if value.is_floating_point():
            counts = torch.stack([value.isnan().sum(), value.isinf().sum()])
            self._pending.append((self._step, context.site, counts))

    def stepped(self, trainer: Trainer, pl_module: LightningModule, *, looked: bool) -> None:
        """Read the counts from time to time."""
        if trainer.global_step % self.flush_every == 0:
            self.flush()
            total = {f"not_finite/{k}": float(sum(v)) for k, v in self.totals.items()}
            pl_module.log_dict(total, on_step=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what is left."""
        self.flush()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Say where it began."""
        super().on_exception(trainer, pl_module, exception)
        self.flush()

    def flush(self) -> None:
        """Read the counts; log the first place that was not finite."""
        pending, self._pending = self._pending, []
        known = self.first is not None
        for step, site, counts in pending:
            nan, infinite = (int(n) for n in counts.tolist())
            if nan or infinite:
                self.first = (step, site) if self.first is None else self.first
                before = self.totals[site]
                self.totals[site] = (before[0] + nan, before[1] + infinite)
                row = {f"{site}/nan": nan, f"{site}/infinite": infinite, "step": step}
                self.history.rows.append({key: float(value) for key, value in row.items()})
        if self.first is not None and not known:
            step, site = self.first
            nan, infinite = self.totals[site]
            log.error(
                "activations are not finite from step %d on, first at %r (%d NaN, %d infinite)",
                step,
                site,
                nan,
                infinite,
            )


class DriftMonitor(_Watcher):
    """How layers change between epochs, on the first windows of the validation side.

    Logs alignment (debiased linear CKA) with `epochs_back` epochs earlier, effective rank and share
    of dead units, and entropy of attention.

    Args:
        sites: Layers, `batch token dim` or `batch dim`.
        attention: Sites of attention probabilities, `batch head query key`.
        epochs_back: 1 compares with the epoch before.
        n_windows: So many windows, always the same.
        reduce: "mean_tokens" or "mean_time".
    """

    def __init__(
        self,
        sites: Sequence[str],
        *,
        attention: Sequence[str] = (),
        epochs_back: int = 1,
        n_windows: int = 128,
        reduce: str = "mean_tokens",
    ) -> None:
        super().__init__([*sites, *attention])
        self._drift = Drift(back=epochs_back)
        self.history = self._drift.history
        self.attention, self.n_windows, self.reduce = frozenset(attention), n_windows, reduce
        self._kept: dict[str, list[np.ndarray]] = {}

    def look(self, value: Tensor, context: Context) -> None:
        """Keep one row per window."""
        array = value.float().cpu().numpy()
        if context.site in self.attention:
            array = attention_entropy(array.reshape(len(array), -1, array.shape[-1]))
        else:
            mask = context.mask
            fits = mask is not None and tuple(mask.shape) == array.shape[:2] and array.ndim > 2
            known = mask.cpu().numpy() if fits and mask is not None else None
            array = apply_reduction(array, known, self.reduce)
            array = array.reshape(len(array), -1)
        self._kept.setdefault(context.site, []).append(array)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look until there are enough windows."""
        have = sum(len(part) for part in next(iter(self._kept.values()), []))
        if not trainer.sanity_checking and dataloader_idx == 0 and have < self.n_windows:
            self.begin(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop looking."""
        if self._open is not None:
            self.end(complete=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with earlier epochs."""
        if trainer.sanity_checking:
            return
        joined: dict[str, Any] = {
            name: np.concatenate(parts)[: self.n_windows] for name, parts in self._kept.items()
        }
        self._kept = {}
        entropy = {
            f"{name}/attention_entropy": float(joined.pop(name).mean())
            for name in self.sites
            if name in self.attention and name in joined
        }
        row = self._drift.add(joined)
        self.history.rows[-1] |= entropy
        pl_module.log_dict({f"drift/{key}": value for key, value in (row | entropy).items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without a validation side there is nothing to compare."""
        if not self.history.rows and trainer.check_val_every_n_epoch == 1:
            raise ValueError(
                "DriftMonitor: no validation windows came; give the data a validation side "
                "(`validate: [...]`), whose windows are the same in every epoch."
            )
