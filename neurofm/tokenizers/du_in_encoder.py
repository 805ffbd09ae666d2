"""What the three stages of Du-IN share: contacts of one person to tokens of 100 ms.

A linear map of each subject's own fuses the channels at every sample, convolutions turn each patch
of the fused signal into one token, and a transformer relates the tokens. There is no activation
between the convolutions, as published.

Source: liulab-repository/Du-IN (MIT), arXiv 2405.11459 (NeurIPS 2024).
Axes: batch channel time; feature = fused channel; token = patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.cards import configured
from neurofm.contract import check_values
from neurofm.io.expectations import compare_input
from neurofm.nn.batch_norm import BatchNorm1d
from neurofm.nn.transformer import initialize
from neurofm.shapes import Float, Int
from neurofm.units import Kind


class SubjectLayer(nn.Module):
    """A linear map for each subject, the same at every sample.

    Args:
        n_in: Channels that come in; a signal with fewer is treated as if zeros followed.
        n_out: Channels that go out.
    """

    def __init__(self, n_subjects: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.n_in, self.n_out = n_in, n_out
        self.weight = nn.Parameter(torch.empty(n_in * n_out, n_subjects))
        self.bias = nn.Parameter(torch.zeros(n_out, n_subjects))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(
        self, x: Float[Tensor, "batch n_in time"], subject: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch n_out time"]:
        """Map each window by its subject's layer."""
        weight = self.weight.t()[subject].unflatten(1, (self.n_in, self.n_out))
        weight = weight[:, : x.shape[1]].transpose(1, 2)
        return torch.baddbmm(self.bias.t()[subject].unsqueeze(-1), weight, x)

    def contribution(self) -> Float[Tensor, "subject n_in"]:
        """Mean absolute weight of each incoming channel.

        Du-IN keeps the ten channels of each subject with the highest value in a model trained on
        all of them. Its own script mixes up subjects when there are several; this does not.
        """
        return self.weight.detach().t().unflatten(1, (self.n_in, self.n_out)).abs().mean(-1)


class PatchConvolutions(nn.Module):
    """Convolutions over the samples of each patch, with batch normalization in between."""

    def __init__(
        self, n_in: int, filters: Sequence[int], kernels: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        widths = zip((n_in, *filters), filters, kernels, strides, strict=False)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride, padding="same" if stride == 1 else kernel // 2)
            for before, after, kernel, stride in widths
        )
        self.norms = nn.ModuleList(BatchNorm1d(width) for width in filters)

    def forward(self, patches: Float[Tensor, "patch feature sample"]) -> Tensor:
        """patch dim; the features of one step lie side by side."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            patches = norm(convolution(patches))
        return patches.transpose(1, 2).flatten(1)


class PostNormBlock(nn.Module):
    """Self-attention and a feed-forward network, each normalized after its sum.

    Queries and keys are normalized within each head.

    Args:
        head_dim: Features of a head; heads need not divide `dim`.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.rate = dropout
        self.query = nn.Linear(dim, heads * head_dim)
        self.key = nn.Linear(dim, heads * head_dim)
        self.value = nn.Linear(dim, heads * head_dim)
        self.query_norm = nn.LayerNorm(head_dim)
        self.key_norm = nn.LayerNorm(head_dim)
        self.out = nn.Linear(heads * head_dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * dim)
        self.dropout = nn.Dropout(dropout)
        self.narrow = nn.Linear(2 * dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query, key = self.query_norm(query), self.key_norm(key)
        rate = self.rate if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
        x = self.attention_norm(x + self.out(seen.transpose(1, 2).flatten(-2)))
        return self.feedforward_norm(x + self.narrow(self.dropout(F.relu(self.widen(x)))))


def transformer(depth: int, dim: int, heads: int, head_dim: int, dropout: float) -> nn.Sequential:
    """Blocks as published: linear weights shrink with the depth of the block."""
    blocks = [PostNormBlock(dim, heads, head_dim, dropout=dropout) for _ in range(depth)]
    for i, block in enumerate(blocks):
        initialize(block)
        for part in block.modules():
            if isinstance(part, nn.Linear):
                part.weight.data.div_(math.sqrt(2 * (i + 1)))
    return nn.Sequential(*blocks)


def add_time(x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
    """Add sines (even features) and cosines (odd ones) of the token's number."""
    dim = x.shape[-1]
    feature = torch.arange(0, dim, 2, device=x.device, dtype=torch.float32)
    number = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
    angle = torch.outer(number, 10000.0 ** (-feature / dim))
    wave = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]
    return x + wave.to(x.dtype)


@configured
class DuInEncoder(nn.Module):
    """Subject layer, patch convolutions and transformer of Du-IN. Defaults: the published size.

    A layer belongs to a subject by its number in the batch (`Batch.subject`) and to its channels
    by their place: the same subjects, in the same order, with the same channels are expected in
    every stage. A number without a layer is an error; people whom a model has not seen get fresh
    layers from `models.for_new_subjects`, which then have to be trained.

    A batch in working units is standardized per window and channel; the original does so per
    channel over all windows of a subject, those of the test side included. Batches in z are taken
    as they are.

    Args:
        n_subjects: People with a layer of their own.
        n_channels: Most channels that one of them has.
        patch: Samples of a token.
        n_fused: Fused channels.
        filters: Features of each convolution.
        kernels: Their sizes, samples.
        strides: Their steps; the token has `filters[-1]` features for each step that is left.
        depth: Blocks of the transformer.
        heads: Of each block.
        head_dim: Features of a head.
        dropout: In attention and feed-forward network, in training mode.
        sfreq: Hz, of the signals it expects.
        kinds: Kinds of channels it accepts.
    """

    by_place = "first"  # a person's channels have weights by their number

    def __init__(
        self,
        n_subjects: int = 1,
        n_channels: int = 10,
        *,
        patch: int = 100,
        n_fused: int = 16,
        filters: Sequence[int] = (128, 128, 16),
        kernels: Sequence[int] = (19, 3, 3),
        strides: Sequence[int] = (10, 1, 1),
        depth: int = 8,
        heads: int = 8,
        head_dim: int = 64,
        dropout: float = 0.2,
        sfreq: float = 1000.0,
        kinds: Sequence[str] = ("seeg",),
    ) -> None:
        super().__init__()
        if not len(filters) == len(kernels) == len(strides):
            raise ValueError(
                f"DuInEncoder: {len(filters)} filters, {len(kernels)} kernels and {len(strides)} "
                "strides; each convolution has one of each."
            )
        if patch % math.prod(strides):
            raise ValueError(
                f"DuInEncoder: patch of {patch} samples is not a multiple of "
                f"{math.prod(strides)}, the product of strides {tuple(strides)}."
            )
        self.n_subjects, self.n_channels = n_subjects, n_channels
        self.patch, self.n_fused = patch, n_fused
        self.sfreq = sfreq
        self.kinds = tuple(Kind[name.upper()] for name in kinds)
        self.heads, self.head_dim, self.dropout = heads, head_dim, dropout
        self.subject = SubjectLayer(n_subjects, n_channels, n_fused)
        self.patches = PatchConvolutions(n_fused, filters, kernels, strides)
        with torch.no_grad():
            self.dim = filters[-1] * _steps(patch, kernels, strides)
        self.blocks = transformer(depth, self.dim, heads, head_dim, dropout)

    # Plain tensors

    def tokens(self, fused: Float[Tensor, "batch feature time"]) -> Tensor:
        """batch token dim: each patch of the fused signal through the convolutions."""
        patches = fused.unflatten(-1, (-1, self.patch)).transpose(1, 2)
        n = patches.shape[:2]
        return self.patches(patches.flatten(0, 1)).unflatten(0, n)

    def relate(self, tokens: Float[Tensor, "batch token dim"]) -> Tensor:
        """batch token dim: tokens with their time through the transformer."""
        return self.blocks(add_time(tokens))

    def forward(
        self, x: Float[Tensor, "batch channel time"], subject: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch token dim"]:
        """Standardized signal to related tokens."""
        return self.relate(self.tokens(self.subject(x, subject)))

    # Batches

    def signal(self, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """Checked and standardized signal, zero in padded channels; never more than `n_channels`.

        Raises:
            ValueError: Rate, unit, kind of channel, length, number of channels, an unknown
                subject, a window without channels, or values that are not finite.
        """
        self.check(batch)
        x, real = batch.x[:, : self.n_channels], batch.channel_mask[:, : self.n_channels]
        real = real.unsqueeze(-1)
        x = torch.where(real, x, 0)
        if batch.unit == "physical":
            x = x - x.mean(-1, keepdim=True)
            # A flat channel stays zero; in working units nothing real is this small.
            x = x / x.square().mean(-1, keepdim=True).clamp(min=1e-12).sqrt()
        return x

    def times(self, batch: Batch) -> Float[Tensor, "batch token"]:
        """Seconds from the start of the window to the middle of each token."""
        n = batch.x.shape[-1] // self.patch
        middle = torch.arange(n, device=batch.x.device, dtype=torch.float32) + 0.5
        return (middle * self.patch / self.sfreq).expand(len(batch), -1)

    def check(self, batch: Batch) -> None:
        """Stop if a batch is not what the model was made for; see `signal`."""
        compare_input(self, batch)
        if abs(batch.sfreq - self.sfreq) > 1e-3 * self.sfreq:
            raise ValueError(
                f"Du-IN: the batch has {batch.sfreq:g} Hz, expected {self.sfreq:g} Hz. Prepare the "
                f"data with Resample(sfreq={self.sfreq:g})."
            )
        if batch.unit not in ("physical", "z"):
            raise ValueError(f"Du-IN: unit {batch.unit!r} is not 'physical' or 'z'.")
        n = batch.x.shape[-1]
        if n < self.patch or n % self.patch:
            near = max(n // self.patch, 1) * self.patch / self.sfreq
            raise ValueError(
                f"Du-IN: a window of {n} samples is not a multiple of the patch of {self.patch}. "
                f"Use window_s: {near:g}."
            )
        check_values(batch, model="Du-IN")
        mask = batch.channel_mask
        if bool(mask[:, self.n_channels :].any()):
            raise ValueError(
                f"Du-IN: a window has {int(mask.sum(1).max())} channels, the model takes "
                f"{self.n_channels}. Choose channels with PickChannels (the paper: the ten with "
                "the largest `SubjectLayer.contribution`), or build the model with more n_channels."
            )
        for value in batch.kind[mask].unique().tolist():
            if Kind(value) not in self.kinds:
                names = ", ".join(kind.name for kind in self.kinds)
                raise ValueError(
                    f"Du-IN: the batch has {Kind(value).name} channels, expected {names}. Prepare "
                    "the data with PickKinds, declare contacts with `kinds` in the dataset card, "
                    "or build the model with other `kinds`."
                )
        last = int(batch.subject.max())
        if last >= self.n_subjects or int(batch.subject.min()) < 0:
            raise ValueError(
                f"Du-IN: subject number {last} has no layer; the model has {self.n_subjects}. "
                "Train on the people the model was made for, or give new people layers of their "
                "own with neurofm.models.for_new_subjects."
            )


def _steps(patch: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Steps that the convolutions leave of a patch."""
    for kernel, stride in zip(kernels, strides, strict=True):
        patch = patch if stride == 1 else (patch + 2 * (kernel // 2) - kernel) // stride + 1
    return patch
