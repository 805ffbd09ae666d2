"""Write a decoder as one file that needs nothing of neurofm to run.

The geometry of the sensors becomes constant, so that the input is a plain tensor. Every file is
compared with the decoder before it gets its name.

Axes: batch channel time.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from neurofm.batch import Batch
from neurofm.compat import optional
from neurofm.io.model_card import version
from neurofm.live.decoder import RunDecoder
from neurofm.live.exported import (
    CHECKSUM,
    HEADER,
    NO_SUM,
    SUFFIXES,
    load_exported,
    probe,
    sealed,
)
from neurofm.live.plain_operations import Decisions, PlainOperations
from neurofm.live.processing import Processing
from neurofm.live.windows import batch_of
from neurofm.shapes import Float
from neurofm.types import Signal

Format = Literal["torchscript", "onnx", "torch"]
FORMATS = tuple(SUFFIXES)
_OPSET = 18


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        difference: Largest difference of a probability from the decoder's.
        spread: How far the probabilities of the windows that were compared are apart.
        any_batch: Takes any number of windows at once.
    """

    path: Path
    difference: float
    spread: float
    any_batch: bool


class FixedInput(nn.Module):
    """A decoder whose sensors are constants."""

    def __init__(self, decoder: RunDecoder, example: Batch) -> None:
        super().__init__()
        self.decoder = copy.deepcopy(decoder)
        for module in list(self.decoder.modules()):
            module._forward_pre_hooks.clear()  # batches are compared with contracts there
            if is_parametrized(module):
                _without_parametrizations(module)
        self.example = example
        self.answers: dict[str, list[Any]] = {}
        for name in ("channel_mask", "kind", "position", "orientation", "has_position"):
            self.register_buffer(name, getattr(example, name)[:1].clone())
        for name in ("onset", "subject", "recording"):
            self.register_buffer(name, getattr(example, name)[:1].clone())

    def _batch(self, x: Tensor) -> Batch:
        n = x.shape[0]
        found = {
            name: value.expand(n, *value.shape[1:])
            for name, value in self.named_buffers(recurse=False)
        }
        example = self.example
        return Batch(
            x=x,
            sfreq=example.sfreq,
            unit=example.unit,
            names=example.names,
            band=example.band,
            **cast(Any, found),
        )

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch class"]:
        """Probabilities."""
        with Decisions(self.answers, replay=True), PlainOperations():
            return self.decoder(self._batch(x))

    def decide(self, x: Tensor) -> None:
        """Make the decisions that depend on data, for good."""
        answers: dict[str, list[Any]] = {}
        with Decisions(answers, replay=False), PlainOperations(), torch.no_grad():
            self.decoder(self._batch(x))
        self.answers = answers


def _without_parametrizations(module: nn.Module) -> None:
    """Parameters as they come out. Not by torch, which changes a class that copies share."""
    for name in list(cast(nn.ModuleDict, module.parametrizations)):
        value = getattr(module, name).detach()
        module._parameters[name] = nn.Parameter(value, requires_grad=False)
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]


def export_decoder(
    decoder: RunDecoder,
    path: Path | str,
    *,
    format: Format,
    head: Signal,
    tolerance: float = 1e-4,
) -> Export:
    """Write a decoder, all or nothing.

    Args:
        path: Ends in `.pt` (torchscript), `.pt2` (torch) or `.onnx`.
        head: A recording like those it will see: channels and rate.
        tolerance: Largest difference of a probability from the decoder's own.

    Raises:
        ValueError: The model cannot be written in this format, or the file differs from it.
        ImportError: ONNX without the extra `export`.
    """
    path = Path(path)
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"{path}: a {format} file ends in {SUFFIXES[format]}.")
    if format == "onnx":
        optional("onnx")
        optional("onnxruntime")
    processing = Processing(decoder.facts.steps(), head, decoder.facts.channels)
    n = round(decoder.facts.window_s * processing.sfreq)
    x = probe(len(processing.head.sensors), n, decoder.facts.amplitude)
    example = batch_of(
        x,
        processing.head.sensors,
        sfreq=processing.sfreq,
        unit=processing.unit,
        band=processing.band,
    )
    with torch.inference_mode():
        expected = decoder(example).numpy()
    fixed = FixedInput(decoder, example).eval()
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    try:
        for any_batch, write in itertools.product((True, False), _WRITE[format]):
            header = _header(decoder, processing, n, any_batch, expected[0].tolist())
            given = torch.from_numpy(x[: 2 if any_batch else 1])
            try:
                with warnings.catch_warnings(), torch.no_grad():
                    warnings.simplefilter("ignore")
                    fixed.decide(given)
                    write(fixed, given, partial, json.dumps(header), any_batch)
                difference = float(
                    np.abs(load_exported(partial, checked=False)(x) - expected).max()
                )
            except Exception as error:  # exporters raise whatever they meet
                reasons.append(f"{type(error).__name__}: {error}".splitlines()[0][:300])
                continue
            if difference <= tolerance:
                partial.replace(path)
                return Export(path, difference, float(np.ptp(expected, axis=0).max()), any_batch)
            reasons.append(f"its probabilities differ by up to {difference:.2g}")
    finally:
        for left in path.parent.glob(f"{partial.name}*"):
            left.unlink()
    name = type(decoder.model).__name__
    raise ValueError(
        f"{name} cannot be exported as {format}: {reasons[-1]} (accepted: {tolerance:g}). Try "
        f"another of {', '.join(FORMATS)}."
    )


def _header(
    decoder: RunDecoder, processing: Processing, n: int, any_batch: bool, answer: list[float]
) -> dict[str, Any]:
    return {
        "facts": decoder.facts.plain(),
        "input": {
            "channels": list(processing.head.sensors.names),
            "sfreq": processing.sfreq,
            "n_times": n,
            "unit": processing.unit,
            "band": None if processing.band is None else list(processing.band),
            "any_batch": any_batch,
        },
        "output": list(decoder.facts.labels),
        "answer": answer,  # to the first window of `probe`
        "class_path": f"{type(decoder.model).__module__}.{type(decoder.model).__qualname__}",
        "versions": {name: version(name) for name in ("neurofm", "torch")},
    }


def _torchscript(fixed: FixedInput, x: Tensor, path: Path, header: str, any_batch: bool) -> None:
    # A function, not the module: attributes of a module are read, and some of them raise.
    traced = torch.jit.trace(lambda x: fixed(x), (x,), check_trace=False, strict=False)
    torch.jit.save(traced, str(path), _extra_files={HEADER: header})


def _torch(fixed: FixedInput, x: Tensor, path: Path, header: str, any_batch: bool) -> None:
    torch.export.save(_program(fixed, x, any_batch), path, extra_files={HEADER: header})


def _program(fixed: FixedInput, x: Tensor, any_batch: bool) -> Any:
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=4096)}} if any_batch else None
    return torch.export.export(fixed, (x,), dynamic_shapes=shapes, strict=False)


def _onnx(fixed: FixedInput, x: Tensor, path: Path, header: str, any_batch: bool) -> None:
    axes = {"x": {0: "batch"}, "probability": {0: "batch"}} if any_batch else None
    with _quiet():
        torch.onnx.export(fixed, (x,), path, dynamic_axes=axes, dynamo=False, **_NAMED)
    _say(path, header)


def _onnx_of_program(
    fixed: FixedInput, x: Tensor, path: Path, header: str, any_batch: bool
) -> None:
    program = _program(fixed, x, any_batch)
    options: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
    with _quiet():
        torch.onnx.export(program, (), path, **options, **_NAMED)
    _say(path, header)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the graphs that the exporter prints, from C++, before it raises."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(os.devnull, "wb") as nowhere:
        try:
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, file in zip((1, 2), kept, strict=True):
                os.dup2(file, number)
                os.close(file)


def _say(path: Path, header: str) -> None:
    onnx = optional("onnx")
    model = onnx.load(str(path))
    for key, value in ((HEADER, header), (CHECKSUM, NO_SUM)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    path.write_bytes(sealed(model.SerializeToString()))


_NAMED: dict[str, Any] = {
    "input_names": ["x"],
    "output_names": ["probability"],
    "opset_version": _OPSET,
}
_Writer = Callable[[FixedInput, Tensor, Path, str, bool], None]
# In the order in which they are tried: each of the two exporters knows what the other does not.
_WRITE: dict[str, tuple[_Writer, ...]] = {
    "torchscript": (_torchscript,),
    "torch": (_torch,),
    "onnx": (_onnx, _onnx_of_program),
}
