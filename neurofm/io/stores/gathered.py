"""What is written about a recording beside its samples, gathered from groups of its channels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from crc32c import crc32c

from neurofm.io.stores.blocks import Layout, block_length, int16_scale
from neurofm.io.stores.manifest import sensors_document
from neurofm.io.stores.numbers import to_json
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import UNITS, Kind, typical_amplitude


def samples(signal: Signal) -> Float[np.ndarray, "channel time"]:
    """The samples of a signal as float32."""
    return np.asarray(signal.data, dtype=np.float32)


@dataclass(frozen=True)
class Gathered:
    """What is known of a recording, or of some of its channels, without their samples.

    Args:
        scale: float32 step of each channel, None for float32 samples.
        coarse: Channels whose int16 step exceeds a tenth of their typical amplitude.
        widths: Channels of each group.
    """

    recording: Recording
    sensors: Sensors
    n_times: int
    sfreq: float
    dtype: str
    scale: Float[np.ndarray, " channel"] | None
    coarse: tuple[str, ...]
    events: tuple[Event, ...]
    history: tuple[str, ...]
    details: dict[str, Any]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, signal: Signal, dtype: str) -> Gathered:
        """Look at all samples of a signal.

        Raises:
            ValueError: There are none, or some are NaN or infinite.
        """
        where = f"write_recording {signal.recording.id}"
        data = samples(signal)
        if not data.size:
            raise ValueError(
                f"{where}: no samples, the data are {data.shape[0]} channels x {data.shape[1]}."
            )
        _refuse_non_finite(data, signal, where)
        scale = int16_scale(data) if dtype == "int16" else None
        return cls(
            recording=replace(signal.recording, path=None),
            sensors=signal.sensors,
            n_times=data.shape[1],
            sfreq=float(signal.sfreq),
            dtype=dtype,
            scale=scale,
            coarse=_coarse(data, signal, scale),
            events=signal.events,
            history=signal.history,
            details=dict(signal.details),
            widths=(len(data),),
        )

    def joined(self, other: Gathered) -> Gathered:
        """These channels, followed by those of another group of the same recording.

        Raises:
            ValueError: The groups do not belong together.
        """
        for name in ("recording", "n_times", "sfreq"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise ValueError(
                    f"write_recording {self.recording.id}: group {len(self.widths)} of channels "
                    f"has {name} {its}, those before it {mine}. All must be of one recording, over "
                    "its whole time."
                )
        scales = [item.scale for item in (self, other) if item.scale is not None]
        return replace(
            self,
            sensors=_joined(self.sensors, other.sensors, self.recording.id),
            scale=np.concatenate(scales) if scales else None,
            coarse=self.coarse + other.coarse,
            widths=self.widths + other.widths,
        )

    def layout(self, key: str) -> Layout:
        """How the samples lie in the file of this key."""
        n = block_length(self.sfreq)
        return Layout(sum(self.widths), n, self.dtype, crc32c(key.encode()))

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        scale = self.scale
        kinds = sorted({int(kind) for kind in self.sensors.kind})
        entities = {k: v for k, v in asdict(self.recording).items() if k != "path"}
        error = np.zeros(len(self.sensors)) if scale is None else scale.astype(np.float64) / 2
        return {
            "recording": entities,
            "n_times": self.n_times,
            "sfreq": self.sfreq,
            "scale": None if scale is None else to_json(scale),
            "max_error": to_json(error),
            "coarse": list(self.coarse),
            "units": {Kind(kind).name: UNITS[Kind(kind)].name for kind in kinds},
            "events": [[float(e.onset), float(e.duration), e.label] for e in self.events],
            "history": list(self.history),
            "details": self.details,
            "sensors": sensors_document(self.sensors),
        }


def _joined(first: Sensors, second: Sensors, where: str) -> Sensors:
    if first.frame != second.frame or bool(first.region) != bool(second.region):
        raise ValueError(
            f"write_recording {where}: one group of channels is in frame {first.frame!r}, another "
            f"in {second.frame!r}; or one names regions and another does not. Make them equal in "
            "the reader."
        )
    return Sensors(
        names=first.names + second.names,
        kind=np.concatenate([first.kind, second.kind]),
        position=np.concatenate([first.position, second.position]),
        orientation=np.concatenate([first.orientation, second.orientation]),
        frame=first.frame,
        region=first.region + second.region,
    )


def _refuse_non_finite(data: np.ndarray, signal: Signal, where: str) -> None:
    bad = ~np.isfinite(data.max(axis=1)) | ~np.isfinite(data.min(axis=1))
    if not bad.any():
        return
    channel = int(np.flatnonzero(bad)[0])
    samples = np.flatnonzero(~np.isfinite(data[channel]))
    raise ValueError(
        f"{where}: {int(bad.sum())} of {len(bad)} channels hold NaN or infinite samples; the first "
        f"is {signal.sensors.names[channel]} at {samples[0] / signal.sfreq:.3f} s ({len(samples)} "
        "samples). Interpolate or exclude the channel, or cut that part of the recording."
    )


def _coarse(data: np.ndarray, signal: Signal, scale: np.ndarray | None) -> tuple[str, ...]:
    """Channels whose int16 step exceeds a tenth of their typical amplitude."""
    if scale is None or data.shape[1] < 2:
        return ()
    amplitude = typical_amplitude(data, signal.sfreq)
    rough = (amplitude > 0) & (scale > 0.1 * amplitude)
    return tuple(signal.sensors.names[i] for i in np.flatnonzero(rough))
