"""PatchTransformer: neurofm's own reference model, a transformer over the tokens of any tokenizer.

Tokens are mapped to the width of the model; where their channel is (position, kind, direction) is
added, when they are turns queries and keys (rotary positions in seconds). Any sensors, any number
of channels and any window length go in. Four ways to pretrain: give hidden signal back, name hidden
codes, name the codes that come next, recognise the other view of the same window.

Source: LaBraM (arXiv 2405.18765), CBraMod (arXiv 2412.07236) and BrainOmni (arXiv 2505.18185), of
which it keeps what they share.
Axes: batch token dim; token = row x steps + step, row = channel or latent source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Embedding, Tokenizer, Tokens
from neurofm.cards import configured
from neurofm.models.brainomni import CodePrediction
from neurofm.models.meg_gpt import NextPrediction
from neurofm.models.patch_transformer_layers import Block, Place, layout
from neurofm.models.patch_transformer_masks import Scheme, choose_hidden, vary
from neurofm.nn.transformer import RMSNorm
from neurofm.shapes import Bool, Float
from neurofm.tokenizers.patch import PatchTokenizer

Pretraining = Literal["signal", "codes", "next", "views", "none"]


@dataclass(frozen=True)
class SignalPrediction:
    """What a model gives back of the signal it did not see.

    Args:
        signal: Standardized samples of each token's patch, or a frozen tokenizer's values.
        spectrum: Logarithm of the power of each frequency bin; no bins where there is no patch.
        hidden: True where the model had to predict.
    """

    signal: Float[Tensor, "batch token sample"]
    true_signal: Float[Tensor, "batch token sample"]
    spectrum: Float[Tensor, "batch token frequency"]
    true_spectrum: Float[Tensor, "batch token frequency"]
    hidden: Bool[Tensor, "batch token"]


@configured
class PatchTransformer(nn.Module):
    """Transformer over the tokens of any tokenizer. Defaults: the size of LaBraM base.

    Args:
        tokenizer: One with codes is frozen and stays in evaluation mode; a continuous one is
            learned with the model. A tokenizer with `n_sources` makes tokens of latent sources,
            which get a learned vector each instead of a place on the head.
        dim: Features of a token inside the transformer.
        depth: Blocks.
        heads: Of each block; even for "criss_cross".
        feedforward: Width inside a block's feed-forward; four times `dim` if not given.
        attention: "full" between all tokens, or "criss_cross": half of the heads along a channel's
            steps, half over the channels of a step; memory then grows linearly with channels.
        dropout: After attention and feed-forward, in training mode.
        pretraining: What the head predicts: "signal" (masked reconstruction), "codes" (masked
            codes), "next" (next code: every token sees the present of all channels and the past),
            "views" (contrastive), or "none" for a model without a head. "signal" if not given for a
            continuous tokenizer, else "codes".
        positions: "sensors": where a token's channel is and when, in seconds, known to the model.
            "tokens": only what the tokenizer put into them, as `TrialPatches` does.
        mask_ratio: Share of tokens hidden in masked pretraining.
        mask_scheme: "random" tokens, blocks in "time" or in "space", or either ("blocks").
        mask_block: Steps of a block in time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        dim: int = 200,
        depth: int = 12,
        heads: int = 10,
        feedforward: int | None = None,
        attention: Literal["full", "criss_cross"] = "full",
        dropout: float = 0.0,
        pretraining: Pretraining | None = None,
        positions: str = "sensors",
        mask_ratio: float = 0.5,
        mask_scheme: Scheme = "random",
        mask_block: int = 2,
    ) -> None:
        super().__init__()
        continuous = tokenizer.n_codes == 0
        self.pretraining: Pretraining = pretraining or ("signal" if continuous else "codes")
        _check(dim, heads, attention, self.pretraining, mask_ratio, mask_scheme, positions)
        if continuous and self.pretraining in ("codes", "next"):
            raise ValueError(
                f"PatchTransformer: pretraining {self.pretraining!r} needs codes, which "
                f"{type(tokenizer).__name__} has not. Use pretraining 'signal' or 'views'."
            )
        self.dim, self.depth, self.heads = dim, depth, heads
        self.attention: Literal["full", "criss_cross"] = attention
        self.mask_ratio, self.mask_scheme, self.mask_block = mask_ratio, mask_scheme, mask_block
        # The scale of code vectors differs between tokenizers and says nothing.
        self.norm_in = nn.Identity() if continuous else RMSNorm(tokenizer.dim)
        same = continuous and tokenizer.dim == dim
        self.projection = nn.Identity() if same else nn.Linear(tokenizer.dim, dim)
        self.n_sources = int(getattr(tokenizer, "n_sources", 0))
        self.place: nn.Module | None = None
        if positions == "sensors":
            self.place = nn.Embedding(self.n_sources, dim) if self.n_sources else Place(dim)
        self.blocks = nn.ModuleList(
            Block(dim, heads, feedforward=feedforward, attention=attention, dropout=dropout)
            for _ in range(depth)
        )
        self.norm = RMSNorm(dim)
        if self.pretraining in ("signal", "codes"):
            self.mask_token = nn.Parameter(torch.randn(dim))
        self.n_levels = 1
        n_out = dim
        if self.pretraining in ("codes", "next"):
            if self.pretraining == "codes":
                self.n_levels = int(getattr(tokenizer, "n_levels", 1))
            n_out = self.n_levels * tokenizer.n_codes
        elif self.pretraining == "signal":
            n_out = tokenizer.dim
            learns = any(p.requires_grad for p in cast(nn.Module, tokenizer).parameters())
            if learns and not isinstance(tokenizer, PatchTokenizer) and continuous:
                raise ValueError(
                    f"PatchTransformer: {type(tokenizer).__name__} learns, so that its values are "
                    "no target: they would become equal. Use PatchTokenizer, or pretraining "
                    "'views'."
                )
            if isinstance(tokenizer, PatchTokenizer):
                n_out = tokenizer.n_samples + tokenizer.n_bins
        self.head: nn.Module = nn.Linear(dim, n_out)
        if self.pretraining == "none":
            self.head = nn.Identity()
        elif self.pretraining == "views":
            self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 64))
        self._start()
        self.tokenizer = cast(nn.Module, tokenizer)
        self.frozen_tokenizer = not continuous
        if self.frozen_tokenizer:
            self.tokenizer.requires_grad_(False).eval()

    def _start(self) -> None:
        """Unit variance everywhere. Weights of 0.02, as in larger models, leave the attention of a
        narrow one even for hundreds of steps."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight)
        with torch.no_grad():
            for block in cast("list[Block]", list(self.blocks)):
                for last in (block.out, block.narrow):
                    last.weight.mul_((2 * self.depth) ** -0.5)
            if isinstance(self.head, nn.Linear):
                self.head.weight.mul_(0.1)

    def requires_grad_(self, requires_grad: bool = True) -> PatchTransformer:
        """Freeze or thaw everything but a tokenizer with codes, which stays frozen."""
        super().requires_grad_(requires_grad)
        if self.frozen_tokenizer:
            self.tokenizer.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> PatchTransformer:
        """Switch the mode of everything but a tokenizer with codes, which stays in evaluation."""
        super().train(mode)
        if self.frozen_tokenizer:
            self.tokenizer.eval()
        return self

    # Tokens

    def tokenize(self, batch: Batch) -> Tokens:
        """The batch's own tokens if it has them, else those of the tokenizer."""
        if batch.tokens is None:
            frozen = self.frozen_tokenizer and not batch.x.requires_grad
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                return self.tokenizer(batch)
        found, dim = batch.tokens.values.shape[-1], cast(Any, self.tokenizer).dim
        if found != dim:
            raise ValueError(
                f"PatchTransformer: the batch carries tokens of {found} features, the tokenizer "
                f"makes {dim}. They were made by another; make them with this model's `tokenize`."
            )
        return batch.tokens

    def rows(self, tokens: Tokens) -> int:
        """Rows of the grid that the tokens are, channel by channel; 1 for mixed tokens.

        Raises:
            ValueError: No real token, or not a grid of channels and steps.
        """
        mask = tokens.mask
        if not bool(mask.any(1).all()):
            empty = torch.nonzero(~mask.any(1)).flatten().tolist()
            raise ValueError(
                f"PatchTransformer: windows {empty} of the batch have no real token. Drop windows "
                "whose channel_mask is all False."
            )
        first = tokens.channel[0][mask[0]][0]
        n = tokens.channel.shape[1]
        if int(first) < 0:
            return 1
        steps = int((tokens.channel[0] == first).sum())
        if n % steps == 0:
            channel = tokens.channel.unflatten(1, (-1, steps))
            same = (channel == channel[..., :1]) | ~mask.unflatten(1, (-1, steps))
            if bool(same.all()):
                return n // steps
        raise ValueError(
            f"PatchTransformer: {n} tokens do not come channel by channel with the same steps "
            f"({steps} of the first channel). Use a tokenizer that makes a grid, or attention "
            "'full' with masked pretraining of scheme 'random'."
        )

    def relate(
        self,
        tokens: Tokens,
        batch: Batch,
        *,
        hidden: Bool[Tensor, "batch token"] | None = None,
        rows: int | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Features of every token from all others.

        Args:
            hidden: True = replace the token by the mask token; its place and time stay.
            rows: Of the grid, if known already.
        """
        x = self.projection(self.norm_in(tokens.values.to(self.norm.weight.dtype)))
        if hidden is not None:
            x = torch.where(hidden.unsqueeze(-1), self.mask_token.to(x.dtype), x)
        x = x + self._places(tokens, batch)
        if rows is None:
            rows = self.rows(tokens) if self.attention == "criss_cross" else 1
        at = layout(
            tokens.time,
            tokens.mask,
            rows=rows,
            pairs=0 if self.place is None else self.dim // self.heads // 2,
            attention=self.attention,
            causal=self.pretraining == "next",
        )
        for block in self.blocks:
            x = block(x, at)
        return self.norm(x)

    def _places(self, tokens: Tokens, batch: Batch) -> Tensor | float:
        if self.place is None:
            return 0.0
        known = (tokens.channel >= 0).unsqueeze(-1)
        channel = tokens.channel.clamp(min=0)
        if self.n_sources:
            return self.place(channel.clamp(max=self.n_sources - 1)) * known
        places = self.place(batch)
        found = places.gather(1, channel.unsqueeze(-1).expand(-1, -1, self.dim))
        return found * known

    # Batches

    def encode(self, batch: Batch) -> Embedding:
        """Features of each token; tokens of padding are zero."""
        tokens = self.tokenize(batch)
        x = self.relate(tokens, batch)
        return Embedding(tokens=x * tokens.mask.unsqueeze(-1), mask=tokens.mask)

    def _hide(
        self, tokens: Tokens, batch: Batch, generator: torch.Generator | None
    ) -> tuple[Bool[Tensor, "batch token"], int]:
        """Hidden tokens, and the rows of the grid."""
        rows = self.rows(tokens)
        real = tokens.mask.unflatten(1, (rows, -1))
        place = None
        if not self.n_sources and rows > 1:
            channel = tokens.channel.unflatten(1, (rows, -1))[..., 0].clamp(min=0)
            known = torch.where(batch.has_position.unsqueeze(-1), batch.position, torch.nan)
            place = known.gather(1, channel.unsqueeze(-1).expand(-1, -1, 3)).float()
        hidden = choose_hidden(
            real,
            place,
            ratio=self.mask_ratio,
            scheme=self.mask_scheme,
            block=self.mask_block,
            generator=generator,
        )
        return hidden.flatten(1), rows

    def reconstruct_signal(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> SignalPrediction:
        """Hide a part of the tokens and give their signal back."""
        self._require("signal")
        tokens = self.tokenize(batch)
        hidden, rows = self._hide(tokens, batch, generator)
        found = self.head(self.relate(tokens, batch, hidden=hidden, rows=rows))
        if isinstance(self.tokenizer, PatchTokenizer):
            with torch.no_grad():
                signal = self.tokenizer.patches(batch).values.flatten(1, 2)
                spectrum = self.tokenizer.log_spectrum(signal)
        else:
            signal = self.norm_in(tokens.values).detach()
            spectrum = signal[..., :0]
        n = signal.shape[-1]
        return SignalPrediction(found[..., :n], signal, found[..., n:], spectrum, hidden)

    def predict_hidden(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> CodePrediction:
        """Hide a part of the tokens and predict their codes."""
        self._require("codes")
        tokens = self.tokenize(batch)
        codes = _codes(tokens)
        hidden, rows = self._hide(tokens, batch, generator)
        logits = self.head(self.relate(tokens, batch, hidden=hidden, rows=rows))
        logits = logits.unflatten(-1, (self.n_levels, -1))
        return CodePrediction(logits=logits, codes=codes[..., : self.n_levels], hidden=hidden)

    def predict_next(self, batch: Batch) -> NextPrediction:
        """Scores of each channel's next (coarsest) code.

        A code whose tokenizer looks at more than its own patch tells of its neighbours: with
        overlapping windows the score is flattered.
        """
        self._require("next")
        tokens = self.tokenize(batch)
        codes, rows = _codes(tokens)[..., 0], self.rows(tokens)
        codes, mask = (part.unflatten(1, (rows, -1)) for part in (codes, tokens.mask))
        if codes.shape[2] < 2:
            raise ValueError(
                "PatchTransformer: windows of a single step have no next code. Lengthen window_s."
            )
        x = self.relate(tokens, batch, rows=rows).unflatten(1, (rows, -1))
        return NextPrediction(
            logits=self.head(x[:, :, :-1]).flatten(1, 2),
            codes=codes[:, :, 1:].flatten(1),
            mask=(mask[:, :, 1:] & mask[:, :, :-1]).flatten(1),
        )

    def views(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch feature"], Float[Tensor, "batch feature"]]:
        """Unit vectors of two different views of every window."""
        self._require("views")
        pair = [self.encode(vary(batch, generator=generator)).pooled() for _ in range(2)]
        first, second = (F.normalize(self.head(x).float(), dim=-1) for x in pair)
        return first, second

    def _require(self, pretraining: Pretraining) -> None:
        if self.pretraining != pretraining:
            raise ValueError(
                f"PatchTransformer: this objective needs pretraining {pretraining!r}, the model "
                f"was built with {self.pretraining!r}. Set `pretraining: {pretraining}`."
            )


def _codes(tokens: Tokens) -> Tensor:
    if tokens.codes is None:
        raise ValueError("PatchTransformer: the batch's tokens carry no codes to predict.")
    return tokens.codes


def _check(
    dim: int,
    heads: int,
    attention: str,
    pretraining: str,
    ratio: float,
    scheme: str,
    positions: str,
) -> None:
    for name, value, allowed in (
        ("attention", attention, ("full", "criss_cross")),
        ("pretraining", pretraining, get_args(Pretraining)),
        ("positions", positions, ("sensors", "tokens")),
        ("mask_scheme", scheme, ("random", "time", "space", "blocks")),
    ):
        if value not in allowed:
            raise ValueError(f"PatchTransformer: {name} {value!r} is not one of {allowed}.")
    if dim % heads or (dim // heads) % 2 or (attention == "criss_cross" and heads % 2):
        raise ValueError(
            f"PatchTransformer: dim {dim} must be a multiple of twice the {heads} heads (features "
            "turn in pairs), and heads even for criss-cross attention."
        )
    if not 0 < ratio < 1:
        raise ValueError(f"PatchTransformer: mask_ratio is {ratio}, expected between 0 and 1.")
