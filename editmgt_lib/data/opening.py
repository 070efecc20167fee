"""Data sets by name, and the `[data]` table of a training run."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..checks import require_choice, require_number
from ..errors import InputError
from ..models.vq import VQModel
from ..text.encoders import TextEncoders
from .cached import SPLITS, CachedSource
from .crops import VERSION
from .encoding import Encoder, EncodingOptions, text_of
from .fingerprints import tokenizer_fingerprint
from .folders import LISTS, ListReader, open_folder
from .hub_parquet import HubReader
from .index import read_index
from .live import LiveSource
from .mixed import Mixed
from .parquet import ParquetReader, find_parquet
from .rows import Reader
from .source import TokenSource
from .toyworld import TASKS, ToyWorldReader, ToyWorldSource

KINDS = ("cache", "folder", "parquet", "toyworld")
HUB, TOYWORLD = "hf:", "toyworld:"


@dataclass(frozen=True)
class SourceOptions:
    """One source of training samples, as in the `[data]` table. Raises InputError.

    Attributes:
        kind: "cache" (made by `editmgt cache`), "folder" (a list or captions), "parquet" or
            "toyworld". Folders and parquet files are encoded as they are needed.
        path: of the cache, folder, list or file; a relative one starts at the table's file.
        task: of "toyworld": "edit", "generate", "spare" or "bystander".
        weight: above 0, beside other sources.
        held_out: fraction of rows kept for validation.
        crops, aspect, max_skipped: of live encoding; see `EncodingOptions` and `CacheOptions`.
    """

    kind: str
    path: str = ""
    task: str = "edit"
    weight: float = 1.0
    held_out: float = 0.0
    crops: int = 1
    aspect: float = 0.05
    max_skipped: float = 0.05

    def __post_init__(self) -> None:
        require_choice("data.kind", self.kind, KINDS)
        require_choice("data.task", self.task, TASKS)
        require_number("data.weight", self.weight, 1e-9)
        require_number("data.held_out", self.held_out, 0, 1)
        require_number("data.max_skipped", self.max_skipped, 0, 1)
        if (self.kind == "toyworld") == bool(self.path):
            raise InputError(
                f"data.path is {self.path!r}; "
                + ("leave it out, toyworld is drawn" if self.path else f"name the {self.kind}")
            )

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "SourceOptions":
        """Read a table. InputError naming a key that is unknown or missing."""
        known = [f.name for f in fields(cls)]
        if unknown := [key for key in table if key not in known]:
            raise InputError(f"data.{unknown[0]} is unknown; use {', '.join(known)}")
        if "kind" not in table:
            raise InputError(f"data.kind is missing; use one of {', '.join(KINDS)}")
        return cls(**table)


def open_source(
    data: Mapping[str, Any],
    *,
    vq: VQModel,
    size: int,
    seed: int,
    encoders: TextEncoders | None = None,
    group: int = 1,
    split: str = "train",
    root: Path = Path(),
) -> TokenSource:
    """Open what a `[data]` table describes: one source, or several in `[[data.sources]]`.

    Args:
        vq: the tokenizer that made, or makes, the ids.
        size: picture side in pixels.
        encoders: for the pooled text of live sources, and to check that of caches.
        group: the global batch size, of which each batch comes from one source.
        split: "train" or "held-out".
        root: where relative paths start.

    Raises:
        InputError: naming the key, its value and the fix; CheckpointError.
    """
    require_choice("split", split, SPLITS[:2])
    tables = data.get("sources", [data])
    if "sources" in data and len(data) > 1:
        extra = next(key for key in data if key != "sources")
        raise InputError(f"data.{extra} stands beside data.sources; move it into one of these")
    if not isinstance(tables, (list, tuple)) or not tables:
        raise InputError(f"data.sources is {tables!r}; give one [[data.sources]] table per source")
    options = [SourceOptions.of(table) for table in tables]
    sources = [_open(o, vq, size, seed, encoders, split, root) for o in options]
    if len(sources) == 1:
        return sources[0]
    return Mixed(sources, [o.weight for o in options], seed, group)


def require_data(table: Mapping[str, Any], root: Path = Path()) -> None:
    """Look for a source without encoding. InputError unless it is there and of its kind."""
    o = SourceOptions.of(table)
    if o.kind == "cache":
        read_index(_path(o, root))
    elif o.kind != "toyworld":
        _reader(o, _path(o, root))


def _path(o: SourceOptions, root: Path) -> Path:
    path = root / Path(o.path).expanduser()
    if not path.exists():
        raise InputError(
            f"data.path is {path}, which does not exist; name the {o.kind} there, or with "
            "--set data.path=PATH"
        )
    return path


def _reader(o: SourceOptions, path: Path) -> Reader:
    reader = open_reader(str(path))
    if (o.kind == "parquet") != isinstance(reader, ParquetReader):
        raise InputError(f"data.kind is {o.kind!r}, but {path} is another kind; use the other")
    return reader


def _open(
    o: SourceOptions, vq: VQModel, size: int, seed: int, encoders: TextEncoders | None,
    split: str, root: Path,
) -> TokenSource:  # fmt: skip
    if o.kind == "toyworld":
        return ToyWorldSource(vq, size, seed, o.task, heldout=split == "held-out")
    path = _path(o, root)
    if o.kind == "cache":
        wanted = {"transform": VERSION, "size": size, "tokenizer": tokenizer_fingerprint(vq)}
        source = CachedSource(path, seed, split, o.held_out, wanted)
        if encoders is not None and source.has_pooled:
            source.require({"text": text_of(encoders.pooled_text)})
        return source
    text = None if encoders is None else encoders.pooled_text
    encoder = Encoder(EncodingOptions(size, o.crops, aspect=o.aspect), vq, text)
    return LiveSource(_reader(o, path), encoder, seed, split, o.held_out, o.max_skipped)


def open_reader(
    name: str,
    *,
    files: str = "*",
    revision: str | None = None,
    size: int = 512,
    edits: bool = True,
    work: Path = Path(),
) -> Reader:
    """Open a data set by name.

    Args:
        name: a list (.jsonl, .csv), a parquet file, a folder of either or of captioned pictures,
            "hf:owner/name" for parquet files on the hub, "toyworld:N" for N drawn pairs, or
            "toyworld:N:TASK" for those of a task of `ToyWorldSource`.
        files: pattern that names of parquet files must match, relative to the folder.
        revision, edits, work: of the hub; see `HubReader`.
        size: of drawn pictures.

    Raises:
        InputError: no such data set; offline.
    """
    if name.startswith(HUB):
        return HubReader(name.removeprefix(HUB), revision, files, work, edits)
    if name.startswith(TOYWORLD):
        return ToyWorldReader(name.removeprefix(TOYWORLD), size, "edit" if edits else "generate")
    path = Path(name).expanduser()
    if path.is_dir():
        every = find_parquet(path)
        found = [p for p in every if p.relative_to(path).match(files)]
        if every and not found:
            raise InputError(
                f"none of the {len(every)} parquet files in {path} matches {files!r}; the first is "
                f"{every[0].relative_to(path).as_posix()}"
            )
        return ParquetReader(found, path) if found else open_folder(path)
    if not path.is_file():
        raise InputError(
            f"there is no data set {name}; name a list, a parquet file, a folder, hf:owner/name or "
            "toyworld:N"
        )
    if path.suffix.lower() == ".parquet":
        return ParquetReader([path], path.parent)
    if path.suffix.lower() in LISTS:
        return ListReader(path)
    raise InputError(f"{name} is no list or parquet file; name a .jsonl, .csv or .parquet")
