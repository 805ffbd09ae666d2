"""Networks of a suite: pretrained, random or from scratch; read by a probe or trained on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from torch import nn

from neurofm import cards
from neurofm.batch import Batch, BrainModel
from neurofm.cli.benchmark.training import pretrain, stage_recipes
from neurofm.cli.benchmark.windows import Windows, local, used_rows
from neurofm.data import Split
from neurofm.evaluate.fold import refuse_seen_people, take
from neurofm.evaluate.nested import with_values
from neurofm.evaluate.probing import LinearProbe
from neurofm.evaluate.suites import Cell, Suite, digest, schedule
from neurofm.io import load_model
from neurofm.io.seen import Seen
from neurofm.tasks import Decode
from neurofm.tasks.in_memory import fit_windows
from neurofm.tasks.token_cache import has_frozen_tokenizer

_CHUNK = 32  # windows encoded at once
_KEPT = 6  # pretrained models whose features of a data set are in the memory of a process
_features: OrderedDict[str, np.ndarray] = OrderedDict()


class Network:
    """A model on the windows of one fold.

    Args:
        method: As in the suite, with what the data set changes of it.
        cell: Any of those that share fold, weights and seed.
        work: Folder of pretrained weights.
    """

    def __init__(
        self, suite: Suite, method: Mapping[str, Any], windows: Windows, cell: Cell, work: Path
    ) -> None:
        self.method, self.windows = method, windows
        self.pretraining: dict[str, Any] = {}
        whole = windows.folds(suite, cell.protocol)[cell.fold]
        self.used = used_rows([whole])
        self.rows = [windows.rows[i] for i in self.used]
        self.whole = local(whole, self.used)
        self.file: Path | None = None
        if cell.weights == "pretrained":
            stages = stage_recipes(
                method,
                dataset=suite.datasets[cell.dataset]["data"]["datasets"][0],
                people=suite.others(cell.dataset, windows.rows, whole),
                seed=cell.seed,
            )
            self.file, self.pretraining = pretrain(stages, work, seed=cell.seed)
            self.model = cast(nn.Module, load_model(self.file))
        else:
            lightning.seed_everything(cell.seed, verbose=False)
            self.model = cast(nn.Module, cards.build(method["model"])).eval()
        self.seen = Seen.of(self.model)
        if len(self.seen):
            tested = [windows.rows[i] for i in whole.test]
            refuse_seen_people(tested, self.seen, name=cell.method)

    @cached_property
    def batch(self) -> Batch:
        """The windows, with their tokens if those do not change in training."""
        batch = take(self.windows.batch, self.used)
        # An untrained code book starts from the first batch it meets: from training windows.
        train = list(self.whole.train[:_CHUNK])
        with torch.no_grad():
            cast(BrainModel, self.model).encode(take(batch, train))
            if not has_frozen_tokenizer(self.model):
                return batch
            parts = [cast(Any, self.model).tokenize(take(batch, part)) for part in _parts(batch)]
        tokens = type(parts[0])(
            **{
                key: None
                if getattr(parts[0], key) is None
                else torch.cat([getattr(part, key) for part in parts])
                for key in ("values", "mask", "channel", "time", "codes")
            }
        )
        return replace(batch, tokens=tokens)

    @cached_property
    def features(self) -> np.ndarray:
        """What the readout reads, of the windows of the fold."""
        if self.file is None:
            features = self._read(self.batch)
        else:  # folds share what a pretrained model says of a window
            key = digest([str(self.file), self.windows.dataset, self.method])
            if key not in _features:
                _features[key] = self._read(self.windows.batch)
            _features.move_to_end(key)
            while len(_features) > _KEPT:
                _features.popitem(last=False)
            features = _features[key][self.used]
        if not self.method.get("standardize_features", False):
            return features
        return standardized(features, np.array([row.recording for row in self.rows]))

    def _read(self, batch: Batch) -> np.ndarray:
        readout = cards.build(self.method["readout"])
        with torch.no_grad():
            parts = [
                readout.features(cast(BrainModel, self.model).encode(take(batch, part)))
                for part in _parts(batch)
            ]
        return torch.cat(parts).double().numpy()

    def made(self, cell: Cell, values: Mapping[str, Any]) -> Any:
        """An unfitted estimator.

        Args:
            values: Chosen by nested validation, at paths in the method.
        """
        if cell.reading == "linear probe":
            return LinearProbe(seed=cell.seed)
        spec = with_values(self.method, values)
        how = schedule(spec["finetune"], cell.weights)
        readout = how.get("readout", spec["readout"])
        model = self.model
        if spec["model"] != self.method["model"]:
            if self.batch.tokens is not None or cell.weights == "pretrained":
                raise ValueError(
                    f"{cell.method}: `choose` changes the model ({list(values)}), which has "
                    "trained weights or a frozen tokenizer. Choose `finetune` or `readout` values."
                )
            lightning.seed_everything(cell.seed, verbose=False)
            model = cast(nn.Module, cards.build(spec["model"])).eval()
        return FineTuned(model, readout, how, seed=cell.seed)

    def inputs(self, cell: Cell) -> Any:
        """What the estimator of a cell is given."""
        return self.features if cell.reading == "linear probe" else self.batch

    def local(self, split: Split) -> Split:
        """A split by position among the windows of this fold."""
        return local(split, self.used)


def standardized(features: np.ndarray, recording: np.ndarray) -> np.ndarray:
    """Features with mean 0 and deviation 1 over the windows of each recording, labels unused.

    What Euclidean alignment does to signals, done to features: people and sessions come to lie
    on top of each other.
    """
    result = np.empty_like(features)
    for name in np.unique(recording):
        own = recording == name
        deviation = features[own].std(0)
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
        result[own] = (features[own] - features[own].mean(0)) * scale
    return result


def _parts(batch: Batch) -> list[list[int]]:
    order = list(range(len(batch)))
    return [order[i : i + _CHUNK] for i in range(0, len(order), _CHUNK)]


class FineTuned:
    """A copy of a model, trained with a readout.

    Args:
        model: Is not changed.
        readout: As `class_path`/`init_args`.
        how: `task`: arguments of `Decode`, or `class_path`/`init_args` of another task;
            `batch_size`; `steps`, the same for any number of windows, or `epochs`; `trainer`:
            further arguments.
            With `validate`, a share of the training side, training ends where the loss of these
            windows is least (`patience` epochs without a lower one end it early).
        seed: Of readout, dropout, order and held-out people.
    """

    def __init__(
        self, model: nn.Module, readout: Mapping[str, Any], how: Mapping[str, Any], *, seed: int
    ) -> None:
        self.model, self.readout, self.how, self.seed = model, readout, how, seed
        self.validate = float(how.get("validate", 0.0))
        self.epochs: int | None = None

    def fit(self, x: Batch, y: np.ndarray, *, held: Sequence[int] = ()) -> FineTuned:
        """Train on these windows.

        Args:
            held: Positions of those that only end the training.
        """
        lightning.seed_everything(self.seed, verbose=False)
        self.task = self._task()
        self.classes_ = np.arange(self.task.n_outputs)
        batch = replace(x, y=torch.from_numpy(y).long())
        rest = sorted(set(range(len(y))) - set(held))
        self.epochs = fit_windows(
            self.task,
            take(batch, rest) if len(held) else batch,
            steps=self.how.get("steps"),
            epochs=self.how.get("epochs"),
            batch_size=self.how["batch_size"],
            seed=self.seed,
            held=take(batch, list(held)) if len(held) else None,
            patience=self.how.get("patience"),
            trainer=self.how.get("trainer"),
        )
        return self

    def _task(self) -> Decode:
        readout = cards.build(dict(self.readout))
        spec = self.how.get("task", {})
        made = cards.load_class(spec["class_path"]) if "class_path" in spec else Decode
        own = {"model": deepcopy(self.model), "readout": readout, "n_outputs": readout.n_outputs}
        if made is Decode:
            given = {name: cards.build(value) for name, value in spec.items()}  # `adapt`
            return Decode(**own, cache_tokens=False, **given)
        return cards.build({**spec, "init_args": {**spec.get("init_args", {}), **own}})

    @property
    def parameters(self) -> int:
        """Numbers of model and readout."""
        return sum(parameter.numel() for parameter in self.task.parameters())

    def predict_proba(self, x: Batch) -> np.ndarray:
        """Probability of each class."""
        with torch.no_grad():
            logits = torch.cat([self.task(take(x, part)) for part in _parts(x)])
        return logits.double().softmax(1).numpy()
