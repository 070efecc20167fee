"""Reading and writing pictures: nothing is lost where the docstring promises it."""

import io
import os
import stat
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from editmgt_lib.errors import InputError
from editmgt_lib.pictures.images import MAX_SIDE, Metadata, read_image, read_mask, write_image


def _values(shape, bits=8, seed=0):
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=kind)


def _floats(values, bits=8):
    return torch.from_numpy(values.astype(np.float32) / np.float32(2**bits - 1))[None]


def _file(image, format_="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _adam7(values):
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    for top, left, down, right in [*starts, (1, 0, 2, 1)]:
        part = values[top::down, left::right]
        yield from part if part.size else ()


def _png16(values, kind, *extra, interlaced=False):
    """A reference PNG encoder that shares nothing with ours: filter 0, one IDAT chunk."""
    height, width = values.shape[:2]
    lines = _adam7(values) if interlaced else values
    rows = [b"\0" + row.astype(">u2").tobytes() for row in lines]
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, interlaced)),
            *extra,
            _chunk(b"IDAT", zlib.compress(b"".join(rows))),
            _chunk(b"IEND", b""),
        ]
    )


def _png_samples(data):
    """Decode a 16-bit PNG written with filters 0 and 2, without Pillow."""
    at, body = 8, b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind = data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + content) == struct.unpack(">I", data[at + 8 + size :][:4])[0]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", content[:10])
        body += content if kind == b"IDAT" else b""
        at += 12 + size
    assert depth == 16
    channels = {0: 1, 2: 3, 6: 4}[colour]
    raw = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, -1)
    assert set(raw[:, 0]) <= {0, 2}
    rows, above = [], np.zeros(raw.shape[1] - 1, np.uint8)
    for row in raw:
        above = row[1:] + (above if row[0] == 2 else np.uint8(0))
        rows.append(above)
    return np.stack(rows).view(">u2").reshape(height, width, channels)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("channels", [3, 4])
def test_eight_bits_survive_lossless_files(tmp_path, suffix, channels):
    values = _values((19, 33, channels))
    if channels == 4:
        values[:5, :, 3] = 0  # colour under full transparency is kept too
    write_image(tmp_path / f"a{suffix}", _floats(values))
    picture = read_image(tmp_path / f"a{suffix}")
    assert torch.equal(picture.pixels, _floats(values))
    assert (picture.bits, picture.has_alpha) == (8, channels == 4)


def test_every_eight_and_sixteen_bit_value_survives(tmp_path):
    for bits in (8, 16):
        values = np.arange(2**bits, dtype=np.uint16).reshape(-1, 2 ** (bits // 2), 1).repeat(3, 2)
        write_image(tmp_path / "a.png", _floats(values, bits), bits=bits)
        picture = read_image(tmp_path / "a.png")
        assert torch.equal(picture.pixels, _floats(values, bits)) and picture.bits == bits


def test_comfyui_truncation_keeps_every_value():
    """SaveImage multiplies by 255 and cuts the fraction off; k/255 must not lose a step there."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = read_image(_file(Image.fromarray(values))).pixels[0, ..., 0].numpy()
    assert np.array_equal(np.clip(255.0 * pixels, 0, 255).astype(np.uint8), values)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.integers(1, 40), st.sampled_from([1, 3, 4]), st.integers(0, 2**31))
def test_sixteen_bit_files_match_an_independent_decoder(tmp_path_factory, height, width, ch, seed):
    path = tmp_path_factory.mktemp("png") / "a.png"
    values = _values((height, width, ch), 16, seed)
    write_image(path, _floats(values, 16), bits=16)
    assert np.array_equal(_png_samples(path.read_bytes()), values)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_of_every_kind_is_read_in_full(tmp_path, kind, channels, interlaced):
    values = _values((21, 13, channels), 16)
    picture = read_image(_png16(values, kind, interlaced=interlaced))
    where = {1: [0, 0, 0], 2: [0, 0, 0, 1], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]
    assert picture.bits == 16
    assert torch.equal(picture.pixels, _floats(values[..., where], 16))
    write_image(tmp_path / "b.png", picture.pixels, picture.bits)
    assert torch.equal(read_image(tmp_path / "b.png").pixels, picture.pixels)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3)])
def test_sixteen_bit_colour_key_becomes_alpha(kind, channels):
    values = _values((9, 7, channels), 16)
    key = _chunk(b"tRNS", values[4, 3].astype(">u2").tobytes())
    pixels = read_image(_png16(values, kind, key)).pixels
    assert pixels.shape[-1] == 4 and pixels[0, 4, 3, 3] == 0
    assert pixels[..., 3].sum() == 9 * 7 - 1


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_follows_its_orientation(kind, channels):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = _values((5, 8, channels), 16)
    rotated = read_image(_png16(values, kind, _chunk(b"eXIf", exif.tobytes()[6:]))).pixels
    plain = read_image(_png16(np.rot90(values, -1), kind)).pixels
    assert torch.equal(rotated, plain)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "WEBP", "JPEG"])
def test_orientation_is_applied(orientation, format_):
    values = np.zeros((16, 48, 3), np.uint8)
    values[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _file(Image.fromarray(values), format_, exif=exif, quality=95)
    pixels = read_image(data).pixels[0, ..., 0].numpy()
    turned = {
        1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1],
        5: values.transpose(1, 0, 2), 6: np.rot90(values, -1),
        7: values[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(values),
    }[orientation][..., 0]  # fmt: skip
    assert np.array_equal(pixels > 0.5, turned > 127)


def test_palette_grey_bits_and_cmyk_become_colour():
    values = _values((8, 9, 3))
    palette = Image.fromarray(values).quantize(16)
    picture = read_image(_file(palette))
    assert picture.mode == "P" and not picture.has_alpha
    assert torch.equal(picture.pixels, _floats(np.asarray(palette.convert("RGB"))))

    see_through = read_image(_file(palette, transparency=3))
    assert see_through.has_alpha
    holes = np.asarray(palette) == 3
    assert torch.equal(see_through.pixels[0, ..., 3] == 0, torch.from_numpy(holes))

    grey = read_image(_file(Image.fromarray(values[..., 0])))
    assert torch.equal(grey.pixels, _floats(values[..., :1].repeat(3, 2)))
    grey_alpha = read_image(_file(Image.fromarray(values[..., :2], "LA")))
    assert torch.equal(grey_alpha.pixels, _floats(values[..., [0, 0, 0, 1]]))
    one_bit = read_image(_file(Image.fromarray(values[..., 0] > 99)))
    assert set(one_bit.pixels.unique().tolist()) == {0.0, 1.0}
    cmyk = read_image(_file(Image.new("CMYK", (4, 3), (0, 255, 255, 0)), "JPEG"))
    assert cmyk.mode == "CMYK" and cmyk.pixels.shape == (1, 3, 4, 3)
    assert cmyk.pixels[..., 0].min() > 0.9 and cmyk.pixels[..., 1:].max() < 0.1


def test_other_sixteen_bit_grey(tmp_path):
    values = _values((6, 5), 16)
    Image.fromarray(values).save(tmp_path / "a.tif")
    for source in (tmp_path / "a.tif", Image.fromarray(values.astype(np.int32))):
        picture = read_image(source)
        assert picture.bits == 16
        assert torch.equal(picture.pixels[..., 0], _floats(values, 16))
    with pytest.raises(InputError, match="70000"):
        read_image(Image.fromarray(np.full((2, 2), 70000, np.int32)))


def test_a_pil_image_is_left_alone_and_read_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = _values((4, 7, 3))
    image = Image.open(io.BytesIO(_file(Image.fromarray(values), exif=exif)))
    assert torch.equal(read_image(image).pixels, _floats(np.rot90(values, -1)))
    assert image.size == (7, 4) and np.array_equal(np.asarray(image), values)


def test_profile_is_kept(tmp_path):
    values = _values((4, 4, 3))
    profile = b"not really a profile" * 9
    for bits, name in ((8, "a.png"), (16, "b.png"), (8, "c.webp"), (8, "d.jpg")):
        write_image(tmp_path / name, _floats(values), bits, Metadata(icc=profile))
        assert read_image(tmp_path / name).metadata.icc == profile


def test_masks_are_painted_or_transparent(tmp_path):
    values = np.zeros((4, 5, 4), np.uint8)
    values[..., 3] = 255
    values[1, 2, :3] = (255, 0, 0)
    values[2, 2] = (255, 255, 255, 0)
    mask = read_mask(_file(Image.fromarray(values)))
    assert mask.shape == (1, 4, 5) and mask.sum() == 1 and mask[0, 1, 2] == 1
    assert read_mask(_file(Image.fromarray(values[..., 0] > 0))).sum() == 2


def _broken():
    whole = _file(Image.fromarray(_values((64, 64, 3))))
    jpeg = _file(Image.fromarray(_values((64, 64, 3))), "JPEG")
    yield "empty", b""
    yield "text", b"hello, this is no picture"
    yield "cut png", whole[: len(whole) // 2]
    yield "cut jpeg", jpeg[: len(jpeg) // 2]
    yield "cut 16", _png16(_values((64, 64, 3), 16), 2)[:3000]
    yield "header only", whole[:33]
    yield "zero width", _png16(np.zeros((3, 0, 3)), 2)
    yield "float", _file(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF")


@pytest.mark.parametrize(
    ("name", "data"), list(_broken()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_broken_files_are_input_errors(tmp_path, name, data):
    path = tmp_path / "given.png"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(InputError):
            read_image(source)
    with pytest.raises(InputError):
        read_mask(path)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 500), st.integers(0, 255), st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]))
def test_damaged_bytes_never_raise_anything_else(at, value, format_):
    data = bytearray(_file(Image.fromarray(_values((12, 10, 3))), format_))
    data[at % len(data)] = value
    with suppress(InputError):
        assert read_image(bytes(data)).pixels.ndim == 4


def test_missing_files_folders_and_foreign_types_are_input_errors(tmp_path):
    for source in (tmp_path / "none.png", tmp_path, 7, None):
        with pytest.raises(InputError):
            read_image(source)
    with pytest.raises(InputError, match="none.png"):
        read_image(str(tmp_path / "none.png"))


def test_size_limit():
    assert read_image(Image.new("L", (MAX_SIDE, 3))).pixels.shape == (1, 3, MAX_SIDE, 3)
    for size in ((MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)):
        with pytest.raises(InputError, match=str(MAX_SIDE)):
            read_image(_file(Image.new("1", size)))
    header = struct.pack(">IIBBBBB", 2**20, 2**20, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"0"))
    with pytest.raises(InputError, match="too large"):
        read_image(bomb)


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, torch.zeros(1, 4, 4, 3))
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(InputError, match="disk full"):
        write_image(path, torch.ones(4, 4, 3))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_written_files_have_the_usual_rights(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_image(tmp_path / "a.png", torch.zeros(1, 2, 2, 3))
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.png")}
    assert len(modes) == 1


def test_what_cannot_be_written_is_an_input_error(tmp_path):
    picture = torch.zeros(1, 4, 4, 3)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for path, image, bits in [
        (tmp_path / "file" / "a.png", picture, 8),
        (tmp_path / "folder.png", picture, 8),
        (tmp_path / "a.bmp", picture, 8),
        (tmp_path / "a", picture, 8),
        (tmp_path / "a.jpg", picture, 16),
        (tmp_path / "a.png", picture, 12),
        (tmp_path / "a.jpg", torch.zeros(1, 4, 4, 4), 8),
        (tmp_path / "a.png", torch.zeros(2, 4, 4, 3), 8),
        (tmp_path / "a.png", torch.zeros(1, 0, 4, 3), 8),
        (tmp_path / "a.png", torch.zeros(1, 4, 4, 2), 8),
        (tmp_path / "a.png", torch.full((1, 4, 4, 3), torch.nan), 8),
        (tmp_path / "a.png", torch.zeros(1, 4, 4, 3, dtype=torch.uint8), 8),
        (tmp_path / "a.png", None, 8),
    ]:
        with pytest.raises(InputError):
            write_image(path, image, bits)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_values_outside_the_range_are_cut(tmp_path):
    write_image(tmp_path / "a.png", torch.tensor([[[-3.0, 0.5, 9.0]]]))
    assert read_image(tmp_path / "a.png").pixels[0, 0, 0].tolist()[::2] == [0.0, 1.0]
    assert "Picture(1x1x3" in repr(read_image(tmp_path / "a.png"))


@pytest.mark.parametrize("bits", [8, 16])
def test_values_go_to_the_nearest_step(tmp_path, bits):
    peak = 2**bits - 1
    steps = torch.tensor([[[10.4, 10.6, peak - 0.6]]])
    write_image(tmp_path / "a.png", steps / peak, bits)
    read = read_image(tmp_path / "a.png").pixels[0, 0, 0] * peak
    assert read.round().tolist() == [10, 11, peak - 1]


def test_a_pil_animation_stays_open(tmp_path):
    frames = [Image.fromarray(_values((5, 5), seed=seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as image:  # Pillow closes what it opened by a path itself
        first = read_image(image).pixels
        image.seek(1)
        assert not torch.equal(read_image(image).pixels, first)
