"""LoadImage -> edit -> SaveImage: outside the changed mask, every byte is the file's."""

import numpy as np
import pytest

from . import prompts

TEXT = "turn this into a sketch"  # changes everything it may


def noisy(height, width, channels, seed=0):
    """A scene with noise on it, so that any resampling shows; alpha with all levels."""
    rng = np.random.default_rng(seed)
    picture = prompts.scene(0, 512)[:height, :width].astype(int)
    picture = (picture + rng.integers(-20, 21, picture.shape)).clip(0, 255).astype(np.uint8)
    if channels == 4:
        alpha = np.tile(np.arange(width) % 256, (height, 1)).astype(np.uint8)[..., None]
        picture = np.concatenate([picture, alpha], -1)
    return picture


def region_of(picture):
    """A mask in the middle, white in a rectangle."""
    height, width = picture.shape[:2]
    mask = np.zeros((height, width, 3), np.uint8)
    mask[height // 3 : height // 2, width // 3 : width // 2] = 255
    return mask


CASES = {
    "rgb": (256, 256, 3), "rgba": (160, 160, 4), "odd": (131, 97, 3), "odd-rgba": (211, 333, 4),
    "wide": (96, 400, 3), "tall": (400, 112, 3),
}  # fmt: skip


@pytest.mark.parametrize("fit", ["pad", "native", "crop"])
@pytest.mark.parametrize("case", CASES)
def test_outside_the_changed_mask_every_byte_is_the_files(client, case, fit):
    picture = noisy(*CASES[case])
    name = client.upload(f"{case}.png", prompts.png(picture))
    mask = client.upload(f"{case}-mask.png", prompts.png(region_of(picture)))
    prompt = prompts.edit(name, TEXT, fit=fit, mask=mask)
    run = client.run(prompt)
    assert run.status == "success", run.message()
    (saved,), (marked,) = client.files(run, "save"), client.files(run, "save_changed")
    after, changed = prompts.pixels(saved), prompts.pixels(marked)[..., 0]
    before = picture[..., :3]
    assert after.shape == before.shape
    assert set(np.unique(changed)) == {0, 255}
    assert (after[changed == 0] == before[changed == 0]).all()
    assert (after != before).any()
    assert (changed == 0).any(), "nothing left to compare"


def test_fast_makes_the_same_edit_inside_a_small_mask(client):
    picture = prompts.scene(0)
    name = client.upload("fast.png", prompts.png(picture))
    mask = client.upload("fast-mask.png", prompts.png(region_of(picture)))
    after = {}
    for speed in ("exact", "fast"):
        run = client.run(prompts.edit(name, TEXT, mask=mask, speed=speed, steps=16, guidance=2.0))
        assert run.status == "success", run.message()
        after[speed] = prompts.pixels(client.files(run, "save")[0])
        changed = prompts.pixels(client.files(run, "save_changed")[0])[..., 0]
        assert (after[speed][changed == 0] == picture[changed == 0]).all()
    assert (after["fast"] == after["exact"]).mean() > 0.99


def test_feather_stays_inside_the_changed_mask(client):
    picture = noisy(256, 256, 3)
    name = client.upload("feather.png", prompts.png(picture))
    mask = client.upload("feather-mask.png", prompts.png(region_of(picture)))
    run = client.run(prompts.edit(name, TEXT, mask=mask, decode={"feather": 6.0}))
    after = prompts.pixels(client.files(run, "save")[0])
    changed = prompts.pixels(client.files(run, "save_changed")[0])[..., 0]
    assert (after[changed == 0] == picture[changed == 0]).all()


def test_a_threshold_of_one_returns_the_picture_itself(client):
    picture = noisy(131, 97, 3)
    name = client.upload("held.png", prompts.png(picture))
    run = client.run(prompts.with_localization(prompts.edit(name, TEXT, threshold=1.0)))
    assert run.status == "success", run.message()
    after = prompts.pixels(client.files(run, "save")[0])
    changed = prompts.pixels(client.files(run, "save_changed")[0])[..., 0]
    assert (after[changed == 0] == picture[changed == 0]).all()
    assert (changed == 0).mean() > 0.5
