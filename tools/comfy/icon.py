"""Draw the pack's icon and banner for the registry: python -m tools.comfy.icon"""

from PIL import Image

from editmgt_lib.toyworld.world import Scene, Thing, render

from .build import ROOT

BEFORE = Scene((Thing("heart", "red", 4),), "water")
AFTER = Scene((Thing("star", "yellow", 4),), "water")


def close_up(scene: Scene) -> Image.Image:
    """The object in the middle, 384 x 384."""
    return Image.fromarray(render(scene, 1152)).crop((384, 384, 768, 768))


def tokens(cells: int = 6) -> Image.Image:
    """A grid of tokens, those of one half already the second picture's."""
    icon, edited = close_up(BEFORE), close_up(AFTER)
    step = icon.width // cells
    for row in range(cells):
        for column in range(cells):
            if row + column >= cells:
                box = (column * step, row * step, (column + 1) * step, (row + 1) * step)
                icon.paste(edited.crop(box), box)
    return icon


def banner() -> Image.Image:
    """21:9: before, between, after."""
    wide = Image.new("RGB", (1260, 540), "#b3d9f9")
    for index, tile in enumerate((close_up(BEFORE), tokens(), close_up(AFTER))):
        wide.paste(tile, (27 + index * 411, 78))
    return wide


def main() -> None:
    """The command."""
    tokens().quantize(256).save(ROOT / "docs" / "images" / "icon.png", optimize=True)
    banner().quantize(256).save(ROOT / "docs" / "images" / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
