"""Metrics: answers known beforehand, what is undefined, what is a failure."""

import json
from math import inf

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.errors import InputError
from editmgt_lib.evaluation.items import Item
from editmgt_lib.evaluation.metrics import (
    Metric,
    NotApplicable,
    Sample,
    find,
    listing,
    masked,
    needed_networks,
    pixels,
    read_sample,
    register,
    score,
)
from editmgt_lib.evaluation.metrics import base as register_module
from editmgt_lib.evaluation.metrics.samples import as_mask, resized, zeroed
from editmgt_lib.evaluation.metrics.structural import ssim, ssim_map

SSIM = "ssim/torchmetrics-1.4.2/source/fit-output"


def flat(value, height=8, width=8):
    return np.full((height, width, 3), value, np.uint8)


def noise(seed, height=40, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def square(height=40, width=48):
    """A mask of a tenth of the picture."""
    mask = np.zeros((height, width), bool)
    mask[8:20, 8:24] = True
    return mask


def sample(result, source=None, mask=None, failure="", captions=None, **others):
    pictures = {"result": result, "source": source} | others
    pictures = {role: picture for role, picture in pictures.items() if picture is not None}
    return Sample("item", pictures, mask, captions or {}, failure)


def values(item, *names, networks=None):
    return [found.value for found in score([item], find(names), networks)]


def only(item, name):
    return next(iter(score([item], find([name]))))


# ---- pixels


@pytest.mark.parametrize(
    ("first", "second", "l1", "l2", "psnr"),
    [
        (0, 128, 0.501960784, 0.251964629, 5.98660422),
        (100, 110, 0.0392156863, 0.00153787005, 28.1308036),
        (0, 255, 1, 1, 0),
        (77, 77, 0, 0, inf),
    ],
)
def test_constant_pictures(first, second, l1, l2, psnr):
    item = sample(flat(first), flat(second))
    found = values(item, "l1/source/fit-output", "l2/source/fit-output", "psnr/source/fit-output")
    assert found == [pytest.approx(l1), pytest.approx(l2), pytest.approx(psnr)]


def test_one_pixel_of_sixteen():
    white = flat(0, 4, 4)
    white[1, 2] = 255
    found = [f(flat(0, 4, 4), white) for f in (pixels.l1, pixels.l2, pixels.psnr)]
    assert found == [0.0625, 0.0625, pytest.approx(12.0411998)]


def eight_by_eight():
    """A quarter is the edit, with error 200 inside and 10 outside."""
    source, mask = flat(20), np.zeros((8, 8), bool)
    mask[:, :2] = True
    return np.where(mask[..., None], source + 200, source + 10).astype(np.uint8), source, mask


def test_outside_zeroed_and_whole():
    result, source, mask = eight_by_eight()
    item = sample(result, source, mask)
    names = {
        "l1-outside/source/fit-output": 0.0392156863,
        "psnr-outside/source/fit-output": 28.1308036,
        "psnr-zeroed/source/fit-output": 29.3801910,
        "l1/source/fit-output": 0.225490196,
        "psnr/source/fit-output": 8.09835306,
        "leak/squared/source/fit-output": 0.00744416873,
        "leak/absolute/source/fit-output": 0.130434783,
    }
    assert dict(zip(names, values(item, *names), strict=True)) == pytest.approx(names)
    assert pixels.l1(zeroed(result, ~mask), zeroed(source, ~mask)) == pytest.approx(0.0294117647)


@pytest.mark.parametrize(
    ("share", "more"), [(0.1, 0.4576), (0.25, 1.2494), (0.5, 3.0103), (0.75, 6.0206), (0.9, 10.0)]
)
def test_black_pixels_inflate_psnr(share, more):
    mask = np.arange(400).reshape(20, 20) < 400 * share
    item = sample(flat(60, 20, 20), flat(50, 20, 20), mask)
    names = ("psnr-zeroed/source/fit-output", "psnr-outside/source/fit-output")
    black, outside = values(item, *names)
    assert black - outside == pytest.approx(more, abs=5e-5)


def test_inside_is_measured_against_the_reference():
    target, source, mask = eight_by_eight()
    item = sample(source, source, mask, target=target)
    names = ("l1-inside/target/fit-output", "l1-outside/source/fit-output")
    assert values(item, *names) == [pytest.approx(200 / 255), 0]


# ---- sizes


def checkerboard():
    board = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    return np.repeat(board[..., None], 3, 2)


FILTERS = ("NEAREST", "BOX", "BILINEAR", "BICUBIC", "LANCZOS")


def test_filters_differ_and_ours_is_bicubic():
    """A checkerboard halved, against grey: the resizing decides the number."""
    found = {}
    for name in FILTERS:
        small = Image.fromarray(checkerboard()).resize((4, 4), Image.Resampling[name])
        found[name] = pixels.l1(np.asarray(small), flat(128, 4, 4))
    expected = (0.501960784, 0, 0.00245098039, 0.00392156863, 0.00686274510)
    assert found == pytest.approx(dict(zip(FILTERS, expected, strict=True)), abs=1e-3)
    assert pixels.l1(resized(checkerboard(), (4, 4)), flat(128, 4, 4)) == found["BICUBIC"]
    default = np.asarray(Image.fromarray(checkerboard()).resize((4, 4)))
    assert np.array_equal(default, resized(checkerboard(), (4, 4)))


def test_a_ramp_resized_and_back():
    ramp = np.broadcast_to(np.arange(0, 256, 8, np.uint8)[None, :, None], (32, 32, 3)).copy()
    found = {}
    for name in FILTERS:
        kind = Image.Resampling[name]
        back = Image.fromarray(ramp).resize((16, 16), kind).resize((32, 32), kind)
        found[name] = pixels.l1(np.asarray(back), ramp)
    expected = (0.0156862745, 0.0156862745, 0.00196078431, 0.00122549020, 0.00196078431)
    assert found == pytest.approx(dict(zip(FILTERS, expected, strict=True)), abs=1e-3)
    assert pixels.l1(resized(resized(ramp, (16, 16)), (32, 32)), ramp) == found["BICUBIC"]


def test_the_name_says_what_is_resized():
    """MagicBrush brings the output to the target's size, AnyBench the target to the output's."""
    item = sample(flat(128, 4, 4), target=checkerboard())
    output, target = values(item, "l1/target/fit-output", "l1/target/fit-target")
    assert output == pytest.approx(pixels.l1(flat(128), checkerboard()))
    assert target == pytest.approx(pixels.l1(flat(128, 4, 4), resized(checkerboard(), (4, 4))))


def test_sizes_may_differ_everywhere():
    """Result, source, reference and mask of four sizes, none square."""
    item = sample(noise(0), noise(1, 30, 60), square(80, 96), target=noise(2, 60, 50))
    metrics = [m for m in listing() if not needed_networks([m]) and "emu-output" not in m.needs
               and not m.name.startswith("toyworld/")]  # fmt: skip
    found = list(score([item], metrics))
    assert len(found) == len(metrics) > 30
    assert {f.metric for f in found if f.status != "ok"} <= {
        "ring-l1/65-up/source/fit-output",
        "ring-l1/33-64/source/fit-output",
    }
    mask = item.mask_for(item.pictures["source"])
    assert mask.shape == (30, 60)
    assert mask.mean() == pytest.approx(item.mask.mean(), abs=0.03)


# ---- SSIM


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0, 255, 9.9990001e-05), (100, 110, 0.995476444), (0, 128, 0.000396723651)],
)
def test_ssim_of_constants(first, second, expected):
    found = ssim(flat(first, 16, 16), flat(second, 16, 16))
    assert found == pytest.approx(expected, rel=1e-6)


def test_ssim_variants_are_three_numbers():
    from skimage.metrics import structural_similarity

    black, dot = flat(0, 16, 16), flat(0, 16, 16)
    dot[8, 8] = 255
    assert ssim(black, dot) == pytest.approx(0.753972428, abs=1e-3)
    pair = [p[..., 0] / 255 for p in (black, dot)]
    box = structural_similarity(*pair, data_range=1)
    gauss = structural_similarity(
        *pair, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert (box, gauss) == (
        pytest.approx(0.514007080, abs=1e-3),
        pytest.approx(0.0441544450, abs=1e-3),
    )


def test_ssim_by_region_averages_the_map():
    first, second, mask = noise(0), noise(1), square()
    first[~mask] = second[~mask]
    inside, outside = ssim(first, second, mask), ssim(first, second, ~mask)
    share = mask.mean()
    assert share * inside + (1 - share) * outside == pytest.approx(ssim(first, second))
    assert inside < 0.2 < 0.8 < outside


def test_ssim_of_a_picture_too_small_is_undefined():
    found = only(sample(flat(1, 5, 9), flat(2, 5, 9)), SSIM)
    assert (found.status, found.reason) == ("n/a", "a side has at most 5 pixels")


@pytest.mark.parametrize("difference", [0, 3, 100])
def test_ssim_is_that_of_torchmetrics(difference):
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    first = noise(0) // 4 + flat(90, 40, 48)
    second = first + (noise(1).astype(int) * difference // 255).astype(np.uint8)
    pair = [torch.tensor(p).movedim(-1, 0)[None].double() / 255 for p in (first, second)]
    expected, full = structural_similarity_index_measure(
        *pair, data_range=1.0, return_full_image=True
    )
    assert ssim(first, second) == pytest.approx(float(expected), abs=1e-9)
    assert np.allclose(ssim_map(first, second), full[0].mean(0), atol=1e-9)


# ---- the edited region


def changes():
    """Six outside pixels off by 1, three by 20, all inside by 200; the mask is 4x4 of 8x8."""
    source, mask = flat(10), np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    result = source.copy()
    result[mask] += 200
    result[0, :6] += 1
    result[7, :3] += 20
    return sample(result, source, mask)


def test_changed_pixels():
    names = {
        "changed-outside/t0/source/fit-output": 0.1875,
        "changed-outside/t2/source/fit-output": 0.0625,
        "changed-outside/t8/source/fit-output": 0.0625,
        "leak/pixels-t0/source/fit-output": 0.36,
        "leak/pixels-t8/source/fit-output": 0.157894737,
        "change-iou/t0/source/fit-output": 16 / 25,
        "change-iou/t8/source/fit-output": 16 / 19,
    }
    found = dict(zip(names, values(changes(), *names), strict=True))
    assert found == pytest.approx(names)


def test_any_channel_counts_as_changed():
    source, result = flat(10), flat(10)
    result[0, 0, 2] += 3
    assert masked.changed(result, source, 2).sum() == 1
    assert not masked.changed(result, source, 3).any()


def test_masks_of_zeros_and_ones_are_masks():
    """Taking values below 128 as outside would make the whole picture so."""
    mask, result, source = np.zeros((4, 4), np.uint8), flat(0, 4, 4), flat(0, 4, 4)
    mask[1:3, 1:3] = 1
    result[1:3, 1:3] = 100
    outside = ~as_mask(mask)
    assert pixels.psnr(result, source, outside) == inf
    assert pixels.psnr(result, source, mask < 128) == pytest.approx(14.1514035)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.array([0, 127, 128, 255], np.uint8), [False, False, True, True]),
        (np.array([0, 1, 1, 0], np.uint8), [False, True, True, False]),
        (np.array([0, 0.5, 0.51, 1]), [False, False, True, True]),
        (np.array([False, True]), [False, True]),
        (np.zeros(2, np.uint8), [False, False]),
    ],
)
def test_kinds_of_masks(stored, expected):
    assert as_mask(stored).tolist() == expected


def test_rings_are_distances_from_the_mask():
    """Error equal to the distance: each ring has the mean of the distances in it."""
    mask = np.zeros((41, 41), bool)
    mask[20, 20] = True
    rows, cols = np.indices(mask.shape)
    distance = np.maximum(abs(rows - 20), abs(cols - 20))
    result = np.repeat(distance[..., None], 3, 2).astype(np.uint8)
    item = sample(result, flat(0, 41, 41), mask)
    for low, high in ((1, 4), (5, 8), (9, 16)):
        expected = distance[(distance >= low) & (distance <= high)].mean() / 255
        (found,) = values(item, f"ring-l1/{low}-{high}/source/fit-output")
        assert found == pytest.approx(expected)
    far = only(item, "ring-l1/33-64/source/fit-output")
    assert (far.status, far.reason) == ("n/a", "no pixel is 33-64 pixels away from the mask")


@pytest.mark.parametrize("radius", [0, 1, 5, 200])
def test_dilation_is_that_of_scipy(radius):
    from scipy.ndimage import maximum_filter

    mask = np.random.default_rng(0).random((37, 53)) > 0.99
    expected = maximum_filter(mask, 2 * radius + 1, mode="constant")
    assert np.array_equal(masked.dilated(mask, radius), expected)


# ---- undefined, failed, infinite


@pytest.mark.parametrize(
    ("mask", "name", "reason"),
    [
        (None, "l1-outside/source/fit-output", "no mask"),
        (np.ones((8, 8), bool), "l1-outside/source/fit-output", "the mask is full"),
        (np.ones((8, 8), bool), "psnr-zeroed/source/fit-output", "the mask is full"),
        (np.zeros((8, 8), bool), "l1-inside/target/fit-output", "the mask is empty"),
        (np.zeros((8, 8), bool), "change-iou/t0/source/fit-output", "the mask is empty"),
        (np.zeros((8, 8), bool), "ring-l1/1-4/source/fit-output", "the mask is empty"),
    ],
)
@pytest.mark.parametrize("failure", ["", "there is no picture"])
def test_undefined_for_an_item_whatever_the_result(mask, name, reason, failure):
    """A failure must not turn n/a into a worst value: then editors had different items."""
    result = None if failure else flat(3)
    found = only(sample(result, flat(0), mask, failure, target=flat(9)), name)
    assert (found.status, found.value, found.reason) == ("n/a", None, reason)


def test_nothing_changed_leaks_nothing_measurable():
    mask = np.eye(8, dtype=bool)
    found = list(
        score(
            [sample(flat(1), flat(1), mask)],
            find(["leak/squared/source/fit-output", "change-iou/t0/source/fit-output"]),
        )
    )
    assert (found[0].status, found[0].reason) == ("n/a", "nothing changed")
    assert found[1].value == 0


def test_no_reference_is_not_applicable():
    assert only(sample(flat(1), flat(1)), "l1/target/fit-output").reason == "no reference picture"


def test_a_failure_is_a_failure_of_every_defined_metric():
    item = sample(None, noise(1), square(), "the server refused", target=noise(2))
    metrics = [m for m in listing() if not needed_networks([m])]
    found = list(score([item], metrics))
    assert {f.status for f in found} == {"failed", "n/a"}
    assert {f.reason for f in found if f.status == "failed"} == {"the server refused"}
    failed = {f.metric for f in found if f.status == "failed"}
    assert {"l1/source/fit-output", "psnr-outside/source/fit-output"} <= failed


def test_not_a_number_is_a_failure():
    broken = Metric("nan", "", lambda sample, networks: float("nan"), "lower", 1.0)
    (found,) = score([sample(flat(1), flat(1))], [broken])
    assert (found.status, found.value) == ("failed", None)


# ---- files


@pytest.fixture
def files(tmp_path):
    def save(name, picture, **options):
        Image.fromarray(picture).save(tmp_path / name, **options)
        return tmp_path / name

    return save


def read(tmp_path, result, **fields):
    item = Item(id="1", task="t", instruction="i", **fields)
    return read_sample(item, result, lambda path: tmp_path / path)


def test_reading_an_item(tmp_path, files):
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :2] = 255
    for name, picture in {"s": flat(9), "t": flat(8), "e": flat(7), "r": flat(6)}.items():
        files(f"{name}.png", picture)
    files("m.png", mask)
    found = read(
        tmp_path,
        tmp_path / "r.png",
        source="s.png",
        reference="t.png",
        mask="m.png",
        captions={"output": "x"},
        extra={"emu_output": "e.png"},
    )
    assert {role: int(p[0, 0, 0]) for role, p in found.pictures.items()} == {
        "source": 9,
        "target": 8,
        "emu-output": 7,
        "result": 6,
    }
    assert (found.mask.sum(), found.failure) == (16, "")
    assert found.captions["output"] == "x"


def test_mask_files_of_zeros_and_ones(tmp_path, files):
    mask = np.zeros((8, 8), np.uint8)
    mask[1:3] = 1
    files("m.png", mask)
    files("s.png", flat(1))
    assert read(tmp_path, None, source="s.png", mask="m.png").mask.sum() == 16


@pytest.mark.parametrize("kind", ["missing", "none", "black", "cut"])
def test_results_that_are_failures(tmp_path, files, kind):
    files("s.png", noise(0))
    path = tmp_path / "r.png"
    if kind == "black":
        files("r.png", flat(0))
    if kind == "cut":
        files("r.png", noise(0))
        path.write_bytes(path.read_bytes()[:200])
    found = read(tmp_path, None if kind == "none" else path, source="s.png")
    expected = {"black": "entirely black", "cut": "cannot read"}.get(kind, "there is no picture")
    assert expected in found.failure
    assert only(found, "l1/source/fit-output").status == "failed"


def test_a_black_source_is_data(tmp_path, files):
    files("s.png", flat(0))
    files("r.png", flat(1))
    assert read(tmp_path, tmp_path / "r.png", source="s.png").failure == ""


def test_broken_data_is_no_failure_of_the_editor(tmp_path, files):
    files("r.png", flat(1))
    with pytest.raises(InputError, match="gone.png"):
        read(tmp_path, tmp_path / "r.png", source="gone.png")


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_other_modes_are_read_as_rgb(tmp_path, files, mode):
    picture = noise(0)
    files("s.png", picture)
    Image.fromarray(picture).convert(mode).save(tmp_path / "r.png")
    expected = np.asarray(Image.fromarray(picture).convert(mode).convert("RGB"))
    found = read(tmp_path, tmp_path / "r.png", source="s.png").pictures["result"]
    assert np.array_equal(found, expected)


# ---- the register


def test_names_are_unique_and_describe():
    metrics = listing()
    assert len({m.name for m in metrics}) == len(metrics)
    for metric in metrics:
        assert metric.meaning and "\n" not in metric.meaning
        assert metric.better in ("higher", "lower")
        assert metric.worst == {"lower": 1.0}.get(metric.better, min(metric.worst, 0.0))


def test_contested_definitions_have_names_of_their_own():
    for names in (
        ("clip-i/vit-b-32/source", "clip-i/vit-b-32/emu-output", "clip-i/vit-l-14/source"),
        ("l1/target/fit-output", "l1/target/fit-target"),
        ("psnr-outside/source/fit-output", "psnr-zeroed/source/fit-output"),
        ("dino/v1-s-16/source", "dino/v2-b-14/source", "dino/v1-s-16-squash/source"),
        ("clip-t/vit-b-32/local", "clip-t/vit-b-32/global", "clip-t/vit-b-32/output"),
        (
            "structure/dino-b-8/source/fit-output",
            "structure/dino-b-8-pie/source/fit-output",
        ),
    ):
        assert len({m.meaning for m in find(names)}) == len(names)


def test_own_metrics_are_found_by_name(monkeypatch):
    monkeypatch.setattr(register_module, "_REGISTER", dict(register_module._REGISTER))
    own = register(
        Metric(
            "own/mean", "mean of the result", lambda s, n: s.pictures["result"].mean(), "higher", 0
        )
    )
    assert find(["own/mean"]) == (own,)
    assert values(sample(flat(7)), "own/mean") == [7]
    with pytest.raises(InputError, match="metric 'own/mean' already"):
        register(own)
    with pytest.raises(InputError, match="needs 'picture'"):
        register(Metric("own/other", "", lambda s, n: 0, "higher", 0, needs=("picture",)))


def test_unknown_names_get_advice():
    with pytest.raises(InputError, match="no metric 'clip-i/vit-b-32/sorce'.*vit-b-32/source"):
        find(["l1/source/fit-output", "clip-i/vit-b-32/sorce"])


def test_repeated_names_are_measured_once():
    assert len(find(["l1/source/fit-output"] * 2)) == 1


def test_reasons_of_own_metrics_are_kept():
    def measure(sample, networks):
        raise NotApplicable("not on Sundays")

    (found,) = score([sample(flat(1))], [Metric("own", "", measure, "lower", 1.0)])
    assert (found.status, found.reason) == ("n/a", "not on Sundays")


def test_all_scores_go_into_json():
    item = sample(noise(0), noise(0), square(), target=noise(0))
    metrics = [m for m in listing() if not needed_networks([m])]
    lines = [json.dumps(s.to_dict(), allow_nan=False) for s in score([item], metrics)]
    assert sum('"inf"' in line for line in lines) == 5  # PSNR of identical pictures
