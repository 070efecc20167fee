"""Every API workflow that needs no weights of other models runs, and makes pictures."""

import json
from pathlib import Path

import pytest

from . import prompts

FOLDER = Path(__file__).resolve().parents[2] / "workflows" / "api"
NEED_WEIGHTS = {"05b_edit_then_upscale_with_model", "07_generate_then_edit"}
NAMES = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem not in NEED_WEIGHTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_runs(client, name):
    prompt = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    run = client.run(prompt)
    assert run.status == "success", run.message()
    showing = [key for key, entry in prompt.items()
               if entry["class_type"] in ("SaveImage", "PreviewImage", "MaskPreview")]  # fmt: skip
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


def test_the_batch_makes_one_picture_each(client):
    name = "08_batch"
    prompt = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    (picture,) = (e for e in prompt.values() if e["class_type"] == "EditMGT_ToyPicture")
    (key,) = (k for k, e in prompt.items() if e["class_type"] == "SaveImage")
    run = client.run(prompt)
    assert len(client.files(run, key)) == picture["inputs"]["batch"]
