"""The rows of the tables, measured in rounds, both sides of a row one after the other."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from editmgt_lib.choices import OFFLOAD
from editmgt_lib.sampling.options import FAST

from .cases import Case


class Side(Protocol):
    """Ours or the official one."""

    def measure(self, stage: str, **asked: Any) -> dict[str, Any]:
        """`seconds` and more, or `missing` with a reason."""


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, the stage and its options."""

    name: str
    stage: str
    asked: dict[str, Any] = field(default_factory=dict)


def stage_rows(case: Case) -> list[Row]:
    """The stages one by one."""
    strong, layers = {"strength": 1.1}, {"layers": list(case.layers)}
    count = case.layers[1] - case.layers[0] + 1
    read = f"{count} block{'s' if count > 1 else ''} read"
    return [
        Row("text encoding", "text"),
        Row("tokenizing", "tokenize"),
        Row("prepare (once per run)", "prepare", strong),
        Row("step, strength 1", "step"),
        Row("step, strength 1.1", "step", strong),
        Row(f"step, {read}", "step", layers),
        Row(f"step, strength 1.1, {read}", "step", {**strong, **layers}),
        Row("consolidation", "consolidate"),
        Row("token draw and reveal", "draw"),
        Row("decode", "decode"),
    ]


def run_rows(case: Case, steps: int) -> list[Row]:
    """Whole runs at the published strength; a map is read at every step where it decides."""
    asked = {"steps": steps, "strength": 1.1}
    held = {**asked, **_held(case)}
    return [
        Row(f"sampling, {steps} steps", "sample", asked),
        Row(f"sampling, {steps} steps, held below 0.3", "sample", held),
        Row(f"whole edit, {steps} steps, held below 0.3", "edit", held),
    ]


def _held(case: Case) -> dict[str, Any]:
    return {"layers": list(case.layers), "threshold": 0.3}


def option_rows(steps: int, compiled: bool) -> list[Row]:
    """Our sampling: exact first, then with each option that approximates, and compiled."""
    fast = {k: list(v) if isinstance(v, tuple) else v for k, v in FAST.items()}  # as in JSON
    known, tenth = {"reuse": "known"}, {"region": 0.1}
    options = {
        "exact": {},
        "guidance in the first half": {"guidance_interval": [0.0, 0.5]},
        "reuse reference": {"reuse": "reference"},
        "reuse known": known,
        "fast": fast,
        "a tenth of the picture": tenth,
        "a tenth, reuse known": {**tenth, **known},
        "a tenth, fast": {**tenth, **fast},
    }
    if compiled:
        options |= {"compiled": {"compiled": True}, "compiled, fast": {"compiled": True, **fast}}
    asked = {"steps": steps, "strength": 1.1}
    return [Row(name, "sample", {**asked, **more}) for name, more in options.items()]


def offload_rows(steps: int) -> list[Row]:
    """From prompt and picture to picture, for the memory under each offload."""
    asked = {"steps": steps, "strength": 1.1, "text": True}
    return [Row(f"offload {mode}", "edit", {**asked, "offload": mode}) for mode in OFFLOAD]


def compare(
    rows: list[Row], sides: dict[str, Side], rounds: int, warm_up: bool = True
) -> list[dict[str, Any]]:
    """Measure every row in every round; the sides take turns to be first.

    Returns:
        Per row: `name`, `stage`, `asked`; per side `seconds` of each round, their `median` and
        `peak_mib`, or the reason why they are `missing`; `ratio`, the median over rounds of
        official / ours, and `cpu_ratio`, the same of the CPU time of each side's threads.
    """
    records = [{"name": row.name, "stage": row.stage, "asked": row.asked} for row in rows]
    for record in records:
        record.update({side: {"seconds": []} for side in sides})
    first = 0 if warm_up else 1
    with tqdm(total=(rounds + 1 - first) * len(rows), desc="rounds", disable=None) as bar:
        for turn in range(first, rounds + 1):
            for row, record in zip(rows, records, strict=True):
                for name in list(sides)[:: 1 if turn % 2 else -1]:
                    _take(record[name], sides[name], row, keep=turn > 0)
                bar.update()
    for record in records:
        _summarize(record, sides)
    return records


def _take(record: dict[str, Any], side: Side, row: Row, keep: bool) -> None:
    if "missing" in record:
        return
    answer = side.measure(row.stage, **row.asked)
    if "missing" in answer:
        record["missing"] = answer["missing"]
    elif keep:
        for key in ("seconds", "cpu_s"):
            if key in answer:
                record.setdefault(key, []).append(answer[key])
        if "peak_mib" in answer:
            record["peak_mib"] = max(record.get("peak_mib", 0), answer["peak_mib"])


def _summarize(record: dict[str, Any], sides: dict[str, Side]) -> None:
    for name in sides:
        if record[name]["seconds"]:
            record[name]["median"] = median(record[name]["seconds"])
    for name, key in (("ratio", "seconds"), ("cpu_ratio", "cpu_s")):
        ours, theirs = (record.get(side, {}).get(key) for side in ("ours", "official"))
        if ours and theirs:
            record[name] = median(t / o for t, o in zip(theirs, ours, strict=True))


def same_tokens(case: Case, sides: dict[str, Side], steps: int) -> list[dict[str, Any]]:
    """Runs with the official draws on both sides: how many final tokens are equal."""
    records = []
    for name, more in {"nothing held": {}, "held below 0.3": _held(case)}.items():
        asked = {"steps": steps, "published_draw": True, "strength": 1.1, **more}
        answers = {side: sides[side].measure("sample", **asked) for side in sides}
        missing = {side: a["missing"] for side, a in answers.items() if "missing" in a}
        record: dict[str, Any] = {"name": f"{name}, {steps} steps", "missing": missing}
        if not missing:
            record |= agreement(answers["ours"]["ids"], answers["official"]["ids"])
        records.append(record)
    return records


def agreement(ours: Tensor, official: Tensor) -> dict[str, int]:
    """Count equal tokens, and all."""
    return {"equal": int((ours == official).sum()), "tokens": ours.numel()}
