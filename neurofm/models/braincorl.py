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
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from neurofm.cards import configured
from neurofm.models.braincorl_layers import ResidualBlock, SetBlock
from neurofm.models.voxel_weights import VoxelWeights, check_unit_norm
from neurofm.shapes import Bool, Float


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
            parts = (ResidualBlock(a, b, inside, dropout=dropout) for a, b in pairwise(widths))
            return nn.Sequential(*parts)

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
        return self._read(*self.start(stimulus, response, mask))

    def _read(self, x: Tensor, scale: Tensor, seen: Tensor | None) -> Tensor:
        """Weights from tokens."""
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
        return self._start(stimulus, response, mask)

    def _start(
        self, stimulus: Tensor, response: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
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
        response: Float[Tensor, "row voxel"],
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
        parts = self._parts(stimulus, response, max_bytes)
        made = [self._read(*self._start(*part)) for part in parts]
        whole = torch.cat(made)
        return VoxelWeights(whole[:, :-1], whole[:, -1])

    @torch.no_grad()
    def attend(
        self,
        stimulus: Float[Tensor, "stimulus feature"],
        response: Float[Tensor, "row voxel"],
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
            x, scale, seen = self._start(given, answers, mask)
            layers = []
            for block in cast(Iterable[SetBlock], self.blocks):
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
        if stimulus.shape[1] != self.n_features:
            raise ValueError(
                f"BraInCoRL: stimuli of {stimulus.shape[1]} features, expected {self.n_features}."
            )
        check_unit_norm(stimulus, what="BraInCoRL")
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
    def rename_keys(state_dict: dict[str, Any]) -> dict[str, Tensor]:
        """Names of a released file: a plain state dict, or a Lightning checkpoint's."""
        inner: dict[str, Tensor] = state_dict.get("state_dict", state_dict)
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
