"""EphysTokenizer: every sample of every channel as one of a few codes, learned from the signal.

A recurrent network reads one channel and scores the codes at each sample; each code stands for a
short kernel, and the sum of the kernels of a channel's codes is its reconstruction. Channels are
treated alike and apart from each other, so any sensors or parcels will do.

A *token* is what the network chose (0 to `n_tokens` - 1); its *label* is its rank by frequency in
the vocabulary, from 1, and 0 for a token the vocabulary lacks. `Tokens.codes` are labels.

Source: OHBA-analysis/EphysTokenizer and MEG-GPT (MIT), arXiv 2510.18080, 2602.16626. Deviations:
the temperature falls with every training step, not in 20 stages; a window shorter than
`sequence_length` is one window (the network is causal, so its tokens are the same); a batch in
working units is standardized over each window, not over the recording, which is left to batches
that come as z; tokens of equal frequency are ranked by their number.
Axes: batch channel time; row = channel of a window; token in the sense above where `n_tokens`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Tokens
from neurofm.cards import configured
from neurofm.shapes import Bool, Float, Int
from neurofm.tokenizers.checks import check_batch
from neurofm.tokenizers.ephys_vocabulary import vocabulary_of
from neurofm.units import Kind

_SHARPNESS = 0.1  # the scores are divided by it


def standardize_channels(
    x: Float[Tensor, "... time"],
) -> Float[Tensor, "... time"]:
    """Mean 0 and (population) standard deviation 1 over time; a constant channel becomes 0."""
    x = x - x.mean(-1, keepdim=True)
    scale = x.std(-1, correction=0, keepdim=True)
    return x / torch.where(scale > 0, scale, 1)


@configured
class EphysTokenizer(nn.Module):
    """Tokenizer of single channels, sample by sample. Defaults: the published size.

    Args:
        n_tokens: Tokens the network can choose from.
        rnn_n_units: Features of the recurrent network.
        sequence_length: Samples of a window; the recurrent network starts anew in each.
        token_dim: Samples of a token's kernel.
        rnn_type: "gru" or "lstm".
        rnn_n_layers: Recurrent layers.
        token_kernel_padding: "causal": a kernel begins at its token; "same": it is centred there,
            so the reconstruction looks ahead (the tokens do not).
        n_used: Most tokens of the vocabulary; there are `n_used` + 1 labels.
        margin: Samples dropped at both ends of a window's tokens, where the recurrent network has
            seen too little; windows overlap by twice as much.
        anneal: Training steps in which the temperature falls from 1 to `final_temperature`; 0
            leaves it as it is. At 0 no gradient would reach the network.
        sfreq: Hz, of the signals it expects.
        kinds: Kinds of channels it accepts.
    """

    temperature: Tensor
    label_map: Tensor
    token_count: Tensor

    def __init__(
        self,
        n_tokens: int = 128,
        rnn_n_units: int = 128,
        sequence_length: int = 200,
        token_dim: int = 10,
        *,
        rnn_type: Literal["gru", "lstm"] = "gru",
        rnn_n_layers: int = 1,
        token_kernel_padding: Literal["causal", "same"] = "causal",
        n_used: int | None = None,
        margin: int = 0,
        anneal: int = 0,
        final_temperature: float = 1e-3,
        sfreq: float = 250.0,
        kinds: Sequence[str] = ("source", "eeg", "mag", "grad", "axial", "seeg", "ecog"),
    ) -> None:
        super().__init__()
        if not 0 <= 2 * margin < sequence_length:
            raise ValueError(
                f"EphysTokenizer: a margin of {margin} at both ends leaves nothing of a window of "
                f"{sequence_length} samples. Use less than {sequence_length / 2:g}."
            )
        if not 0 < final_temperature <= 1:
            raise ValueError(
                f"EphysTokenizer: final_temperature is {final_temperature}, expected above 0 (at 0 "
                "no gradient reaches the network) and at most 1."
            )
        used = n_tokens if n_used is None else n_used
        if not 1 <= used <= n_tokens:
            raise ValueError(f"EphysTokenizer: n_used is {n_used}, of {n_tokens} tokens.")
        self.dim, self.n_codes, self.n_levels = token_dim, used + 1, 1
        self.n_tokens, self.token_dim, self.sequence_length = n_tokens, token_dim, sequence_length
        self.margin, self.anneal, self.final_temperature = margin, anneal, final_temperature
        self.padding = token_kernel_padding
        self.sfreq = sfreq
        self.kinds = tuple(Kind[name.upper()] for name in kinds)
        layer = {"gru": nn.GRU, "lstm": nn.LSTM}[rnn_type]
        widths = [1] + [rnn_n_units] * rnn_n_layers
        self.rnn = nn.ModuleList(
            layer(before, rnn_n_units, batch_first=True) for before in widths[:-1]
        )
        self.scores = nn.Linear(rnn_n_units, n_tokens)
        self.norm = nn.LayerNorm(n_tokens)
        self.kernels = nn.Conv1d(n_tokens, n_tokens, token_dim)
        self.register_buffer("temperature", torch.tensor(1.0))
        rank = torch.arange(1, n_tokens + 1)
        self.register_buffer("label_map", torch.where(rank <= used, rank, 0))
        self.register_buffer("token_count", torch.zeros(n_tokens, dtype=torch.int64))
        self._start()

    def _start(self) -> None:
        for part in (self.scores, self.kernels):
            nn.init.xavier_uniform_(part.weight)
            part.bias.data.zero_()  # type: ignore[union-attr]
        for name, value in self.rnn.named_parameters():
            if "weight_ih" in name:
                nn.init.xavier_uniform_(value)
            elif "weight_hh" in name:
                nn.init.orthogonal_(value)
            else:
                nn.init.zeros_(value)
            if "bias" in name and isinstance(self.rnn[0], nn.LSTM):  # forget gates start open
                nn.init.ones_(value.data.chunk(4)[1])

    # Plain tensors

    def states(self, x: Float[Tensor, "row time"]) -> Float[Tensor, "row time unit"]:
        """What the recurrent network knows at each sample."""
        y = x.unsqueeze(-1)
        for layer in self.rnn:
            y = layer(y)[0]
        return y

    def logits(self, states: Float[Tensor, "row time unit"]) -> Float[Tensor, "row time token"]:
        """Scores of the tokens."""
        return self.norm(self.scores(states)) / _SHARPNESS

    def weights(self, logits: Float[Tensor, "row time token"]) -> Float[Tensor, "row time token"]:
        """The chosen token as 0 and 1; in training softened by the temperature."""
        chosen = F.one_hot(logits.argmax(-1), self.n_tokens).to(logits.dtype)
        if not self.training:
            return chosen
        soft = self.temperature.clone()  # it changes before the backward pass
        return soft * logits.softmax(-1) + (1 - soft) * chosen

    def rebuild(self, weights: Float[Tensor, "row time token"]) -> Float[Tensor, "row time"]:
        """Sum of the kernels: the convolution's outputs added up, as one convolution."""
        left = self.token_dim - 1 if self.padding == "causal" else (self.token_dim - 1) // 2
        x = F.pad(weights.transpose(1, 2), (left, self.token_dim - 1 - left))
        bias: Tensor = self.kernels.bias  # type: ignore[assignment]
        kernel = self.kernels.weight.sum(0, keepdim=True)
        return F.conv1d(x, kernel, bias.sum().unsqueeze(0)).squeeze(1)

    def windows(self, x: Float[Tensor, "... time"]) -> Float[Tensor, "... window sample"]:
        """Consecutive windows; an incomplete last one is dropped, unless it is the only one."""
        length = min(self.sequence_length, x.shape[-1])
        return x.unfold(-1, length, length)

    def steps(self, n_times: int) -> int:
        """Tokens of each channel of a window of so many samples."""
        return n_times - 2 * self.margin

    def tokens_of(
        self, x: Float[Tensor, "batch channel time"], *, margin: int | None = None
    ) -> Int[Tensor, "batch channel step"]:
        """Token of every sample, window by window; the last window ends with the signal.

        Step `t` belongs to sample `t + margin`.

        Raises:
            ValueError: The signal is too short for the margin.
        """
        margin = self.margin if margin is None else margin
        n, length = x.shape[-1], self.sequence_length
        if margin and n < length:
            raise ValueError(
                f"EphysTokenizer: {n} samples are less than a window of {length}; that works only "
                f"without a margin (here {margin})."
            )
        if n <= length:
            found = self.logits(self.states(x.flatten(0, 1))).argmax(-1).unflatten(0, x.shape[:2])
            return found[..., margin : n - margin]
        pieces = x.unfold(-1, length, length - 2 * margin)
        pieces = torch.cat([pieces, x[..., None, -length:]], -2)
        rows = pieces.flatten(0, 2)
        found = self.logits(self.states(rows)).argmax(-1).unflatten(0, pieces.shape[:-1])
        found = found[..., margin : length - margin]
        regular = found[..., :-1, :].flatten(-2)
        return torch.cat([regular[..., : n - length], found[..., -1, :]], -1)

    def decode_labels(
        self, labels: Int[Tensor, "batch channel step"]
    ) -> Float[Tensor, "batch channel step"]:
        """Signal (standardized) from labels, window by window.

        A remainder shorter than a window is a window of its own; upstream drops it.

        Raises:
            ValueError: A label is out of range, or 0 although the vocabulary has every token.
        """
        if int(labels.min()) < 0 or int(labels.max()) >= self.n_codes:
            raise ValueError(
                f"EphysTokenizer: codes from {int(labels.min())} to {int(labels.max())}, expected "
                f"0 to {self.n_codes - 1}."
            )
        tokens = self._tokens()[labels]
        if bool((tokens < 0).any()):
            raise ValueError(
                "EphysTokenizer: a label that stands for no token of the vocabulary (0, perhaps) "
                "cannot be decoded. Sample labels the vocabulary has."
            )
        parts = [
            self.rebuild(F.one_hot(part.flatten(0, 1), self.n_tokens).to(self.kernels.weight.dtype))
            for part in tokens.split(self.sequence_length, -1)
        ]
        return torch.cat(parts, -1).unflatten(0, labels.shape[:2])

    def _tokens(self) -> Int[Tensor, " label"]:
        """Token of each label; label 0 is the first token without one, -1 if there is none."""
        table = torch.full((self.n_codes,), -1, device=self.label_map.device)
        unused = torch.nonzero(self.label_map == 0).flatten()
        table[:1] = unused[0] if len(unused) else -1
        used = torch.nonzero(self.label_map).flatten()
        table[self.label_map[used]] = used
        return table

    def kernels_of(
        self, labels: Int[Tensor, "batch channel step"]
    ) -> Float[Tensor, "batch channel step dim"]:
        """Kernel of each label; zeros for a label without a token."""
        tokens = self._tokens()[labels]
        kernels = self.kernels.weight.sum(0)[tokens]
        return torch.where((tokens >= 0).unsqueeze(-1), kernels, 0)

    def lookup(self, codes: Int[Tensor, "batch token level"]) -> Float[Tensor, "batch token dim"]:
        """Values of tokens from their codes."""
        return self.kernels_of(codes[..., 0].unsqueeze(1)).squeeze(1)

    def set_vocabulary(self, counts: Int[Tensor, " token"]) -> None:
        """Rank the tokens by how often they occur in training data; beyond `n_used`, label 0."""
        order, labels = vocabulary_of(counts)
        labels[order[self.n_codes - 1 :]] = 0
        self.label_map.copy_(labels)
        self.token_count.copy_(counts)

    # Batches

    def prepare(self, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """Checked signal, standardized unless it comes as z; zeros in padded channels.

        Raises:
            ValueError: Rate, kind of channel, or values are not what the model expects.
        """
        check_batch(batch, name="EphysTokenizer", kinds=self.kinds, sfreq=self.sfreq)
        x = torch.where(batch.channel_mask.unsqueeze(-1), batch.x, 0).float()
        return x if batch.unit == "z" else standardize_channels(x)

    def forward(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tokens:
        """Labels of each window, channel by channel: token = channel x steps + step.

        `values` are the kernels that the tokens stand for. Nothing is drawn: `generator` is there
        for the role.
        """
        x, mask = self.prepare(batch), batch.channel_mask
        found = self.tokens_of(x[mask].unsqueeze(1)).squeeze(1)
        labels = found.new_zeros(*mask.shape, found.shape[-1])
        labels = labels.index_put((mask,), self.label_map[found])
        return self.as_tokens(labels, mask, start=self.margin)

    def as_tokens(
        self,
        labels: Int[Tensor, "batch channel step"],
        mask: Bool[Tensor, "batch channel"],
        *,
        start: int,
    ) -> Tokens:
        """Labels as tokens, of which the first belongs to sample `start` of the window."""
        (batch, channels, n), device = labels.shape, labels.device
        time = (torch.arange(n, device=device) + start) / self.sfreq
        return Tokens(
            values=self.kernels_of(labels).flatten(1, 2),
            codes=labels.flatten(1).unsqueeze(-1),
            mask=mask.repeat_interleave(n, 1),
            channel=torch.arange(channels, device=device).repeat_interleave(n).expand(batch, -1),
            time=time.repeat(channels).expand(batch, -1),
        )

    def decode(self, tokens: Tokens, batch: Batch) -> Float[Tensor, "batch channel step"]:
        """Standardized signal of the batch's channels from codes; zeros in padded channels.

        Raises:
            ValueError: The tokens carry no codes, or a code without a kernel.
        """
        if tokens.codes is None:
            raise ValueError("EphysTokenizer: the tokens carry no codes.")
        labels = tokens.codes[..., 0].unflatten(1, (batch.x.shape[1], -1))
        real = batch.channel_mask.unsqueeze(-1)
        signal = self.decode_labels(torch.where(real, labels, self.label_map.max()))
        return torch.where(real, signal, 0)

    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """batch channel step, twice: the standardized signal, and what its codes make of it."""
        x = self.prepare(batch)
        return x[..., self.margin : x.shape[-1] - self.margin], self.decode(self(batch), batch)

    def count_tokens(self, batch: Batch) -> Int[Tensor, " token"]:
        """How often each token occurs in the batch; sums over training data make a vocabulary."""
        found = self.tokens_of(self.prepare(batch)[batch.channel_mask].unsqueeze(1))
        return torch.bincount(found.flatten(), minlength=self.n_tokens)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Training loss of a batch; see `losses`. "codes" are labels, as `forward` gives them.

        In training mode the temperature then falls.
        """
        x = self.prepare(batch)
        found = self.losses(self.windows(x)[batch.channel_mask].flatten(0, 1))
        if self.training and self.anneal:
            fall = (1 - self.final_temperature) / self.anneal
            self.temperature.sub_(fall).clamp_(min=self.final_temperature)
        return found | {"codes": self.label_map[found["codes"]]}

    def losses(self, x: Float[Tensor, "row time"]) -> dict[str, Tensor]:
        """Mean squared error of the reconstruction.

        Returns:
            "loss", "explained_variance" (percent), and "codes" (tokens, not labels).
        """
        logits = self.logits(self.states(x))
        error = (self.rebuild(self.weights(logits)) - x).float().square()
        power = x.float().square().sum().clamp(min=1e-12)
        return {
            "loss": error.mean(),
            "explained_variance": 100 * (1 - error.detach().sum() / power),
            "codes": logits.argmax(-1).unsqueeze(-1),
        }

    def rename_keys(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original as ours; unknown keys come back unchanged.

        The original keeps its vocabulary in another file: without `token_order` and
        `total_token_counts` (see `read_vocabulary`), tokens keep their numbers.
        """
        state = dict(state_dict)
        order, counts = state.pop("token_order", None), state.pop("total_token_counts", None)
        renamed = {}
        for key, value in state.items():
            for old, new in _RENAMED:
                key = re.sub(old, new, key)
            renamed[key] = value
        label_map, count = self.label_map, self.token_count
        if order is not None and counts is not None:
            count = torch.zeros_like(count)
            count[order.long()] = counts.to(count.dtype)
            label_map = torch.zeros_like(label_map)
            label_map[order.long()] = torch.arange(1, len(order) + 1)
        elif self.n_codes <= self.n_tokens:
            warnings.warn(
                "EphysTokenizer: these tensors come without their vocabulary, so labels will not "
                "be the published ones. Put what `read_vocabulary` returns beside them.",
                stacklevel=2,
            )
        return {"label_map": label_map, "token_count": count} | renamed


_RENAMED = (
    (r"^encoder_layer\.rnn_layers\.", "rnn."),
    (r"^token_weights_layer\._temperature$", "temperature"),
    (r"^token_weights_layer\.dense_layer\.", "scores."),
    (r"^token_weights_layer\.norm_layer\.", "norm."),
    (r"^decoder_layer\.token_basis_layer\.", "kernels."),
)
