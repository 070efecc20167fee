"""From tables such as `[editors.NAME] kind = "..."` to back ends."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import EditMGTError, InputError
from ...tables import build
from ..terms import EDITORS, Terms, terms_of
from .aesthetic_scorer import AestheticOptions, AestheticScorer
from .base import Backend, Editor, Judge, Scorer, Writer
from .classifier_scorer import ClassifierOptions, ClassifierScorer
from .comfyui_editor import ComfyUIEditor, ComfyUIOptions
from .diffusers_editor import DiffusersEditor, DiffusersOptions
from .editmgt_editor import EditMGTEditor, EditMGTOptions
from .faces_scorer import FaceScorer, FacesOptions
from .images_editor import ImagesEditor, ImagesOptions
from .model_options import ModelOptions
from .toyworld import ToyJudge, ToyOptions, ToyScorer, ToyWriter
from .vlm import VlmJudge, VlmScorer, VlmWriter

KINDS: Mapping[str, Mapping[str, tuple[type, type]]] = {
    "editors": {
        "editmgt": (EditMGTOptions, EditMGTEditor),
        "diffusers": (DiffusersOptions, DiffusersEditor),
        "comfyui": (ComfyUIOptions, ComfyUIEditor),
        "openai-images": (ImagesOptions, ImagesEditor),
    },
    "writers": {"openai": (ModelOptions, VlmWriter), "toyworld": (ToyOptions, ToyWriter)},
    "judges": {"openai": (ModelOptions, VlmJudge), "toyworld": (ToyOptions, ToyJudge)},
    "scorers": {
        "openai": (ModelOptions, VlmScorer),
        "aesthetic": (AestheticOptions, AestheticScorer),
        "classifier": (ClassifierOptions, ClassifierScorer),
        "faces": (FacesOptions, FaceScorer),
        "toyworld": (ToyOptions, ToyScorer),
    },
}
"""Options and class of each kind, by role."""

OFFLINE: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "editors": {
        "toy": {"kind": "editmgt"},
        "toy-fast": {"kind": "editmgt", "options": {"steps": 6}},
    },
    "writers": {"toy": {"kind": "toyworld"}},
    "judges": {"toy": {"kind": "toyworld"}},
    "scorers": {"toy": {"kind": "toyworld"}},
}
"""The embedded default: stand-ins that need nothing but this package."""


@dataclass(frozen=True)
class Backends:
    """All back ends of a configuration, by name, in its order."""

    editors: Mapping[str, Editor]
    writers: Mapping[str, Writer]
    judges: Mapping[str, Judge]
    scorers: Mapping[str, Scorer]

    def __iter__(self) -> Iterator[Backend]:
        for role in KINDS:
            yield from getattr(self, role).values()

    def check(self) -> None:
        """Say all that any of them lacks, at once and before any work. Raises InputError."""
        told = []
        for backend in self:
            try:
                backend.check()
            except EditMGTError as error:
                told.append(str(error))
        if told:
            raise InputError("\n".join(dict.fromkeys(told)))

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """Names of those that only stand in; what they make is not to be called curated."""
        toys = (ToyWriter, ToyJudge, ToyScorer)
        return tuple(
            one.name
            for one in self
            if isinstance(one, toys)
            or isinstance(one, EditMGTEditor)
            and one.options.model == "toyworld"
        )


def read_backends(config: Mapping[str, Any]) -> Backends:
    """Make the back ends of the tables `editors`, `writers`, `judges` and `scorers`.

    Other keys of the configuration are left alone. Nothing is loaded and nobody asked; see
    `Backends.check`. Raises InputError.
    """
    made: dict[str, dict[str, Any]] = {}
    for role in KINDS:
        tables = config.get(role, {})
        if not isinstance(tables, Mapping):
            raise InputError(f"{role} is {tables!r}; write tables such as [{role}.NAME]")
        made[role] = {name: _make(role, name, table) for name, table in tables.items()}
    return Backends(**made)


def _make(role: str, name: str, table: Any) -> Any:
    where = f"{role}.{name}"
    if not isinstance(table, Mapping):
        raise InputError(f"{where} is {table!r}; write a table [{where}]")
    rest = dict(table)
    kind = rest.pop("kind", None)
    known = KINDS[role]
    if kind not in known:
        raise InputError(f"{where}: kind is {kind!r}; use one of {', '.join(map(repr, known))}")
    options, backend = known[kind]
    if role != "editors":
        return backend(name, build(options, rest, where, {}))
    terms = _terms(rest.pop("terms", None), where)
    return backend(name, build(options, rest, where, {}), terms)


def _terms(given: Any, where: str) -> Terms | None:
    """The terms of an editor's outputs: a known editor's or licence's name, or a table."""
    if given is None or isinstance(given, Mapping):
        return None if given is None else build(Terms, given, f"{where}.terms", {})
    if not isinstance(given, str):
        raise InputError(f"{where}.terms is {given!r}; name an editor or licence, or write a table")
    found = EDITORS.get(given) or terms_of(given)
    if not found.uses:
        raise InputError(
            f"{where}.terms is {given!r}, which is not known; use one of {', '.join(EDITORS)}, a "
            "licence such as 'Apache-2.0', or a table with licence and uses"
        )
    return found
