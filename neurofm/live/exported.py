"""Exported decoders: one file with fixed channels, rate and window, that says what it is.

TorchScript (`.pt`), torch.export (`.pt2`) and ONNX (`.onnx`) files written by `neurofm export`.
Input: windows as `batch channel time`, float32, in the unit the file names. Output: probabilities.
"""

from __future__ import annotations

import json
import warnings
import zipfile
import zlib
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
CHECKSUM, NO_SUM = "neurofm.crc32", "00000000"
_AWAY = 1e-3  # of a probability, on another machine
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

    def check(self) -> None:
        """Compare the network with what the file says it answered when it was written.

        Raises:
            ValueError: It answers otherwise: the file is damaged, or its network another one.
        """
        said = self.header["input"]
        x = probe(len(said["channels"]), said["n_times"], self.facts.amplitude)[:1]
        away = float(np.abs(self(x) - np.array(self.header["answer"])).max())
        if not away <= _AWAY:
            raise ValueError(
                f"its probabilities of the window it was checked with differ by {away:.2g} from "
                "those it was written with"
            )

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


def load_exported(path: str | Path, *, checked: bool = True) -> Exported:
    """A file that `neurofm export` wrote.

    Args:
        checked: Compare it with what it says it answered when it was written.

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
        _check_sum(path)
        header, function = _LOAD[kinds[path.suffix]](path)
        if not header:
            raise LookupError("it does not say what it is; write it with `neurofm export`")
        found = Exported(function, json.loads(header), where=str(path))
        if checked:
            found.check()
    except ImportError:
        raise
    except Exception as error:  # a damaged file may raise anything, in three libraries
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: damaged, or no exported decoder ({reason}).") from error
    return found


def probe(n_channels: int, n_times: int, amplitude: float) -> Float[np.ndarray, "4 channel time"]:
    """Noise that decoders and their files are compared with."""
    noise = np.random.default_rng(0).standard_normal((4, n_channels, n_times))
    return (noise * amplitude).astype(np.float32)


def sealed(model: bytes) -> bytes:
    """An ONNX file with its checksum in the property `CHECKSUM`, if it has one."""
    before, key, rest = model.rpartition(CHECKSUM.encode())
    if not key:
        return model
    digits, first = len(NO_SUM), 2  # behind the tag and the length of the value
    parts = [before, key, rest[:first], NO_SUM.encode(), rest[first + digits :]]
    parts[3] = f"{zlib.crc32(b''.join(parts)):08x}".encode()
    return b"".join(parts)


def _check_sum(path: Path) -> None:
    if path.suffix == SUFFIXES["onnx"]:
        data = path.read_bytes()
        fits = sealed(data) == data
    else:
        with zipfile.ZipFile(path) as archive:
            fits = archive.testzip() is None
    if not fits:
        raise ValueError("it does not fit its checksum")


def _torchscript(path: Path) -> tuple[str, Function]:
    extra = {HEADER: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    header = extra[HEADER]
    return header.decode() if isinstance(header, bytes) else header, _on_tensors(module)


def _torch(path: Path) -> tuple[str, Function]:
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
    session = runtime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    header = session.get_modelmeta().custom_metadata_map.get(HEADER, "")

    def function(x: np.ndarray) -> np.ndarray:
        return session.run(None, {"x": x})[0]

    return header, function


_LOAD = {"torchscript": _torchscript, "torch": _torch, "onnx": _onnx}
