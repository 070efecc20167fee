"""Editors: sizes both ways, pipelines of diffusers, ComfyUI, image endpoints, our own model."""

import inspect
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.curation.backends import (
    OFFLINE,
    NoAnswer,
    Sizing,
    read_backends,
    seed_of,
    working_size,
)
from editmgt_lib.curation.backends.comfyui_client import ComfyServer
from editmgt_lib.curation.backends.diffusers_profiles import PROFILES, qwen_sizes
from editmgt_lib.curation.backends.sizes import place
from editmgt_lib.curation.rows import Unavailable
from editmgt_lib.curation.terms import EDITORS, Terms, allowed
from editmgt_lib.errors import InputError
from editmgt_lib.tables import toml_reader

from .fake_judge import failure
from .fake_services import FakeComfy, FakeImages, opened

WORKFLOWS = Path(__file__).parents[1] / "workflows/api"


def picture(width, height, seed=0):
    """Smooth noise: resizing it and back changes little."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def editor(**table):
    return read_backends({"editors": {"e": table}}).editors["e"]


def away(one, other):
    return int(np.abs(one.astype(int) - other.astype(int)).max())


# ---- sizes


@pytest.mark.parametrize("size", [(1, 1), (100, 60), (61, 97), (333, 500), (500, 333), (64, 64)])
@pytest.mark.parametrize(
    "sizing",
    [
        Sizing(), Sizing(16), Sizing(8, 64**2), Sizing(32, 96 * 64),
        Sizing(sizes=((128, 128), (192, 128), (128, 192))),
    ],
)  # fmt: skip
def test_a_picture_goes_out_and_comes_back(size, sizing):
    pixels, placed = picture(*size), place(size, sizing)
    sent = placed.put(pixels)
    assert sent.shape[1::-1] == placed.canvas and all(map(int.__ge__, placed.canvas, placed.scaled))
    if sizing.sizes:
        assert placed.canvas in sizing.sizes
    else:
        assert not any(side % sizing.multiple for side in placed.canvas)
        assert sizing.most is None or np.prod(placed.canvas) <= sizing.most
    width, height = placed.scaled  # evenly: the sides agree within the rounding of a pixel
    assert abs(width * size[1] - height * size[0]) <= sum(size)
    back = placed.take(sent)
    assert back.shape == pixels.shape
    if placed.scaled == size:
        assert (back == pixels).all()


def test_content_does_not_move():
    """A bright spot is where it was, after a canvas of another size and shape."""
    pixels = np.zeros((150, 250, 3), np.uint8)
    pixels[90:100, 200:210] = 255
    placed = place((250, 150), Sizing(16, 160 * 96))
    assert placed.scaled != (250, 150)
    back = placed.take(placed.put(pixels)).astype(float).mean(-1)
    rows, cols = np.indices(back.shape)
    center = (rows * back).sum() / back.sum(), (cols * back).sum() / back.sum()
    assert center == pytest.approx((94.5, 204.5), abs=0.6)


def test_a_result_in_another_scale_is_taken_and_in_another_shape_is_not():
    pixels = picture(96, 64)
    placed = place((96, 64), Sizing())
    assert away(placed.take(picture(192, 128)), pixels) < 12
    for size in ((64, 96), (96, 70), (1024, 1024), (1168, 880)):
        with pytest.raises(InputError, match=f"gave {size[0]}x{size[1]} for 96x64"):
            placed.take(picture(*size))


def test_the_size_asked_for_is_given():
    assert place((96, 64), Sizing(16)).take(picture(96, 64), (48, 32)).shape == (32, 48, 3)


def test_one_size_that_all_editors_keep():
    assert working_size((2000, 1000), [Sizing(), Sizing(16, 1024**2)])[0] < 1449
    assert working_size((100, 50), [Sizing(), Sizing(16, 1024**2)]) == (100, 50)


@pytest.mark.parametrize("bad", [{"multiple": 0}, {"most": 1.5}, {"sizes": ((0, 5),)}])
def test_bad_sizings(bad):
    with pytest.raises(InputError):
        Sizing(**{"multiple": 2, **bad})


def test_seeds_hang_on_row_editor_and_try_alone():
    seeds = [seed_of(0, row, name, n) for row in "ab" for name in "xy" for n in (0, 1)]
    assert len(set(seeds)) == 8 and seeds[0] == seed_of(0, "a", "x") != seed_of(1, "a", "x")
    assert all(0 <= seed < 2**32 for seed in seeds)


# ---- diffusers


class FakePipeline:
    """Inverts. loaded: how it was made; calls: how it was called."""

    loaded, calls = {}, []

    @classmethod
    def from_pretrained(cls, folder, **given):
        cls.loaded = {"folder": folder, **given}
        return cls()

    def to(self, device):
        return self

    def result(self, image, size=None, **facts):
        inverted = Image.fromarray(255 - np.asarray(image))
        return types.SimpleNamespace(images=[inverted.resize(size) if size else inverted], **facts)


class FluxKontextPipeline(FakePipeline):
    def __call__(self, image=None, prompt=None, height=None, width=None, num_inference_steps=28,
                 guidance_scale=3.5, generator=None, max_area=1024**2,
                 _auto_resize=True):  # fmt: skip
        """As the true one: sizes follow from `max_area` and the multiple of 16."""
        self.calls.append({**locals(), "draw": float(generator.get_state()[0])})
        ratio = width / height
        size = [round(v) // 16 * 16 for v in ((max_area * ratio) ** 0.5, (max_area / ratio) ** 0.5)]
        if _auto_resize:
            image = image.resize((672, 1568))
        return self.result(image, size)


class StableDiffusionInstructPix2PixPipeline(FakePipeline):
    def __call__(self, prompt=None, image=None, image_guidance_scale=1.5, generator=None, **kwargs):
        assert not image.width % 8 and not image.height % 8
        return self.result(image, nsfw_content_detected=[prompt == "indecent"])


class Step1XEditPipelineV1P2(FakePipeline):
    def __call__(self, image=None, prompt=None, enable_thinking_mode=False, generator=None):
        made = self.result(image)
        return types.SimpleNamespace(images=[image], final_images=made.images)


class OddPipeline(FakePipeline):
    def __call__(self, image=None, prompt=None, generator=None):
        return self.result(image, (64, 64))


class TextToImagePipeline(FakePipeline):
    def __call__(self, prompt=None, generator=None):
        raise AssertionError


@pytest.fixture
def diffusers(monkeypatch):
    module = types.ModuleType("diffusers")
    module.__version__ = "0.42.1"
    for kind in FakePipeline.__subclasses__():
        kind.calls = []
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "diffusers", module)
    return module


def pipeline(folder, kind, **table):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return editor(kind="diffusers", folder=str(folder), device="cpu", **table)


def test_kontext_is_neither_stretched_nor_squared(diffusers, tmp_path):
    one = pipeline(tmp_path, "FluxKontextPipeline", options={"guidance_scale": 2.5})
    one.check()
    pixels = picture(200, 90)
    made = one.edit(pixels, "invert it", 5)
    assert made.pixels.shape == pixels.shape and (made.pixels == 255 - pixels).all()
    assert made.facts["sent"] == made.facts["received"] == [208, 96] and made.facts["seed"] == 5
    assert diffusers.FluxKontextPipeline.calls[0]["guidance_scale"] == 2.5
    assert diffusers.FluxKontextPipeline.loaded["use_safetensors"] is True
    assert "trust_remote_code" not in diffusers.FluxKontextPipeline.loaded
    assert not one.terms.uses or "train" not in one.terms.uses


def test_instruct_pix2pix_has_no_sizes(diffusers, tmp_path):
    one = pipeline(tmp_path, "StableDiffusionInstructPix2PixPipeline")
    pixels = picture(101, 67)
    assert (one.edit(pixels, "invert it", 5).pixels == 255 - pixels).all()
    with pytest.raises(NoAnswer, match="filtered"):
        one.edit(pixels, "indecent", 5)
    assert one.terms == Terms()  # nobody said what it allows


def test_step1x_gives_its_last_picture(diffusers, tmp_path):
    one = pipeline(tmp_path, "Step1XEditPipelineV1P2", options={"enable_thinking_mode": True})
    pixels = picture(64, 48)
    assert (one.edit(pixels, "invert it", 5).pixels == 255 - pixels).all()
    assert one.terms == EDITORS["step1x-edit"]


def test_a_pipeline_that_changes_the_shape_fails_the_row(diffusers, tmp_path):
    with pytest.raises(NoAnswer) as caught:
        pipeline(tmp_path, "OddPipeline").edit(picture(96, 64), "invert it", 0)
    assert caught.value.failure.code == "size"


def test_qwens_sizes_reproduce_themselves():
    sizes = list(qwen_sizes())
    assert (1024, 1024) in sizes and len(sizes) == len(set(sizes))
    assert all((height, width) in sizes for width, height in sizes)
    placed = place((1920, 1080), PROFILES["QwenImageEditPipeline"].sizing)
    assert placed.canvas in sizes and min(map(int.__sub__, placed.canvas, placed.scaled)) >= 0


def test_the_installed_diffusers_takes_what_is_passed():
    """Against the true signatures, whose privates may change."""
    true = pytest.importorskip("diffusers")
    accepted = inspect.signature(true.FluxKontextPipeline.__call__).parameters
    assert {"_auto_resize", "max_area", "width", "height", "generator"} <= set(accepted)
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_dimensions

    for width, height in qwen_sizes():
        assert calculate_dimensions(1024**2, width / height)[:2] == (width, height)


def test_what_a_pipeline_lacks_is_told_before_work(diffusers, tmp_path, monkeypatch):
    for kind, why in (
        ("Unknown", "diffusers 0.42.1 does not know it"),
        ("TextToImagePipeline", "takes no picture"),
        (["file.py", "Own"], "code of its own"),
    ):
        with pytest.raises(InputError, match=why):
            pipeline(tmp_path, kind).check()
    with pytest.raises(InputError, match="has no option 'guidance'"):
        pipeline(tmp_path, "FluxKontextPipeline", options={"guidance": 2}).check()
    with pytest.raises(InputError, match="model_index.json"):
        editor(kind="diffusers", folder=str(tmp_path / "none")).check()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match="pip install diffusers"):
        pipeline(tmp_path, "FluxKontextPipeline").check()


# ---- ComfyUI

WORKFLOW = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Picture"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}, "_meta": {"title": "Words"}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 0, "steps": 4, "image": ["1", 0]}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}, "_meta": {"title": "Result"}},
}


def comfy(server, folder, workflow=WORKFLOW, **table):
    file = folder / "workflow.json"
    file.write_text(json.dumps(workflow))
    given = {"picture": "1.image", "text": "Words.text", "seed": "3.seed", "result": "Result"}
    where = {"url": server.url, "workflow": str(file), "poll": 0.001}
    return editor(kind="comfyui", **{**where, **given, **table})


def test_a_workflow_is_run_and_its_result_fetched(tmp_path):
    with FakeComfy() as server:
        one = comfy(server, tmp_path, values={"3.steps": 9}, sizing={"multiple": 16})
        one.check()
        pixels = picture(100, 60)
        made = one.edit(pixels, "invert it", 77)
    assert (made.pixels == 255 - pixels).all() and made.facts["sent"] == [112, 64]
    [prompt] = server.runs.values()
    assert prompt["2"]["inputs"]["text"] == "invert it"
    assert prompt["3"]["inputs"] == {"seed": 77, "steps": 9, "image": ["1", 0]}
    assert opened(server.files[prompt["1"]["inputs"]["image"]]).shape == (64, 112, 3)


def test_sizes_are_passed_to_workflows_that_take_them(tmp_path):
    latent = {"class_type": "KSampler", "inputs": {"width": 512, "height": 512}}
    with FakeComfy() as server:
        table = {"width": "9.width", "height": "9.height", "sizing": {"sizes": [[128, 64]]}}
        one = comfy(server, tmp_path, {**WORKFLOW, "9": latent}, **table)
        made = one.edit(picture(50, 30), "invert it", 0)
    [prompt] = server.runs.values()
    assert prompt["9"]["inputs"] == {"width": 128, "height": 64}
    assert made.pixels.shape == (30, 50, 3) and made.facts["scaled"] == [107, 64]


def test_a_picture_can_go_where_another_node_fed_one(tmp_path):
    with FakeComfy() as server:
        made = comfy(server, tmp_path, picture="3.image").edit(picture(32, 32), "invert it", 0)
    [prompt] = server.runs.values()
    assert prompt["3"]["inputs"]["image"] == ["editmgt-picture", 0]
    assert prompt["editmgt-picture"]["class_type"] == "LoadImage"
    assert (made.pixels == 255 - picture(32, 32)).all()


@pytest.mark.parametrize(
    "moods, code, lasting",
    [
        ({"outcome": "error"}, "server_error", True),
        ({"outcome": "interrupted"}, "server_error", False),
        ({"outcome": "rejected"}, "rejected", True),
        ({"outcome": "lost"}, "lost", False),
        ({"polls": None}, "timeout", False),
        ({"resize": (50, 50)}, "size", True),
    ],
)
def test_each_failure_of_a_run_has_its_reason(tmp_path, moods, code, lasting):
    with FakeComfy(**moods) as server, pytest.raises(NoAnswer) as caught:
        comfy(server, tmp_path, timeout=0.1).edit(picture(96, 64), "invert it", 0)
    assert (caught.value.failure.code, caught.value.failure.lasting) == (code, lasting)
    if code == "timeout":  # the server does not go on for nobody
        assert server.deleted == server.stopped == ["run-0"]


def test_the_same_picture_is_the_same_file(tmp_path):
    with FakeComfy() as server:
        one = comfy(server, tmp_path)
        one.edit(picture(32, 32), "a b", 0)
        one.edit(picture(32, 32), "c d", 1)
    assert len([name for name in server.files if name.startswith("editmgt/")]) == 1


def test_a_comfyui_that_is_gone_stops_the_run(tmp_path):
    with FakeComfy() as server:
        one = comfy(server, tmp_path)
    with pytest.raises(Unavailable, match="cannot reach ComfyUI"):
        one.edit(picture(32, 32), "invert it", 0)
    with pytest.raises(InputError, match="cannot reach ComfyUI"):
        one.check()


def test_a_server_that_is_no_comfyui_is_told(tmp_path):
    with FakeImages(lambda form: (200, {})) as server, pytest.raises(NoAnswer, match="ComfyUI"):
        ComfyServer(server.url, "editor 'e'").upload("a.png", b"")


@pytest.mark.parametrize(
    "change, why",
    [
        ({"text": "Words.txt"}, "no input 'txt'"), ({"text": "9.text"}, "no node '9'"),
        ({"text": "text"}, "names no input"), ({"result": "Nothing"}, "no node 'Nothing'"),
        ({"picture": "2.text"}, "takes no pictures"), ({"values": {"3.cfg": 1}}, "no input 'cfg'"),
        ({"url": "ftp://x"}, "address"),
    ],
)  # fmt: skip
def test_what_a_workflow_lacks_is_told_before_work(tmp_path, change, why):
    with FakeComfy() as server, pytest.raises(InputError, match=why):
        comfy(server, tmp_path, **change).check()


def test_missing_nodes_and_files_for_the_canvas_are_told(tmp_path):
    with FakeComfy() as server:
        odd = {**WORKFLOW, "5": {"class_type": "Rare", "inputs": {}}}
        with pytest.raises(InputError, match="the nodes Rare"):
            comfy(server, tmp_path, odd).check()
        with pytest.raises(InputError, match="is no API workflow"):
            comfy(server, tmp_path, {"1": {"inputs": {}}}).check()
        with pytest.raises(InputError, match="for the canvas"):
            comfy(server, tmp_path, {"nodes": [], "links": []}).check()


def test_our_own_workflow_has_these_inputs():
    """The one the documentation names."""
    from editmgt_lib.curation.backends.comfyui_graph import filled, find_input, read_workflow

    nodes = read_workflow(str(WORKFLOWS / "01_edit_by_instruction.json"))
    text, seed, image = (find_input(nodes, name) for name in ("5.text", "7.seed", "3.image"))
    prompt = filled(nodes, {text: "hello", seed: 3}, image, "a.png")
    assert prompt["5"]["inputs"]["text"] == "hello" and prompt["7"]["inputs"]["seed"] == 3
    assert nodes["5"]["inputs"]["text"] != "hello"  # the workflow itself stays as it is


# ---- images/edits


def images(server, **table):
    sizing = {"sizes": [[64, 64], [96, 64]]}
    table = {"sizing": sizing, "backoff": 0.001, "retries": 1, **table}
    return editor(kind="openai-images", url=f"{server.url}/v1", model="m", **table)


def test_an_images_endpoint_gets_one_of_its_sizes():
    forms = []
    with FakeImages(lambda form: forms.append(form) or (200, None)) as server:
        one = images(server, parameters={"quality": "high"}, terms="Apache-2.0")
        pixels = picture(90, 60)
        made = one.edit(pixels, "invert it", 3)
    assert forms[0]["size"] == b"96x64" and forms[0]["quality"] == b"high"
    assert "seed" not in forms[0] and made.facts["seeded"] is False
    assert made.pixels.shape == pixels.shape and away(made.pixels, 255 - pixels) < 12
    assert allowed(("publish", "train"), one.terms)


def test_pictures_at_addresses_are_not_fetched():
    with FakeImages() as other:
        said = {"data": [{"url": f"{other.url}/secret.png"}]}
        with FakeImages(lambda form: (200, said)) as server, pytest.raises(NoAnswer) as caught:
            images(server).edit(picture(64, 64), "invert it", 0)
        assert not other.asked
    assert caught.value.failure.code == "parse_error"


@pytest.mark.parametrize(
    "said, code",
    [
        ((200, {"data": [{"b64_json": "?"}]}), "bad_picture"),
        ((200, {"data": [{"b64_json": "AAAA"}]}), "bad_picture"),
        ((400, failure(400, "no", "moderation_blocked")[1]), "filtered"),
        ((500, b""), "server_error"),
    ],
)
def test_bad_pictures_and_refusals(said, code):
    with FakeImages(lambda form: said) as server, pytest.raises(NoAnswer) as caught:
        images(server).edit(picture(64, 64), "invert it", 0)
    assert caught.value.failure.code == code


def test_a_refused_key_stops_the_run():
    with FakeImages(lambda form: (401, {})) as server, pytest.raises(Unavailable, match="key"):
        images(server).edit(picture(64, 64), "invert it", 0)


# ---- tables


@pytest.mark.parametrize(
    "config, why",
    [
        ({"editors": {"e": {}}}, "editors.e: kind is None; use one of 'editmgt'"),
        ({"editors": {"e": {"kind": "toy"}}}, "kind is 'toy'"),
        ({"editors": {"e": 3}}, r"write a table \[editors.e\]"),
        ({"editors": 3}, "editors is 3"),
        ({"editors": {"e": {"kind": "editmgt", "modle": "x"}}}, "did you mean 'model'"),
        ({"editors": {"e": {"kind": "editmgt", "fit": "crop"}}}, "fit is 'crop'"),
        ({"editors": {"e": {"kind": "editmgt", "options": {"seed": 1}}}}, "seed is derived"),
        ({"editors": {"e": {"kind": "diffusers"}}}, "folder is missing"),
        ({"editors": {"e": {"kind": "editmgt", "terms": "mine"}}}, "'mine', which is not known"),
        ({"editors": {"e": {"kind": "editmgt", "terms": {"uses": ["sell"]}}}}, "use is 'sell'"),
        ({"judges": {"j": {"kind": "openai", "url": "http://x"}}}, "judges.j: model is missing"),
    ],
)  # fmt: skip
def test_bad_tables_are_told_by_name_and_fix(config, why):
    with pytest.raises(InputError, match=why):
        read_backends(config)


def test_all_that_lacks_is_told_at_once(tmp_path):
    config = {
        "editors": {"a": {"kind": "diffusers", "folder": str(tmp_path)}, "b": {"kind": "editmgt"}},
        "judges": {
            "c": {"kind": "openai", "url": "http://x", "model": "m", "key_variable": "NO_KEY"}
        },
    }
    with pytest.raises(InputError) as caught:
        read_backends(config).check()
    assert "editor 'a'" in str(caught.value) and "NO_KEY" in str(caught.value)


def test_stated_terms_win():
    table = {"licence": "own", "uses": ["publish"]}
    assert editor(kind="editmgt", terms=table).terms == Terms("own", ("publish",))
    assert editor(kind="editmgt", terms="flux-kontext-dev").terms.uses == ("publish",)


def test_the_offline_default_lacks_nothing_and_says_that_it_stands_in():
    backends = read_backends(OFFLINE)
    backends.check()
    assert set(backends.stand_ins) == {"toy", "toy-fast"}


def test_an_unknown_checkpoint_is_told():
    with pytest.raises(InputError, match="editor 'e'"):
        read_backends({"editors": {"e": {"kind": "editmgt", "model": "/none"}}}).check()


def test_every_table_of_the_documentation_is_read():
    text = (Path(__file__).parents[1] / "docs/curation-backends.md").read_text("utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    backends = read_backends(toml_reader().loads("\n".join(blocks)))
    assert len(blocks) == 6 and len(list(backends)) == 10
