"""Metrics that compare pixels, whole or by region: L1, L2, PSNR, SSIM, LPIPS, and what leaks.

The parts of a name, in order: what is measured; the variant; what the result is compared with
("source", "target" for the item's reference, "emu-output"); how differing sizes are met. Pixels
count in 0..1; papers also print multiples.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import masked, pixels
from .base import NEEDS, Metric, Networks, register
from .samples import Pixels, Sample, zeroed
from .structural import VARIANT, ssim

FIT, FIT_TARGET = "fit-output", "fit-target"
WORDS = {
    "source": "the source",
    "target": "the item's reference",
    "emu-output": "Emu Edit's own output",
    "output": "the output caption",
    "local": "the local caption",
    "global": "the global caption",
}
Measure = Callable[[Sample, Networks], float]


class Comparison(NamedTuple):
    """A number about two pictures, whole or in a region.

    compare: (result, other, region or None); None where `network` has it as `distance`.
    """

    name: str
    meaning: str
    better: str
    worst: float
    compare: Callable[..., float] | None = None
    network: str = ""

    def of(self, networks: Networks) -> Callable[..., float]:
        return self.compare or networks[self.network].distance

    def register(self, part: str, ending: str, words: str, measure: Measure, *needs: str) -> None:
        """Register it for one use of it: "-outside", say, goes before the variant in the name."""
        head, *variant = self.name.split("/")
        register(
            Metric(
                name="/".join((head + part, *variant, ending)),
                meaning=f"{self.meaning}; {words}",
                measure=measure,
                better=self.better,
                worst=self.worst,
                needs=needs,
                networks=(self.network,) if self.network else (),
            )
        )


L1 = Comparison("l1", "mean absolute difference, 0..1", "lower", 1.0, pixels.l1)
L2 = Comparison("l2", "mean squared difference, 0..1", "lower", 1.0, pixels.l2)
PSNR = Comparison("psnr", "PSNR in dB, infinite if identical", "higher", 0.0, pixels.psnr)
SSIM = Comparison(f"ssim/{VARIANT}", "SSIM, Gaussian of 11 taps, at most 1", "higher", 0.0, ssim)
ALEX = Comparison("lpips/alex", "LPIPS on AlexNet", "lower", 1.0, network="lpips-alex")
SQUEEZE = Comparison("lpips/squeeze", "LPIPS on SqueezeNet", "lower", 1.0, network="lpips-squeeze")


def _register_whole(comparison: Comparison, role: str, fit: str) -> None:
    resized = "output" if fit == FIT else "reference"
    comparison.register(
        "",
        f"{role}/{fit}",
        f"against {WORDS[role]}, the {resized} resized to fit (bicubic)",
        lambda sample, networks: comparison.of(networks)(*sample.pair(role, fit)),
        role,
    )


def _register_region(comparison: Comparison, part: str, role: str) -> None:
    def measure(sample: Sample, networks: Networks) -> float:
        result, other = sample.pair(role)
        mask = sample.mask_for(other)
        return comparison.of(networks)(result, other, mask if part == "inside" else ~mask)

    words = f"of the pixels {part} the mask, against {WORDS[role]}"
    comparison.register(f"-{part}", f"{role}/{FIT}", words, measure, role, "mask", part)


def _register_zeroed(comparison: Comparison) -> None:
    """PIE-Bench: what is not kept becomes black in both, then whole frames are compared.

    The edited area counts as free of error, so PSNR is higher than that of "psnr-outside" by
    -10 log10(kept share).
    """

    def measure(sample: Sample, networks: Networks) -> float:
        result, source = sample.pair("source")
        keep = ~sample.mask_for(source)
        return comparison.of(networks)(zeroed(result, keep), zeroed(source, keep))

    words = "as PIE-Bench: against the source, both black inside the mask, whole frame"
    comparison.register("-zeroed", f"source/{FIT}", words, measure, "source", "mask", "outside")


def _register_change(
    name: str, meaning: str, measure: Callable[[Pixels, Pixels, np.ndarray], float], *needs: str
) -> None:
    """Register a measure (result, source, mask) of where an edit changed its source."""

    def measured(sample: Sample, networks: Networks) -> float:
        result, source = sample.pair("source")
        return measure(result, source, sample.mask_for(source))

    iou = name.startswith("change-iou")
    register(
        Metric(
            name=f"{name}/source/{FIT}",
            meaning=meaning,
            measure=measured,
            better="higher" if iou else "lower",
            worst=0.0 if iou else 1.0,
            needs=("source", "mask", *needs),
        )
    )


def _register_localised() -> None:
    for t in (0, 2, 8):
        _register_change(
            f"changed-outside/t{t}",
            f"share of the pixels outside the mask that changed by more than {t}/255",
            lambda a, b, mask, t=t: masked.changed_outside(a, b, mask, t),
            "outside",
        )
    for word, power in (("absolute", 1), ("squared", 2)):
        _register_change(
            f"leak/{word}",
            f"share of the {word} change that lies outside the mask",
            lambda a, b, mask, p=power: masked.leaked(a, b, mask, p),
            "outside",
        )
    for t in (0, 8):
        _register_change(
            f"leak/pixels-t{t}",
            f"share of the pixels changed by more than {t}/255 that lies outside the mask",
            lambda a, b, mask, t=t: masked.leaked_pixels(a, b, mask, t),
            "outside",
        )
    for t in (0, 2, 8):
        _register_change(
            f"change-iou/t{t}",
            f"intersection over union of the mask and the pixels changed by more than {t}/255",
            lambda a, b, mask, t=t: masked.change_iou(a, b, mask, t),
            "inside",
        )
    for inner, outer in masked.RINGS:
        _register_ring(inner, outer)


def _register_ring(inner: int, outer: int | None) -> None:
    distance = f"{inner + 1}-{outer}" if outer else f"{inner + 1}-up"

    def lacks(sample: Sample) -> str | None:
        if sample.mask is None or "source" not in sample.pictures:
            return None
        found = masked.ring(sample.mask_for(sample.pictures["source"]), inner, outer).any()
        return None if found else f"no pixel is {distance} pixels away from the mask"

    NEEDS[f"ring:{distance}"] = lacks
    _register_change(
        f"ring-l1/{distance}",
        f"mean absolute difference {distance} pixels away from the mask, 0..1",
        lambda result, source, mask: pixels.l1(result, source, masked.ring(mask, inner, outer)),
        "inside",
        f"ring:{distance}",
    )


for _comparison in (L1, L2, PSNR, SSIM, ALEX):
    for _role in ("source", "target", "emu-output"):
        _register_whole(_comparison, _role, FIT)
for _comparison in (L1, L2):
    _register_whole(_comparison, "target", FIT_TARGET)
for _comparison in (L1, L2, PSNR, SSIM, ALEX):
    _register_region(_comparison, "outside", "source")
    _register_region(_comparison, "inside", "target")
_register_localised()
for _comparison in (L2, PSNR, SSIM, SQUEEZE):
    _register_zeroed(_comparison)
