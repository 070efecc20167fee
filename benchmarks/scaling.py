"""How our time grows: with steps, pictures, tokens and captured blocks."""

from statistics import median
from typing import Any

from tqdm import tqdm

from .cases import Case
from .ceiling import needed
from .ours import Ours

PATIENCE_S = 15.0  # a point that takes longer is measured once


def points(case: Case, quick: bool, cuda: bool) -> dict[str, list[tuple[int, str, dict[str, Any]]]]:
    """Per axis: what stands on it, and the stage and options to measure."""
    side, blocks = case.side, case.transformer.num_blocks
    steps = [case.steps // n for n in (9, 4, 2, 1)] if cuda else [1, 2, 4, 8]
    small = side if cuda or case.trained else side // 2  # sixteen full grids are too much for a CPU
    sides = [side // 2, side * 3 // 4, side, side * 3 // 2, side * 2]
    captured = sorted({0, 1, blocks // 4, blocks // 2, blocks * 3 // 4, blocks})
    strong = {"strength": 1.1}
    axes = {
        "steps": [(n, "sample", {"steps": n, **strong}) for n in steps],
        f"pictures of {small} x {small} tokens": [
            (n, "step", {"batch": n, "side": small, **strong}) for n in (1, 2, 4, 8, 16)
        ],
        "tokens a side": [(n - n % 2, "step", {"side": n - n % 2, **strong}) for n in sides],
        "blocks read": [
            (n, "step", {**strong, "layers": [blocks - n, blocks - 1] if n else None})
            for n in captured
        ],
    }
    return {name: line[:2] if quick else line for name, line in axes.items()}


def scaling(case: Case, ours: Ours, rounds: int, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Per axis a list of `at`, `flops` needed, and `median` seconds or why they are `missing`."""
    cuda = not ours.device.startswith("cpu")
    axes = points(case, quick, cuda)
    found = {}
    with tqdm(total=sum(map(len, axes.values())), desc="scaling", disable=None) as bar:
        for name, line in axes.items():
            found[name] = []
            for at, stage, asked in line:
                point = {"at": at, "flops": needed(case, stage, asked).flops}
                found[name].append(point | _median_seconds(ours, stage, asked, rounds))
                bar.update()
    return found


def _median_seconds(ours: Ours, stage: str, asked: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The first call warms up, unless it took so long that it will have to do."""
    first = ours.measure(stage, **asked)
    if "missing" in first:
        return {"missing": first["missing"]}
    if first["seconds"] > PATIENCE_S:
        return {"median": first["seconds"]}
    return {"median": median(ours.measure(stage, **asked)["seconds"] for _ in range(rounds))}
