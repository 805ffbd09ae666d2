"""What a model expects of its input, and the check that a batch, or a whole data set, is that.

A `Contract` is made of the field `expects` of a model card, of the arguments a network was built
with, or of both. What makes results wrong is an error that says what to do; what cannot hurt (a
narrower band) is a warning. On a GPU only what is known without waiting for it is looked at: rate,
length, unit, names and band, not values.
Axes: batch channel time.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from neurofm.batch import Batch
from neurofm.units import Kind

UNITS = ("physical", "z")  # or "any", of models that standardize by themselves
# Names of the 10-20 system that the 10-10 system replaced.
_OLD_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
_OTHER_FIELDS = ("tokenizer",)  # of `expects`, about something else than the input


@dataclass(frozen=True)
class Given:
    """What a batch or a data set is, as far as known without its samples.

    Args:
        kinds: Names of the kinds of channels, lower case; None = unknown.
        names: Of the channels, in order; None = unknown, or not the same in all windows.
        n_channels: Smallest and largest number of real channels; None = unknown.
        unit: "physical" or "z".
        sfreq: Hz.
        band: Hz, what filters left of the signal; None = unknown.
        n_times: Samples of a window.
        n_unplaced: Largest number of channels of a window without a position; None = unknown.
    """

    sfreq: float
    n_times: int
    unit: str = "physical"
    kinds: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    n_channels: tuple[int, int] | None = None
    band: tuple[float, float] | None = None
    n_unplaced: int | None = None

    @classmethod
    def of(cls, batch: Batch) -> Given:
        """Of a batch; nothing that would have to be fetched from a GPU."""
        given = cls(
            sfreq=batch.sfreq,
            n_times=batch.x.shape[-1],
            unit=batch.unit,
            names=batch.names,
            band=batch.band,
        )
        if batch.names is not None:
            given = replace(given, n_channels=(len(batch.names),) * 2)
        if batch.x.device.type != "cpu" or torch.compiler.is_compiling():
            return given
        mask = batch.channel_mask
        count = mask.sum(1)
        return replace(
            given,
            kinds=tuple(Kind(value).name.lower() for value in batch.kind[mask].unique().tolist()),
            n_channels=(int(count.min()), int(count.max())) if len(count) else None,
            n_unplaced=int((mask & ~batch.has_position).sum(1).max()) if len(count) else None,
        )


@dataclass(frozen=True)
class Contract:
    """What a model expects of its input; a field that is None or empty says nothing.

    Args:
        kinds: Kinds of channels it takes.
        channels: Names in the order in which it knows them; a model that takes fewer channels than
            `max_channels` takes the first ones of these.
        n_channels: Exact number of channels.
        max_channels: Most channels.
        unit: "physical" (working units), "z", or "any" of a model that takes both.
        sfreq: Hz.
        band: Hz, of the signals it was made for.
        n_times: Samples of a window, exact.
        window_s: Seconds of a window, exact.
        min_window_s: Seconds of the shortest window.
        positions: Every channel must have a known position.
        normalization: What must have been done to amplitudes beforehand, in words.
    """

    kinds: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    n_channels: int | None = None
    max_channels: int | None = None
    unit: str | None = None
    sfreq: float | None = None
    band: tuple[float, float] | None = None
    n_times: int | None = None
    window_s: float | None = None
    min_window_s: float | None = None
    positions: bool = False
    normalization: str | None = None

    def __post_init__(self) -> None:
        names = (*self.kinds, *self.channels)
        if isinstance(self.channels, str) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"Contract: kinds or channels are no lists of names: {names}.")
        unknown = [kind for kind in self.kinds if kind.upper() not in Kind.__members__]
        if unknown:
            raise ValueError(f"Contract: kinds {unknown} are not among {[*Kind.__members__]}.")
        if self.unit not in (None, "any", *UNITS):
            raise ValueError(f"Contract: unit {self.unit!r} is not 'physical', 'z' or 'any'.")
        for name in ("sfreq", "n_times", "window_s", "min_window_s", "n_channels", "max_channels"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Contract: {name} is {value}, expected above 0.")
        if self.band is not None and not 0 <= self.band[0] < self.band[1]:
            raise ValueError(f"Contract: band {self.band} Hz, expected 0 <= low < high.")
        if (n := len(self.channels)) and self.n_channels not in (None, n):
            raise ValueError(f"Contract: {n} names in channels, n_channels is {self.n_channels}.")

    @classmethod
    def of(cls, expects: Mapping[str, Any], *, where: str) -> Contract:
        """From the field `expects` of a card.

        Args:
            where: Name of the card or file, for messages.

        Raises:
            ValueError: An unknown field, or one with an impossible value.
        """
        known = [item.name for item in fields(cls)]
        unknown = [name for name in expects if name not in (*known, *_OTHER_FIELDS)]
        if unknown:
            raise ValueError(
                f"{where}: expects has unknown fields {', '.join(map(str, unknown))}. There are "
                f"{', '.join((*known, *_OTHER_FIELDS))}."
            )
        try:
            return cls(**{name: _plain(name, expects[name]) for name in known if name in expects})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: expects: {error}") from error

    def expects(self) -> dict[str, Any]:
        """The field `expects` of a card, as plain data; fields that say nothing are left out."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value not in (None, (), False)
        }

    def joined(self, other: Contract, *, where: str) -> Contract:
        """What both demand together; `where` says what the two are, for messages.

        Raises:
            ValueError: They contradict each other; the message names the fields and both values.
        """
        mine, theirs = self.expects(), other.expects()
        if "any" in (mine.get("unit"), theirs.get("unit")):
            either = {mine.pop("unit", "any"), theirs.pop("unit", "any")}
            theirs["unit"] = next(iter(either - {"any"}), "any")
        wrong = [
            f"{name}: {mine[name]!r} against {theirs[name]!r}"
            for name in ("n_channels", "unit", "n_times")
            if name in mine and name in theirs and mine[name] != theirs[name]
        ]
        names = [
            [_same(n) for n in part["channels"]] for part in (mine, theirs) if "channels" in part
        ]
        if len(names) == 2 and names[0] != names[1]:
            wrong.append(f"channels: {_some(mine['channels'])} against {_some(theirs['channels'])}")
        for name in ("sfreq", "window_s"):
            if name in mine and name in theirs and not _close(mine[name], theirs[name]):
                wrong.append(f"{name}: {mine[name]:g} against {theirs[name]:g}")
        if mine.get("kinds") and theirs.get("kinds"):
            common = [kind for kind in mine["kinds"] if kind in theirs["kinds"]]
            if not common:
                wrong.append(f"kinds: {mine['kinds']} against {theirs['kinds']}")
            theirs["kinds"] = common
        both = {**mine, **theirs}
        least = [part["min_window_s"] for part in (mine, theirs) if "min_window_s" in part]
        most = [part["max_channels"] for part in (mine, theirs) if "max_channels" in part]
        if least:
            both["min_window_s"] = max(least)
        if most:
            both["max_channels"] = min(most)
        n = len(both.get("channels", ()))
        if n and (both.get("n_channels", n) != n or n > both.get("max_channels", n)):
            built = both.get("n_channels") or both["max_channels"]
            wrong.append(f"channels: {n} names against a network for {built} channels")
        if wrong:
            raise ValueError(f"{where} contradict each other. {'; '.join(wrong)}.")
        return Contract.of(both, where=where)

    def check(self, batch: Batch, *, model: str) -> None:
        """Stop if a batch is not what the model of that name was made for.

        Raises:
            ValueError: With the field, what the batch has, what was expected, and what to do.
        """
        check_values(batch, model=model)
        self.compare(Given.of(batch), model=model, what="the batch")

    def compare(
        self, given: Given, *, model: str, what: str = "the data", fresh: bool = False
    ) -> None:
        """Stop if data are not what the model was made for; warn of what cannot hurt.

        Args:
            what: "the batch" or "the data", for messages.
            fresh: The model has learned nothing yet, so that a wider band cannot make it wrong.
        """
        errors = [*self._signal(given), *self._sensors(given)]
        wider, narrower = self._bands(given)
        notes = [narrower, wider if fresh else ""]
        if wider and not fresh:
            errors.append(wider)
        has = "has" if what == "the batch" else "have"
        if errors:
            raise ValueError(f"{model}: {what} {has} {' Also: '.join(errors)}")
        for note in filter(None, notes):
            warnings.warn(f"{model}: {what} {has} {note}", stacklevel=3)

    def _signal(self, given: Given) -> list[str]:
        """Faults in rate, unit and length."""
        wrong = []
        if given.unit not in UNITS:
            wrong.append(
                f"unit {given.unit!r}, which is not 'physical' or 'z'. Bring them to working "
                "units (µV, fT, fT/cm) or z-score them, and say which in Batch.unit."
            )
        elif self.unit in UNITS and given.unit != self.unit:
            remedy = {
                "physical": "Leave out the step that standardizes.",
                "z": "Standardize each channel (`StandardizeRecording`).",
            }[self.unit]
            wrong.append(f"unit {given.unit!r}, expected {self.unit!r}. {remedy}")
        if self.sfreq is not None and not _close(given.sfreq, self.sfreq):
            wrong.append(
                f"{given.sfreq:g} Hz, expected {self.sfreq:g} Hz. Prepare the data with "
                f"Resample(sfreq={self.sfreq:g})."
            )
        n, seconds = given.n_times, given.n_times / given.sfreq
        if self.n_times is not None and n != self.n_times:
            wrong.append(
                f"windows of {n} samples, expected {self.n_times}. Set window_s to "
                f"{self.n_times / (self.sfreq or given.sfreq):g}, or build it with n_times={n}."
            )
        elif self.window_s is not None and abs(seconds - self.window_s) * given.sfreq > 0.51:
            wrong.append(
                f"windows of {seconds:g} s, expected {self.window_s:g} s. Set window_s to "
                f"{self.window_s:g}."
            )
        if self.min_window_s is not None and seconds < self.min_window_s - 0.51 / given.sfreq:
            wrong.append(
                f"windows of {seconds:g} s, expected at least {self.min_window_s:g} s. Set "
                f"window_s to at least {self.min_window_s:g}."
            )
        return wrong

    def _sensors(self, given: Given) -> list[str]:
        """Faults in kinds, number, names, order and places of channels."""
        wrong = []
        others = [kind for kind in given.kinds or () if self.kinds and kind not in self.kinds]
        if others:
            wrong.append(
                f"{', '.join(others).upper()} channels, expected "
                f"{', '.join(self.kinds).upper()}. Prepare the data with PickKinds, or build the "
                "model with `kinds` that hold them."
            )
        named = bool(self.channels) and given.names is not None
        if named and given.names is not None:
            wrong.extend(self._order(given.names))
        if given.n_channels is not None and not named:
            low, high = given.n_channels
            counts = f"{low}" if low == high else f"{low} to {high}"
            exact = len(self.channels) if self.channels and not self.max_channels else None
            exact = self.n_channels or exact
            if exact is not None and (low, high) != (exact, exact):
                wrong.append(
                    f"{counts} channels, expected {exact} in a fixed order. Choose them with "
                    "PickChannels, or bring every montage to them with ToTemplate."
                )
            elif self.max_channels is not None and high > self.max_channels:
                wrong.append(
                    f"{counts} channels, expected at most {self.max_channels}. Choose that "
                    "many with PickChannels, or build the model for more."
                )
        if self.positions and given.n_unplaced:
            wrong.append(
                f"{given.n_unplaced} channels without a known position, which the model needs. "
                "Give the dataset card a `montage` or electrode positions, or leave those "
                "channels out with PickChannels."
            )
        return wrong

    def _order(self, names: Sequence[str]) -> list[str]:
        """Faults in names and their order."""
        mine, theirs = [_same(n) for n in self.channels], [_same(n) for n in names]
        fewer_allowed = self.n_channels is None and self.max_channels is not None
        if begins(self.channels, names) and (fewer_allowed or len(mine) == len(theirs)):
            return []
        lacking = [name for name in self.channels if _same(name) not in theirs]
        more = [name for name in names if _same(name) not in mine]
        remedy = "End the preparation with PickChannels and the names in that order"
        if not lacking and not more:
            at = next(
                i for i, pair in enumerate(zip(mine, theirs, strict=True)) if len({*pair}) > 1
            )
            return [
                f"the right channels in another order (number {at} is {names[at]}, expected "
                f"{self.channels[at]}), and the model knows them by place. {remedy}."
            ]
        return [
            f"other channels than the {len(self.channels)} that the model knows by place: "
            f"lacking {_some(lacking)}; not known {_some(more)}. {remedy}, or ToTemplate to "
            "interpolate them."
        ]

    def _bands(self, given: Given) -> tuple[str, str]:
        """What to say of a wider and of a narrower band; "" if there is nothing to say."""
        if self.band is None or given.band is None:
            return "", ""
        (low, high), (mine_low, mine_high) = given.band, self.band
        text = f"a band of {low:g}-{high:g} Hz, expected {mine_low:g}-{mine_high:g} Hz."
        if low < 0.8 * mine_low or high > 1.25 * mine_high:
            return (
                f"{text} What lies outside, the model was not made for. Prepare them with "
                f"Bandpass(low={mine_low:g}, high={mine_high:g}).",
                "",
            )
        if low > max(1.25 * mine_low, mine_low + 0.5) or high < 0.8 * mine_high:
            return "", f"{text} The model can use what is there, and misses the rest."
        return "", ""


def check_values(batch: Batch, *, model: str) -> None:
    """Stop at windows without any channel and at values that are not finite; not on a GPU."""
    if batch.x.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if not batch.has_signal:
        raise ValueError(
            f"{model}: the batch holds stored tokens alone, and this needs the signal. Set "
            "`signal: true` beside `tokens` in the recipe's data, or leave `tokens` out."
        )
    mask = batch.channel_mask
    if not bool(mask.any(1).all()):
        empty = torch.nonzero(~mask.any(1)).flatten().tolist()
        raise ValueError(
            f"{model}: windows {_some(map(str, empty))} of the batch have no real channel. Drop "
            "windows whose channel_mask is all False."
        )
    # One norm tells of any value that is not finite, or has no finite square, ten times faster.
    if not bool(torch.linalg.vector_norm(batch.x.detach(), dtype=torch.float32).isfinite()):
        bad = torch.nonzero(~(batch.x.abs() < 1e15).all(-1) & mask).tolist()
        if bad:
            raise ValueError(
                f"{model}: the batch holds NaN or infinite values (or above 1e15) in {len(bad)} "
                f"channels (window {bad[0][0]}, channel {bad[0][1]} first). Interpolate or drop "
                "these channels (`neurofm check` names them)."
            )


def begins(names: Sequence[str], first: Sequence[str]) -> bool:
    """Whether channels are the first ones of a list, by any spelling of their names."""
    return [_same(n) for n in names[: len(first)]] == [_same(n) for n in first]


def _plain(name: str, value: Any) -> Any:
    """YAML's lists as tuples, and its whole numbers as floats where they have a unit."""
    if name in ("sfreq", "window_s", "min_window_s") and value is not None:
        return float(value)
    if name == "band" and value is not None:
        low, high = value
        return float(low), float(high)
    return tuple(value) if isinstance(value, list) else value


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-3 * abs(b)


def _same(name: str) -> str:
    """A channel's name without what spellings differ in: case, dots, blanks, old names."""
    bare = name.upper().replace(".", "").replace(" ", "").removeprefix("EEG")
    return _OLD_NAMES.get(bare, bare)


def _some(names: Any, most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more
