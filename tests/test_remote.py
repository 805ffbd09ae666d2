"""Stores read from elsewhere: a loopback server with ranges, and servers that misbehave."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm import cli
from neurofm.io import Store, seal, write_recording
from neurofm.io.stores.damage import find_damage
from neurofm.io.stores.remote import RemoteFiles, merged
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

pytest.importorskip("fsspec", reason="the extra `remote` is not installed")
pytest.importorskip("aiohttp", reason="the extra `remote` is not installed")


@dataclass
class Served:
    """A folder behind an address, and what is wrong with its server.

    Args:
        fail: Answers that are errors 503, before good ones come.
        cut: Bytes missing at the end of so many answers, though the headers promise them.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    fail: int = 0
    cut: int = 0
    status: int = 503
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    state = Served(tmp_path / "store")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            wanted = self.headers.get("Range", "")
            state.asked.append((self.path, wanted))
            if state.fail > 0:
                state.fail -= 1
                self._send(state.status, b"a bad moment", {}, body=body)
                return
            path = state.folder / self.path.lstrip("/")
            if not path.is_file():
                self._send(404, b"not here", {}, body=body)
                return
            data = path.read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
            if found is None or not state.ranges:
                self._send(200, data, {}, body=body)
                return
            low, high = int(found[1]), min(int(found[2]), len(data) - 1)
            if low >= len(data):
                self._send(416, b"", {}, body=body)
                return
            place = {"Content-Range": f"bytes {low}-{high}/{len(data)}"}
            self._send(206, data[low : high + 1], place, body=body)

        def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if not body:
                return
            if state.cut > 0 and status in (200, 206):
                state.cut -= 1
                self.wfile.write(data[:-7])
                self.close_connection = True
            else:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    generator = np.random.default_rng(0)
    sensors = Sensors.of_kind(["C3", "Cz", "C4"], Kind.EEG)
    for i in range(3):
        data = generator.normal(0, 20, (3, 1000)).astype(np.float32)
        signal = Signal(
            data, 100.0, sensors, (Event(1.0, 0.5, "a"),), Recording("toy", f"{i}"), ("filtered",)
        )
        write_recording(state.folder, signal, key=f"key-{i}")
    seal(state.folder)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def store(served: Served, **arguments: Any) -> Store:
    return Store(served.url, source=RemoteFiles(served.url, pause_s=0.001, **arguments))


def test_a_store_behind_an_address_reads_as_the_local_one(served):
    local, remote = Store(served.folder), Store(served.url)
    assert remote.digest == local.digest
    assert remote.entries[1].events == local.entries[1].events
    for i in range(3):
        np.testing.assert_array_equal(remote.read(i, 130, 470), local.read(i, 130, 470))
    np.testing.assert_array_equal(remote.read(0, 0, 1000), local.read(0, 0, 1000))


def test_a_window_is_one_ranged_request(served):
    remote = Store(served.url)
    served.asked.clear()
    remote.read(0, 130, 470)
    stride = remote._opened[0][1].stride
    assert served.asked == [("/recordings/key-0.bin", f"bytes={stride}-{5 * stride - 1}")]


def test_a_batch_is_fetched_at_once_and_read_from_memory(served):
    remote, local = Store(served.url), Store(served.folder)
    batch = [(2, 10, 200), (0, 300, 450), (2, 10, 200), (1, 0, 1000)]
    remote.prefetch(*zip(*batch, strict=True))
    served.asked.clear()
    for i, start, stop in batch:
        np.testing.assert_array_equal(remote.read(i, start, stop), local.read(i, start, stop))
    assert served.asked == []
    remote.prefetch([], [], [])
    np.testing.assert_array_equal(remote.read(2, 10, 200), local.read(2, 10, 200))
    assert len(served.asked) == 1


def test_neighbouring_windows_are_one_request(served):
    remote, local = Store(served.url), Store(served.folder)
    starts = list(range(0, 900, 50))
    served.asked.clear()
    remote.prefetch([1] * len(starts), starts, [start + 100 for start in starts])
    assert len(served.asked) == 1
    for start in starts:
        np.testing.assert_array_equal(
            remote.read(1, start, start + 100), local.read(1, start, start + 100)
        )
    assert len(served.asked) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(0, 1 << 26),
            st.integers(1, 1 << 22) | st.just(1 << 25),
        )
    )
)
def test_requests_serve_every_range_once_and_waste_little(ranges):
    requests = merged(ranges)
    parts = [part for request in requests for part in request.parts]
    assert sorted(parts) == sorted(set(ranges))
    for request in requests:
        assert all(
            request.name == name and request.start <= offset and offset + n <= request.stop
            for name, offset, n in request.parts
        )
        covered = sum(n for _, _, n in request.parts)
        assert request.stop - request.start <= covered + (len(request.parts) - 1) * (1 << 16)
        assert request.stop - request.start <= max(1 << 24, *(n for _, _, n in request.parts), 0)


def test_what_could_not_be_fetched_ahead_is_read_when_needed(served):
    remote = store(served)
    served.fail = 2
    remote.prefetch([0, 1, 2], [0, 0, 0], [100, 100, 100])
    expected = Store(served.folder)
    for i in range(3):
        np.testing.assert_array_equal(remote.read(i, 0, 100), expected.read(i, 0, 100))


def _first(store: Store) -> float:
    return float(store.read(0, 0, 100)[0, 0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_travels_into_workers(served, method):
    remote = Store(served.url)
    expected = _first(remote)  # its connections are open when it is sent
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_first, (remote,)) == expected


def test_pickled_it_keeps_its_options(served):
    source = pickle.loads(pickle.dumps(RemoteFiles(served.url, attempts=7, pause_s=0.5)))
    assert (source.url, source.attempts, source.pause_s) == (served.url, 7, 0.5)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_bad_moments_of_a_server_are_survived(served, status):
    remote = store(served)
    served.status = status
    expected = Store(served.folder).read(1, 0, 1000)
    served.fail = 3
    np.testing.assert_array_equal(remote.read(1, 0, 1000), expected)
    served.fail = 3
    assert store(served).digest == remote.digest


def test_a_server_that_stays_bad_is_named_with_what_it_says(served):
    remote = store(served)
    served.fail = 10**6
    with pytest.raises(OSError, match=r"127\.0\.0\.1.*key-0\.bin.*4 attempts.*503"):
        remote.read(0, 0, 10)
    with pytest.raises(OSError, match=r"manifest\.json.*4 attempts.*503.*Check the network"):
        store(served)


def test_refused_access_is_not_tried_again(served):
    remote = store(served)
    served.status, served.fail = 403, 10**6
    served.asked.clear()
    with pytest.raises(OSError, match=r"key-0\.bin.*403"):
        remote.read(0, 0, 10)
    assert len(served.asked) == 1


def test_answers_that_end_too_early_are_read_again(served):
    remote = store(served)
    expected = Store(served.folder).read(0, 250, 750)
    served.cut = 2
    np.testing.assert_array_equal(remote.read(0, 250, 750), expected)
    served.cut = 10**6
    with pytest.raises(OSError, match=r"key-0\.bin.*4 attempts"):
        remote.read(0, 250, 750)


def test_a_server_that_ignores_ranges_is_found_out(served):
    remote = store(served)
    served.ranges = False
    with pytest.raises(OSError, match=r"key-0\.bin.*ignores ranges.*copy it"):
        remote.read(0, 250, 750)
    with pytest.raises(OSError, match=r"ignores ranges"):
        remote.read(0, 0, 10)


def test_nothing_at_an_address_is_no_store(served):
    with pytest.raises(FileNotFoundError, match=r"/elsewhere/manifest\.json.*neurofm prepare"):
        Store(f"{served.url}/elsewhere")


def test_a_missing_recording_is_named_with_a_remedy(served):
    remote = Store(served.url)
    (served.folder / "recordings" / "key-0.bin").unlink()
    with pytest.raises(OSError, match=r"key-0\.bin: missing.*neurofm prepare toy"):
        remote.read(0, 0, 10)


def test_a_truncated_recording_is_named(served):
    remote = store(served)
    path = served.folder / "recordings" / "key-0.bin"
    path.write_bytes(path.read_bytes()[:1000])
    for start, stop in [(900, 1000), (100, 200)]:
        with pytest.raises(OSError, match=r"key-0\.bin.*1000 bytes, the index says"):
            remote.read(0, start, stop)


def test_flipped_bits_are_caught_wherever_they_happen(served):
    remote = Store(served.url)
    path = served.folder / "recordings" / "key-0.bin"
    raw = bytearray(path.read_bytes())
    raw[700] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"127.*key-0\.bin.*damaged in block 1 "):
        remote.read(0, 100, 200)


def test_a_store_elsewhere_is_verified(served, capsys):
    path = served.folder / "recordings" / "key-1.bin"
    raw = bytearray(path.read_bytes())
    raw[700] ^= 1
    path.write_bytes(raw)
    (served.folder / "recordings" / "key-2.bin").unlink()
    found = [(item.key, item.what) for item in find_damage(Store(served.url))]
    assert found == [("key-1", "flipped"), ("key-2", "missing")]
    assert cli.main(["verify", served.url]) == 1
    assert "1 of 3 recordings are whole" in capsys.readouterr().out
    assert cli.main(["verify", served.url, "--repair"]) == 2
    assert "cannot be repaired from here" in capsys.readouterr().err


def test_a_page_instead_of_data_is_no_store(served):
    (served.folder / "manifest.json").write_text("<html>please log in</html>")
    with pytest.raises(OSError, match=r"manifest\.json: damaged"):
        Store(served.url)


def test_a_store_in_memory_is_read_through_fsspec(served):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in served.folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/kept/{path.relative_to(served.folder)}", path.read_bytes())
    remote = Store("memory://kept")
    remote.prefetch([2, 1], [5, 0], [995, 10])
    np.testing.assert_array_equal(remote.read(2, 5, 995), Store(served.folder).read(2, 5, 995))
    memory.rm("/kept", recursive=True)


def test_without_the_extra_the_message_names_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ImportError, match=r"neurofm\[remote\]"):
        Store("https://127.0.0.1/store")
