"""What is built and published: contents, forbidden words, and the direction of imports."""

import ast
import importlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import editmgt_lib
from editmgt_lib import choices

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "editmgt_lib"
TOY = PACKAGE / "toyworld" / "checkpoint"
# What a checkout may hold besides the project: caches, environments, builds, training runs.
GENERATED = {"__pycache__", "build", "dist", "runs", "node_modules"}


def project_files():
    """Files of the project, relative: what git would take, also where there is no git."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [n for n in names if n not in GENERATED and not n.endswith(".egg-info")
                    and (not n.startswith(".") or n in (".ci", ".github"))]  # fmt: skip
        for name in files:
            if name != ".git":  # a file in git's further working trees
                yield (Path(folder) / name).relative_to(ROOT)


def text_of(path):
    """A file's text, or None where it is not text."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


# ---- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names in the built wheel; building needs no network."""
    backend = pytest.importorskip("hatchling.build")
    folder = tmp_path_factory.mktemp("wheel")
    before = os.getcwd()
    try:
        os.chdir(ROOT)  # where a build backend expects to be
        name = backend.build_wheel(str(folder))
    finally:
        os.chdir(before)
    assert name.startswith(f"editmgt-{editmgt_lib.__version__}-py3-none-any")
    with zipfile.ZipFile(folder / name) as archive:
        metadata = archive.read(f"editmgt-{editmgt_lib.__version__}.dist-info/METADATA").decode()
        return set(archive.namelist()), metadata, (folder / name).stat().st_size


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names, _, size = wheel
    assert {name.split("/")[0] for name in names} == {
        "editmgt_lib", f"editmgt-{editmgt_lib.__version__}.dist-info"
    }  # fmt: skip
    sources = {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*.py")}
    assert sources <= names
    assert size < 25e6


def test_the_wheel_holds_the_toy_checkpoint(wheel):
    files = [p for p in TOY.rglob("*") if p.is_file()]
    assert files and {p.relative_to(ROOT).as_posix() for p in files} <= wheel[0]
    assert sum(p.stat().st_size for p in files) <= 23e6


def test_the_wheel_holds_what_reports_are_made_of(wheel):
    page = {f"editmgt_lib/pages/page.{kind}" for kind in ("html", "css", "js")}
    assert page <= wheel[0]


def test_the_wheel_states_its_requirements_without_upper_pins(wheel):
    required = re.findall(r"^Requires-Dist: (.+)$", wheel[1], re.MULTILINE)
    core = {line for line in required if "extra ==" not in line}
    names = {re.match(r"[\w.-]+", line)[0] for line in core}
    assert names == {
        "torch", "transformers", "safetensors", "numpy", "einops", "pillow", "huggingface-hub",
        "tqdm",
    }  # fmt: skip
    assert not [line for line in required if "<" in line.split(";")[0] or "==" in
                line.split(";")[0]]  # fmt: skip
    assert "Requires-Python: >=3.10" in wheel[1]


def test_the_command_is_installed(wheel):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    module, function = re.search(r'^editmgt = "([\w.]+):(\w+)"$', text, re.MULTILINE).groups()
    assert callable(getattr(importlib.import_module(module), function))


# ---- the archive for ComfyUI's registry

FLAGGED = {
    "a process": r"\bsubprocess\b|\bos\.(system|popen|exec|spawn)",
    "code from text": r"\b(eval|exec)\s*\(|\b__import__\b",
    "a pickle": r"\bpickle\b|\btorch\.load\b",
    "the network": r"\b(requests|urllib\d?|socket|httpx|http\.client|aiohttp)\b",
    "the environment": r"\bos\.(environ|getenv|putenv)",
    "installing": r"\bpip3? install\b",
}
HUB = {"checkpoints/hub.py", "checkpoints/transfer.py"}  # all there is of a network


def archived():
    """Python files that .comfyignore leaves."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = tuple(line for line in lines if line and not line.startswith("#"))
    for line in left_out:
        assert not re.search(r"[*?!\[]", line), f".comfyignore: {line}: names only, no wildcards"
    files = [p.as_posix() for p in project_files()]
    kept = [p for p in files if p.endswith(".py") and not p.startswith(left_out)]
    assert "editmgt_lib/pipeline.py" in kept and "__init__.py" in kept
    return kept


def test_the_archive_has_no_word_the_registry_flags():
    found = [
        f"{name}:{number}: {what}: {line.strip()}"
        for name in archived()
        for number, line in enumerate(text_of(name).splitlines(), 1)
        for what, pattern in FLAGGED.items()
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


def test_only_one_room_knows_the_network():
    users = {
        p.relative_to(PACKAGE).as_posix()
        for p in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(from|import) huggingface_hub", p.read_text("utf-8"), re.MULTILINE)
    }
    assert users and users <= HUB


def test_one_module_speaks_http_itself():
    pattern = (
        r"^\s*(from|import) (requests|urllib\.(request|error)|socket|ssl|http|httpx|aiohttp)\b"
    )
    users = {
        p.relative_to(PACKAGE).as_posix()
        for p in PACKAGE.rglob("*.py")
        if re.search(pattern, p.read_text("utf-8"), re.MULTILINE)
    }
    assert users == {"endpoints/transport.py"}


def test_no_path_of_one_machine():
    home = r"/(home|Users)/(?!runner\b)\w+/|[A-Z]:\\Users\\"
    pattern = re.compile(home + "|/" + r"(root|work|farm|opt/ev)\b/")
    for path in project_files():
        text = text_of(path)
        if text is None or path == Path(__file__).relative_to(ROOT):
            continue
        found = pattern.search(text)
        assert not found, f"{path}: {found[0]}"


# ---- imports


def run_python(code, folder):
    call = [sys.executable, "-c", code]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True)


def test_imports_under_another_folder_name(tmp_path):
    """As in ComfyUI's custom_nodes: any folder name, nothing installed, no ComfyUI."""
    (tmp_path / "any_name").symlink_to(ROOT, target_is_directory=True)
    modules = sorted(
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in PACKAGE.rglob("*.py")
        if p.name not in ("__init__.py", "__main__.py")
    )
    code = (
        "import importlib, sys\n"
        "pack = importlib.import_module('any_name')\n"
        "assert not hasattr(pack, 'NODE_CLASS_MAPPINGS')\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module('any_name.' + name)\n"
        "foreign = [m for m in sys.modules if m.split('.')[0] in "
        "('editmgt_lib', 'comfy', 'nodes', 'folder_paths')]\n"
        "assert not foreign, foreign\n"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stdout and not done.stderr


def test_importing_is_fast_and_loads_nothing_heavy():
    code = (
        "import sys, editmgt_lib, editmgt_lib.cli\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = run_python(code, ROOT)
    assert done.returncode == 0, done.stderr


class Imports(ast.NodeVisitor):
    """Modules of the package that one file imports when it runs, lazily or not."""

    def __init__(self, module, is_package, known):
        self.package = module.split(".") if module else []
        if not is_package:
            self.package.pop()
        self.known, self.found, self.absolute = known, set(), set()

    def visit_If(self, node):
        if getattr(node.test, "id", "") != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node):
        self.absolute |= {alias.name.split(".")[0] for alias in node.names}

    def visit_ImportFrom(self, node):
        if not node.level:
            self.absolute.add(node.module.split(".")[0])
            return
        base = self.package[: len(self.package) - node.level + 1]
        base = base + (node.module.split(".") if node.module else [])
        for alias in node.names:
            inner = ".".join([*base, alias.name])
            self.found.add(inner if inner in self.known else ".".join(base))


def import_graph():
    files = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        files[".".join(parts[:-1] if is_package else parts)] = (path, is_package)
    graph, absolute = {}, {}
    for module, (path, is_package) in files.items():
        visitor = Imports(module, is_package, files)
        visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
        graph[module], absolute[module] = visitor.found - {module}, visitor.absolute
    return graph, absolute


GRAPH, ABSOLUTE = import_graph()
APART = (
    "data", "training", "evaluation", "curation", "endpoints", "pages", "commands", "cli",
    "__main__",
)  # fmt: skip
# What a room may import besides itself; rooms that are not listed are the core, which may import
# anything but those APART.
BELOW = {
    "errors": (),
    "choices": (),
    "files": ("errors",),
    "tables": ("errors",),
    "checks": ("errors",),
    "offload": (),
    "precision": ("offload",),
    "models": ("errors",),
    "checkpoints": ("choices", "errors", "files", "checks", "models"),
    "pictures": ("errors", "files", "checks", "choices"),
    "localization": ("errors", "checks", "choices"),
    "text": ("errors", "files", "checks", "checkpoints", "offload", "precision"),
    "sampling": (
        "errors",
        "checks",
        "choices",
        "models",
        "offload",
        "pictures",
        "localization",
        "text",
    ),
    "toyworld": ("errors", "files", "checks", "checkpoints", "models", "text"),
    "data": (
        "errors",
        "files",
        "checks",
        "checkpoints",
        "models",
        "offload",
        "pictures",
        "sampling",
        "text",
        "toyworld",
    ),
    "endpoints": ("errors",),
    "pages": (),
    "training": None,
    "evaluation": None,
    "curation": None,
}


def room(module):
    return module.split(".")[0]


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_point_one_way(module):
    here = room(module)
    for target in GRAPH[module]:
        there = room(target)
        if there == here:
            continue
        if here not in APART:
            assert there not in APART, f"{module} is of the core and imports {target}"
        if BELOW.get(here) is not None:
            assert there in BELOW[here], f"{module} imports {target}, which stands above it"
        if here in ("training", "evaluation", "curation"):
            assert there not in ("commands", "cli", "__main__"), f"{module} imports {target}"


def test_no_circles():
    state, path = {}, []

    def visit(module):
        if state.get(module) == "done":
            return
        assert state.get(module) != "open", " -> ".join([*path[path.index(module) :], module])
        state[module] = "open"
        path.append(module)
        for target in sorted(GRAPH.get(module, ())):
            visit(target)
        path.pop()
        state[module] = "done"

    for module in sorted(GRAPH):
        visit(module)


def test_choices_are_listed_in_one_place():
    listed = {value for name, value in vars(choices).items() if name.isupper()}
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]:
        if path == PACKAGE / "choices.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List | ast.Tuple | ast.Set):
                values = tuple(getattr(e, "value", None) for e in node.elts)
                assert values not in listed, f"{path}:{node.lineno} repeats editmgt_lib/choices.py"


def test_imports_of_ourselves_are_relative_and_comfyui_is_not_imported():
    for module, names in ABSOLUTE.items():
        foreign = names & {"editmgt_lib", "comfy", "comfy_api", "nodes", "folder_paths", "server"}
        assert not foreign, f"{module} imports {foreign}"
