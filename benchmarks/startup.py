"""What it takes to begin: the import, and loading a transformer against reading its file."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from editmgt_lib.loader import load_transformer

from .cases import WEIGHTS_NAME
from .clock import synchronize

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {
    "import editmgt_lib": "import editmgt_lib",
    "import torch": "import torch",
    "from editmgt_lib import load": "from editmgt_lib import load",
}


def import_seconds(statement: str, rounds: int) -> float:
    """Seconds an import takes in a fresh interpreter, the interpreter's own start not counted."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    taken = [
        float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    ]
    return median(taken)


def load_seconds(folder: Path, device: str, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Loading `editmgt/` and touching every page of it, against a plain read of its file.

    Both find the file in the system's cache: the first round only puts it there.
    """
    path = folder / "editmgt" / WEIGHTS_NAME
    taken: dict[str, list[float]] = {"load": [], "read": []}
    for _ in range(rounds + 1):
        start = time.perf_counter()
        path.read_bytes()
        taken["read"].append(time.perf_counter() - start)
        start = time.perf_counter()
        transformer = load_transformer(folder / "editmgt", torch.device(device), dtype)
        for p in transformer.parameters():
            p.flatten()[::512].sum()
        synchronize(device)
        taken["load"].append(time.perf_counter() - start)
        del transformer
    found = {name: median(seconds[1:]) for name, seconds in taken.items()}
    pairs = zip(taken["load"][1:], taken["read"][1:], strict=True)
    return {**found, "ratio": median(a / b for a, b in pairs), "mib": path.stat().st_size / 2**20}


def startup(folder: Path, device: str, dtype: torch.dtype, rounds: int) -> dict[str, object]:
    """All of it."""
    imports = {name: import_seconds(code, rounds) for name, code in IMPORTS.items()}
    return {"imports": imports, "loading": load_seconds(folder, device, dtype, rounds)}
