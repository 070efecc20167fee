"""Side by side: rounds through all rows, both sides of a row one after the other."""

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
    """A line of the table: its name, the stage and what is asked of it."""

    name: str
    stage: str
    asked: dict[str, Any] = field(default_factory=dict)


def stage_rows(case: Case) -> list[Row]:
    """The stages apart, cheap ones first."""
    read = _blocks(case.layers)
    on = {"layers": list(case.layers)}
    rows = [
        Row("text encoding", "text"),
        Row("tokenizing", "tokenize"),
        Row("prepare (once per run)", "prepare", {"strength": 1.1}),
        Row("step, strength 1", "step"),
        Row("step, strength 1.1", "step", {"strength": 1.1}),
        Row(f"step, {read}", "step", on),
        Row(f"step, strength 1.1, {read}", "step", {"strength": 1.1, **on}),
    ]
    if case.also_layers:
        also, name = {"layers": list(case.also_layers)}, _blocks(case.also_layers)
        rows.append(Row(f"step, {name}", "step", also))
        rows.append(Row(f"step, strength 1.1, {name}", "step", {"strength": 1.1, **also}))
    return [
        *rows,
        Row("consolidation", "consolidate"),
        Row("token draw and reveal", "draw"),
        Row("decode", "decode"),
    ]


def _blocks(layers: tuple[int, int]) -> str:
    count = layers[1] - layers[0] + 1
    return f"{count} block{'s' if count > 1 else ''} read"


def edit_rows(case: Case, steps: int) -> list[Row]:
    """Whole edits with the published defaults: capture off, and on with a hold."""
    asked = {"steps": steps, "strength": 1.1}
    on = {**asked, "layers": list(case.layers)}
    return [
        Row(f"sampling, {steps} steps", "sample", asked),
        Row(f"sampling, {steps} steps, map read", "sample", on),
        Row(f"whole edit, {steps} steps", "edit", asked),
        Row(f"whole edit, {steps} steps, map read", "edit", on),
    ]


def memory_rows(steps: int) -> list[Row]:
    """From prompt and picture to picture, for the memory it takes under each offload."""
    asked = {"steps": steps, "strength": 1.1, "text": True}
    return [
        Row(f"with text, {steps} steps, offload {mode}", "edit", {**asked, "offload": mode})
        for mode in OFFLOAD
    ]


def option_rows(steps: int, compiled: bool) -> list[Row]:
    """Our sampling, exact first, then compiled and with each option that approximates."""
    fast = {k: list(v) if isinstance(v, tuple) else v for k, v in FAST.items()}  # as in JSON
    kept, tenth, compile_it = {"reuse": "known"}, {"region": 0.1}, {"compiled": True}
    options = {
        "exact": {},
        "guidance in the first half": {"guidance_interval": [0.0, 0.5]},
        "reference kept": {"reuse": "reference"},
        "reference and known tokens kept": kept,
        "fast": fast,
        "a tenth of the picture, exact": tenth,
        "a tenth, reference and known tokens kept": {**tenth, **kept},
        "a tenth, fast": {**tenth, **fast},
    }
    if compiled:
        options |= {"compiled": compile_it, "compiled, fast": {**compile_it, **fast}}
    asked = {"steps": steps, "strength": 1.1}
    return [Row(name, "sample", {**asked, **more}) for name, more in options.items()]


def compare(rows: list[Row], sides: dict[str, Side], rounds: int) -> list[dict[str, Any]]:
    """Every row in every round, the sides taking turns to be first; a first round warms up.

    Returns, per row: `name`, `stage`, `asked`, per side the seconds of each round or why there are
    none, the median, the peak memory; `ratio`, the median over rounds of official / ours, and
    `cpu_ratio`, the same of the threads' own seconds, which other work on the machine hardly moves.
    """
    found = [{"name": row.name, "stage": row.stage, "asked": row.asked} for row in rows]
    for record in found:
        record.update({side: {"seconds": []} for side in sides})
    total = (rounds + 1) * len(rows)
    with tqdm(total=total, desc="rounds", disable=None) as bar:
        for turn in range(rounds + 1):
            for row, record in zip(rows, found, strict=True):
                for name in list(sides)[:: 1 if turn % 2 else -1]:
                    _take(record[name], sides[name], row, keep=turn > 0)
                bar.update()
    for record in found:
        _summarize(record, sides)
    return found


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


def effect(found: list[dict[str, Any]], without: str, having: str) -> dict[str, float]:
    """What a switch costs, per side: the median over rounds of having / without, less one."""
    by_name = {record["name"]: record for record in found}
    cost = {}
    for side in ("ours", "official"):
        pair = [by_name.get(n, {}).get(side, {}).get("seconds") for n in (without, having)]
        if all(pair):
            cost[side] = median(b / a for a, b in zip(*pair, strict=True)) - 1
    return cost


def effects(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The switches the stage rows can tell."""
    names = [record["name"] for record in found if record["stage"] == "step"]
    plain, strong = "step, strength 1", "step, strength 1.1"
    costs = {"strength 1.1 against 1": effect(found, plain, strong)}
    for name in names:
        if name.endswith("read"):
            base = strong if name.startswith(strong) else plain
            costs[f"{name} against none"] = effect(found, base, name)
    return costs


def same_tokens(case: Case, sides: dict[str, Side], steps: int) -> list[dict[str, Any]]:
    """Runs with the published draws on both sides: how many final tokens are equal."""
    runs = {
        "nothing read": {"strength": 1.1},
        "map read": {"strength": 1.1, "layers": list(case.layers)},
        "held below 0.3": {"strength": 1.1, "layers": list(case.layers), "threshold": 0.3},
    }
    found = []
    for name, asked in runs.items():
        asked = {"steps": steps, "published_draw": True, **asked}
        answers = {side: sides[side].measure("sample", **asked) for side in sides}
        missing = {s: a["missing"] for s, a in answers.items() if "missing" in a}
        record: dict[str, Any] = {"name": name, "steps": steps, "missing": missing}
        if not missing:
            record |= agreement(answers["ours"]["ids"], answers["official"]["ids"])
        found.append(record)
    return found


def agreement(ours: Tensor, official: Tensor) -> dict[str, int]:
    """Equal tokens of all."""
    return {"equal": int((ours == official).sum()), "tokens": ours.numel()}
