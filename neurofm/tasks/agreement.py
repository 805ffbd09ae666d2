"""Whether data are what a model was made for, looked at once before a run; what it learned from.

A network that has learned nothing yet may be trained on any band; one that has may not be given
another unit, other channels where it knows them by place, or frequencies it never met.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from neurofm.amplitudes import check_amplitudes
from neurofm.contract import begins
from neurofm.data.describe import Description, describe
from neurofm.io.expectations import contract_of, expect
from neurofm.io.model_card import FORMAT, version
from neurofm.io.seen import Seen

_SIDES = {"fit": ("train", "validate"), "train": ("train",), "validate": ("validate",)}


def described(data: Any, stage: str) -> Description | None:
    """The windows that a stage will use; None if the data module does not say which."""
    windows, split = getattr(data, "windows", None), getattr(data, "split", None)
    if windows is None or split is None:
        return None
    index = [i for side in _SIDES.get(stage, ("test",)) for i in getattr(split, side)]
    return describe(windows, index) if index else None


def is_fresh(model: nn.Module) -> bool:
    """Whether nothing says that the network has learned anything."""
    card = getattr(model, "card", {})
    return not (len(Seen.of(model)) or card.get("trained_on") or card.get("converted_from"))


def check_data(model: nn.Module, found: Description) -> None:
    """Compare data with what a model expects.

    Raises:
        ValueError: With the field, what the data have, what was expected, and what to do.
    """
    name, contract, fresh = type(model).__name__, contract_of(model), is_fresh(model)
    for given in found.given:
        contract.compare(given, model=name, fresh=fresh)
    known = getattr(model, "_amplitudes", {})
    new = [kind for kind in found.amplitude if known and kind not in known]
    if new:
        warnings.warn(
            f"{name}: {', '.join(new).upper()} channels, of which there were none in training "
            f"(there were {', '.join(known).upper()}). Features of them mean little until the "
            "model is trained on them.",
            stacklevel=2,
        )
    check_amplitudes(found.amplitude, known, model=name, what="the data")


def learned_from(model: nn.Module, found: Description) -> None:
    """Write on a model what it is now trained on: `card`, and the contract for later data."""
    card = dict(getattr(model, "card", {}))
    contract = contract_of(model)
    expects = contract.expects()
    for name in ("unit", "band"):
        expects.pop(name, None)
    expects["unit"] = found.facts["unit"]
    if found.band is not None:
        expects["band"] = list(found.band)
    if isinstance(found.facts["sfreq"], float):
        expects["sfreq"] = found.facts["sfreq"]
    expects.setdefault("kinds", found.facts["kinds"])
    by_place = contract.n_channels is not None or contract.max_channels is not None
    if by_place and found.names is not None:
        # The first channels of a longer list: the others keep their places.
        known = contract.channels if begins(contract.channels, found.names) else found.names
        expects["channels"] = list(known)
    amplitude = {
        **(card.get("statistics") or {}).get("amplitude", {}),
        **found.statistics["amplitude"],
    }
    trained = card.get("trained_on") or []
    trained = [*trained, found.facts] if found.facts not in trained else trained
    changed = {
        **card,
        "expects": expects,
        "statistics": {"amplitude": amplitude},
        "trained_on": trained,
    }
    expect(model, changed, where=type(model).__name__, anew=True)


def card_of(model: nn.Module) -> dict[str, Any]:
    """What a checkpoint says of its model, as plain data."""
    return {
        "expects": contract_of(model).expects(),
        **getattr(model, "card", {}),
        "format": FORMAT,
        "versions": {name: version(name) for name in ("neurofm", "torch")},
    }
