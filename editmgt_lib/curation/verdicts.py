"""Verdicts on all rows, written beside what they follow from, and the totals."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..files import atomic_write_bytes
from .assembly import Curation
from .decide import CopyRule, Decision, ExclusionRule, Rule, by_stage, decide
from .duplicates import Copy, Hashed, find_copies
from .rows import DROP, FAILED, KEEP
from .store import LINES, PieceName, line_bytes, read_lines, read_manifest, write_manifest

FOLDER = "decisions"
_SEPARATOR = "|"
_FIRST = 1 << 62  # as an area: the others are the copies


@dataclass(frozen=True)
class DuplicateOptions:
    """What counts as a copy of another picture; see `find_copies`.

    Attributes:
        distance: bits of the perceptual hash; 0 equal hashes, -1 equal pixels only.
        mirrored: mirror images are copies.
    """

    distance: int = 4
    mirrored: bool = True


def decide_all(curation: Curation, rules: Sequence[Rule], duplicates: DuplicateOptions) -> None:
    """Judge every row by all that was found so far, and write the verdicts."""
    excluded = frozenset(name for name, source in curation.sources.items() if source.exclude)
    copies = _copies(curation, rules, duplicates, excluded)
    grouped = by_stage([ExclusionRule(excluded), *rules, CopyRule(copies)])
    for shard in curation.shards:
        name = PieceName(FOLDER, shard, 0)
        decisions = [(row.id, decide(row, grouped)) for row in curation.rows(shard)]
        data = b"".join(line_bytes({"id": id, **_short(d)}) for id, d in decisions)
        if not _is_written(curation, name, data):
            atomic_write_bytes(name.path(curation.folder, LINES), data)
            codes = Counter(_SEPARATOR.join((d.reached, d.verdict, d.reason)) for _, d in decisions)
            write_manifest(curation.folder, name, len(decisions), codes, 0)


def read_decisions(curation: Curation, shard: int) -> dict[str, Decision]:
    """Verdicts on the rows of a shard, by id."""
    lines = read_lines(curation.folder, PieceName(FOLDER, shard, 0))
    return {line.pop("id"): Decision(**{k: _tuples(v) for k, v in line.items()}) for line in lines}


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _short(decision: Decision) -> dict[str, Any]:
    """The fields that say something."""
    return {k: v for k, v in vars(decision).items() if k == "verdict" or v not in ("", None, ())}


def _is_written(curation: Curation, name: PieceName, data: bytes) -> bool:
    try:
        digests = read_manifest(curation.folder, name).digests
        lines = name.path(curation.folder, LINES)
        return (
            digests
            == {lines.name: hashlib.sha256(data).hexdigest()}
            == {lines.name: hashlib.sha256(lines.read_bytes()).hexdigest()}
        )
    except Exception:  # missing or damaged: written again
        return False


def _copies(
    curation: Curation,
    rules: Sequence[Rule],
    options: DuplicateOptions,
    excluded: frozenset[str],
) -> Mapping[str, Copy]:
    """Copies among the pictures that nothing else drops, and of those of excluded sources."""
    if "images" not in curation.stages:
        return {}
    hashed = list(_hashed(curation, by_stage(rules), excluded))
    return find_copies(hashed, options.distance, options.mirrored)


def _hashed(
    curation: Curation, rules: Mapping[str, Sequence[Rule]], excluded: frozenset[str]
) -> Iterator[Hashed]:
    first = Curation(curation.folder, curation.sources, ("images",))
    for shard in curation.shards:
        for row in first.rows(shard):
            found = row.found.get("images")
            if found is None or found.failure is not None:
                continue
            values = found.values
            hashes = (int(values[name], 16) for name in ("phash", "phash_mirrored"))
            if row.origin.source in excluded:
                yield Hashed(row.id, _FIRST, values["pixels"], *hashes)
            elif decide(row, rules).verdict == KEEP:
                area = values["width"] * values["height"]
                yield Hashed(row.id, area, values["pixels"], *hashes)


@dataclass(frozen=True)
class StageTotals:
    """What became of the rows a stage looked at. `reasons`: of those dropped or failed."""

    stage: str
    seen: int
    kept: int
    dropped: int
    failed: int
    reasons: Mapping[str, int]


def totals(curation: Curation, stages: Iterable[str]) -> list[StageTotals]:
    """Survival by stage, from the manifests of the verdicts."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for shard in curation.shards:
        manifest = read_manifest(curation.folder, PieceName(FOLDER, shard, 0))
        for code, number in manifest.codes.items():
            reached, verdict, reason = code.split(_SEPARATOR, 2)
            counts[reached, verdict, reason] += number
    names, result = list(stages), []
    for at, stage in enumerate(names):
        beyond = {k: n for k, n in counts.items() if k[0] in names[at:]}
        here = {k: n for k, n in beyond.items() if k[0] == stage}
        dropped, failed = (
            sum(n for k, n in here.items() if k[1] == verdict) for verdict in (DROP, FAILED)
        )
        reasons = sorted(
            ((k[2], n) for k, n in here.items() if k[1] != KEEP), key=lambda r: (-r[1], r[0])
        )
        seen = sum(beyond.values())
        kept = seen - dropped - failed
        result.append(StageTotals(stage, seen, kept, dropped, failed, dict(reasons)))
    return result
