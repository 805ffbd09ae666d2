"""Any network of braindecode as a brain model, pretrained ones among them.

These networks are made for one rate and one window length, most of them for one montage too. What a
batch brings is compared with that before the network sees it, so that a mismatch is an error in our
words and not a shape error three layers down, nor a channel silently taken for another. braindecode
is imported when the first network is built: importing it loads all of its networks.

Features are the tokens of networks that have tokens (`braindecode_networks`); else what a network
calls features (`return_features`); else what enters its last layer, as one token, so that a linear
readout can do exactly what the network's own head does.

Source: Schirrmeister et al. 2017 and the networks' own papers, see braindecode.org.
Axes: batch channel time; batch token dim; output = class.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.compat import guard_torchaudio
from neurofm.contract import Contract
from neurofm.models import braindecode_networks as known_networks
from neurofm.models.braindecode_networks import near, own_arguments
from neurofm.shapes import Float

_HEAD = "final_layer"


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


@configured
class BraindecodeModel(nn.Module):
    """A braindecode network: features, and logits if it has a head.

    `token_channel` and `token_time` say where the tokens of an embedding came from: index of the
    channel (-1 = all of them) and middle of the patch in seconds from the start of the window; None
    where a network has a single token.

    Args:
        name: Class name in `braindecode.models`.
        n_channels: Channels of every window.
        n_times: Samples of every window.
        sfreq: Hz.
        n_outputs: Classes of the network's own head; None for no head (features only, as
            pretrained networks are published).
        channels: Names in order. Networks that look names up (LaBraM, EEGPT, SignalJEPA) find them
            in any case and by old names; the others take them as the only order they know.
        positions: Metres, `channel 3`, of each channel, for networks that ask for places when they
            are built (ZUNA, SignalJEPA), or to use instead of those in a batch (LUNA, REVE).
        arguments: The network's further constructor arguments, by its own names.
        input_scale: Multiplies the microvolts of a batch: 1 for networks that start with batch
            normalisation, 0.01 for those pretrained in units of 100 µV.
        normalize: Amplitudes of each window instead: "percentile", "window" or "deep1010"
            (`braindecode_networks.normalized`).
    """

    head: str = f"network.{_HEAD}."  # what the names of the head's tensors begin with
    token_channel: Tensor | None
    token_time: Tensor | None
    _positions: Tensor | None

    def __init__(
        self,
        name: str = "EEGNet",
        *,
        n_channels: int,
        n_times: int,
        sfreq: float,
        n_outputs: int | None = 2,
        channels: Sequence[str] | None = None,
        positions: Sequence[Sequence[float]] | None = None,
        arguments: Mapping[str, Any] | None = None,
        input_scale: float = 1.0,
        normalize: str | None = None,
    ) -> None:
        super().__init__()
        known = networks()
        if name not in known:
            raise ValueError(
                f"BraindecodeModel: braindecode has no network {name!r}.{near(name, list(known))}"
            )
        for what, given in (("channel names", channels), ("positions", positions)):
            if given is not None and len(given) != n_channels:
                raise ValueError(
                    f"BraindecodeModel: {len(given)} {what} for {n_channels} channels."
                )
        if normalize not in (None, *known_networks.NORMALIZATIONS):
            raise ValueError(
                f"BraindecodeModel: normalize {normalize!r} is not None or one of "
                f"{', '.join(known_networks.NORMALIZATIONS)}."
            )
        own = own_arguments(known[name], name, arguments)
        self._vocabulary = known_networks.vocabulary(name, own)
        self._matched: dict[tuple[str, ...], list[str]] = {}
        self.name, self.n_channels, self.n_times = name, n_channels, n_times
        self.sfreq, self.n_outputs, self.input_scale = float(sfreq), n_outputs, input_scale
        self.normalize = normalize
        self.channels = None if channels is None else list(channels)
        self.register_buffer(
            "_positions", None if positions is None else torch.tensor(positions), persistent=False
        )
        # Networks that look names up in every batch take any channels that it names.
        by_name = "ch_names" in inspect.signature(known[name].forward).parameters
        self._takes_names = by_name
        self.contract = Contract(
            channels=() if channels is None or by_name else tuple(channels),
            n_channels=None if by_name else n_channels,
            n_times=n_times,
            sfreq=self.sfreq,
            positions=name in known_networks.PLACES and positions is None,
        )
        info = self._channel_info(positions)
        try:
            self.network = self._build(known[name], own, info)
            takes = inspect.signature(self.network.forward).parameters
            self._returns_features = "return_features" in takes
            self._layout = known_networks.LAYOUTS.get(name)
            self.dim = self._probe()
        except Exception as error:  # whatever a network's author chose to raise
            raise ValueError(
                f"BraindecodeModel: {name} does not work for {n_channels} channels and "
                f"{n_times} samples at {sfreq:g} Hz ({n_times / sfreq:.2f} s): {error}"
            ) from error

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Logits of the network's own head. Predictions at every moment are averaged over time.

        Raises:
            ValueError: The batch does not fit, or the network was built without a head.
        """
        x, names, positions = self._fitting(batch)
        return self.logits(x, names=names, positions=positions)

    def encode(self, batch: Batch) -> Embedding:
        """Features before the head: the network's tokens, or one token of all its features.

        Raises:
            ValueError: The batch does not fit, or the network has no single head (`dim` is 0).
        """
        x, names, positions = self._fitting(batch)
        if not self.dim:
            raise ValueError(
                f"BraindecodeModel: {self.name} has no single last layer whose input could serve "
                "as features; use its logits, or another network."
            )
        tokens, summary = self._features(x, names, positions)
        return Embedding(
            tokens=tokens,
            mask=torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device),
            summary=summary,
        )

    def check(self, batch: Batch) -> None:
        """Compare a batch with what the network was built for.

        Raises:
            ValueError: Other channels, order, length or rate, channels it does not know, unknown
                positions that it needs, or padding that is not the same in all windows.
        """
        self._fitting(batch)

    def logits(
        self,
        x: Float[Tensor, "batch channel time"],
        *,
        names: Sequence[str] | None = None,
        positions: Float[Tensor, "batch channel 3"] | None = None,
    ) -> Float[Tensor, "batch output"]:
        """Logits of bare microvolts, unchecked: for loops outside a data module."""
        if self.n_outputs is None:
            raise ValueError(
                f"BraindecodeModel: this {self.name} was built without a head (n_outputs: null). "
                "Use `encode` with a readout, or build it with n_outputs."
            )
        logits = self.network(self._scaled(x), **self._given(x, names, positions))
        return logits.flatten(2).mean(2) if logits.ndim > 2 else logits

    def rename_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a published file under the names of this model.

        Braindecode's own renaming is applied. Left out are parts that the network has not: heads
        where it was built without one, and what only the pretraining used. LaBraM's embedding of
        time is cut to the patches of a window, of which the original reads the first ones too.
        """
        bare = {key.removeprefix("module.").removeprefix("network."): v for key, v in state.items()}
        renamed = known_networks.renamed_by_braindecode(self.network, bare)
        mine = self.network.state_dict()
        unused = known_networks.LEFTOVERS.get(self.name, ())
        if self.n_outputs is None:
            unused = (*unused, f"{_HEAD}.")
        found = {
            key: value
            for key, value in renamed.items()
            if key in mine or not key.startswith(tuple(unused))
        }
        if "chans_id" in mine:  # which rows of the embedding these channels are: computed
            found["chans_id"] = mine["chans_id"]
        time = found.get("temporal_embedding")
        if time is not None and time.ndim == 3 and "temporal_embedding" in mine:
            found["temporal_embedding"] = time[:, : mine["temporal_embedding"].shape[1]]
        return {f"network.{key}": value for key, value in found.items()}

    def _channel_info(self, positions: Sequence[Sequence[float]] | None) -> list[dict[str, Any]]:
        """`chs_info` of braindecode, with names in the network's spelling; empty if unknown."""
        if self.channels is None or self.name in (*known_networks.PLACES, "BENDR"):
            return []
        names = self._match(self.channels) if self._vocabulary else self.channels
        info: list[dict[str, Any]] = [{"ch_name": name, "kind": "eeg"} for name in names]
        for item, place in zip(info, positions or (), strict=False):
            item["loc"] = list(place)
        return info

    def _build(
        self, network: type[nn.Module], own: dict[str, Any], info: list[dict[str, Any]]
    ) -> nn.Module:
        built_on_places = self.name in known_networks.BUILT_ON_PLACES
        if built_on_places and not self._vocabulary and not (info and "loc" in info[0]):
            raise ValueError("it asks for the places of its channels: give channels and positions")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of braindecode's defaults
            warnings.filterwarnings("ignore", "Labram chs_info")  # names are looked up per batch
            warnings.filterwarnings("ignore", "Modifying chs_info")
            alone = known_networks.without_download() if self.name == "REVE" else nullcontext()
            with alone:
                made = network(
                    n_chans=self.n_channels + (self.normalize == "deep1010"),
                    n_times=self.n_times,
                    sfreq=self.sfreq,
                    n_outputs=1 if self.n_outputs is None else self.n_outputs,
                    **({"chs_info": info} if info else {}),
                    **own,
                )
        if self.n_outputs is None:
            if not hasattr(made, _HEAD):
                raise ValueError("it has no single last layer to be built without: give n_outputs")
            setattr(made, _HEAD, nn.Identity())
        return made

    def _match(self, names: Sequence[str]) -> list[str]:
        key = tuple(names)
        if key not in self._matched:
            model = f"BraindecodeModel {self.name}"
            self._matched[key] = known_networks.match_names(key, self._vocabulary, model=model)
        return self._matched[key]

    def _fitting(
        self, batch: Batch
    ) -> tuple[Tensor, tuple[str, ...] | None, Float[Tensor, "batch channel 3"] | None]:
        """Samples, names and positions of the real channels, after all checks."""
        model = f"BraindecodeModel {self.name}"
        x, names, positions = batch.x, batch.names, batch.position
        contract = self.contract
        if x.shape[1] != self.n_channels or x.device.type == "cpu":
            real = batch.channel_mask[:1].expand_as(batch.channel_mask)
            if not bool((batch.channel_mask == real).all()):
                padding = int((~batch.channel_mask).any(0).sum())
                raise ValueError(
                    f"{model}: the batch has {x.shape[1]} channels, {padding} of them padding in "
                    "some windows only. It cannot take recordings of several montages: pick or "
                    "interpolate the same channels for all (PickChannels, ToTemplate)."
                )
        if self._takes_names and names is not None:
            self._match(names)
        elif self._takes_names:
            contract = replace(contract, n_channels=self.n_channels)
        contract.check(batch, model=model)
        if x.shape[1] != self.n_channels and not bool(batch.channel_mask[0].all()):
            x, positions = x[:, batch.channel_mask[0]], positions[:, batch.channel_mask[0]]
        return x, names, positions

    def _given(
        self, x: Tensor, names: Sequence[str] | None, positions: Tensor | None
    ) -> dict[str, Any]:
        """Names and places for networks that take them with every batch."""
        if self._takes_names and (names := names or self.channels):
            return {"ch_names": self._match(names)}
        if self.name in known_networks.PLACES:
            if self._positions is not None:
                positions = self._positions.to(x).expand(len(x), -1, -1)
            if positions is None:
                raise ValueError(f"BraindecodeModel: {self.name} needs positions of the channels.")
            return {known_networks.PLACES[self.name]: positions.to(x)}
        return {}

    def _scaled(self, x: Tensor) -> Tensor:
        if self.normalize is not None:
            x = known_networks.normalized(x, self.normalize)
        return x * self.input_scale

    def _features(
        self, x: Tensor, names: Sequence[str] | None, positions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens, and the network's own summary if it has one."""
        given = self._given(x, names, positions)
        x = self._scaled(x)
        if self._layout is not None and self._layout.site:
            return self._tokens_inside(x, given)
        if self._returns_features:
            out = self.network(x, return_features=True, **given)
            features = out["features"]
            if features.ndim == 2:
                return features.unsqueeze(1), out["cls_token"]
            return features.flatten(1, -2), out["cls_token"]
        seen: list[Tensor] = []
        head = self.network.get_submodule(_HEAD)
        handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.network(x, **given)
        finally:
            handle.remove()
        return (seen[0].flatten(1).unsqueeze(1) if seen else x.new_zeros(len(x), 1, 0)), None

    def _tokens_inside(self, x: Tensor, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Tokens from a module whose output the network pools before it calls it features."""
        assert self._layout is not None
        seen: list[Tensor] = []
        site = self.network.get_submodule(self._layout.site)
        handle = site.register_forward_hook(lambda _, __, out: seen.append(out))
        try:
            if self._returns_features:
                pooled = self.network(x, return_features=True, **given)["features"]
            else:
                self.network(x, **given)
                pooled = None
        finally:
            handle.remove()
        tokens = seen[0]
        if self._layout.time_last:
            tokens = tokens.movedim(1, -1)[:, 1:]
        summary = None if pooled is None else pooled.flatten(1)
        return tokens.flatten(1, -2), summary

    def _probe(self) -> int:
        """Size of the features, from one silent window; also sees that the logits fit."""
        device = next(self.network.parameters()).device
        silent = torch.zeros(1, self.n_channels, self.n_times, device=device)
        places = torch.zeros(1, self.n_channels, 3, device=device)
        self.network.eval()
        with torch.no_grad():
            if self.n_outputs is not None:
                shape = tuple(self.logits(silent, positions=places).shape)
                if shape != (1, self.n_outputs):
                    raise ValueError(
                        f"its output for one window has shape {shape}, expected "
                        f"(1, {self.n_outputs}), so it is not a classifier of windows."
                    )
            tokens = self._features(silent, None, places)[0]
        self.network.train()
        self._locate(tokens.shape[1])
        return tokens.shape[-1]

    def _locate(self, n_tokens: int) -> None:
        """Set `token_channel` and `token_time`."""
        channel = time = None
        if self._layout is not None:
            length, step = self._layout.patch(self.network)
            each = 1 if self._layout.order == "mixed" else self.n_channels
            if n_tokens % each:
                raise ValueError(f"{n_tokens} tokens cannot come from {each} channels")
            patches = n_tokens // each
            middle = (torch.arange(patches) * step + length / 2) / self.sfreq
            index = torch.arange(each) if each > 1 else torch.tensor([-1])
            if self._layout.order == "channel":
                channel, time = index.repeat_interleave(patches), middle.repeat(each)
            else:
                channel, time = index.repeat(patches), middle.repeat_interleave(each)
        self.register_buffer("token_channel", channel, persistent=False)
        self.register_buffer("token_time", time, persistent=False)
