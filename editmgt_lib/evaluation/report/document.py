"""The report as plain data: what report.json holds, and what Markdown and HTML are made of."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from statistics import fmean, median, stdev
from typing import Any

from ...errors import InputError
from ..datasets.registry import find
from ..judging import between_runs
from ..naming import Meaning, meanings_of
from ..runs import RunFolder
from .figures import Counting, Figures, Results, defects, detectable, difference, histogram

_BASELINES = {"copy": "copy-input", "roundtrip": "tokenizer round trip"}
_SEED = re.compile(r"(^|(?<=,))seed=\d+(,|$)")  # of a point of a sweep
_LEFT_OUT = ("data", "folder", "url", "tasks")  # places on this machine; counts that are shown


def results_of(run: RunFolder, exclude: Sequence[str] = ()) -> tuple[list[Results], list[Results]]:
    """The runs of a report, or the points of its sweep, and the baselines of both."""
    own = Results.read("this run", run, exclude)
    sweep = sorted(run.parts("sweep").items(), key=lambda part: _by_number(part[0]))
    points = [] if own.scores else [Results.read(name, part, exclude) for name, part in sweep]
    baselines = [
        Results.read(_BASELINES.get(name, name), part, exclude)
        for name, part in run.parts("baselines").items()
        if part.path != run.path
    ]
    return points or [own], baselines


def _by_number(name: str) -> list[Any]:
    """Sort "steps=8" before "steps=16"."""
    parts = re.split(r"(\d+\.?\d*)", name)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def document(
    run: RunFolder,
    mains: Sequence[Results],
    baselines: Sequence[Results],
    counting: Counting,
    exclude: Sequence[str] = (),
) -> dict[str, Any]:
    """All figures; exclude: the defects whose items the results are without.

    Raises InputError if nothing is scored yet.
    """
    metrics = meanings_of(_metric_names(mains))
    if not metrics:
        raise InputError(f"{run.path} has no scores to report; run the stage score first")
    everyone = [*mains, *baselines]
    figures = {r.name: {n: r.figures(m, counting) for n, m in metrics.items()} for r in everyone}
    first = mains[0]
    return {
        "dataset": first.run.root.manifest["prepare"]["dataset"],
        "run": "/".join(run.path.resolve().parts[-3 if run.root is not run else -1 :]),
        "headline": headline(first.run),
        "failures": counting.failures,
        "draws": counting.draws,
        "items": {"total": len(first.items), **_attempts(first)},
        "defects": defects(run.final_items()),
        "excluded": list(exclude),
        "tasks": {t: sum(i.task == t for i in first.items) for t in first.tasks},
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        "rows": [_row(r.name, r in baselines, figures[r.name]) for r in everyone],
        "against": {
            b.name: _differences(first, b, metrics, counting) for b in baselines if len(mains) == 1
        },
        "between": between(mains, figures),
        "detectable": {
            n: {"macro": detectable(f.macro), "micro": detectable(f.micro)}
            for n, f in figures[first.name].items()
        },
        "histograms": {
            n: histogram(first.column(m, counting.failures)) for n, m in metrics.items()
        },
        "facts": facts(first.run, own=len(mains) == 1),
    }


def _row(name: str, baseline: bool, figures: Mapping[str, Figures]) -> dict[str, Any]:
    values = {metric: found.to_dict() for metric, found in figures.items()}
    return {"name": name, "baseline": baseline, "figures": values}


def _differences(
    first: Results, second: Results, metrics: Mapping[str, Meaning], counting: Counting
) -> dict[str, Any]:
    return {
        name: difference(first, second, metric, counting, by_task=False)
        for name, metric in metrics.items()
    }


def between(
    mains: Sequence[Results], figures: Mapping[str, Mapping[str, Figures]]
) -> list[dict[str, Any]]:
    """How much the means move between repeats of a judge, and between seeds of the editor.

    Means of repeats are over the items that every repeat has a score of.
    """
    rows = [
        _spread(f"{one.name}, repeats of the judge", metric, found.macro, found.micro)
        for one in mains
        for metric, found in between_runs(one.run, one.items).items()
    ]
    groups: dict[str, list[str]] = {}
    for one in mains:
        if (rest := _SEED.sub("", one.name)) != one.name:
            groups.setdefault(rest.strip(","), []).append(one.name)
    for rest, names in groups.items():
        for metric in figures[names[0]]:
            cells = [figures[name][metric] for name in names]
            means = [[getattr(f, kind).mean for f in cells] for kind in ("macro", "micro")]
            if len(names) > 1 and None not in means[0]:
                rows.append(_spread(", ".join(filter(None, (rest, "seeds"))), metric, *means))
    return rows


def _spread(
    name: str, metric: str, macro: Sequence[float], micro: Sequence[float]
) -> dict[str, Any]:
    return {
        "name": name,
        "metric": metric,
        "runs": len(macro),
        "macro": {"mean": fmean(macro), "deviation": stdev(macro)},
        "micro": {"mean": fmean(micro), "deviation": stdev(micro)},
    }


def _metric_names(results: Iterable[Results]) -> Iterable[str]:
    return (name for one in results for name in one.scores)


def headline(run: RunFolder) -> str:
    """Which mean the benchmark's own tables print: "macro" or "micro"."""
    with suppress(InputError, AttributeError, KeyError):
        dataset = find(run.root.manifest["prepare"]["dataset"]).dataset
        return "macro" if dataset.average == "tasks" else "micro"
    return "micro"


def _attempts(results: Results) -> dict[str, Any]:
    """What became of the edits."""
    known = results.run.attempts()
    own = [known[item.id] for item in results.items if item.id in known]
    seconds = [a.seconds for a in own if a.status == "ok" and a.seconds]
    took = {"mean": fmean(seconds), "median": median(seconds)} if seconds else None
    return {
        "edited": sum(a.status == "ok" for a in own),
        "edits_failed": sum(a.status == "failed" for a in own),
        "seconds_per_edit": took,
    }


def facts(run: RunFolder, own: bool = True) -> dict[str, dict[str, str]]:
    """What made a run, by stage, as texts; paths of the machine are left out.

    own: with what made the pictures of this run in particular.
    """
    sections = dict(run.root.manifest)
    if run is not run.root:
        sections |= run.manifest
    if not own:
        sections.pop("generate", None)
    return {name: dict(_texts(section)) for name, section in sections.items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _texts(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if name in _LEFT_OUT or value in (None, "", {}, []):
            continue
        if isinstance(value, Mapping) and len(value) <= 40:
            yield from _texts(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)
