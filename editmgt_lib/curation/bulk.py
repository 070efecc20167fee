"""Bulk editing: stage `edits` alone, over a folder tree, a list or parquet files of any size.

Results are PNG files under the pictures' own names. What was done lies in shards beside them, in
the hidden folder `FOLDER`, as a curation's.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError
from ..files import atomic_path
from .assembly import Curation
from .engine import EngineOptions
from .given import GivenInstructions
from .naming import result_paths
from .publishing import publish
from .rows import Row, Stage
from .run import Progress, run_stage
from .sources import STAGE as LISTING
from .sources import SourceConfig
from .store import PICTURES, claim, claim_stage, pieces, remove_leftovers
from .verdicts import DuplicateOptions, StageTotals, decide_all, read_decisions, totals

FOLDER, RESULTS = ".editmgt", "results.jsonl"
SHARD_ROWS = 64


def edit_all(
    source: SourceConfig,
    instruction: str,
    stage: Stage,
    out: Path,
    engine: EngineOptions,
    *,
    show: Callable[[Progress], None],
    report: Callable[[str], None],
) -> StageTotals:
    """Edit every picture of a source into `out`; a second run does what is missing.

    Failures are rows of results.jsonl with their reason; those that may pass are tried again.

    Args:
        instruction: for rows that have none of their own.
        stage: named "edits".
        show, report: as of `curate`.

    Raises:
        InputError: `out` is of something else, of other settings, or within the source.
        CheckpointError: a file in it is damaged. Unavailable: an editor does not answer.
    """
    names = ("instructions", stage.name)
    curation = Curation(out / FOLDER, {source.name: source}, names)
    _claim(out, source)
    remove_leftovers(curation.folder)
    new = curation.list_new(engine.shard_rows)
    report(f"{new:,} new rows listed")
    paths = result_paths(curation)
    written = partial(_publish, curation, out, paths)
    for shard in curation.shards:
        written(shard)  # what a killed run had done
    try:
        _decide(curation)
        for one in (GivenInstructions(instruction), stage):
            claim_stage(curation.folder, one.name, one.settings)
            how = engine if one is stage else EngineOptions(workers=1)
            run_stage(curation, one, [], how, show, written)
            _decide(curation)
    finally:
        _decide(curation)
        _write_results(curation, out, paths)
    return totals(curation, (LISTING, *names))[-1]


def _claim(out: Path, source: SourceConfig) -> None:
    """Raise InputError unless `out` is empty or of an earlier run, and apart from the source."""
    if not any((out / FOLDER).glob("*")) and out.is_dir() and any(out.glob("[!.]*")):
        raise InputError(f"out is {out}, which holds other files; choose an empty folder")
    if Path(source.path).expanduser().is_dir() and out.resolve().is_relative_to(source.root):
        raise InputError(f"out is {out}, in the folder being edited; choose another folder")
    claim(out / FOLDER)


def _decide(curation: Curation) -> None:
    decide_all(curation, [], DuplicateOptions())


def _publish(curation: Curation, out: Path, paths: Mapping[str, PurePosixPath], shard: int) -> None:
    """Move results out of a shard's archives."""
    for name in pieces(curation.folder, "edits", shard):
        publish(name.path(curation.folder, PICTURES), out, paths)


def _write_results(curation: Curation, out: Path, paths: Mapping[str, PurePosixPath]) -> None:
    """One line for each row, in the order of the source."""
    with atomic_path(out / RESULTS) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for shard in curation.shards:
            decisions = read_decisions(curation, shard)
            for row in curation.rows(shard):
                line = _result(row, decisions[row.id], paths)
                file.write(json.dumps(line, ensure_ascii=True) + "\n")


def _result(row: Row, decision: Any, paths: Mapping[str, PurePosixPath]) -> dict[str, Any]:
    line = {"input": row.origin.key, "instruction": row.value("instructions.instruction", "")}
    if decision.verdict != "keep":
        return {**line, "failed": decision.reason, "detail": decision.measured}
    if "edits" not in row.found:
        return {**line, "waiting": True}
    kept = ("editor", "seed", "width", "height")
    return {**line, "output": str(paths[row.id]), **{k: row.value(f"edits.{k}") for k in kept}}
