"""Killed workers, killed drivers, two drivers: no recording lost, none made twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from neurofm.data import prepare_corpus, store_folder
from neurofm.data.preparing.lock import LOCK
from neurofm.data.preparing.prepare import JOURNAL
from neurofm.data.preparing.problems import read_problems
from neurofm.io import Store

pytestmark = pytest.mark.timeout(360)
HERE = Path(__file__).parent
LIMIT_S = 120  # for what takes a second on a quiet machine
ALL = [f"{i:02d}" for i in range(6)]


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield __import__("toys")


class Place:
    """A corpus, traps for its recordings, and the store they go to."""

    def __init__(self, toys: ModuleType, root: Path) -> None:
        self.toys, self.root, self.traps = toys, root, root / "traps"
        self.corpus = toys.make_corpus(root / "raw", len(ALL))
        self.drivers: list[subprocess.Popen[bytes]] = []
        self.traps.mkdir()
        self.step = toys.Trap(folder=str(self.traps))

    def set(self, trap: str) -> Path:
        (self.traps / trap).touch()
        return self.traps / trap

    def prepare(self, store: str = "store", **options: Any) -> Path:
        return prepare_corpus(
            self.corpus, [self.step], self.root / store, progress=False, **options
        )

    @property
    def folder(self) -> Path:
        return store_folder("toy", [self.step], self.root / "store")

    def driver(self, executor: str, seal_s: float = 60) -> subprocess.Popen[bytes]:
        """Another process that prepares the same corpus into the same store."""
        words = [self.corpus.root, self.root / "store", self.traps, executor, str(int(seal_s))]
        command = [sys.executable, HERE / "toys.py", "prepare_all", *map(str, words)]
        self.drivers.append(subprocess.Popen(command))
        return self.drivers[-1]

    def wait(self, name: str) -> None:
        end = time.monotonic() + LIMIT_S
        while not (self.traps / name).exists():
            assert time.monotonic() < end, f"{name} did not appear"
            time.sleep(0.01)

    def wait_for_recordings(self, n: int) -> None:
        end = time.monotonic() + LIMIT_S
        while len(list((self.folder / "recordings").glob("[!.]*.json"))) < n:
            assert time.monotonic() < end, f"there are not yet {n} recordings"
            time.sleep(0.01)


@pytest.fixture
def place(toys, tmp_path):
    place = Place(toys, tmp_path)
    yield place
    for driver in place.drivers:  # of a test that failed half way
        if driver.poll() is None:
            kill(driver)


def kill(driver: subprocess.Popen[bytes]) -> None:
    """SIGKILL; its workers end by themselves, and are given the time to."""
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    end = time.monotonic() + LIMIT_S
    while any(is_alive(child) for child in children):
        assert time.monotonic() < end, f"{children} outlive their driver"
        time.sleep(0.02)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (LOCK, JOURNAL)
    }


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "recordings").iterdir()}


def subjects(folder: Path) -> list[str]:
    return [str(entry.recording.subject) for entry in Store(folder).entries]


def test_bytes_are_the_same_whatever_the_executor(place, cluster):
    alone = contents(place.prepare("one"))
    assert {name.split(".")[-1] for name in alone} == {"bin", "json"}
    assert len(alone) == 2 * len(ALL) + 2
    assert contents(place.prepare("two", executor="processes", workers=2)) == alone
    assert contents(place.prepare("three", executor="processes", workers=1)) == alone
    assert contents(place.prepare("four", executor=cluster)) == alone


@pytest.mark.parametrize("name", ["processes", "dask"])
def test_a_worker_killed_in_the_middle_loses_nothing(place, request, name):
    executor = request.getfixturevalue("cluster") if name == "dask" else "processes"
    options = {} if name == "dask" else {"workers": 2}
    whole = contents(place.prepare("whole"))
    place.corpus.root.joinpath("loaded.txt").unlink()
    place.set("kill-02-once")
    folder = place.prepare(executor=executor, **options)
    assert contents(folder) == whole
    assert read_problems(folder) == {}
    loads = place.corpus.loads()
    assert loads.count("02") == 2
    others = [loads.count(subject) for subject in ALL if subject != "02"]
    # Only what the dead worker held at that moment is done again.
    assert others == [1] * 5 if name == "processes" else max(others) <= 2


@pytest.mark.parametrize("name", ["processes", pytest.param("dask", marks=pytest.mark.slow)])
def test_a_recording_that_kills_its_workers_is_quarantined(place, request, name):
    executor = request.getfixturevalue("cluster") if name == "dask" else "processes"
    trap = place.set("kill-02")
    folder = place.prepare(executor=executor, **({} if name == "dask" else {"workers": 2}))
    assert subjects(folder) == [subject for subject in ALL if subject != "02"]
    (problem,) = read_problems(folder).values()
    assert problem.type == "WorkerDied"
    assert problem.attempts == 3
    assert problem.file == str(place.corpus.root / "02.npy")
    before = times(folder)
    trap.unlink()
    place.prepare()
    assert subjects(folder) == ALL
    assert read_problems(folder) == {}
    assert before.items() <= times(folder).items()


def check_the_next_run_continues(place: Place, n: int, **options: Any) -> None:
    """After a killed driver: what was finished stays, the rest is made, a third run rests."""
    found = times(place.folder)
    keys = {Path(name).stem for name in found if name.endswith(".json") and name[0] != "."}
    before = {name: at for name, at in found.items() if Path(name).stem in keys}
    done = {key.split("-")[1] for key in keys}
    assert len(done) >= n
    for trap in place.traps.glob("hold-*"):
        trap.unlink()
    place.corpus.root.joinpath("loaded.txt").unlink()
    folder = place.prepare(**options)
    assert subjects(folder) == ALL
    assert sorted(place.corpus.loads()) == [subject for subject in ALL if subject not in done]
    assert before.items() <= times(folder).items()
    whole = contents(folder)
    assert whole == contents(place.prepare("whole"))
    assert not [name for name in whole if name.endswith(".partial")]
    after = times(folder)
    place.corpus.root.joinpath("loaded.txt").unlink()
    place.prepare(**options)
    assert place.corpus.loads() == []
    assert times(folder) == after
    assert contents(folder) == whole


@pytest.mark.system
@pytest.mark.parametrize("name", ["inprocess", "processes"])
def test_a_killed_driver_loses_nothing_and_nothing_is_redone(place, name):
    hold = place.set("hold-03")
    driver = place.driver(name)
    place.wait("held-03")
    place.wait_for_recordings(3)
    kill(driver)
    assert hold.exists()
    options = {} if name == "inprocess" else {"executor": "processes", "workers": 2}
    check_the_next_run_continues(place, 3, **options)


@pytest.mark.system
def test_a_killed_driver_of_dask_loses_nothing_and_nothing_is_redone(place, cluster):
    place.set("hold-03")
    driver = place.driver("dask")
    place.wait("held-03")
    place.wait_for_recordings(3)
    kill(driver)
    check_the_next_run_continues(place, 3, executor=cluster)


def test_a_killed_driver_leaves_a_store_that_can_be_read(place):
    place.set("hold-03")
    driver = place.driver("processes", seal_s=0)
    place.wait("held-03")
    place.wait_for_recordings(5)
    end = time.monotonic() + LIMIT_S
    manifest = place.folder / "manifest.json"
    while not (manifest.exists() and len(Store(place.folder)) == 5) and time.monotonic() < end:
        time.sleep(0.05)
    kill(driver)
    assert subjects(place.folder) == [subject for subject in ALL if subject != "03"]
    assert Store(place.folder).read(0, 0, 100).shape == (4, 100)


@pytest.mark.parametrize("name", [pytest.param("inprocess", marks=pytest.mark.slow), "processes"])
def test_ctrl_c_leaves_a_sealed_store_and_no_process(place, name):
    place.set("hold-03")
    driver = place.driver(name)
    place.wait("held-03")
    place.wait_for_recordings(3)
    time.sleep(0.2)  # the driver hears of the last one
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=LIMIT_S) != 0
    found = subjects(place.folder)
    assert set(found) >= {"00", "01", "02"}
    assert "03" not in found
    check_the_next_run_continues(place, 3)


@pytest.mark.slow
def test_two_drivers_at_once_share_the_work(place):
    hold = place.set("hold-01")
    first = place.driver("processes")
    place.wait("held-01")
    second = place.driver("processes")
    time.sleep(1.5)
    assert second.poll() is None
    hold.unlink()
    assert first.wait(timeout=LIMIT_S) == 0
    assert second.wait(timeout=LIMIT_S) == 0
    assert sorted(place.corpus.loads()) == ALL
    assert contents(place.folder) == contents(place.prepare("whole"))


@pytest.mark.slow
def test_the_one_who_waits_is_told_for_whom(place, capsys):
    hold = place.set("hold-00")
    driver = place.driver("inprocess")
    place.wait("held-00")
    pid = os.fork()
    if not pid:  # the trap opens while this test waits for the lock
        time.sleep(1)
        hold.unlink()
        os._exit(0)
    prepare_corpus(place.corpus, [place.step], place.root / "store", progress=True)
    os.waitpid(pid, 0)
    driver.wait(timeout=LIMIT_S)
    assert f"process {driver.pid} on" in capsys.readouterr().err
    assert sorted(place.corpus.loads()) == ALL


@pytest.mark.slow
def test_a_killed_driver_leaves_no_lock(place):
    place.set("hold-00")
    driver = place.driver("inprocess")
    place.wait("held-00")
    kill(driver)
    (place.traps / "hold-00").unlink()
    start = time.monotonic()
    assert subjects(place.prepare()) == ALL
    assert time.monotonic() - start < 10


def test_a_worker_that_does_not_see_the_store_says_so(place, monkeypatch):
    class Elsewhere:
        """An executor whose worker has another file system."""

        workers = 1

        def imap_unordered(self, work: Any, items: Any) -> Any:
            from dataclasses import replace

            from neurofm.data.preparing.executors import InProcess

            yield from InProcess().imap_unordered(replace(work, store=Path("/nowhere/s")), items)

        def close(self) -> None:
            pass

    with pytest.raises(ValueError, match="shared file system"):
        place.prepare(executor=Elsewhere())
