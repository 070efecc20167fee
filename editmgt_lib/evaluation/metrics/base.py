"""What a metric is, and the register of them by name.

A name holds everything that changes the number: the checkpoint, the picture compared with, the
crop, what is resized. Two definitions in use for one word are two metrics, so that they cannot
share a column of a table.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ...errors import InputError
from .samples import Feature, Sample

Networks = Mapping[str, Any]
"""Loaded networks by name, as `load_networks` gives them."""


class NotApplicable(Exception):
    """The metric is undefined for this result; the message is the reason."""


@dataclass(frozen=True)
class Metric:
    """One number about one result.

    Attributes:
        name: unique, lowercase parts with slashes between, as in "clip-i/vit-b-32/source".
        meaning: one line for the user, with the scale.
        measure: called only for items that have what `needs` names and a picture to score; raises
            NotApplicable where this result makes the metric undefined. It may return inf (PSNR of
            identical pictures).
        better: "higher" or "lower".
        worst: what a failed item counts as, unless failures are dropped.
        needs: names of `NEEDS`, or "caption:KIND". They depend on the item alone, so all editors
            are averaged over the same items.
        features: what networks make of views, in batches beforehand, into `Sample.features`.
        networks: other networks that `measure` calls.
    """

    name: str
    meaning: str
    measure: Callable[[Sample, Networks], float]
    better: str
    worst: float
    needs: tuple[str, ...] = ()
    features: tuple[Feature, ...] = ()
    networks: tuple[str, ...] = ()

    def undefined(self, item: Sample) -> str | None:
        """Say why the metric is undefined for this item, whatever the result; None if it is not."""
        return next(filter(None, (_lacks(item, need) for need in self.needs)), None)


NEEDS: dict[str, Callable[[Sample], str | None]] = {
    "source": lambda s: None if "source" in s.pictures else "no source picture",
    "target": lambda s: None if "target" in s.pictures else "no reference picture",
    "emu-output": lambda s: None if "emu-output" in s.pictures else "no output of Emu Edit",
    "mask": lambda s: None if s.mask is not None else "no mask",
    "inside": lambda s: None if s.mask is None or s.mask.any() else "the mask is empty",
    "outside": lambda s: None if s.mask is None or not s.mask.all() else "the mask is full",
    "caption-change": lambda s: (
        "the captions are equal" if s.captions.get("input") == s.captions.get("output") else None
    ),
}
"""By name: says what an item lacks, or None. More can be added."""


def _lacks(sample: Sample, need: str) -> str | None:
    if need.startswith("caption:"):
        kind = need.removeprefix("caption:")
        return None if sample.captions.get(kind) else f"no {kind} caption"
    return NEEDS[need](sample)


_REGISTER: dict[str, Metric] = {}


def register(metric: Metric) -> Metric:
    """Add a metric, so that it can be asked for by name. Raises InputError if the name is taken."""
    if metric.name in _REGISTER:
        raise InputError(f"there is a metric {metric.name!r} already; name what differs")
    for need in metric.needs:
        if need not in NEEDS and not need.startswith("caption:"):
            raise InputError(
                f"metric {metric.name!r} needs {need!r}; use {', '.join(NEEDS)} or caption:KIND"
            )
    _REGISTER[metric.name] = metric
    return metric


def find(names: Iterable[str]) -> tuple[Metric, ...]:
    """Look metrics up by name, dropping repeats. Raises InputError for an unknown name."""
    return tuple(_find(name) for name in dict.fromkeys(names))


def _find(name: str) -> Metric:
    if name not in _REGISTER:
        close = get_close_matches(name, _REGISTER, 3, 0.5)
        advice = f"did you mean {' or '.join(close)}?" if close else "docs/evaluation.md lists them"
        raise InputError(f"there is no metric {name!r}; {advice}")
    return _REGISTER[name]


def listing() -> tuple[Metric, ...]:
    """All metrics, in order of registration."""
    return tuple(_REGISTER.values())


def needed_networks(metrics: Iterable[Metric]) -> tuple[str, ...]:
    """Names of all networks that the metrics use."""
    used = ([f.network for f in m.features] + list(m.networks) for m in metrics)
    return tuple(dict.fromkeys(name for names in used for name in names))
