"""From pixels to tokens and back: exact boxes, and a composite that touches nothing else."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

from editmgt_lib.errors import InputError
from editmgt_lib.pictures.compositing import _border_distance
from editmgt_lib.pictures.fitting import (
    Canvas,
    FitOptions,
    Tokens,
    composite,
    fit,
    project_mask,
    support,
)

MODES = ("pad", "native", "crop")
sides = st.integers(1, 200)
seeds = st.integers(0, 2**31)


def _options(mode, **changes):
    return FitOptions(mode=mode, **({"resolution": 64, "factor": 8} | changes))


def _rng(seed):
    return torch.Generator().manual_seed(seed)


def _picture(batch, height, width, channels=3, seed=0):
    return torch.rand(batch, height, width, channels, generator=_rng(seed))


def _spots(batch, height, width, seed, count=3):
    """A few masked pixels in each item."""
    mask = torch.zeros(batch, height * width)
    spots = torch.randint(0, height * width, (batch, count), generator=_rng(seed))
    return mask.scatter_(1, spots, 1.0).view(batch, height, width)


def _bits(tensor):
    return tensor.contiguous().view(torch.int32)


def _same_outside(result, source, inside):
    """Bit for bit, not merely equal: -0.0 and the alpha channel count too."""
    different = _bits(result) != _bits(source)
    return not bool((different.any(-1) & ~inside).any())


@settings(max_examples=120, deadline=None)
@given(sides, sides, st.sampled_from(MODES), st.sampled_from([1, 3, 4]), st.integers(1, 2), seeds,
       st.sampled_from([0.0, 2.5]))  # fmt: skip
def test_outside_the_support_nothing_changes(height, width, mode, channels, batch, seed, feather):
    image = _picture(batch, height, width, channels, seed)
    before = image.clone()
    mask = _spots(batch, height, width, seed)
    pixels, canvas = fit(image, _options(mode), mask)
    cells = project_mask(mask, canvas, required=True)
    inside = support(cells, canvas, 0)
    assert bool((inside | (mask <= 0.5)).all())  # mask -> tokens -> support contains the mask
    decoded = torch.rand(pixels.shape, generator=_rng(seed + 1)) * 2 - 0.5
    result = composite(decoded, canvas, inside, feather)
    source = image.expand(-1, -1, -1, 3) if channels == 1 else image
    assert result.dtype == torch.float32 and result.shape == source.shape
    assert _same_outside(result, source, inside)
    assert result[..., :3].min() >= 0 and result[..., :3].max() <= 1
    if channels == 4:
        assert torch.equal(result[..., 3], image[..., 3])
    assert torch.equal(image, before) and canvas.source.data_ptr() == image.data_ptr()


@settings(max_examples=150, deadline=None)
@given(sides, sides, st.sampled_from(MODES), seeds)
def test_a_token_is_in_exactly_where_a_masked_pixel_overlaps_its_cell(height, width, mode, seed):
    mask = _spots(1, height, width, seed)
    _, canvas = fit(_picture(1, height, width), _options(mode), mask)
    (where,) = canvas.placements
    expected = torch.zeros(canvas.rows, canvas.cols, dtype=torch.bool)
    for y, x in (mask[0] > 0).nonzero().tolist():
        for row in _cells_of(y, where, 0, canvas):
            for col in _cells_of(x, where, 1, canvas):
                expected[row, col] = True
    assert torch.equal(project_mask(mask, canvas)[0], expected)
    assert torch.equal(project_mask(mask > 0.5, canvas)[0], expected)


def _cells_of(pixel, where, axis, canvas):
    """Reference: the pixel's image on the canvas as exact fractions, cut by the token grid."""
    scale = Fraction(where.scaled[axis], where.taken[axis])
    first = where.offset[axis] + (pixel - where.box[axis]) * scale
    last = first + scale
    return range(math.floor(first / canvas.factor), math.ceil(last / canvas.factor))


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from(MODES), seeds, st.integers(0, 2))
def test_support_is_the_transpose_of_the_projection(height, width, mode, seed, grow):
    mask = _spots(1, height, width, seed, 1)
    _, canvas = fit(_picture(1, height, width), _options(mode), mask)
    spot = project_mask(mask, canvas)
    changed = torch.rand(spot.shape, generator=_rng(seed)) < 0.2
    inside = support(changed, canvas, grow)
    touched = bool((project_mask(mask, canvas, dilate=grow) & changed).any())
    assert bool(inside[mask > 0.5].any()) == touched
    top, left, bottom, right = canvas.placements[0].box
    outside = torch.ones_like(inside)
    outside[0, top:bottom, left:right] = False
    assert not (inside & outside).any()


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.sampled_from(MODES), seeds)
def test_placements_stay_inside_and_keep_the_shape(height, width, mode, seed):
    mask = _spots(1, height, width, seed)
    options = _options(mode)
    pixels, canvas = fit(_picture(1, height, width), options, mask)
    (where,) = canvas.placements
    assert pixels.shape == (1, 3, *canvas.size) and pixels.dtype == torch.float32
    assert pixels.is_contiguous() and pixels.min() >= 0 and pixels.max() <= 1
    assert all(side % (2 * options.factor) == 0 for side in canvas.size)
    assert (canvas.rows * 8, canvas.cols * 8) == canvas.size
    scale = min(Fraction(c, t) for c, t in zip(canvas.size, where.taken, strict=True))
    if where.scaled == where.taken:
        scale = 1
    for axis in (0, 1):
        assert where.offset[axis] % options.factor == 0
        assert 0 <= where.offset[axis] <= canvas.size[axis] - where.scaled[axis]
        # uniform scale: each side is right to half a canvas pixel
        assert abs(where.scaled[axis] - where.taken[axis] * scale) <= max(
            Fraction(1, 2), 1 - where.taken[axis] * scale
        )
    if mode != "crop":
        assert where.box == (0, 0, height, width)
    if mode == "native":
        assert max(canvas.size) <= 2 * options.resolution


@settings(max_examples=60, deadline=None)
@given(sides, sides, seeds)
def test_at_scale_one_the_way_there_and_back_is_exact(height, width, seed):
    side = -(-max(height, width) // 32) * 32
    image = _picture(1, height, width, seed=seed)
    if max(height, width) < side:  # fill one side, so that nothing has to be scaled
        image = _picture(1, side, width, seed=seed)
    pixels, canvas = fit(image, FitOptions(resolution=side, factor=16))
    (where,) = canvas.placements
    top, left = where.offset
    taken = pixels[0, :, top : top + where.scaled[0], left : left + where.scaled[1]]
    assert torch.equal(taken.permute(1, 2, 0), image[0])
    everything = torch.ones(image.shape[:3], dtype=torch.bool)
    assert torch.equal(composite(pixels, canvas, everything), image)
    # padding repeats the edge
    assert torch.equal(pixels[0, :, 0, left], image[0, 0, 0])
    assert torch.equal(pixels[0, :, -1, -1], image[0, -1, -1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(8192, 3), (3, 8192), (1, 1), (4096, 2048)])
def test_extreme_sizes(mode, size):
    image = _picture(1, *size, 4)
    mask = torch.zeros(1, *size)
    mask[0, size[0] // 3, size[1] // 2] = 1
    pixels, canvas = fit(image, FitOptions(mode=mode), mask)
    cells = project_mask(mask, canvas, required=True)
    inside = support(cells, canvas, 1)
    assert inside[mask > 0.5].all()
    result = composite(1 - pixels, canvas, inside, feather=4)
    assert _same_outside(result, image, inside)
    assert max(canvas.size) <= 2048 and min(canvas.size) >= 32


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from(MODES), seeds)
def test_covered_tokens_are_those_that_touch_the_picture(height, width, mode, seed):
    mask = _spots(2, height, width, seed)
    _, canvas = fit(_picture(2, height, width), _options(mode), mask)
    assert torch.equal(canvas.covered, project_mask(torch.ones(1, height, width), canvas))


def test_one_pixel_of_an_8192_mask_selects_a_token():
    mask = torch.zeros(1, 8192, 8192, dtype=torch.bool)
    mask[0, 8191, 4097] = True
    whole = Canvas.blank(1, 8192, 8192)
    assert project_mask(mask, whole, required=True).nonzero().tolist() == [[0, 511, 256]]
    _, canvas = fit(torch.zeros(1, 1, 1, 3).expand(1, 8192, 8192, 3), FitOptions())
    assert project_mask(mask, canvas, required=True).nonzero().tolist() == [[0, 63, 32]]


def test_a_flat_picture_stays_flat_through_scaling():
    for mode in MODES:
        image = torch.full((1, 37, 91, 3), 0.25)
        mask = _spots(1, 37, 91, 0)
        pixels, canvas = fit(image, _options(mode), mask)
        assert (pixels - 0.25).abs().max() < 1e-6
        back = composite(pixels, canvas, torch.ones(1, 37, 91, dtype=torch.bool))
        assert (back - image).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(256, 256), (96, 160), (40, 300)])
def test_scaling_maps_places_right(size):
    """A smooth picture comes back nearly the same: nothing is shifted, mirrored or swapped."""
    height, width = size
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    image = torch.stack([y.expand(size), x.expand(size), (y + x) / 2], -1)[None]
    for mode in ("pad", "native"):
        pixels, canvas = fit(image, FitOptions(mode=mode, resolution=128, factor=8))
        assert canvas.size[0] < 256
        back = composite(pixels, canvas, torch.ones(1, *size, dtype=torch.bool))
        assert (back - image).abs().max() < 0.02


def test_native_takes_suitable_pictures_as_they_are():
    for size in [(1024, 1024), (896, 1152), (1000, 700), (2048, 256)]:
        image = torch.zeros(1, 1, 1, 3).expand(1, *size, 3)
        _, canvas = fit(image, FitOptions(mode="native"))
        assert canvas.placements[0].scaled == size
    for size in [(512, 512), (4000, 3000), (1, 50), (4096, 200)]:
        image = torch.zeros(1, 1, 1, 3).expand(1, *size, 3)
        _, canvas = fit(image, FitOptions(mode="native"))
        rows, cols = canvas.size
        assert rows * cols <= 1.1 * 1024**2
        if max(size) < 4 * min(size):
            assert rows * cols >= 0.9 * 1024**2
            assert abs(math.log(rows / cols) - math.log(size[0] / size[1])) < 0.05


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.floats(0, 3), seeds)
def test_crop_holds_the_region_and_its_context(height, width, context, seed):
    mask = _spots(1, height, width, seed)
    _, canvas = fit(_picture(1, height, width), _options("crop", context=context), mask)
    top, left, bottom, right = canvas.placements[0].box
    assert 0 <= top < bottom <= height and 0 <= left < right <= width
    rows, cols = mask[0].any(1).nonzero(), mask[0].any(0).nonzero()
    margin = round(context * int(max(rows.max() - rows.min(), cols.max() - cols.min()) + 1))
    assert top <= max(rows.min() - margin, 0) and bottom >= min(rows.max() + 1 + margin, height)
    assert left <= max(cols.min() - margin, 0) and right >= min(cols.max() + 1 + margin, width)
    scaled = canvas.placements[0].scaled
    if min(height, width) >= 16:  # the crop could be chosen large enough
        assert scaled[0] <= 4 * (bottom - top) and scaled[1] <= 4 * (right - left)


@pytest.mark.parametrize("mode", MODES)
def test_an_item_does_not_depend_on_its_batch(mode):
    image, mask = _picture(3, 150, 90, 4), _spots(3, 150, 90, 5)
    changed = torch.rand(3, 64, 64, generator=_rng(1)) < 0.1
    pixels, canvas = fit(image, _options(mode), mask)
    changed = changed[:, : canvas.rows, : canvas.cols]
    cells, inside = project_mask(mask, canvas), support(changed, canvas, 1)
    result = composite(1 - pixels, canvas, inside, 3)
    for k in range(3):
        one, alone = fit(image[k : k + 1], _options(mode), mask[k : k + 1])
        assert torch.equal(one[0], pixels[k]) and alone.placements[0] == canvas.placements[k]
        assert torch.equal(project_mask(mask[k : k + 1], alone)[0], cells[k])
        own = support(changed[k : k + 1], alone, 1)
        assert torch.equal(own[0], inside[k])
        assert torch.equal(composite(1 - one, alone, own, 3)[0], result[k])


def test_one_mask_serves_a_batch():
    mask = _spots(1, 64, 64, 0)
    pixels, canvas = fit(_picture(2, 64, 64), _options("crop"), mask)
    cells = project_mask(mask, canvas)
    assert pixels.shape[0] == 2 and torch.equal(cells[0], cells[1])


def test_dilation_and_growth_go_by_tokens():
    canvas = Canvas.blank(1, 64, 64, 8)
    mask = torch.zeros(1, 64, 64)
    mask[0, 35, 20] = 1
    cells = project_mask(mask, canvas, dilate=1)
    assert cells[0].nonzero().tolist() == [[r, c] for r in (3, 4, 5) for c in (1, 2, 3)]
    inside = support(project_mask(mask, canvas), canvas, 2)
    assert inside[0, 16:56, 0:40].all() and int(inside.sum()) == 40 * 40
    assert project_mask(mask, canvas, dilate=4096).all()


def test_values_at_half_are_outside():
    canvas = Canvas.blank(1, 32, 32, 16)
    assert not project_mask(torch.full((1, 32, 32), 0.5), canvas).any()
    assert project_mask(torch.full((1, 32, 32), 0.51, dtype=torch.float16), canvas).all()


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), seeds, st.floats(0.5, 1))
def test_border_distance_matches_a_reference(height, width, seed, density):
    inside = torch.rand(height, width, generator=_rng(seed)) < density
    if inside.all():
        assert _border_distance(inside).min() > 2**29
        return
    expected = distance_transform_cdt(inside.numpy(), metric="taxicab")
    assert np.array_equal(_border_distance(inside).numpy(), expected)


def test_feather_falls_inside_only_and_not_at_the_frame():
    image = torch.zeros(1, 64, 64, 3)
    pixels, canvas = fit(image, FitOptions(resolution=64, factor=8))
    inside = torch.zeros(1, 64, 64, dtype=torch.bool)
    inside[:, :, 32:] = True  # reaches three sides of the picture
    shares = composite(torch.ones_like(pixels), canvas, inside, feather=3)[0, :, :, 1]
    assert (shares == shares[0]).all()  # no fall towards top and bottom
    assert shares[0, 31:37].tolist() == [0, 0.25, 0.5, 0.75, 1, 1] and shares[0, -1] == 1
    hard = composite(torch.ones_like(pixels), canvas, inside)[0, :, :, 1]
    assert hard.unique().tolist() == [0, 1]
    inside[:] = True
    assert (composite(torch.ones_like(pixels), canvas, inside, feather=500) == 1).all()


def test_feather_falls_towards_the_crop_box():
    mask = torch.zeros(1, 100, 100)
    mask[0, 50, 50] = 1
    pixels, canvas = fit(torch.zeros(1, 100, 100, 3), _options("crop"), mask)
    top, left, bottom, right = canvas.placements[0].box
    assert top > 0 and right < 100
    everything = torch.ones(1, 100, 100, dtype=torch.bool)
    shares = composite(torch.ones_like(pixels), canvas, everything, feather=3)[0, ..., 0]
    assert shares[50, left - 1] == 0
    expected = torch.tensor([0.25, 0.5, 0.75, 1])
    for run in (shares[50, left:], shares[50, :right].flip(0), shares[:bottom, 50].flip(0)):
        assert torch.allclose(run[:4], expected)
    assert shares[bottom:].max() == 0


def test_the_decoded_picture_is_clamped_and_float16_is_taken():
    image = _picture(1, 32, 32)
    pixels, canvas = fit(image, FitOptions(resolution=32, factor=8))
    everything = torch.ones(1, 32, 32, dtype=torch.bool)
    result = composite((pixels * 8 - 4).half(), canvas, everything)
    assert result.min() == 0 and result.max() == 1 and result.dtype == torch.float32


def test_uint8_and_float16_pictures():
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    pixels, canvas = fit(values, FitOptions(resolution=32, factor=16))
    assert torch.equal(canvas.source, values.float() / 255) and pixels.shape == (1, 3, 32, 32)
    _, canvas = fit(_picture(1, 8, 8).half(), FitOptions(resolution=32, factor=16))
    assert canvas.source.dtype == torch.float32


def test_colours_slightly_out_of_range_stay_in_the_source():
    image = _picture(1, 32, 32) * 1.4 - 0.2
    before = image.clone()
    pixels, canvas = fit(image, FitOptions(resolution=32, factor=16))
    assert pixels.min() == 0 and pixels.max() == 1 and torch.equal(image, before)
    nothing = torch.zeros(1, 32, 32, dtype=torch.bool)
    assert torch.equal(composite(pixels, canvas, nothing), before)


def test_the_result_is_a_new_picture():
    image = _picture(1, 32, 32)
    pixels, canvas = fit(image, FitOptions(resolution=32, factor=16))
    before = image.clone()
    pixels.zero_()
    composite(pixels, canvas, torch.zeros(1, 32, 32, dtype=torch.bool)).zero_()
    assert torch.equal(image, before)


def test_a_blank_canvas_returns_what_was_decoded():
    canvas = Canvas.blank(2, 64, 96, 16)
    decoded = torch.rand(2, 3, 64, 96) * 2 - 0.5
    assert (canvas.rows, canvas.cols, canvas.batch) == (4, 6, 2)
    assert torch.equal(composite(decoded, canvas), decoded.clamp(0, 1).permute(0, 2, 3, 1))
    assert support(torch.ones(2, 4, 6, dtype=torch.bool), canvas, 0).all()
    assert repr(canvas) == "Canvas(2 x blank 64x96 -> 64x96, 4x6 tokens)"


def test_tokens_remember_the_untouched_source():
    _, canvas = fit(_picture(1, 32, 64), FitOptions(mode="native", resolution=64, factor=16))
    ids = torch.zeros(1, canvas.rows, canvas.cols, dtype=torch.int64)
    assert Tokens(ids, canvas).changed.all()
    edited = ids.clone()
    edited[0, 1, 1] = 5
    first = Tokens(ids, canvas, ids).with_ids(edited)
    assert first.changed.nonzero().tolist() == [[0, 1, 1]]
    edited = edited.clone()
    edited[0, 0, 0] = 7
    assert int(first.with_ids(edited).changed.sum()) == 2  # both edits of the chain
    assert not first.with_ids(ids).changed.any()
    assert "source" in repr(first) and len(repr(first)) < 60 and len(repr(canvas)) < 80
    for wrong in (ids.int(), ids[:, :1], ids[0], None):
        with pytest.raises(InputError, match="token ids"):
            Tokens(wrong, canvas)
        if wrong is not None:
            with pytest.raises(InputError, match="source_ids"):
                Tokens(ids, canvas, wrong)


@pytest.mark.parametrize("source", [True, False])
def test_an_item_is_its_picture_with_its_place_and_tokens(source):
    masks = _spots(3, 32, 64, seed=1, count=1)
    _, canvas = fit(_picture(3, 32, 64), _options("crop"), masks)
    if not source:
        canvas = Canvas.blank(3, 32, 64, 8)
    ids = torch.arange(3 * canvas.rows * canvas.cols).view(3, canvas.rows, canvas.cols)
    tokens = Tokens(ids, canvas, ids + 1 if source else None)
    for k in (0, 2, -1):
        item = tokens.item(k)
        assert torch.equal(item.ids[0], ids[k]) and item.canvas.batch == 1
        assert item.canvas.placements == (canvas.placements[k],)
        assert (item.canvas.height, item.canvas.size) == (canvas.height, canvas.size)
        if source:
            assert torch.equal(item.source_ids[0], ids[k] + 1)
            assert torch.equal(item.canvas.source[0], canvas.source[k])
        else:
            assert item.source_ids is None and item.canvas.source is None
    for batch in (tokens, canvas):
        with pytest.raises(IndexError):
            batch.item(3)


@pytest.mark.parametrize("source", [True, False])
def test_tokens_survive_a_file_bit_for_bit(source, tmp_path):
    _, canvas = fit(_picture(2, 33, 61, 4), _options("crop"), _spots(2, 33, 61, seed=1, count=1))
    if not source:
        canvas = Canvas.blank(2, 32, 64, 8)
    ids = torch.arange(2 * canvas.rows * canvas.cols).view(2, canvas.rows, canvas.cols)
    tokens = Tokens(ids, canvas, ids + ids % 2 if source else None, ("a note",))
    tokens.item(1).save(tmp_path / "new" / "one.safetensors")
    assert torch.equal(Tokens.load(tmp_path / "new" / "one.safetensors").ids, ids[1:])
    path = tmp_path / "new" / "two.safetensors"
    tokens.save(path)
    back = Tokens.load(path)
    assert torch.equal(back.ids, ids) and torch.equal(back.changed, tokens.changed)
    assert back.notes == ("a note",) and repr(back) == repr(tokens)
    assert back.canvas.placements == canvas.placements and repr(back.canvas) == repr(canvas)
    decoded = torch.rand(2, 3, *canvas.size, generator=_rng(1))
    areas = [support(t.changed, t.canvas, 1) if source else None for t in (tokens, back)]
    pictures = [composite(decoded, t.canvas, a) for t, a in zip((tokens, back), areas, strict=True)]
    assert torch.equal(*pictures)


def test_other_files_are_not_tokens(tmp_path):
    canvas = Canvas.blank(1, 32, 32, 8)
    ids = torch.zeros(1, 4, 4, dtype=torch.int64)
    path = tmp_path / "tokens.safetensors"
    Tokens(ids, canvas).save(path)
    content = path.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "text": b"no tensors in here",
        "instruction": content.replace(b"editmgt.tokens.1", b"editmgt.tockens1"),
        "size": content.replace(b"[32, 32]", b"[32, 64]"),
        "number": content.replace(b"[32, 32]", b"32      "),
        "field": content.replace(b"placements", b"placement_"),
    }
    for name, data in damaged.items():
        assert data != content
        (tmp_path / name).write_bytes(data)
    for name in (*damaged, "absent", "."):
        with pytest.raises(InputError, match="saved tokens"):
            Tokens.load(tmp_path / name)
    with pytest.raises(InputError, match="cannot write"):
        Tokens(ids, canvas).save(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mode": "stretch"}, "stretch"),
        ({"resolution": 1000}, "1000"),
        ({"resolution": 16}, "16"),
        ({"resolution": 1024.0}, "1024.0"),
        ({"factor": 0}, "factor"),
        ({"factor": True}, "factor"),
        ({"context": -1}, "context"),
        ({"context": math.nan}, "context"),
    ],
)
def test_options_are_checked(changes, named):
    with pytest.raises(InputError, match=named):
        FitOptions(**changes)


@pytest.mark.parametrize(
    "image",
    [
        torch.full((1, 4, 4, 3), math.nan),
        torch.full((1, 4, 4, 3), math.inf),
        torch.rand(1, 4, 4, 3) * 255,
        torch.zeros(1, 4, 4, 2),
        torch.zeros(4, 4, 3),
        torch.zeros(0, 4, 4, 3),
        torch.zeros(1, 0, 4, 3),
        torch.zeros(1, 4, 4, 3, dtype=torch.int64),
        np.zeros((1, 4, 4, 3)),
        None,
    ],
)
def test_pictures_are_checked(image):
    with pytest.raises(InputError, match="image"):
        fit(image, FitOptions())


def test_masks_are_checked():
    image, options = _picture(2, 20, 30), _options("crop")
    _, canvas = fit(image, _options("pad"))
    for ask in (lambda m: project_mask(m, canvas), lambda m: fit(image, options, m)):
        with pytest.raises(InputError, match="30x20.*20x30"):
            ask(torch.zeros(1, 30, 20))
        with pytest.raises(InputError, match="3 masks for 2 pictures"):
            ask(torch.zeros(3, 20, 30))
        for wrong in (torch.full((1, 20, 30), math.nan), torch.zeros(20, 30), "mask",
                      torch.zeros(1, 20, 30, dtype=torch.uint8)):  # fmt: skip
            with pytest.raises(InputError, match="mask"):
                ask(wrong)
    half = torch.zeros(2, 20, 30)
    half[0] = 1
    with pytest.raises(InputError, match=r"\[1\]"):
        project_mask(half, canvas, required=True)
    assert project_mask(half, canvas).any()
    with pytest.raises(InputError, match="fit is 'crop' and .* item 1 is empty"):
        fit(image, options, half)
    with pytest.raises(InputError, match="fit is 'crop' without a mask"):
        fit(image, options)
    with pytest.raises(InputError, match="dilate"):
        project_mask(half, canvas, dilate=-1)


def test_support_and_composite_are_checked():
    pixels, canvas = fit(_picture(1, 20, 30), _options("pad"))
    cells = torch.ones(1, canvas.rows, canvas.cols, dtype=torch.bool)
    inside = support(cells, canvas, 0)
    for changed, grow in ((cells.float(), 0), (cells[:, 1:], 0), (cells, -1), (cells, 1.5)):
        with pytest.raises(InputError):
            support(changed, canvas, grow)
    for decoded, where, feather in (
        (pixels[:, :, 1:], inside, 0),
        (pixels.int(), inside, 0),
        (pixels * math.nan, inside, 0),
        (pixels, None, 0),
        (pixels, inside.float(), 0),
        (pixels, inside[:, 1:], 0),
        (pixels, inside, -1),
        (pixels, inside, math.inf),
    ):
        with pytest.raises(InputError):
            composite(decoded, canvas, where, feather)
    for wrong in ((0, 64, 64), (1, 63, 64), (1, 64, 16384), (1, 64, 8)):
        with pytest.raises(InputError):
            Canvas.blank(*wrong, factor=16)
