"""What curation finds out about a picture without a model: known answers, and hostile files."""

import io
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFilter

from editmgt_lib.curation import pixels
from editmgt_lib.curation.decoding import decode_picture, trailing_bytes
from editmgt_lib.curation.hashing import distances, phashes
from editmgt_lib.curation.images import VALUES, ImageStage, measure
from editmgt_lib.curation.rows import Origin, Row
from editmgt_lib.errors import InputError

from .picture_bytes import saved

X, Y = np.arange(256)[None], np.arange(256)[:, None]
WAVES = 127.5 + 60 * np.sin(X / 17) + 40 * np.cos(Y / 23) + 20 * np.sin((X + 2 * Y) / 31)
WAVES = np.clip(WAVES, 0, 255).astype(np.uint8)
RAMP = np.tile(np.arange(64) * 4, (64, 1)).astype(np.uint8)
BOARD = np.kron(np.indices((8, 8)).sum(0) % 2 * 255, np.ones((8, 8))).astype(np.uint8)
FLAT = np.full((64, 64), 77, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def colour(luma):
    return np.repeat(luma[..., None], 3, -1)


def scores(luma):
    return measure(saved(Image.fromarray(colour(luma))))


@pytest.mark.parametrize(
    ("luma", "entropy", "spread", "edges"),
    [(FLAT, 0, 0, 0), (RAMP, 6, 73.8918, 0), (BOARD, 1, 127.5, 35997.19)],
    ids=["flat", "ramp", "checkerboard"],
)
def test_monotony_needs_entropy_and_edges(luma, entropy, spread, edges):
    found = scores(luma)
    assert (found["entropy"], found["spread"], found["edges"]) == pytest.approx(
        (entropy, spread, edges), abs=0.01
    )


def test_entropy_of_a_flat_coloured_picture_is_zero():
    """Pillow's own gives log2(3) for any of them, and -0.0 for a grey one."""
    for level in ((200, 30, 90), (0, 0, 0), (255, 255, 255)):
        found = measure(saved(Image.new("RGB", (40, 30), level)))
        assert str(found["entropy"]) == "0.0"


def test_entropy_of_noise():
    assert pixels.entropy(pixels.histogram(pixels.grey(NOISE))) == pytest.approx(7.603, abs=1e-3)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [(colour(WAVES), 0), (NOISE, 139.697), (np.full((4, 4, 3), (255, 0, 0), np.uint8), 85.5296)],
)
def test_colourfulness(rgb, expected):
    assert pixels.colours(rgb) == pytest.approx(expected, abs=1e-3)


def test_levels():
    dark = np.where(np.arange(10000) < 9950, 20, 255).astype(np.uint8).reshape(100, 100)
    assert pixels.levels(pixels.histogram(dark)) == (round(20 / 255, 6), round(20 / 255, 6))
    light = np.where(np.arange(10000) < 100, 0, 250).astype(np.uint8).reshape(100, 100)
    assert pixels.levels(pixels.histogram(light))[0] == round(250 / 255, 6)


def test_a_sharp_subject_on_a_blurred_background_is_sharp():
    noise = Image.fromarray(pixels.grey(np.kron(NOISE, np.ones((4, 4, 1), np.uint8))))
    blurred = np.asarray(noise.filter(ImageFilter.GaussianBlur(6)))
    portrait = blurred.copy()
    portrait[96:160, 96:160] = np.asarray(noise)[96:160, 96:160]
    shaken, subject = (pixels.laplacian(luma) for luma in (blurred, portrait))
    assert pixels.sharpness(shaken) < 50 < pixels.sharpness(subject)
    assert pixels.edges(subject) < pixels.sharpness(subject) / 5


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 1), (1, 500), (5, 4)])
def test_tiny_pictures_are_measured(shape):
    found = scores(np.zeros(shape, np.uint8))
    assert found["sharpness"] == 0 and found["short_side"] == min(shape)
    assert set(VALUES) - {"bytes"} <= set(found)


def test_scores_of_a_large_picture_are_those_of_the_whole(monkeypatch):
    rgb = np.random.default_rng(5).integers(0, 256, (70, 90, 3), np.uint8)
    whole = measure(saved(Image.fromarray(rgb)))
    monkeypatch.setattr(pixels, "_BAND", 500)
    assert measure(saved(Image.fromarray(rgb))) == whole
    luma = pixels.grey(rgb).astype(float)
    assert whole["spread"] == pytest.approx(luma.std(), abs=1e-5)
    assert whole["edges"] == pytest.approx(pixels.laplacian(luma).astype(float).var(), rel=1e-6)


# ---- the perceptual hash


@pytest.mark.parametrize(
    ("luma", "expected"),
    [(FLAT, 1 << 63), (RAMP, 1 << 63), (BOARD, 1 << 63), (WAVES, 0xF8E135E0B560CA1F)],
)
def test_phash_is_that_of_imagehash(luma, expected):
    assert bin(phashes(luma)[0] ^ expected).count("1") <= 2


def bits(one, other):
    return int(distances(np.array([one], np.uint64), np.array([other], np.uint64))[0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda i: i.resize((128, 128), Image.Resampling.LANCZOS), 2),
        (lambda i: i.resize((512, 512), Image.Resampling.LANCZOS), 0),
        (lambda i: i.point(lambda v: min(255, v + 20)), 2),
        (lambda i: i.point(lambda v: 255 - v), 62),
        (lambda i: i.filter(ImageFilter.GaussianBlur(2)), 0),
        (lambda i: Image.open(io.BytesIO(saved(i, "JPEG", quality=50))), 2),
        (lambda i: i.transpose(Image.Transpose.ROTATE_90), 30),
    ],
)
def test_phash_distances(change, expected):
    image = Image.fromarray(WAVES)
    changed = np.asarray(change(image).convert("L"))
    assert abs(bits(phashes(WAVES)[0], phashes(changed)[0]) - expected) <= 2


def test_mirror_images_are_found_by_the_mirrored_hash_alone():
    mirrored = np.ascontiguousarray(WAVES[:, ::-1])
    (own, turned), (other, _) = phashes(WAVES), phashes(mirrored)
    assert bits(own, other) >= 24
    assert bits(turned, other) <= 2


def test_distances_without_numpy_2(monkeypatch):
    hashes = np.random.default_rng(2).integers(0, 2**64, 50, np.uint64)
    expected = [bin(int(a) ^ int(b)).count("1") for a, b in zip(hashes, hashes[::-1], strict=True)]
    assert distances(hashes, hashes[::-1]).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert distances(hashes, hashes[::-1]).tolist() == expected


# ---- decoding


def test_pixels_have_a_hash_of_their_own():
    black = Image.new("RGB", (4, 4))
    png, webp = measure(saved(black)), measure(saved(black, "WEBP", lossless=True))
    expected = "17b0761f87b081d5cf10757ccc89f12be355c70e2e29df288b65b30710dcbcd1"
    assert png["pixels"] == webp["pixels"] == expected


def test_size_is_that_of_the_upright_picture():
    exif = Image.Exif()
    exif[274] = 6
    found = measure(saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif))
    assert (found["width"], found["height"], found["aspect"]) == (20, 40, 2)


@pytest.mark.parametrize("hidden", [(255, 255, 255, 0), (0, 0, 0, 0), (10, 200, 30, 0)])
def test_hidden_colours_do_not_show(hidden):
    decoded = decode_picture(saved(Image.new("RGBA", (8, 8), hidden)))
    assert (decoded.rgb == 255).all() and decoded.transparent == 1


def test_half_transparent_is_mixed_with_white():
    decoded = decode_picture(saved(Image.new("RGBA", (2, 2), (0, 100, 255, 51))))
    assert decoded.rgb[0, 0].tolist() == [204, 224, 255]


def test_16_bits_are_scaled_and_not_clipped():
    decoded = decode_picture(saved(Image.fromarray(np.full((4, 4), 40000, np.uint16))))
    assert decoded.bits == 16 and (decoded.rgb == 156).all()


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_animations_are_counted_and_their_first_frame_read(format_):
    frames = [Image.new("RGB", (8, 8), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if format_ == "WEBP" else {}
    decoded = decode_picture(
        saved(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    )
    assert decoded.frames == 3 and decoded.rgb[0, 0].tolist() == [255, 0, 0]


def test_grey_palette_and_cmyk_become_rgb():
    for image in (Image.new("L", (4, 4), 99), Image.new("P", (4, 4)), Image.new("1", (4, 4))):
        assert decode_picture(saved(image)).rgb.shape == (4, 4, 3)
    assert decode_picture(saved(Image.new("CMYK", (4, 4)), "JPEG")).mode == "CMYK"


def claiming(width, height):
    """A PNG of 65 bytes that claims any size."""

    def chunk(kind, body):
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def bad_files():
    whole = saved(Image.fromarray(NOISE), "JPEG")
    yield "nothing", b""
    yield "no picture", b"hello, I am a picture"
    yield "half a JPEG", whole[: len(whole) // 2]
    yield "half a PNG", saved(Image.fromarray(NOISE))[:600]
    yield "a bomb", claiming(20000, 20000)
    yield "a long bomb", claiming(2**31 - 1, 1)
    yield "a zip file", b"PK\3\4" + bytes(200)
    yield "a script", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"


@pytest.mark.parametrize("data", [d for _, d in bad_files()], ids=[n for n, _ in bad_files()])
def test_bad_files_fail_with_a_reason(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError):
            decode_picture(data)
        (found,) = ImageStage()([Row("a", Origin("s", "k"), data)])
    assert found.failure.code == "unreadable" and found.failure.lasting
    assert found.values["bytes"] == len(data) and len(found.values["sha256"]) == 64


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_a_file_behind_the_picture_is_noticed(format_):
    data = saved(Image.fromarray(NOISE), format_)
    hidden = io.BytesIO()
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.writestr("payload.js", "alert(1)")
    assert trailing_bytes(data) == 0
    both = data + hidden.getvalue()
    assert trailing_bytes(both) == len(hidden.getvalue())
    assert (decode_picture(both).rgb == decode_picture(data).rgb).all()
