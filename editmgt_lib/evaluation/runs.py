"""The folder of a run: the only thing the stages share.

run.json               one section per stage, written by the first process: what made this run
run.lock               empty; locked by a process while it writes run.json
items.jsonl            one Item per line (prepare)
inputs/                pictures taken out of archives and tables, bytes unchanged
pictures/ID.png        results; maps/ID.png: relevance, 16-bit grey at picture size
generate-RANK.jsonl    one Attempt per line
scores-RANK.jsonl      one Score per line; so are scores-judge-RANK.jsonl and their like
done-RANK.jsonl        stages that a process has finished
baselines/NAME/        further runs over the same items, each with pictures and scores of its
sweep/NAME/            own: copy-input and round trip, and one per value of a sweep
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from ..data.processes import Process, this_process
from ..errors import InputError
from ..files import atomic_write_json
from .items import Item, Score
from .jsonl import append_lines, read_lines
from .manifest import differences, exclusive

IN_RUN = "run:"
PARTS = ("baselines", "sweep")
_WAIT = 1800.0  # seconds to wait for process 0 to prepare


@dataclass(frozen=True)
class Attempt:
    """What came of editing one item: status as of a score, and why it is not "ok".

    held: share of the tokens that followed the source, if the editor says.
    """

    item: str
    status: str
    seed: int | None = None
    seconds: float | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    held: float | None = None


class RunFolder:
    """A run on disk; see the module. Any number of processes may use one, each with its rank.

    Attributes:
        path: of the folder. root: the run whose items this one shares, often itself.
        process: rank and world of this process; its files carry the rank.
    """

    def __init__(
        self, path: str | Path, data: str | Path | None = None, process: Process | None = None
    ) -> None:
        """Open a folder, which need not exist yet.

        data: folder of the data set; None is where `prepare` found it.
        """
        self.path, self.process = Path(path), process or this_process()
        self._data = None if data is None else Path(data)
        above = self.path.parent.parent
        shares = self.path.parent.name in PARTS and (above / "items.jsonl").exists()
        self.root = RunFolder(above, data, self.process) if shares else self
        self._items: tuple[Item, ...] | None = None

    def __repr__(self) -> str:
        return f"RunFolder({self.path}, process {self.process.rank} of {self.process.world})"

    # ---- items and their pictures

    def items(self) -> tuple[Item, ...]:
        """All items in order. Raises InputError if the run is not prepared."""
        if self.root is not self:
            return self.root.items()
        if self._items is None:
            rows = read_lines(self.path / "items.jsonl")
            if not rows or "prepare" not in self.manifest:
                raise InputError(
                    f"{self.path} holds no prepared run; name the folder of one, or run the stage "
                    "prepare first"
                )
            self._items = tuple(Item.from_dict(row) for row in rows)
        return self._items

    def mine(self) -> tuple[Item, ...]:
        """The items of this process: every WORLD_SIZE-th one, chains of edits undivided."""
        chain_of: dict[str, int] = {}
        numbers = count()
        for item in self.items():
            known = chain_of.get(item.previous or "")
            chain_of[item.id] = next(numbers) if known is None else known
        rank, world = self.process.rank, self.process.world
        return tuple(item for item in self.items() if chain_of[item.id] % world == rank)

    def final_items(self) -> tuple[Item, ...]:
        """The items to score: those whose result no other item edits further."""
        inner = {item.previous for item in self.items()}
        return tuple(item for item in self.items() if item.id not in inner)

    def locate(self, name: str) -> Path:
        """The real path of what `Item.source` and its like hold."""
        if name.startswith(IN_RUN):
            return self.root.path / name.removeprefix(IN_RUN)
        data = self.root._data or self.root.manifest.get("prepare", {}).get("data")
        if data is None:
            raise InputError(f"{self.root.path} does not know where {name} is; name the data")
        return Path(data) / name

    def source(self, item: Item) -> Path:
        """The picture that was edited: that of the data, or in a chain the result before."""
        return self.locate(item.source) if item.previous is None else self.picture(item.previous)

    def picture(self, item: Item | str) -> Path:
        """Where the result is, or would be."""
        return self.path / "pictures" / f"{_id(item)}.png"

    def map(self, item: Item | str) -> Path:
        """Where the relevance map is; many editors give none."""
        return self.path / "maps" / f"{_id(item)}.png"

    # ---- rows

    def append(self, kind: str, rows: Iterable[Any]) -> None:
        """Append rows (mappings, scores, attempts) to this process's file KIND-RANK.jsonl."""
        path = self.path / f"{kind}-{self.process.rank}.jsonl"
        append_lines(path, map(_plain, rows))

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """All rows of all processes' files KIND-RANK.jsonl."""
        name = re.compile(rf"{re.escape(kind)}-(\d+)\.jsonl")
        found = [(name.fullmatch(path.name), path) for path in self.path.glob(f"{kind}-*.jsonl")]
        files = sorted((int(match[1]), path) for match, path in found if match)
        return [row for _, path in files for row in read_lines(path)]

    def attempts(self) -> dict[str, Attempt]:
        """What came of editing, by item id; later lines win, and a success over a failure."""
        known = [Attempt(**{**row, "notes": tuple(row["notes"])}) for row in self.rows("generate")]
        return _latest((attempt.item, attempt) for attempt in known)

    def scores(self) -> dict[tuple[str, str], Score]:
        """All scores, also of judges, by item id and metric; later lines win, as in `attempts`."""
        kinds = {path.stem.rpartition("-")[0] for path in self.path.glob("scores-*.jsonl")}
        names = [field.name for field in fields(Score)]
        rows = (row for kind in sorted(kinds) for row in self.rows(kind))
        known = (Score(**{name: row[name] for name in names if name in row}) for row in rows)
        return _latest(((score.item, score.metric), score) for score in known)

    # ---- what made the run

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of run.json, by section; {} before the first stage."""
        try:
            return json.loads((self.path / "run.json").read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {self.path / 'run.json'}: {error}") from error

    def claim(self, section: str, values: Mapping[str, Any], free: Sequence[str] = ()) -> None:
        """State what a stage works with, or check that it is what the run began with.

        values: plain data. free: names that may change from call to call, such as the data's place;
            the last call's values are kept.
        Raises InputError naming everything that differs.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path / "run.lock"):
            content = self.manifest
            stated = content.get(section, values)
            rest = [{k: v for k, v in side.items() if k not in free} for side in (stated, values)]
            if found := differences(*rest):
                raise InputError(
                    f"{self.path} was made with other values: {'; '.join(found)}; "
                    "use the same ones, or another folder"
                )
            if content.get(section) != (stated := {**stated, **values}):
                atomic_write_json(self.path / "run.json", content | {section: stated})

    def wait_for(self, section: str, seconds: float = _WAIT) -> None:
        """Wait until another process has written a section of run.json."""
        until = monotonic() + seconds
        while section not in self.manifest:
            if monotonic() > until:
                raise InputError(f"process 0 did not finish {section}; start it (RANK=0) too")
            sleep(0.2)

    def finish(self, stage: str) -> None:
        """Record that this process is done with a stage."""
        self.append("done", [{"stage": stage, "world": self.process.world}])

    def finished(self, stage: str) -> bool:
        """Whether all processes are done with a stage."""
        world = self.process.world
        wanted = {"stage": stage, "world": world}
        files = (self.path / f"done-{rank}.jsonl" for rank in range(world))
        return all(wanted in read_lines(file) for file in files)

    # ---- baselines and sweeps

    def part(self, kind: str, name: str) -> "RunFolder":
        """A run over the same items; kind is one of PARTS."""
        run = RunFolder(self.root.path / kind / name, self._data, self.process)
        run.root = self.root
        return run

    def parts(self, kind: str) -> dict[str, "RunFolder"]:
        """Those that have begun, by name; parts of one run know each other."""
        files = sorted((self.root.path / kind).glob("*/run.json"))
        return {file.parent.name: self.part(kind, file.parent.name) for file in files}


def _id(item: Item | str) -> str:
    return item if isinstance(item, str) else item.id


def _plain(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    return row.to_dict() if isinstance(row, Score) else asdict(row)


def _latest(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Later values win, but a success over a failure: ranks' files have no order among them."""
    latest: dict[Any, Any] = {}
    for key, value in pairs:
        if value.status == "ok" or key not in latest or latest[key].status != "ok":
            latest[key] = value
    return latest
