"""What a judge sees of an edit: sizes and bytes."""

from math import sqrt

from ..metrics.samples import Pixels, resized

RESIZES = ("output-to-source", "area-512", "area-512-raw", "native")
"""The output resized to the source (GEdit's own script); each picture at 512 * 512 pixels' area and
its own aspect (lmms-eval); the same with the full-size source (EditMGT's script); neither resized
(evalscope, ImgEdit).
"""
ENCODINGS = ("png", "jpeg75")

Size = tuple[int, int]


def judged_sizes(resize: str, source: Size, output: Size) -> tuple[Size, Size]:
    """Sizes (width, height) at which a judge sees source and output; `resize` is of RESIZES."""
    if resize == "output-to-source":
        return source, source
    return (source, output) if resize == "native" else (area_512(source), area_512(output))


def area_512(size: Size) -> Size:
    """Size of 512 * 512 pixels' area and the aspect of `size`, fractions dropped."""
    ratio = size[0] / size[1]
    width = sqrt(512 * 512 * ratio)
    return int(width), int(width / ratio)


def shown(resize: str, source: Pixels, output: Pixels) -> dict[str, Pixels]:
    """The pictures by role, "source" and "result", at the judge's sizes; bicubic."""
    sizes = judged_sizes(resize, source.shape[1::-1], output.shape[1::-1])
    pictures = zip(("source", "result"), (source, output), sizes, strict=True)
    return {role: resized(pixels, size[::-1]) for role, pixels, size in pictures}
