"""TFMEncoder: a small transformer over the codes of TFMTokenizer, from all channels of a window.

A token is the sum of vectors for its code, its channel and its frame; a learned token in front
collects the window. Pretrained by masked token prediction, fine-tuned with a new linear head on the
collecting token (`Decode` with `PooledLinear`). The tokenizer stays frozen.

A channel is known by its place: all windows a model sees need the same channels in the same order.

Source: Jathurshan0330/TFM-Tokenizer (MIT), arXiv 2502.16060 (ICLR 2026).
Axes: batch token dim; token = any channel and frame, known by its `channel` and `time`.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding, Tokens
from neurofm.cards import configured
from neurofm.models.brainomni import CodePrediction
from neurofm.nn.draw import draw_windows
from neurofm.nn.linear_attention import LinearTransformer
from neurofm.shapes import Bool, Float, Int
from neurofm.tokenizers.tfm import TFMTokenizer, rename_blocks


@configured
class TFMEncoder(nn.Module):
    """Transformer over single-channel codes. Defaults: the published size, "64x4".

    Args:
        tokenizer: Frozen: its parameters never require gradients and it stays in evaluation mode.
            Published checkpoints of the encoder hold none; without one, batches must carry tokens.
        dim: Features of a token. The vectors of the codes start as the tokenizer's if it has the
            same.
        n_codes: Of the tokenizer; needed only without one.
        n_channels: Most channels of a window.
        max_frames: Most frames of a window.
        depth: Blocks.
        heads: Of the blocks.
        dropout: Of the attention's output, in training mode.
        position_dropout: Of the sum that is a token, in training mode.
        start: "published": the vectors of the codes are the tokenizer's, unit vectors beside which
            those of channels and frames are large. "spread": centred over the codes and scaled to
            unit variance, what a short training needs.
        mask_ratio: Fraction of tokens hidden from the first view in pretraining.
        n_outputs: Of the head; as many as codes if not given, which masked prediction needs.
    """

    position: Tensor
    by_place = "first"  # channels have vectors by their number

    def __init__(
        self,
        tokenizer: TFMTokenizer | None = None,
        *,
        dim: int = 64,
        n_codes: int | None = None,
        n_channels: int = 16,
        max_frames: int = 1000,
        depth: int = 4,
        heads: int = 8,
        dropout: float = 0.2,
        position_dropout: float = 0.1,
        mask_ratio: float = 0.5,
        n_outputs: int | None = None,
        start: Literal["published", "spread"] = "published",
    ) -> None:
        super().__init__()
        if start not in ("published", "spread"):
            raise ValueError(f"TFMEncoder: start {start!r} is not 'published' or 'spread'.")
        made = 8192 if tokenizer is None else tokenizer.n_codes
        if tokenizer is not None and n_codes not in (None, made):
            raise ValueError(f"TFMEncoder: n_codes is {n_codes}, the tokenizer has {made}.")
        self.dim, self.n_levels = dim, 1
        self.n_codes = made if n_codes is None else n_codes
        self.n_channels, self.mask_ratio = n_channels, mask_ratio
        self.collector = nn.Parameter(torch.zeros(1, 1, dim))
        self.code = nn.Embedding(self.n_codes + 1, dim)  # the last one stands for hidden codes
        self.channel = nn.Embedding(n_channels, dim)
        self.register_buffer("position", _sinusoids(max_frames, dim))
        self.position_dropout = nn.Dropout(position_dropout)
        self.blocks = LinearTransformer(dim, depth=depth, heads=heads, dropout=dropout)
        self.head = nn.Linear(dim, self.n_codes if n_outputs is None else n_outputs)
        self.tokenizer = None if tokenizer is None else tokenizer.requires_grad_(False).eval()
        if tokenizer is not None and tokenizer.dim == dim:
            vectors = tokenizer.quantizer.codebook
            if start == "spread":
                vectors = (vectors - vectors.mean(0)) / vectors.std().clamp(min=1e-6)
            with torch.no_grad():
                self.code.weight[:-1].copy_(vectors)

    def requires_grad_(self, requires_grad: bool = True) -> TFMEncoder:
        """Freeze or thaw everything but the tokenizer, which stays frozen."""
        super().requires_grad_(requires_grad)
        if self.tokenizer is not None:
            self.tokenizer.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> TFMEncoder:
        """Switch the mode of everything but the tokenizer, which stays in evaluation mode."""
        super().train(mode)
        if self.tokenizer is not None:
            self.tokenizer.eval()
        return self

    # Plain tensors

    def relate(
        self,
        codes: Int[Tensor, "batch token"],
        channel: Int[Tensor, "batch token"],
        frame: Int[Tensor, "batch token"],
        mask: Bool[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch token_and_one dim"]:
        """Features of the collecting token, then of each token.

        Args:
            codes: `n_codes` stands for a hidden one.
            channel: Place of the channel; ignored, like everything else, where `mask` is False.
        """
        x = self.code(codes) + self.channel(channel.clamp(min=0)) + self.position[0][frame]
        x = torch.cat([self.collector.expand(len(x), -1, -1), self.position_dropout(x)], 1)
        if mask is not None:
            mask = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
        return self.blocks(x, mask)

    def hidden_logits(
        self,
        codes: Int[Tensor, "batch token"],
        channel: Int[Tensor, "batch token"],
        frame: Int[Tensor, "batch token"],
        mask: Bool[Tensor, "batch token"] | None,
        hidden: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "batch token code"]:
        """Scores of each token's code, from the one of two complementary views that lacks it."""
        views = torch.cat(
            [codes.masked_fill(hidden, self.n_codes), codes.masked_fill(~hidden, self.n_codes)]
        )
        twice = None if mask is None else mask.repeat(2, 1)
        x = self.relate(views, channel.repeat(2, 1), frame.repeat(2, 1), twice)[:, 1:]
        first, second = x.chunk(2)
        return self.head(torch.where(hidden.unsqueeze(-1), first, second))

    # Batches

    def tokenize(self, batch: Batch) -> Tokens:
        """The batch's own tokens if it has them, else those of the tokenizer.

        Raises:
            ValueError: No tokenizer, tokens of another one, or more channels or frames than the
                model has vectors for.
        """
        if batch.tokens is not None:
            tokens = batch.tokens
        elif self.tokenizer is not None:
            with torch.no_grad():
                tokens = self.tokenizer(batch)
        else:
            raise ValueError(
                "TFMEncoder: it reads codes, and this one has no tokenizer to make them. Load it "
                "with `load_model(name, tokenizer=...)`, a trained TFMTokenizer."
            )
        if tokens.codes is None:
            raise ValueError("TFMEncoder: the batch's tokens carry no codes.")
        channel = torch.where(tokens.mask, tokens.channel, 0)
        code = torch.where(tokens.mask, tokens.codes[..., 0], 0)
        most = torch.stack([part.max() for part in (channel, code, _frames(tokens))])
        channels, codes, frames = (most + 1).tolist()
        if codes > self.n_codes:
            raise ValueError(
                f"TFMEncoder: the tokens have code {codes - 1}, the model knows {self.n_codes} "
                "codes. They were made by another tokenizer; make them with this model's."
            )
        if channels > self.n_channels:
            raise ValueError(
                f"TFMEncoder: windows of {channels} channels, the model has vectors for "
                f"{self.n_channels}. Choose that many with PickChannels, in the order of the "
                "training, or build the model with `n_channels` of the data."
            )
        if frames > self.position.shape[1]:
            raise ValueError(
                f"TFMEncoder: windows of {frames} frames, the model has positions for "
                f"{self.position.shape[1]}. Shorten window_s or raise `max_frames`."
            )
        return tokens

    def encode(self, batch: Batch) -> Embedding:
        """Features of each token; `summary` is the collecting token."""
        tokens = self.tokenize(batch)
        x = self.relate(*_parts(tokens))
        return Embedding(tokens=x[:, 1:], mask=tokens.mask, summary=x[:, 0])

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """The head on the collecting token: scores of the classes of a published classifier."""
        return self.head(self.encode(batch).pooled())

    def predict_views(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> tuple[CodePrediction, CodePrediction]:
        """Hide a random part of the tokens, then the others; predict what each view lacks."""
        if self.head.out_features != self.n_codes:
            raise ValueError(
                f"TFMEncoder: the head has {self.head.out_features} outputs, predicting codes "
                f"needs {self.n_codes}. Build the model without `n_outputs`."
            )
        tokens = self.tokenize(batch)
        codes, channel, frame, mask = _parts(tokens)
        noise = draw_windows(torch.rand, codes.shape, generator, codes.device)
        hidden = noise < self.mask_ratio
        logits = self.hidden_logits(codes, channel, frame, mask, hidden).unsqueeze(2)
        codes = codes.unsqueeze(-1)
        return (
            CodePrediction(logits=logits, codes=codes, hidden=hidden & mask),
            CodePrediction(logits=logits, codes=codes, hidden=~hidden & mask),
        )

    def predict_hidden(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> CodePrediction:
        """Both views of `predict_views` as one: every token is predicted once."""
        first, second = self.predict_views(batch, generator=generator)
        return CodePrediction(first.logits, first.codes, first.hidden | second.hidden)

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original classifier as ours; unknown keys come back unchanged.

        `index`, the numbers of the channels in order, is left out.
        """
        renamed = {}
        for key, value in state_dict.items():
            key = key.removeprefix("module.")
            if key == "index":
                continue
            for old, new in _RENAMED:
                if key.startswith(old):
                    key = new + key.removeprefix(old)
                    break
            renamed[rename_blocks(key)] = value
        return renamed


def _frames(tokens: Tokens) -> Int[Tensor, "batch token"]:
    return torch.where(tokens.mask, TFMTokenizer.frames_of(tokens), 0)


def _parts(tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    codes = cast(Tensor, tokens.codes)
    return codes[..., 0], tokens.channel, _frames(tokens), tokens.mask


def _sinusoids(length: int, dim: int) -> Float[Tensor, "1 length dim"]:
    """Sines in even, cosines in odd features."""
    place = torch.arange(length).unsqueeze(1)
    rate = 10_000.0 ** (-torch.arange(0, dim, 2) / dim)
    angle = place * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim].unsqueeze(0)


_RENAMED = (
    ("cls_token", "collector"),
    ("eeg_token_embedding.", "code."),
    ("channel_embed.", "channel."),
    ("temporal_pos_embed.pe", "position"),
    ("LAT.layers.layers.", "blocks."),
    ("classification_head.", "head."),
)
