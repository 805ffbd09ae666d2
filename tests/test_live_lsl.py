"""A Lab Streaming Layer stream from this machine to this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from live_toys import LABELS, decoder, recording

from neurofm.live import LslOutlet, LslSource, Prediction, Session, compare

lsl = pytest.importorskip("mne_lsl", reason="mne-lsl is not installed").lsl
SIGNAL = recording(4.0)


def outlet(name: str, *, units: str | None = "microvolts", n: int = 3) -> object:
    info = lsl.StreamInfo(name, "eeg", n, 160.0, "float32", f"source-{name}")
    info.set_channel_names(["C3", "CZ", "C4"][:n])
    info.set_channel_types(["eeg"] * n)
    if units is not None:
        info.set_channel_units([units] * n)
    return lsl.StreamOutlet(info, chunk_size=16)


@pytest.fixture(scope="module", autouse=True)
def _loopback() -> Iterator[None]:
    there = outlet("neurofm-loopback")
    if not lsl.resolve_streams(timeout=5.0, name="neurofm-loopback"):
        pytest.skip("LSL finds no stream on this machine: multicast to itself is not possible")
    yield
    del there


@pytest.mark.system
def test_a_stream_over_lsl_gives_what_its_samples_give_offline():
    sender, scale = outlet("neurofm-volts", units="V"), np.float32(1e-6)
    source = LslSource("neurofm-volts", wait_s=5.0)
    source.wait_s = 1.0

    def send() -> None:
        now = lsl.local_clock()
        for first in range(0, SIGNAL.data.shape[1], 16):
            piece = np.ascontiguousarray(SIGNAL.data[:, first : first + 16].T) * scale
            times = now + (first + np.arange(len(piece))) / 160.0
            if first == 320:  # lost on the way
                continue
            sender.push_chunk(piece, times)
            time.sleep(0.01)

    session = Session(decoder(), source)
    thread = threading.Thread(target=send)
    thread.start()
    outcome = session.run()
    thread.join()
    source.close()

    assert outcome.faults.missing == 16 and outcome.faults.late == 0
    assert outcome.with_hole >= 4 and outcome.predictions
    assert compare(session, outcome).largest < 1e-6
    np.testing.assert_allclose(outcome.raw.data[:, :320], SIGNAL.data[:, :320], rtol=1e-5)


def test_a_stream_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match=r"'neurofm-loopbak' within 1 s.*mean neurofm-loopback"):
        LslSource("neurofm-loopbak", wait_s=1.0)


def test_channels_without_a_unit_need_one():
    there = outlet("neurofm-silent", units=None)
    with pytest.raises(ValueError, match=r"does not say its unit.*--unit uV"):
        LslSource("neurofm-silent", wait_s=5.0)
    assert LslSource("neurofm-silent", wait_s=5.0, unit="uV").head.sensors.names == (
        "C3",
        "Cz",
        "C4",
    )
    del there


def test_predictions_are_sent_on():
    sender = LslOutlet("neurofm-out", LABELS)
    info = lsl.resolve_streams(timeout=5.0, name="neurofm-out")[0]
    inlet = lsl.StreamInlet(info)
    inlet.open_stream(timeout=5.0)
    found: list[object] = []
    for _ in range(50):
        sender(Prediction(1, 1.0, 0, np.array([0.25, 0.75]), 0.0))
        found = list(inlet.pull_chunk(timeout=0.1)[0])
        if len(found):
            break
    np.testing.assert_allclose(found[0], [0.25, 0.75])
    assert inlet.get_sinfo().get_channel_names() == list(LABELS)
