"""API-format prompts for the tests; ids say what a node does."""

import io

import numpy as np
from PIL import Image

from editmgt_lib.toyworld import world

TEXT = "make the background snow"


def scene(number=0, size=256, edit="background"):
    """A ToyWorld picture, uint8 [size, size, 3]."""
    return world.render(world.pair_at(0, number, True, edit).source, size)


def node(kind, **inputs):
    """One node; tuples are links."""
    return {"class_type": kind, "inputs": {
        name: list(value) if isinstance(value, tuple) else value for name, value in inputs.items()
    }}  # fmt: skip


def edit(image, text=TEXT, *, fit="pad", negative="auto", mask=None, decode=None, **sampling):
    """LoadImage -> five stages -> SaveImage; `mask` names a picture, white where to edit."""
    sampling.setdefault("steps", 4)  # enough for what is tested here
    model, region = ("load", 0), {}
    prompt = {
        "load": node("EditMGT_Load", checkpoint="toyworld", dtype="auto"),
        "image": node("LoadImage", image=image),
        "words": node("EditMGT_EncodeInstruction", model=model, text=text, negative=negative),
    }
    if mask:
        prompt["mask"] = node("LoadImageMask", image=mask, channel="red")
        region = {"mask": ("mask", 0)}
        sampling["region"] = ("mask", 0)
    prompt["tokens"] = node("EditMGT_EncodeTokens", model=model, image=("image", 0), fit=fit,
                            **region)  # fmt: skip
    prompt["edit"] = node("EditMGT_RegionHoldSampler", model=model, tokens=("tokens", 0),
                          instruction=("words", 0), **sampling)  # fmt: skip
    prompt["decode"] = node("EditMGT_Decode", model=model, tokens=("edit", 0), **(decode or {}))
    prompt["save"] = node("SaveImage", images=("decode", 0), filename_prefix="test")
    prompt["changed"] = node("MaskToImage", mask=("decode", 1))
    prompt["save_changed"] = node("SaveImage", images=("changed", 0), filename_prefix="changed")
    return prompt


def with_localization(prompt, words="", **options):
    """The same with a map of where to act."""
    model = ("load", 0)
    prompt["where"] = node("EditMGT_ConsolidateAttention", model=model, tokens=("tokens", 0),
                           instruction=("words", 0), words=words, **options)  # fmt: skip
    prompt["edit"]["inputs"]["localization"] = ["where", 0]
    return prompt


def png(pixels):
    """uint8 [H, W] or [H, W, C] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def pixels(content, mode="RGB"):
    """A picture file as uint8 [H, W, C]."""
    return np.asarray(Image.open(io.BytesIO(content)).convert(mode))
