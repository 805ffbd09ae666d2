"""Small copies of public corpora in the formats that their publishers chose, with planted answers.

Unlike `miniatures`, which writes what a card says, this is written after the publishers' own
descriptions, so that it can show where a card is wrong: nested structures, cells, counts from 1,
runs without trials, offsets of raw amplifiers, channels of several rates.

Sources: BNCI Horizon 2020 (data sets 001, 004, 008 and 009 of 2014), GigaDB 100295 and 100542,
Harvard Dataverse 27306, Zenodo 3266223, PhysioNet sleep-edfx; structures as MOABB reads them.
Axes: channel time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from scipy.signal import lfilter

from neurofm import cards

HANDS = (1, 2)  # left, right
# Electrodes of files that name them themselves.
OPENBMI = re.split(
    " +",
    "Fp1 Fp2 F7 F3 Fz F4 F8 FC5 FC1 FC2 FC6 T7 C3 Cz C4 T8 TP9 CP5 CP1 CP2 CP6 TP10 P7 P3 Pz P4 P8 "
    "PO9 O1 Oz O2 PO10 FC3 FC4 C5 C1 C2 C6 CP3 CPz CP4 P1 P2 POz FT9 FTT9h TTP7h TP7 TPP9h FT10 "
    "FTT10h TPP8h TP8 TPP10h F9 F10 AF7 AF3 AF4 AF8 PO3 PO4",
)
ALS = ["Fz", "Cz", "Pz", "Oz", "P3", "P4", "PO7", "PO8"]
GRID = [*ALS, "FCz", "CPz", "F3", "F4", "C3", "C4", "CP3", "CP4"]
# Hz of a rhythm, its amplitude and that of the noise, µV
SPECTRA = {
    "W": (10.0, 15.0, 6.0),
    "1": (6.0, 12.0, 6.0),
    "2": (13.0, 25.0, 8.0),
    "3": (2.0, 60.0, 10.0),
    "4": (1.2, 90.0, 10.0),
    "R": (4.5, 8.0, 16.0),
    "?": (20.0, 2.0, 3.0),
    "M": (20.0, 40.0, 30.0),
}


def background(rng: np.random.Generator, channels: int, times: int) -> np.ndarray:
    """Coloured noise of about 10 µV, part of it common to all channels."""
    noise = rng.standard_normal((channels + 1, times))
    coloured = lfilter([1.0], [1.0, -0.9], noise, axis=1) * 4.0
    return coloured[:-1] + 0.5 * coloured[-1]


def add_imagery(
    data: np.ndarray, names: Sequence[str], sfreq: float, cues: Sequence[int], hands: Sequence[int]
) -> None:
    """A rhythm of 11 Hz that fades opposite to the imagined hand (1 left, 2 right) for 4 s."""
    times = np.arange(data.shape[1]) / sfreq
    for name, hand in (("C3", 2), ("C4", 1)):
        level = np.full(len(times), 12.0)
        for cue, imagined in zip(cues, hands, strict=True):
            if imagined == hand:
                level[cue : cue + int(4 * sfreq)] = 3.0
        data[list(names).index(name)] += level * np.sin(2 * np.pi * 11 * times)


def add_responses(data: np.ndarray, names: Sequence[str], sfreq: float, onsets: np.ndarray) -> None:
    """A positive wave of 12 µV, 0.3 s after each onset (samples from 0), largest at Pz."""
    t = np.arange(int(0.8 * sfreq)) / sfreq
    wave = 12 * np.exp(-(((t - 0.3) / 0.08) ** 2))
    for name in {"Pz", "Cz", "Oz"} & set(names):
        for onset in onsets:
            piece = data[list(names).index(name), onset : onset + len(wave)]
            piece += wave[: len(piece)] * (1.0 if name == "Pz" else 0.6)


def balanced(rng: np.random.Generator, classes: Sequence[int], trials: int) -> np.ndarray:
    """So many labels, every class equally often, in random order."""
    return rng.permutation(np.resize(np.asarray(classes), trials))


def told(rng: np.random.Generator, labels: np.ndarray, shuffled: bool) -> np.ndarray:
    """The labels a file gives: the true ones, or the same in an order without meaning."""
    return rng.permutation(labels) if shuffled else labels


def cell(values: Sequence[Any]) -> np.ndarray:
    """A row of MATLAB cells."""
    made = np.empty((1, len(values)), object)
    made[0, :] = values
    return made


def save(path: Path, tree: dict[str, Any]) -> None:
    """As MATLAB does it before version 7.3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, tree)


def names_of(card: str) -> list[str]:
    """Electrodes that a card lists itself; their order is a fact about the corpus."""
    return list(cards.read("datasets", card)["reader"]["init_args"]["channels"])


def graz_run(
    rng: np.random.Generator,
    names: Sequence[str],
    classes: Sequence[str],
    *,
    trials: int,
    cue_s: float,
    shuffled: bool = False,
) -> dict[str, Any]:
    """A run of BNCI 2014-001 or -004; without trials one that only records eye movements."""
    sfreq, every = 250, 2000
    hands = balanced(rng, range(1, len(classes) + 1), trials)
    starts = 250 + every * np.arange(trials)
    data = background(rng, len(names), 1000 + every * trials)
    add_imagery(data, names, sfreq, starts + int(cue_s * sfreq), hands)
    empty = np.zeros((0, 0))
    return {
        "X": data.T,
        "trial": (starts + 1.0)[:, None] if trials else empty,  # counted from 1
        "y": told(rng, hands, shuffled)[:, None].astype(float) if trials else empty,
        "fs": 250.0,
        "classes": cell(classes),
        "artifacts": np.zeros((trials, 1)) if trials else empty,
        "gender": "female",
        "age": 22.0,
    }


def bnci2014_001(root: Path, *, people: int, trials: int, runs: int = 2, **how: Any) -> None:
    """A01T.mat and A01E.mat: runs in a cell, in T three of eye movements first."""
    names, classes = names_of("bnci2014_001"), ["left hand", "right hand", "feet", "tongue"]
    for person in range(1, people + 1):
        for day in "TE":
            rng = np.random.default_rng([1, person, ord(day)])
            counts = [0, 0, 0, *[trials] * runs] if day == "T" else [0, *[trials] * runs]
            held = [graz_run(rng, names, classes, trials=n, cue_s=2.0, **how) for n in counts]
            save(root / f"A{person:02d}{day}.mat", {"data": cell(held)})


def bnci2014_004(root: Path, *, people: int, trials: int, **how: Any) -> None:
    """B01T.mat with three sessions in a cell, B01E.mat with two."""
    names, classes = names_of("bnci2014_004"), ["left hand", "right hand"]
    for person in range(1, people + 1):
        for letter, sessions in (("T", 3), ("E", 2)):
            rng = np.random.default_rng([4, person, sessions])
            held = [
                graz_run(rng, names, classes, trials=trials, cue_s=3.0, **how)
                for _ in range(sessions)
            ]
            save(root / f"B{person:02d}{letter}.mat", {"data": cell(held)})


def speller_run(
    rng: np.random.Generator, names: Sequence[str], *, flashes: int, shuffled: bool, scale: float
) -> dict[str, Any]:
    """A run of BNCI 2014-008 or -009: a value for each sample, 32 samples for each flash."""
    sfreq, every = 256, 64  # 0.125 s of flash, 0.125 s without
    kinds = balanced(rng, [1, 1, 1, 1, 1, 2], flashes)  # two of twelve groups are targets
    onsets = 256 + every * np.arange(flashes)
    data = background(rng, len(names), 512 + every * flashes)
    add_responses(data, names, sfreq, onsets[kinds == 2])
    y, stimulus = np.zeros((data.shape[1], 1)), np.zeros((data.shape[1], 1))
    for onset, kind, group in zip(
        onsets, told(rng, kinds, shuffled), rng.integers(1, 13, flashes), strict=True
    ):
        y[onset : onset + 32], stimulus[onset : onset + 32] = kind, group
    return {
        "channels": cell(names),
        "X": data.T * scale,
        "y": y,
        "y_stim": stimulus,
        "trial": (onsets[::12] + 1.0)[None],
        "classes": cell(["NonTarget", "Target"]),
        "classes_stim": cell([f"Row{i}" for i in range(1, 13)]),
    }


def bnci2014_008(root: Path, *, people: int, flashes: int, shuffled: bool = False) -> None:
    """A01.mat: one structure, not a cell."""
    for person in range(1, people + 1):
        rng = np.random.default_rng([8, person])
        run = speller_run(rng, ALS, flashes=flashes, shuffled=shuffled, scale=1.0)
        run |= {"gender": "M", "age": "58", "ALSfrs": "38", "onsetALS": "spinal"}
        save(root / f"A{person:02d}.mat", {"data": run})


def bnci2014_009(root: Path, *, people: int, flashes: int, shuffled: bool = False) -> None:
    """A01S.mat: three structures in a cell, in tenths of a microvolt."""
    for person in range(1, people + 1):
        rng = np.random.default_rng([9, person])
        held = [
            speller_run(rng, GRID, flashes=flashes // 3, shuffled=shuffled, scale=10.0)
            for _ in range(3)
        ]
        save(root / f"A{person:02d}S.mat", {"data": cell(held)})


def brain_invaders_2014a(root: Path, *, people: int, flashes: int, shuffled: bool = False) -> None:
    """subject_01/subject_01.mat: seconds, 16 electrodes of a raw amplifier, codes of one sample."""
    names, sfreq, every = names_of("brain_invaders_2014a")[1:-1], 512, 128
    for person in range(1, people + 1):
        rng = np.random.default_rng([14, person])
        kinds = balanced(rng, [1, 1, 1, 1, 1, 2], flashes)
        onsets = 512 + every * np.arange(flashes)
        data = background(rng, 16, 1024 + every * flashes)
        add_responses(data, names, sfreq, onsets[kinds == 2])
        data += rng.normal(0, 2e4, (16, 1))  # no filter: electrodes keep their offset
        stimulus = np.zeros(data.shape[1])
        stimulus[onsets] = told(rng, kinds, shuffled)
        seconds = np.arange(data.shape[1]) / sfreq
        name = f"subject_{person:02d}"
        save(root / name / f"{name}.mat", {"samples": np.c_[seconds, data.T, stimulus]})


def cho2017(root: Path, *, people: int, trials: int, shuffled: bool = False) -> None:
    """s01.mat: the trials of each hand behind each other, 7 s each, the cue in the third."""
    names = names_of("cho2017")
    for person in range(1, people + 1):
        rng = np.random.default_rng([17, person])
        cues = 1024 + 3584 * np.arange(trials)
        event = np.zeros((1, 3584 * trials))
        event[0, cues] = 1
        offset = rng.normal(0, 1e4, (len(names), 1))  # of a DC amplifier
        sides = []
        for hand in HANDS:
            data = background(rng, len(names), 3584 * trials)
            own = balanced(rng, HANDS, trials) if shuffled else [hand] * trials
            add_imagery(data, names, 512, cues, own)
            jumps = np.repeat(rng.normal(0, 50, (len(names), trials)), 3584, axis=1)
            sides.append(data + offset + jumps)  # other trials lay between these
        save(
            root / f"s{person:02d}.mat",
            {
                "eeg": {
                    "noise": cell([background(rng, len(names), 512)] * 5),
                    "rest": background(rng, len(names), 2048),
                    "srate": 512.0,
                    "movement_left": sides[0][:, :3584],
                    "movement_right": sides[1][:, :3584],
                    "movement_event": event[:, :3584],
                    "n_movement_trials": 1.0,
                    "imagery_left": sides[0],
                    "imagery_right": sides[1],
                    "n_imagery_trials": float(trials),
                    "frame": np.array([[-2000.0, 5000.0]]),
                    "imagery_event": event,
                    "comment": "",
                    "subject": f"s{person:02d}",
                    "psenloc": rng.standard_normal((64, 3)),
                    "senloc": rng.standard_normal((64, 3)),
                }
            },
        )


def openbmi(
    root: Path,
    paradigm: str,
    *,
    people: int,
    trials: int,
    shuffled: bool = False,
    tested: bool = True,
) -> None:
    """sess01_subj01_EEG_MI.mat (or ERP): a phase for training, one for the test and its labels."""
    words = {"MI": ["right", "left"], "ERP": ["target", "nontarget"]}[paradigm]
    gap = {"MI": 7000, "ERP": 150}[paradigm]
    for person in range(1, people + 1):
        for session in (1, 2):
            rng = np.random.default_rng([19, person, session])
            tree = {}
            for phase in ("train", "test"):
                data = background(rng, 62, 4000 + gap * trials)
                onsets = 1500 + gap * np.arange(trials)
                share = [1, 2] if paradigm == "MI" else [1, 2, 2, 2, 2, 2]
                y = balanced(rng, share, trials)
                if paradigm == "MI":
                    add_imagery(data, OPENBMI, 1000, onsets, 3 - y)  # here 1 is the right hand
                else:
                    add_responses(data, OPENBMI, 1000, onsets[y == 1])
                y = told(rng, y, shuffled)
                held = {
                    "smt": np.zeros((4, trials, 62), np.float32),
                    "x": data.T.astype(np.float32),
                    "t": (onsets + 1.0)[None],
                    "fs": 1000.0,
                    "y_dec": y[None].astype(np.uint8),
                    "y_logic": np.stack([y == 1, y == 2]).astype(np.uint8),
                    "y_class": cell([words[i - 1] for i in y]),
                    "class": np.array([[1, words[0]], [2, words[1]]], object),
                    "chan": cell(OPENBMI),
                    "EMG": background(rng, 4, data.shape[1]).T.astype(np.float32),
                    "EMG_index": cell(["EMG1", "EMG2", "EMG3", "EMG4"]),
                    "pre_rest": background(rng, 62, 1000).T.astype(np.float32),
                    "post_rest": background(rng, 62, 1000).T.astype(np.float32),
                }
                if phase == "test" and not tested:
                    for name in ("y_dec", "y_logic", "y_class"):
                        held[name] = np.zeros((0, 0))
                tree[f"EEG_{paradigm}_{phase}"] = held
            folder = root / f"session{session}" / f"s{person}"
            save(folder / f"sess{session:02d}_subj{person:02d}_EEG_{paradigm}.mat", tree)


def weibo2014(root: Path, *, people: int, trials: int, shuffled: bool = False) -> None:
    """subject_1.mat, as MOABB names the publisher's cl.mat: trials of 8 s, cue after 3 s."""
    names = names_of("weibo2014")
    for person in range(1, people + 1):
        rng = np.random.default_rng([20, person])
        hands = balanced(rng, range(1, 8), trials)
        data = np.empty((len(names), 1600, trials))
        for i, hand in enumerate(hands):
            data[..., i] = background(rng, len(names), 1600)
            add_imagery(data[..., i], names, 200, [600], [hand])
        label = told(rng, hands, shuffled)[:, None].astype(np.uint8)
        save(root / f"subject_{person}.mat", {"data": data.astype(np.float32), "label": label})


def sleep_edf(
    root: Path,
    *,
    people: int,
    stages: Sequence[str],
    nights: int = 1,
    shuffled: bool = False,
) -> None:
    """SC4001E0-PSG.edf with channels of two rates, SC4001EC-Hypnogram.edf with annotations alone.

    Args:
        stages: One for each epoch of 30 s; "M" is movement and "?" not scored.
    """
    import edfio

    folder = root / "sleep-cassette"
    folder.mkdir(parents=True, exist_ok=True)
    start = datetime(1989, 4, 24, 16, 13)
    for person in range(people):
        for night in range(1, nights + 1):
            rng = np.random.default_rng([0, person, night])
            order = list(rng.permutation(np.array(stages))) if person else list(stages)
            said = list(rng.permutation(np.array(order))) if shuffled else order
            rows = np.concatenate([_epoch(rng, str(stage)) for stage in order], axis=1)
            seconds = 30 * len(order)
            slow = [
                ("Resp oro-nasal", "", rng.normal(0, 300, seconds)),
                ("EMG submental", "uV", rng.normal(3, 0.5, seconds)),
                ("Temp rectal", "DegC", rng.normal(37, 0.01, seconds)),
                ("Event marker", "", np.full(seconds, 920.0)),
            ]
            fast = ("EEG Fpz-Cz", "EEG Pz-Oz", "EOG horizontal")
            signals = [
                edfio.EdfSignal(row, 100, label=name, physical_dimension="uV", **_range(row))
                for name, row in zip(fast, rows, strict=True)
            ]
            signals += [
                edfio.EdfSignal(row, 1, label=name, physical_dimension=unit, **_range(row))
                for name, unit, row in slow
            ]
            stem = f"SC4{person:02d}{night}"
            when = {"recording": edfio.Recording(startdate=start.date()), "starttime": start.time()}
            edfio.Edf(signals, data_record_duration=30, **when).write(folder / f"{stem}E0-PSG.edf")
            marks = _stretches([str(stage) for stage in said])
            marks.append((30.0 * len(order), 3600.0, "Sleep stage ?"))  # behind the signals' end
            edfio.Edf([], annotations=[edfio.EdfAnnotation(*m) for m in marks], **when).write(
                folder / f"{stem}E{'CHJ'[person % 3]}-Hypnogram.edf"
            )


def _range(row: np.ndarray) -> dict[str, Any]:
    top = float(np.ceil(np.abs(row).max() + 1))
    return {"physical_range": (-top, top), "digital_range": (-2048, 2047)}


def _epoch(rng: np.random.Generator, stage: str) -> np.ndarray:
    hertz, rhythm, noise = SPECTRA[stage]
    t = np.arange(3000) / 100
    data = background(rng, 3, 3000) * noise / 10
    return data + rhythm * np.sin(2 * np.pi * (hertz * t + rng.random((3, 1))))


def _stretches(stages: Sequence[str]) -> list[tuple[float, float, str]]:
    """One annotation for all epochs of one stage that follow each other."""
    marks: list[tuple[float, float, str]] = []
    for i, stage in enumerate(stages):
        name = "Movement time" if stage == "M" else f"Sleep stage {stage}"
        if marks and marks[-1][2] == name:
            onset, duration, _ = marks.pop()
            marks.append((onset, duration + 30.0, name))
        else:
            marks.append((30.0 * i, 30.0, name))
    return marks
