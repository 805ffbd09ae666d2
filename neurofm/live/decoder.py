"""Decoders for streams: a fine-tuned run, or a file exported from one.

Both say what they are (`Facts`) and turn windows into probabilities. A run is a checkpoint of
`Decode` with its recipe beside it; model, readout and expectations come from the checkpoint,
preprocessing, windows and labels from the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from neurofm import cards
from neurofm.batch import Batch, BrainModel
from neurofm.data.steps.preprocess import build_steps, default_steps
from neurofm.data.steps.step import Step
from neurofm.io.checkpoint import load_model, newest_checkpoint, sha256
from neurofm.io.expectations import contract_of
from neurofm.io.tensors import check_tensors, load_state, read_checkpoint
from neurofm.live.windows import batch_of
from neurofm.shapes import Float
from neurofm.types import Sensors


@dataclass(frozen=True)
class Facts:
    """What a decoder was trained for.

    Args:
        name: Of the run.
        labels: Of the classes, in order.
        datasets: Names of the cards it was trained on.
        preprocess: Steps as plain data; those of the recipe.
        line_freq: Hz, where it was recorded.
        window_s: Seconds.
        offset_s: Start of a window after the onset of its event, seconds.
        channels: Names that must come out of the preprocessing, in order; none if any may.
        amplitude: Median amplitude of a channel in training, in the unit of the windows.
        digest: SHA-256 of the checkpoint.
        expects: The model's contract.
    """

    name: str
    labels: tuple[str, ...]
    datasets: tuple[str, ...]
    preprocess: tuple[dict[str, Any], ...]
    line_freq: float | None
    window_s: float
    offset_s: float = 0.0
    channels: tuple[str, ...] = ()
    amplitude: float = 1.0
    digest: str = ""
    expects: dict[str, Any] = field(default_factory=dict)

    def steps(self) -> list[Step]:
        """The preprocessing."""
        return build_steps(list(self.preprocess), line_freq=self.line_freq)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, given: Mapping[str, Any], *, where: str) -> Facts:
        """What `plain` wrote.

        Raises:
            ValueError: A field is missing or unknown.
        """
        lists = {"labels", "datasets", "preprocess", "channels"}
        try:
            arguments: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in given.items()}
            return cls(**arguments)
        except TypeError as error:
            raise ValueError(f"{where}: not the description of a decoder ({error}).") from error


@runtime_checkable
class LiveDecoder(Protocol):
    """Windows to probabilities."""

    facts: Facts

    def probabilities(
        self,
        x: Float[np.ndarray, "window channel time"],
        sensors: Sensors,
        *,
        sfreq: float,
        unit: str,
        band: tuple[float, float] | None,
    ) -> Float[np.ndarray, "window class"]:
        """Of each class."""
        ...


class RunDecoder(nn.Module):
    """Model and readout of a run."""

    def __init__(self, model: nn.Module, readout: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.model, self.readout, self.facts = model, readout, facts
        self.eval().requires_grad_(False)

    def forward(self, batch: Batch) -> Tensor:
        """Probabilities, batch x class."""
        return self.readout(cast(BrainModel, self.model).encode(batch)).float().softmax(1)

    def probabilities(
        self,
        x: Float[np.ndarray, "window channel time"],
        sensors: Sensors,
        *,
        sfreq: float,
        unit: str,
        band: tuple[float, float] | None,
    ) -> Float[np.ndarray, "window class"]:
        """Of each class.

        Raises:
            ValueError: The windows are not what the model was trained for.
        """
        batch = batch_of(x, sensors, sfreq=sfreq, unit=unit, band=band)
        with torch.inference_mode():
            return self(batch).numpy()


def load_decoder(name: str | Path, *, dataset: str | None = None) -> RunDecoder:
    """A fine-tuned run.

    Args:
        name: Folder of a run, its checkpoint, or the name of a recipe that was run here.
        dataset: Which of several data sets' preprocessing is used.

    Raises:
        FileNotFoundError: No run, no checkpoint or no recipe beside it.
        ValueError: Not a run of `Decode`, or an option does not fit.
    """
    path = Path(name)
    if not path.exists() and (Path("runs") / path.stem).is_dir():
        path = Path("runs") / path.stem
    if path.suffix == ".safetensors":
        raise ValueError(
            f"{name}: holds a model without a readout, which decodes nothing. Name the folder or "
            "the checkpoint of a run of `Decode`."
        )
    if not path.exists():
        raise FileNotFoundError(
            f"{name}: no such run. Train one first (`neurofm fit --config RECIPE`) and name its "
            "folder below runs/."
        )
    file = newest_checkpoint(path) if path.is_dir() else path
    checkpoint = read_checkpoint(file)
    parameters = checkpoint.get("hyper_parameters")
    if not isinstance(parameters, dict) or not {"model", "n_outputs"} <= set(parameters):
        task = checkpoint.get("task", "no task of neurofm")
        raise ValueError(f"{file}: written by {task}; only runs of Decode can be streamed.")
    model = cast(nn.Module, load_model(file))
    spec = parameters.get("readout") or {
        "class_path": "neurofm.readouts.PooledLinear",
        "init_args": {"dim": cast(Any, model).dim, "n_outputs": parameters["n_outputs"]},
    }
    readout: nn.Module = cards.build(spec, written=True)
    state = check_tensors(checkpoint["state_dict"], where=str(file))
    mine = {k.removeprefix("readout."): v for k, v in state.items() if k.startswith("readout.")}
    load_state(readout, mine, where=f"{file}: readout")
    facts = _facts(file, model, dataset)
    if len(facts.labels) != parameters["n_outputs"]:
        raise ValueError(
            f"{file}: {parameters['n_outputs']} classes, but its recipe has the labels "
            f"{list(facts.labels)}. The recipe beside it is another run's."
        )
    return RunDecoder(model, readout, facts)


def _facts(file: Path, model: nn.Module, dataset: str | None) -> Facts:
    config = next((p / "config.yaml" for p in file.parents if (p / "config.yaml").is_file()), None)
    if config is None:
        raise FileNotFoundError(
            f"{file}: there is no config.yaml above it, which says how its data were prepared. "
            "Keep the checkpoint in the folder of its run."
        )
    data = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("data") or {}
    data = data.get("init_args", data)
    names = [cards.path("datasets", name).stem for name in data.get("datasets") or ()]
    if not names or not data.get("labels"):
        raise ValueError(f"{config}: names no datasets or no labels, which a decoder needs.")
    chosen = dataset or names[0]
    if chosen not in names:
        raise ValueError(f"{config}: dataset {chosen!r} is not among {', '.join(names)}.")
    card = cards.read("datasets", data["datasets"][names.index(chosen)])
    specs = data.get("preprocess")
    if isinstance(specs, dict):
        specs = specs.get(chosen)
    line_freq = card.get("line_freq")
    steps = build_steps(
        default_steps(card.get("modality")) if specs is None else specs, line_freq=line_freq
    )
    expects = contract_of(model).expects()
    return Facts(
        name=config.parent.parent.name if config.parent.name.startswith("version") else file.stem,
        labels=tuple(data["labels"]),
        datasets=tuple(names),
        preprocess=tuple(cast(Sequence[dict[str, Any]], _plain(steps))),
        line_freq=None if line_freq is None else float(line_freq),
        window_s=float(data.get("window_s", 4.0)),
        offset_s=float(data.get("offset_s") or 0.0),
        channels=tuple(expects.get("channels", ())),
        amplitude=_amplitude(model),
        digest=sha256(file),
        expects=expects,
    )


def _amplitude(model: nn.Module) -> float:
    known: Mapping[str, Any] = getattr(model, "_amplitudes", None) or {}
    return next((float(values["median"]) for values in known.values()), 1.0)


def _plain(steps: Sequence[Step]) -> list[Any]:
    return [cards.spec_of(step) for step in steps]
