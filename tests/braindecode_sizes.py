"""Every network of braindecode, the windows with which it is tried, and what it cannot do.

`python tests/braindecode_sizes.py` prints the table of models/README.md.
"""

from __future__ import annotations

from typing import Any

ELECTRODES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "O1", "O2"]
# Centimetres, about where they are: some networks interpolate between electrodes.
PLACES = [
    [-3, 11, 3],
    [3, 11, 3],
    [-5, 9, 8],
    [5, 9, 8],
    [-7, 2, 10],
    [7, 2, 10],
    [-3, -8, 5],
    [3, -8, 5],
]
USUAL: dict[str, Any] = {
    "n_channels": 8,
    "n_times": 1000,
    "sfreq": 250.0,
    "n_outputs": 4,
    "channels": ELECTRODES,
    "positions": [[value / 100 for value in place] for place in PLACES],
}
_ONE = {"n_channels": 1, "channels": ["Cz"], "positions": [[0.0, 0.0, 0.12]]}
OTHERS: dict[str, dict[str, Any]] = {
    "AttnSleep": _ONE | {"n_times": 3000, "sfreq": 100.0},
    "BENDR": {"arguments": {"transformer_layers": 1, "contextualizer_hidden": 64}},
    "CBraMod": {"sfreq": 200.0, "arguments": {"n_layer": 1}},
    "CodeBrain": {"sfreq": 200.0, "arguments": {"num_res_layers": 1}},
    "DANCE": {"n_outputs": None},
    "EEGDINO": {"sfreq": 200.0, "arguments": {"n_layer": 2}},
    "EEGPT": {"n_times": 1024, "sfreq": 256.0, "arguments": {"depth": 1}},
    "InterpolatedBENDR": {"arguments": {"transformer_layers": 1, "encoder_h": 64}},
    "InterpolatedBIOT": {"sfreq": 200.0},
    "InterpolatedEEGPT": {"arguments": {"depth": 1}},
    "InterpolatedLaBraM": {"arguments": {"num_layers": 1}},
    "InterpolatedSignalJEPA": {"n_outputs": None},
    "Labram": {"n_times": 800, "sfreq": 200.0, "arguments": {"num_layers": 2}},
    "LUNA": {"n_times": 320, "sfreq": 256.0, "arguments": {"depth": 1}},
    "MVPFormer": {"n_times": 1024, "arguments": {"n_layers": 1, "segment_len": 512}},
    "REVE": {"n_times": 560, "sfreq": 200.0, "arguments": {"depth": 1}},
    "STEEGFormer": {"n_times": 512, "sfreq": 128.0, "arguments": {"depth": 1}},
    "USleep": {"sfreq": 128.0, "n_times": 3840},
    "ZUNA": {"n_times": 128, "sfreq": 256.0, "arguments": {"n_layers": 1, "dim": 64}},
}
_MUSCLES = "made for an array of electrodes on a muscle: refused for windows of EEG"
_EVENTS = "its outputs are no classes of a window: features only (`n_outputs: null`)"
CANNOT: dict[str, str] = {
    "ATCNet": "averages several heads: logits, but no features for a readout",
    "DANCE": _EVENTS,
    "EMG2QwertyNet": _MUSCLES,
    "InterpolatedSignalJEPA": _EVENTS,
    "MetaNeuromotorHand": _MUSCLES,
    "NeuroPose": _MUSCLES,
    "SensingDynamics": _MUSCLES,
    "VEMG2Pose": _MUSCLES,
}
REFUSED = tuple(name for name, why in CANNOT.items() if why == _MUSCLES)
# Seconds at most; the others are tried with `-m slow`.
SMALL = [
    "AttentionBaseNet",
    "BDTCN",
    "CTNet",
    "ContraWR",
    "DGCNN",
    "EEGInceptionERP",
    "EEGNeX",
    "EEGNet",
    "EEGTCNet",
    "SCCNet",
    "ShallowFBCSPNet",
    "SleepStagerChambon2018",
    "SyncNet",
]
NAMES = sorted(
    [
        "ATCNet",
        "AttentionBaseNet",
        "AttnSleep",
        "BDTCN",
        "BENDR",
        "BIOT",
        "BrainModule",
        "CBraMod",
        "CTNet",
        "CodeBrain",
        "ContraWR",
        "DANCE",
        "DGCNN",
        "Deep4Net",
        "DeepSleepNet",
        "EEGConformer",
        "EEGDINO",
        "EEGITNet",
        "EEGInceptionERP",
        "EEGInceptionMI",
        "EEGMiner",
        "EEGNeX",
        "EEGNet",
        "EEGPT",
        "EEGSimpleConv",
        "EEGSym",
        "EEGTCNet",
        "EMG2QwertyNet",
        "FBCNet",
        "FBLightConvNet",
        "FBMSNet",
        "IFNet",
        "InterpolatedBENDR",
        "InterpolatedBIOT",
        "InterpolatedEEGPT",
        "InterpolatedLaBraM",
        "InterpolatedSignalJEPA",
        "LUNA",
        "Labram",
        "MEDFormer",
        "MSVTNet",
        "MVPFormer",
        "MetaNeuromotorHand",
        "NeuroPose",
        "PBT",
        "REVE",
        "SCCNet",
        "SPARCNet",
        "SSTDPN",
        "STEEGFormer",
        "SensingDynamics",
        "ShallowFBCSPNet",
        "SignalJEPA",
        "SignalJEPA_Contextual",
        "SignalJEPA_PostLocal",
        "SignalJEPA_PreLocal",
        "SincShallowNet",
        "SleepStagerBlanco2020",
        "SleepStagerChambon2018",
        "SyncNet",
        "TCFormer",
        "TIDNet",
        "TSception",
        "USleep",
        "VEMG2Pose",
        "ZUNA",
    ]
)


def arguments(name: str) -> dict[str, Any]:
    """How the network is tried."""
    return USUAL | OTHERS.get(name, {})


def table() -> str:
    """Rows of the table of what is not usual."""
    rows = ["| network | tried with | cannot |", "| --- | --- | --- |"]
    for name in sorted({*OTHERS, *CANNOT}):
        own = arguments(name)
        size = f"{own['n_channels']} channel{'s' * (own['n_channels'] > 1)}, "
        size += f"{own['n_times']} samples, {own['sfreq']:g} Hz"
        tried = "" if name in REFUSED else size
        rows.append(f"| `{name}` | {tried} | {CANNOT.get(name, '')} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
