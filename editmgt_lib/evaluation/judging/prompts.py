"""A judge's prompts: the benchmark's own, read from the user's checkout, or our rubric.

The benchmark's prompts are not part of this package. Its Python files are parsed, never run.
"""

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ..manifest import digest_of_texts
from . import rubric

OFFICIAL, OWN = "official", "own-rubric-not-comparable"
ANY_TYPE = "*"

_CONTEXT = "_context_no_delimit"
_GEDIT_PARTS = {
    "sc": (_CONTEXT, "_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC"),
    "pq": (_CONTEXT, "_prompts_0shot_rule_PQ"),
}


@dataclass(frozen=True)
class Prompts:
    """Templates by name: "sc" and "pq" for GEdit; by type of edit, or "*", for ImgEdit.

    rubric: OFFICIAL or OWN, as in names of metrics.
    """

    rubric: str
    templates: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Fingerprint of the templates, whatever else their file holds."""
        return digest_of_texts(f"{name}\n{text}" for name, text in sorted(self.templates.items()))


def load_prompts(protocol: str, place: Path | None) -> Prompts:
    """Read the benchmark's prompts from a checkout or a file; None is our own rubric.

    Raises InputError if they are not there, or there twice and not the same.
    """
    names, read, own = _SOURCES[protocol]
    if place is None:
        return Prompts(OWN, own)
    found_files = (file for name in names for file in sorted(place.rglob(name)))
    files = [place] if place.is_file() else list(found_files)
    found: dict[str, tuple[Prompts, Path]] = {}
    faults = []
    for file in files:
        try:
            prompts = Prompts(OFFICIAL, read(file))
            found[prompts.digest] = prompts, file
        except (OSError, ValueError, SyntaxError, RecursionError) as error:
            faults.append(f"{file}: {error}")
    if len(found) > 1:
        both = ", ".join(str(file) for _, file in found.values())
        raise InputError(f"{place} holds different prompts for {protocol}: {both}; name one file")
    if not found:
        reason = f" ({faults[0]})" if faults else ""
        raise InputError(
            f"{place} holds no prompts for {protocol}{reason}; give the checkout of the benchmark "
            f"in which {names[0]} is, or leave `prompts` out for our own rubric"
        )
    return next(iter(found.values()))[0]


def _read_gedit(file: Path) -> dict[str, str]:
    """Join the strings assigned in VIEScore's vie_prompts.py as its class does."""
    strings = {}
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                strings[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # not a plain value, so not a prompt
                continue
    wanted = {part for parts in _GEDIT_PARTS.values() for part in parts}
    if missing := sorted(part for part in wanted if not isinstance(strings.get(part), str)):
        raise ValueError(f"no string {missing[0]}")
    texts = {n: "\n".join(strings[part] for part in parts) for n, parts in _GEDIT_PARTS.items()}
    if "<instruction>" not in texts["sc"]:
        raise ValueError("no place for the <instruction>")
    return texts


def _read_imgedit(file: Path) -> dict[str, str]:
    texts = json.loads(file.read_text("utf-8"))
    if not isinstance(texts, dict) or not texts:
        raise ValueError("no object of prompts by type")
    for name, text in texts.items():
        if not isinstance(text, str) or "<edit_prompt>" not in text:
            raise ValueError(f"no place for the <edit_prompt> in {name!r}")
    return texts


_SOURCES: dict[str, tuple[tuple[str, ...], Callable[[Path], dict[str, str]], Mapping[str, str]]] = {
    "gedit": (("vie_prompts.py",), _read_gedit, rubric.GEDIT),
    "imgedit": (("prompts.json", "judge_prompt.json"), _read_imgedit, rubric.IMGEDIT),
}
