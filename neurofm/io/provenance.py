"""What an M/EEG file says about how it was recorded and processed, as JSON values.

Compensation of CTF and 4D systems (`compensation_grade`), signal-space separation by MaxFilter or
MNE (`sss`), projectors, channels marked bad, filter edges, mains frequency, continuous head
position: kept in `Signal.details`, because models and analyses depend on it (the rank after SSS,
for one). Names, birthdays and dates of people are left where they are.

Source: MNE-Python's measurement info (Gramfort et al. 2013).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.io.head_position import chpi_frequencies, head_movement
from neurofm.io.quality import Problem, report
from neurofm.types import Event

if TYPE_CHECKING:
    import mne

_CTF_CLOCK = "SCLK01"  # counts seconds from the start of the system
_GAP = 0.75  # samples by which the clock may be off before samples were lost


def details_of(source: mne.io.BaseRaw | mne.BaseEpochs | mne.Evoked) -> dict[str, Any]:
    """What the file says beyond its samples; only what it does say."""
    import mne

    info = source.info
    details: dict[str, Any] = {}
    if info["comps"]:
        details["compensation_grade"] = int(source.compensation_grade or 0)
    details |= _separation(info)
    if info.get("maxshield"):
        details["maxshield"] = True
    if info["projs"]:
        details["projections"] = [
            {"name": str(proj["desc"]), "active": bool(proj["active"])} for proj in info["projs"]
        ]
    if info["bads"]:
        details["bads"] = [str(name) for name in info["bads"]]
    for key in ("highpass", "lowpass", "line_freq"):
        if info[key] is not None and np.isfinite(info[key]):
            details[key] = float(info[key])
    frequencies = chpi_frequencies(info)
    if frequencies:
        details["chpi_hz"] = frequencies
    if isinstance(source, mne.io.BaseRaw):
        moved = head_movement(source)
        if moved is not None:
            details["head_movement_mm"] = round(moved, 2)
    return details


def _separation(info: Mapping[str, Any]) -> dict[str, Any]:
    """Signal-space separation: that it was done, by what, and the components it left."""
    for entry in info["proc_history"]:
        found = entry.get("max_info") or {}
        space = found.get("sss_info") or {}
        if not space:
            continue
        steps: dict[str, Any] = {"by": str(entry.get("creator", "unknown"))}
        if "nfree" in space:
            steps["components"] = int(space["nfree"])
        if "in_order" in space and "out_order" in space:
            steps["orders"] = [int(space["in_order"]), int(space["out_order"])]
        time = found.get("max_st") or {}
        if time.get("buflen"):
            steps["tsss_buffer_s"] = float(time["buflen"])
            steps["tsss_correlation"] = float(time.get("subspcorr", 0.0))
        return {"sss": True, "sss_info": steps}
    return {}


def clock_gaps(raw: mne.io.BaseRaw, label: str, where: str) -> Iterator[Event]:
    """An event at every sample before which a CTF system's clock jumps: samples are missing.

    Trials recorded apart and stored one after the other look like one recording otherwise.
    """
    clock = [name for name in raw.ch_names if name.split("-")[0] == _CTF_CLOCK]
    if not clock:
        return
    stamps = raw.get_data(picks=clock[:1])[0]
    if not stamps.any():
        return
    off = np.abs(np.diff(stamps) * raw.info["sfreq"] - 1)
    # Files whose clock was resampled or scaled with the data are of no use here.
    if np.median(off) > _GAP / 2:
        return
    jumps = np.flatnonzero(off > _GAP) + 1
    if len(jumps):
        report(
            Problem(
                "warning",
                f"The system's clock jumps {len(jumps)} times: samples are missing there.",
                f"The joins are marked with events {label!r}; no window crosses them.",
                "time_gaps",
            ),
            where,
            stacklevel=5,
        )
    for jump in jumps:
        yield Event(float(jump / raw.info["sfreq"]), 0.0, label)
