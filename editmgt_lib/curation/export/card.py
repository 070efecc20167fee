"""What is said about an export, as plain data: card.json, and what the README is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import EditMGTError
from ..config import CurationConfig
from ..saved import config_table
from ..terms import EDITORS, terms_of
from .columns import columns
from .survey import Granted, Survey

if TYPE_CHECKING:
    from .run import ExportOptions

ROLES = ("writers", "editors", "judges", "scorers")
_MEASURING = ("images", "scores", "quality")
_TOOL_KEYS = ("kind", "model", "revision", "folder", "workflow", "options")


def card(
    survey: Survey, config: CurationConfig, stages: Sequence[str], options: "ExportOptions"
) -> dict[str, Any]:
    """All that is known of an export. Equal rows make an equal card: it holds no date."""
    stand_ins = _stand_ins(config)
    makers = _makers(survey, config, stand_ins)
    return {
        "made_by": f"editmgt {__version__}",
        "kind": options.kind,
        "allow": list(options.allow),
        "rows": {
            "exported": sum(survey.exported.values()),
            "reversed": sum(survey.reversed.values()),
            "seen": sum(survey.seen.values()),
            "pictures": sum(survey.pictures.values()),
        },
        "categories": {
            name: {"rows": survey.exported[name], "reversed": survey.reversed[name]}
            for name in sorted({*survey.exported, *survey.reversed})
        },
        "left_out": dict(sorted(survey.left_out.items(), key=lambda r: (-r[1], r[0]))),
        "survival": survey.survival(("sources", *stages)),
        "rules": [str(rule) for rule in config.rules()],
        "duplicates": asdict(config.duplicates),
        "makers": makers,
        "stand_ins": sorted({m["name"] for m in makers if m["stand_in"]}),
        "licences": _licences(survey),
        "measured": {
            name: survey.values[name].plain()
            for name in sorted(survey.values)
            if name.partition(".")[0] in _MEASURING
        },
        "unscored": dict(sorted(survey.unscored.items())),
        "columns": [column._asdict() for column in columns(options.kind)],
    }


def _stand_ins(config: CurationConfig) -> frozenset[tuple[str, str]]:
    """Role and name of the back ends that only stand in."""
    from ..backends import read_backends

    table = config_table(config)
    found = set()
    for role in ROLES:
        try:
            made = read_backends({role: table.get(role, {})})
        except EditMGTError:  # written by another version: nothing can be said
            continue
        found |= {(role, name) for name in made.stand_ins}
    return frozenset(found)


def _makers(
    survey: Survey, config: CurationConfig, stand_ins: frozenset[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Back ends of the configuration, and the rows that each had a hand in."""
    table = config_table(config)
    known = [(role, name) for role in ROLES for name in table.get(role, {})]
    found = []
    for role, name in [*known, *sorted(survey.makers.keys() - set(known))]:
        settings = table.get(role, {}).get(name, {})
        revisions = {r for who, r in survey.revisions if role == "editors" and who == name and r}
        found.append(
            {
                "role": role,
                "name": name,
                "rows": None if role == "scorers" else survey.makers[role, name],
                "revisions": sorted(revisions),
                "settings": {k: _without_folders(settings[k]) for k in _TOOL_KEYS if k in settings},
                "stand_in": (role, name) in stand_ins,
            }
        )
    return found


def _without_folders(value: Any) -> Any:
    """A path's last part: where a model lies on one machine is nobody's business."""
    if isinstance(value, str) and ("/" in value or "\\" in value) and value.count("/") != 1:
        return value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return value


def _licences(survey: Survey) -> list[dict[str, Any]]:
    """Terms of what is exported: of the sources' pictures and of the editors' outputs."""
    return [
        {**granted._asdict(), "uses": list(granted.uses), "rows": rows, **_conditions(granted)}
        for granted, rows in sorted(survey.terms.items())
    ]


def _conditions(granted: Granted) -> dict[str, Any]:
    known = terms_of(granted.licence)
    if not known.uses:  # an editor's own licence is listed with the editors
        by_licence = (t for t in EDITORS.values() if t.licence == granted.licence)
        known = next(by_licence, known)
    note = "" if granted.uses and not known.uses else known.note
    return {"duties": list(known.duties), "note": note, "link": known.link}


def is_curated(found: Mapping[str, Any]) -> bool:
    """Whether the rows may be called curated: no stand-in had a hand in them."""
    return not found["stand_ins"]
