"""Edit Regions beside samplers in a row, and Empty Tokens."""

import re

import numpy as np
import pytest

from tools.comfy.parts import TOY

from . import prompts

MODEL = ("load", 0)
EDITS = (("left", "make the background snow"), ("right", "turn this into a sketch"))
CAPTION = "a red heart at the left and a yellow star at the right on a snow background"


@pytest.fixture
def prompt(client):
    """A picture and two overlapping masks; what edits it is named by each test."""
    prompt = prompts.edit(client.upload("scene.png", prompts.png(prompts.scene())))
    for name, columns in (("left", slice(0, 96)), ("right", slice(64, 192))):
        mask = np.zeros((256, 256), np.uint8)
        mask[:, columns] = 255
        file = client.upload(f"{name}.png", prompts.png(mask))
        prompt[name] = prompts.node("LoadImageMask", image=file, channel="red")
    del prompt["words"]
    return prompt


def regions(prompt, *masks, texts=EDITS, seed=601):
    """The prompt with Edit Regions in the sampler's place; masks are node ids."""
    names = ("region", "region_2", "region_3", "region_4")
    lines = "\n".join(text for _, text in texts)
    prompt["edit"] = prompts.node(
        "EditMGT_EditRegions", model=MODEL, tokens=("tokens", 0), instructions=lines, steps=4,
        guidance=1.0, strength=1.0, seed=seed,
        **{name: (mask, 0) for name, mask in zip(names, masks, strict=False)},
    )  # fmt: skip
    return prompt


def saved(client, prompt):
    """The run, and the picture it saved."""
    run = client.run(prompt)
    assert run.status == "success", run.message()
    return run, prompts.pixels(client.files(run, "save")[0])


def test_regions_are_samplers_in_a_row(client, prompt):
    run, together = saved(client, regions(prompt, "left", "right"))
    said = run.texts["edit"][0]
    assert re.fullmatch(r"1\. [\d.]+ s, \d+% changed\n2\. [\d.]+ s, \d+% changed", said)
    tokens = ("tokens", 0)
    for key, text in EDITS:
        prompt[f"say {key}"] = prompts.node("EditMGT_EncodeInstruction", model=MODEL, text=text)
        prompt[f"edit {key}"] = prompts.node(
            "EditMGT_RegionHoldSampler", model=MODEL, tokens=tokens, instruction=(f"say {key}", 0),
            steps=4, guidance=1.0, strength=1.0, seed=601, region=(key, 0),
        )  # fmt: skip
        tokens = (f"edit {key}", 0)
    del prompt["edit"]
    prompt["decode"]["inputs"]["tokens"] = list(tokens)
    _, in_a_row = saved(client, prompt)
    assert (together == in_a_row).all()
    assert (together[:, 224:] == prompts.scene()[:, 224:]).all()
    for columns in (slice(0, 64), slice(96, 192)):  # of each region alone
        assert (together[:, columns] != prompts.scene()[:, columns]).any()


def test_a_batch_of_masks_is_several_regions(client, prompt):
    _, apart = saved(client, regions(prompt, "left", "right"))
    for key in ("left", "right"):
        prompt[f"{key} image"] = prompts.node("MaskToImage", mask=(key, 0))
    prompt["images"] = prompts.node(
        "ImageBatch", image1=("left image", 0), image2=("right image", 0)
    )
    prompt["both"] = prompts.node("ImageToMask", image=("images", 0), channel="red")
    _, together = saved(client, regions(prompt, "both"))
    assert (apart == together).all()


def test_lines_and_masks_must_agree(client, prompt):
    run = client.run(regions(prompt, "left", "right", texts=EDITS[:1]))
    assert run.status == "error" and "1 line for 2 masks" in run.message()
    run = client.run(regions(prompt, "left", texts=((None, " "),)))
    assert run.status == "rejected" and "one line per mask" in run.message()


def test_a_blank_mask_among_regions(client, prompt):
    prompt["blank"] = prompts.node("SolidMask", value=0.0, width=64, height=64)
    run, picture = saved(client, regions(prompt, "left", "blank"))
    assert "2. the mask is blank" in run.texts["edit"][0]
    assert (picture[:, 224:] != prompts.scene()[:, 224:]).any()


# ---- a picture from text alone


def drawn(width=256, height=256, batch=1, **sampling):
    """Empty Tokens -> sampler -> Decode -> Save."""
    return {
        "load": prompts.node("EditMGT_Load", checkpoint="toyworld"),
        "tokens": prompts.node("EditMGT_EmptyTokens", model=MODEL, width=width, height=height,
                               batch=batch),
        "words": prompts.node("EditMGT_EncodeInstruction", model=MODEL, text=CAPTION),
        "edit": prompts.node("EditMGT_RegionHoldSampler", model=MODEL, tokens=("tokens", 0),
                             instruction=("words", 0),
                             **{**TOY, **sampling}),
        "decode": prompts.node("EditMGT_Decode", model=MODEL, tokens=("edit", 0)),
        "save": prompts.node("SaveImage", images=("decode", 0), filename_prefix="drawn"),
    }  # fmt: skip


def test_text_becomes_a_picture(client):
    run, picture = saved(client, drawn(seed=611))
    assert picture.shape == (256, 256, 3)
    red, yellow = picture[128, 32].astype(int), picture[132, 224].astype(int)
    assert red[0] > 150 > max(red[1:]) and min(yellow[:2]) > 150 > yellow[2]
    assert "100% changed" in run.texts["edit"][0]


def test_sizes_and_batches_of_drawn_pictures(client):
    run = client.run(drawn(0, 0, batch=2, steps=2))  # 0 takes the checkpoint's own
    assert run.status == "success", run.message()
    assert [prompts.pixels(f).shape for f in client.files(run, "save")] == [(256, 256, 3)] * 2
    _, wide = saved(client, drawn(192, 64, steps=2))
    assert wide.shape == (64, 192, 3)
    run = client.run(drawn(100, 256))
    assert run.status == "error" and "width is 100" in run.message()


@pytest.mark.parametrize("held", ["threshold", "region", "map"])
def test_nothing_can_be_held_where_there_is_no_picture(client, held):
    prompt = drawn(steps=2)
    if held == "threshold":
        prompt["edit"]["inputs"]["threshold"] = 0.1
    elif held == "region":
        prompt["mask"] = prompts.node("SolidMask", value=1.0, width=256, height=256)
        prompt["edit"]["inputs"]["region"] = ["mask", 0]
    else:
        prompts.with_localization(prompt)
    run = client.run(prompt)
    assert run.status == "error"
    assert ("no picture" if held == "map" else "there is none here") in run.message()
