"""MIRepNet: a transformer over the tokens of a motor-imagery window on 45 template electrodes.

Pretrained on labelled windows by two losses at once (`MaskedTokensAndClasses`): half of the tokens
are replaced by a learned one, a small decoder gives them back from the others, and a linear head
names the imagined movement. Then fine-tuned on a few windows of one person (`Decode`, with
`readouts.class_head` to go on with the pretrained head).

No positions: what a token knows of its time is what the convolutions left in it.

Source: staraink/MIRepNet (MIT), arXiv 2507.20254.
Axes: batch token dim; token = 99 samples of all channels, every 15 samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding, Tokens
from neurofm.cards import configured
from neurofm.nn.attention_block import AttentionBlock
from neurofm.nn.draw import draw_windows
from neurofm.nn.linear import Linear
from neurofm.shapes import Bool, Float
from neurofm.tokenizers.mirepnet import MIRepNetTokenizer


@dataclass(frozen=True)
class Reconstruction:
    """What a model makes of windows with a part of their tokens hidden.

    Args:
        target: The tokens as they were.
        reconstruction: What was given back for each token.
        hidden: True where a token was hidden.
        logits: One score per class, from the windows with hidden tokens.
    """

    target: Float[Tensor, "batch token dim"]
    reconstruction: Float[Tensor, "batch token dim"]
    hidden: Bool[Tensor, "batch token"]
    logits: Float[Tensor, "batch class"]


@configured
class MIRepNet(nn.Module):
    """Encoder, class head and pretraining decoder. Defaults: the published size.

    Args:
        tokenizer: Trained together with the rest; the published one if not given.
        depth: Blocks of the encoder.
        heads: Of encoder and decoder.
        dropout: Of encoder and decoder, in training mode.
        n_classes: Of pretraining; `Decode` brings a readout of its own.
        decoder_depth: Blocks of the decoder.
        mask_ratio: Fraction of tokens hidden in pretraining.
        decoder: False leaves out decoder and mask token, which only pretraining needs.
    """

    def __init__(
        self,
        tokenizer: MIRepNetTokenizer | None = None,
        *,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.5,
        n_classes: int = 3,
        decoder_depth: int = 2,
        mask_ratio: float = 0.5,
        decoder: bool = True,
    ) -> None:
        super().__init__()
        self.tokenizer = MIRepNetTokenizer() if tokenizer is None else tokenizer
        dim = self.tokenizer.dim
        if dim % heads:
            raise ValueError(f"MIRepNet: dim {dim} is not a multiple of heads {heads}.")
        if not 0 <= mask_ratio <= 1:
            raise ValueError(f"MIRepNet: mask_ratio is {mask_ratio}, expected 0 to 1.")
        self.dim, self.n_classes, self.mask_ratio = dim, n_classes, mask_ratio
        self.blocks = nn.Sequential(
            *(AttentionBlock(dim, heads, dropout=dropout, scale="all") for _ in range(depth))
        )
        self.head = Linear(dim, n_classes)
        self.mask_token: nn.Parameter | None = None
        self.decoder: nn.Sequential | None = None
        if decoder:
            self.mask_token = nn.Parameter(torch.randn(1, 1, dim))
            blocks = (
                AttentionBlock(dim, heads, dropout=dropout, scale="all")
                for _ in range(decoder_depth)
            )
            self.decoder = nn.Sequential(*blocks)

    # Plain tensors

    def hide(self, noise: Float[Tensor, "batch token"]) -> Bool[Tensor, "batch token"]:
        """True where a token is hidden: all but those with the smallest noise."""
        kept = int(noise.shape[1] * (1 - self.mask_ratio))
        return noise.argsort(1).argsort(1) >= kept

    def classify(self, encoded: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch class"]:
        """Scores of the classes of pretraining."""
        return self.head(encoded.mean(1))

    def reconstruct(
        self, tokens: Float[Tensor, "batch token dim"], hidden: Bool[Tensor, "batch token"]
    ) -> Reconstruction:
        """Encode with the hidden tokens replaced in their places, decode, and classify.

        Raises:
            ValueError: The model was built without its decoder.
        """
        if self.decoder is None or self.mask_token is None:
            raise ValueError(
                "MIRepNet: built with `decoder: false`, which cannot pretrain. Build it with "
                "`decoder: true`."
            )
        seen = torch.where(hidden.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        encoded = self.blocks(seen)
        return Reconstruction(tokens, self.decoder(encoded), hidden, self.classify(encoded))

    # Batches

    def tokenize(self, batch: Batch) -> Tokens:
        """The batch's own tokens if it has them, else those of the tokenizer."""
        if batch.tokens is None:
            return self.tokenizer(batch)
        shape = tuple(batch.tokens.values.shape)
        if shape[-1] != self.dim:
            raise ValueError(
                f"MIRepNet: the batch carries tokens of shape {shape}, expected {self.dim} "
                "features. They were made by another tokenizer; make them with this model's "
                "`tokenize`."
            )
        return batch.tokens

    def encode(self, batch: Batch) -> Embedding:
        """Features of each token; their mean is what the class head reads."""
        tokens = self.tokenize(batch)
        return Embedding(tokens=self.blocks(tokens.values), mask=tokens.mask)

    def reconstruct_hidden(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Hide a random part of the tokens, give them back, and classify the windows."""
        tokens = self.tokenize(batch).values
        noise = draw_windows(torch.rand, tokens.shape[:2], generator, tokens.device)
        return self.reconstruct(tokens, self.hide(noise))

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original MIRepNet as ours; unknown keys come back unchanged.

        The original's channel embedding is left out: nothing reads it.
        """
        renamed = {}
        for key, value in state_dict.items():
            if key == "embedding.chan_embed.weight":
                continue
            key = key.replace("decoder.transformer.", "decoder.", 1)
            for old, new in _RENAMED:
                key = key.replace(old, new, 1)
            renamed[key] = value
        return renamed


_RENAMED = (
    ("embedding.conv1.", "tokenizer.temporal."),
    ("embedding.conv2.", "tokenizer.spatial."),
    ("embedding.bn.", "tokenizer.norm."),
    ("embedding.projection.0.", "tokenizer.projection."),
    ("transformer.", "blocks."),
    (".0.fn.0.", ".attention_norm."),
    (".0.fn.1.queries.", ".attention.query."),
    (".0.fn.1.keys.", ".attention.key."),
    (".0.fn.1.values.", ".attention.value."),
    (".0.fn.1.projection.", ".attention.out."),
    (".1.fn.0.", ".feedforward_norm."),
    (".1.fn.1.", ".feedforward."),
    ("clshead.", "head."),
)
