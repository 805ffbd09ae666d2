"""Any network of braindecode as a brain model.

These networks are made for one montage, one rate and one window length. What a batch brings is
compared with that before the network sees it, so that a mismatch is an error in our words and not a
shape error three layers down. braindecode is imported when the first network is built: importing it
loads all of its networks.

Features are what a network calls features (`return_features`); otherwise what enters its last
layer, as one token, so that a linear readout can do exactly what the network's own head does.

Source: Schirrmeister et al. 2017 and the networks' own papers, see braindecode.org.
Axes: batch channel time; output = class.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.compat import guard_torchaudio
from neurofm.shapes import Float

# Given by this wrapper under our own names.
_SIGNAL_ARGUMENTS = {"n_chans", "n_times", "sfreq", "n_outputs", "chs_info", "input_window_seconds"}


def networks() -> dict[str, type[nn.Module]]:
    """Every network of the installed braindecode, by name."""
    guard_torchaudio()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # braindecode asks MNE for a montage by an old name
        from braindecode import models
        from braindecode.models.base import EEGModuleMixin
    found = {name: value for name, value in vars(models).items() if inspect.isclass(value)}
    return {
        name: value
        for name, value in found.items()
        if issubclass(value, nn.Module) and issubclass(value, EEGModuleMixin)
    }


def _near(name: str, known: Sequence[str]) -> str:
    lowered = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.4)
    return f" Did you mean {', '.join(lowered[item] for item in close)}?" if close else ""


@configured
class BraindecodeModel(nn.Module):
    """A braindecode network, with its own head for logits and without it for features.

    Args:
        name: Class name in `braindecode.models`.
        n_channels: Channels of every window, in a fixed order.
        n_times: Samples of every window.
        sfreq: Hz.
        n_outputs: Classes of the network's own head.
        channels: Names in order, for networks that look them up (such as Labram).
        arguments: The network's further constructor arguments, by its own names.
        input_scale: Multiplies the microvolts of a batch: 1 for networks that start with batch
            normalisation, 0.01 for those pretrained in units of 100 µV.
    """

    def __init__(
        self,
        name: str = "EEGNet",
        *,
        n_channels: int,
        n_times: int,
        sfreq: float,
        n_outputs: int = 2,
        channels: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        known = networks()
        if name not in known:
            raise ValueError(
                f"BraindecodeModel: braindecode has no network {name!r}.{_near(name, list(known))}"
            )
        if channels is not None and len(channels) != n_channels:
            raise ValueError(
                f"BraindecodeModel: {len(channels)} channel names for {n_channels} channels."
            )
        given = dict(arguments or {})
        allowed = set(inspect.signature(known[name]).parameters) - _SIGNAL_ARGUMENTS - {"kwargs"}
        for key in given:
            if key in _SIGNAL_ARGUMENTS:
                raise ValueError(
                    f"BraindecodeModel: {key!r} belongs to the wrapper: use n_channels, n_times, "
                    "sfreq, n_outputs, channels."
                )
            if key not in allowed:
                raise ValueError(
                    f"BraindecodeModel: {name} takes no argument {key!r}."
                    f"{_near(key, sorted(allowed))}"
                )
        if channels is not None:
            given["chs_info"] = [{"ch_name": channel} for channel in channels]
        self.name, self.n_channels, self.n_times = name, n_channels, n_times
        self.sfreq, self.n_outputs, self.input_scale = float(sfreq), n_outputs, input_scale
        self.channels = None if channels is None else list(channels)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of braindecode's defaults
                self.network = known[name](
                    n_chans=n_channels, n_times=n_times, sfreq=sfreq, n_outputs=n_outputs, **given
                )
            takes = inspect.signature(self.network.forward).parameters
            self._returns_features = "return_features" in takes
            self._takes_names = "ch_names" in takes and channels is not None
            self.dim = self._probe()
        except Exception as error:  # whatever a network's author chose to raise
            raise ValueError(
                f"BraindecodeModel: {name} does not work for {n_channels} channels and "
                f"{n_times} samples at {sfreq:g} Hz ({n_times / sfreq:.2f} s): {error}"
            ) from error

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Logits of the network's own head. Predictions at every moment are averaged over time."""
        self.check(batch)
        return self.logits(batch.x)

    def encode(self, batch: Batch) -> Embedding:
        """Features before the head: the network's tokens, or one token of all its features.

        Raises:
            ValueError: The batch does not fit, or the network has no single head (`dim` is 0).
        """
        self.check(batch)
        if not self.dim:
            raise ValueError(
                f"BraindecodeModel: {self.name} has no single last layer whose input could serve "
                "as features; use its logits, or another network."
            )
        tokens, summary = self._features(batch.x)
        return Embedding(
            tokens=tokens,
            mask=torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device),
            summary=summary,
        )

    def check(self, batch: Batch) -> None:
        """Compare a batch with what the network was built for.

        Raises:
            ValueError: Other channel count, padding channels, other length or rate.
        """
        n_channels, n_times = batch.x.shape[1:]
        n_padded = int((~batch.channel_mask).any(0).sum())
        if n_channels != self.n_channels or n_padded:
            padded = f" ({n_padded} of them padding in some window)" if n_padded else ""
            raise ValueError(
                f"BraindecodeModel: {self.name} was built for {self.n_channels} channels in a "
                f"fixed order, the batch has {n_channels}{padded}. It cannot take recordings of "
                "several montages: pick or interpolate the same channels for all (PickChannels)."
            )
        if abs(batch.sfreq - self.sfreq) > 1e-3 * self.sfreq or n_times != self.n_times:
            raise ValueError(
                f"BraindecodeModel: {self.name} was built for {self.n_times} samples at "
                f"{self.sfreq:g} Hz, the batch has {n_times} at {batch.sfreq:g} Hz. Resample, or "
                "build the network for these windows."
            )

    def logits(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch output"]:
        """Logits of bare microvolts, unchecked: for loops outside a data module."""
        logits = self.network(x * self.input_scale, **self._names())
        return logits.flatten(2).mean(2) if logits.ndim > 2 else logits

    def _names(self) -> dict[str, list[str]]:
        return {"ch_names": self.channels} if self._takes_names and self.channels else {}

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens, and the network's own summary token if it has one."""
        x = x * self.input_scale
        if self._returns_features:
            out = self.network(x, return_features=True, **self._names())
            features = out["features"]
            if features.ndim == 2:
                return features.unsqueeze(1), out["cls_token"]
            return features.flatten(1, -2), out["cls_token"]
        seen: list[Tensor] = []
        head = self.network.get_submodule("final_layer")
        handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.network(x, **self._names())
        finally:
            handle.remove()
        return (seen[0].flatten(1).unsqueeze(1) if seen else x.new_zeros(len(x), 1, 0)), None

    def _probe(self) -> int:
        """Size of the features, from one silent window; also sees that the logits fit."""
        parameter = next(self.network.parameters())
        silent = torch.zeros(1, self.n_channels, self.n_times, device=parameter.device)
        self.network.eval()
        with torch.no_grad():
            shape = tuple(self.logits(silent).shape)
            features = self._features(silent)[0]
        self.network.train()
        if shape != (1, self.n_outputs):
            raise ValueError(
                f"its output for one window has shape {shape}, expected (1, {self.n_outputs}), so "
                "it is not a classifier of windows."
            )
        return features.shape[-1]
