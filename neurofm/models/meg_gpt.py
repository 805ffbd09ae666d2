"""MEG-GPT: predict the next code of every channel from the codes before it.

A frozen EphysTokenizer makes one code of every sample of every channel. A decoder attends to the
past of each channel (and, if asked, over channels), compressing it into longer patches and fewer
samples from layer to layer. The same model continues a recording (`generate`) and describes one
(`encode`: the last layer's output, without labels of the recording).

Source: OHBA-analysis/MEG-GPT (MIT), arXiv 2510.18080. Deviations: attention masks are computed, not
loaded; `channel_embedding_dim: null` tells channels not apart, for any sensors; a recording may
have fewer channels than `n_channels`.
Axes: batch channel time; token = channel x steps + step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding, Tokens
from neurofm.cards import configured
from neurofm.models.meg_gpt_layers import CodeEmbedding, DecoderLayer, Norm, layer_shapes
from neurofm.models.meg_gpt_names import rename_meg_gpt
from neurofm.nn.sampling import Sampling, choose, draw_codes
from neurofm.shapes import Bool, Float, Int
from neurofm.tokenizers.ephys_tokenizer import EphysTokenizer

Labels = Sequence[Int[Tensor, "batch label_time"] | None]


@dataclass(frozen=True)
class NextPrediction:
    """What a model predicts of the codes that come next.

    Args:
        logits: One score per code.
        codes: int64, what came.
        mask: True = of a real channel.
    """

    logits: Float[Tensor, "batch token code"]
    codes: Int[Tensor, "batch token"]
    mask: Bool[Tensor, "batch token"]


@configured
class MegGPT(nn.Module):
    """Decoder-only transformer over EphysTokenizer's codes. Defaults: the published size.

    Lists have one entry for each layer; `None` stands for the same in every layer.

    Args:
        tokenizer: Frozen; the model has as many codes as it has labels. Published checkpoints
            hold none.
        n_codes: Of the tokenizer; needed only without one.
        sequence_length: Context in samples: `n_patches_in[0]` times `patch_len_in[0]`.
        n_channels: Most channels; without `channel_embedding_dim` and channel attention any number.
        extra_label_specs: Labels of a recording whose embedding is added, each with `name`,
            `n_classes`, `label_dim`, perhaps `init_weights` (class by label_dim; published: how
            often each code occurs in the recording) and `of`: "recording" or "subject" of a batch;
            without it a batch has no such label, and nothing is added.
        n_patches_in: Patches of each layer's input, `patch_len_in` samples long.
        n_patches_out: With `patch_len_out`, each layer's output: the next layer's input.
        unpatched_len_in: Latest samples attended to uncompressed.
        l_patched_b: Band of attention, in patches; see `nn.visible_patches`.
        l_unpatched_b: Band of attention to the uncompressed samples.
        do_chan_attention: Attend over channels before time.
        do_cross_attention: See `LayerShape`; needs channel attention.
        chan_attention_mask: True = a channel (row) never looks at that channel (column).
        chan_attn_chandim: Mix channels into so many keys for channel attention.
        full_channel_attention_dropout: Probability of leaving the channel branch out of a step.
        loss_sequence_length: Last steps of a context whose next code is predicted in training.
    """

    def __init__(
        self,
        tokenizer: EphysTokenizer | None = None,
        *,
        n_codes: int | None = None,
        sequence_length: int = 100,
        n_channels: int = 52,
        embedding_dim: int = 256,
        token_embedding_dim: int = 256,
        pos_embedding_dim: int = 256,
        pos_embedding_type: Literal["absolute", "sinusoidal", "rope"] = "absolute",
        rope_base: float = 10_000.0,
        channel_embedding_dim: int | None = 256,
        extra_label_specs: Sequence[dict[str, Any]] | None = None,
        n_heads: int = 4,
        model_dim: int = 256,
        n_patches_in: Sequence[int] = (100, 25, 20, 10, 8),
        patch_len_in: Sequence[int] = (1, 4, 4, 8, 8),
        n_patches_out: Sequence[int] = (25, 20, 10, 8, 16),
        patch_len_out: Sequence[int] = (4, 4, 8, 8, 1),
        unpatched_len_in: Sequence[int] | None = None,
        l_patched_b: Sequence[int | None] | None = None,
        l_unpatched_b: Sequence[int | None] | None = None,
        do_chan_attention: Sequence[bool] | None = None,
        do_cross_attention: Sequence[bool] | None = None,
        chan_attention_mask: Sequence[Sequence[Sequence[bool]] | None] | None = None,
        chan_attn_chandim: int | None = None,
        full_channel_attention_dropout: float = 0.1,
        channel_attention_channel_dropout: float = 0.1,
        time_attention_channel_dropout: float = 0.0,
        feed_forward_dim: int = 1024,
        feed_forward_activation: str = "gelu",
        dropout: float = 0.2,
        norm_type: Norm = "layer",
        n_groups: int | None = None,
        loss_sequence_length: int = 16,
    ) -> None:
        super().__init__()
        depth, none = len(n_patches_in), [None] * len(n_patches_in)
        lists: dict[str, Sequence[Any]] = {
            "n_patches": n_patches_in,
            "patch": patch_len_in,
            "length_out": [n * p for n, p in zip(n_patches_out, patch_len_out, strict=True)],
            "recent": unpatched_len_in or [0] * depth,
            "band": l_patched_b or none,
            "recent_band": l_unpatched_b or none,
            "channels": do_chan_attention or [False] * depth,
            "cross": do_cross_attention or [False] * depth,
            "channel_hidden": chan_attention_mask or none,
        }
        shapes = layer_shapes(lists, sequence_length, loss_sequence_length)
        made = (n_codes or 66) if tokenizer is None else tokenizer.n_codes
        if n_codes not in (None, made):
            raise ValueError(f"MegGPT: n_codes is {n_codes}, the tokenizer has {made}.")
        self.dim, self.n_codes, self.n_levels = model_dim, made, 1
        self.sequence_length, self.loss_length = sequence_length, loss_sequence_length
        self.specs = [dict(spec) for spec in extra_label_specs or ()]
        free = channel_embedding_dim is None and not any(shape.channels for shape in shapes)
        self.n_channels, self.by_place = (None if free else n_channels), "first"
        self.channel_drop = full_channel_attention_dropout
        self.norm_type = norm_type
        self.embedding = CodeEmbedding(
            self.n_codes,
            embedding_dim,
            n_times=sequence_length,
            n_channels=n_channels,
            token_dim=token_embedding_dim,
            position_dim=pos_embedding_dim,
            channel_dim=channel_embedding_dim,
            position=pos_embedding_type,
            labels=self.specs,
        )
        same = embedding_dim == model_dim
        self.project = nn.Identity() if same else nn.Linear(embedding_dim, model_dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(
                shape,
                model_dim,
                n_heads,
                n_channels,
                n_channel_keys=chan_attn_chandim,
                feed_forward_dim=feed_forward_dim,
                activation=feed_forward_activation,
                dropout=dropout,
                time_channel_dropout=time_attention_channel_dropout,
                channel_dropout=channel_attention_channel_dropout,
                norm_type=norm_type,
                n_groups=n_groups,
                rotary_base=rope_base if pos_embedding_type == "rope" else None,
            )
            for shape in shapes
        )
        self.head = nn.Linear(model_dim, self.n_codes)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        self.tokenizer = None if tokenizer is None else tokenizer.requires_grad_(False).eval()

    def requires_grad_(self, requires_grad: bool = True) -> MegGPT:
        """Freeze or thaw everything but the tokenizer, which stays frozen."""
        super().requires_grad_(requires_grad)
        if self.tokenizer is not None:
            self.tokenizer.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> MegGPT:
        """Switch the mode of everything but the tokenizer, which stays in evaluation mode."""
        super().train(mode)
        if self.tokenizer is not None:
            self.tokenizer.eval()
        return self

    # Plain tensors

    def hidden(
        self,
        codes: Int[Tensor, "batch channel time"],
        labels: Labels | None = None,
        *,
        mask: Bool[Tensor, "batch channel"] | None = None,
    ) -> Float[Tensor, "batch channel step dim"]:
        """Output of the last layer for the last steps of a context of `sequence_length`."""
        x = self.dropout(self.project(self.embedding(codes, labels)))
        weight = 1.0
        if self.training and self.channel_drop > 0:
            kept = float(torch.rand(())) >= self.channel_drop
            weight = 1 / (1 - self.channel_drop) if kept else 0.0
        for layer in self.layers:
            x = layer(x, mask, weight)
        return x

    def generate_codes(
        self,
        prompt: Int[Tensor, "batch channel time"],
        n: int,
        *,
        labels: Labels | None = None,
        mask: Bool[Tensor, "batch channel"] | None = None,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch channel step"]:
        """Continue a prompt of exactly `sequence_length` by `n` codes of every channel.

        The context slides and positions begin anew at every step, so nothing can be kept from the
        step before. Without `sampling`, the likeliest code follows.

        Raises:
            ValueError: Another length of prompt.
        """
        if prompt.shape[-1] != self.sequence_length:
            raise ValueError(
                f"MegGPT: a prompt of {prompt.shape[-1]} codes, expected exactly "
                f"{self.sequence_length}. Cut it, or draw one with `random_prompt`."
            )
        context, made = prompt, []
        with torch.no_grad():
            for _ in range(n):
                last = self.head(self.hidden(context, labels, mask=mask)[:, :, -1])
                code = choose(last, sampling, generator=generator)
                made.append(code)
                context = torch.cat([context[..., 1:], code.unsqueeze(-1)], -1)
        return torch.stack(made, -1) if made else prompt[..., :0]

    def random_prompt(
        self, n: int, n_channels: int, *, generator: torch.Generator | None = None
    ) -> Int[Tensor, "batch channel time"]:
        """Codes drawn as often as the vocabulary has them; all alike if it is unknown. Never 0."""
        weight = torch.zeros(self.n_codes, device=self.head.weight.device)
        if self.tokenizer is not None:
            weight.index_add_(0, self.tokenizer.label_map, self.tokenizer.token_count.float())
        if not bool(weight.any()):
            weight[:] = 1
        weight[0] = 0
        drawn = draw_codes(weight, n * n_channels * self.sequence_length, generator=generator)
        return drawn.reshape(n, n_channels, -1)

    # Batches

    def tokenize(self, batch: Batch) -> Tokens:
        """The batch's own tokens if it has them, else those of the tokenizer.

        Raises:
            ValueError: There is neither.
        """
        if batch.tokens is not None:
            return batch.tokens
        if self.tokenizer is None:
            raise ValueError(
                "MegGPT: it reads codes, and this one has no tokenizer to make them. Load it with "
                "`load_model(name, tokenizer=...)`, a trained EphysTokenizer."
            )
        with torch.no_grad():
            return self.tokenizer(batch)

    def _codes(self, batch: Batch, needed: int) -> tuple[Tensor, Tensor]:
        """batch channel step, at least so many steps, and which channels are real."""
        codes = self.tokenize(batch).codes
        steps = batch.x.shape[-1] - 2 * self._margin
        if codes is None or codes.shape[1] % max(steps, 1):
            shape = None if codes is None else tuple(codes.shape)
            raise ValueError(
                f"MegGPT: the batch carries codes of shape {shape}, expected (batch, a multiple of "
                f"{steps} steps, 1). Make them with this model's `tokenize`."
            )
        if steps < needed:
            raise ValueError(
                f"MegGPT: {steps} codes of each channel are too few, {needed} are needed. Use "
                f"windows of at least {needed + 2 * self._margin} samples."
            )
        codes = codes[..., 0].unflatten(1, (-1, steps))
        if self.n_channels is not None and codes.shape[1] > self.n_channels:
            raise ValueError(
                f"MegGPT: the batch has {codes.shape[1]} channels, the model knows "
                f"{self.n_channels}. Pick channels or parcels, or use a model with more "
                "`n_channels` or without `channel_embedding_dim`."
            )
        return codes, batch.channel_mask[:, : codes.shape[1]]

    @property
    def _margin(self) -> int:
        return 0 if self.tokenizer is None else self.tokenizer.margin

    def _labels(self, batch: Batch, n_times: int) -> list[Tensor | None]:
        labels: list[Tensor | None] = []
        for spec in self.specs:
            if spec.get("of") is None:
                labels.append(None)
                continue
            index = batch.subject if spec.get("of") == "subject" else batch.recording
            if int(index.max()) >= spec["n_classes"]:
                raise ValueError(
                    f"MegGPT: label {spec.get('name')!r} has {spec['n_classes']} classes, the "
                    f"batch holds number {int(index.max())}. Use a model with more `n_classes`, or "
                    "without `extra_label_specs`."
                )
            labels.append(index.unsqueeze(1).expand(-1, n_times))
        return labels

    def encode(self, batch: Batch) -> Embedding:
        """Features of the last steps of each context, channel by channel; without labels.

        A window longer than the context is cut into contexts from its start; a rest at its end is
        not used. `tokens.unflatten(1, (n_channels, n_contexts, -1))` separates them.

        Raises:
            ValueError: The window is shorter than the context.
        """
        codes, mask = self._codes(batch, self.sequence_length)
        pieces = codes.unfold(-1, self.sequence_length, self.sequence_length)
        count = pieces.shape[2]
        rows = pieces.transpose(1, 2).flatten(0, 1)
        x = self.hidden(rows, mask=_padding(mask.repeat_interleave(count, 0)))
        x = x.unflatten(0, (len(codes), count)).transpose(1, 2)  # batch channel context step dim
        return Embedding(x.flatten(1, 3), mask.repeat_interleave(count * x.shape[3], 1))

    def predict_next(self, batch: Batch) -> NextPrediction:
        """Scores of the codes that follow the last `loss_sequence_length` steps of each context.

        Raises:
            ValueError: The window is not longer than the context.
        """
        length = self.sequence_length
        codes, mask = self._codes(batch, length + 1)
        pieces = codes.unfold(-1, length + 1, length)
        count = pieces.shape[2]
        rows, mask = pieces.transpose(1, 2).flatten(0, 1), mask.repeat_interleave(count, 0)
        labels = [
            None if label is None else label.repeat_interleave(count, 0)
            for label in self._labels(batch, length)
        ]
        x = self.hidden(rows[..., :-1], labels, mask=_padding(mask))[:, :, -self.loss_length :]
        return NextPrediction(
            logits=self.head(x).flatten(1, 2),
            codes=rows[..., -self.loss_length :].flatten(1),
            mask=mask.repeat_interleave(self.loss_length, 1),
        )

    def generate(
        self,
        batch: Batch,
        n: int,
        *,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
    ) -> Tokens:
        """Continue each window by `n` samples; `tokenizer.decode` turns them into signal.

        Options as in `generate_codes`. Times go on from the start of the window.
        """
        codes, mask = self._codes(batch, self.sequence_length)
        if self.tokenizer is None:
            raise ValueError(
                "MegGPT: without a tokenizer, use `generate_codes`, or load the model with "
                "`load_model(name, tokenizer=...)`."
            )
        made = self.generate_codes(
            codes[..., -self.sequence_length :],
            n,
            labels=self._labels(batch, self.sequence_length),
            mask=_padding(mask),
            sampling=sampling,
            generator=generator,
        )
        return self.tokenizer.as_tokens(made, mask, start=codes.shape[-1] + self._margin)

    def rename_keys(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original as ours; unknown keys come back unchanged.

        Tensors of the tokenizer may come along with `tokenizer.` in front. Masks are computed.
        """
        renamed, inner = rename_meg_gpt(state_dict, plain_norms=self.norm_type == "layer")
        if self.embedding.position is None:
            renamed.pop("embedding.position.table", None)
        if inner and self.tokenizer is not None:
            inner = self.tokenizer.rename_keys(inner)
        return renamed | {f"tokenizer.{key}": value for key, value in inner.items()}


def _padding(mask: Bool[Tensor, "batch channel"]) -> Tensor | None:
    """The mask where it says anything."""
    return None if bool(mask.all()) else mask
