"""What makes the results of a run: a model, a folder of finished pictures, or a baseline."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..checks import require_choice
from ..errors import InputError
from ..files import atomic_write_bytes
from ..pictures.canvas import Tokens
from ..pictures.compositing import composite
from ..pictures.drawing import relevance_on_picture
from ..pictures.formats import WRITABLE
from ..pictures.images import read_image, write_image
from ..results import decode_pixels, unchanged_notes
from ..sampling.loop import StepEvent
from .items import Item
from .manifest import device_name, digest_of_files

if TYPE_CHECKING:
    from ..pipeline import EditMGT

SQUASH = "squash"
"""Fit of the published GEdit script: the picture is resized to the square, whatever its shape,
and the result back."""
RUN_FITS = ("pad", "native", SQUASH)


@dataclass(frozen=True, eq=False)
class Made:
    """A result: pixels [1, H, W, C] in 0..1 or the bytes of a PNG, and relevance [1, H, W].

    held: share of the tokens that followed the source at the last step.
    """

    image: Tensor | bytes
    map: Tensor | None = None
    notes: tuple[str, ...] = ()
    held: float | None = None

    def write(self, picture: Path, map: Path) -> None:
        """Write the files, the picture last: where it is, all is done."""
        if self.map is not None:
            write_image(map, self.map[..., None], bits=16)
        if isinstance(self.image, bytes):
            atomic_write_bytes(picture, self.image)
        else:
            write_image(picture, self.image)


class Editor(Protocol):
    """Edits one item after another."""

    def describe(self) -> dict[str, Any]:
        """All that decides the results, as plain data for run.json."""

    def edit(self, item: Item, source: Path, seed: int) -> Made:
        """Edit one picture; raises any error where that fails."""


def read_rgb(path: Path) -> Tensor:
    """A picture as float32 [1, H, W, 3] in 0..1, transparency ignored."""
    return read_image(path).pixels[..., :3]


class CopyInput:
    """The baseline that changes nothing."""

    def describe(self) -> dict[str, Any]:
        return {"editor": "copy"}

    def edit(self, item: Item, source: Path, seed: int) -> Made:
        return Made(read_rgb(source))


@dataclass(frozen=True)
class Finished:
    """Pictures that another editor made: DIR/ID.png, or .jpg, .jpeg, .webp."""

    folder: Path

    def describe(self) -> dict[str, Any]:
        return {"editor": "pictures", "folder": str(self.folder.resolve())}

    def edit(self, item: Item, source: Path, seed: int) -> Made:
        names = [f"{item.id}{suffix}" for suffix in WRITABLE]
        found = next((p for name in names if (p := self.folder / name).is_file()), None)
        if found is None:
            raise InputError(f"{self.folder} has no picture {names[0]} (or {', '.join(WRITABLE)})")
        pixels = read_image(found).pixels
        return Made(found.read_bytes() if found.suffix == ".png" else pixels)


@dataclass(frozen=True)
class Setup:
    """How a model edits.

    options: fields of SamplingOptions and LocalizationOptions in place of the checkpoint's.
    fit: "pad" or "native" as in `EditMGT.edit`, or "squash". maps: write relevance maps too, which
    takes one more forward pass. name: what the user calls the model. lora: files with strengths.
    """

    options: Mapping[str, Any]
    negative: str | None = None
    fit: str = RUN_FITS[0]
    maps: bool = True
    name: str = ""
    lora: tuple[tuple[str | Path, float], ...] = ()

    def __post_init__(self) -> None:
        require_choice("fit", self.fit, RUN_FITS)


class ModelEditor:
    """A loaded model."""

    def __init__(self, model: "EditMGT", setup: Setup) -> None:
        """Raises InputError for options that do not exist or have no such value."""
        if "seed" in setup.options:
            raise InputError("seed is derived for each item; give the run's own with --seed")
        self.model, self.setup = model, setup
        self.settings = model.settings.override(**setup.options)

    def describe(self) -> dict[str, Any]:
        sampling, given = asdict(self.settings.sampling), self.setup.negative
        del sampling["seed"]
        return {
            "editor": "model",
            **_identity(self.model, self.setup),
            "sampling": sampling,
            "localization": asdict(self.settings.localization),
            "negative": self.settings.negative if given is None else given,
            "maps": self.setup.maps,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": device_name(self.model.device),
        }

    def edit(self, item: Item, source: Path, seed: int) -> Made:
        model, settings, setup = self.model, self.settings, self.setup
        pixels = read_rgb(source)
        size = pixels.shape[1:3]
        tokens = _encoded(model, setup, pixels)
        sampling = replace(settings.sampling, seed=seed)
        instruction = model.encode_instruction(item.instruction, setup.negative, sampling.guided)
        found = relevance = None
        if setup.maps or sampling.threshold > 0:
            found = model.localize(tokens, instruction, settings.localization, sampling)
        steps: deque[StepEvent] = deque(maxlen=1)
        edited, _ = model.sample(
            tokens, instruction, sampling, localization=found if sampling.threshold > 0 else None,
            callback=steps.append,
        )  # fmt: skip
        if setup.maps and found is not None:
            cells = found.upsample(tokens.canvas.rows, tokens.canvas.cols)
            shown = relevance_on_picture(cells, tokens.canvas)[..., None]
            relevance = _resized(shown, size)[..., 0]
        notes = (*tokens.notes, *instruction.notes, *unchanged_notes(edited))
        image = _resized(model.decode(edited).image, size)
        return Made(image, relevance, notes, _held_share(steps[-1]))


def _held_share(event: StepEvent) -> float:
    return 0.0 if event.held is None else float(event.held.float().mean())


class RoundTrip:
    """The baseline that only tokenizes: what a model's tokenizer costs by itself."""

    def __init__(self, model: "EditMGT", setup: Setup) -> None:
        self.model, self.setup = model, setup

    def describe(self) -> dict[str, Any]:
        return {"editor": "roundtrip", **_identity(self.model, self.setup)}

    def edit(self, item: Item, source: Path, seed: int) -> Made:
        pixels = read_rgb(source)
        tokens = _encoded(self.model, self.setup, pixels)
        whole = torch.ones(tokens.canvas.source.shape[:3], dtype=torch.bool)
        image = composite(decode_pixels(self.model.vq, tokens.ids), tokens.canvas, whole)
        return Made(_resized(image, pixels.shape[1:3]))


def _identity(model: "EditMGT", setup: Setup) -> dict[str, Any]:
    """Which weights, and the rule from the picture's size to the canvas."""
    return {
        "model": setup.name,
        "weights": digest_of_files(model.folder) if model.folder else None,
        "lora": [[digest_of_files(Path(file)), strength] for file, strength in setup.lora],
        "resolution": f"{setup.fit} {model.settings.resolution}",
    }


def _encoded(model: "EditMGT", setup: Setup, pixels: Tensor) -> Tokens:
    if setup.fit != SQUASH:
        return model.encode_image(pixels, setup.fit)
    return model.encode_image(_resized(pixels, (model.settings.resolution,) * 2))


def _resized(pictures: Tensor, size: Sequence[int]) -> Tensor:
    """Resize [B, H, W, C] as Pillow's bicubic filter does, within 0..1; as it is at equal size."""
    if pictures.shape[1:3] == tuple(size):
        return pictures
    planes = torch.nn.functional.interpolate(
        pictures.permute(0, 3, 1, 2), size=tuple(size), mode="bicubic", antialias=True
    )
    return planes.permute(0, 2, 3, 1).clamp(0, 1)
