"""`editmgt export`: select, write, describe, and say at last what there is."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ...checks import require_choice, require_number
from ...data.parquet import pyarrow_parquet
from ...errors import CheckpointError, InputError
from ...files import atomic_write_bytes, atomic_write_json, file_digest
from ..assembly import Curation
from ..decide import Decision
from ..rows import KEEP, Row
from ..saved import saved_config
from ..store import read_json
from ..terms import USES
from ..verdicts import decide_all, read_decisions
from .browser import rows_page
from .card import card
from .columns import NEGATIVES, PAIRS, PREFERENCES
from .readme import readme
from .selection import (
    Pair,
    pair_of,
    preference_of,
    reversed_pair,
    why_no_negative,
    why_no_preference,
    why_not,
)
from .shards import DATA, File, ShardWriter, read_files
from .sheet import contact_sheet, spread
from .survey import Survey

FORMAT = 1
HEADER, MANIFEST, CARD, README = "export.json", "manifest.json", "card.json", "README.md"
SHEET, PAGE = "sheet.png", "rows.html"
NEEDED = "edits"
_SHEET_PAIRS = 24


@dataclass(frozen=True)
class ExportOptions:
    """What is exported. Raises InputError.

    Attributes:
        allow: what the terms of both picture and edit must allow; see `terms.USES`.
        reverse: also swap the pictures of removals and additions.
        negatives: export failed edits instead, with `rejected_img` in place of `output_img`.
        preferences: only pairs with an edit that their judge liked less, as `rejected_img`.
        megabytes: of a parquet file, about.
        samples: rows of each verdict, reason and category on the page.
    """

    allow: tuple[str, ...] = ("publish", "train")
    reverse: bool = False
    negatives: bool = False
    preferences: bool = False
    megabytes: int = 500
    samples: int = 12

    def __post_init__(self) -> None:
        for use in self.allow:
            require_choice("allow", use, USES)
        require_number("megabytes", self.megabytes, 1, 1900, whole=True)
        require_number("samples", self.samples, 0, 1000, whole=True)
        if self.negatives and self.preferences:
            raise InputError("negatives are given with preferences; export each to its own folder")
        if self.reverse and self.kind != PAIRS:
            raise InputError(f"reverse is given with {self.kind}; a worse edit has no way back")

    @property
    def kind(self) -> str:
        """Of rows, as `columns` takes it."""
        return NEGATIVES if self.negatives else PREFERENCES if self.preferences else PAIRS


@dataclass(frozen=True)
class Exported:
    """What was written. card: as in card.json."""

    files: tuple[File, ...]
    card: dict[str, Any]


def export(
    curated: Path,
    out: Path,
    options: ExportOptions | None = None,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Bring the folder `out` to what a curation holds now; a second run writes what is missing.

    Rows are judged anew by the thresholds and the removal list that `curated` was last run with.
    show: told of shards done, and of how many.
    Raises InputError: no edits yet, `out` is something else or was made with other options.
    """
    pyarrow_parquet()
    options = options or ExportOptions()
    config, stages = saved_config(curated)
    if NEEDED not in stages:
        raise InputError(
            f"{curated} holds no pairs: the stage {NEEDED} is not configured; name editors, run "
            "`editmgt curate` again, then export"
        )
    curation = Curation(curated, {source.name: source for source in config.sources}, stages)
    earlier = _claim(out, options)
    alike = config.instructions.most_alike
    decide_all(curation, config.rules(), config.duplicates, alike)
    survey = Survey(options.samples)
    writer = ShardWriter(out, options.megabytes * 1_000_000, options.kind, earlier)
    shards = curation.shards
    for shard in shards:
        decisions = read_decisions(curation, shard)
        for row in curation.rows(shard):
            for pair in _pairs(row, decisions[row.id], stages[-1], options, survey):
                writer.add(pair)
                survey.take(pair)
        show(shard + 1, len(shards))
    writer.close()
    found = card(survey, config, stages, options)
    _describe(out, found, survey, stages[-1], options)
    _write_manifest(out, writer.files, found, options)
    return Exported(tuple(writer.files), found)


def _pairs(
    row: Row, decision: Decision, last: str, options: ExportOptions, survey: Survey
) -> list[Pair]:
    """What a row becomes, and the count of it."""
    survey.see(row, decision)
    if (decision.verdict == KEEP) == options.negatives:
        return []
    if reason := _why_not(row, decision, last, options):
        survey.left_out[reason] += 1
        return []
    pair = _pair(row, decision, options)
    back = reversed_pair(pair) if options.reverse else None
    return [pair, *([back] if back else [])]


def _why_not(row: Row, decision: Decision, last: str, options: ExportOptions) -> str:
    if options.negatives:
        return why_no_negative(row, decision, options.allow)
    judge = why_no_preference if options.preferences else why_not
    return judge(row, decision, last, options.allow)


def _pair(row: Row, decision: Decision, options: ExportOptions) -> Pair:
    pair = pair_of(row, decision)
    return preference_of(pair) if options.preferences else pair


def _claim(out: Path, options: ExportOptions) -> dict[str, File]:
    """Begin an export or go on with one; gives the files that its manifest, if any, lists."""
    header = out / HEADER
    wanted = {"format": FORMAT, "options": _made_with(options)}
    if header.is_file():
        if (present := read_json(header)) != wanted:
            raise InputError(
                f"{out} holds an export with {present.get('options')}, not {wanted['options']}; "
                "choose another --out, or remove that folder"
            )
    elif out.is_dir() and any(out.glob("[!.]*")):
        raise InputError(f"{out} is not empty and holds no export; choose another --out")
    atomic_write_json(header, wanted)
    for path in [*out.glob(".*.tmp*"), *(out / DATA).glob(".*.tmp*")]:  # of a killed run
        path.unlink(missing_ok=True)
    manifest, files = out / MANIFEST, {}
    if manifest.is_file():
        with suppress(CheckpointError, InputError):  # damaged: every file is judged by itself
            files = read_files(read_json(manifest))
        manifest.unlink()  # until what it lists is there again
    return files


def _made_with(options: ExportOptions) -> dict[str, Any]:
    """Options that decide about rows; the page may be made again with another size."""
    values = asdict(options)
    values.pop("samples")
    return {**values, "allow": sorted(options.allow)}


def _describe(
    out: Path, found: dict[str, Any], survey: Survey, last: str, options: ExportOptions
) -> None:
    """Write the card, the contact sheet and the page."""
    sampled, name = survey.sampled(), out.resolve().name
    pairs = [
        pair_of(row, decision)
        for row, decision in sampled
        if (decision.verdict == KEEP) != options.negatives
        and not _why_not(row, decision, last, options)
    ]
    atomic_write_json(out / CARD, found)
    atomic_write_bytes(out / README, readme(found, name).encode())
    atomic_write_bytes(out / SHEET, contact_sheet(spread(pairs, _SHEET_PAIRS)))
    title = f"{name}: rows of a curation"
    atomic_write_bytes(out / PAGE, rows_page(title, found, sampled).encode())


def _write_manifest(
    out: Path, files: list[File], found: dict[str, Any], options: ExportOptions
) -> None:
    manifest = {
        "format": FORMAT,
        "version": __version__,
        "options": _made_with(options),
        "rows": found["rows"]["exported"] + found["rows"]["reversed"],
        "categories": found["categories"],
        "left_out": found["left_out"],
        "files": [asdict(file) for file in files],
        "others": {name: file_digest(out / name) for name in (CARD, README, SHEET, PAGE)},
    }
    atomic_write_json(out / MANIFEST, manifest)
