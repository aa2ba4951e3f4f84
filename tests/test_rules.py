"""Law 8 and the rules of the house, read from the code itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/*.py")])

# Each room imports only from the rooms before it.
ROOMS = [
    "errors", "wording", "cores", "memory", "records", "overlaps", "grouping", "config", "scores",
    "parsing", "storage", "metrics", "collective", "methods", "models", "images", "drawing",
    "tables", "labels", "synthetic", "plan", "counting", "evaluation", "overlay", "survey",
    "predicting", "exporting", "large", "training", "distributed",
]  # fmt: skip


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


IN_MEMORY = ("pa.BufferReader", "io.BytesIO")


def calls(path: Path, of_files: bool = False) -> Iterator[str]:
    """Every call, as it is written: `open`, `storage.read_bytes`.

    With `of_files`, not those whose first argument is plainly made of bytes in memory.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            first = node.args[0] if node.args else None
            in_memory = isinstance(first, ast.Call) and ast.unparse(first.func) in IN_MEMORY
            if not (of_files and in_memory):
                yield ast.unparse(node.func)


def room(module: str) -> str:
    return module.split(".")[1]


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 40


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    imported = [m for m in imports(path) if m.startswith("pipeline.") and room(m) in ROOMS]
    if parts[0] == "jobs":
        assert not [m for m in imports(path) if m.startswith("tests")]
        return
    assert not [m for m in imports(path) if m.startswith("jobs")]
    if parts[1] == "__init__":
        return
    here = ROOMS.index(parts[1])
    # A package's own modules may use each other; Python itself refuses cycles among them.
    assert [m for m in imported if ROOMS.index(room(m)) > here] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_distributed_knows_ray(path: Path) -> None:
    if "distributed" not in path.parts:
        assert not [m for m in imports(path) if m.split(".")[0] == "ray"]


OPENERS = (
    "open", "os.open", "io.open", "pq.read_table", "pq.write_table", "pq.ParquetFile",
    "pads.write_dataset", "np.load", "np.save", "np.fromfile", "cv2.imread", "cv2.imwrite",
    "tifffile.imread", "torch.load", "torch.save", "safetensors.torch.load_file",
    "safetensors.torch.save_file",
)  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_storage_opens_files(path: Path) -> None:
    if path.is_relative_to(ROOT / "pipeline/storage"):
        return
    touching = {"fsspec", "s3fs", "shutil", "pathlib.Path", "glob"}
    assert touching.isdisjoint(imports(path))
    # Readers of Parquet are given a file system by storage, or bytes that it has read.
    allowed = {"pipeline/images/lists.py": {"pq.ParquetFile"},
               "pipeline/tables/files.py": {"pq.write_table"},
               "jobs/_main.py": {"os.open"}}  # fmt: skip
    found = {call for call in calls(path, of_files=True)
             if call in OPENERS or call.endswith(".read_text")}  # fmt: skip
    assert found <= allowed.get(name_of(path), set())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_from_outside_can_execute(path: Path) -> None:
    assert {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}.isdisjoint(
        imports(path)
    )
    forbidden = {"eval", "exec", "compile", "__import__", "torch.load", "yaml.load", "os.system"}
    assert forbidden.isdisjoint(calls(path))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_importing_does_nothing(path: Path) -> None:
    """At module level there are definitions, docstrings and constants, no bare calls."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), ast.unparse(node)


def test_the_driver_of_a_prediction_starts_without_pytorch() -> None:
    import subprocess
    import sys

    code = "import sys, pipeline.distributed.backfill; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
