"""TransformerBrainEncoder: areas of the brain ask the image for what concerns them.

A frozen network makes a grid of features of an image. One learned query per area (or hemisphere,
or vertex) gathers features from wherever they are by cross-attention; a linear map per hemisphere
reads vertices out of what the query of their area has gathered. Where a query looked is the
explanation (`attention`). Two routers without attention are the baselines of the paper: a fixed
receptive field for each query, and a convolution with a linear map.

Source: Adeli et al. 2025 (arXiv 2505.17329), Hosseinadeli/transformer_brain_encoder; written from a
description of it.
Axes: batch dim height width; query; channel = vertex, those of the left hemisphere first.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.models.routing_layers import (
    LearnedPositions,
    Memory,
    PlainRoutingLayer,
    Routing,
    RoutingLayer,
    SinePositions,
)
from neurofm.models.transformer_brain_names import ALGONAUTS, rename
from neurofm.nn.linear import Linear
from neurofm.shapes import Bool, Float

_CONV = 256  # features of the linear baseline's convolution


@dataclass(frozen=True)
class Routed:
    """What the encoder makes of images.

    Args:
        tokens: What each query gathered; those of the left hemisphere first. None of the linear
            baseline.
        left: What each query of the hemisphere says of each vertex; without the last axis where a
            vertex has one query.
        right: The same; no vertices and no queries where there is one hemisphere.
        attention: Where each query looked, of each layer: batch query height width, adds up to 1.
    """

    tokens: Tensor | None
    left: Float[Tensor, "batch channel *query"]
    right: Tensor
    attention: tuple[Tensor, ...]


@configured
class TransformerBrainEncoder(nn.Module):
    """Vertices of two hemispheres from a grid of image features.

    Args:
        n_left: Vertices of the left hemisphere.
        n_right: Of the right one; 0 where channels are not sorted by hemisphere, as voxels of a
            volume: all then count as left.
        rois: Areas of a hemisphere, the last one for what lies in no other.
        queries: One query per area and hemisphere ("rois_all"; `set_regions` says which vertices
            belong to which), per vertex ("voxels"), or per hemisphere ("hemis").
        router: "transformer"; "custom_transformer", the original's variant; "spatial_feature" and
            "linear", its baselines.
        n_features: Of the grid; `dim` if not given. Where it differs, a 1 x 1 convolution comes
            first (published for convolutional networks).
        grid: Rows and columns, for the baselines only, which are built for one size.
        stride: Of the linear baseline's convolution: 3 for DINOv2, 2 for CLIP, 1 for ResNets.
        encoder_layers: Self-attention among the tokens of the image before they are asked.
        memory_layer: Whose output is asked, as an index.
        pre_norm: Norms before attention, as published.
        penalty_factor: Of the linear baseline: times the norms of its heads.
        backbone: From images to the grid, frozen. Without it the stimuli are grids.
    """

    left_masks: Tensor
    right_masks: Tensor

    def __init__(
        self,
        n_left: int,
        n_right: int,
        *,
        rois: Sequence[str] = ALGONAUTS,
        queries: str = "rois_all",
        router: str = "transformer",
        n_features: int | None = None,
        grid: Sequence[int] = (31, 31),
        stride: int = 3,
        dim: int = 768,
        heads: int = 16,
        feedforward: int = 1024,
        encoder_layers: int = 0,
        decoder_layers: int = 1,
        memory_layer: int = -1,
        dropout: float = 0.1,
        pre_norm: bool = True,
        positions: str = "sine",
        penalty_factor: float = 0.02,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check(queries=queries, router=router, positions=positions, dim=dim, pre_norm=pre_norm)
        self.n_left, self.n_right, self.n_channels = n_left, n_right, n_left + n_right
        self.rois = tuple(rois) if queries == "rois_all" else ("hemisphere",)
        self.mode, self.router = queries, router
        self.n_features, self.grid, self.dim = n_features or dim, tuple(grid), dim
        self.penalty_factor = penalty_factor
        self.loss_parts = (n_left, n_right)[: 1 + bool(n_right)]  # hemispheres have a loss each
        self.backbone = None if backbone is None else backbone.requires_grad_(False)
        width = dim
        if router == "linear":
            self.input_proj = nn.Conv2d(self.n_features, _CONV, 3, stride=stride, padding=1)
            rows, columns = ((n - 1) // stride + 1 for n in self.grid)
            width = _CONV * rows * columns
        else:
            count = len(self.loss_parts) * len(self.rois)
            count = self.n_channels if queries == "voxels" else count
            self._build_router(count, heads, feedforward, encoder_layers, decoder_layers,
                               memory_layer, dropout, pre_norm, positions)  # fmt: skip
            width = self.n_features if router == "spatial_feature" else dim
            if queries != "voxels":
                whole = len(self.rois) == 1  # then every vertex belongs to it
                for name, n in (("left_masks", n_left), ("right_masks", n_right)):
                    masks = torch.full((len(self.rois), n), whole, dtype=torch.bool)
                    self.register_buffer(name, masks)
        self.left = Linear(width, n_left)
        self.right = Linear(width, n_right) if n_right else None

    def _build_router(
        self,
        count: int,
        heads: int,
        hidden: int,
        encoder_layers: int,
        decoder_layers: int,
        memory_layer: int,
        dropout: float,
        pre_norm: bool,
        positions: str,
    ) -> None:
        dim = self.dim
        if self.router == "spatial_feature":
            self.fields = nn.Parameter(torch.randn(count, self.grid[0] * self.grid[1]))
            return
        if self.n_features != dim:
            self.input_proj = nn.Conv2d(self.n_features, dim, 1)
        self.positions = SinePositions(dim) if positions == "sine" else LearnedPositions(dim)
        how = {"dropout": dropout, "pre_norm": pre_norm}
        self.memory = (
            Memory(dim, heads, hidden, depth=encoder_layers, layer=memory_layer, **how)  # type: ignore[arg-type]
            if encoder_layers
            else None
        )
        custom = self.router == "custom_transformer"
        layers = [
            PlainRoutingLayer(dim, hidden, dropout=dropout)
            if custom
            else RoutingLayer(dim, heads, hidden, **how)  # type: ignore[arg-type]
            for _ in range(decoder_layers)
        ]
        self.routing = Routing(layers, None if custom else nn.LayerNorm(dim))
        for part in (self.memory, self.routing):
            for parameter in () if part is None else part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        self.queries = nn.Parameter(torch.randn(count, dim))

    def train(self, mode: bool = True) -> TransformerBrainEncoder:
        """Training mode, but for the frozen backbone."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def set_regions(
        self, left: Bool[Tensor, "roi channel"], right: Bool[Tensor, "roi vertex"]
    ) -> None:
        """Say which vertices belong to which area, in the order of `rois`; saved with the weights.

        A vertex in two areas gets the sum of what both say, one in none 0, with a warning.

        Raises:
            ValueError: Masks of other areas or vertices.
        """
        if "left_masks" not in self._buffers:
            raise ValueError(
                f"TransformerBrainEncoder: with queries {self.mode!r} and router {self.router!r} "
                "there are no areas to set."
            )
        for side, masks, n in (("left", left, self.n_left), ("right", right, self.n_right)):
            if tuple(masks.shape) != (len(self.rois), n):
                raise ValueError(
                    f"TransformerBrainEncoder: masks of the {side} hemisphere are "
                    f"{list(masks.shape)} (areas, vertices), expected {[len(self.rois), n]}. Are "
                    "they of another person or surface?"
                )
            alone = int((~masks.bool().any(0)).sum())
            if alone:
                warnings.warn(
                    f"TransformerBrainEncoder: {alone} of {n} vertices of the {side} hemisphere "
                    "are in no area and are predicted as 0. Put them into the last one, "
                    f"{self.rois[-1]!r}.",
                    stacklevel=2,
                )
        self.left_masks.copy_(left)
        self.right_masks.copy_(right)

    @property
    def needs_regions(self) -> bool:
        """Whether it has not been said yet which vertices belong to which area."""
        masks = self._buffers.get("left_masks")
        return masks is not None and not bool(masks.any() | self.right_masks.any())

    def take_regions(self, names: Sequence[str]) -> None:
        """The same from one name per channel; empty = the last area, "EBA+FBA-1" = both.

        Raises:
            ValueError: Another number of names than vertices, or an area that is not in `rois`.
        """
        if len(names) != self.n_channels:
            raise ValueError(
                f"TransformerBrainEncoder: {len(names)} names of areas for {self.n_channels} "
                f"vertices ({self.n_left} left, {self.n_right} right)."
            )
        masks = torch.zeros(len(self.rois), self.n_channels, dtype=torch.bool)
        place = {name: i for i, name in enumerate(self.rois)}
        for i, name in enumerate(names):
            for part in name.split("+") if name else [self.rois[-1]]:
                if part not in place:
                    raise ValueError(
                        f"TransformerBrainEncoder: vertex {i} is in {part!r}, which is none of its "
                        f"areas ({', '.join(self.rois)}). List it in `rois`, or leave the name "
                        "empty."
                    )
                masks[place[part], i] = True
        self.set_regions(masks[:, : self.n_left], masks[:, self.n_left :])

    def features(self, stimulus: Tensor) -> Float[Tensor, "batch dim height width"]:
        """The grid of an image, or the grid itself."""
        if self.backbone is None:
            grid = stimulus
        else:
            with torch.no_grad():
                grid = self.backbone(stimulus)
        fixed = self.router in ("spatial_feature", "linear")
        wrong = grid.ndim != 4 or grid.shape[1] != self.n_features
        if wrong or (fixed and tuple(grid.shape[2:]) != self.grid):
            size = f"{self.grid[0]} x {self.grid[1]}" if fixed else "any"
            raise ValueError(
                f"TransformerBrainEncoder: feature grids of shape {list(grid.shape[1:])}, expected "
                f"{self.n_features} features and {size} rows and columns. Are the images of "
                "another size, or the features of another network?"
            )
        return grid

    def route(self, stimulus: Tensor, *, maps: bool = False) -> Routed:
        """All that is known on the way to the vertices.

        Args:
            stimulus: Images, or grids of features (batch dim height width).
            maps: Also where each query looked.
        """
        grid = self.features(stimulus)
        if self.router == "linear":
            flat = self.input_proj(grid).flatten(1)
            sides = [flat[:, :0] if h is None else h(flat) for h in (self.left, self.right)]
            return Routed(None, sides[0], sides[1], ())
        tokens, seen = self._gather(grid, maps)
        split = self.n_left if self.mode == "voxels" else len(self.rois)
        left, right = self._say(self.left, tokens[:, :split]), tokens[:, 0, :0]
        if self.right is not None:
            right = self._say(self.right, tokens[:, split:])
        return Routed(tokens, left, right, seen)

    def _say(self, head: Linear, tokens: Tensor) -> Tensor:
        """What each query says of each vertex of a hemisphere, or each vertex's own of it."""
        if self.mode == "voxels":
            return (tokens * head.weight).sum(2) + head.bias
        said = head(tokens).transpose(1, 2)
        return said[..., 0] if self.mode == "hemis" else said

    def _gather(self, grid: Tensor, maps: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.router == "spatial_feature":
            fields = self.fields.softmax(1)
            tokens = torch.einsum("qt,bdt->bqd", fields, grid.flatten(2))
            where = fields.unflatten(1, self.grid).expand(len(grid), -1, -1, -1)
            return tokens, (where,) if maps else ()
        if self.n_features != self.dim:
            grid = self.input_proj(grid)
        positions = self.positions(grid)
        memory = grid.flatten(2).transpose(1, 2)
        if self.memory is not None:
            memory = self.memory(memory, positions)
        target = memory.new_zeros(len(grid), *self.queries.shape)
        seen = []
        for layer in self.routing.layers:
            target, weights = layer(target, self.queries, memory, positions, maps=maps)
            if weights is not None:
                seen.append(weights.unflatten(2, grid.shape[2:]))
        if self.routing.norm is not None:
            target = self.routing.norm(target)
        return target, tuple(seen)

    def vertices(self, routed: Routed) -> Float[Tensor, "batch channel"]:
        """Of each vertex the sum of what the queries of its areas say.

        Raises:
            ValueError: Nobody has said which vertices belong to which area.
        """
        if routed.left.ndim == 2:
            return torch.cat([routed.left, routed.right], 1)
        if self.needs_regions:
            raise ValueError(
                "TransformerBrainEncoder: nothing says which vertices belong to which area. Call "
                "set_regions with the masks of this person, or take_regions with a name per vertex."
            )
        sides = ((routed.left, self.left_masks), (routed.right, self.right_masks))
        parts = [s if s.ndim == 2 else (s * masks.T).sum(2) for s, masks in sides]
        return torch.cat(parts, 1)

    def respond(self, stimulus: Tensor, *, subject: Tensor | None = None) -> Tensor:
        """batch channel: all vertices, left ones first; a model is of one person"""
        return self.vertices(self.route(stimulus))

    def forward(
        self, stimulus: Tensor, *, subject: Tensor | None = None
    ) -> Float[Tensor, "batch channel"]:
        """The same."""
        return self.respond(stimulus, subject=subject)

    def attention(self, stimulus: Tensor) -> Float[Tensor, "layer batch query height width"]:
        """Where each query looked in each layer; each map adds up to 1."""
        return torch.stack(self.route(stimulus, maps=True).attention)

    def penalty(self) -> Float[Tensor, ""]:
        """What is added to the loss: of the linear baseline, the norms of its heads."""
        heads = [head for head in (self.left, self.right) if head is not None]
        total = torch.stack([p.norm() for head in heads for p in head.parameters()]).sum()
        return self.penalty_factor * total if self.router == "linear" else 0.0 * total

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original's `model` as ours; what it never reads is left out.

        It keeps masks of areas apart from its checkpoints: they are empty here until `set_regions`,
        or whole where there is one area.
        """
        return rename(state_dict)


def _check(*, queries: str, router: str, positions: str, dim: int, pre_norm: bool) -> None:
    choices = (
        ("queries", queries, ("rois_all", "voxels", "hemis")),
        ("router", router, ("transformer", "custom_transformer", "spatial_feature", "linear")),
        ("positions", positions, ("sine", "learned")),
    )
    for name, value, known in choices:
        if value not in known:
            raise ValueError(
                f"TransformerBrainEncoder: {name} is {value!r}, expected one of "
                f"{', '.join(map(repr, known))}."
            )
    if dim % 2:
        raise ValueError(f"TransformerBrainEncoder: dim is {dim}, expected an even number.")
    if router == "custom_transformer" and not pre_norm:
        raise ValueError(
            "TransformerBrainEncoder: the router 'custom_transformer' has norms first only; set "
            "`pre_norm: true`."
        )
    if router == "spatial_feature" and queries == "hemis":
        raise ValueError(
            "TransformerBrainEncoder: the router 'spatial_feature' has queries 'rois_all' or "
            "'voxels' only."
        )


def ensemble_weights(
    r: Float[Tensor, "layer channel"], *, sharpness: float | int = 40.0
) -> Float[Tensor, "layer channel"]:
    """How much the models of each backbone layer count for each vertex; they add up to 1.

    Several models of one layer share its weight: average their predictions first. The original lets
    each of them have it, so that its weights add up to the number of models per layer.

    Args:
        r: Validation correlation of each layer, averaged over its models; NaN counts as 0.
        sharpness: Factor before the softmax.
    """
    return F.softmax(sharpness * torch.nan_to_num(r), dim=0)
