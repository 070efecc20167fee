"""`python -m benchmarks.gpu --out FILE.jsonl`: all there is to know of a card, in eight minutes.

Each row is a line of JSON, written as soon as it is measured; the most valuable come first, and
every part has a limit, so that a cut leaves results. Run again with the same file, it goes on after
the last part, in the time left: `gpu.sh` does so after a part that was cut or lost the device.
"""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch

from . import records
from .cases import CASES
from .gpu_parts import PARTS, Part
from .gpu_session import Session, told

BUDGET = 480.0  # seconds the limits of the parts are made for
GO_ON = 3  # exit status: the device may be lost, or an import was cut; a new process is to go on


class TimeIsUp(BaseException):
    """Raised wherever a part is when its time is up; no error, so that no row takes it for one."""


class Journal:
    """The file of rows, and what it holds of earlier processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = records.read_lines(path)
        if not self.rows:
            self.write(event="began", epoch=time.time())

    @property
    def began(self) -> float:
        """When the first process started, in seconds since the epoch."""
        return self.rows[0]["epoch"]

    @property
    def tried(self) -> set[str]:
        """Parts that were started."""
        return {row["part"] for row in self.rows if row.get("event") == "part"}

    def write(self, **row: Any) -> None:
        """Append a row; it is on disk when this returns."""
        self.rows.append(row)
        records.add_line(self._path, row)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp in the block after `seconds`; a running kernel ends first."""

    def end(signal_number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(session: Session, parts: Mapping[str, Part], journal: Journal, seconds: float) -> int:
    """Measure the parts that were not tried yet; returns the exit status."""
    for name, part in parts.items():
        if name in journal.tried:
            continue
        left = journal.began + seconds - time.time()
        limit = min(left, part.seconds * seconds / BUDGET)
        if limit <= 0:
            journal.write(part=name, name=name, missing="no time was left")
            continue
        journal.write(event="part", part=name)
        start = time.perf_counter()
        whole = _measure(session, name, part, journal, limit)
        journal.write(event="took", part=name, seconds=time.perf_counter() - start)
        if not whole or not _works(session.device):
            return GO_ON
    return 0


def _measure(session: Session, name: str, part: Part, journal: Journal, limit: float) -> bool:
    """Write a part's rows; returns False if it was cut."""
    try:
        with time_limit(limit):
            for row in part.measure(session):
                journal.write(part=name, **row)
                print(f"{name}: {summary(row)}", flush=True)
        return True
    except TimeIsUp:
        journal.write(part=name, name=name, missing=f"cut after {limit:.0f} s")
        print(f"{name}: cut after {limit:.0f} s", flush=True)
        return False
    except Exception as error:
        traceback.print_exc()
        journal.write(part=name, name=name, missing=told(error))
        print(f"{name}: {told(error)}", flush=True)
        session.free()  # whatever was being changed is half done
        return True


def summary(row: Mapping[str, Any]) -> str:
    """One line for a person who watches."""
    sides = {side: row[side] for side in ("ours", "official") if side in row}
    told_ = [f"{k} {v.get('median', v.get('missing'))}" for k, v in sides.items()]
    plain = [f"{k} {row[k]}" for k in ("seconds", "missing", "counts", "limits") if k in row]
    return ", ".join([str(row["name"]), *told_, *plain])


def _works(device: str) -> bool:
    """Whether the device still computes: after some errors no call of this process does."""
    try:
        return torch.ones(1, device=device).sum().item() == 1
    except RuntimeError:
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    p.add_argument("--out", type=Path, required=True, help="JSON lines; run again to go on")
    p.add_argument("--config", choices=CASES, default="published")
    p.add_argument("--seconds", type=float, default=BUDGET, help="for everything")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--parts", default=",".join(PARTS), help=f"comma list of {', '.join(PARTS)}")
    p.add_argument("--quick", action="store_true", help="fewest steps and rounds: a trial")
    p.add_argument("--official", type=Path, help="checkout of the official code")
    p.add_argument("--official-python", default=sys.executable)
    p.add_argument("--work", type=Path, help="folder that keeps the random checkpoint")
    given = p.parse_args(arguments)
    names = [name.strip() for name in given.parts.split(",")]
    if wrong := [name for name in names if name not in PARTS]:
        raise SystemExit(f"{', '.join(wrong)}: use {', '.join(PARTS)}")
    torch.set_grad_enabled(False)
    with TemporaryDirectory() as temporary:
        session = Session(
            CASES[given.config](), given.work or Path(temporary), given.device, given.quick,
            given.official and given.official.resolve(), given.official_python,
        )  # fmt: skip
        parts, journal = {name: PARTS[name] for name in names}, Journal(given.out)
        session.limits |= {r["precision"]: r["limits"] for r in journal.rows if "limits" in r}
        return run(session, parts, journal, given.seconds)


if __name__ == "__main__":
    sys.exit(main())
