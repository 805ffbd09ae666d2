"""Time courses of brain parcels from M/EEG sensors: `channel` = parcel.

Everything from sensors to parcels is linear, so it is worked out once as a matrix `parcel x
channel` from the recording's covariance, and then applied to the samples block by block: an inverse
operator or a beamformer gives each source's spatial filter; its orientation is the one of most
power; the sources of a parcel are summed up by their first principal component or their mean; and
leakage between parcels may be taken out (`leakage`). Signs remain arbitrary: see `dipole_signs`.

Source: Van Veen et al. 1997 (LCMV beamformer); Hämäläinen & Ilmoniemi 1994 (minimum norm) as MNE
implements them; Colclough et al. 2015 (parcels, orthogonalization).
Axes: parcel; source = point of the source space; channel = sensor. Metres.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.io.meeg import BLOCK_VALUES, BOUNDARY, annotated_events
from neurofm.io.provenance import clock_gaps, details_of
from neurofm.io.sources.leakage import orthogonal_mixing
from neurofm.io.sources.parcellation import Parcellation
from neurofm.shapes import Float
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

if TYPE_CHECKING:
    import mne

METHODS = ("lcmv", "MNE", "dSPM", "sLORETA")
SUMMARIES = ("pc", "mean")
_FIXED = 1  # FIFFV_MNE_FIXED_ORI
_NANO = 1e-9
_SILENT = 1e-3  # field of the weakest orientation relative to the strongest


@dataclass(frozen=True)
class SpatialFilter:
    """The sources of a recording as weighted sums of its channels.

    Args:
        weights: Per source, or per source and orientation; for numbers in SI units.
        channels: Names of the channels the weights belong to.
        covariance: Of those channels, SI units, without parts marked BAD.
        method: One of `METHODS`.
    """

    weights: Float[np.ndarray, "*source channel"]
    channels: tuple[str, ...]
    covariance: Float[np.ndarray, "channel channel"]
    method: str


def beamformer(
    raw: mne.io.BaseRaw,
    forward: mne.Forward,
    *,
    noise: mne.Covariance | None = None,
    regularization: float = 0.05,
) -> SpatialFilter:
    """LCMV beamformer with unit noise gain and the orientation of most power.

    Args:
        raw: The recording, already filtered to the band of interest.
        forward: Forward solution; its channels are used as far as they are in the recording and
            not marked bad.
        noise: Noise covariance that makes sensor types comparable; MNE's ad-hoc values (5 fT/cm,
            20 fT, 0.2 µV) if not given.
        regularization: Share of the mean sensor power added to the covariance's diagonal.

    Raises:
        ValueError: No channel in common.
    """
    import mne

    raw, covariance = _picked(raw, forward)
    filters = mne.beamformer.make_lcmv(
        raw.info,
        forward,
        covariance,
        reg=regularization,
        noise_cov=noise if noise is not None else mne.make_ad_hoc_cov(raw.info, verbose="ERROR"),
        pick_ori="max-power",
        weight_norm="unit-noise-gain",
        reduce_rank=_has_silent_orientation(forward),
        rank="info",
        verbose="ERROR",
    )
    response = mne.beamformer.apply_lcmv_raw(_impulses(raw), filters, verbose="ERROR")
    return SpatialFilter(
        np.asarray(response.data, dtype=np.float64),
        tuple(raw.ch_names),
        np.asarray(covariance.data),
        "lcmv",
    )


def minimum_norm(
    raw: mne.io.BaseRaw,
    inverse: mne.minimum_norm.InverseOperator,
    *,
    method: str = "dSPM",
    snr: float = 1.0,
) -> SpatialFilter:
    """The spatial filters of an MNE inverse operator.

    Args:
        raw: The recording.
        inverse: Fixed or free orientations.
        method: "MNE", "dSPM" or "sLORETA".
        snr: Amplitude ratio of signal and noise; 1 suits continuous data, 3 averages.

    Raises:
        ValueError: No channel in common, or an unknown method.
    """
    import mne

    if method not in METHODS[1:]:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS[1:])}.")
    raw, covariance = _picked(raw, inverse)
    response = mne.minimum_norm.apply_inverse_raw(
        _impulses(raw),
        inverse,
        lambda2=1 / snr**2,
        method=method,
        pick_ori=None if int(inverse["source_ori"]) == _FIXED else "vector",
        use_cps=False,
        verbose="ERROR",
    )
    return SpatialFilter(
        np.asarray(response.data, dtype=np.float64),
        tuple(raw.ch_names),
        np.asarray(covariance.data),
        method,
    )


def parcel_weights(
    spatial: SpatialFilter,
    parcels: Parcellation,
    *,
    summary: str = "pc",
    orthogonalize: bool = False,
) -> Float[np.ndarray, "parcel channel"]:
    """Each parcel's time course as a weighted sum of the channels.

    Args:
        spatial: Filters of the sources.
        parcels: Which sources belong to which parcel.
        summary: "pc": first principal component of the parcel's sources, with their mean power;
            "mean": their mean, each turned to agree with that component.
        orthogonalize: Take out the correlation at lag zero between parcels.

    Raises:
        ValueError: Another number of sources, an unknown summary, or more parcels than degrees of
            freedom.
    """
    if summary not in SUMMARIES:
        raise ValueError(f"summary {summary!r} is not one of {', '.join(SUMMARIES)}.")
    sources = _strongest_orientation(spatial)
    if len(sources) != parcels.n_sources:
        raise ValueError(
            f"parcel_weights: filters of {len(sources)} sources, a parcellation of "
            f"{parcels.n_sources}. Make it from the source space of the same operator."
        )
    rows = []
    for members in parcels.members:
        own = sources[members]
        power = own @ spatial.covariance @ own.T
        values, vectors = np.linalg.eigh(power)
        first = vectors[:, -1] * (1.0 if vectors[:, -1].sum() >= 0 else -1.0)
        if summary == "pc":
            gain = np.sqrt(np.trace(power) / len(own) / max(values[-1], np.finfo(float).tiny))
            rows.append(gain * first @ own)
        else:
            rows.append(np.where(first < 0, -1.0, 1.0) @ own / len(own))
    weights = np.stack(rows)
    if orthogonalize:
        weights = orthogonal_mixing(weights @ spatial.covariance @ weights.T) @ weights
    return weights


def parcel_signal(
    raw: mne.io.BaseRaw,
    recording: Recording,
    spatial: SpatialFilter,
    parcels: Parcellation,
    *,
    summary: str = "pc",
    orthogonalize: bool = False,
    event_channel: str | None = None,
) -> Signal:
    """The parcels' time courses of a recording.

    Args:
        raw: The recording the filters were made from.
        recording: What it is.
        spatial: Filters of the sources.
        parcels: As in `parcel_weights`, like the following.
        event_channel: As in `signal_from_raw`.

    Returns:
        Channels of kind SOURCE at the centroids of the parcels. The unit is that of the method:
        standard deviations of the noise (LCMV, dSPM, sLORETA) or nA·m (MNE); `details["parcels"]`
        names it.

    Raises:
        ValueError: As `parcel_weights`.
    """
    where = str(recording.path or recording.id)
    weights = parcel_weights(spatial, parcels, summary=summary, orthogonalize=orthogonalize)
    unit = "nA·m" if spatial.method == "MNE" else "noise SD"
    if spatial.method == "MNE":
        weights = weights / _NANO
    data = np.empty((len(parcels), raw.n_times), dtype=np.float32)
    start = 0
    for piece in _pieces(raw, list(spatial.channels)):
        data[:, start : start + piece.shape[1]] = weights @ piece
        start += piece.shape[1]
    about: Mapping[str, Any] = {
        "method": spatial.method,
        "unit": unit,
        "summary": summary,
        "orthogonalized": orthogonalize,
        "sources": parcels.n_sources,
    }
    events = [*annotated_events(raw, event_channel, where), *clock_gaps(raw, BOUNDARY, where)]
    return Signal(
        data=data,
        sfreq=float(raw.info["sfreq"]),
        sensors=Sensors(
            names=parcels.names,
            kind=np.full(len(parcels), Kind.SOURCE, dtype=np.int8),
            position=parcels.position,
            orientation=np.zeros((len(parcels), 3)),
            frame=parcels.frame,
            region=parcels.names,
        ),
        events=tuple(sorted(events, key=lambda event: (event.onset, event.label))),
        recording=recording,
        history=(
            f"read {recording.path.name if recording.path else recording.id}",
            f"{spatial.method} source estimate of {len(spatial.channels)} channels, {summary} of "
            f"{len(parcels)} parcels" + (", orthogonalized" if orthogonalize else ""),
        ),
        details=details_of(raw) | {"parcels": about},
    )


def read_forward(path: Path) -> mne.Forward:
    """A forward solution from a FIF file (`*-fwd.fif`)."""
    import mne

    return mne.read_forward_solution(path, verbose="ERROR")


def read_inverse(path: Path) -> mne.minimum_norm.InverseOperator:
    """An inverse operator from a FIF file (`*-inv.fif`)."""
    import mne

    return mne.minimum_norm.read_inverse_operator(path, verbose="ERROR")


def _has_silent_orientation(forward: mne.Forward) -> bool:
    """Whether some orientation gives no signal, as radial dipoles do in a sphere."""
    gain = np.asarray(forward["sol"]["data"])
    sources = int(forward["nsource"])
    if gain.shape[1] != 3 * sources:
        return False
    size = np.linalg.svd(gain.reshape(len(gain), sources, 3).swapaxes(0, 1), compute_uv=False)
    return bool((size[:, -1] < _SILENT * size[:, 0]).any())


def _strongest_orientation(spatial: SpatialFilter) -> Float[np.ndarray, "source channel"]:
    if spatial.weights.ndim == 2:
        return spatial.weights
    power = np.einsum(
        "sac,cd,sbd->sab", spatial.weights, spatial.covariance, spatial.weights, optimize=True
    )
    direction = np.linalg.eigh(power)[1][:, :, -1]
    return np.einsum("sa,sac->sc", direction, spatial.weights)


def _picked(
    raw: mne.io.BaseRaw, operator: Mapping[str, Any]
) -> tuple[mne.io.BaseRaw, mne.Covariance]:
    """The channels a recording shares with an operator, without bad ones, and their covariance."""
    import mne

    known = set(operator["info"]["ch_names"])
    chosen = [name for name in raw.ch_names if name in known and name not in set(raw.info["bads"])]
    if not chosen:
        raise ValueError(
            f"The operator's {len(known)} channels (such as {min(known, default='none')!r}) and "
            f"the recording's {len(raw.ch_names)} (such as {raw.ch_names[0]!r}) have no good one "
            "in common. Make the operator from this system's sensors."
        )
    raw = raw.copy().pick(chosen)
    return raw, mne.compute_raw_covariance(raw, method="empirical", verbose="ERROR")


def _impulses(raw: mne.io.BaseRaw) -> mne.io.BaseRaw:
    """One sample per channel that is 1 in that channel and 0 in others.

    What an operator makes of it are the columns of its matrix, whatever whitening, projection and
    compensation it has inside.
    """
    import mne

    return mne.io.RawArray(np.eye(len(raw.ch_names)), raw.info, verbose="ERROR")


def _pieces(raw: mne.io.BaseRaw, names: list[str]) -> Iterator[np.ndarray]:
    step = max(BLOCK_VALUES // len(names), 1)
    for start in range(0, raw.n_times, step):
        yield raw.get_data(picks=names, start=start, stop=min(start + step, raw.n_times))
