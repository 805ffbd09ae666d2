"""Tribe: responses of parcels or vertices over time to what was seen, heard and read.

Features of several networks (video, audio, text) over time are narrowed for each kind, put side by
side, and read by a transformer; a map per person, with a low rank in common, says what each parcel
does, averaged down to the volumes of the scanner. In training a whole kind of features is left out
now and then, so that films without words can be predicted, and a person is replaced by the mean of
all, so that somebody new can be.

Source: TRIBE v2 (facebookresearch/tribev2), read for its sizes only and written anew. Not known
from there, and defined here: the order inside the narrowing layers, the number of heads, that one
kind of features always stays, and the mean person as the mean of everybody's map.
Axes: batch time feature; channel = parcel or vertex; volume = sample of the response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.nn.draw import draw_windows
from neurofm.nn.linear import Linear
from neurofm.shapes import Bool, Float, Int


@configured
class Tribe(nn.Module):
    """Encoding model of several kinds of features over time.

    Args:
        n_channels: Parcels or vertices.
        modalities: Layers and features of each kind, such as `{"text": [3, 3072]}`. A stimulus has
            the kinds in this order along its last axis, in each one layer behind the other. What is
            0 throughout, in a window, counts as absent.
        n_subjects: People, in the order of the data's.
        dim: Width of the transformer; a multiple of the number of kinds and of `heads`.
        low_rank: Features that all people share.
        per_volume: Samples of features per volume: 2 for features at 2 Hz and one volume a second.
        longest: Samples that have a position.
        dropout: In the transformer, in training mode.
        modality_dropout: How often a kind of features is left out; one always stays.
        subject_dropout: How often the mean person answers for one.

    Responses follow stimuli by seconds; the published model predicts those 5 s later, which is the
    data's to shift.
    """

    def __init__(
        self,
        n_channels: int,
        *,
        modalities: Mapping[str, Sequence[int]],
        n_subjects: int = 1,
        dim: int = 1152,
        depth: int = 8,
        heads: int = 8,
        low_rank: int = 2048,
        per_volume: float | int = 2,
        longest: int = 1024,
        dropout: float = 0.0,
        modality_dropout: float = 0.3,
        subject_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not modalities or any(len(v) != 2 or min(v) < 1 for v in modalities.values()):
            raise ValueError(
                f"Tribe: modalities {dict(modalities)}, expected layers and features of at least "
                "one kind, such as {'video': [2, 1408]}."
            )
        if dim % len(modalities) or dim % heads:
            raise ValueError(
                f"Tribe: dim is {dim}, expected a multiple of {len(modalities)} kinds of features "
                f"and of {heads} heads."
            )
        if n_subjects < 1 or per_volume <= 0:
            raise ValueError(
                f"Tribe: n_subjects {n_subjects} must be at least 1, per_volume {per_volume} above "
                "0."
            )
        self.n_channels, self.n_subjects = n_channels, n_subjects
        self.sizes = {name: int(layers * dim) for name, (layers, dim) in modalities.items()}
        self.per_volume, self.longest = per_volume, longest
        self.modality_dropout, self.subject_dropout = modality_dropout, subject_dropout
        narrow = dim // len(modalities)
        self.narrow = nn.ModuleDict(
            {
                name: nn.Sequential(nn.LayerNorm(size), Linear(size, narrow), nn.GELU())
                for name, size in self.sizes.items()
            }
        )
        self.positions = nn.Parameter(0.02 * torch.randn(longest, dim))
        layer = nn.TransformerEncoderLayer(
            *(dim, heads, 4 * dim),
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(
            layer, depth, norm=nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.shared = Linear(dim, low_rank)
        self.weight = nn.Parameter(torch.empty(n_subjects, n_channels, low_rank))
        self.bias = nn.Parameter(torch.zeros(n_subjects, n_channels))
        nn.init.normal_(self.weight, std=low_rank**-0.5)

    def split(self, stimulus: Float[Tensor, "batch time feature"]) -> dict[str, Tensor]:
        """The features of each kind.

        Raises:
            ValueError: Another number of features, or more samples than there are positions.
        """
        width = sum(self.sizes.values())
        if stimulus.ndim != 3 or stimulus.shape[2] != width:
            parts = " + ".join(f"{size} {name}" for name, size in self.sizes.items())
            raise ValueError(
                f"Tribe: stimuli of shape {list(stimulus.shape)}, expected batch x time x {width} "
                f"({parts}). Are layers or a kind of features missing, or of another network?"
            )
        if stimulus.shape[1] > self.longest:
            raise ValueError(
                f"Tribe: {stimulus.shape[1]} samples of features, there are positions for "
                f"{self.longest}. Cut shorter segments or raise `longest`."
            )
        parts = stimulus.split(list(self.sizes.values()), 2)
        return dict(zip(self.sizes, parts, strict=True))

    def left_in(
        self, n: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Bool[Tensor, "batch modality"]:
        """Which kinds of features each window keeps: all in evaluation, never none."""
        count = len(self.sizes)
        drawn = draw_windows(torch.rand, (n, count + 1), generator, device)
        keep = drawn[:, :count] >= (self.modality_dropout if self.training else 0.0)
        spared = (drawn[:, count] * count).long().clamp(max=count - 1)
        none = ~keep.any(1, keepdim=True)
        return keep | (none & F.one_hot(spared, count).bool())

    def hidden(
        self,
        stimulus: Float[Tensor, "batch time feature"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """What the transformer makes of the features, before anybody's own map."""
        found = self.split(stimulus)
        keep = self.left_in(len(stimulus), stimulus.device, generator)
        parts = []
        for i, (name, part) in enumerate(found.items()):
            there = keep[:, i] & part.flatten(1).any(1)
            parts.append(self.narrow[name](part) * there[:, None, None])
        x = torch.cat(parts, 2) + self.positions[: stimulus.shape[1]]
        return self.transformer(x)

    def respond(self, stimulus: Tensor, *, subject: Tensor | None = None) -> Tensor:
        """Responses over time, batch x channel x volume.

        Args:
            stimulus: Features of all kinds, batch x time x feature.
            subject: Who (batch); the mean person if not given.

        Raises:
            ValueError: Somebody who is not among the people, or features of another size.
        """
        x = self.shared(self.hidden(stimulus)).transpose(1, 2)
        # Averaged before everybody's own map instead of behind it: the same numbers, less to do.
        x = F.adaptive_avg_pool1d(x, max(round(x.shape[2] / self.per_volume), 1))
        if subject is None:
            return self._answer(self.n_subjects, x)
        people = self._people(len(x), x.device, subject)
        out = x.new_zeros(len(x), self.n_channels, x.shape[2])
        for person in people.unique().tolist():
            rows = (people == person).nonzero().flatten()
            out = out.index_put((rows,), self._answer(person, x[rows]))
        return out

    def _answer(self, person: int, x: Tensor) -> Float[Tensor, "batch channel volume"]:
        """By the map of a person; `n_subjects` stands for the mean person."""
        mean = person == self.n_subjects
        weight = self.weight.mean(0) if mean else self.weight[person]
        bias = self.bias.mean(0) if mean else self.bias[person]
        return torch.matmul(weight, x) + bias.unsqueeze(1)

    def _people(
        self,
        n: int,
        device: torch.device,
        subject: Tensor,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, " batch"]:
        """Whose map answers; `n_subjects` stands for the mean person."""
        if bool(((subject < 0) | (subject >= self.n_subjects)).any()):
            raise ValueError(
                f"Tribe: responses of person {int(subject.max())} are asked for, the model knows "
                f"{self.n_subjects} people (0 to {self.n_subjects - 1}). Leave `subject` out for "
                "the mean person."
            )
        if not self.training or not self.subject_dropout:
            return subject
        drawn = draw_windows(torch.rand, (n,), generator, device)
        return subject.masked_fill(drawn < self.subject_dropout, self.n_subjects)

    def forward(
        self, stimulus: Tensor, *, subject: Tensor | None = None
    ) -> Float[Tensor, "batch channel volume"]:
        """The same."""
        return self.respond(stimulus, subject=subject)
