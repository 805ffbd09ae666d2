"""BrainOmni: a transformer over the tokens of BrainTokenizer, pretrained by masked code prediction.

The frozen tokenizer turns any EEG and MEG sensors into latent sources x steps; blocks attend along
steps with half of the features and along sources with the other half.

Source: OpenTSLab/BrainOmni (MIT), arXiv 2505.18185. Deviations, each tested: dropout is off in
evaluation; `num_quantizers_used` may be smaller than the tokenizer's levels; steps that only
complete the last window are not predicted.
Axes: batch source step dim; token = source x steps + step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Embedding, Tokens
from neurofm.cards import configured
from neurofm.nn.draw import draw, draw_windows
from neurofm.nn.linear import Linear
from neurofm.nn.transformer import CrissCrossBlock, initialize
from neurofm.shapes import Bool, Float, Int
from neurofm.tokenizers.brain_tokenizer import BrainTokenizer


@dataclass(frozen=True)
class CodePrediction:
    """What a model predicts of the codes it did not see.

    Args:
        logits: One score per code.
        codes: int64, the tokenizer's codes of the whole window.
        hidden: True where the model had to predict.
    """

    logits: Float[Tensor, "batch token level code"]
    codes: Int[Tensor, "batch token level"]
    hidden: Bool[Tensor, "batch token"]


@configured
class BrainOmni(nn.Module):
    """Transformer over BrainTokenizer's tokens. Defaults: the published tiny size.

    Args:
        tokenizer: Frozen: its parameters never require gradients and it stays in evaluation mode.
            Gradients still flow through it to an input that requires them (attribution).
        lm_dim: Features of a token inside the transformer.
        lm_head: Heads over both attention axes; even.
        lm_depth: Blocks. `encode` skips the last one unless told otherwise.
        mask_ratio: Fraction of tokens hidden in pretraining.
        overlap_ratio: Of the tokenizer's windows.
        num_quantizers_used: Levels to predict, coarse first; all if not given.
        rotary: "rotate" is how the model was trained; "cosine" is what the released code computes
            with the released weights, see `nn.Rotary`.
    """

    def __init__(
        self,
        tokenizer: BrainTokenizer,
        *,
        lm_dim: int = 256,
        lm_head: int = 8,
        lm_depth: int = 12,
        lm_dropout: float = 0.1,
        mask_ratio: float = 0.5,
        overlap_ratio: float = 0.25,
        num_quantizers_used: int | None = None,
        rotary: Literal["rotate", "cosine"] = "rotate",
    ) -> None:
        super().__init__()
        if lm_head % 2 or lm_dim % lm_head or (lm_dim // lm_head) % 2:
            raise ValueError(
                f"BrainOmni: lm_head {lm_head} must be even and lm_dim {lm_dim} a multiple of "
                "twice its value: half of the heads attend along each axis, in pairs of features."
            )
        levels = tokenizer.n_levels if num_quantizers_used is None else num_quantizers_used
        if not 1 <= levels <= tokenizer.n_levels:
            raise ValueError(
                f"BrainOmni: num_quantizers_used is {levels}, the tokenizer has "
                f"{tokenizer.n_levels} levels."
            )
        self.dim = lm_dim
        self.n_sources = tokenizer.n_sources
        self.n_levels = levels
        self.mask_ratio = mask_ratio
        self.overlap_ratio = overlap_ratio
        same = lm_dim == tokenizer.dim
        self.projection = nn.Identity() if same else Linear(tokenizer.dim, lm_dim)
        self.mask_token = nn.Parameter(torch.randn(tokenizer.dim))
        self.blocks = nn.ModuleList(
            CrissCrossBlock(lm_dim, lm_head, dropout=lm_dropout, rotary=rotary)
            for _ in range(lm_depth)
        )
        self.predict_head = Linear(lm_dim, levels * tokenizer.n_codes)
        initialize(self)
        self.tokenizer = tokenizer.requires_grad_(False).eval()

    def requires_grad_(self, requires_grad: bool = True) -> BrainOmni:
        """Freeze or thaw everything but the tokenizer, which stays frozen."""
        super().requires_grad_(requires_grad)
        self.tokenizer.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> BrainOmni:
        """Switch the mode of everything but the tokenizer, which stays in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    # Plain tensors

    def embed(
        self,
        features: Float[Tensor, "batch source step dim"],
        *,
        skip_last_block: bool,
    ) -> Float[Tensor, "batch source step lm_dim"]:
        """Tokenizer features, plus each source's own vector, through the blocks."""
        x = self.projection(features + self.tokenizer.compression.sources.detach().unsqueeze(1))
        for block in self.blocks[: len(self.blocks) - skip_last_block]:
            x = block(x)
        return x

    def hide(
        self,
        features: Float[Tensor, "batch source step dim"],
        mask_rand: Float[Tensor, "batch source step"],
        replace_rand: Float[Tensor, "batch source step"],
        permutation: Int[Tensor, " position"],
    ) -> tuple[Float[Tensor, "batch source step dim"], Bool[Tensor, "batch source step"]]:
        """Replace a random part of the features, and say which.

        Args:
            mask_rand: Uniform; hidden where it is at most `mask_ratio`.
            replace_rand: Uniform; below 0.8 the mask token, else a random other feature vector.
            permutation: Of all positions of the batch, the source of those vectors.
        """
        hidden = mask_rand <= self.mask_ratio
        other = features.flatten(0, 2)[permutation].reshape(features.shape)
        replaced = torch.where((replace_rand < 0.8).unsqueeze(-1), self.mask_token, other)
        return torch.where(hidden.unsqueeze(-1), replaced, features), hidden

    def logits(
        self, features: Float[Tensor, "batch source step dim"]
    ) -> Float[Tensor, "batch source step level code"]:
        """Scores of the codes from (partly hidden) tokenizer features."""
        x = self.embed(features, skip_last_block=False)
        return self.predict_head(x).unflatten(-1, (self.n_levels, -1))

    # Batches

    @property
    def token_options(self) -> dict[str, float]:
        """How the tokenizer is called; part of what stored tokens are known by."""
        return {"overlap": self.overlap_ratio}

    def tokenize(self, batch: Batch) -> Tokens:
        """The batch's own tokens if it has them, else those of the tokenizer."""
        if batch.tokens is not None:
            self._check(batch.tokens)
            return batch.tokens
        with torch.set_grad_enabled(torch.is_grad_enabled() and batch.x.requires_grad):
            return self.tokenizer(batch, **self.token_options)

    def _check(self, tokens: Tokens) -> None:
        shape = tuple(tokens.values.shape)
        if shape[1] % self.n_sources or shape[2] != self.tokenizer.dim:
            raise ValueError(
                f"BrainOmni: the batch carries tokens of shape {shape}, expected (batch, a "
                f"multiple of {self.n_sources} sources, {self.tokenizer.dim}). They were made by "
                "another tokenizer; make them with this model's `tokenize`."
            )

    def encode(self, batch: Batch, *, skip_last_block: bool = True) -> Embedding:
        """Features of unit length, one per source and step.

        `embedding.tokens.unflatten(1, (model.n_sources, -1))` is `batch source step dim`.
        """
        tokens = self.tokenize(batch)
        features = tokens.values.unflatten(1, (self.n_sources, -1))
        x = F.normalize(self.embed(features, skip_last_block=skip_last_block), dim=-1, eps=1e-6)
        return Embedding(tokens=x.flatten(1, 2), mask=tokens.mask)

    def predict_hidden(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> CodePrediction:
        """Hide a random part of the tokens and predict their codes."""
        tokens = self.tokenize(batch)
        if tokens.codes is None:
            raise ValueError("BrainOmni: the batch's tokens carry no codes to predict.")
        features = tokens.values.unflatten(1, (self.n_sources, -1))
        shape, device = features.shape[:3], features.device
        features, hidden = self.hide(
            features,
            draw_windows(torch.rand, shape, generator, device),
            draw_windows(torch.rand, shape, generator, device),
            draw(_permutation, shape, generator, device),
        )
        return CodePrediction(
            logits=self.logits(features).flatten(1, 2),
            codes=tokens.codes[..., : self.n_levels],
            hidden=hidden.flatten(1, 2) & tokens.mask,
        )

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original BrainOmni as ours; unknown keys come back unchanged.

        The rotary tables are left out: they are computed.
        """
        prefix = "tokenizer."
        inner = {
            key.removeprefix(prefix): value
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
        renamed = {prefix + key: value for key, value in BrainTokenizer.rename_keys(inner).items()}
        for key, value in state_dict.items():
            if key.startswith(prefix) or ".rope_embedding_layer." in key:
                continue
            for old, new in _RENAMED:
                key = key.replace(old, new)
            renamed[key] = value
        return renamed


def _permutation(shape: tuple[int, ...], **options: object) -> Tensor:
    return torch.randperm(torch.Size(shape).numel(), **options)  # type: ignore[call-overload]


_RENAMED = (
    (".pre_attn_norm.", ".attention_norm."),
    (".pre_ff_norm.", ".feedforward_norm."),
    (".time_attn.qkv.", ".time_attention.query_key_value."),
    (".time_attn.proj.", ".time_attention.out."),
    (".spatial_attn.qkv.", ".source_attention.query_key_value."),
    (".spatial_attn.proj.", ".source_attention.out."),
    (".ff.layer.", ".feedforward."),
)
