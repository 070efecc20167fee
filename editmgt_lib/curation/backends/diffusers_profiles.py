"""What is known of single pipelines of diffusers: their sizes, and whose outputs they give."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

from .sizes import Size, Sizing

_MEGAPIXEL = 1024**2


def qwen_sizes() -> Iterator[Size]:
    """The canvases that Qwen-Image-Edit's own rule leaves alone; it stretches all others."""
    for width in range(512, 2049, 32):
        for height in range(512, 2049, 32):
            ideal = sqrt(_MEGAPIXEL * (width / height))
            own = round(ideal / 32) * 32, round(ideal / (width / height) / 32) * 32
            if own == (width, height):
                yield width, height


@dataclass(frozen=True)
class Profile:
    """How a kind of pipeline is called, and whose outputs it gives; whole: pass `max_area`."""

    sizing: Sizing = Sizing(multiple=16, most=_MEGAPIXEL)
    terms: str = ""
    whole: bool = False


_QWEN = Profile(Sizing(sizes=tuple(qwen_sizes())), "qwen-image-edit")
PROFILES: Mapping[str, Profile] = {
    # Left to itself it stretches the picture to one of 17 sizes and gives a square megapixel.
    "FluxKontextPipeline": Profile(terms="flux-kontext-dev", whole=True),
    "QwenImageEditPipeline": _QWEN,
    "QwenImageEditPlusPipeline": _QWEN,
    "LongCatImageEditPipeline": Profile(_QWEN.sizing),
    "Step1XEditPipeline": Profile(terms="step1x-edit"),
    "Step1XEditPipelineV1P2": Profile(terms="step1x-edit"),
    "StableDiffusionInstructPix2PixPipeline": Profile(Sizing(multiple=8, most=768**2)),
}  # fmt: skip
