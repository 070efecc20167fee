"""What stands beside the pixels costs no picture, and is kept or named."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from editmgt_lib.errors import InputError
from editmgt_lib.pictures.images import Metadata, read_image, write_image

from .picture_bytes import (
    COLOUR,
    PIXELS,
    SRGB,
    TEXTS,
    chunk,
    colours,
    directory,
    exif,
    jpeg,
    orientation,
    png,
    saved,
    tiff,
)

# ---- EXIF

TAGS = (256, 259, 270, 271, 282, 296, 305, 306, 318, 319, 531, 532, 33432, 34665, 34853, 40091)
RAW = {
    1: b"\1", 2: b"72\0\0", 3: b"\7\0", 5: struct.pack("<II", 72, 0), 6: b"\xff", 7: b"\1\2\3\4",
    8: b"\xf9\xff", 9: struct.pack("<i", -7), 10: struct.pack("<ii", -7, 2),
    11: struct.pack("<f", 0.5), 12: struct.pack("<d", 0.5), 13: bytes(4), 99: b"\1\2\3\4",
}  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_no_odd_tag_costs_a_turned_photo(tag):
    for kind, raw in RAW.items():
        count = len(raw) if kind in (2, 7) else 1
        block = exif(orientation(6), (tag, kind, count, raw))
        for data in (jpeg((0xE1, b"Exif\0\0" + block)), png((b"eXIf", block))):
            picture = read_image(data)
            assert picture.pixels.shape == (1, 14, 10, 3), (tag, kind)
            assert picture.metadata.exif is not None


@pytest.mark.parametrize(
    "block",
    [b"", b"II*\0", b"XX*\0\10\0\0\0", exif(orientation(6))[:14], exif(orientation(9)),
     b"II*\0\xff\xff\xff\xff", exif((274, 2, 2, b"6\0"))],
)  # fmt: skip
def test_a_damaged_exif_block_turns_nothing_and_costs_nothing(block):
    for data in (jpeg((0xE1, b"Exif\0\0" + block)), png((b"eXIf", block))):
        assert read_image(data).pixels.shape == (1, 10, 14, 3)


def test_exif_is_written_back_upright_and_without_thumbnail(tmp_path):
    small = b"\xff\xd8 the picture as it was \xff\xd9"
    block = exif(orientation(6), (271, 2, 8, b"A maker\0"), (315, 2, 4, b"Me!\0"))
    second = directory([(513, 4, 1, struct.pack("<I", len(block) + 30)),
                        (514, 4, 1, struct.pack("<I", len(small)))], len(block))  # fmt: skip
    link = 8 + 2 + 12 * 3
    block = block[:link] + struct.pack("<I", len(block)) + block[link + 4 :] + second + small
    for data in (jpeg((0xE1, b"Exif\0\0" + block)), png((b"eXIf", block))):
        picture = read_image(data)
        assert small not in picture.metadata.exif
        for name in ("a.png", "a.jpg", "a.webp"):
            assert write_image(tmp_path / name, picture.pixels, 8, picture.metadata) == ()
            with Image.open(tmp_path / name) as image:
                assert image.getexif()[271].rstrip("\0") == "A maker"
                assert image.getexif()[274] == 1 and image.size == (10, 14)


def test_exif_of_a_tiff_goes_with_it(tmp_path):
    tags = [(271, 2, 8, b"A maker\0"), orientation(6)]
    at = len(tiff(PIXELS, *tags, (34665, 4, 1, bytes(4))))
    data = tiff(PIXELS, *tags, (34665, 4, 1, struct.pack("<I", at)))
    loop = (34665, 4, 1, struct.pack("<I", at))
    picture = read_image(data + directory([(37510, 7, 9, b"a comment"), loop], at))
    write_image(tmp_path / "a.png", picture.pixels, 8, picture.metadata)
    with Image.open(tmp_path / "a.png") as image:
        got = image.getexif()
        assert (got[271], got[274], image.size) == ("A maker", 1, (10, 14))
        assert got.get_ifd(34665)[37510] == b"a comment"


def test_orientation_in_imagemagicks_text_and_in_xmp_is_seen(tmp_path):
    raw = (b"Exif\0\0" + exif(orientation(6))).hex().encode()
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      40\n" + raw + b"\n")
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="6"/>'
    for kind, body in ((b"zTXt", text), (b"iTXt", xmp)):
        picture = read_image(png((kind, body)))
        assert picture.pixels.shape == (1, 14, 10, 3)
        write_image(tmp_path / "a.png", picture.pixels, 8, picture.metadata)
        assert torch.equal(read_image(tmp_path / "a.png").pixels, picture.pixels), "turned once"


# ---- what stands beside the pixels of a PNG or a JPEG

LONG = b"0" * 3_000_000
SIDE = [
    (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LONG)),
    (b"zTXt", b"workflow\0\0" + zlib.compress(LONG)),
    (b"zTXt", b"workflow\0\0" + b"no zlib"),
    (b"tEXt", b""),
    (b"iCCP", b"big\0\0" + zlib.compress(SRGB + LONG)),
    (b"iCCP", b"bad\0\0no zlib"),
    (b"iCCP", b""),
    (b"sRGB", b""),
    (b"gAMA", b"\0"),
    (b"pHYs", b"\0"),
    (b"tRNS", b"\0"),
    (b"acTL", b"\0"),
    (b"fcTL", b"\0"),
    (b"eXIf", b"nothing"),
    (b"cHRM", b"x" * 31),
    chunk(b"gAMA", b"\0\0\0\1")[:-1] + b"!",
    chunk(b"tRNS", b"\0" * 6)[:-1] + b"!",
]


@pytest.mark.parametrize("side", SIDE, ids=lambda c: repr(c[0] if isinstance(c, tuple) else c[4:8]))
def test_no_side_chunk_costs_a_png(tmp_path, side):
    picture = read_image(png(side))
    assert torch.equal(picture.pixels, colours(PIXELS))
    write_image(tmp_path / "a.png", picture.pixels, 8, picture.metadata)
    assert torch.equal(read_image(tmp_path / "a.png").pixels, picture.pixels)


@pytest.mark.parametrize(
    "segment",
    [(0xE1, b"Exif"), (0xE2, b"MPF\0"), (0xE2, b"MPF\0" + exif((1, 1, 1, b"x"))), (0xE2, b""),
     (0xE2, b"ICC_PROFILE\0\2\3" + SRGB), (0xED, b"Photoshop 3.0\x008BIM\4"), (0xFE, b"\xff\0x"),
     (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x"), (0xE5, b"?")],
)  # fmt: skip
def test_no_side_segment_costs_a_jpeg(segment):
    assert torch.equal(read_image(jpeg(segment)).pixels, read_image(jpeg()).pixels)


def test_a_cut_png_is_still_refused():
    whole = png()
    assert read_image(whole[:-12]).pixels.shape == (1, 10, 14, 3), "only its end mark is missing"
    with pytest.raises(InputError):
        read_image(whole[:-60])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_keeps_what_it_says(tmp_path, bits):
    extra = [*COLOUR, *TEXTS, (b"pHYs", struct.pack(">IIB", 11811, 5906, 1))]
    picture = read_image(png(*extra, (b"iCCP", b"x\0\0" + zlib.compress(SRGB))))
    assert picture.notes == ()
    assert write_image(tmp_path / "a.png", picture.pixels, bits, picture.metadata) == ()
    again = read_image(tmp_path / "a.png")
    assert again.metadata == picture.metadata and again.metadata.icc == SRGB
    data = (tmp_path / "a.png").read_bytes()
    assert all(chunk(*part) in data for part in extra)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"prompt": "{}", "workflow": "{}"}


def test_what_another_format_cannot_hold_is_named(tmp_path):
    picture = read_image(png(*COLOUR, *TEXTS, (b"pHYs", struct.pack(">IIB", 11811, 11811, 1))))
    webp = " ".join(write_image(tmp_path / "a.webp", picture.pixels, 8, picture.metadata))
    assert all(word in webp for word in ("workflow", "gAMA", "cICP", "dpi"))
    photo = " ".join(write_image(tmp_path / "a.jpg", picture.pixels, 8, picture.metadata))
    assert "gAMA" in photo and "dpi" not in photo
    assert read_image(tmp_path / "a.jpg").metadata.dpi == (300, 300)
    plain = read_image(png((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))))
    assert write_image(tmp_path / "b.jpg", plain.pixels, 8, plain.metadata) == ()
    long = Metadata(exif=exif((37500, 7, 70_000, bytes(70_000))))
    assert "EXIF" in write_image(tmp_path / "c.jpg", plain.pixels, 8, long)[0]


def test_resolution_is_turned_with_the_picture():
    sides = struct.pack(">IIB", 3937, 7874, 1)
    assert read_image(png((b"pHYs", sides))).metadata.dpi == pytest.approx((100, 200), abs=0.01)
    turned = read_image(png((b"pHYs", sides), (b"eXIf", exif(orientation(6)))))
    assert turned.metadata.dpi == pytest.approx((200, 100), abs=0.01)


def test_comments_become_texts(tmp_path):
    picture = read_image(jpeg((0xFE, "schön".encode())))
    write_image(tmp_path / "a.png", picture.pixels, 8, picture.metadata)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"Comment": "schön"}


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_frames_that_are_not_read_are_named(format_):
    frames = [Image.fromarray(np.roll(PIXELS, k, 0)) for k in range(3)]
    data = saved(frames[0], format_, save_all=True, append_images=frames[1:])
    assert "frames 2 to 3 are not read" in read_image(data).notes
    assert read_image(saved(frames[0], format_)).notes == ()


def test_further_pictures_of_a_jpeg_are_named():
    several = exif((0xB001, 4, 1, struct.pack("<I", 2)))
    assert read_image(jpeg((0xE2, b"MPF\0" + several))).notes == ("frame 2 is not read",)


# ---- colour profiles


def grey_profile(gamma=2.2, space=b"XYZ "):
    """A small grey profile: a curve, a white and a name."""
    tags = {
        b"desc": b"desc\0\0\0\0\0\0\0\5grey\0" + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0",
    }
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += value
    head = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, b"mntr", b"GRAY", space
    )
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


@pytest.mark.parametrize("gamma", [1.8, 2.2])
def test_a_grey_profile_looks_the_same_on_the_rgb_picture(gamma):
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    profile = grey_profile(gamma)
    picture = read_image(saved(ramp, icc_profile=profile))
    assert picture.notes == ()
    assert torch.equal(picture.pixels, colours(np.asarray(ramp)[..., None].repeat(3, 2)))
    shown = [
        np.asarray(
            ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"), outputMode="RGB",
            )
        ).astype(int)
        for image, icc in ((ramp, profile), (ramp.convert("RGB"), picture.metadata.icc))
    ]  # fmt: skip
    assert abs(shown[0] - shown[1]).max() <= 1


def test_profiles_of_another_kind_are_named_and_not_kept():
    grey, colour = Image.fromarray(PIXELS[..., 0]), Image.fromarray(PIXELS)
    for image, icc in (
        (grey, SRGB), (colour, grey_profile()), (grey, grey_profile(space=b"Lab ")),
        (colour.convert("CMYK"), SRGB),
    ):  # fmt: skip
        picture = read_image(saved(image, "TIFF", icc_profile=icc))
        assert picture.metadata.icc is None and "profile" in picture.notes[0]


def test_cmyk_goes_through_its_own_profile(monkeypatch):
    ink = Image.fromarray(PIXELS).convert("CMYK")
    monkeypatch.setattr(ImageCms, "ImageCmsProfile", lambda file: file)
    monkeypatch.setattr(
        ImageCms, "profileToProfile", lambda *_, **__: Image.fromarray(PIXELS[::-1].copy())
    )
    picture = read_image(saved(ink, "TIFF", icc_profile=b"x" * 16 + b"CMYK" + b"x" * 200))
    assert torch.equal(picture.pixels, colours(PIXELS[::-1]))
    assert picture.metadata.icc is None and "CMYK" in picture.notes[0]
