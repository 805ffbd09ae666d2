from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from neurofm.data import open_executor
from neurofm.data.preparing import dask_cluster
from neurofm.data.preparing.executors import Executor, InProcess
from neurofm.data.preparing.local_processes import LocalProcesses
from neurofm.data.preparing.outcomes import WORKER_DIED, Backlog, Failure, Outcome

pytestmark = pytest.mark.timeout(360)
HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield __import__("toys")


@pytest.fixture(params=["inprocess", "processes", "dask"])
def executor(request: Any) -> Iterator[Executor]:
    if request.param == "dask":
        yield request.getfixturevalue("cluster")
    else:
        with closing(
            open_executor(request.param, workers=1 if request.param[0] == "i" else 2)
        ) as x:
            yield x


@pytest.fixture(params=["processes", "dask"])
def remote(request: Any) -> Executor:
    return request.getfixturevalue("cluster") if request.param == "dask" else LocalProcesses(2)


def test_every_item_has_one_outcome(executor, toys, tmp_path):
    outcomes = list(executor.imap_unordered(toys.Work(str(tmp_path)), iter(range(50))))
    assert sorted((item.item, item.result) for item in outcomes) == [(i, i * i) for i in range(50)]
    assert all(item.failure is None and item.attempts == 1 for item in outcomes)
    assert isinstance(executor, Executor)


def test_nothing_to_do_is_done_at_once(executor, toys, tmp_path):
    assert list(executor.imap_unordered(toys.Work(str(tmp_path)), [])) == []


def test_an_exception_is_the_outcome_of_its_item_alone(executor, toys, tmp_path):
    work = toys.Work(str(tmp_path), {3: "raise", 7: "raise unpicklable"})
    outcomes = {item.item: item for item in executor.imap_unordered(work, range(10))}
    assert len(outcomes) == 10
    failed = {key: item.failure for key, item in outcomes.items() if item.failure}
    assert {key: item.type for key, item in failed.items()} == {3: "KeyError", 7: "Unpicklable"}
    assert "item 3" in failed[3].message
    assert "raise KeyError" in failed[3].traceback
    assert isinstance(failed[3].exception(), KeyError)
    assert "7 and 7" in str(failed[7].exception())


def test_a_result_that_cannot_be_sent_is_a_failure(remote, toys, tmp_path):
    work = toys.Work(str(tmp_path), {1: "return unpicklable"})
    outcomes = {item.item: item for item in remote.imap_unordered(work, range(4))}
    assert outcomes[0].result == 0
    assert outcomes[3].result == 9
    if isinstance(remote, LocalProcesses):  # Dask pickles what pickle cannot
        assert outcomes[1].failure is not None


def test_the_work_is_sent_to_each_worker_once(remote, toys, tmp_path):
    outcomes = list(remote.imap_unordered(toys.Work(str(tmp_path)), range(200)))
    assert len(outcomes) == 200
    received = (tmp_path / "received.txt").read_text().split()
    assert len(received) <= 2
    assert len(set(received)) == len(received)


def test_items_are_taken_when_there_is_room_for_them(executor, toys, tmp_path):
    taken, ahead = 0, []

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(2000):
            taken += 1
            yield i

    done = 0
    for _ in executor.imap_unordered(toys.Work(str(tmp_path)), items()):
        done += 1
        ahead.append(taken - done)
    assert done == 2000
    # Dask: four tasks of at most 64 small items under way, and one whose results are being read.
    most = {"InProcess": 0, "LocalProcesses": 2}.get(type(executor).__name__, 5 * 64)
    assert max(ahead) <= most


def test_numerical_libraries_have_one_thread(executor, toys, tmp_path):
    (outcome,) = executor.imap_unordered(toys.Work(str(tmp_path), {0: "threads"}), [0])
    assert set(outcome.result) <= {1}


def test_a_killed_worker_costs_one_attempt(toys, tmp_path):
    work = toys.Work(str(tmp_path), {2: "die once", 5: "die once"})
    outcomes = {item.item: item for item in LocalProcesses(2).imap_unordered(work, range(12))}
    assert {key: item.result for key, item in outcomes.items()} == {i: i * i for i in range(12)}
    assert {key for key, item in outcomes.items() if item.attempts > 1} == {2, 5}


def test_an_item_that_kills_its_workers_is_given_up_and_no_other(remote, toys, tmp_path):
    work = toys.Work(str(tmp_path), {2: "die"})
    outcomes = {item.item: item for item in remote.imap_unordered(work, range(8))}
    assert len(outcomes) == 8
    failure = outcomes.pop(2).failure
    found = {key: item.failure or item.result for key, item in outcomes.items()}
    assert found == {key: key**2 for key in found}
    assert failure is not None
    assert failure.type == WORKER_DIED
    assert "in 3 of 3 attempts" in failure.message
    if isinstance(remote, LocalProcesses):
        assert "SIGKILL" in failure.message


def test_a_worker_that_dies_between_items_is_replaced(toys, tmp_path):
    work = toys.Work(str(tmp_path), {0: "process"})
    results = LocalProcesses(1).imap_unordered(work, range(3))
    victim = next(results).result
    psutil.Process(victim).kill()
    psutil.wait_procs([psutil.Process(victim)] if psutil.pid_exists(victim) else [], timeout=5)
    assert sorted(item.result for item in results) == [1, 4]


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_work_that_no_worker_can_receive_is_an_error_and_not_a_loop(toys, how):
    work = toys.Stillborn(how, os.getpid())
    with pytest.raises(ChildProcessError, match=r"__main__|ImportError"):
        list(LocalProcesses(2).imap_unordered(work, range(8)))


def test_work_that_dask_workers_cannot_receive_is_an_error(cluster, toys):
    with pytest.raises(ChildProcessError, match="no such module here"):
        list(cluster.imap_unordered(toys.Stillborn("raise", os.getpid()), range(8)))


def test_work_that_cannot_be_pickled_is_an_error_with_a_remedy(remote):
    with pytest.raises(ValueError, match="importable module"):
        list(remote.imap_unordered(lambda item: item, range(2)))


def test_closing_the_outcomes_stops_what_is_under_way(toys, tmp_path):
    before = set(multiprocessing.active_children())
    work = toys.Work(str(tmp_path), {1: "sleep"})
    with closing(LocalProcesses(2).imap_unordered(work, range(8))) as outcomes:
        next(outcomes)
        wait_for(tmp_path / "sleeps-1")
        start = time.monotonic()
    assert time.monotonic() - start < 60
    assert set(multiprocessing.active_children()) <= before


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def test_workers_end_when_their_driver_is_killed(tmp_path):
    command = [sys.executable, str(HERE / "toys.py"), "sleep_all", str(tmp_path)]
    driver = subprocess.Popen(command)
    wait_for(tmp_path / "sleeps-0")
    wait_for(tmp_path / "sleeps-1")
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(children) >= 2
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def test_the_last_attempt_runs_alone():
    backlog = Backlog(iter("abc"), attempts=2)
    first = backlog.take(busy=0, most=2)
    assert [task.item for task in first] == ["a", "b"]
    assert backlog.died(first, "gone") == []
    (third,) = backlog.take(busy=0)
    assert third.item == "c"
    assert backlog.take(busy=1) == []
    (again,) = backlog.take(busy=0)
    assert (again.item, again.attempt) == ("a", 2)
    assert backlog.take(busy=1) == []
    (outcome,) = backlog.died([again], "gone")
    assert outcome.attempts == 2
    assert "gone in 2 of 2 attempts" in str(outcome.failure)
    assert [task.item for task in backlog.take(busy=0)] == ["b"]
    assert backlog.take(busy=0) == []


def test_a_backlog_needs_an_attempt():
    with pytest.raises(ValueError, match="at least 1"):
        Backlog([], attempts=0)


def test_a_failure_keeps_the_number_of_a_system_error():
    failure = Failure.of(OSError(28, "No space left"), portable=True)
    assert failure.errno == 28
    assert isinstance(failure.exception(), OSError)
    assert Outcome("item", failure=failure).result is None


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("slurm", {}, "not one of inprocess"),
        ("processes", {"scheduler": "tcp://x:1"}, "goes with executor dask"),
        ("inprocess", {"workers": 2}, "executor processes"),
        ("processes", {"workers": 0}, "at least 1"),
        ("dask", {"workers": 0}, "at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        open_executor(name, **options)


def test_one_worker_in_this_process_is_no_contradiction():
    assert isinstance(open_executor("inprocess", workers=1), InProcess)


def test_a_scheduler_that_does_not_answer_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(dask_cluster, "_CONNECT_S", 1)
    with pytest.raises(OSError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        open_executor("dask", scheduler="tcp://127.0.0.1:9")


def test_a_scheduler_is_found_by_address_and_by_file(cluster, toys, tmp_path):
    work = toys.Work(str(tmp_path))
    address = cluster._cluster.scheduler_address
    file = tmp_path / "scheduler.json"
    cluster._client.write_scheduler_file(str(file))
    for scheduler in (address, str(file)):
        with closing(open_executor("dask", scheduler=scheduler)) as executor:
            assert executor.workers == 2
            assert sum(item.result for item in executor.imap_unordered(work, range(5))) == 30
    assert cluster.workers == 2  # leaving a cluster of others does not end it


def test_dask_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"neurofm\[dask\]"):
        open_executor("dask")
