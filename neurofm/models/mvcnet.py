"""MVCNet: a small convolutional network, with a transformer that only helps to train it.

The convolutional branch (IFNet with one band) classifies. In training a transformer over whole
channels describes the same windows; what both say of several views of a window is held together by
contrast (`neurofm.tasks.DecodeViews`). Afterwards the transformer is left out.

Windows should be whitened by Euclidean alignment beforehand (`neurofm.data.AlignRecording`).

Source: wzwvv/MVCNet, arXiv 2502.17482.
Axes: batch channel time; batch token dim, token = patch of time of all channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.contract import Contract
from neurofm.models.fixed_input import fixed_channels
from neurofm.nn.conv_stem import ConvStem
from neurofm.shapes import Float


class Companion(nn.Module):
    """The branch for training: channels attend to each other, all is projected to `dim` features.

    A token is a channel with its samples as features; there are no positions.
    """

    def __init__(self, n_channels: int, n_times: int, dim: int, *, hidden: int) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(
            n_times, 2, max(2 * n_times, 128), dropout=0.1, batch_first=True
        )
        self.project = nn.Sequential(
            nn.Linear(n_channels * n_times, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim),
            nn.Tanh(),
        )

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch feature"]:
        """Features between -1 and 1."""
        return self.project(self.attention(x).flatten(1))


@configured
class MVCNet(nn.Module):
    """Encoder of windows of one montage and length. Defaults: the published size.

    Args:
        n_channels: Of every window.
        n_times: Samples of every window.
        sfreq: Hz, of the batches it accepts.
        patch: Samples of a token; 0.5 s as published.
        width: Features of a token. The model's own `dim` is that of a window: all tokens in a row.
        kernel: Samples of a temporal filter.
        n_classes: Of a head of its own (`logits`, `readouts.class_head`); None for none.
        dropout: Of tokens, in training mode.
        drop_last_sample: Leave out the last sample of a window, as the original does for all of
            its corpora but one; the transformer needs an even number of samples.
        contrast: False leaves out the transformer, which only training needs.
        hidden: Width of its projection; four times `dim` if not given.
        kinds: Kinds of channels it accepts.
    """

    def __init__(
        self,
        *,
        n_channels: int = 22,
        n_times: int = 1001,
        sfreq: float = 250.0,
        patch: int = 125,
        width: int = 64,
        kernel: int = 63,
        n_classes: int | None = 2,
        dropout: float = 0.5,
        drop_last_sample: bool = True,
        contrast: bool = True,
        hidden: int | None = None,
        kinds: Sequence[str] = ("eeg",),
    ) -> None:
        super().__init__()
        self.contract = Contract(
            kinds=tuple(kinds), n_channels=n_channels, n_times=n_times, sfreq=float(sfreq)
        )
        self.stem = ConvStem(
            n_channels,
            width,
            patch=patch,
            kernel=kernel,
            dropout=dropout,
            drop_last_sample=drop_last_sample,
        )
        self.samples = n_times - drop_last_sample
        self.dim = width * self.stem.n_patches(n_times)
        if not self.dim:
            raise ValueError(f"MVCNet: a window of {n_times} samples has no patch of {patch}.")
        if contrast and self.samples % 2:
            raise ValueError(
                f"MVCNet: {self.samples} samples are odd, and the two heads of the transformer "
                f"share them. Set drop_last_sample to {not drop_last_sample}, or contrast to False."
            )
        self.head = None if n_classes is None else nn.Linear(self.dim, n_classes)
        self.companion: Companion | None = None
        if contrast:
            hidden = 4 * self.dim if hidden is None else hidden
            self.companion = Companion(n_channels, self.samples, self.dim, hidden=hidden)

    # Plain tensors

    def logits(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch class"]:
        """Scores of the model's own head, from the convolutional branch alone.

        Raises:
            ValueError: It was built without one.
        """
        if self.head is None:
            raise ValueError(
                "MVCNet: built without a head (n_classes: null). Build it with n_classes, or use "
                "`encode` with a readout."
            )
        return self.head(self.stem(x).flatten(1))

    def describe(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch feature"]:
        """What the transformer says of windows, in as many features.

        Raises:
            ValueError: It was left out.
        """
        if self.companion is None:
            raise ValueError(
                "MVCNet: built with `contrast: false`, which cannot be trained on views. Build it "
                "with `contrast: true`."
            )
        return self.companion(x[..., : self.samples])

    # Batches

    def encode(self, batch: Batch) -> Embedding:
        """Tokens of the convolutional branch; `summary` is all of them in a row, feature first."""
        return self(batch)  # cards are compared before `forward`

    def forward(self, batch: Batch) -> Embedding:
        """As `encode`.

        Raises:
            ValueError: The batch is not what the model was built for.
        """
        tokens = self.stem(fixed_channels(batch, self.contract, model="MVCNet"))
        mask = torch.ones(len(tokens), tokens.shape[2], dtype=torch.bool, device=tokens.device)
        return Embedding(tokens.transpose(1, 2), mask, summary=tokens.flatten(1))

    def project(self, batch: Batch) -> Float[Tensor, "batch feature"]:
        """What the transformer says of a batch, for contrast with `encode`."""
        return self.describe(fixed_channels(batch, self.contract, model="MVCNet"))

    def rename_keys(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original as ours; unknown keys come back unchanged.

        The original saves the convolutional branch and the classifier (`0.`, `1.`), and has in the
        former a layer that nothing calls, which is left out; so is what this variant lacks.
        """
        own = {name for name, _ in self.named_children()}
        renamed = {}
        for key, value in state_dict.items():
            for old, new in _RENAMED:
                key = new + key.removeprefix(old) if key.startswith(old) else key
            if not key.startswith("unused.") and key.partition(".")[0] not in _PARTS - own:
                renamed[key] = value
        return renamed


_PARTS = {"head", "companion"}
_RENAMED = (
    ("netF.", "0."),
    ("netC.", "1."),
    ("0.stem.sconv.conv.", "stem.spatial."),
    ("0.stem.sconv.bn.", "stem.spatial_norm."),
    ("0.stem.tconv.0.conv.", "stem.temporal."),
    ("0.stem.tconv.0.bn.", "stem.temporal_norm."),
    ("0.fc.0.", "unused."),
    ("1.fc.", "head."),
    ("netE.layers.0.", "companion.attention."),
    ("netP.", "companion.project."),
)
