"""What licences allow, as data: which rows may be published, and which may train what."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..checks import require_choice

USES = ("publish", "train", "train-noncommercial", "commercial")
"""Pass the pictures on; train any model with them; train one for research alone; earn with them."""


@dataclass(frozen=True)
class Terms:
    """The terms of a source's pictures or of an editor's outputs.

    Attributes:
        licence: SPDX id where there is one, else a name.
        uses: what is allowed, of USES. Nothing is assumed where nobody said.
        link: to the text. note: what a reader of the data card should know.

    This is no legal advice; the user may state terms of their own. Raises InputError.
    """

    licence: str = "unknown"
    uses: tuple[str, ...] = ()
    link: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for use in self.uses:
            require_choice("use", use, USES)


FREE = USES
_FLUX_DEV = "https://github.com/black-forest-labs/flux/blob/main/model_licenses/LICENSE-FLUX1-dev"
_FLUX_NOTE = (
    "the model is for non-commercial use only, and its outputs may not train a model that competes "
    "with it; an editor trained on such pairs does"
)

EDITORS: Mapping[str, Terms] = {
    "toyworld": Terms("Apache-2.0", FREE),
    "flux-kontext-dev": Terms("FLUX.1-dev-Non-Commercial-1.1.1", ("publish",), _FLUX_DEV, _FLUX_NOTE),
    "flux2-klein-9b": Terms("FLUX-Non-Commercial-2.1", ("publish",), "", _FLUX_NOTE),
    "step1x-edit": Terms("Apache-2.0", FREE, "https://github.com/stepfun-ai/Step1X-Edit"),
    "qwen-image-edit": Terms("Apache-2.0", FREE, "https://huggingface.co/Qwen/Qwen-Image-Edit"),
    "editmgt": Terms(
        "CC-BY-4.0", FREE, "https://huggingface.co/WeiChow/EditMGT",
        "its folder llm_encoder holds Gemma, whose own terms apply to it; it was trained on "
        "CrispEdit-2M, which Kontext's outputs are part of",
    ),
}  # fmt: skip
"""Terms of known editors' outputs, by name. An editor not listed allows nothing until told."""

SOURCES: Mapping[str, Terms] = {
    "unsplash-lite": Terms(
        "Unsplash-Dataset-TERMS", ("train", "train-noncommercial", "commercial"),
        "https://github.com/unsplash/datasets/blob/master/TERMS.md",
        "no part of the data set may be published or passed on",
    ),
    "journeydb": Terms(
        "JourneyDB-Terms", ("train-noncommercial",),
        "https://github.com/JourneyDB/JourneyDB/blob/main/assets/Terms_of_Usage.md",
        "research only; neither pictures nor derived data may be passed on",
    ),
    "laion": Terms("unknown", (), "", "an index of addresses: every picture has its own rights"),
}  # fmt: skip
"""Terms of well-known sources of pictures, by name."""


def allowed(uses: tuple[str, ...], *terms: Terms) -> bool:
    """Whether all of the terms allow all of the uses."""
    return all(use in one.uses for use in uses for one in terms)
