"""Miniatures of corpora: what a card names, written as the files that it names."""

from __future__ import annotations

import itertools
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurofm import cards
from neurofm.io import signal_to_raw
from neurofm.io.electrodes import template_positions
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import UNITS, Kind

# Cards whose recordings other tests read: simulations, and samples under $NEUROFM_DATA.
ELSEWHERE = {
    "calcium_suite2p",
    "finger7t",
    "haxby2001_slice",
    "haxby2001_subset",
    "human_single_units",
    "ieeg_ecog_sample",
    "ieeg_seeg_sample",
    "ieeg_supereeg",
    "spikes_linear_track",
}
CORPORA = [
    name
    for name in cards.names("datasets")
    if name not in ELSEWHERE and not name.startswith(("meg_sample", "synthetic", "simulated"))
]
ENTITIES = ("subject", "session", "task", "run")
AMPLITUDE = {Kind.EEG: 20.0, Kind.SEEG: 50.0, Kind.ECOG: 50.0, Kind.MAG: 500.0, Kind.GRAD: 50.0}
SECONDS = 3
SEEDS = itertools.count()


def another() -> np.random.Generator:
    """Numbers nobody had: equal recordings are an error to `neurofm check`."""
    return np.random.default_rng(next(SEEDS))


@dataclass
class Plan:
    """What one card asks for."""

    name: str
    card: dict[str, Any]
    root: Path

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.card["reader"].get("init_args") or {})

    @property
    def expected(self) -> dict[str, Any]:
        return dict(self.card.get("expected") or {})

    @property
    def sfreq(self) -> float:
        value = self.expected.get("sfreq", 250)
        return float(value[0] if isinstance(value, list) else value)

    def entities(self) -> list[dict[str, str]]:
        """One recording for each set of values that event rules ask for."""
        found = []
        for rule in self.card.get("events") or [{}]:
            asked = {k: rule[k] for k in ENTITIES if k in rule}
            found.append({k: str(v[0] if isinstance(v, list) else v) for k, v in asked.items()})
        return [dict(pair) for pair in dict.fromkeys(tuple(item.items()) for item in found)]

    def labels(self, values: dict[str, str]) -> list[str]:
        """Labels in the file that the card's rules know, for a recording with these entities."""
        found: list[str] = []
        for rule in self.card.get("events") or []:
            if any(not same(values.get(k), rule[k]) for k in ENTITIES if k in rule):
                continue
            known = [str(k) for k, v in rule.items() if k not in (*ENTITIES, "whole") and v]
            found += [label.replace("*", "x") for label in known]
        return list(dict.fromkeys(found))

    def sensors(self, kinds: dict[str, int], patterns: dict[str, str]) -> tuple[list[str], list]:
        """Names that the card takes for channels of these kinds."""
        montage = self.arguments.get("montage") or self.files.get("montage") or "standard_1005"
        sites = iter(template_positions(montage))
        names: list[str] = []
        kind: list[Kind] = []
        for word, count in kinds.items():
            own = [p for p, w in patterns.items() if w == word and p != "EEG*"]
            for i in range(count):
                if own:
                    name = own[i % len(own)].replace("*", f"{i // len(own)}{i}")
                else:
                    name = next(sites) if word == "eeg" else f"{word.upper()}{i + 1}"
                names.append(f"EEG {name}" if patterns.get("EEG*") == word else name)
                kind.append(Kind[word.upper()])
        return names, kind

    @property
    def files(self) -> dict[str, Any]:
        return dict(self.arguments.get("files") or self.arguments)

    def signal(self, labels: list[str], *, kinds: dict[str, int] | None = None) -> Signal:
        modality = {"meg": {"axial": 4}, "ieeg": {"seeg": 6}}.get(self.card["modality"], {"eeg": 6})
        wanted = kinds or self.expected.get("kinds") or modality
        names, kind = self.sensors(wanted, self.files.get("kinds") or {})
        rename = {new: old for old, new in (self.files.get("rename") or {}).items()}
        if rename:
            names = list(rename.values())[: len(names)]
            kind = [
                Kind.EOG if n.startswith("EOG") else Kind.EEG for n in list(rename)[: len(kind)]
            ]
        n = int(SECONDS * self.sfreq)
        noise = another().standard_normal((len(names), n))
        data = noise * np.array([AMPLITUDE.get(k, 100.0) for k in kind])[:, None]
        events = tuple(Event(0.1 + 0.05 * i, 0.02, label) for i, label in enumerate(labels))
        sensors = Sensors(
            tuple(names),
            np.array(kind, np.int8),
            np.random.default_rng(1).normal(0, 0.05, (len(names), 3)),
            np.tile([0.0, 0.0, 1.0], (len(names), 1)) * np.isin(kind, (1, 2, 3, 4))[:, None],
        )
        recording = Recording(self.name, "x")
        return Signal(data.astype(np.float32), self.sfreq, sensors, events, recording)


def same(value: str | None, wanted: Any) -> bool:
    return value in [str(item) for item in (wanted if isinstance(wanted, list) else [wanted])]


def complete(pattern: str, values: dict[str, str]) -> dict[str, str]:
    """A value for every entity, as long as the pattern wants it."""
    full = {"subject": "01", "session": "01", "task": "P300", "run": "1"} | values
    for name, width in re.findall(r"\{(\w+):(\d+)\}", pattern):
        full[name] = full[name].rjust(int(width), "0")[-int(width) :]
    return full


def fill(pattern: str, values: dict[str, str]) -> str:
    """A path that fits a pattern."""
    full = complete(pattern, values)
    path = re.sub(r"\{(\w+)(?::\d+)?\}", lambda match: full[match[1]], pattern)
    return path.replace("**/", "deep/er/").replace("*", "01x")


def write_raw(path: Path, signal: Signal) -> None:
    """The signal in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".edf", ".bdf"):
        write_edf(path, signal)
    elif path.suffix == ".cnt":
        write_cnt(path, signal)
    elif path.suffix == ".set":
        pytest.importorskip("scipy")
        write_set(path, signal)
    else:
        signal_to_raw(signal).save(path, overwrite=True, verbose="error")


def write_edf(path: Path, signal: Signal) -> None:
    import edfio

    channels = [
        edfio.EdfSignal(
            row, signal.sfreq, label=name, physical_dimension="uV", physical_range=(-2000, 2000)
        )
        for name, row in zip(signal.sensors.names, signal.data, strict=True)
    ]
    marks = [edfio.EdfAnnotation(e.onset, e.duration, e.label) for e in signal.events]
    edfio.Edf(channels, annotations=marks).write(path)


def write_set(path: Path, signal: Signal) -> None:
    import scipy.io

    rate = signal.sfreq
    events = [(e.onset * rate + 1, e.duration * rate, e.label) for e in signal.events]
    names = np.array([(name,) for name in signal.sensors.names], dtype=[("labels", object)])
    fields = [("latency", object), ("duration", object), ("type", object)]
    eeg = {"setname": "x", "nbchan": len(names), "pnts": signal.data.shape[1], "trials": 1}
    eeg |= {"srate": rate, "xmin": 0.0, "xmax": signal.duration - 1 / rate, "data": signal.data}
    eeg |= {"chanlocs": names, "chaninfo": {"nodatchans": np.zeros(0)}}
    eeg |= {key: np.zeros(0) for key in ("epoch", "icawinv", "icasphere", "icaweights", "icaact")}
    scipy.io.savemat(path, {"EEG": eeg | {"event": np.array(events, dtype=fields)}})


def write_cnt(path: Path, signal: Signal) -> None:
    """Neuroscan's continuous format: a header, 75 bytes per channel, int32 samples, no events."""
    n, times = signal.data.shape
    start = 900 + 75 * n
    head = bytearray(900)
    head[:12] = b"Version 3.0\0"
    struct.pack_into("<H", head, 370, n)
    struct.pack_into("<H", head, 376, round(signal.sfreq))
    struct.pack_into("<l", head, 864, times)
    struct.pack_into("<l", head, 886, start + 4 * n * times)
    head[225:245] = b"01/01/2020\x0010:00:00\x00"[:20]
    table = bytearray(75 * n)
    for i, name in enumerate(signal.sensors.names):
        table[75 * i : 75 * i + len(name)] = name.encode()
        struct.pack_into("<f", table, 75 * i + 59, 1.0)  # sensitivity
        struct.pack_into("<f", table, 75 * i + 71, 204.8)  # calibration: one unit is a microvolt
    samples = np.round(signal.data.T).astype("<i4").tobytes()
    path.write_bytes(bytes(head) + bytes(table) + samples + struct.pack("<Bll", 1, 0, 0))


def make_folder(plan: Plan) -> None:
    for values in plan.entities():
        write_raw(plan.root / fill(plan.files["pattern"], values), plan.signal(plan.labels(values)))


def make_annotated(plan: Plan) -> None:
    arguments = plan.arguments
    for values in plan.entities():
        path = plan.root / fill(plan.files["pattern"], values)
        write_raw(path, plan.signal([]))
        values = complete(plan.files["pattern"], values)
        values |= {"folder": path.parent.relative_to(plan.root).as_posix(), "stem": path.stem}
        place = re.sub(r"\{(\w+)\}", lambda m, v=values: v[m[1]], arguments["annotations"])
        target = plan.root / place.replace("*", "y")
        labels = plan.labels(values)
        if "columns" in arguments:
            write_rows(target, arguments, labels)
        elif "block" in arguments:
            write_words(target, arguments, path.name)
        else:
            write_edf(target, plan.signal(labels, kinds={"eeg": 1}))


def write_rows(target: Path, arguments: dict[str, Any], labels: list[str]) -> None:
    columns, lines = arguments["columns"], []
    named = all(isinstance(column, str) for column in columns.values())
    order = ["channel", *columns.values()] if named else [""] * (max(columns.values()) + 1)
    lines += [f"{arguments['comment']} a comment"] if "comment" in arguments else []
    lines += [",".join(order)] if named else []
    for i, label in enumerate(labels):
        row = ["0"] * len(order)
        for what, value in (
            ("start", f"{0.1 * i}"),
            ("stop", f"{0.1 * i + 0.1}"),
            ("label", label),
        ):
            row[order.index(columns[what]) if named else columns[what]] = value
        lines.append(",".join(row))
    target.write_text("\n".join(lines) + "\n")


def write_words(target: Path, arguments: dict[str, Any], name: str) -> None:
    def say(expression: str, value: str) -> str:
        text = re.sub(r"\(.*?\)", value, expression).replace(" *\\d* *", " 1 ").replace(" *", " ")
        assert re.search(expression, text), text
        return text

    lines = [say(arguments["block"], "other.edf"), say(arguments["start"], "2")]
    lines += [say(arguments["stop"], "3"), say(arguments["block"], name)]
    lines += [say(arguments["start"], "1"), say(arguments["stop"], "2")]
    target.write_text("\n".join(lines))


def make_table(plan: Plan) -> None:
    arguments = plan.arguments
    for values in plan.entities():
        path = plan.root / fill(arguments["pattern"], values)
        path.parent.mkdir(parents=True, exist_ok=True)
        n = int(SECONDS * arguments["sfreq"])
        data = 20 * another().standard_normal((n, len(arguments["channels"])))
        marks = np.zeros(n)
        for i, label in enumerate(plan.labels(values)):
            marks[20 + 30 * i] = float(label)
        head = [arguments["time"], *arguments["channels"], arguments["markers"][0]]
        table = np.c_[np.arange(n) / arguments["sfreq"], data, marks]
        np.savetxt(path, table, delimiter=",", header=",".join(head), comments="")


def make_arrays(plan: Plan) -> None:
    arguments = plan.arguments
    path = plan.root / fill(arguments["pattern"], {})
    path.parent.mkdir(parents=True, exist_ok=True)
    volts = UNITS[Kind[arguments["kind"].upper()]].per_si if arguments["unit"] == "V" else 1.0
    data = 30 * another().standard_normal((6, int(SECONDS * arguments["rate"])))
    np.savez(path, **{arguments["data"]: data / volts})


def make_mat(plan: Plan) -> None:
    arguments = plan.arguments
    sessions = [{"session": name} for name in arguments.get("sessions", ())][:1]
    for values in sessions or plan.entities():
        path = plan.root / fill(arguments["pattern"], values)
        path.parent.mkdir(parents=True, exist_ok=True)
        tree = mat_tree(plan, arguments, plan.labels(values))
        (write_hdf5 if path.suffix == ".h5" else write_mat)(path, tree)


def write_mat(path: Path, tree: dict[str, Any]) -> None:
    import scipy.io

    scipy.io.savemat(path, tree)


def write_hdf5(path: Path, tree: dict[str, Any]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, value in tree.items():
            if name.startswith("@"):
                file.attrs[name[1:]] = ", ".join(value) if isinstance(value, list) else value
            elif isinstance(value, dict):
                for inner, array in value.items():
                    file[f"{name}/{inner}"] = array
            else:
                file[name] = value


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    *folders, name = path.replace("*", "1").split(".")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = value


def mat_tree(plan: Plan, arguments: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Variables where the card says they are."""
    rng, axes = another(), arguments.get("axes", ["channel", "time"])
    names = arguments.get("channels")
    kinds = plan.expected.get("kinds") or {"seeg" if plan.card["modality"] == "ieeg" else "eeg": 4}
    if not isinstance(names, list):
        names = plan.sensors(kinds, {})[0]
        if set(kinds) == {"mag", "grad"}:  # Elekta's names
            names = [f"MEG{i:03d}{k}" for i in range(kinds["mag"]) for k in (3, 2, 1)]
    sizes = {"time": int(arguments.get("piece_s", SECONDS) * plan.sfreq), "channel": len(names)}
    many = {arguments.get("label_axis"): len(labels), **sizes}
    shape = [many.get(axis, 2) for axis in axes]
    unit = arguments.get("unit", "uV")
    factor = {"uV": 20.0, "arbitrary": 20.0, 1.0: 5e-13}.get(unit) or 20e-6 / float(unit)
    data = factor * rng.standard_normal([max(n, 2) for n in shape])
    n = sizes["time"]
    record: dict[str, Any] = {}
    where = arguments.get("data", "")
    if isinstance(where, dict):
        for key in where:
            put(record, key, data)
    elif axes == ["time"]:
        for i in range(4):
            put(record, where.replace("*", str(i)), data)
    elif where:
        put(record, where, data)
    if arguments.get("onsets"):
        put(record, arguments["onsets"], np.arange(len(labels)) * 10 + 5)
        put(record, arguments["labels"], np.array([float(label) for label in labels]))
    trigger = arguments.get("trigger")
    if trigger is not None:
        steps = np.zeros(n)
        for i, label in enumerate(labels or ["1"]):
            steps[20 + 20 * i : 25 + 20 * i] = float(label)
        if trigger in names:
            data[..., names.index(trigger)] = steps
        else:
            put(record, trigger, steps)
    tree: dict[str, Any] = {}
    for key, value in (("sfreq", plan.sfreq), ("channels", names)):
        if isinstance(arguments.get(key), str):
            inside = arguments.get("records") and "." not in arguments[key]
            stored = (
                value
                if arguments[key].startswith("@") or key == "sfreq"
                else np.array(value, object)
            )
            put(record if inside else tree, arguments[key], stored)
    if isinstance(arguments.get("labels"), str) and not arguments.get("onsets"):
        pieces = [float(labels[i % len(labels)]) for i in range(2)]
        *folders, name = arguments["labels"].split(".")
        if folders:  # one structure per trial
            put(tree, ".".join(folders), [{name: piece} for piece in pieces])
        else:
            put(record, name, pieces)
    if "subjects" in arguments:
        put(record, arguments["subjects"], np.array([1, 1, 2, 2]))
        put(record, arguments["positions"], rng.normal(0, 30, (4, 3)))
    records = arguments.get("records")
    if not records:
        return tree | record
    held: Any = record if record and where else data
    named = next(iter(arguments.get("sessions", {}).values()), "")
    several = np.empty(2 if isinstance(named, str) else len(named), object)
    for i in range(len(several)):  # records may be recordings, which have to differ
        several[i] = {**held, where: np.roll(data, i)} if str(where) in record else held
    if isinstance(records, list) or "*" in records:
        for name in records if isinstance(records, list) else [records] * 2:
            put(tree, name.replace("*", str(len(tree) + 1)), held)
    elif isinstance(where, dict) or arguments.get("trigger"):
        put(tree, records, held)
    else:
        put(tree, records, several)
    return tree
