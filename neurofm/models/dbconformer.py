"""DBConformer: two small transformers on a window, one over its moments, one over its channels.

The temporal branch makes tokens of patches of time, all channels mixed; the spatial branch makes
one token of each channel, all of its time averaged. Their means are put side by side (channels
weighted by a learned attention) and classified.

Windows should be whitened by Euclidean alignment beforehand (`neurofm.data.AlignRecording`).

Source: wzwvv/DBConformer, arXiv 2506.21140 (version 2).
Axes: batch channel time; batch token dim, tokens of time first, then those of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.contract import Contract
from neurofm.models.fixed_input import fixed_channels
from neurofm.nn.attention_block import AttentionBlock, Scale
from neurofm.nn.conv_stem import ConvStem
from neurofm.shapes import Float

BRANCHES = ("both", "temporal", "spatial")


class Blocks(nn.Module):
    """Learned positions, if there are any, and blocks of attention."""

    def __init__(
        self,
        n_tokens: int,
        dim: int,
        *,
        depth: int,
        heads: int,
        dropout: float,
        scale: Scale,
        positions: bool,
    ) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, n_tokens, dim)) if positions else None
        self.blocks = nn.Sequential(
            *(AttentionBlock(dim, heads, dropout=dropout, scale=scale) for _ in range(depth))
        )

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        return self.blocks(tokens if self.position is None else tokens + self.position)


class TemporalBranch(nn.Module):
    """Tokens of patches of time, all channels mixed."""

    def __init__(self, stem: ConvStem, encoder: Blocks) -> None:
        super().__init__()
        self.stem, self.encoder = stem, encoder

    def embed(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch token dim"]:
        """Tokens before positions and blocks."""
        return self.stem(x).transpose(1, 2)

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch token dim"]:
        """Tokens behind the blocks."""
        return self.encoder(self.embed(x))


class SpatialBranch(nn.Module):
    """One token of each channel: the means over time of learned filters of it."""

    def __init__(
        self, dim: int, encoder: Blocks, *, n_filters: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, n_filters, kernel, stride=stride, padding=kernel // 2)
        self.linear = nn.Linear(n_filters, dim)
        self.encoder = encoder

    def embed(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel dim"]:
        """Tokens in the order of channels, before positions and blocks."""
        found = F.elu(self.conv(x.flatten(0, 1).unsqueeze(1))).mean(-1)
        return self.linear(found).unflatten(0, x.shape[:2])

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel dim"]:
        """Tokens behind the blocks."""
        return self.encoder(self.embed(x))


@configured
class DBConformerHead(nn.Module):
    """Classes from the features of both branches by three layers: the readout of DBConformer.

    Args:
        dim: Features of a window: the model's `dim`.
        n_outputs: Classes.
        hidden: Widths of the layers in between.
        dropout: After each of them, in training mode.
    """

    def __init__(
        self,
        dim: int,
        n_outputs: int,
        *,
        hidden: Sequence[int] = (64, 32),
        dropout: Sequence[float] = (0.5, 0.3),
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        layers: list[nn.Module] = []
        for width, share in zip(hidden, dropout, strict=True):
            layers += [nn.Linear(dim, width), nn.ELU(), nn.Dropout(share)]
            dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(dim, n_outputs))

    def forward(self, embedding: Embedding) -> Tensor:
        """batch output"""
        return self.layers(embedding.pooled())


@configured
class DBConformer(nn.Module):
    """Encoder of windows of one montage and length. Defaults: the published size.

    Args:
        n_channels: Of every window.
        n_times: Samples of every window.
        sfreq: Hz, of the batches it accepts.
        patch: Samples of a temporal token; 0.5 s as published.
        dim: Features of a token; a multiple of `heads`. The model's own `dim` is that of a window:
            twice as many if two branches are put side by side.
        n_filters: Filters of a single channel.
        heads: Of both branches.
        temporal_depth: Blocks of the temporal branch.
        spatial_depth: Blocks of the spatial branch.
        n_classes: Of a head of its own (`logits`); None for none, and a readout instead.
        branch: "both", or one alone.
        gated: Mix the means of both branches by a learned gate for each feature instead of putting
            them side by side; channels are then averaged.
        positions: Learned positions of tokens.
        channel_attention: Weigh channels by a learned attention; False averages them.
        attention_scale: "all" divides products of queries and keys by the root of all features, as
            published; "head" by that of a head's, as is usual.
        drop_last_sample: Leave out the last sample of a window, as the original does for all of
            its corpora but one. It changes nothing where a rest behind the last patch is left out.
        dropout: Of tokens, attention and feed-forward, in training mode.
        kernel: Samples of a temporal filter.
        channel_kernel: Samples of a filter of a single channel.
        channel_stride: Samples between its outputs.
        kinds: Kinds of channels it accepts.
    """

    def __init__(
        self,
        *,
        n_channels: int = 22,
        n_times: int = 1001,
        sfreq: float = 250.0,
        patch: int = 125,
        dim: int = 40,
        n_filters: int = 16,
        heads: int = 10,
        temporal_depth: int = 2,
        spatial_depth: int = 2,
        n_classes: int | None = 2,
        branch: Literal["both", "temporal", "spatial"] = "both",
        gated: bool = False,
        positions: bool = True,
        channel_attention: bool = True,
        attention_scale: Scale = "all",
        drop_last_sample: bool = False,
        dropout: float = 0.5,
        kernel: int = 63,
        channel_kernel: int = 25,
        channel_stride: int = 5,
        kinds: Sequence[str] = ("eeg",),
    ) -> None:
        super().__init__()
        if branch not in BRANCHES:
            raise ValueError(f"DBConformer: branch is {branch!r}, expected one of {BRANCHES}.")
        if gated and branch != "both":
            raise ValueError(f"DBConformer: gated mixes two branches, but branch is {branch!r}.")
        n_patches = (n_times - drop_last_sample) // patch
        if n_patches < 1:
            raise ValueError(f"DBConformer: a window of {n_times} samples has no patch of {patch}.")
        self.contract = Contract(
            kinds=tuple(kinds), n_channels=n_channels, n_times=n_times, sfreq=float(sfreq)
        )
        self.dim = dim * (2 if branch == "both" and not gated else 1)
        self.temporal: TemporalBranch | None = None
        self.spatial: SpatialBranch | None = None
        self.gate: nn.Linear | None = None
        self.channel_attention: nn.Sequential | None = None

        def blocks(n_tokens: int, depth: int) -> Blocks:
            return Blocks(
                n_tokens,
                dim,
                depth=depth,
                heads=heads,
                dropout=dropout,
                scale=attention_scale,
                positions=positions,
            )

        if branch != "spatial":
            stem = ConvStem(
                n_channels,
                dim,
                patch=patch,
                kernel=kernel,
                dropout=dropout,
                drop_last_sample=drop_last_sample,
            )
            self.temporal = TemporalBranch(stem, blocks(n_patches, temporal_depth))
        if branch != "temporal":
            self.spatial = SpatialBranch(
                dim,
                blocks(n_channels, spatial_depth),
                n_filters=n_filters,
                kernel=channel_kernel,
                stride=channel_stride,
            )
        if branch == "both" and gated:
            self.gate = nn.Linear(2 * dim, dim)
        elif branch == "both" and channel_attention:
            self.channel_attention = nn.Sequential(
                nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1)
            )
        self.head = None if n_classes is None else DBConformerHead(self.dim, n_classes)

    # Plain tensors

    def tokens(self, x: Float[Tensor, "batch channel time"]) -> list[Tensor]:
        """Of each branch there is, the temporal one first: batch token dim."""
        return [branch(x) for branch in (self.temporal, self.spatial) if branch is not None]

    def channel_weights(
        self, tokens: Float[Tensor, "batch channel dim"]
    ) -> Float[Tensor, "batch channel 1"]:
        """How much each channel counts; they add up to 1."""
        if self.channel_attention is None:
            return tokens.new_full((*tokens.shape[:2], 1), 1 / tokens.shape[1])
        return self.channel_attention(tokens).softmax(1)

    def fuse(self, parts: Sequence[Tensor]) -> Float[Tensor, "batch feature"]:
        """Features of a window from the tokens of each branch, as `tokens` gives them."""
        if len(parts) == 1:
            return parts[0].mean(1)
        temporal, spatial = parts[0].mean(1), parts[1]
        if self.gate is None:
            return torch.cat([temporal, (self.channel_weights(spatial) * spatial).sum(1)], 1)
        share = self.gate(torch.cat([temporal, spatial.mean(1)], 1)).sigmoid()
        return share * spatial.mean(1) + (1 - share) * temporal

    def logits(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch class"]:
        """Scores of the model's own head.

        Raises:
            ValueError: It was built without one.
        """
        if self.head is None:
            raise ValueError(
                "DBConformer: built without a head (n_classes: null). Build it with n_classes, or "
                "use `encode` with DBConformerHead as a readout."
            )
        return self.head.layers(self.fuse(self.tokens(x)))

    # Batches

    def encode(self, batch: Batch) -> Embedding:
        """Tokens of time, then of channels; `summary` is what heads read."""
        return self(batch)  # cards are compared before `forward`

    def forward(self, batch: Batch) -> Embedding:
        """As `encode`.

        Raises:
            ValueError: The batch is not what the model was built for.
        """
        parts = self.tokens(fixed_channels(batch, self.contract, model="DBConformer"))
        tokens = torch.cat(parts, 1)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Embedding(tokens, mask, summary=self.fuse(parts))

    def rename_keys(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original as ours; unknown keys come back unchanged.

        Left out is what this variant does not use: the original holds both branches, and often a
        gate, whatever it computes.
        """
        own = {name for name, value in self.named_children() if value is not None}
        renamed = {}
        for key, value in state_dict.items():
            for old, new in _RENAMED:
                key = key.replace(old, new, 1) if key.startswith(old) else key
            for old, new in _IN_BLOCKS:
                key = key.replace(old, new, 1) if ".blocks." in key else key
            unused = key.partition(".")[0] in _PARTS - own
            positions = f"{key.partition('.')[0]}.encoder.position" == key
            if not unused and not (positions and key not in self.state_dict()):
                renamed[key] = value
        return renamed


_PARTS = {"temporal", "spatial", "gate", "channel_attention", "head"}
_RENAMED = (
    ("pos_embedding_temporal", "temporal.encoder.position"),
    ("pos_embedding_spatial", "spatial.encoder.position"),
    ("embedding.stem.sconv.conv.", "temporal.stem.spatial."),
    ("embedding.stem.sconv.bn.", "temporal.stem.spatial_norm."),
    ("embedding.stem.tconv.0.conv.", "temporal.stem.temporal."),
    ("embedding.stem.tconv.0.bn.", "temporal.stem.temporal_norm."),
    ("channel_embedding.encoder.0.", "spatial.conv."),
    ("channel_embedding.encoder.4.", "spatial.linear."),
    ("temporal_transformer.", "temporal.encoder.blocks."),
    ("spatial_transformer.", "spatial.encoder.blocks."),
    ("spatial_attn_pool.", "channel_attention."),
    ("gate_fc.fc.", "gate."),
    ("classifier.fc.", "head.layers."),
)
_IN_BLOCKS = (
    (".0.fn.0.", ".attention_norm."),
    (".0.fn.1.queries.", ".attention.query."),
    (".0.fn.1.keys.", ".attention.key."),
    (".0.fn.1.values.", ".attention.value."),
    (".0.fn.1.projection.", ".attention.out."),
    (".1.fn.0.", ".feedforward_norm."),
    (".1.fn.1.", ".feedforward."),
)
