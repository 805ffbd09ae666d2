"""`neurofm doctor`: is this machine ready? One line per finding, one fix per line.

Nothing heavy is imported: versions come from package metadata, the GPU from the driver's own tool.
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from neurofm import cards
from neurofm.compat import EXTRAS
from neurofm.data.preparing.keys import default_store_root
from neurofm.io.corpus import data_home

_GIB = 2**30
_STYLE = {"ok": "green", "warn": "yellow", "fix": "bold red"}


@dataclass(frozen=True)
class Line:
    """One finding: `status` is ok, warn or fix; `fix` what to do, empty when ok."""

    status: str
    what: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `neurofm doctor`."""
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="folder of prepared corpora (else $NEUROFM_STORE, else your cache folder)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 if something has to be fixed."""
    lines = findings(args.store or default_store_root())
    if args.json:
        sys.stdout.write(json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    else:
        console = Console()
        for line in lines:
            style = _STYLE[line.status]
            console.print(
                f"[{style}]{line.status:<5}[/{style}] {escape(line.what)}", soft_wrap=True
            )
            if line.fix:
                console.print(f"      [dim]->[/dim] {escape(line.fix)}", soft_wrap=True)
    return int(any(line.status == "fix" for line in lines))


def findings(store: Path) -> list[Line]:
    """Everything that was looked at, in order."""
    checks: tuple[Callable[[], Iterator[Line]], ...] = (
        _python,
        _requirements,
        _torch,
        _gpu,
        _threads,
        _memory,
        lambda: _disk(store),
        _data,
        _extras,
    )
    return [line for check in checks for line in check()]


def version_of(distribution: str) -> str | None:
    """Installed version with its build tag ("2.13.0+cpu"), or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Iterator[Line]:
    where = f"{platform.system()} {platform.machine()}"
    version = version_of("neurofm") or "from a checkout"
    yield Line("ok", f"Python {platform.python_version()} on {where}, neurofm {version}")


def _requirements() -> Iterator[Line]:
    required = metadata.requires("neurofm") if version_of("neurofm") else []
    names = [
        re.split(r"[\s<>=!~;\[]", text, maxsplit=1)[0]
        for text in required or []
        if "extra ==" not in text
    ]
    missing = [name for name in names if version_of(name) is None]
    if missing:
        yield Line(
            "fix", f"packages missing: {', '.join(missing)}", f"pip install {' '.join(missing)}"
        )
    elif names:
        yield Line("ok", f"all {len(names)} required packages are installed")


def build_of(version: str) -> str:
    """What a wheel was built for: "cpu", "cu128", ... or "default" if it has no tag (PyPI)."""
    return version.partition("+")[2] or "default"


def torch_lines(torch: str | None, torchaudio: str | None, torchvision: str | None) -> list[Line]:
    """Whether the versions and builds of the three fit together."""
    if torch is None:
        return [Line("fix", "torch is not installed", "pip install torch")]
    lines = [Line("ok", f"torch {torch} (build {build_of(torch)})")]
    for name, version in (("torchaudio", torchaudio), ("torchvision", torchvision)):
        if version is None:
            continue
        mixed = build_of(version) != build_of(torch)
        if not mixed:
            lines.append(Line("ok", f"{name} {version} is of the same build as torch"))
        elif name == "torchaudio":
            lines.append(
                Line(
                    "warn",
                    f"torchaudio {version} (build {build_of(version)}) beside torch {torch}: its "
                    "compiled part may not load; neurofm replaces that part when braindecode "
                    "needs it",
                    "Nothing to do for neurofm; for other programs install torchaudio from the "
                    "index "
                    "that torch came from.",
                )
            )
        else:
            lines.append(
                Line(
                    "warn",
                    f"torchvision {version} (build {build_of(version)}) beside torch {torch}: "
                    "importing "
                    "it fails or crashes; neurofm does not use it",
                    "pip uninstall torchvision, or install it from the index that torch came from.",
                )
            )
    return lines


def _torch() -> Iterator[Line]:
    yield from torch_lines(version_of("torch"), version_of("torchaudio"), version_of("torchvision"))


def _gpu() -> Iterator[Line]:
    tool = shutil.which("nvidia-smi")
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    names = ""
    if tool:
        try:
            answer = subprocess.run(
                [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                timeout=1.5,
                check=False,
            )
            names = "; ".join(answer.stdout.strip().splitlines()) if not answer.returncode else ""
        except (subprocess.TimeoutExpired, OSError):
            names = ""
    built_for_cpu = build_of(version_of("torch") or "") == "cpu"
    if names and built_for_cpu:
        yield Line(
            "fix",
            f"GPU {names}, but torch is built for the CPU only",
            "Install torch for your driver: https://pytorch.org/get-started/locally/",
        )
    elif names:
        yield Line("ok", f"GPU {names}")
    elif devices:
        yield Line(
            "fix",
            f"{', '.join(devices)} is there, but its driver does not answer nvidia-smi",
            "Restart the machine, or reinstall the NVIDIA driver.",
        )
    elif platform.system() == "Darwin" and platform.machine() == "arm64":
        yield Line("ok", "Apple GPU (training on it: --trainer.accelerator mps)")
    else:
        yield Line("ok", "no NVIDIA GPU: training runs on the CPU")


def cores() -> float:
    """Cores this process may use: affinity, and the container's share of time."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        count = min(count, int(quota[0]) / int(quota[1]))
    return count


def thread_lines(available: float, visible: int, settings: dict[str, str]) -> list[Line]:
    """Whether the numerical libraries will start as many threads as there are cores."""
    whole = max(int(available), 1)
    text = f"{available:g} cores for this process"
    lines = []
    for name, value in settings.items():
        if not value.isdigit() or int(value) < 1:
            lines.append(Line("fix", f"{name}={value} is not a number of threads", f"unset {name}"))
        elif int(value) > whole:
            lines.append(
                Line(
                    "fix",
                    f"{text}, but {name}={value}: threads wait for each other",
                    f"export {name}={whole}",
                )
            )
        elif int(value) < whole:
            lines.append(
                Line(
                    "warn", f"{text}, but {name}={value} leaves some idle", f"export {name}={whole}"
                )
            )
    if not settings and available < visible:
        lines.append(
            Line(
                "warn",
                f"{text}, while {visible} are visible: libraries may start {visible} threads",
                f"export OMP_NUM_THREADS={whole}",
            )
        )
    return lines or [Line("ok", text)]


def _threads() -> Iterator[Line]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    settings = {name: os.environ[name] for name in names if os.environ.get(name)}
    yield from thread_lines(cores(), os.cpu_count() or 1, settings)


def _memory() -> Iterator[Line]:
    match = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    if match is None:
        return
    free = int(match[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit():
        free = min(free, int(limit) - int(used))
    text = f"{free / _GIB:.1f} GiB of memory free"
    if free < 4 * _GIB:
        yield Line("warn", text, "Close other programs: `neurofm demo` wants 4 GiB.")
    else:
        yield Line("ok", text)
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < _GIB:
        yield Line(
            "warn",
            f"/dev/shm holds only {shutil.disk_usage(shared).total / 2**20:.0f} MiB: data "
            "workers may die",
            "Start the container with --shm-size=2g, or train with --data.init_args.num_workers 0.",
        )


def _disk(store: Path) -> Iterator[Line]:
    folder = store.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / _GIB:.0f} GiB of disk free at {folder}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Line("fix", f"cannot write at {folder}: {error.strerror}", "Choose another folder.")
        return
    if free < 5 * _GIB:
        yield Line("warn", text, "Make room, or put prepared corpora on another disk.")
    else:
        yield Line("ok", f"{text}, writable")


def _data() -> Iterator[Line]:
    home = data_home()
    given = "NEUROFM_DATA" in os.environ
    if given and not home.is_dir():
        yield Line("fix", f"NEUROFM_DATA={home} is not a folder", "Point it at your recordings.")
    elif not home.is_dir():
        yield Line(
            "warn",
            "NEUROFM_DATA is not set: no recordings, only the simulation",
            "export NEUROFM_DATA=/folder/of/corpora (one folder per corpus inside)",
        )
    else:
        here = [
            name
            for name in cards.names("datasets")
            if (home / (cards.read("datasets", name).get("folder", name) or ".no")).is_dir()
        ]
        found = f"corpora there: {', '.join(here)}" if here else "none of our corpora is there"
        yield Line(
            "ok" if here else "warn", f"{home}: {found}", "" if here else "neurofm list datasets"
        )


def _extras() -> Iterator[Line]:
    absent = sorted(
        {extra for module, extra in EXTRAS.items() if importlib.util.find_spec(module) is None}
    )
    if absent:
        yield Line(
            "ok",
            f"optional extras not installed: {', '.join(absent)} (pip install 'neurofm[NAME]')",
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
