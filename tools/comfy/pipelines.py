"""Workflows that put an edit between other nodes: upscale, crop, generate, batch, sweep."""

from typing import Any

from editmgt_lib.checkpoints.names import TOY_LORA

from .graph import Graph, Link, Node
from .parts import (
    EDIT,
    HOLD,
    LORA_REPORT,
    OTHER,
    OWN_PICTURE,
    PREVIEW,
    PUBLISHED,
    RESULT,
    SMALL,
    SOURCE,
    TEXT,
    begin,
    instruct,
    sample,
    save,
    show,
    show_mask,
    toy_picture,
)

ESRGAN = {
    "name": "RealESRGAN_x4plus.safetensors",
    "url": "https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/"
    "RealESRGAN_x4plus.safetensors",
    "directory": "upscale_models",
}
SDXL = {
    "name": "sd_xl_base_1.0.safetensors",
    "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/"
    "sd_xl_base_1.0.safetensors",
    "directory": "checkpoints",
}
THRESHOLDS = (0.0, 0.1, 0.2, 0.5, 0.7, 1.0)


def _edited(g: Graph, scene: int, edit: str, text: str, about: tuple) -> tuple[Link, Link]:
    """The usual way up to a decoded picture: (before, after)."""
    start = begin(g, scene, edit)
    words = instruct(g, start.model, text)
    g.column()
    g.note(*about)
    g.group("3  Edit", EDIT)
    edited = sample(g, start.model, start.tokens["TOKENS"], words["INSTRUCTION"], threshold=HOLD)
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=edited["TOKENS"])
    return start.image, decoded["IMAGE"]


def edit_then_upscale(info: dict[str, Any]) -> Graph:
    """Enlarge with ComfyUI's own resampling; no weights."""
    g = Graph("05_edit_then_upscale", info)
    about = (
        "Other upscalers",
        """
This variant only resamples and needs no weights. *05b* uses an upscale model, which adds detail.
""",
        (300, 110),
    )
    before, after = _edited(g, 1, "color", "paint the purple car red", about)
    g.group("4  Upscale", OTHER)
    large = g.add("ImageScaleBy", image=after, upscale_method="lanczos", scale_by=4.0)
    return _upscaled(g, large, before, after)


def edit_then_upscale_with_model(info: dict[str, Any]) -> Graph:
    """Enlarge with an upscale model."""
    g = Graph("05b_edit_then_upscale_with_model", info)
    about = (
        "Needs one file",
        f"""
**{ESRGAN["name"]}** (67 MB) in `models/upscale_models/`. ComfyUI offers to download it when the
workflow opens; any other upscale model works too.
""",
        (300, 130),
    )
    before, after = _edited(g, 1, "color", "paint the purple car red", about)
    g.group("4  Upscale", OTHER)
    loader = g.add("UpscaleModelLoader", model_name=ESRGAN["name"])
    loader.models = [ESRGAN]
    large = g.add("ImageUpscaleWithModel", upscale_model=loader["UPSCALE_MODEL"], image=after)
    return _upscaled(g, large, before, after)


def _upscaled(g: Graph, large: Node, before: Link, after: Link) -> Graph:
    """The group that ends both ways of enlarging."""
    g.group("5  Result", RESULT)
    save(g, large["IMAGE"], "upscaled", tall=420)
    g.column()
    show(g, before, "Before")
    show(g, after, "Edited, not yet upscaled")
    return g


def crop_edit_stitch(info: dict[str, Any]) -> Graph:
    """A small region of a large picture gets the model's whole canvas."""
    g = Graph("06_crop_edit_stitch", info)
    g.group("1  A large picture", SOURCE)
    load = g.add("EditMGT_Load")
    wall = g.add("EmptyImage", "Wall", width=768, height=512, batch_size=1, color=0xD9CFC1)
    painting = toy_picture(g, 6, "color", size=256)
    g.column()
    place = {"x": 416, "y": 128}
    large = g.add("ImageCompositeMasked", "Hang a picture on the wall", destination=wall["IMAGE"],
                  source=painting["IMAGE"], resize_source=False, **place)  # fmt: skip
    frame = g.add("SolidMask", "Nothing", value=0.0, width=768, height=512)
    spot = g.add("SolidMask", "Around the balloon", value=1.0, width=128, height=128)
    region = g.add("MaskComposite", "Region", destination=frame["MASK"], source=spot["MASK"],
                   x=place["x"] + 64, y=place["y"] + 64, operation="add")  # fmt: skip
    g.column()
    show(g, large["IMAGE"], "The large picture")
    words = instruct(g, load["MODEL"], "turn the blue balloon yellow")
    g.column()
    tokens = g.add("EditMGT_EncodeTokens", tall=PREVIEW, model=load["MODEL"],
                   image=large["IMAGE"], fit="crop", mask=region["MASK"])  # fmt: skip
    g.column()
    show(g, tokens["IMAGE"], "What the model sees", tall=PREVIEW)
    g.note(
        "Crop, edit, stitch",
        """
**fit: crop** takes only the area around the mask, so a small region gets the model's whole canvas
instead of a few tokens. *EditMGT Decode* stitches it back: no other node is needed, and every
pixel outside the changed area stays the original one.

For your own picture use **Load Image**, right-click it and choose *Open in MaskEditor* to paint the
mask.
""",
        (300, 200),
    )
    g.group("3  Edit", EDIT)
    edited = sample(g, load["MODEL"], tokens["TOKENS"], words["INSTRUCTION"],
                    region=region["MASK"])  # fmt: skip
    g.group("4  Stitched", RESULT)
    decoded = g.add("EditMGT_Decode", model=load["MODEL"], tokens=edited["TOKENS"], feather=2)
    save(g, decoded["IMAGE"], "stitched", tall=320)
    show_mask(g, decoded["MASK"], "What really changed (white)")
    return g


def generate_then_edit(info: dict[str, Any]) -> Graph:
    """The output of another model, edited."""
    g = Graph("07_generate_then_edit", info)
    g.group("1  Generate with another model", OTHER)
    base = g.add("CheckpointLoaderSimple", ckpt_name=SDXL["name"])
    base.models = [SDXL]
    positive = g.add("CLIPTextEncode", "Prompt", clip=base["CLIP"],
                     text="a red wooden boat on a calm lake, mountains, morning light")  # fmt: skip
    negative = g.add("CLIPTextEncode", "Negative prompt", clip=base["CLIP"], text="blurry, text")
    g.column()
    latent = g.add("EmptyLatentImage", width=1024, height=1024, batch_size=1)
    drawn = g.add("KSampler", tall=PREVIEW, model=base["MODEL"], positive=positive["CONDITIONING"],
                  negative=negative["CONDITIONING"], latent_image=latent["LATENT"],
                  seed=7, steps=25, cfg=6.0)  # fmt: skip
    picture = g.add("VAEDecode", samples=drawn["LATENT"], vae=base["VAE"])
    g.group("2  What to change", TEXT, below=True)
    load = g.add("EditMGT_Load")
    words = g.add("EditMGT_EncodeInstruction", model=load["MODEL"], text="make the boat blue")
    g.column()
    g.note(
        "Needs two models",
        f"""
**{SDXL["name"]}** in `models/checkpoints/`, or any checkpoint you have.

**The published EditMGT checkpoint**, chosen in *Load EditMGT*: the toy model, the default, has
never seen a photograph.
""",
        (300, 190),
    )
    g.group("3  Edit", EDIT)
    tokens = g.add("EditMGT_EncodeTokens", model=load["MODEL"], image=picture["IMAGE"])
    edited = sample(g, load["MODEL"], tokens["TOKENS"], words["INSTRUCTION"], threshold=0.1,
                    **PUBLISHED)  # fmt: skip
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=load["MODEL"], tokens=edited["TOKENS"])
    save(g, decoded["IMAGE"], "generated-edited", tall=420)
    show(g, picture["IMAGE"], "Before")
    return g


def batch(info: dict[str, Any]) -> Graph:
    """One instruction over many pictures."""
    g = Graph("08_batch", info)
    start = begin(g, 6, "background", batch=4)
    words = instruct(g, start.model, "make the background snow")
    g.column()
    g.note(
        "Batches",
        f"""
One instruction edits every picture of a batch. Each comes out the same, token for token, as it
would on its own: item *k* uses seed + *k*.

Use one mask for all, or one per picture; any other number is an error.
{OWN_PICTURE}""",
        (320, 330),
    )
    g.group("3  Edit", EDIT)
    edited = sample(g, start.model, start.tokens["TOKENS"], words["INSTRUCTION"])
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=edited["TOKENS"])
    g.group("4  Results", RESULT)
    save(g, decoded["IMAGE"], "batch", tall=300)
    g.column()
    both = g.add("EditMGT_ComparePictures", images=start.image, images_2=decoded["IMAGE"],
                 columns=4)  # fmt: skip
    show(g, both["IMAGE"], "Before above, after below", tall=260)
    return g


def threshold_sweep(info: dict[str, Any]) -> Graph:
    """One edit at several thresholds, side by side under their values."""
    g = Graph("09_threshold_sweep", info)
    start = begin(g, 3, "replace")
    words = instruct(g, start.model, "replace the red tree with a house")
    g.column()
    g.note(
        "Choosing λ",
        """
The same seed and instruction at six thresholds (λ). At 0 the model may draw everything anew: most
flowers in the grass are gone. 0.1 to 0.5 hold what the instruction is not about; 0.7 is too high,
the edit is cut off; 1 keeps the whole picture.

Everything after **EditMGT List of Values** runs once per number; link it to *strength* or
*guidance* to sweep those.
""",
        (300, 240),
    )
    g.group("3  Where it acts", "#7a4f9a")
    found = g.add("EditMGT_ConsolidateAttention", tall=SMALL, model=start.model,
                  tokens=start.tokens["TOKENS"], instruction=words["INSTRUCTION"])  # fmt: skip
    g.group("4  The same edit at several λ", EDIT)
    values = g.add("EditMGT_ListOfValues", values=", ".join(f"{t:g}" for t in THRESHOLDS))
    edited = sample(g, start.model, start.tokens["TOKENS"], words["INSTRUCTION"],
                    localization=found["LOCALIZATION"], threshold=values["FLOAT"])  # fmt: skip
    decoded = g.add("EditMGT_Decode", model=start.model, tokens=edited["TOKENS"])
    g.group("5  Side by side", RESULT)
    sheet = g.add("EditMGT_ComparePictures", wide=480, images=decoded["IMAGE"],
                  labels=values["STRING"])  # fmt: skip
    save(g, sheet["IMAGE"], "threshold-sweep", tall=420)
    return g


def lora(info: dict[str, Any]) -> Graph:
    """A LoRA between the checkpoint and all that uses it."""
    g = Graph("16_lora", info)
    g.group("1  Model, LoRA and picture", SOURCE)
    load = g.add("EditMGT_Load")
    taught = g.add("EditMGT_LoadLora", tall=LORA_REPORT, model=load["MODEL"],
                   lora=TOY_LORA.stem)["MODEL"]  # fmt: skip
    picture = toy_picture(g, 0, "color")
    g.column()
    tokens = g.add("EditMGT_EncodeTokens", tall=PREVIEW, model=taught, image=picture["IMAGE"])
    words = instruct(g, taught, "make the blue heart pink")
    g.column()
    g.note(
        "What a LoRA teaches",
        """
No instruction ever asked the toy model for *pink*: it paints another color. **EditMGT Load LoRA**
teaches it the word with a small file; set its **strength** to 0 to see the model without.

It learned from a hundred drawn pairs, half of which show pink; `docs/training.md` of the pack shows
how, step by step. Yours goes into `models/loras`.
""",
        (320, 200),
    )
    g.group("3  Edit", EDIT)
    edited = sample(g, taught, tokens["TOKENS"], words["INSTRUCTION"])
    g.group("4  Result", RESULT)
    decoded = g.add("EditMGT_Decode", model=taught, tokens=edited["TOKENS"])
    save(g, decoded["IMAGE"], "lora")
    g.column()
    show(g, picture["IMAGE"], "Before")
    show_mask(g, decoded["MASK"], "What really changed (white)")
    return g


PIPELINES = (
    edit_then_upscale, edit_then_upscale_with_model, crop_edit_stitch, generate_then_edit, batch,
    threshold_sweep, lora,
)  # fmt: skip
