"""One seed, no network, warnings of our own modules as errors, and writers of tiny recordings.

`neurofm` is imported inside fixtures only: the shape hook must be in place before it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each of several workers
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

import numpy as np
import pytest
from hypothesis import settings

# The same examples in every run, so that a change is judged by what it changed; look for new ones
# with `pytest --hypothesis-profile=explore`.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile("same")

SEED = 20240607
_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", r"error:::neurofm(\..*)?$")
    # What a recording lacks is news about data, not a fault of a module; tests ask for it by name.
    config.addinivalue_line("filterwarnings", "default::neurofm.io.quality.RecordingWarning")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only sockets that stay on this machine: workers and process groups need those."""

    def guard(original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            local = self.family == getattr(socket, "AF_UNIX", None) or str(address[0]).startswith(
                (*_LOOPBACK, socket.gethostname())
            )
            if not local:
                raise OSError(f"the test suite has no network: {address}")
            return original(self, address)

        return connect

    monkeypatch.setattr(socket.socket, "connect", guard(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guard(socket.socket.connect_ex))


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Random numbers nobody passed a generator for are the same in every run."""
    np.random.seed(SEED)  # noqa: NPY002  (the global state is what is being fixed)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.fixture
def corpora() -> Path:
    """Folder of real recordings; the test is skipped without it."""
    folder = os.environ.get("NEUROFM_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real recordings: set NEUROFM_DATA to the folder of corpora")
    return Path(folder)


@dataclass
class Tiny:
    """A tiny recording with known content, and writers of it in several formats.

    `data` is `channel time` in microvolts, `events` are (onset s, duration s, label).
    """

    data: np.ndarray
    names: list[str] = field(default_factory=lambda: ["Fp1", "C3", "Cz", "C4", "O1", "O2"])
    sfreq: float = 128.0
    events: tuple[tuple[float, float, str], ...] = ((0.5, 1.0, "T1"), (2.25, 0.5, "T2"))

    def raw(self, types: Any = "eeg") -> Any:
        import mne

        info = mne.create_info(self.names, self.sfreq, types)
        raw = mne.io.RawArray(self.data * 1e-6, info, verbose="error")
        onset, duration, label = zip(*self.events, strict=True) if self.events else ((), (), ())
        raw.set_annotations(mne.Annotations(onset, duration, label))
        return raw

    def edf(self, path: Path, *, unit: str = "uV", scale: float = 1.0, bdf: bool = False) -> Path:
        """`unit` is what the header declares; the numbers stored are microvolts times `scale`."""
        import edfio

        path.parent.mkdir(parents=True, exist_ok=True)
        signal, recording = (edfio.BdfSignal, edfio.Bdf) if bdf else (edfio.EdfSignal, edfio.Edf)
        top = float(f"{np.nanmax(np.abs(self.data)) * scale * 1.01 or 1.0:.1g}") * 2
        signals = [
            signal(
                row * scale,
                self.sfreq,
                label=name,
                physical_dimension=unit,
                physical_range=(-top, top),
            )
            for name, row in zip(self.names, self.data, strict=True)
        ]
        marks = [edfio.EdfAnnotation(*event) for event in self.events]
        recording(signals, annotations=marks).write(path)
        return path

    def bdf(self, path: Path) -> Path:
        return self.edf(path, bdf=True)

    def fif(self, path: Path) -> Path:
        self.raw().save(path, overwrite=True, verbose="error")
        return path

    def brainvision(self, path: Path) -> Path:
        stem = path.stem
        path.with_suffix(".eeg").write_bytes(self.data.T.astype("<f4").tobytes())
        channels = "\n".join(f"Ch{i + 1}={n},,1,µV" for i, n in enumerate(self.names))
        path.write_text(
            "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
            f"DataFile={stem}.eeg\nMarkerFile={stem}.vmrk\nDataFormat=BINARY\n"
            f"DataOrientation=MULTIPLEXED\nNumberOfChannels={len(self.names)}\n"
            f"SamplingInterval={1e6 / self.sfreq:.10g}\n\n[Binary Infos]\n"
            f"BinaryFormat=IEEE_FLOAT_32\n\n[Channel Infos]\n{channels}\n",
            encoding="utf-8",
        )
        marks = "\n".join(
            f"Mk{i + 1}=Comment,{label},{round(onset * self.sfreq) + 1},"
            f"{round(duration * self.sfreq)},0"
            for i, (onset, duration, label) in enumerate(self.events)
        )
        path.with_suffix(".vmrk").write_text(
            "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common "
            "Infos]\nCodepage=UTF-8\n"
            f"DataFile={stem}.eeg\n\n[Marker Infos]\n{marks}\n",
            encoding="utf-8",
        )
        return path

    def eeglab(self, path: Path) -> Path:
        import scipy.io

        events = np.array(
            [
                (onset * self.sfreq + 1, duration * self.sfreq, label)
                for onset, duration, label in self.events
            ],
            dtype=[("latency", object), ("duration", object), ("type", object)],
        )
        channels = np.array([(name,) for name in self.names], dtype=[("labels", object)])
        eeg = {
            "setname": "tiny",
            "nbchan": len(self.names),
            "pnts": self.data.shape[1],
            "trials": 1,
            "srate": self.sfreq,
            "xmin": 0.0,
            "xmax": (self.data.shape[1] - 1) / self.sfreq,
            "data": self.data.astype(np.float32),
            "chanlocs": channels,
            "chaninfo": {"nodatchans": np.zeros(0)},
            "event": events,
            "epoch": np.zeros(0),
            "icawinv": np.zeros(0),
            "icasphere": np.zeros(0),
            "icaweights": np.zeros(0),
            "icaact": np.zeros(0),
        }
        scipy.io.savemat(path, {"EEG": eeg})
        return path

    def gdf(self, path: Path) -> Path:
        """GDF 1.25 with one record a second; labels are written as event types 0x300 + number."""
        n, rate = len(self.names), round(self.sfreq)
        records = self.data.shape[1] // rate
        top = float(np.ceil(np.abs(self.data).max()))
        header = b"GDF 1.25" + b" " * 160 + b"2020010112000000"
        header += struct.pack("<q", 256 * (n + 1)) + b" " * 44
        header += struct.pack("<qIII", records, 1, 1, n)
        table = b"".join(name.encode().ljust(16) for name in self.names) + b" " * 80 * n
        table += b"uV      " * n
        table += struct.pack(f"<{2 * n}d", *([-top] * n), *([top] * n))
        table += struct.pack(f"<{2 * n}q", *([-32767] * n), *([32767] * n))
        table += (
            b" " * 80 * n + struct.pack(f"<{2 * n}i", *([rate] * n), *([3] * n)) + b" " * 32 * n
        )
        stored = np.round(self.data / top * 32767).astype("<i2")
        body = b"".join(stored[:, i * rate : (i + 1) * rate].tobytes() for i in range(records))
        numbers = [int(label.strip("T")) for _, _, label in self.events]
        tail = struct.pack("<B3BI", 1, rate % 256, rate // 256, 0, len(numbers))
        tail += b"".join(
            struct.pack("<I", round(onset * self.sfreq) + 1) for onset, _, _ in self.events
        )
        tail += b"".join(struct.pack("<H", 0x300 + number) for number in numbers)
        path.write_bytes(header + table + body + tail)
        return path


@pytest.fixture
def tiny(rng: np.random.Generator) -> Tiny:
    """Six channels, four seconds of 20 µV noise, two events."""
    return Tiny(data=20 * rng.standard_normal((6, 512)))


@pytest.fixture
def tiny_corpus(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`$NEUROFM_DATA` with two subjects and runs 3, 4, 6 in the layout of the eegmmidb card."""
    for subject in (1, 2):
        for run in (3, 4, 6):
            tiny.data = tiny.data[::-1] + 0.1 * run * subject
            tiny.edf(tmp_path / "eegmmidb" / f"S{subject:03d}" / f"S{subject:03d}R{run:02d}.edf")
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path))
    yield tmp_path


SMALL_TOKENIZER = {
    "window_length": 64,
    "n_filters": 4,
    "ratios": [4, 2, 2],
    "n_dim": 16,
    "n_neuro": 4,
    "codebook_dim": 16,
    "codebook_size": 32,
    "num_quantizers": 2,
    "sfreq": 64.0,
    "decay": 0.9,
    "start": "spread",
    "amplitude_weight": 0.0,
    "phase_weight": 0.0,
}
SMALL_CHANNELS = ["FC3", "FC4", "C3", "Cz", "C4", "CP3"]


@dataclass
class Small:
    """Three simulated people with two runs at 64 Hz, and cards of a model to train on them.

    `folder` holds `corpus.yaml`, `tokenizer.yaml`, `model.yaml`, and the store, made once.
    """

    folder: Path

    def data_arguments(self, **changes: Any) -> dict[str, Any]:
        pick = {"class_path": "neurofm.data.PickChannels", "init_args": {"names": SMALL_CHANNELS}}
        return {
            "datasets": [str(self.folder / "corpus.yaml")],
            "store": str(self.folder / "store"),
            "preprocess": [pick],
            "window_s": 4.0,
            "split_by": "subject",
            "validate": ["2"],
            "test": ["3"],
            "batch_size": 8,
        } | changes

    def data(self, **changes: Any) -> Any:
        from neurofm.data import BrainData

        return BrainData(**self.data_arguments(**changes))

    def tokenizer(self, **changes: Any) -> Any:
        import torch

        from neurofm.tokenizers import BrainTokenizer

        torch.manual_seed(0)
        return BrainTokenizer(**SMALL_TOKENIZER | changes).eval()

    def model(self, **changes: Any) -> Any:
        """A model on a tokenizer whose code books have started from one batch."""
        import torch

        from neurofm.models import BrainOmni

        tokenizer = self.tokenizer()
        data = self.data()
        data.setup()
        with torch.no_grad():
            tokenizer(data.windows.batch(range(8)))
        return BrainOmni(
            tokenizer, **{"lm_dim": 16, "lm_head": 4, "lm_depth": 2, "lm_dropout": 0.1} | changes
        )


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    import yaml

    folder = tmp_path_factory.mktemp("small")
    about = {"description": "small", "license": "BSD-3-Clause", "citation": "none"}
    tokenizer = {"class_path": "neurofm.tokenizers.BrainTokenizer", "init_args": SMALL_TOKENIZER}
    files = {
        "corpus": {
            "modality": "eeg",
            "line_freq": 60,
            "folder": None,
            "reader": {
                "class_path": "neurofm.io.SyntheticReader",
                "init_args": {"subjects": 3, "runs": 2, "sfreq": 64.0},
            },
        },
        "tokenizer": tokenizer,
        "model": {
            "class_path": "neurofm.models.BrainOmni",
            "init_args": {"tokenizer": tokenizer, "lm_dim": 16, "lm_head": 4, "lm_depth": 2},
        },
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(about | content), encoding="utf-8")
    return Small(folder)


@pytest.fixture(scope="session")
def _started(small: Small) -> dict[str, Any]:
    """One model, and the state every test begins with."""
    return {key: value.clone() for key, value in small.model().state_dict().items()}


@pytest.fixture
def model(small: Small, _started: dict[str, Any]) -> Any:
    model = small.model()
    model.load_state_dict(_started)
    return model


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Dask cluster of two processes, for all tests that send it work."""
    from neurofm.data.preparing.dask_cluster import DaskCluster

    opened = DaskCluster(workers=2)
    yield opened
    opened.close()


@pytest.fixture
def bold(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    """A functional image and its voxels."""
    from tiny_images import series, write

    data = series(rng).astype(np.float32)
    return write(tmp_path / "bold.nii.gz", data), data
