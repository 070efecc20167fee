"""Runs as the stages leave them, written directly: no model, no network, pictures of one color."""

import json

from PIL import Image

from editmgt_lib.evaluation.items import Item, Score
from editmgt_lib.evaluation.runs import Attempt, RunFolder

L1, PSNR = "l1/source/fit-output", "psnr/source/fit-output"
JUDGED = "gedit/o/judge/own-12345678/native"
ok = float


def write_run(
    path, scores, tasks=None, clusters=None, pictures=(), digest="d", dataset="magicbrush", **item
):
    """A run of items a, b, ...; scores: by metric, per item a number, "failed", "n/a" or None.

    pictures: sizes of sources and results, repeated; none by default.
    """
    count = max(map(len, scores.values()))
    names = [chr(97 + k // 26) + chr(97 + k % 26) for k in range(count)]
    path.mkdir(parents=True, exist_ok=True)
    items = [
        Item(
            **{
                "id": name,
                "task": (tasks or ["one"] * count)[k],
                "instruction": f"edit {name}",
                "source": f"run:inputs/{name}.png",
                "cluster": (clusters or [""] * count)[k],
                **{key: value[k] for key, value in item.items()},
            }
        )
        for k, name in enumerate(names)
    ]
    lines = "".join(json.dumps(item.to_dict()) + "\n" for item in items)
    (path / "items.jsonl").write_text(lines, "utf-8")
    run = RunFolder(path)
    run.claim("prepare", {"dataset": dataset, "items": count, "digest": digest, "data": "/secret"})
    run.claim("generate", {"editor": "model", "model": "toy", "weights": "abc", "seed": 7})
    run.append("generate", [Attempt(name, "ok", 1, 0.5) for name in names])
    write_scores(run, scores)
    for k, (name, size) in enumerate(zip(names, [*pictures] * count, strict=False)):
        save(path / "inputs" / f"{name}.png", size, (k * 9 % 256, 90, 40))
        save(run.picture(name), size, (40, k * 9 % 256, 90))
    return run


def write_scores(run, scores):
    """Scores by metric, per item in order."""
    rows = []
    for metric, values in scores.items():
        for item, value in zip(run.items(), values, strict=True):
            if isinstance(value, str):
                rows.append(Score(item.id, metric, None, value, f"why {value}"))
            elif value is not None:
                rows.append(Score(item.id, metric, ok(value)))
    run.append("scores", rows)


def add_baseline(run, name, scores):
    """A further run over the same items."""
    part = run.part("baselines", name)
    part.claim("generate", {"editor": name})
    write_scores(part, scores)
    return part


def save(path, size, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
