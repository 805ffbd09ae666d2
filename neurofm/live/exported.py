"""Exported decoders: one file with fixed channels, rate and window, that says what it is.

TorchScript (`.pt`), torch.export (`.pt2`) and ONNX (`.onnx`) files written by `neurofm export`.
Input: windows as `batch channel time`, float32, in the unit the file names. Output: probabilities.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurofm.compat import optional
from neurofm.live.decoder import Facts
from neurofm.shapes import Float
from neurofm.types import Sensors

SUFFIXES = {"torchscript": ".pt", "torch": ".pt2", "onnx": ".onnx"}
HEADER = "neurofm.json"
Function = Callable[[np.ndarray], np.ndarray]


class Exported:
    """A decoder from a file.

    Args:
        function: Windows to probabilities.
        header: What the file says: `facts`, and `input` with channels, rate, window, unit, band.
        where: The file, for messages.
    """

    def __init__(self, function: Function, header: Mapping[str, Any], *, where: str) -> None:
        self._function, self.header, self.where = function, header, where
        self.facts = Facts.from_plain(header["facts"], where=where)

    def __call__(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window class"]:
        """Probabilities; one window at a time where the file has a fixed batch.

        Raises:
            ValueError: Windows of another shape.
        """
        shape = (len(self.header["input"]["channels"]), self.header["input"]["n_times"])
        if x.shape[1:] != shape:
            raise ValueError(
                f"{self.where}: windows of {x.shape[1]} channels and {x.shape[2]} samples, "
                f"expected {shape[0]} and {shape[1]}."
            )
        x = np.ascontiguousarray(x, dtype=np.float32)
        if self.header["input"]["any_batch"]:
            return self._function(x)
        return np.concatenate([self._function(x[i : i + 1]) for i in range(len(x))])

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
            ValueError: Channels, rate or unit are others than the file's.
        """
        said = self.header["input"]
        for what, have, wanted in (
            ("channels", list(sensors.names), said["channels"]),
            ("Hz", sfreq, said["sfreq"]),
            ("unit", unit, said["unit"]),
        ):
            if have != wanted:
                raise ValueError(
                    f"{self.where}: {what} {have}, the file was exported for {wanted}."
                )
        return self(x)


def load_exported(path: str | Path) -> Exported:
    """A file that `neurofm export` wrote.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another ending, damaged, or not written by `neurofm export`.
        ImportError: An `.onnx` file without onnxruntime.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    kinds = {suffix: name for name, suffix in SUFFIXES.items()}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(kinds)}.")
    try:
        header, function = _LOAD[kinds[path.suffix]](path)
    except (RuntimeError, OSError, AssertionError) as error:
        raise ValueError(f"{path}: damaged, or no exported model ({error}).") from error
    if not header:
        raise ValueError(f"{path}: does not say what it is. Write it with `neurofm export`.")
    return Exported(function, json.loads(header), where=str(path))


def _torchscript(path: Path) -> tuple[str, Function]:
    extra = {HEADER: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    header = extra[HEADER]
    return header.decode() if isinstance(header, bytes) else header, _on_tensors(module)


def _torch(path: Path) -> tuple[str, Function]:
    if not zipfile.is_zipfile(path):
        raise OSError("not a zip archive")
    extra = {HEADER: ""}
    module = torch.export.load(path, extra_files=extra).module()
    return extra[HEADER], _on_tensors(module)


def _on_tensors(module: Callable[[torch.Tensor], torch.Tensor]) -> Function:
    def function(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return function


def _onnx(path: Path) -> tuple[str, Function]:
    runtime = optional("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has an error class of its own for every fault
        raise ValueError(f"{path}: damaged, or no exported model ({error}).") from error
    header = session.get_modelmeta().custom_metadata_map.get(HEADER, "")

    def function(x: np.ndarray) -> np.ndarray:
        return session.run(None, {"x": x})[0]

    return header, function


_LOAD = {"torchscript": _torchscript, "torch": _torch, "onnx": _onnx}
