"""Fetching: a loopback server and stand-ins for clients; only data takes a file's name."""

from __future__ import annotations

import hashlib
import http.server
import sys
import threading
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from neurofm.cli import main
from neurofm.io import fetch, open_corpus
from neurofm.io.download import download
from neurofm.io.fetch import client_of

HASH = {"description": "d", "license": "l", "citation": "c", "modality": "eeg"}


@dataclass
class Server:
    """Files by path; remembers requests, and may break off, lie about a type or refuse ranges."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    break_after: int | None = None
    ranges: bool = True


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            body = state.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = int(wanted[6:-1]) if wanted and state.ranges else 0
            if start >= len(body) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", state.types.get(self.path, "application/octet-stream"))
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            part = body[start:]
            if state.break_after is not None:
                part, state.break_after = part[: state.break_after], None
            self.wfile.write(part)

        def log_message(self, *arguments: Any) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{httpd.server_port}")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def card(tmp_path: Path, spec: Any, pattern: str = "S{subject}/S{subject}R{run}.edf") -> str:
    reader = {"class_path": "neurofm.io.FolderReader", "init_args": {"pattern": pattern}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**HASH, "reader": reader, "fetch": spec}))
    return str(path)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_checked_and_then_takes_its_name(server, tmp_path):
    server.files["/a.edf"] = b"0123456789" * 100
    seen: list[tuple[int, int | None]] = []
    path = download(
        f"{server.url}/a.edf",
        tmp_path / "deep" / "a.edf",
        sha256=digest(server.files["/a.edf"]),
        size=1000,
        progress=lambda path, done, total: seen.append((done, total)),
    )
    assert path.read_bytes() == server.files["/a.edf"]
    assert seen[-1] == (1000, 1000) and leftovers(tmp_path) == ["a.edf"]


def test_a_file_that_is_there_and_fits_is_not_asked_for_again(server, tmp_path):
    (tmp_path / "a.edf").write_bytes(b"whole")
    download(f"{server.url}/a.edf", tmp_path / "a.edf", sha256=digest(b"whole"))
    assert server.asked == []


def test_a_broken_connection_is_taken_up_where_it_stopped(server, tmp_path):
    server.files["/a.edf"] = bytes(range(256)) * 40
    server.break_after = 3000
    path = download(
        f"{server.url}/a.edf", tmp_path / "a.edf", sha256=digest(server.files["/a.edf"])
    )
    assert path.read_bytes() == server.files["/a.edf"]
    assert [wanted for _, wanted in server.asked] == [None, "bytes=3000-"]


def test_a_later_run_continues_an_earlier_one(server, tmp_path):
    content = bytes(range(256)) * 40
    server.files["/a.edf"] = content
    (tmp_path / ".a.edf.part").write_bytes(content[:5000])
    download(f"{server.url}/a.edf", tmp_path / "a.edf", sha256=digest(content))
    assert server.asked == [("/a.edf", "bytes=5000-")]
    assert (tmp_path / "a.edf").read_bytes() == content


def test_the_beginning_of_another_edition_is_thrown_away(server, tmp_path):
    content = b"new edition" * 100
    server.files["/a.edf"] = content
    (tmp_path / ".a.edf.part").write_bytes(b"old edition" * 50)
    download(f"{server.url}/a.edf", tmp_path / "a.edf", sha256=digest(content))
    assert (tmp_path / "a.edf").read_bytes() == content


def test_a_server_without_ranges_sends_the_whole_again(server, tmp_path):
    content = b"data" * 1000
    server.files["/a.edf"], server.ranges = content, False
    (tmp_path / ".a.edf.part").write_bytes(content[:100])
    download(f"{server.url}/a.edf", tmp_path / "a.edf", sha256=digest(content))
    assert (tmp_path / "a.edf").read_bytes() == content


@pytest.mark.parametrize(
    ("content", "kind", "given", "words"),
    [
        (b"wrong", "", {"sha256": "0" * 64}, "SHA-256 is .* published is 0000"),
        (b"short", "", {"size": 99}, "5 bytes arrived, 99 are published"),
        (b"anything", "text/html; charset=utf-8", {}, "sent a web page"),
        (b"<!DOCTYPE html><html>503", "", {}, "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "", {}, "git-lfs pointer"),
        (b"/annex/objects/MD5E-s12--0123.edf\n", "", {}, "git-annex pointer"),
    ],
)
def test_what_is_not_the_file_is_refused_and_not_kept(
    content, kind, given, words, server, tmp_path
):
    server.files["/a.edf"] = content
    if kind:
        server.types["/a.edf"] = kind
    with pytest.raises(ValueError, match=words):
        download(f"{server.url}/a.edf", tmp_path / "a.edf", **given)
    assert not (tmp_path / "a.edf").exists()


def test_a_missing_file_and_a_dead_server_are_told_apart(server, tmp_path):
    with pytest.raises(OSError, match="the server answers 404"):
        download(f"{server.url}/none", tmp_path / "a.edf")
    with pytest.raises(OSError, match="no connection"):
        download("http://127.0.0.1:9/none", tmp_path / "a.edf", tries=1)
    with pytest.raises(ValueError, match="only http and https"):
        download("file:///etc/hosts", tmp_path / "a.edf")


def test_a_list_of_hashes_gives_the_recordings_that_were_asked_for(server, tmp_path, tiny):
    names = ["S001/S001R04.edf", "S001/S001R08.edf", "S002/S002R04.edf"]
    for name in names:
        server.files[f"/base/{name}"] = tiny.edf(tmp_path / "there.edf").read_bytes()
    lines = [f"{digest(server.files[f'/base/{name}'])}  {name}" for name in names]
    server.files["/base/SHA256SUMS.txt"] = ("\n".join([*lines, "a" * 64 + "  notes.txt"])).encode()
    spec = {"client": "https", "base": f"{server.url}/base/", "sums": "SHA256SUMS.txt"}
    mine = card(tmp_path, spec)
    root = tmp_path / "data"
    paths = fetch(mine, subjects=[1], root=root)
    assert [path.relative_to(root).as_posix() for path in paths] == names[:2]
    assert [r.run for r in open_corpus(mine, root=root).recordings()] == ["04", "08"]
    assert len(fetch(mine, subjects=["002"], runs=["4"], root=root)) == 1
    with pytest.raises(ValueError, match="none of its 4 files fits"):
        fetch(mine, subjects=[9], root=root)


def test_files_of_events_come_with_their_recordings(server, tmp_path, tiny, monkeypatch):
    content = tiny.edf(tmp_path / "there.edf").read_bytes()
    names = [
        f"sleep-cassette/SC4{s:02d}1{w}.edf" for s in (0, 1) for w in ("E0-PSG", "EC-Hypnogram")
    ]
    for name in names:
        server.files[f"/{name}"] = content
    sums = "\n".join(f"{digest(content)} {name}" for name in names)
    server.files["/SHA256SUMS.txt"] = sums.encode()
    from neurofm import cards

    real = cards.read("datasets", "sleep_edf")
    spec = {"client": "https", "base": server.url, "sums": "SHA256SUMS.txt"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**real, "fetch": spec}))
    paths = fetch(str(tmp_path / "mine.yaml"), subjects=["01"], root=tmp_path / "d")
    assert [path.name for path in paths] == ["SC4011E0-PSG.edf", "SC4011EC-Hypnogram.edf"]


@pytest.mark.parametrize("name", ["../out.edf", "/etc/out.edf", "a/../../out.edf", "a\\out.edf"])
def test_a_list_that_points_outside_the_folder_is_refused(name, server, tmp_path):
    server.files["/SHA256SUMS.txt"] = f"{'a' * 64}  {name}\n".encode()
    spec = {"client": "https", "base": server.url, "sums": "SHA256SUMS.txt"}
    with pytest.raises(ValueError, match="not a path below"):
        fetch(card(tmp_path, spec), root=tmp_path / "d")


def test_an_archive_is_checked_and_unpacked(server, tmp_path, tiny):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tiny.edf(tmp_path / "x.edf"), "folder/S001/S001R04.edf")
        file.writestr("elsewhere.txt", "no")
    server.files["/a.zip"] = archive.read_bytes()
    entry = {"url": f"{server.url}/a.zip", "path": "a.zip", "unpack": "folder"}
    spec = {"client": "https", "files": [entry | {"sha256": digest(server.files["/a.zip"])}]}
    (path,) = fetch(card(tmp_path, spec), root=tmp_path / "d")
    assert path == tmp_path / "d" / "S001" / "S001R04.edf" and path.stat().st_size > 256
    with pytest.raises(ValueError, match="needs its sha256"):
        fetch(card(tmp_path, {"client": "https", "files": [entry]}), root=tmp_path / "d")


def test_moabb_s_files_are_copied_to_where_the_card_looks(tmp_path, tiny, monkeypatch):
    cache = tmp_path / "cache" / "somewhere"

    class Fake:
        subject_list = (1, 2)

        def data_path(self, subject: int) -> list[str]:
            name = f"S{subject:03d}"
            return [str(tiny.edf(cache / name / f"{name}R04.edf"))]

    module = types.ModuleType("moabb.datasets")
    module.Fake = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moabb", types.ModuleType("moabb"))
    monkeypatch.setitem(sys.modules, "moabb.datasets", module)
    mine = card(tmp_path, {"client": "moabb", "dataset": "Fake"})
    paths = fetch(mine, root=tmp_path / "d")
    assert [path.name for path in paths] == ["S001R04.edf", "S002R04.edf"]
    assert len(fetch(mine, subjects=[2], root=tmp_path / "d")) == 1
    with pytest.raises(ValueError, match="does not fit the card's pattern"):
        fetch(
            card(tmp_path, {"client": "moabb", "dataset": "Fake"}, "X{subject}.mat"),
            root=tmp_path / "d",
        )
    with pytest.raises(ValueError, match="MOABB has no data set 'Gone'"):
        fetch(card(tmp_path, {"client": "moabb", "dataset": "Gone"}), root=tmp_path / "d")


def test_openneuro_gets_the_people_and_their_files_are_checked(tmp_path, tiny, monkeypatch):
    calls = []

    def get(**arguments: Any) -> None:
        calls.append(arguments)
        root = Path(arguments["target_dir"])
        tiny.edf(root / "sub-01" / "eeg" / "sub-01_task-a_eeg.edf")
        if arguments["tag"] == "broken":
            (root / "sub-01" / "eeg" / "page.edf").write_text("<html>")

    module = types.ModuleType("openneuro")
    module.download = get  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openneuro", module)
    mine = card(tmp_path, {"client": "openneuro", "dataset": "ds1"})
    (path,) = fetch(mine, subjects=["01"], root=tmp_path / "d")
    assert path.name == "sub-01_task-a_eeg.edf"
    assert calls[0]["include"][0] == "sub-01" and calls[0]["dataset"] == "ds1"
    broken = card(tmp_path, {"client": "openneuro", "dataset": "ds1", "tag": "broken"})
    with pytest.raises(ValueError, match="web page"):
        fetch(broken, root=tmp_path / "d")
    assert leftovers(tmp_path / "d") == ["sub-01_task-a_eeg.edf"]


def test_the_hub_gives_the_files_that_fit(tmp_path, tiny, monkeypatch):
    def get(repository: str, name: str, *, repo_type: str, local_dir: str) -> str:
        assert (repository, repo_type) == ("lab/set", "dataset")
        return str(tiny.edf(Path(local_dir) / name))

    module = types.ModuleType("huggingface_hub")
    files = ["S001/S001R04.edf", "S002/S002R04.edf", "README.md"]
    module.HfApi = lambda: types.SimpleNamespace(list_repo_files=lambda *a, **k: files)  # type: ignore[attr-defined]
    module.hf_hub_download = get  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    mine = card(tmp_path, {"client": "huggingface", "repository": "lab/set"})
    assert len(fetch(mine, root=tmp_path / "d")) == 2
    assert [path.name for path in fetch(mine, subjects=[2], root=tmp_path / "d")] == ["S002R04.edf"]


def test_a_client_that_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openneuro", None)
    with pytest.raises(ImportError, match=r"neurofm\[fetch\]"):
        fetch(card(tmp_path, {"client": "openneuro", "dataset": "ds1"}), root=tmp_path)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ftp", "its client is one of"),
        ({"client": "moabb"}, "needs dataset"),
        ({"client": "https"}, "needs files, or base and sums"),
        ({"client": "huggingface"}, "needs repository"),
        (["https"], "its client is one of"),
    ],
)
def test_a_card_that_fetches_wrongly_is_refused_when_it_is_opened(spec, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        client_of({"fetch": spec}, where="card")
    with pytest.raises(ValueError, match=words):
        open_corpus(card(tmp_path, spec), root=tmp_path)


def test_the_command_fetches_and_says_what_is_there(server, tmp_path, tiny, capsys):
    content = tiny.edf(tmp_path / "x.edf").read_bytes()
    server.files["/S001/S001R04.edf"] = content
    server.files["/SUMS"] = f"{digest(content)}  S001/S001R04.edf".encode()
    mine = card(tmp_path, {"client": "https", "base": server.url, "sums": "SUMS"})
    assert main(["fetch", mine, "--subjects", "1", "--root", str(tmp_path / "d")]) == 0
    assert "1 files, 0.0 MB" in capsys.readouterr().out
    assert main(["fetch", "muse_erp"]) == 2
    assert "names no fetcher" in capsys.readouterr().err
