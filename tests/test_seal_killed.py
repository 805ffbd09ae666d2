"""A process killed at any moment of writing and sealing leaves a store that can be read."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from neurofm.io import Store, seal
from neurofm.io.stores.files import remove_partial

# Writes recordings, of which each sample tells whose it is, and seals, until it is killed.
WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
from neurofm.io import seal, write_recording
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind
store, sensors = Path(sys.argv[1]), Sensors.of_kind(["a", "b", "c"], Kind.EEG)
for i in itertools.count():
    who = i % 20
    data = np.full((3, 700), who + 1, np.float32) + np.arange(700, dtype=np.float32)
    signal = Signal(data, 100.0, sensors, (), Recording("toy", str(who)))
    write_recording(store, signal, key=f"k{who}-{i % 3}", dtype="float32")
    seal(store, keys=[f"k{who}-{i % 3}"], about={"turn": i})
    if not i:
        print("begun", flush=True)
"""


def test_a_writer_killed_while_it_seals_leaves_a_readable_store(tmp_path):
    for turn in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as p:
            assert p.stdout is not None and p.stdout.readline() == b"begun\n"
            time.sleep(0.013 * turn)
            p.kill()
        store = Store(tmp_path)
        assert len(store)
        for i, entry in enumerate(store.entries):
            expected = int(entry.recording.subject) + 1 + np.arange(700)
            np.testing.assert_array_equal(store.read(i, 0, 700)[0], expected)
    seal(tmp_path, about={"turn": "last"})  # removes what the killed ones left
    remove_partial(tmp_path)
    remove_partial(tmp_path / "recordings")
    assert len(list(tmp_path.glob("index-*.bin"))) == 1
    assert not [*tmp_path.rglob(".*.partial")]
