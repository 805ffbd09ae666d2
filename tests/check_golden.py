"""Parity with the tensors of original implementations.

    python tests/check_golden.py DIR [DIR ...]

A folder's own name chooses the module of `golden_checks` that checks it (other configurations of a
model may lie beside it as `brainomni_2`), its `fixture.json` the configuration; where it holds
several recordings, each has its `fixture_NAME.json`; a collection has an `index.json` instead.
Prints, per tensor, the largest error and how much of the tolerance it uses; exits with 1 on a miss.

A new model adds one module with `check(fixture) -> (expected, got)`, both tensors by name, and, if
the fixture's README recommends others, `ATOL` and `RTOL`, or `tolerance(fixture, name)`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ATOL = RTOL = 1e-4
Tensors = dict[str, Tensor]
FOLDER = Path(__file__).resolve().parent / "golden_checks"


@dataclass(frozen=True)
class Line:
    """One compared tensor: `share` is the error as a fraction of what is allowed."""

    name: str
    error: float
    share: float
    note: str = ""
    atol: float = ATOL
    rtol: float = RTOL

    @property
    def passed(self) -> bool:
        return self.share <= 1


def compare(
    name: str, expected: Tensor, got: Tensor | None, atol: float = ATOL, rtol: float = RTOL
) -> Line:
    """Floats within atol + rtol x |expected|, everything else equal."""
    if got is None:
        return Line(name, float("nan"), float("inf"), "not computed")
    if tuple(got.shape) != tuple(expected.shape):
        note = f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
        return Line(name, float("nan"), float("inf"), note)
    if not expected.is_floating_point():
        wrong = int((got != expected).sum())
        return Line(name, float(wrong), float(wrong) * 2, f"{wrong} of {expected.numel()} differ")
    difference = (got.double() - expected.double()).abs()
    difference = torch.where(difference.isnan(), torch.inf, difference)
    difference = torch.where(got.isnan() & expected.isnan(), 0.0, difference)  # NaN is the answer
    difference = torch.where(got == expected, 0.0, difference)  # so is infinity
    share = difference / (atol + rtol * expected.double().abs().nan_to_num(nan=0.0))
    if not share.numel():
        return Line(name, 0.0, 0.0, "empty", atol, rtol)
    return Line(name, float(difference.max()), float(share.max()), "", atol, rtol)


class Fixture:
    """The files of a golden folder; `descriptions` by name of the recording."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.descriptions: dict[str, dict[str, Any]] = {
            file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("fixture*.json"))
        }
        self.description = self.descriptions.get("fixture", {})
        self.config: dict[str, Any] = self.description.get("config", {})

    def tensors(self, name: str) -> Tensors:
        return load_file(self.folder / f"{name}.safetensors")


def names() -> list[str]:
    """Models that have a check."""
    return sorted(file.stem for file in FOLDER.glob("*.py"))


def module(name: str) -> ModuleType:
    """The check of a model."""
    spec = importlib.util.spec_from_file_location(f"golden_checks.{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def check(folder: Path) -> list[Line]:
    """Compare every tensor of a golden folder with ours."""
    full = folder.resolve().name
    name = max((known for known in names() if full.startswith(known)), key=len, default=None)
    if name is None:
        raise SystemExit(f"{folder}: no check for {full!r}; known are {', '.join(names())}.")
    if not any([*folder.glob("fixture*.json"), *folder.glob("index.json")]):
        raise SystemExit(f"{folder}: no fixture.json or index.json there.")
    torch.manual_seed(0)
    checks, fixture = module(name), Fixture(folder)
    expected, got = checks.check(fixture)
    default = (getattr(checks, "ATOL", ATOL), getattr(checks, "RTOL", RTOL))
    allowed = getattr(checks, "tolerance", lambda fixture, key: default)
    return [
        compare(key, value, got.get(key), *allowed(fixture, key)) for key, value in expected.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Parity with original implementations.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    misses = 0
    for folder in parser.parse_args(arguments).folders:
        lines = check(folder)
        rules = sorted({f"{line.atol:g} + {line.rtol:g} x |expected|" for line in lines})
        print(f"{folder}  (floats: {' or '.join(rules)}; others: equal)")
        width = max(len(line.name) for line in lines)
        for line in lines:
            state = "ok  " if line.passed else "MISS"
            share = f"{100 * line.share:7.2f} % of tolerance"
            print(
                f"  {state} {line.name:<{width}}  max error {line.error:9.2e} {share}  {line.note}"
            )
        missed = sum(not line.passed for line in lines)
        print(f"  {len(lines) - missed} of {len(lines)} tensors agree")
        misses += missed
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
