"""BraInCoRL: the linear encoding model of a voxel, read from a few of its responses.

A transformer looks at pairs of a stimulus (its unit-norm embedding) and one voxel's response, and
emits the weights that give the voxel's response to any other stimulus. A new person needs a
context of such pairs and no gradient step. Pairs carry no position: the context is a set.

Source: leomqyu/BraInCoRL (Apache-2.0), arXiv 2505.15813.
Axes: batch = voxel; item = pair of the context; token = registers, then items; feature of a
stimulus; weight = one per feature, then the bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.nn.linear import Linear, linear
from neurofm.shapes import Bool, Float

_UNIT = 0.01  # deviation of a norm from 1 that half precision may leave


def check_unit_norm(features: Float[Tensor, "*batch feature"], *, what: str) -> None:
    """Stop unless every row has length 1, which the weights of the network presume.

    Raises:
        ValueError: With the lengths found.
    """
    norms = torch.linalg.vector_norm(features.float(), dim=-1)
    if norms.numel() and not bool(((norms - 1).abs() <= _UNIT).all()):
        raise ValueError(
            f"{what}: features have lengths of {float(norms.min()):.3g} to "
            f"{float(norms.max()):.3g}, expected 1. Divide each by its length, in training as "
            "later: torch.nn.functional.normalize(features, dim=-1)."
        )


class ResidualBlock(nn.Module):
    """Two linear maps behind norms and leaky rectifiers, beside a bypass."""

    def __init__(self, n_in: int, n_out: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(n_in),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            Linear(n_in, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            Linear(hidden, n_out),
        )
        self.bypass = Linear(n_in, n_out) if n_in != n_out else nn.Identity()

    def forward(self, x: Float[Tensor, "... feature"]) -> Float[Tensor, "... dim"]:
        """The bypass plus the block."""
        return self.bypass(x) + self.block(x)


class SetAttention(nn.Module):
    """Attention whose queries grow with the logarithm of the number of tokens.

    The softmax over more tokens is flatter; queries times log(n) keep it as sharp.
    """

    def __init__(self, dim: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def project(
        self,
        x: Float[Tensor, "batch token dim"],
        scale: Float[Tensor, "#batch 1 1"],
        *,
        only_first: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each batch head token feature."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        dim = x.shape[-1]
        if only_first:
            queries = linear(x[:, :1], weight[:dim])
            keys, values = linear(x, weight[dim:], bias[dim:]).chunk(2, -1)
        else:
            queries, keys, values = linear(x, weight).chunk(3, -1)
            keys, values = keys + bias[dim : 2 * dim], values + bias[2 * dim :]
        # The factor is on the input of the map: it does not reach the bias.
        queries = queries * scale + bias[:dim]
        split = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (queries, keys, values))
        queries, keys, values = split
        return queries, keys, values

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        scale: Float[Tensor, "#batch 1 1"],
        mask: Bool[Tensor, "batch 1 1 token"] | None,
        *,
        only_first: bool = False,
    ) -> Float[Tensor, "batch query dim"]:
        """What each token, or the first alone, gathers from all."""
        queries, keys, values = self.project(x, scale, only_first=only_first)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        return self.out(y.transpose(1, 2).flatten(2))

    def weights(
        self,
        x: Float[Tensor, "batch token dim"],
        scale: Float[Tensor, "#batch 1 1"],
        mask: Bool[Tensor, "batch 1 1 token"] | None,
        *,
        only_first: bool = False,
    ) -> Float[Tensor, "batch query token"]:
        """Attention, mean over heads; rows sum to 1."""
        queries, keys, _ = self.project(x, scale, only_first=only_first)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).mean(1)


class GatedLinear(nn.Module):
    """SwiGLU: two maps to the hidden width, one gating the other, and one back."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.widen = Linear(dim, 2 * hidden)
        self.narrow = Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Each token by itself."""
        gate, value = self.widen(x).chunk(2, -1)
        return self.narrow(F.silu(gate) * value)


class SetBlock(nn.Module):
    """Pre-norm attention and feed-forward part."""

    def __init__(self, dim: int, heads: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SetAttention(dim, heads, dropout=dropout)
        self.feed_forward = GatedLinear(dim, hidden)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        scale: Float[Tensor, "#batch 1 1"],
        mask: Bool[Tensor, "batch 1 1 token"] | None,
        *,
        only_first: bool = False,
    ) -> Float[Tensor, "batch query dim"]:
        """All tokens, or what becomes of the first one."""
        y = x[:, :1] if only_first else x
        y = y + self.attention(self.norm_1(x), scale, mask, only_first=only_first)
        return y + self.feed_forward(self.norm_2(y))


@dataclass(frozen=True)
class VoxelWeights:
    """Linear encoding models of voxels: a `ResponseModel` without a network.

    Args:
        weights: Of unit-norm features, in the unit of the responses.
        bias: Response where all features are 0.
    """

    weights: Float[Tensor, "voxel feature"]
    bias: Float[Tensor, " voxel"]

    @property
    def n_channels(self) -> int:
        """Voxels."""
        return len(self.weights)

    def respond(
        self, stimulus: Float[Tensor, "stimulus feature"], *, subject: Tensor | None = None
    ) -> Float[Tensor, "stimulus voxel"]:
        """Predicted responses to stimuli, from their unit-norm features.

        Raises:
            ValueError: Features not of unit norm, or of another number.
        """
        self._agree(stimulus, what="VoxelWeights.respond")
        return stimulus @ self.weights.T + self.bias

    def selectivity(
        self, direction: Float[Tensor, "query feature"]
    ) -> Float[Tensor, "query voxel"]:
        """How far each voxel follows a direction among the features, without its bias.

        With features of CLIP a direction is the unit-norm embedding of a phrase: which voxels
        answer to "a photo of food".

        Raises:
            ValueError: Directions not of unit norm, or of another number of features.
        """
        self._agree(direction, what="VoxelWeights.selectivity")
        return direction @ self.weights.T

    def _agree(self, features: Tensor, *, what: str) -> None:
        if features.shape[-1] != self.weights.shape[1]:
            raise ValueError(
                f"{what}: {features.shape[-1]} features, the weights are of "
                f"{self.weights.shape[1]}. Use the embedding that they were made for."
            )
        check_unit_norm(features, what=what)


def predict_each(
    weights: Float[Tensor, "batch weight"], query: Float[Tensor, "batch item feature"]
) -> Float[Tensor, "batch item"]:
    """Response of each voxel to stimuli of its own; `VoxelWeights.respond` is for shared ones."""
    return (query @ weights[:, :-1, None]).squeeze(-1) + weights[:, -1:]


@configured
class BraInCoRL(nn.Module):
    """Weights of a voxel's encoding model from its responses to a context. Defaults: DINO's size.

    Args:
        n_features: Of a stimulus: 512 (CLIP ViT-B), 768 (DINO), 1152 (SigLIP).
        dim: Features of a token.
        depth: Transformer blocks.
        hidden: Of their feed-forward parts.
        heads: Of attention.
        n_registers: Learned tokens before the context; the weights are read from the first one.
        early_depth: Residual blocks before the transformer, and, as in the original, also those
            after it.
        early_hidden: Their hidden width, before and after; twice `dim` if not given.
        dropout: In training mode.
    """

    def __init__(
        self,
        n_features: int = 768,
        *,
        dim: int = 800,
        depth: int = 20,
        hidden: int = 2048,
        heads: int = 10,
        n_registers: int = 4,
        early_depth: int = 1,
        early_hidden: int | None = None,
        dropout: float | int = 0.5,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"BraInCoRL: dim {dim} is not a multiple of heads {heads}.")
        if min(n_features, depth, n_registers, early_depth) < 1:
            raise ValueError(
                f"BraInCoRL: n_features {n_features}, depth {depth}, n_registers {n_registers} and "
                f"early_depth {early_depth}; expected at least 1 of each."
            )
        self.n_features, self.dim, self.n_registers = n_features, dim, n_registers
        between = [dim] * (early_depth - 1)
        inside = 2 * dim if early_hidden is None else early_hidden
        self.hidden = max(inside, 2 * hidden)  # widest activation of a token

        def residual(widths: list[int]) -> nn.Sequential:
            pairs = zip(widths[:-1], widths[1:], strict=True)
            return nn.Sequential(*(ResidualBlock(a, b, inside, dropout=dropout) for a, b in pairs))

        self.early = residual([n_features + 1, dim, *between])
        self.registers = nn.Parameter(torch.randn(1, n_registers, dim) / math.sqrt(dim + 1))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            SetBlock(dim, heads, hidden, dropout=dropout) for _ in range(depth)
        )
        self.late = residual([dim, *between, n_features + 1])

    # Plain tensors

    def forward(
        self,
        stimulus: Float[Tensor, "batch item feature"],
        response: Float[Tensor, "batch item"],
        mask: Bool[Tensor, "batch item"] | None = None,
    ) -> Float[Tensor, "batch weight"]:
        """Weights and, last, the bias of each voxel.

        Args:
            stimulus: Unit-norm embeddings of the context.
            response: The voxel's answers to them, z-scored.
            mask: True = a pair of the context; all if not given. Voxels with contexts of different
                sizes may share a batch: each counts its own tokens.

        Raises:
            ValueError: Shapes that do not fit, an empty context, or features not of unit norm.
        """
        x, scale, seen = self.start(stimulus, response, mask)
        for block in self.blocks[:-1]:
            x = block(x, scale, seen)
        # Only the first token is read: the last block need not make the others.
        x = self.blocks[-1](x, scale, seen, only_first=True)
        return self.late(x[:, 0])

    def start(
        self,
        stimulus: Float[Tensor, "batch item feature"],
        response: Float[Tensor, "batch item"],
        mask: Bool[Tensor, "batch item"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens, the factor on queries, and the mask of keys: what the first block is given."""
        self._check(stimulus, response, mask)
        if mask is not None:
            # What stands in padding must not reach a sum, not even NaN times 0.
            stimulus = torch.where(mask.unsqueeze(-1), stimulus, 0)
            response = torch.where(mask, response, 0)
        x = self.early(torch.cat([stimulus, response.unsqueeze(-1)], -1))
        x = torch.cat([self.registers.expand(len(x), -1, -1).to(x.dtype), x], 1)
        x = self.dropout(x)
        if mask is None:
            return x, x.new_tensor(math.log(x.shape[1])).expand(1, 1, 1), None
        count = self.n_registers + mask.sum(1)
        registers = mask.new_ones(len(mask), self.n_registers)
        seen = torch.cat([registers, mask], 1)[:, None, None]
        return x, count.to(x.dtype).log()[:, None, None], seen

    def _check(self, stimulus: Tensor, response: Tensor, mask: Tensor | None) -> None:
        if stimulus.shape[-1] != self.n_features or stimulus.shape[:2] != response.shape:
            raise ValueError(
                f"BraInCoRL: stimuli {tuple(stimulus.shape)} and responses "
                f"{tuple(response.shape)}; expected batch x item x {self.n_features} and "
                "batch x item."
            )
        if not stimulus.shape[1]:
            raise ValueError("BraInCoRL: the context is empty; give at least one pair.")
        if stimulus.is_cuda or torch.compiler.is_compiling():
            return  # the answer would have to be waited for
        if mask is not None and not bool(mask.any(1).all()):
            raise ValueError(
                f"BraInCoRL: {int((~mask.any(1)).sum())} of {len(mask)} voxels have no pair in "
                "their context; leave them out."
            )
        given = stimulus if mask is None else stimulus[mask]
        check_unit_norm(given.detach(), what="BraInCoRL")

    # Many voxels of one person

    @torch.no_grad()
    def read_voxels(
        self,
        stimulus: Float[Tensor, "stimulus feature"],
        response: Float[Tensor, "stimulus voxel"],
        *,
        max_bytes: int = 256_000_000,
    ) -> VoxelWeights:
        """Encoding models of all voxels of a person from one context, many at a time.

        Args:
            stimulus: Unit-norm embeddings of the context.
            response: z-scored; NaN where a voxel was not measured, which shortens its context.
            max_bytes: Of activations at once; at least one voxel is computed at a time. Large
                enough for products of matrices, small enough for the processor's caches.

        Returns:
            On the device and in the type of the network; it must be in evaluation mode.

        Raises:
            ValueError: Shapes that do not fit, features not of unit norm, voxels without any
                response, infinite responses, or a network in training mode.
        """
        check_unit_norm(stimulus, what="BraInCoRL.read_voxels")
        made = [self(*part) for part in self._parts(stimulus, response, max_bytes)]
        whole = torch.cat(made)
        return VoxelWeights(whole[:, :-1], whole[:, -1])

    @torch.no_grad()
    def attend(
        self,
        stimulus: Float[Tensor, "stimulus feature"],
        response: Float[Tensor, "stimulus voxel"],
        *,
        max_bytes: int = 256_000_000,
    ) -> Float[Tensor, "voxel layer stimulus"]:
        """Which stimuli of the context define each voxel: attention of the token that is read.

        Arguments and errors as in `read_voxels`.

        Returns:
            Mean over heads. What is missing to 1 went to the registers.
        """
        made = []
        for given, answers, mask in self._parts(stimulus, response, max_bytes):
            x, scale, seen = self.start(given, answers, mask)
            layers = []
            for block in self.blocks:
                found = block.attention.weights(block.norm_1(x), scale, seen, only_first=True)
                layers.append(found[:, 0, self.n_registers :])
                x = block(x, scale, seen)
            made.append(torch.stack(layers, 1))
        return torch.cat(made)

    def _parts(
        self, stimulus: Tensor, response: Tensor, max_bytes: int
    ) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Contexts of as many voxels as fit."""
        if self.training:
            raise ValueError("BraInCoRL: in training mode, where dropout is on. Call eval() first.")
        if stimulus.ndim != 2 or response.ndim != 2 or len(stimulus) != len(response):
            raise ValueError(
                f"BraInCoRL: {tuple(stimulus.shape)} stimuli and {tuple(response.shape)} responses;"
                " expected stimulus x feature and stimulus x voxel, of the same stimuli."
            )
        answers = response.T
        known = ~answers.isnan()
        if bool(answers.isinf().any()) or not bool(known.any(1).all()):
            raise ValueError(
                f"BraInCoRL: {int((~known.any(1)).sum())} of {len(answers)} voxels have no "
                f"response and {int(answers.isinf().any(1).sum())} infinite ones. Leave them out."
            )
        tokens = len(stimulus) + self.n_registers
        # A token at its widest, with what the block around it keeps.
        one = tokens * (self.hidden + 6 * self.dim + 2 * self.n_features) * stimulus.element_size()
        size = max(1, max_bytes // one)
        return [
            (
                stimulus.expand(len(part), -1, -1),
                part,
                None if bool(whole.all()) else whole,
            )
            for part, whole in zip(answers.split(size), known.split(size), strict=True)
        ]

    # Released files

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of a released file: a plain state dict, or a Lightning checkpoint's."""
        inner = state_dict.get("state_dict", state_dict)
        assert isinstance(inner, dict)
        renamed = {}
        for key, value in inner.items():
            for theirs, ours in _NAMES:
                if key.startswith(theirs) or theirs.startswith("."):
                    key = key.replace(theirs, ours)
            renamed[key] = value
        return renamed


_NAMES = (
    ("cls_token", "registers"),
    ("early_layers.", "early."),
    ("weight_pred.", "late."),
    ("transformer.", "blocks."),
    (".layer_norm_", ".norm_"),
    (".attn.in_proj_", ".attention.query_key_value."),
    (".attn.out_proj.", ".attention.out."),
    (".ffn.linear1.", ".feed_forward.widen."),
    (".ffn.linear2.", ".feed_forward.narrow."),
)
