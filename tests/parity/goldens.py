"""Where the golden arrays are, and the one way tests compare with them.

A subset travels with the tests (`tests/goldens`). The full set is read where it lies beside the
checkout (`../shared/goldens`), and `EDITMGT_GOLDENS` names further folders of the same format,
separated by the platform's path separator. What each folder must hold is checked in
`test_goldens.py`.
"""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file

BUNDLED = Path(__file__).resolve().parent.parent / "goldens"
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "goldens"


def roots() -> list[Path]:
    """Every golden folder to check: bundled, the one beside the checkout, and those asked for."""
    asked = [Path(p) for p in os.environ.get("EDITMGT_GOLDENS", "").split(os.pathsep) if p]
    for path in asked:
        if not path.is_dir():
            raise FileNotFoundError(f"EDITMGT_GOLDENS names {path}, which is not a folder")
    return [p for p in (BUNDLED, BESIDE) if p.is_dir()] + asked


def case_dirs(prefix: str) -> list[Path]:
    """All case folders whose name starts with `prefix`, over every golden folder."""
    cases = (d for root in roots() for d in sorted(root.iterdir()) if d.is_dir())
    return [d for d in cases if d.name.startswith(prefix)]


def case_id(path: Path) -> str:
    """A readable test id: golden folder and case."""
    return f"{path.parent.parent.name}-{path.parent.name}-{path.stem}"


def load(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of one safetensors file, with its place in the message if it is missing."""
    return load_file(str(path))


def meta(case: Path) -> dict:
    """Settings of one case."""
    return json.loads((case / "meta.json").read_text())


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """max|a - b| / max|b| (the largest |a - b| where b is all zero)."""
    if tuple(actual.shape) != tuple(expected.shape):
        raise AssertionError(f"shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
    difference = (actual.double() - expected.double()).abs().max().item()
    return difference / (expected.double().abs().max().item() or 1.0)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, rel: float, name: str = "") -> float:
    """Fail with the figure when the relative error is above `rel`; return the figure."""
    error = relative_error(actual, expected)
    assert error <= rel, f"{name}: relative error {error:.3g} > {rel:g}"
    return error
