"""Numbers in documents: exact in either form, and small in memory where they are many."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from neurofm.io import Store, seal, write_recording
from neurofm.io.stores.numbers import from_json, to_json
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind


@pytest.mark.parametrize("n", [0, 10, 4096, 4097, 20_000])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8])
def test_numbers_come_back_as_they_were(n, dtype, rng):
    values = (100 * rng.standard_normal(n)).astype(dtype)
    back = from_json(json.loads(json.dumps(to_json(values))), dtype)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)


def test_few_numbers_are_a_list_that_people_read():
    assert to_json(np.array([1.5, -2.0])) == [1.5, -2.0]


@pytest.mark.parametrize(
    "value", [{"type": "<f8"}, {"type": "|O", "base64": ""}, {"type": "<f4", "base64": "%%%"}]
)
def test_what_is_no_list_of_numbers_is_refused(value):
    with pytest.raises(ValueError, match=r"numbers (of type|that cannot)"):
        from_json(value, np.float32)


@pytest.fixture
def voxels(rng) -> Signal:
    n = 30_000
    position = rng.uniform(-0.1, 0.1, (n, 3))
    position[::7] = np.nan
    sensors = Sensors.of_kind([f"v{i}" for i in range(n)], Kind.BOLD, position, frame="mni")
    data = rng.standard_normal((n, 20)).astype(np.float32)
    return Signal(data, 0.5, sensors, (), Recording("images", "1"))


def test_sensors_of_an_image_come_back_exactly(voxels, tmp_path):
    write_recording(tmp_path, voxels, key="a")
    seal(tmp_path)
    found = Store(tmp_path).entries[0]
    np.testing.assert_array_equal(found.sensors.position, voxels.sensors.position)
    np.testing.assert_array_equal(found.sensors.orientation, voxels.sensors.orientation)
    assert found.sensors.names == voxels.sensors.names
    assert np.abs(Store(tmp_path).read(0, 0, 20) - voxels.data).max() <= found.max_error.max()


def test_what_is_known_of_a_voxel_takes_little_memory(voxels, tmp_path):
    """Lists of Python numbers took a kilobyte a voxel."""

    def slabs():
        for low in range(0, 30_000, 5000):
            yield voxels.pick(range(low, low + 5000))

    tracemalloc.start()
    write_recording(tmp_path, slabs(), key="a")
    _, written = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    seal(tmp_path)
    _, sealed = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert written < 12e6 + 450 * 30_000
    assert sealed - before < 500 * 30_000
