"""Brain module: from windows of MEG or EEG to the embedding of what a person saw or heard.

Channels are merged by where they are on the flattened head, mapped by a matrix of the person's own,
and convolved over time. `BrainModule` gives an embedding for every sample (speech);
`ImageBrainModule` one for a window (pictures), or two: one to be found among others by, one to be
close to the true one.

Source: Defossez et al. 2023 (arXiv 2208.12266), facebookresearch/brainmagick; for pictures
Benchetrit et al. 2024 (arXiv 2310.19812), and facebookresearch/neuroai where that says nothing.
Deviations: channels are flattened from their positions by an azimuthal projection, not by MNE's
layouts. Sensors at one place, such as the three of an Elekta chip, are told apart by nothing:
choose one kind (`PickKinds`).
Axes: batch channel time dim; place = two coordinates, 0 to 1 over the channels of a window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.contract import Contract
from neurofm.nn.dilated_conv import Summary, TimeSummary, dilated_blocks
from neurofm.nn.spatial_attention import SpatialAttention, SubjectLinear
from neurofm.shapes import Bool, Float, Int

_CENTRE_M = (0.0, 0.0, 0.04)  # of the head, from which sensors are flattened
_ABSENT = -0.1  # both coordinates of an absent sensor, in the original's tables


def flatten_positions(
    position: Float[Tensor, "batch channel 3"], present: Bool[Tensor, "batch channel"]
) -> Float[Tensor, "batch channel 2"]:
    """Places on the flattened head, each axis from 0 to 1 over the present channels of a window.

    The angle from the vertical becomes the distance from the middle. Absent channels get -0.1.

    Args:
        position: Metres, head frame.
        present: True = its position is known and it is no padding.
    """
    away = position.double() - position.new_tensor(_CENTRE_M).double()
    ring = away[..., :2].norm(dim=-1)
    angle = torch.atan2(ring, away[..., 2])
    flat = away[..., :2] / ring.clamp(min=1e-9).unsqueeze(-1) * angle.unsqueeze(-1)
    real = present.unsqueeze(-1)
    low = flat.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    high = flat.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
    place = (flat - low) / (high - low).clamp(min=1e-9)
    return place.masked_fill(~real, _ABSENT).to(position.dtype)


def present_in(place: Float[Tensor, "batch channel 2"]) -> Bool[Tensor, "batch channel"]:
    """Channels that a table of places does not mark as absent."""
    return (place != place.new_tensor(_ABSENT)).any(-1)


class SensorsToFeatures(nn.Module):
    """What both brain modules share: merge, mix, map by person, convolve.

    Args:
        n_subjects: People with a matrix of their own; None for no such layer.
        merged: Outputs of the spatial attention.
        code: Length of the Fourier code of a place.
        mixed: Outputs of the linear map that follows.
        hidden: Features of the convolutions.
        depth: Convolutions.
        period: Convolutions after which dilation starts again at 1.
        gate_every: Convolutions between gates.
        dropout_radius: Of the spatial dropout, in places.
    """

    def __init__(
        self,
        *,
        n_subjects: int | None,
        merged: int,
        code: int,
        mixed: int,
        hidden: int,
        depth: int,
        kernel: int,
        period: int,
        gate_every: int,
        dropout_radius: float,
    ) -> None:
        super().__init__()
        self.attention = SpatialAttention(merged, code=code, dropout_radius=dropout_radius)
        self.mix = nn.Conv1d(merged, mixed, 1)
        self.person = None if n_subjects is None else SubjectLinear(n_subjects, mixed)
        self.blocks = dilated_blocks(
            mixed, hidden, depth, kernel=kernel, period=period, gate_every=gate_every
        )

    def forward(
        self,
        x: Float[Tensor, "batch channel time"],
        place: Float[Tensor, "few channel 2"],
        present: Bool[Tensor, "few channel"],
        subject: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch hidden time"]:
        """Features over time.

        Raises:
            ValueError: A person beyond those the model was built for.
        """
        x = self.mix(self.attention(x, place, present))
        if self.person is not None:
            n = len(self.person.weight)
            # Asking a GPU would wait for it; there torch itself refuses the index.
            if subject.device.type == "cpu" and len(subject) and int(subject.max()) >= n:
                raise ValueError(
                    f"BrainModule: subject {int(subject.max())} of the batch, built for "
                    f"{n} (numbered from 0). Build it with n_subjects of the data's people, or "
                    "null for no layer of a person's own."
                )
            x = self.person(x, subject)
        return self.blocks(x)


def _read(
    batch: Batch, contract: Contract, baseline_s: float | None, *, model: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Signal, places, who is present, and people, of a batch that keeps the contract."""
    contract.check(batch, model=model)
    position, present = batch.position, batch.channel_mask & batch.has_position
    if _same_sensors(batch):
        position, present = position[:1], present[:1]
    x = batch.x
    if baseline_s is not None:
        n = round(baseline_s * batch.sfreq)
        if not 0 < n <= x.shape[-1]:
            raise ValueError(
                f"{model}: a baseline of {baseline_s:g} s is {n} samples, of windows of "
                f"{x.shape[-1]}. Make it shorter, or null for none."
            )
        x = x - x[..., :n].mean(-1, keepdim=True)
    return x, flatten_positions(position, present), present, batch.subject


def _same_sensors(batch: Batch) -> bool:
    """Whether all windows have the same sensors, as far as can be told without a GPU's answer."""
    parts = (batch.position, batch.channel_mask, batch.has_position)
    if not any(part.stride(0) for part in parts):
        return True
    return batch.x.device.type == "cpu" and all(bool((p == p[:1]).all()) for p in parts)


@configured
class BrainModule(nn.Module):
    """An embedding for every sample of a window. Defaults: as published, for speech.

    Signals should be standardized robustly and clipped (`StandardizeRecording` with `robust` and
    `clip: 20`): batch norm is sensitive to artefacts.

    Args:
        n_subjects: People with a matrix of their own; None for no such layer.
        outputs: Features of the embedding; 1024 as of wav2vec 2.0.
        baseline_s: Seconds at the start of a window whose mean is taken away; None for none.
        kinds: Kinds of channels it accepts; any if empty.
        sfreq: Hz, of the batches it accepts; any if None.

    See `SensorsToFeatures` for the others.
    """

    def __init__(
        self,
        *,
        n_subjects: int | None = 27,
        outputs: int = 1024,
        merged: int = 270,
        code: int = 2048,
        mixed: int = 270,
        hidden: int = 320,
        depth: int = 10,
        kernel: int = 3,
        period: int = 5,
        gate_every: int = 2,
        dropout_radius: float = 0.2,
        baseline_s: float | None = None,
        kinds: Sequence[str] = (),
        sfreq: float | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.baseline_s = outputs, baseline_s
        self.contract = Contract(kinds=tuple(kinds), sfreq=None if sfreq is None else float(sfreq))
        self.features = SensorsToFeatures(
            n_subjects=n_subjects,
            merged=merged,
            code=code,
            mixed=mixed,
            hidden=hidden,
            depth=depth,
            kernel=kernel,
            period=period,
            gate_every=gate_every,
            dropout_radius=dropout_radius,
        )
        self.head = nn.Sequential(
            nn.Conv1d(hidden, 2 * hidden, 1),
            nn.GELU(),
            nn.ConvTranspose1d(2 * hidden, outputs, 1),
        )

    def sequence(
        self,
        x: Float[Tensor, "batch channel time"],
        place: Float[Tensor, "few channel 2"],
        subject: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch dim time"]:
        """Embeddings over time from plain tensors; channels placed at -0.1, -0.1 are absent."""
        return self.head(self.features(x, place, present_in(place), subject))

    def encode(self, batch: Batch) -> Embedding:
        """A token for every sample."""
        return self(batch)  # cards are compared before `forward`

    def forward(self, batch: Batch) -> Embedding:
        """As `encode`.

        Raises:
            ValueError: The batch is not what the model was built for.
        """
        found = _read(batch, self.contract, self.baseline_s, model="BrainModule")
        tokens = self.head(self.features(*found)).transpose(1, 2)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Embedding(tokens, mask)

    def estimates(self, batch: Batch) -> dict[str, Tensor]:
        """What `tasks.Retrieve` compares with targets: batch dim time, under "clip"."""
        return {"clip": self.encode(batch).tokens.transpose(1, 2)}

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of brainmagick's SimpleConv as ours; unknown keys come back unchanged."""
        renamed = {}
        for key, value in state_dict.items():
            for old, new in _RENAMED:
                if key.startswith(old):
                    key = new + key.removeprefix(old)
            kind, _, rest = key.partition(".")
            if kind in ("_sequence", "_glus"):
                block, layer, name = rest.split(".", 2)
                part = "gate" if kind == "_glus" else ("conv", "norm")[int(layer)]
                key = f"features.blocks.{block}.{part}.{name}"
            renamed[key] = value
        return renamed


_RENAMED = (
    ("merger.", "features.attention."),
    ("initial_linear.0.", "features.mix."),
    ("subject_layers.weights", "features.person.weight"),
    ("encoders.meg.sequence.", "_sequence."),
    ("encoders.meg.glus.", "_glus."),
    ("final.", "head."),
)


@configured
class ImageBrainModule(nn.Module):
    """An embedding for a window. Defaults: for pictures, as published where that is stated.

    Args:
        n_times: Samples of every window, which `summary: linear` must know.
        outputs: Features of the embedding; 768 as of CLIP ViT-L/14.
        depth: Convolutions; 4 are the published two blocks of two and a gate.
        width: Features over time before time is summed up.
        summary: How: "linear", "mean" or "attention".
        head_width: Of each of the two perceptrons; no source states it.
        heads: Estimates: "clip", to be found among candidates by; "mse", to be close to the target.

    See `BrainModule` for the others.
    """

    def __init__(
        self,
        *,
        n_times: int | None = 181,
        n_subjects: int | None = 4,
        outputs: int = 768,
        merged: int = 270,
        code: int = 2048,
        mixed: int = 270,
        hidden: int = 320,
        depth: int = 4,
        kernel: int = 3,
        period: int = 5,
        gate_every: int = 2,
        width: int = 2048,
        summary: Summary = "linear",
        head_width: int = 2048,
        heads: Sequence[str] = ("clip", "mse"),
        dropout_radius: float = 0.2,
        baseline_s: float | None = 0.5,
        kinds: Sequence[str] = (),
        sfreq: float | None = None,
    ) -> None:
        super().__init__()
        unknown = sorted(set(heads) - {"clip", "mse"})
        if unknown or "clip" not in heads:
            raise ValueError(f"ImageBrainModule: heads {[*heads]}, expected [clip] or [clip, mse].")
        self.dim, self.baseline_s = outputs, baseline_s
        rate = None if sfreq is None else float(sfreq)
        n = n_times if summary == "linear" else None
        self.contract = Contract(kinds=tuple(kinds), sfreq=rate, n_times=n)
        self.features = SensorsToFeatures(
            n_subjects=n_subjects,
            merged=merged,
            code=code,
            mixed=mixed,
            hidden=hidden,
            depth=depth,
            kernel=kernel,
            period=period,
            gate_every=gate_every,
            dropout_radius=dropout_radius,
        )
        self.widen = nn.Conv1d(hidden, width, 1)
        self.summary = TimeSummary(width, summary, n_times=n)
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(width, head_width), nn.GELU(), nn.Linear(head_width, outputs)
                )
                for name in heads
            }
        )

    def encode(self, batch: Batch) -> Embedding:
        """Features of every sample, and the estimate to be found by as `summary`."""
        return self(batch)

    def forward(self, batch: Batch) -> Embedding:
        """As `encode`.

        Raises:
            ValueError: The batch is not what the model was built for.
        """
        tokens, estimates = self._both(batch, ("clip",))
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Embedding(tokens, mask, summary=estimates["clip"])

    def estimates(self, batch: Batch) -> dict[str, Tensor]:
        """What `tasks.Retrieve` compares with targets, batch dim, by the name of the head."""
        return self._both(batch, tuple(self.heads))[1]

    def _both(self, batch: Batch, heads: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        found = _read(batch, self.contract, self.baseline_s, model="ImageBrainModule")
        x = self.features(*found)
        whole = self.summary(self.widen(x))
        return x.transpose(1, 2), {name: self.heads[name](whole) for name in heads}

    def sensor_weights(self, batch: Batch) -> Float[Tensor, "batch merged channel"]:
        """Share of each channel in each merged output: where the model looks."""
        _, place, present, _ = _read(batch, self.contract, None, model="ImageBrainModule")
        weights = self.features.attention.weights(place, present)
        return weights.expand(len(batch), -1, -1)
