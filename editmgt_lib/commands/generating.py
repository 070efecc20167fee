"""What `editmgt generate` does once its options are checked."""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..pictures.images import write_image
from ..sampling.options import SamplingOptions
from .console import on_step, progress_bar, say
from .editing import Stopwatch, describe_run
from .interrupts import working
from .options import GENERATION, given, load_model
from .outputs import Records

if TYPE_CHECKING:
    from ..pipeline import EditMGT
    from ..text.instruction import Instruction


def generate_all(
    args: argparse.Namespace,
    paths: Sequence[Path],
    done: Collection[Path],
    size: tuple[int, int] | None,
    records: Records,
) -> None:
    """Write a picture to each path that is not done, seeds counting up; size: height and width."""
    clock = Stopwatch()
    with clock.stage("load"):
        model = load_model(args)
    sampling = model.settings.override(threshold=0.0, **given(args, *GENERATION)).sampling
    model.blank_tokens(1, size)  # refuses a size that cannot be before the text is encoded
    with clock.stage("instruction"):
        instruction = model.encode_instruction(args.prompt, args.negative, sampling.guided)
    model.free_text()
    notes = list(getattr(instruction, "notes", ()))
    for note in notes:
        say(note)
    working()
    records.write()
    seeds = sampling.seeds(len(paths))
    for number, (path, seed) in enumerate(zip(paths, seeds, strict=True), 1):
        if path in done:
            continue
        once, options = Stopwatch(clock.seconds), replace(sampling, seed=seed)
        label = f"{number}/{len(paths)}" if len(paths) > 1 else "generating"
        image = _picture(model, instruction, options, size, once, label)
        with once.stage("write"):
            write_image(path, image)
        record = {
            "output": str(path),
            "width": image.shape[2],
            "height": image.shape[1],
            "prompt": args.prompt,
            **describe_run(model, args, options, instruction),
            "options": asdict(options),
            "seconds": once.seconds,
            "notes": notes,
        }
        records.add(record, f"{path}  seed {seed}")


def _picture(
    model: "EditMGT",
    instruction: "Instruction",
    options: SamplingOptions,
    size: tuple[int, int] | None,
    clock: Stopwatch,
    label: str,
) -> Tensor:
    """One picture [1, H, W, 3]."""
    with clock.stage("sample"), progress_bar(options.steps, label) as bar:
        blank = model.blank_tokens(1, size)
        tokens, _ = model.sample(blank, instruction, options, callback=on_step(bar))
    with clock.stage("decode"):
        return model.decode(tokens).image
