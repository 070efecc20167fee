"""One readable TOML file per run: which networks, which samples, which stages in which order.

Every table is a frozen dataclass. A key that none has is an error, since a misspelt option would
otherwise be an option left at its default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..checks import require_choice, require_number
from ..data.opening import SourceOptions
from ..errors import InputError
from ..models.config import TransformerConfig
from ..models.vq import VQConfig
from ..settings import Settings
from ..tables import build, read_toml, refuse_unknown, set_value, without_none
from .objective import ObjectiveOptions
from .optimizers import OptimizerOptions
from .options import EngineOptions, LoopOptions, LoraOptions
from .validation import ValidationOptions

KINDS = ("text", "tokenizer", "text-to-image", "edit", "decoder")
GENERATION = ("text-to-image", "edit")
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class StageConfig:
    """One stage of a run.

    Attributes:
        kind: what is trained, out of `KINDS`.
        loop: steps, batch and optimizer. In the file, its keys stand beside `kind`.
        name: of its folder; the kind by default.
        objective: of text to image and edits. validation: likewise; None for none.
        data: where samples come from, if not from the run's `data`; see `data.opening`.
        lora: train an adapter.
        continuous: of the tokenizer: steps before the codebook is used.
    """

    kind: str
    loop: LoopOptions
    name: str = ""
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    validation: ValidationOptions | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    lora: LoraOptions | None = None
    continuous: int = 0

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, KINDS)
        require_number("continuous", self.continuous, 0, whole=True)
        object.__setattr__(self, "name", self.name or self.kind)
        if Path(self.name).name != self.name or self.name == "checkpoint":
            raise InputError(f"name is {self.name!r}; use a plain word other than 'checkpoint'")


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        stages: trained in this order; each starts from the results of those before.
        size: picture side in pixels. text_length: text rows.
        seed: of initial weights, samples and masks.
        start: checkpoint that gives the networks no earlier stage trains; empty: none. Stage 1
            starts from the base model, Meissonic.
        language_model: folder of Gemma, as a checkpoint's `llm_encoder/`, which the base model
            lacks.
        tokenizer, transformer: sizes of networks trained from scratch.
        data: where samples of text to image and edits come from; see `data.opening`.
        engine: how it is computed.
        settings: defaults of the checkpoint; None: those of `start`.
    """

    stages: tuple[StageConfig, ...]
    size: int = 1024
    text_length: int = 256
    seed: int = 0
    start: str = ""
    language_model: str = ""
    tokenizer: VQConfig | None = None
    transformer: TransformerConfig | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    engine: EngineOptions = field(default_factory=EngineOptions)
    settings: Settings | None = None

    def __post_init__(self) -> None:
        require_number("size", self.size, 8, whole=True)
        require_number("text_length", self.text_length, 2, whole=True)
        require_number("seed", self.seed, 0, whole=True)
        names = [stage.name for stage in self.stages]
        if not names:
            raise InputError("the run has no stages; add a [[stages]] table")
        for stage in self.stages:
            if stage.kind in GENERATION:
                sources_of(self, stage)
            if self.engine.parallel == "fsdp" and stage.objective.reference_dropout:
                raise InputError(
                    f"stage {stage.name!r} has reference_dropout, with which processes run the "
                    "network a different number of times; use engine.parallel 'ddp', or 0"
                )
        if double := [n for n in names if names.count(n) > 1]:
            raise InputError(f"two stages are called {double[0]!r}; give one a `name`")


def sources_of(config: RunConfig, stage: StageConfig) -> list[dict[str, Any]]:
    """Tables of a stage's sources; ToyWorld's draw what the stage trains unless they say otherwise.

    Raises InputError for a table that is missing or wrong.
    """
    data = stage.data or config.data
    if not data:
        raise InputError(f"stage {stage.name!r} has no data; add a [data] table to the run")
    usual = {"task": "edit" if stage.kind == "edit" else "generate"}
    tables = [
        {**(usual if table.get("kind") == "toyworld" else {}), **table}
        for table in data.get("sources", [data])
    ]
    for table in tables:
        SourceOptions.of(table)
    return tables


# --- reading ---


def load_config(source: str | Path, changes: Sequence[str] = ()) -> RunConfig:
    """Read a TOML file, or a recipe by its name.

    changes: "key=value" each, with a stage's name before its keys: "edit.learning_rate=1e-4".

    Raises InputError naming the file and key of anything wrong.
    """
    path = Path(source)
    if path.suffix != ".toml":
        if str(source) not in recipe_names():
            what = "is not a .toml file" if path.is_file() else "is neither a file nor a recipe"
            raise InputError(
                f"{source} {what}; give a .toml file, or one of {', '.join(recipe_names())}"
            )
        path = RECIPES / f"{source}.toml"
    table = read_toml(path)
    _anchor(table, path.parent)
    for change in changes:
        set_value(table, change, ("stages",))
    return config_from(table, str(path))


def _anchor(table: Any, folder: Path) -> None:
    """Let relative paths of data start at the run's file."""
    if isinstance(table, dict):
        for key, value in table.items():
            if key == "path" and isinstance(value, str) and not value.startswith("~"):
                table[key] = str(folder.absolute() / value)
            _anchor(value, folder)
    elif isinstance(table, list):
        for entry in table:
            _anchor(entry, folder)


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with the library."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def config_from(table: Mapping[str, Any], where: str = "the run") -> RunConfig:
    """Check a table as read from TOML."""
    table = dict(table)
    stages = table.pop("stages", [])
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise InputError(f"{where}: stages is not a list of tables; write [[stages]]")
    read = tuple(
        _stage_from(s, f"{where}: stages.{s.get('name') or s.get('kind') or i}")
        for i, s in enumerate(stages)
    )
    return build(RunConfig, table, where, {"stages": read})


def _stage_from(table: Mapping[str, Any], where: str) -> StageConfig:
    """A stage's keys, its loop's and its optimizer's stand side by side."""
    kinds = (StageConfig, LoopOptions, OptimizerOptions)
    own, loop, optimizer = ({f.name for f in fields(kind)} for kind in kinds)
    known = (own | loop | optimizer) - {"loop", "optimizer"}
    refuse_unknown(table, known, where)
    parts = [{k: v for k, v in table.items() if k in names} for names in (own, loop, optimizer)]
    made = build(OptimizerOptions, parts[2], where, {})
    made = build(LoopOptions, parts[1], where, {"optimizer": made})
    return build(StageConfig, parts[0], where, {"loop": made})


# --- writing ---


def config_table(config: RunConfig) -> dict[str, Any]:
    """The run as `config_from` reads it, every default written out."""
    table = without_none(asdict(config))
    for stage in table["stages"]:
        loop = stage.pop("loop")
        optimizer = loop.pop("optimizer")
        stage |= loop | optimizer
    return table
