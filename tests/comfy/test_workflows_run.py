"""Every API workflow that needs no weights of other models runs, and makes pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

from tools.comfy.build import NEED_LATER

from . import prompts

FOLDER = Path(__file__).resolve().parents[2] / "workflows" / "api"
NEED_WEIGHTS = {"05b_edit_then_upscale_with_model", "07_generate_then_edit"}
SHOWING = ("SaveImage", "PreviewImage", "MaskPreview")
NAMES = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem not in NEED_WEIGHTS)


@pytest.fixture
def example(client):
    """The picture that comes with ComfyUI, here a drawing with a painted mask."""
    drawn = np.dstack([prompts.scene(), np.full((256, 256), 255, np.uint8)])
    drawn[:48, :48, 3] = 0  # Load Image's mask is what is transparent
    return client.upload("example.png", prompts.png(drawn))


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_runs(client, example, name):
    kind = NEED_LATER.get(name)
    if kind and kind not in client.get("/object_info"):
        pytest.skip(f"this ComfyUI has no core node {kind}")
    prompt = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    run = client.run(prompt)
    assert run.status == "success", run.message()
    showing = [key for key, entry in prompt.items()
               if entry["class_type"] in (*SHOWING, kind)]  # fmt: skip
    assert showing
    for key in showing:
        files = client.files(run, key)
        assert files, f"{prompt[key]['_meta']['title']} shows nothing"
        for file in files:
            assert min(prompts.pixels(file).shape[:2]) >= 64


@pytest.mark.parametrize("name", sorted(NEED_WEIGHTS))
def test_missing_weights_are_named(client, name):
    run = client.run(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    assert run.status in ("rejected", "error")  # ComfyUI finds some of them only on the way
    assert ".safetensors" in run.message()


def tiny_upscaler():
    """The tensors of a Real-ESRGAN that enlarges 4 times, with random weights and few channels."""
    torch = pytest.importorskip("torch")
    wide, step = 8, 32  # spandrel reads the first from the file and expects the second
    sizes = {"conv_first": (wide, 3), "conv_last": (3, wide)}
    sizes |= {name: (wide, wide) for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr")}
    for dense in range(1, 4):
        for conv in range(1, 6):
            out = step if conv < 5 else wide
            sizes[f"body.0.rdb{dense}.conv{conv}"] = (out, wide + (conv - 1) * step)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (out, into) in sizes.items():
        tensors[f"{name}.weight"] = torch.randn(out, into, 3, 3, generator=generator) * 0.1
        tensors[f"{name}.bias"] = torch.zeros(out)
    return tensors


def test_an_upscale_model_follows_an_edit(client, models):
    save_file = pytest.importorskip("safetensors.torch").save_file
    folder = models / "upscale_models"
    folder.mkdir(exist_ok=True)
    save_file(tiny_upscaler(), folder / "tiny.safetensors")
    name = "05b_edit_then_upscale_with_model"
    prompt = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    (loader,) = (e for e in prompt.values() if e["class_type"] == "UpscaleModelLoader")
    (key,) = (k for k, e in prompt.items() if e["class_type"] == "SaveImage")
    loader["inputs"]["model_name"] = "tiny.safetensors"
    run = client.run(prompt)
    assert run.status == "success", run.message()
    (picture,) = client.files(run, key)
    assert prompts.pixels(picture).shape == (1024, 1024, 3)  # 4 times ToyWorld's


def test_the_batch_makes_one_picture_each(client):
    name = "08_batch"
    prompt = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    (picture,) = (e for e in prompt.values() if e["class_type"] == "EditMGT_ToyPicture")
    (key,) = (k for k, e in prompt.items() if e["class_type"] == "SaveImage")
    run = client.run(prompt)
    assert len(client.files(run, key)) == picture["inputs"]["batch"]


def compared(labels, *sizes):
    """A prompt that puts empty pictures side by side."""
    prompt = {
        str(k): prompts.node("EmptyImage", width=w, height=h, batch_size=1, color=0)
        for k, (h, w) in enumerate(sizes)
    }
    sockets = {f"images_{k + 1}" if k else "images": (str(k), 0) for k in range(len(sizes))}
    prompt["sheet"] = prompts.node("EditMGT_ComparePictures", labels=labels, **sockets)
    prompt["save"] = prompts.node("SaveImage", images=("sheet", 0), filename_prefix="sheet")
    return prompt


def test_pictures_of_several_inputs_are_compared(client):
    run = client.run(compared("one\ntwo\nthree", (64, 64), (96, 128), (30, 30)))
    assert run.status == "success", run.message()
    sheet = prompts.pixels(client.files(run, "save")[0])
    assert sheet.shape[1] == 3 * (128 + 10) + 8 and sheet.shape[0] > 96 + 18 + 14


def test_a_wrong_number_of_labels_is_named(client):
    run = client.run(compared("one\ntwo\nthree", (64, 64), (64, 64)))
    assert run.status == "error" and "3 lines for 2 pictures" in run.message()


def test_a_list_that_cannot_be_is_refused_before_it_runs(client):
    name = "09_threshold_sweep"
    prompt = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    (values,) = (e for e in prompt.values() if e["class_type"] == "EditMGT_ListOfValues")
    for text, said in (("0, much", "much"), (" , ", "0, 0.1")):
        values["inputs"]["values"] = text
        run = client.run(prompt)
        assert run.status == "rejected" and said in run.message()
    values["inputs"]["values"] = "0, 2"  # numbers, but no thresholds
    run = client.run(prompt)
    assert run.status == "error" and "threshold" in run.message()
