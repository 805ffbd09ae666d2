"""Where predictions go: a table that is appended line by line, and a stream of their own."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from neurofm.compat import optional
from neurofm.live.session import Prediction

_SUFFIXES = (".csv", ".jsonl")


class PredictionTable:
    """Appends predictions to a file. Every line is written at once; a killed run leaves whole ones.

    Args:
        path: Ends in `.csv` or `.jsonl`. A file that is there goes on, if it has the same columns.

    Raises:
        ValueError: Another ending, or a file with other columns.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        if path.suffix not in _SUFFIXES:
            raise ValueError(f"--out {path}: expected a file that ends in .csv or .jsonl.")
        self.labels = list(labels)
        self._json = path.suffix == ".jsonl"
        columns = ["time_s", "predicted", *(f"p_{label}" for label in labels), "latency_ms", "hole"]
        header = ",".join(columns)
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.read_bytes() if path.is_file() else b""
        first = there.split(b"\n", 1)[0].decode("utf-8", "replace")
        fits = set(json.loads(first)) == set(columns) if self._json and first else first == header
        if there and not fits:
            raise ValueError(
                f"--out {path}: there is a file with other columns ({first[:80]}), expected "
                f"{header}. Name another one."
            )
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if there and not there.endswith(b"\n"):  # a line that a full disk cut
            os.write(self._file, b"\n")
        if not there and not self._json:
            self._line(header)

    def __call__(self, prediction: Prediction) -> None:
        """Append one line."""
        p = prediction.probability.tolist()
        predicted = self.labels[p.index(max(p))]
        time_s, latency = round(prediction.time_s, 6), round(1000 * prediction.latency_s, 3)
        if self._json:
            values = {f"p_{label}": round(x, 6) for label, x in zip(self.labels, p, strict=True)}
            said = {"time_s": time_s, "predicted": predicted, **values, "latency_ms": latency}
            self._line(json.dumps({**said, "hole": prediction.hole}))
            return
        numbers = (f"{x:.6f}" for x in p)
        self._line(
            ",".join([f"{time_s:g}", predicted, *numbers, f"{latency}", f"{prediction.hole:d}"])
        )

    def _line(self, text: str) -> None:
        """All of a line or nothing of it."""
        line, end = f"{text}\n".encode(), os.lseek(self._file, 0, os.SEEK_END)
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._file, end)
            raise

    def __enter__(self) -> PredictionTable:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)


class LslOutlet:
    """Sends predictions as a stream: one channel for each class.

    Raises:
        ImportError: mne-lsl is not installed.
    """

    def __init__(self, name: str, labels: Sequence[str]) -> None:
        lsl = optional("mne_lsl").lsl
        info = lsl.StreamInfo(name, "Probabilities", len(labels), 0.0, "float32", f"neurofm-{name}")
        info.set_channel_names(list(labels))
        self._outlet = lsl.StreamOutlet(info)

    def __call__(self, prediction: Prediction) -> None:
        """Send one sample."""
        self._outlet.push_sample(prediction.probability.astype("float32"))
