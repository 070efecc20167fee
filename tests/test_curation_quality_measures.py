"""What changed between two pictures, and how one lies on the other: known answers."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from editmgt_lib.curation import changes
from editmgt_lib.curation.alignment import align
from editmgt_lib.curation.quality import QualityOptions, measure, stretch

X, Y = np.arange(256)[None], np.arange(256)[:, None]
WAVES = 127.5 + 60 * np.sin(X / 17) + 40 * np.cos(Y / 23) + 20 * np.sin((X + 2 * Y) / 31)
WAVES = np.clip(WAVES, 0, 255).astype(np.uint8)


def colour(luma):
    return np.repeat(luma[..., None], 3, -1)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(seed, size=256, sigma=1.0):
    """Noise without its finest grain, over the whole range."""
    x = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), sigma)
    return np.rint((x - x.min()) / (x.max() - x.min()) * 255).astype(np.uint8)


def textured(seed, size):
    """Structure of all scales, as photographs have."""
    grain = np.random.default_rng(seed).standard_normal((size, size))
    x = sum(sigma * ndimage.gaussian_filter(grain, sigma) for sigma in (1, 3, 9, 27))
    return np.clip(127 + 45 * x / x.std(), 0, 255)


def seen(big, size, zoom=(1.0, 1.0), shift=(0.0, 0.0)):
    """The middle of a larger picture after its content was zoomed and moved by (x, y)."""
    axes = []
    for whole, z, t in zip(big.shape, zoom[::-1], shift[::-1], strict=True):
        axes.append((whole - 1) / 2 + (np.arange(size) - (size - 1) / 2 - t) / z)
    places = np.meshgrid(*axes, indexing="ij")
    return np.clip(np.rint(ndimage.map_coordinates(big, places, order=3)), 0, 255).astype(np.uint8)


def jpeg(rgb, quality):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# ---- differences


def test_differences_do_not_wrap():
    """AnyEdit's filter subtracts bytes: 0 - 1 is 255 there."""
    before = np.array([[[0, 10, 200], [0, 0, 0]]], np.uint8)
    after = np.array([[[1, 5, 100], [1, 0, 0]]], np.uint8)
    assert changes.difference(before, after).tolist() == [[100, 1]]
    assert changes.difference(after, before).tolist() == [[100, 1]]


def test_a_block():
    before = np.full((64, 64, 3), 100, np.uint8)
    after = before.copy()
    after[8:24, 40:56] = 200
    for box in (None, (40 / 64, 8 / 64, 56 / 64, 24 / 64)):
        values, changed = measure(before, after, "replace", box=box)
        assert values["changed"] == 0.0625 and values["outside"] == 0 and not values["noop"]
        assert (values["components"], values["largest"], values["isolated"]) == (1, 1, 0)
        assert values["place"] == ("box" if box else "regions")
        assert changed.sum() == 256 and changed[8:24, 40:56].all()


def test_speckle():
    """NHR-Edit's rule: 1,000 isolated pixels are no edit, one block is."""
    before = np.zeros((256, 256, 3), np.uint8)
    after = before.copy()
    after[: 2 * 40 : 2, : 2 * 25 : 2] = 255
    values, _ = measure(before, after, "add")
    assert (values["components"], values["largest"], values["isolated"]) == (1000, 0.001, 1)
    after[100:200, 100:200] = 255
    values, _ = measure(before, after, "add")
    assert values["largest"] > 0.9 and not values["noop"]


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_the_noise_of_a_jpeg_is_no_edit(quality):
    pictures = colour(WAVES), noise(0, 128, 128, 3), colour(noise(0, 128, 128))
    for rgb in pictures:
        values, _ = measure(rgb, jpeg(rgb, quality), "remove")
        assert values["noop"] == 1 and values["outside"] is None and abs(values["drift"]) <= 1


@pytest.mark.parametrize("size", [(64, 96), (9, 70), (5, 3), (1, 1)])
def test_a_faint_edit_of_a_place_is_one(size):
    """Of 20 levels, such as white to cream, which no tolerance for noise lets a pixel have."""
    before = np.full((*size, 3), 255, np.uint8)
    after = before.copy()
    after[:20, :30, 2] = 235
    values, _ = measure(before, after, "color")
    assert values["noop"] == 0 and values["strongest"] == 20 and values["changed"] == 0
    assert measure(before, after, "color", QualityOptions(visible=20))[0]["noop"] == 1


def test_a_pair_of_one_picture_is_no_edit():
    rgb = noise(3, 64, 96, 3)
    values, changed = measure(rgb, rgb, "add")
    assert values["noop"] == 1 and values["changed"] == 0 and not changed.any()
    assert values["largest"] is None and values["isolated"] is None


@pytest.mark.parametrize("levels", [-25, 20, 25])
def test_a_tint_of_the_whole_picture_is_drift_and_no_edit(levels):
    before = (textured(1, 128) * 0.5 + 60).astype(int)
    values, _ = measure(
        colour(before.astype(np.uint8)), colour((before + levels).astype(np.uint8)), "remove"
    )
    assert values["drift"] == levels and values["changed"] == 0
    assert (values["shift_x"], values["zoom"], values["residual"]) == (0, 1, 0)


def test_a_stronger_tint_is_drift_of_everything():
    before = (textured(1, 128) * 0.5 + 60).astype(np.uint8)
    values, _ = measure(colour(before), colour(before + np.uint8(60)), "remove")
    assert (values["drift"], values["changed"], values["outside"]) == (60, 1, None)


def test_drift_is_not_what_the_edit_did():
    before = textured(2, 128).astype(np.uint8)
    after = before.copy()
    after[:80, :80] = 255
    assert changes.drift(before, after) == 0
    after[:100, :110] = 255  # more than half
    values, _ = measure(colour(before), colour(after), "replace")
    assert values["changed"] > 0.5 and values["drift"] == values["outside"] == 0


def test_where_everything_changed_nothing_is_outside():
    before = (textured(1, 128) * 0.4).astype(np.uint8)
    for category in ("style", "background change", "replace"):
        values, _ = measure(colour(before), colour(before + 120), category)
        assert values["changed"] == 1 and values["outside"] is None and values["place"] == ""


@pytest.mark.parametrize("category", ["style", "background change"])
def test_an_edit_of_the_whole_picture_has_no_drift_and_no_outside(category):
    before = np.full((64, 64, 3), 90, np.uint8)
    after = before.copy()
    after[20:40, 20:40] = 200
    values, _ = measure(before, after, category)
    assert values["drift"] is None and values["outside"] is None and values["changed"] > 0


def test_a_second_change_lies_outside_the_box():
    before = np.zeros((100, 200, 3), np.uint8)
    after = before.copy()
    after[10:30, 140:180] = 255  # the object, at the upper right
    after[70:80, 20:30] = 255
    box = (0.7, 0.1, 0.9, 0.3)  # left, top, right, bottom
    values, _ = measure(before, after, "replace", box=box)
    margin = -(-100 // changes.MARGIN)
    rest = 100 * 200 - (20 + 2 * margin) * (40 + 2 * margin)
    assert values["outside"] == pytest.approx(100 / rest, abs=1e-6)
    assert measure(before, after, "replace")[0]["outside"] == pytest.approx(100 / rest, abs=1e-6)


def test_several_objects_and_a_move_are_inside():
    before = np.zeros((128, 128, 3), np.uint8)
    after = before.copy()
    after[10:30, 10:30] = after[90:110, 90:106] = 255
    assert measure(before, after, "motion change")[0]["outside"] == 0


# ---- regions


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.55, 0.9, 1])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (37, 53)])
def test_regions_are_those_of_scipy(shape, share):
    mask = np.random.default_rng(5).random(shape) < share
    labels, number = ndimage.label(mask)
    found = changes.regions(mask)
    areas = np.bincount(labels.ravel(), minlength=1)[1:]
    boxes = [(y.start, y.stop, x.start, x.stop) for y, x in ndimage.find_objects(labels)]
    assert len(found.areas) == number and sorted(found.areas) == sorted(areas)
    assert sorted(map(tuple, found.boxes.tolist())) == sorted(boxes)


def test_a_winding_region_is_one():
    mask = np.ones((41, 41), bool)
    mask[1::4, :-1] = mask[3::4, 1:] = False
    found = changes.regions(mask)
    assert found.areas.tolist() == [mask.sum()] and found.boxes.tolist() == [[0, 41, 0, 41]]


# ---- alignment


def told(found):
    return found.shift_x, found.shift_y, found.zoom_x, found.zoom_y


def near(x=0.0, y=0.0, zoom_x=1.0, zoom_y=1.0, pixels=0.1, share=0.001):
    return [pytest.approx(x, abs=pixels), pytest.approx(y, abs=pixels),
            pytest.approx(zoom_x, abs=share), pytest.approx(zoom_y, abs=share)]  # fmt: skip


@pytest.mark.parametrize("x, y", [(0, 0), (-3, 5), (17, -40), (7, -4)])
@pytest.mark.parametrize("sigma", [0.5, 1])
def test_shifts_of_noise(sigma, x, y):
    big = smooth(1, 256, sigma)
    before, after = big[64:192, 64:192], big[64 - y : 192 - y, 64 - x : 192 - x]
    assert list(told(align(before, after))) == near(x, y)


@pytest.mark.parametrize("border", [1, 3, 6, 20])
def test_a_zoom_that_leaves_the_peak_of_a_correlation_in_place(border):
    """Neither pHash nor the place of the peak sees 2 %; cut off a border, and stretch back."""
    before = smooth(7)
    box = (border, border, 256 - border, 256 - border)
    resample = Image.Resampling.BICUBIC
    after = np.asarray(Image.fromarray(before).resize((256, 256), resample, box))
    zoom = 256 / (256 - 2 * border)
    assert list(told(align(before, after))) == near(0, 0, zoom, zoom)


def test_one_axis_stretched():
    before = textured(3, 256).astype(np.uint8)
    after = np.asarray(Image.fromarray(before).resize((256, 256), Image.Resampling.BICUBIC,
                                                      (4, 0, 252, 256)))  # fmt: skip
    assert list(told(align(before, after))) == near(0, 0, 256 / 248, 1)


BIG = textured(4, 640)
MOVES = [(1.0, 0.5, -0.25), (1.0, 3.0, -7.0), (1.005, 0, 0), (1.02, 5.3, 9.1), (0.93, -12, 20),
         (1.2, 10, 4), (1.0, 70, -45)]  # fmt: skip


@pytest.mark.parametrize("zoom, x, y", MOVES)
def test_shift_and_zoom_together(zoom, x, y):
    after = seen(BIG, 400, (zoom, zoom), (x, y))
    assert list(told(align(seen(BIG, 400), after))) == near(x, y, zoom, zoom)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("zoom, x, y", [(1.0, 0, 0), MOVES[3]])
def test_a_true_edit_does_not_pull(zoom, x, y, share):
    after = seen(BIG, 400, (zoom, zoom), (x, y))
    side = int(400 * share**0.5)
    after[:side, 400 - side :] = textured(9, 400)[:side, :side]
    assert list(told(align(seen(BIG, 400), after))) == near(x, y, zoom, zoom, 0.15)


def test_light_and_contrast_do_not_pull():
    after = seen(BIG, 400, (1.01, 1.01), (4, -2)) * 0.7 + 60
    assert list(told(align(seen(BIG, 400), after.astype(np.uint8)))) == near(4, -2, 1.01, 1.01)


def test_a_wide_picture():
    before, after = seen(BIG, 400)[:150], seen(BIG, 400, shift=(6, -3))[:150]
    assert list(told(align(before, after))) == near(6, -3)


def test_what_is_left_after_aligning():
    still, moved = seen(BIG, 256), seen(BIG, 256, shift=(3, 0))
    assert align(still, moved).residual < 2
    assert align(still, moved).match > 0.95 > align(still, smooth_half(still)).match


def smooth_half(picture):
    half = picture.copy()
    half[:, :100] = 128
    return half


@pytest.mark.parametrize(
    "before, after",
    [
        (np.full((64, 64), 90, np.uint8), np.full((64, 64), 90, np.uint8)),
        (np.full((64, 64), 90, np.uint8), noise(1, 64, 64)),
        (noise(1, 128, 128), noise(2, 128, 128)),
        (textured(1, 200).astype(np.uint8), textured(2, 200).astype(np.uint8)),
        (noise(1, 12, 200), noise(1, 12, 200)), (noise(1, 1, 1), noise(1, 1, 1)),
    ],
    ids=["flat", "flat and noise", "two noises", "two textures", "a strip", "a pixel"],
)  # fmt: skip
def test_what_cannot_be_aligned_is_not(before, after):
    """skimage says (0, 0) with an error of 1.0 for all of them."""
    assert align(before, after) is None
    values, _ = measure(colour(before), colour(after), "add")
    assert {values[name] for name in ("shift_x", "shift_y", "zoom", "match")} == {None}


def test_an_object_on_a_flat_ground_that_is_gone_aligns_with_nothing():
    before = np.full((128, 128), 200, np.uint8)
    before[40:80, 50:90] = 20
    assert align(before, np.full((128, 128), 200, np.uint8)) is None


# ---- sizes


@pytest.mark.parametrize(
    "before, after, expected",
    [((1365, 1024), (1168, 880), 0.0043), ((1500, 1024), (1232, 832), 0.0108),
     ((1024, 1536), (1024, 1536), 0), ((1024, 1536), (512, 768), 0), ((40, 20), (20, 40), 0.75)],
)  # fmt: skip
def test_stretch(before, after, expected):
    one, other = (np.broadcast_to(np.uint8(0), (h, w, 3)) for w, h in (before, after))
    assert stretch(one, other) == stretch(other, one) == pytest.approx(expected, abs=5e-5)
