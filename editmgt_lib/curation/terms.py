"""What licences and terms allow, as data: which rows may be published, and which may train what.

A reading of ours and no legal advice; a configuration may state terms of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..checks import require_choice

USES = ("publish", "train", "train-noncommercial", "commercial")
"""Pass the pictures on; train any model with them; train one for research alone; earn with them."""


@dataclass(frozen=True)
class Terms:
    """The terms of a source's pictures or of an editor's outputs. Raises InputError.

    Attributes:
        licence: SPDX id where there is one, else a name.
        uses: what is allowed, of USES. Nothing is assumed where nobody said.
        link: to the text. note: what a reader of the data card should know.
        duties: what is asked for in return.
    """

    licence: str = "unknown"
    uses: tuple[str, ...] = ()
    link: str = ""
    note: str = ""
    duties: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for use in self.uses:
            require_choice("use", use, USES)


FREE = USES
_FLUX_DEV = "https://github.com/black-forest-labs/flux/blob/main/model_licenses/LICENSE-FLUX1-dev"
_FLUX_NOTE = (
    "the model is for non-commercial use only, and its outputs may not train a model that competes "
    "with it; an editor trained on such pairs does"
)
_FLUX = "FLUX.1-dev-Non-Commercial-1.1.1"

EDITORS: Mapping[str, Terms] = {
    "toyworld": Terms("Apache-2.0", FREE),
    "flux-kontext-dev": Terms(_FLUX, ("publish",), _FLUX_DEV, _FLUX_NOTE),
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
    "own": Terms("own", FREE, note="pictures whose rights are yours"),
    "synthetic": Terms("synthetic", FREE, note="drawn by a program, such as the toy world"),
    "unsplash-lite": Terms(
        "Unsplash-Dataset-TERMS", ("train", "train-noncommercial", "commercial"),
        "https://github.com/unsplash/datasets/blob/master/TERMS.md",
        "no part of the data set may be published or passed on", ("delete on notice",),
    ),
    "journeydb": Terms(
        "JourneyDB-Terms", ("train-noncommercial",),
        "https://github.com/JourneyDB/JourneyDB/blob/main/assets/Terms_of_Usage.md",
        "research only; neither pictures nor derived data may be passed on",
    ),
    "laion": Terms("unknown", (), "", "an index of addresses: every picture has its own rights"),
    "open-images": Terms(
        "CC-BY-2.0", FREE, "https://storage.googleapis.com/openimages/web/index.html",
        "so listed by the authors of the data set, who do not warrant it for each picture",
        ("attribution",),
    ),
}  # fmt: skip
"""Terms of well-known sources of pictures, by name."""


def _creative_commons(version: str) -> Iterator[Terms]:
    research, by = ("publish", "train-noncommercial"), ("attribution",)
    alike = (*by, "share-alike")
    kept = "an edit is an adaptation, which may not be shared"
    for kind, uses, note, duties in (
        ("by", FREE, "", by),
        ("by-sa", FREE, "", alike),
        ("by-nc", research, "", by),
        ("by-nc-sa", research, "", alike),
        ("by-nd", ("train", "train-noncommercial", "commercial"), kept, by),
        ("by-nc-nd", ("train-noncommercial",), kept, by),
    ):
        link = f"https://creativecommons.org/licenses/{kind}/{version}/"
        yield Terms(f"CC-{kind.upper()}-{version}", uses, link, note, duties)


LICENCES: Mapping[str, Terms] = {
    terms.licence: terms
    for terms in (
        Terms("CC0-1.0", FREE, "https://creativecommons.org/publicdomain/zero/1.0/"),
        Terms("public-domain", FREE, "https://creativecommons.org/publicdomain/mark/1.0/"),
        Terms("Apache-2.0", FREE, "https://www.apache.org/licenses/LICENSE-2.0"),
        Terms("MIT", FREE, "https://opensource.org/licenses/MIT"),
        *(t for version in ("2.0", "2.5", "3.0", "4.0") for t in _creative_commons(version)),
    )
}
"""Licences by SPDX id."""


def _plain(name: str) -> str:
    """ "CC BY 2.0" and "https://creativecommons.org/licenses/by/2.0/" both name CC-BY-2.0."""
    name = name.strip().lower().removeprefix("https://").removeprefix("http://")
    return name.rstrip("/").replace(" ", "-")


_BY_NAME = {_plain(terms.link): terms for terms in LICENCES.values()}
_BY_NAME |= {_plain(name): terms for name, terms in [*LICENCES.items(), *SOURCES.items()]}


def terms_of(licence: str) -> Terms:
    """Terms of a source or licence, by name or address; nobody's allow nothing."""
    return _BY_NAME.get(_plain(licence), Terms(licence, note="not known; say what it allows"))


def allowed(uses: tuple[str, ...], *terms: Terms) -> bool:
    """Whether all of the terms allow all of the uses."""
    return all(use in one.uses for use in uses for one in terms)
