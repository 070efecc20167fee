"""Odd picture files: only what is promised is opened, and every bit of it is read."""

import random
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from editmgt_lib.errors import InputError
from editmgt_lib.files import atomic_path, atomic_write_bytes, require_file_name
from editmgt_lib.pictures.formats import READABLE, WRITABLE
from editmgt_lib.pictures.images import read_image, write_image

from .picture_bytes import (
    COLOUR,
    DEEP,
    PIXELS,
    RANDOM,
    SRGB,
    TEXTS,
    TURNS,
    colours,
    exif,
    jpeg,
    orientation,
    png,
    saved,
    tiff,
)

# ---- which files are opened


def test_only_promised_formats_are_opened(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("another program is started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", never)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    others = [saved(Image.fromarray(PIXELS), kind) for kind in ("PPM", "TGA", "ICO", "PCX", "SGI")]
    for number, data in enumerate([eps, *others]):
        path = tmp_path / f"{number}.png"
        path.write_bytes(data)
        for source in (path, data):
            with pytest.raises(InputError, match="PNG, JPEG"):
                read_image(source)


@pytest.mark.parametrize("suffix", READABLE)
def test_every_listed_suffix_is_read(tmp_path, suffix):
    Image.init()
    format_ = Image.EXTENSION.get(suffix)
    if format_ is None and suffix == ".avif":
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(saved(Image.fromarray(PIXELS), format_))
    assert read_image(path).pixels.shape == (1, 10, 14, 3)


def test_what_is_written_can_be_read():
    assert set(WRITABLE) <= set(READABLE)


# ---- TIFF


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGB", "1", "I;16", "RGBA"])
@pytest.mark.parametrize("packing", ["raw", "tiff_lzw"])
def test_tiffs_are_upright_by_path_and_by_bytes(tmp_path, mode, packing):
    image = Image.fromarray(DEEP[..., 0]) if mode == "I;16" else Image.fromarray(PIXELS)
    image = image if mode == "I;16" else image.convert(mode)
    for number, turn in enumerate(TURNS, 1):
        path = tmp_path / f"{number}.tif"
        image.save(path, tiffinfo={274: number}, compression=packing)
        wanted = read_image(image if turn is None else image.transpose(turn)).pixels
        assert torch.equal(read_image(path).pixels, wanted), number
        assert torch.equal(read_image(path.read_bytes()).pixels, wanted), number


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("packing", [1, 8])
def test_deep_tiffs_keep_their_bits(order, big, packing):
    kind = {"order": order, "big": big, "packing": packing}
    picture = read_image(tiff(DEEP, orientation(6, order), **kind))
    assert picture.bits == 16 and not picture.notes
    assert torch.equal(picture.pixels, colours(np.rot90(DEEP, -1), 16))
    grey = read_image(tiff(DEEP[..., :1], **kind))
    assert torch.equal(grey.pixels, colours(DEEP[..., [0, 0, 0]], 16))
    four = np.concatenate([DEEP, DEEP[..., :1]], -1)
    extra = (338, 3, 1, struct.pack(order + "H", 2))
    assert torch.equal(read_image(tiff(four, extra, **kind)).pixels, colours(four, 16))


def test_grey_tiffs_with_white_as_zero_are_no_negatives():
    picture = read_image(tiff(DEEP[..., :1], photometric=0))
    assert torch.equal(picture.pixels, colours(65535 - DEEP[..., [0, 0, 0]], 16))


def test_twelve_bits_fill_the_range():
    values = RANDOM.integers(0, 4096, (6, 8), np.uint16)
    values[0, :2] = 0, 4095
    bits = (values[..., None] >> np.arange(11, -1, -1) & 1).astype(np.uint8)
    data = np.packbits(bits.reshape(6, -1), axis=1)[..., None]
    width, depth = ((tag, 3, 1, struct.pack("<H", n)) for tag, n in ((256, 8), (258, 12)))
    file = tiff(data, width, depth, skip=(256, 258))
    assert torch.equal(
        read_image(file).pixels, colours((values << 4 | values >> 8)[..., None].repeat(3, 2), 16)
    )


def test_bits_that_cannot_be_kept_are_named():
    ink = np.concatenate([DEEP, DEEP[..., :1]], -1)
    picture = read_image(tiff(ink, photometric=5))
    assert picture.bits == 8 and "16-bit" in picture.notes[0]
    premultiplied = (338, 3, 1, struct.pack("<H", 1))
    assert "16-bit" in read_image(tiff(ink, premultiplied)).notes[0]
    for packing in (1, 8):
        with pytest.raises(InputError, match="planes"):
            read_image(tiff(DEEP, planes=2, packing=packing))


def test_tags_beside_the_pixels_cost_no_tiff():
    odd = [(tag, 2, 4, b"72\0\0") for tag in (282, 283, 296, 318, 34665, 34853, 34675)]
    picture = read_image(tiff(PIXELS, *odd, orientation(3)))
    assert torch.equal(picture.pixels, colours(PIXELS[::-1, ::-1]))


# ---- anything at all


def _originals():
    image = Image.fromarray(PIXELS)
    block = exif(orientation(6), (271, 2, 8, b"A maker\0"))
    yield png(*COLOUR, *TEXTS, (b"eXIf", block), (b"iCCP", b"x\0\0" + zlib.compress(SRGB)))
    yield jpeg((0xE1, b"Exif\0\0" + block), (0xE2, b"ICC_PROFILE\0\1\1" + SRGB))
    yield tiff(DEEP, orientation(6), (34675, 7, len(SRGB), SRGB))
    yield tiff(PIXELS, (271, 2, 8, b"A maker\0"), packing=8, big=True)
    yield saved(image, "WEBP", lossless=True, exif=block, icc_profile=SRGB)
    yield saved(image, "GIF", save_all=True, append_images=[image.rotate(180)])
    yield saved(image.quantize(16), "BMP")


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("number", range(7))
def test_any_bytes_give_a_picture_or_an_input_error(number):
    original, dice = list(_originals())[number], random.Random(number)
    read_image(original)
    for _ in range(50):
        data = bytearray(original)
        for _ in range(dice.choice((1, 1, 3, 10))):
            at = dice.randrange(len(data))
            change = dice.choice(("set", "set", "cut", "insert", "delete"))
            if change == "set":
                data[at] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
            elif change == "insert":
                data[at:at] = data[at : at + dice.randrange(1, 30)]
            else:
                del data[at : at + dice.randrange(1, 20) if change == "delete" else None]
            data = data or bytearray(b"\0")
        with suppress(InputError):
            assert read_image(bytes(data)).pixels.ndim == 4


# ---- names of files


@pytest.mark.parametrize(
    "name", ["x" * 251, "字" * 83, "y" * 216, "a." + "b" * 244, "." + "c" * 249, "."]
)
def test_every_legal_name_can_be_written(tmp_path, name):
    path = tmp_path / f"{name}.png"
    write_image(path, colours(PIXELS))
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    long = tmp_path / ("n." + "s" * 253)
    atomic_write_bytes(long, b"x")
    assert long.read_bytes() == b"x"


def test_a_name_no_file_can_have_is_refused_before_the_work(tmp_path):
    for name in ("x" * 256 + ".png", "a\0b.png"):
        with pytest.raises(InputError, match="name"):
            require_file_name(tmp_path / name)
        with pytest.raises(InputError), atomic_path(tmp_path / name):
            raise AssertionError("the work is done")
    require_file_name(tmp_path / "new" / "a.png")
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="folder"):
        require_file_name(tmp_path)
