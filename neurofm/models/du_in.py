"""Du-IN: masked code prediction and classification on the contacts of one person.

Stage 2 (`DuIn`) hides half of the tokens and predicts their codes, then the other half; the codes
are those of a trained `DuInTokenizer`. Stage 3 reads classes from all tokens of a window:
`DuInHead` as a readout of `Decode`, or `DuInClassifier`, which holds what published checkpoints do.

Source: liulab-repository/Du-IN (MIT), arXiv 2405.11459 (NeurIPS 2024).
Axes: batch token dim; token = patch of 100 ms of all channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, BrainModel, Embedding, Tokens
from neurofm.cards import build, callable_from_cards, configured, spec_of
from neurofm.models.brainomni import CodePrediction
from neurofm.nn.cosine_quantizer import CosineQuantizer
from neurofm.nn.draw import draw_windows
from neurofm.nn.transformer import initialize
from neurofm.shapes import Bool, Float, Int
from neurofm.tokenizers.du_in import DuInTokenizer, rename_du_in
from neurofm.tokenizers.du_in_encoder import DuInEncoder


@configured
class DuIn(nn.Module):
    """Stage 2 of Du-IN. Defaults: the published size.

    Args:
        encoder: Its own, not the tokenizer's; trained in this stage and in fine-tuning.
        tokenizer: Frozen; makes the codes to predict. Pretraining needs one, encoding does not, and
            published checkpoints of this stage hold none.
        n_codes: Of the tokenizer; needed only without one.
        mask_ratio: Fraction of tokens hidden in the first pass; the second hides the others.
        shift: `encode` in training mode moves each window by up to this fraction of its length, as
            the published fine-tuning does.
    """

    def __init__(
        self,
        encoder: DuInEncoder,
        tokenizer: DuInTokenizer | None = None,
        *,
        n_codes: int | None = None,
        mask_ratio: float = 0.5,
        shift: float = 0.1,
    ) -> None:
        super().__init__()
        made = 2048 if tokenizer is None else tokenizer.n_codes
        if tokenizer is not None and n_codes not in (None, made):
            raise ValueError(f"DuIn: n_codes is {n_codes}, the tokenizer has {made}.")
        self.n_codes = made if n_codes is None else n_codes
        self.dim, self.n_levels = encoder.dim, 1
        self.mask_ratio, self.shift = mask_ratio, shift
        self.encoder = encoder
        self.mask_token = nn.Parameter(torch.empty(encoder.dim))
        self.predict_head = nn.Linear(encoder.dim, self.n_codes)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        initialize(self.predict_head)
        self.tokenizer = None if tokenizer is None else tokenizer.requires_grad_(False).eval()

    def requires_grad_(self, requires_grad: bool = True) -> DuIn:
        """Freeze or thaw everything but the tokenizer, which stays frozen."""
        super().requires_grad_(requires_grad)
        if self.tokenizer is not None:
            self.tokenizer.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> DuIn:
        """Switch the mode of everything but the tokenizer, which stays in evaluation mode."""
        super().train(mode)
        if self.tokenizer is not None:
            self.tokenizer.eval()
        return self

    # Plain tensors

    def hide(self, noise: Float[Tensor, "batch token"]) -> Bool[Tensor, "batch token"]:
        """True where a token is hidden in the first pass: those with the largest noise."""
        kept = int(noise.shape[1] * (1 - self.mask_ratio))
        return noise.argsort(1).argsort(1) >= kept

    def logits(
        self, tokens: Float[Tensor, "batch token dim"], hidden: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token code"]:
        """Scores of the codes; each position is predicted in the pass in which it is hidden."""
        both = torch.cat([hidden, ~hidden])
        x = torch.where(both.unsqueeze(-1), self.mask_token, tokens.repeat(2, 1, 1))
        first, second = self.predict_head(self.encoder.relate(x)).chunk(2)
        return torch.where(hidden.unsqueeze(-1), first, second)

    # Batches

    def tokenize(self, batch: Batch) -> Tokens:
        """The batch's own tokens if it has them, else those of the tokenizer."""
        if batch.tokens is not None:
            return batch.tokens
        if self.tokenizer is None:
            raise ValueError(
                "DuIn: predicting codes needs a tokenizer. Load the model with "
                "`load_model(name, tokenizer=...)`, a trained DuInTokenizer."
            )
        with torch.no_grad():
            return self.tokenizer(batch)

    def encode(self, batch: Batch) -> Embedding:
        """One feature vector for each patch; shifted at random in training mode."""
        return _encode(self.encoder, batch, self.shift if self.training else 0.0)

    def predict_hidden(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> CodePrediction:
        """Predict the codes of all tokens, half of them in each pass."""
        codes = self.tokenize(batch).codes
        if codes is None:
            raise ValueError("DuIn: the batch's tokens carry no codes to predict.")
        fused = self.encoder.subject(self.encoder.signal(batch), batch.subject)
        tokens = self.encoder.tokens(fused)
        if codes.shape[:2] != tokens.shape[:2]:
            raise ValueError(
                f"DuIn: {codes.shape[1]} codes for {tokens.shape[1]} tokens; the tokenizer's patch "
                "differs from the model's."
            )
        hidden = self.hide(draw_windows(torch.rand, tokens.shape[:2], generator, tokens.device))
        scores = self.logits(tokens, hidden)
        return CodePrediction(
            logits=scores.unsqueeze(2), codes=codes[..., :1], hidden=torch.ones_like(hidden)
        )

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original's stage `mae` as ours; unknown keys come back unchanged."""
        names = {
            "mask_emb": "mask_token",
            "cls_block.cls_head.0.0.weight": "predict_head.weight",
            "cls_block.cls_head.0.0.bias": "predict_head.bias",
        }
        return {names.get(key, key): value for key, value in rename_du_in(state_dict).items()}


@configured
class DuInHead(nn.Module):
    """Classes from all tokens of a window, side by side: the readout of Du-IN.

    Args:
        dim: Features of a token.
        n_outputs: Classes.
        n_tokens: Tokens of a window: its length divided by the patch.
        hidden: Widths of the layers in between.
        bounded: Squash the scores into 0 to 1 before the loss, as the original does. It keeps the
            loss from ever falling below that of a probability of e / (e + n_outputs - 1); False
            leaves the scores free.
    """

    def __init__(
        self,
        dim: int = 160,
        n_outputs: int = 61,
        *,
        n_tokens: int = 30,
        hidden: Sequence[int] = (128,),
        bounded: bool = True,
    ) -> None:
        super().__init__()
        self.n_outputs, self.n_tokens, self.bounded = n_outputs, n_tokens, bounded
        widths = (dim * n_tokens, *hidden, n_outputs)
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)
        initialize(self)

    def forward(self, embedding: Embedding) -> Tensor:
        """batch output"""
        if embedding.tokens.shape[1] != self.n_tokens:
            raise ValueError(
                f"DuInHead: windows of {embedding.tokens.shape[1]} tokens, made for "
                f"{self.n_tokens}. Set n_tokens to the window's length divided by the patch."
            )
        x = torch.where(embedding.mask.unsqueeze(-1), embedding.tokens, 0).flatten(1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        x = self.layers[-1](x)
        return x.sigmoid() if self.bounded else x


class ClassContrast(nn.Module):
    """Windows of one class towards each other, all others apart.

    Args:
        dim: Features of a token.
        width: Features of a token's projection.

    Source: Yang et al. 2022 (UniCL), as in Du-IN: each window is compared with itself too, and the
    targets of a row add up to the number of windows of its class. `unused` is part of published
    checkpoints and of nothing else.
    """

    log_scale: Tensor

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)
        self.unused = nn.Linear(dim, width)
        self.register_buffer("log_scale", torch.tensor(2.0))
        initialize(self)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], y: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """Loss; rows and columns of the similarities are the same, so one of them is enough."""
        e = F.normalize(self.project(tokens).flatten(1), dim=-1)
        scores = (self.log_scale.exp() * e @ e.t()).log_softmax(1)
        return -(scores * (y[:, None] == y)).sum(1).mean()


@configured
class DuInClassifier(nn.Module):
    """Stage 3 of Du-IN as published checkpoints hold it. Defaults: the published size.

    Args:
        encoder: Pretrained (`load_model(...).encoder`) or fresh.
        n_outputs: Classes.
        n_tokens: Tokens of a window.
        hidden: See `DuInHead`, also for `bounded`.
        contrast_weight: Of the contrastive loss; 0 as published.
        contrast_dim: Features of its projection.
        n_codes: Of the quantizer that the original carries along in this stage without using it.
        code_dim: Of that quantizer.
        shift: See `DuIn`.
    """

    def __init__(
        self,
        encoder: DuInEncoder,
        *,
        n_outputs: int = 61,
        n_tokens: int = 30,
        hidden: Sequence[int] = (128,),
        bounded: bool = True,
        contrast_weight: float = 0.0,
        contrast_dim: int = 32,
        n_codes: int = 2048,
        code_dim: int = 64,
        shift: float = 0.1,
    ) -> None:
        super().__init__()
        self.dim, self.n_outputs = encoder.dim, n_outputs
        self.contrast_weight, self.shift = contrast_weight, shift
        self.encoder = encoder
        self.quantizer = CosineQuantizer(encoder.dim, n_codes=n_codes, code_dim=code_dim)
        self.contrast = ClassContrast(encoder.dim, contrast_dim)
        self.head = DuInHead(
            encoder.dim, n_outputs, n_tokens=n_tokens, hidden=hidden, bounded=bounded
        )
        initialize(self.quantizer)

    def encode(self, batch: Batch) -> Embedding:
        """One feature vector for each patch; shifted at random in training mode."""
        return _encode(self.encoder, batch, self.shift if self.training else 0.0)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Scores of the classes."""
        return self.head(self.encode(batch))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a labelled batch: "loss" and its parts "classes" and "contrast"."""
        if batch.y is None:
            raise ValueError("DuInClassifier: the batch has no labels.")
        found = self.encode(batch)
        classes = F.cross_entropy(self.head(found), batch.y)
        contrast = self.contrast(found.tokens, batch.y)
        loss = classes + self.contrast_weight * contrast
        return {"loss": loss, "classes": classes, "contrast": contrast}

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original's stage `cls` as ours; unknown keys come back unchanged."""
        renamed = {}
        for key, value in rename_du_in(state_dict).items():
            if key.startswith("cls_block.cls_head."):
                # Its first layer flattens the tokens.
                _, _, number, _, name = key.split(".")
                key = f"head.layers.{int(number) - 1}.{name}"
            for old, new in _CONTRAST:
                key = key.replace(old, new)
            renamed[key] = value
        return renamed


_CONTRAST = (
    ("contra_block.t", "contrast.log_scale"),
    ("contra_block.proj_z.0.", "contrast.project."),
    ("contra_block.proj_y.0.", "contrast.unused."),
)


@callable_from_cards
def for_new_subjects(
    model: BrainModel, *, n_subjects: int, n_channels: int | None = None
) -> BrainModel:
    """A copy of a Du-IN for people it has not seen: fresh subject layers, all else as trained.

    Contacts differ between people, so no layer of another person fits. The fresh layers are random:
    fine-tune the copy, a linear probe reads little from it. A tokenizer is left behind, because its
    codes belong to the people it was trained on.

    Args:
        model: `DuIn`, `DuInClassifier` or `DuInTokenizer`.
        n_subjects: People in the new data.
        n_channels: Most channels that one of them has; as before if not given.
    """
    if not isinstance(model, (DuIn, DuInClassifier, DuInTokenizer)):
        raise TypeError(f"for_new_subjects: {type(model).__name__} has no subject layers.")
    spec = spec_of(model)
    arguments = spec["init_args"]
    arguments["encoder"]["init_args"] |= {
        "n_subjects": n_subjects,
        "n_channels": model.encoder.n_channels if n_channels is None else n_channels,
    }
    if isinstance(model, DuIn):
        arguments |= {"tokenizer": None, "n_codes": model.n_codes}
    made = cast(nn.Module, build(spec))
    own = ("encoder.subject.", "unmix.", "tokenizer.")
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(own)}
    made.load_state_dict(made.state_dict() | state)
    for name in ("card", "seen"):
        if hasattr(model, name):
            setattr(made, name, getattr(model, name))
    return cast(Any, made.train(model.training))


def shift_windows(
    x: Float[Tensor, "batch channel time"],
    fraction: float,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch channel time"]:
    """Move each window in time by up to `fraction` of its length, either way; zeros come in.

    A shift of zero leaves the window as it is; the original blanks it.
    """
    n = x.shape[-1]
    most = int(fraction * n)
    place = draw_windows(torch.rand, (len(x), 1, 1), generator, x.device)
    source = torch.arange(n, device=x.device) - (place * (2 * most + 1)).long() + most
    inside = (source >= 0) & (source < n)
    moved = x.gather(-1, source.clamp(0, n - 1).expand_as(x))
    return torch.where(inside, moved, 0)


def _encode(encoder: DuInEncoder, batch: Batch, shift: float) -> Embedding:
    x = encoder.signal(batch)
    if shift > 0:
        x = shift_windows(x, shift)
    tokens = encoder(x, batch.subject)
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return Embedding(tokens, mask)
