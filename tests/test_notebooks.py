"""Notebooks of `recipes/`: how they are written, and that they run from a fresh kernel.

A notebook runs in the interpreter that runs the tests (no kernel needs to be installed), in an
empty folder, on one thread. Its limit is processor time, so that a busy machine fails nothing.
"""

from __future__ import annotations

import ast
import base64
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

import neurofm
from neurofm import cards
from neurofm.cli.cards import summary

FOLDER = cards.root("recipes")
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ALLOWED = {"neurofm", "numpy", "matplotlib", "torch", "nilearn", "os", "pathlib", "dataclasses"}
CELLS, LINES, FUNCTION_LINES = 15, 15, 5
CPU_S, WALL_S = 60, 230  # of one core; the wall only ends what hangs
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# A notebook with its variable set to recordings, where there are some: name, folder, value.
REAL = [
    ("decode_fmri", "haxby_fmri", "haxby2001_slice"),
    ("decode_fmri", "finger7T_fmri", "finger7t"),
    ("compare_brain_network", "rsa92", "rsa92"),
    ("explain_motor_imagery", "eegmmidb", "eegmmidb"),
]


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_of(path: Path) -> list[str]:
    """Code cells without magics."""
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    return [re.sub(r"^%.*$", "pass", source, flags=re.MULTILINE) for source in cells]


def variable_of(code: list[str]) -> tuple[str, Any]:
    """Name and value of what the second code cell sets."""
    (statement,) = ast.parse(code[1]).body
    assert isinstance(statement, ast.Assign), code[1]
    (target,) = statement.targets
    assert isinstance(target, ast.Name) and target.id.isupper(), code[1]
    return target.id, ast.literal_eval(statement.value)


@every_notebook
def test_notebook_is_valid_and_has_no_outputs(path: Path):
    notebook = read(path)

    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@every_notebook
def test_notebook_begins_with_its_question(path: Path):
    first = read(path).cells[0]

    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "?" in first.source


@every_notebook
def test_notebook_has_one_variable_and_it_is_explained(path: Path):
    code = code_of(path)

    _, value = variable_of(code)
    assert value is None or isinstance(value, str)
    assert "#" in code[1]


@every_notebook
def test_notebook_imports_what_users_have(path: Path):
    tree = ast.parse("\n".join(code_of(path)))
    found = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert {name.partition(".")[0] for name in found} <= ALLOWED


@every_notebook
def test_notebook_reads_like_a_short_article(path: Path):
    code = code_of(path)
    tree = ast.parse("\n".join(code))
    made = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]

    assert len(code) <= CELLS
    assert [source for source in code if len(source.splitlines()) > LINES] == []
    assert all((node.end_lineno or 0) - node.lineno < FUNCTION_LINES for node in made)
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Assert, ast.ClassDef))]


@every_notebook
def test_notebook_is_listed_where_recipes_are(path: Path):
    assert path.stem in cards.names("recipes")
    assert summary("recipes", path.stem).endswith("?")
    assert f"`{path.stem}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


def executed(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **variable: str) -> Any:
    """The notebook with its outputs, run in `folder`; its variable may be set."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisInterpreter(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name=kernel_name, language="python")

    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("NEUROFM_STORE", str(folder / "store"))
    notebook = read(path)
    for cell in [cell for cell in notebook.cells if cell.cell_type == "code"][1:2]:
        for name, value in variable.items():
            cell.source = f"{name} = {value!r}"
    notebook.cells.append(nbformat.v4.new_code_cell("import time; print(time.process_time())"))
    work = folder / "work"
    work.mkdir()
    NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisInterpreter()),
        timeout=WALL_S,
        resources={"metadata": {"path": str(work)}},
    ).execute()
    return notebook


def printed(notebook: Any, stream: str = "stdout") -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == stream)


def figures(notebook: Any) -> list[bytes]:
    """PNG of every figure; written to $NEUROFM_FIGURES, if that is set, to be looked at."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    data = [output.get("data", {}) for output in outputs]
    return [base64.b64decode(item["image/png"]) for item in data if "image/png" in item]


def judge(notebook: Any, name: str, *, silent: bool = True) -> None:
    found = figures(notebook)
    if "NEUROFM_FIGURES" in os.environ:
        folder = Path(os.environ["NEUROFM_FIGURES"])
        folder.mkdir(parents=True, exist_ok=True)
        for i, png in enumerate(found):
            (folder / f"{name}_{i:02d}.png").write_bytes(png)
        (folder / f"{name}.txt").write_text(printed(notebook), encoding="utf-8")
    text = printed(notebook)
    assert len(found) >= 2
    assert re.search(r"chance|ceiling|baseline", text), text
    own = str(Path(neurofm.__file__).parent)
    assert not silent or own not in printed(notebook, "stderr")
    assert float(text.split()[-1]) < CPU_S


@pytest.mark.notebook
@pytest.mark.timeout(WALL_S + 9)
@every_notebook
def test_notebook_runs_from_a_fresh_kernel(path: Path, tmp_path: Path, monkeypatch):
    judge(executed(path, tmp_path, monkeypatch), path.stem)


@pytest.mark.notebook
@pytest.mark.corpus
@pytest.mark.timeout(WALL_S + 9)
@pytest.mark.parametrize(("name", "corpus", "value"), REAL)
def test_notebook_runs_on_recordings(name: str, corpus: str, value: str, tmp_path, monkeypatch):
    root = os.environ.get("NEUROFM_DATA")
    if root is None or not (Path(root) / corpus).is_dir():
        pytest.skip(f"needs {corpus} under $NEUROFM_DATA")
    path = FOLDER / f"{name}.ipynb"
    variable, _ = variable_of(code_of(path))
    done = executed(path, tmp_path, monkeypatch, **{variable: value})

    judge(done, f"{name}_{value}", silent=False)  # what recordings lack is said
