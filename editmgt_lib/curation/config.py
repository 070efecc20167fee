"""One readable TOML file per curation: where pictures come from, and what is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checks import require_choice
from ..errors import InputError
from ..tables import build, read_toml, refuse_unknown, set_value
from . import edits, images, instructions, quality, scoring
from .decide import LicenceRule, RemovalRule, Rule, parse_limits
from .edits import EditOptions
from .engine import EngineOptions
from .instructions import InstructionOptions
from .quality import QualityOptions
from .sources import TOYWORLD, SourceConfig
from .spending import BudgetOptions
from .terms import USES
from .verdicts import DuplicateOptions

PRESETS = Path(__file__).parent / "presets"
DEFAULT = "default"
VALUES: Mapping[str, tuple[str, ...]] = {
    "images": images.VALUES, "scores": scoring.VALUES, "instructions": instructions.VALUES,
    "edits": edits.VALUES, "quality": quality.VALUES,
}  # fmt: skip
"""By stage, the values a threshold may be set for."""


@dataclass(frozen=True)
class CurationConfig:
    """A whole curation.

    Attributes:
        sources: in the order of their rows.
        uses: what the terms of every kept row must allow, out of `terms.USES`.
        removed: a text file with a SHA-256 a line, of files or pixels that must go.
        keep: thresholds by stage and value, see `decide.Limit`. They may change at any time.
        duplicates, engine, budget: likewise.
        scorers, writers, editors, judges: back ends by name. Without scorers, writers or editors
            there is no stage `scores`, `instructions` or `edits`; `quality` follows `edits`.
        instructions, edits, quality: options of these stages.
        preset: names in `presets` that this file changes; `keep` is merged.
    """

    sources: tuple[SourceConfig, ...]
    keep: Mapping[str, Mapping[str, str]]
    uses: tuple[str, ...] = ()
    removed: str = ""
    duplicates: DuplicateOptions = field(default_factory=DuplicateOptions)
    scorers: Mapping[str, Any] = field(default_factory=dict)
    writers: Mapping[str, Any] = field(default_factory=dict)
    editors: Mapping[str, Any] = field(default_factory=dict)
    judges: Mapping[str, Any] = field(default_factory=dict)
    instructions: InstructionOptions = field(default_factory=InstructionOptions)
    edits: EditOptions = field(default_factory=EditOptions)
    quality: QualityOptions = field(default_factory=QualityOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    preset: str = DEFAULT

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("there is no source; add a [[sources]] table")
        names = [source.name for source in self.sources]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"two sources are called {min(twice)!r}; give each a name of its own")
        for use in self.uses:
            require_choice("uses", use, USES)
        for stage, table in self.keep.items():
            require_choice("keep", stage, tuple(VALUES))
            if not isinstance(table, Mapping):
                raise InputError(f"keep.{stage} is {table!r}; write a table")
            refuse_unknown(table, VALUES[stage], f"keep.{stage}")
            for name, text in table.items():
                if not isinstance(text, str):
                    raise InputError(f"keep.{stage}.{name} is {text!r}; write text, as '>= 1024'")
        if self.editors and not self.writers:
            raise InputError("nobody writes instructions for the editors; add a [writers.NAME]")
        list(parse_limits(self.keep))  # refuse a bad one before hours of work

    def rules(self) -> list[Rule]:
        """What decides about rows, copies left out. Raises InputError."""
        rules: list[Rule] = [LicenceRule(self.uses)] if self.uses else []
        if self.uses and self.editors:
            rules.append(LicenceRule(self.uses, "edits"))
        if self.removed:
            rules.append(RemovalRule(read_digests(Path(self.removed))))
        limits = list(parse_limits(self.keep))
        if not self.scorers:
            # Without that stage, its limits only record what was not scored, or drop what must be.
            limits = [replace(x, after="images") if x.stage == "scores" else x for x in limits]
        present = {"instructions": self.writers, "edits": self.editors, "quality": self.editors}
        return [*rules, *(limit for limit in limits if present.get(limit.stage, True))]


def load_config(path: Path, changes: Sequence[str] = ()) -> CurationConfig:
    """Read a file. changes: "key=value" each, a source's name before its keys.

    Raises InputError naming the file and key of anything wrong.
    """
    table = read_toml(path)
    for change in changes:
        set_value(table, change, ("sources",))
    for entry in table.get("sources", []):
        if isinstance(entry, dict) and isinstance(entry.get("path"), str):
            entry["path"] = _anchored(entry["path"], path.parent)
    if isinstance(table.get("removed"), str):
        table["removed"] = _anchored(table["removed"], path.parent)
    return config_from(table, str(path))


def config_from(table: Mapping[str, Any], where: str = "the configuration") -> CurationConfig:
    """Check a table as read from TOML, on top of its preset."""
    name = table.get("preset", DEFAULT)
    require_choice("preset", name, preset_names())
    preset = read_toml(PRESETS / f"{name}.toml")
    base = read_toml(PRESETS / f"{DEFAULT}.toml")
    own_keep = table.get("keep", {})
    if not isinstance(own_keep, dict):
        raise InputError(f"{where}: keep is {own_keep!r}; write tables such as [keep.images]")
    keep = _merged(_merged(base["keep"], preset.get("keep", {})), own_keep)
    return built_config({**preset, **table, "keep": keep}, where)


def built_config(table: Mapping[str, Any], where: str) -> CurationConfig:
    """Check a table as it is, without a preset."""
    merged = dict(table)
    sources = merged.pop("sources", [])
    if not isinstance(sources, list) or not all(isinstance(s, dict) for s in sources):
        raise InputError(f"{where}: sources is no list of tables; write [[sources]]")
    made = tuple(
        build(SourceConfig, s, f"{where}: sources.{s.get('name', number)}", {})
        for number, s in enumerate(sources)
    )
    return build(CurationConfig, merged, where, {"sources": made})


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the library."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.toml")))


def read_digests(path: Path) -> frozenset[str]:
    """SHA-256 digests, one a line; what follows a # is a comment. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the removal list {path} ({error})") from error
    words = [word for line in lines if (word := line.partition("#")[0].strip().lower())]
    for word in words:
        if len(word) != 64 or set(word) - set("0123456789abcdef"):
            raise InputError(f"{path}: {word!r} is no SHA-256; write 64 hexadecimal digits a line")
    return frozenset(words)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of tables, the values of `changes` on top."""
    return {
        key: {**base.get(key, {}), **changes[key]}
        if isinstance(changes.get(key), Mapping)
        else changes.get(key, base.get(key))
        for key in [*base, *(key for key in changes if key not in base)]
    }


def _anchored(path: str, folder: Path) -> str:
    return path if path.startswith(("~", TOYWORLD)) else str(folder.absolute() / path)
