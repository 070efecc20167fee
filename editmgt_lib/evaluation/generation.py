"""Stage generate: items -> pictures/, maps/ and a line per item in generate-RANK.jsonl."""

import hashlib
from pathlib import Path
from time import perf_counter

from ..errors import Cancelled
from ..pictures.images import read_image
from .editors import Editor
from .items import Item
from .manifest import versions
from .pacing import MAX_FAILED, Pace, Progress
from .runs import Attempt, RunFolder

SEED_RULE = "sha256(run seed, item id); or run seed + the item's own seed_offset"


def seed_of(run_seed: int, item: Item) -> int:
    """The seed of one item: it depends on no other, and neither on rank nor order.

    `item.extra["seed_offset"]`, if there, counts from the run's seed, as ToyWorld always has.
    """
    if (offset := item.extra.get("seed_offset")) is not None:
        return (run_seed + offset) % 2**64
    digest = hashlib.sha256(f"{run_seed}:{item.id}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def generate(
    run: RunFolder,
    editor: Editor,
    seed: int = 0,
    *,
    max_failed: float = MAX_FAILED,
    progress: Progress | None = None,
    label: str = "generate",
) -> None:
    """Edit the items of this process whose result is not there, or cannot be opened.

    What failed before is tried again. A failure is recorded and the next item follows; raises
    InputError if more than the share `max_failed` of the items fails, or if the run began with
    another editor, other settings or versions.
    """
    described = editor.describe() | {"seed": seed, "seed_rule": SEED_RULE, "versions": versions()}
    run.claim("generate", described, free=("folder", "model"))
    known, mine = run.attempts(), run.mine()
    pace = Pace(label, len(mine), max_failed, progress)
    for item in mine:
        before = known.get(item.id)
        if opens(run.picture(item)):
            if before is None or before.status != "ok":  # killed before the line was written
                attempt = Attempt(item.id, "ok", seed_of(seed, item), notes=("found",))
                run.append("generate", [attempt])
            pace.step()
            continue
        attempt = _attempt(run, editor, item, seed_of(seed, item))
        run.append("generate", [attempt])
        pace.step(attempt.status == "failed", f"{item.id}: {attempt.reason}")


def _attempt(run: RunFolder, editor: Editor, item: Item, seed: int) -> Attempt:
    start = perf_counter()
    source = run.source(item)
    if item.previous is not None and not source.is_file():
        reason = f"the turn before it, {item.previous}, failed"
        return Attempt(item.id, "failed", seed, 0.0, reason)
    try:
        made = editor.edit(item, source, seed)
        made.write(run.picture(item), run.map(item))
    except Cancelled:
        raise
    except Exception as error:  # whatever it is, the other items may still succeed
        seconds = round(perf_counter() - start, 4)
        return Attempt(item.id, "failed", seed, seconds, f"{type(error).__name__}: {error}")
    seconds = round(perf_counter() - start, 4)
    return Attempt(item.id, "ok", seed, seconds, notes=made.notes, held=made.held)


def opens(picture: Path) -> bool:
    """Whether a file is there and holds a whole picture."""
    if not picture.is_file():
        return False
    try:
        read_image(picture)
    except Exception:  # made anew, whatever is wrong with it
        return False
    return True
