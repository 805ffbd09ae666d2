"""WAVE: volumes of the whole brain, parcel by parcel, read by a causal transformer.

A token is a volume. A class token after the last one has seen them all; what becomes of it is the
embedding of the window, projected into the space of pictures' and captions' embeddings for
contrastive training (`tasks.Retrieve`). Before that the network learns to predict volumes
(`objectives.NextVolume`).

Source: PPWangyc/WAVE (MIT), arXiv 2411.07121; encoder of Thomas et al. 2022 (learning from brains).
Deviations: rows of the time table are found by rounding, unless `time_index: truncate` asks for
what the published weights were trained with; an unused table of one token is left out.
Axes: batch channel time (parcel, volume); batch token dim, the class token behind the volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.contract import Contract
from neurofm.models.fixed_input import fixed_channels
from neurofm.nn.draw import draw_windows
from neurofm.nn.linear import Linear
from neurofm.shapes import Bool, Float, Int

_HEAD = 64  # features of an attention head, as published


class CausalBlock(nn.Module):
    """Attention to earlier tokens and a feed-forward, each on normalized features (GPT-2)."""

    def __init__(self, dim: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.widen = Linear(dim, 4 * dim)
        self.narrow = Linear(4 * dim, dim)

    def forward(
        self, x: Float[Tensor, "batch token dim"], visible: Bool[Tensor, "batch 1 token token"]
    ) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        drop = self.dropout if self.training else 0.0
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.query_key_value(self.attention_norm(x)).chunk(3, -1)
        )
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=drop)
        found = self.out(found.transpose(1, 2).flatten(-2))
        x = x + F.dropout(found, self.dropout, self.training)
        wide = F.gelu(self.widen(self.feedforward_norm(x)), approximate="tanh")
        return x + F.dropout(self.narrow(wide), self.dropout, self.training)


@dataclass(frozen=True)
class PredictedVolume:
    """A volume as it was predicted, as it is, and the one before; batch channel."""

    prediction: Tensor
    target: Tensor
    before: Tensor


@configured
class WAVE(nn.Module):
    """Encoder of parcels' time series. Defaults: the published size.

    Signals should be z-scored (`StandardizeRun`).

    Args:
        n_parcels: Of every window, in a fixed order; 1024 as of the DiFuMo atlas.
        width: Features of a token.
        depth: Blocks.
        heads: Of attention; one for 64 features if not given.
        n_positions: Longest window in volumes, the class token included.
        embed_layers: Layers from parcels to features.
        dropout: Of tokens and attention, in training.
        time_step_s: Resolution of the time table, seconds.
        time_max_s: Latest time in it, seconds from the start of the window.
        time_index: "round" to the nearest row; "truncate" as in the original, which can be off by
            one, and by more where 1 / time_step_s is no whole number.
        n_estimates: Features of the projection, 768 as of CLIP ViT-L/14; None for none.
        pretraining: Whether it has a head that predicts volumes.
        zeroed: Share of entries of the input set to 0 in training; 0.2 as published for contrast.
        shuffled: Order the first so many volumes at random in training (published: 5). It makes
            the code of their times meaningless, so 0 here.
        kinds: Kinds of channels it accepts.
    """

    def __init__(
        self,
        *,
        n_parcels: int = 1024,
        width: int = 768,
        depth: int = 4,
        heads: int | None = None,
        n_positions: int = 512,
        embed_layers: int = 1,
        dropout: float = 0.1,
        time_step_s: float = 0.2,
        time_max_s: float = 300.0,
        time_index: Literal["round", "truncate"] = "round",
        n_estimates: int | None = 768,
        pretraining: bool = False,
        zeroed: float = 0.0,
        shuffled: int = 0,
        kinds: Sequence[str] = ("bold",),
    ) -> None:
        super().__init__()
        heads = max(1, width // _HEAD) if heads is None else heads
        if width % heads or time_index not in ("round", "truncate") or embed_layers < 1:
            raise ValueError(
                f"WAVE: width {width}, heads {heads}, time_index {time_index!r}, embed_layers "
                f"{embed_layers}; expected a multiple, 'round' or 'truncate', and at least 1."
            )
        if not 0 <= zeroed < 1 or shuffled < 0:
            raise ValueError(
                f"WAVE: zeroed {zeroed}, shuffled {shuffled}; expected 0 to 1, and 0+."
            )
        self.dim = width
        self.contract = Contract(kinds=tuple(kinds), n_channels=n_parcels)
        self.time_step_s, self.time_max_s, self.time_index = time_step_s, time_max_s, time_index
        self.zeroed, self.shuffled = zeroed, shuffled
        self.class_token = nn.Parameter(0.02 * torch.randn(n_parcels))
        self.mask_token = nn.Parameter(0.02 * torch.randn(n_parcels))
        layers: list[nn.Module] = []
        for i in range(embed_layers):
            last = i == embed_layers - 1
            layers += [Linear(width if i else n_parcels, width), nn.LayerNorm(width)]
            layers += [nn.Dropout(dropout)] if last else [nn.GELU(), nn.Dropout(dropout)]
        self.embed = nn.Sequential(*layers)
        self.times = nn.Embedding(int(time_max_s / time_step_s) + 1, width)
        self.places = nn.Embedding(n_positions, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(width, heads, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.pooler = nn.Sequential(Linear(width, width), nn.Tanh(), nn.Dropout(dropout))
        for table in (self.times, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.projector = None if n_estimates is None else Linear(width, n_estimates)
        self.n_estimates = n_estimates or width
        self.head = Linear(width, n_parcels) if pretraining else None

    # Plain tensors

    def rows(self, time: Float[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
        """Rows of the time table; times below 0 have the last one.

        Args:
            time: Seconds.

        Raises:
            ValueError: A time beyond the table.
        """
        steps = torch.round(time.float() / self.time_step_s)
        if self.time_index == "truncate":
            steps = torch.trunc(steps * self.time_step_s * int(1 / self.time_step_s))
        index, n = steps.long(), self.times.num_embeddings
        # Asking a GPU would wait for it; there torch itself refuses the index.
        if time.device.type == "cpu" and index.numel() and int(index.max()) >= n:
            raise ValueError(
                f"WAVE: a volume at {float(time.max()):g} s, and times reach {self.time_max_s:g} "
                "s. Use shorter windows, or build it with a larger time_max_s."
            )
        return torch.where(time < 0, n - 1, index)

    def embedded(
        self,
        x: Float[Tensor, "batch time channel"],
        time: Float[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
    ) -> tuple[Float[Tensor, "batch token dim"], Bool[Tensor, "batch token"]]:
        """Tokens with the class token behind the last real volume, and which of them are real.

        Args:
            time: Seconds.
            mask: True = real; padding lies behind the real volumes.
        """
        n, length = mask.shape
        last = mask.sum(1, keepdim=True)
        here = torch.arange(length + 1, device=x.device).expand(n, -1)
        # Volumes behind the class token move by one.
        source = (here - (here > last).long()).clamp(max=length - 1)
        x = torch.gather(x, 1, source.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        is_class = here == last
        x = torch.where(is_class.unsqueeze(-1), self.class_token.to(x.dtype), x)
        time = torch.gather(time, 1, source).masked_fill(is_class, -1.0)
        return self.embed(x) + self.times(self.rows(time)), here <= last

    def attended(
        self, tokens: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token dim"]:
        """Tokens after all blocks; each has seen itself and those before it.

        Raises:
            ValueError: More tokens than positions.
        """
        n = tokens.shape[1]
        if n > self.places.num_embeddings:
            raise ValueError(
                f"WAVE: {n} tokens (volumes and the class token), built for "
                f"{self.places.num_embeddings}. Use shorter windows, or build it with n_positions."
            )
        x = self.dropout(tokens + self.places.weight[:n])
        causal = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        visible = causal & mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, visible)
        return self.norm(x)

    def pooled(
        self, hidden: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch dim"]:
        """What became of the class token."""
        at = mask.sum(1) - 1
        return self.pooler(hidden[torch.arange(len(hidden), device=at.device), at])

    # Batches

    def _volumes(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Volumes, their times and which are real (all), of a batch that keeps the contract."""
        x = fixed_channels(batch, self.contract, model="WAVE").transpose(1, 2)
        n, length = x.shape[:2]
        time = (torch.arange(length, device=x.device) / batch.sfreq).expand(n, -1)
        return x, time, torch.ones(n, length, dtype=torch.bool, device=x.device)

    def encode(self, batch: Batch) -> Embedding:
        """A token for every volume; `summary` is what became of the class token."""
        return self(batch)  # cards are compared before `forward`

    def forward(self, batch: Batch) -> Embedding:
        """As `encode`.

        Raises:
            ValueError: The batch is not what the model was built for.
        """
        x, time, real = self._volumes(batch)
        if self.training:
            x = self._augmented(x)
        tokens, mask = self.embedded(x, time, real)
        hidden = self.attended(tokens, mask)
        return Embedding(hidden[:, :-1], real, summary=self.pooled(hidden, mask))

    def _augmented(self, x: Tensor) -> Tensor:
        if self.shuffled:
            n = min(self.shuffled, x.shape[1])
            order = draw_windows(torch.rand, (len(x), n), None, x.device).argsort(1)
            first = torch.gather(x, 1, order.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            x = torch.cat([first, x[:, n:]], 1)
        if self.zeroed:
            x = x * (draw_windows(torch.rand, tuple(x.shape), None, x.device) >= self.zeroed)
        return x

    def estimates(self, batch: Batch) -> dict[str, Tensor]:
        """What `tasks.Retrieve` compares with targets: batch feature, under "clip".

        Raises:
            ValueError: It was built without a projection.
        """
        if self.projector is None:
            raise ValueError(
                "WAVE: built without a projection (n_estimates: null). Build it with as many "
                "n_estimates as the embeddings have features."
            )
        return {"clip": self.projector(self.encode(batch).pooled())}

    def predict_volume(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> PredictedVolume:
        """Hide a random volume but the first of each window, and predict it from those before.

        Raises:
            ValueError: It was built without `pretraining`, or windows have fewer than two volumes.
        """
        x, time, real = self._volumes(batch)
        n, length = x.shape[:2]
        if self.head is None or length < 2:
            raise ValueError(
                f"WAVE: {'pretraining is off' if self.head is None else 'windows of one volume'}. "
                "Build it with `pretraining: true`, and predict volumes of windows of two or more."
            )
        drawn = draw_windows(torch.rand, (n,), generator, x.device)
        at = 1 + (drawn * (length - 1)).long().clamp(max=length - 2)
        every = torch.arange(n, device=x.device)
        hidden = x.clone()
        hidden[every, at] = self.mask_token.to(x.dtype)
        # Later volumes cannot be seen: attention is causal. The class token has no part in this.
        tokens = self.embed(hidden) + self.times(self.rows(time))
        found = self.attended(tokens, real)[every, at]
        return PredictedVolume(self.head(found), x[every, at], x[every, at - 1])

    def no_decay(self) -> list[Tensor]:
        """Parameters without weight decay."""
        return [self.times.weight, self.places.weight]

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original's encoder as ours; unknown keys come back unchanged.

        Maps stored as (in, out) are turned round, and a table that nothing reads is left out.
        """
        renamed = {}
        for key, value in state_dict.items():
            if key == "decoder.transformer.wte.weight":
                continue
            for old, new in _RENAMED:
                key = new + key.removeprefix(old) if key.startswith(old) else key
            if key.startswith("blocks."):
                _, block, rest = key.split(".", 2)
                for old, new in _IN_BLOCK:
                    rest = new + rest.removeprefix(old) if rest.startswith(old) else rest
                key = f"blocks.{block}.{rest}"
                value = value.T if value.ndim == 2 else value
            elif key in ("class_token", "mask_token"):
                value = value.flatten()
            renamed[key] = value
        return renamed


_RENAMED = (
    ("embedder.cls_embed", "class_token"),
    ("embedder.msk_embed", "mask_token"),
    ("embedder.embed_model.model.", "embed."),
    ("embedder.wt_re.", "times."),
    ("decoder.transformer.wpe.", "places."),
    ("decoder.transformer.h.", "blocks."),
    ("decoder.transformer.ln_f.", "norm."),
    ("decoder.pooler_layer.", "pooler."),
    ("fmri_projector.", "projector."),
)
_IN_BLOCK = (
    ("ln_1.", "attention_norm."),
    ("attn.c_attn.", "query_key_value."),
    ("attn.c_proj.", "out."),
    ("ln_2.", "feedforward_norm."),
    ("mlp.c_fc.", "widen."),
    ("mlp.c_proj.", "narrow."),
)
