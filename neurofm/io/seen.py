"""What a model has seen: the recordings it was trained on, kept with its weights.

Each recording by name, by fingerprint (copies under other names are recognised) and by the parts
that were used. Bytes, not text in a header: a hundred thousand recordings are about 20 MB.
Axes: part = span of time, in seconds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm.shapes import Float, Int

FORMAT = 1
_MOST = 1 << 31  # bytes that a record may unfold to


@dataclass(frozen=True)
class Seen:
    """Recordings that a model was trained on.

    Args:
        recordings: `Recording.id`, each once.
        fingerprints: One per recording, "" where unknown.
        spans: One per recording: parts that were used, (start, stop) in seconds, in order.
    """

    recordings: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    spans: tuple[tuple[tuple[float, float], ...], ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.recordings), len(self.fingerprints), len(self.spans)}
        if len(lengths) > 1 or len(set(self.recordings)) != len(self.recordings):
            raise ValueError(
                f"Seen: {len(self.recordings)} recordings ({len(set(self.recordings))} names), "
                f"{len(self.fingerprints)} fingerprints, {len(self.spans)} lists of spans; "
                "expected one of each for every name."
            )

    def __len__(self) -> int:
        return len(self.recordings)

    @classmethod
    def of_windows(
        cls,
        names: tuple[str, ...],
        fingerprints: Mapping[str, str],
        recording: Int[np.ndarray, " window"],
        start: Float[np.ndarray, " window"],
        stop: Float[np.ndarray, " window"],
    ) -> Seen:
        """From windows: those that touch or overlap become one part.

        Args:
            names: Of all recordings; those without a window are left out.
            recording: Position of each window's recording in `names`.
            start: Seconds.
            stop: Seconds.
        """
        order = np.lexsort((start, recording))
        owner, begin, end = recording[order], start[order], stop[order]
        spans: dict[int, list[tuple[float, float]]] = {}
        for i, low, high in zip(owner.tolist(), begin.tolist(), end.tolist(), strict=True):
            parts = spans.setdefault(i, [])
            if parts and low <= parts[-1][1] + 1e-6:
                parts[-1] = (parts[-1][0], max(parts[-1][1], high))
            else:
                parts.append((low, high))
        return cls(
            recordings=tuple(names[i] for i in spans),
            fingerprints=tuple(fingerprints.get(names[i], "") for i in spans),
            spans=tuple(tuple(parts) for parts in spans.values()),
        )

    @classmethod
    def of(cls, model: Any) -> Seen:
        """What a model and its parts (its tokenizer) have seen together."""
        modules = model.modules() if hasattr(model, "modules") else [model]
        found = [getattr(module, "seen", None) for module in modules]
        return union(item for item in found if isinstance(item, cls))

    def to_bytes(self) -> bytes:
        """Compressed; the same for equal content."""
        spans = [[[round(t, 6) for t in part] for part in parts] for parts in self.spans]
        document = {
            "format": FORMAT,
            "recordings": self.recordings,
            "fingerprints": self.fingerprints,
            "spans": spans,
        }
        return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Seen:
        """What `to_bytes` wrote.

        Args:
            where: For the message.

        Raises:
            ValueError: Damaged, or of a later version.
        """
        unfold = zlib.decompressobj()
        try:
            text = unfold.decompress(data, _MOST)
            if not unfold.eof:
                raise ValueError("its end is missing")
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']}, this neurofm reads {FORMAT}")
            return cls(
                recordings=tuple(map(str, document["recordings"])),
                fingerprints=tuple(map(str, document["fingerprints"])),
                spans=tuple(
                    tuple((float(a), float(b)) for a, b in parts) for parts in document["spans"]
                ),
            )
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{where}: the record of training recordings cannot be read ({error}). Copy or "
                "download the file again."
            ) from error


def union(parts: Iterable[Seen]) -> Seen:
    """All that any of them has seen; parts of one recording are joined."""
    given = [part for part in dict.fromkeys(parts) if len(part)]
    if len(given) < 2:
        return given[0] if given else Seen()
    number: dict[str, int] = {}
    prints: dict[str, str] = {}
    windows: list[tuple[int, float, float]] = []
    for seen in given:
        for name, mark, spans in zip(seen.recordings, seen.fingerprints, seen.spans, strict=True):
            at = number.setdefault(name, len(number))
            prints[name] = prints.get(name) or mark
            windows.extend((at, low, high) for low, high in spans or ((0.0, np.inf),))
    owner, start, stop = (np.array(column) for column in zip(*windows, strict=True))
    return Seen.of_windows(tuple(number), prints, owner, start, stop)
