"""Who may import whom: the table of ARCHITECTURE section 8, as code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import neurofm

PACKAGE = Path(neurofm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LEVELS: dict[str, float] = {
    **dict.fromkeys(("shapes", "units"), 0),
    **dict.fromkeys(("types", "batch", "cards", "compat"), 1),
    **dict.fromkeys(("contract", "amplitudes"), 1.5),
    **dict.fromkeys(("nn", "io", "metrics", "stats"), 2),
    **dict.fromkeys(("linear", "ceilings", "figures"), 2.5),
    **dict.fromkeys(("data", "tokenizers"), 3),
    **dict.fromkeys(("models", "readouts"), 4),
    **dict.fromkeys(("objectives", "interpret"), 5),
    **dict.fromkeys(("tasks", "stimuli"), 6),
    **dict.fromkeys(("evaluate", "report", "live", "reconstruct"), 7),
    "cli": 8,
}
NEVER = {unit: {"data", "io"} for unit in ("models", "readouts", "objectives", "interpret")}
# third-party packages that only some places may import
ONLY = {
    "lightning": ("tasks", "data.module", "data.response_data", "data.voxel_data", "cli"),
    "mne": ("io", "data", "evaluate", "figures", "report", "cli.demo"),
    "mne_bids": ("io",),
    "nibabel": ("io",),
    "braindecode": ("models.braindecode", "evaluate"),
    "mne_lsl": ("live",),
    "onnx": ("live",),
    "onnxruntime": ("live",),
}
# Modules that look at recordings: neither torch nor lightning may be imported on the way.
LIGHT = ("types", "units", "cards", "compat", "io.corpus", "io.readers", "io.meeg")
LIGHT += ("io.stores.store", "io.simulated.synthetic", "data.preparing.prepare")
LIGHT += ("data.splits", "data.audit", "report")


def name_of(file: Path) -> str:
    """Module below the package: "io.meeg"; "io" for a folder; "" for the package itself."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> list[tuple[str, bool, bool]]:
    """(module, inside a function, for type checkers only) of every import in a file."""
    found: list[tuple[str, bool, bool]] = []

    def visit(node: ast.AST, inside: bool, typing: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "neurofm":
                found.extend((f"neurofm.{alias.name}", inside, typing) for alias in node.names)
            else:
                found.append((str(node.module), inside, typing))
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing = typing or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for child in ast.iter_child_nodes(node):
            visit(child, inside, typing)

    visit(ast.parse(file.read_text(encoding="utf-8")), False, False)
    return found


def unit_of(module: str) -> str:
    return module.removeprefix("neurofm").lstrip(".").split(".")[0]


def allowed(place: str, module: str) -> bool:
    return any(place == where or place.startswith(f"{where}.") for where in ONLY[module])


def faults(file: Path) -> list[str]:
    """Imports of one file that break a rule, in words."""
    here, unit = name_of(file), unit_of(name_of(file))
    wrong = []
    for module, inside, typing in imports(file):
        top = module.split(".")[0]
        if top in ONLY and not allowed(here, top):
            wrong.append(f"{here} imports {module}, allowed in {', '.join(ONLY[top])}")
        if top == "braindecode" and not inside:
            wrong.append(f"{here} imports {module} outside a function")
        other = unit_of(module)
        if top != "neurofm" or not unit or other in ("", unit) or other not in LEVELS:
            continue
        # `shapes` holds annotations only and stands below everything, `units` included.
        if LEVELS[other] >= LEVELS[unit] and other != "shapes":
            wrong.append(f"{here} (level {LEVELS[unit]}) imports {other} (level {LEVELS[other]})")
        if other in NEVER.get(unit, ()):
            wrong.append(f"{here} imports {other}: models never know where data come from")
        # A result draws itself, and matplotlib loads slowly: only when it is asked to.
        if inside and not typing and unit != "cli" and other != "figures":
            wrong.append(f"{here} imports {module} inside a function")
    return wrong


@pytest.mark.parametrize("file", FILES, ids=[name_of(file) or "neurofm" for file in FILES])
def test_imports_follow_the_table(file):
    assert faults(file) == []


def test_every_module_has_a_level():
    assert {unit_of(name_of(file)) for file in FILES} - {""} <= set(LEVELS)


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("io/x.py", "from neurofm.data import Windows", "level 2) imports data (level 3"),
        ("data/x.py", "import neurofm.tokenizers", "level 3) imports tokenizers (level 3"),
        ("models/x.py", "from neurofm.io import Store", "never know"),
        ("nn/x.py", "import mne", "imports mne"),
        ("models/x.py", "import lightning.pytorch as pl", "imports lightning"),
        ("models/braindecode.py", "import braindecode", "outside a function"),
        ("io/x.py", "def f():\n    from neurofm.units import Kind", "inside a function"),
        ("types.py", "from neurofm import batch", "level 1) imports batch (level 1"),
    ],
)
def test_a_planted_violation_is_found(place, code, words, tmp_path, monkeypatch):
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert any(words in fault for fault in faults(file))


def imported_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_neurofm_is_instant():
    heavy = {"torch", "mne", "lightning", "scipy", "numpy", "sklearn", "matplotlib"}
    assert not heavy & imported_by("import neurofm")


def test_what_looks_at_recordings_imports_no_deep_learning():
    present = [name for name in LIGHT if (PACKAGE / (name.replace(".", "/") + ".py")).exists()]
    loaded = imported_by("import " + ", ".join(f"neurofm.{name}" for name in present))
    assert not {"torch", "lightning", "braindecode"} & loaded


def test_a_running_decoder_needs_no_lightning():
    loaded = imported_by("import neurofm.live, neurofm.cli.stream, neurofm.cli.export")
    assert not {"lightning", "matplotlib", "mne_lsl", "onnx"} & loaded
