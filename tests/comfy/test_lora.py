"""Load LoRA in a real ComfyUI: strengths, stacks, scopes, errors, and every way of loading."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tools.comfy.server import places

from . import prompts

torch = pytest.importorskip("torch")

from editmgt_lib.checkpoints.names import TOY_FOLDER  # noqa: E402
from editmgt_lib.loader import load_transformer  # noqa: E402
from editmgt_lib.lora import Lora, LoraLayer  # noqa: E402
from editmgt_lib.training.lora import new_lora  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TARGETS = ("to_q", "to_k", "to_v", "proj_mlp", "ff.net.2")


def random_lora(scope, seed=0):
    """A LoRA that visibly changes what the toy model does."""
    size = {"both": 2.0, "reference": 3.0}[scope]
    network = load_transformer(TOY_FOLDER / "editmgt", torch.device("cpu"), torch.float32)
    lora = new_lora(network, TARGETS, rank=4, alpha=4, scope=scope, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: x._replace(up=size * torch.randn(x.up.shape, generator=generator))
        for name, x in lora.layers.items()
    }
    return replace(lora, layers=layers, metadata={"trigger": "hat"})


def modulation_lora():
    """One as other programs make them, of layers that rows do not go through."""
    network = load_transformer(TOY_FOLDER / "editmgt", torch.device("cpu"), torch.float32)
    generator, layers = torch.Generator().manual_seed(0), {}
    for name, weight in network.state_dict().items():
        if name.endswith("norm1.linear.weight"):
            rows, columns = weight.shape
            down, up = (torch.randn(s, generator=generator) for s in ((2, columns), (rows, 2)))
            layers[name.removesuffix(".weight")] = LoraLayer(0.1 * down, 0.1 * up, 2.0)
    return Lora(layers)


@pytest.fixture(scope="module")
def folder_of_loras(tmp_path_factory):
    """One file of each scope, and one of another model."""
    folder = tmp_path_factory.mktemp("loras")
    for scope in ("both", "reference"):
        random_lora(scope).write(folder / f"{scope}.safetensors")
    modulation_lora().write(folder / "modulation.safetensors")
    layer = random_lora("both").layers["transformer_blocks.0.attn.to_q"]
    Lora({"double_blocks.0.img_attn": layer}).write(folder / "other.safetensors")
    return folder


@pytest.fixture
def loras(models, folder_of_loras):
    """The same in ComfyUI's folder."""
    copies = []
    for file in folder_of_loras.iterdir():
        copies.append(models / "loras" / file.name)
        copies[-1].parent.mkdir(exist_ok=True)
        copies[-1].write_bytes(file.read_bytes())
    yield copies
    for copy in copies:
        copy.unlink()


@pytest.fixture
def picture(client):
    """A ToyWorld picture in the input folder."""
    return client.upload("scene.png", prompts.png(prompts.scene()))


def run(client, picture, *stack):
    """An edit by a model with LoRAs, given as (name, strength)."""
    prompt = prompts.edit(picture, seed=11)
    model = ("load", 0)
    for number, (name, strength) in enumerate(stack):
        prompt[f"lora{number}"] = prompts.node("EditMGT_LoadLora", model=model, strength=strength,
                                               lora=f"{name}.safetensors")  # fmt: skip
        model = (f"lora{number}", 0)
    for name in ("words", "tokens", "edit", "decode"):
        prompt[name]["inputs"]["model"] = list(model)
    return client.run(prompt)


def pixels(client, done):
    assert done.status == "success", done.message()
    (file,) = client.files(done, "save")
    return prompts.pixels(file)


@pytest.mark.parametrize("scope", ["both", "reference"])
def test_strength_is_what_it_says(client, loras, picture, scope):
    plain = pixels(client, run(client, picture))
    assert (pixels(client, run(client, picture, (scope, 0))) == plain).all()
    one = pixels(client, run(client, picture, (scope, 1)))
    assert (one != plain).any()
    assert (pixels(client, run(client, picture)) == plain).all()  # the model itself has not changed
    assert (pixels(client, run(client, picture, (scope, 1))) == one).all()


def test_two_stack(client, loras, picture):
    both = pixels(client, run(client, picture, ("both", 1)))
    reference = pixels(client, run(client, picture, ("reference", 1)))
    stacked = pixels(client, run(client, picture, ("both", 1), ("reference", 1)))
    assert (stacked != both).any() and (stacked != reference).any()
    turned = pixels(client, run(client, picture, ("reference", 1), ("both", 1)))
    assert (stacked == turned).mean() > 0.95


def test_what_is_refused_is_named(client, loras, picture):
    done = run(client, picture, ("other", 1))
    assert done.status == "error" and "double_blocks.0.img_attn" in done.message()
    (loras[0].parent / "note.txt").write_text("no LoRA")
    info = client.get("/object_info/EditMGT_LoadLora")["EditMGT_LoadLora"]["input"]["required"]
    assert "both.safetensors" in str(info["lora"]) and "note.txt" not in str(info["lora"])
    done = run(client, picture, ("both", 3))
    assert done.status == "rejected" and "strength" in done.message()


@pytest.fixture(scope="module")
def report(folder_of_loras):
    """What `inside_lora` found, in a Python process without a server."""
    if places() is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to a checkout and COMFY_PYTHON to its Python")
    checkout, python = places()
    command = [python, str(HERE / "inside_lora.py"), str(folder_of_loras), str(ROOT)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


NAMES = ("plain", "both", "reference", "two", "two, turned", "half and half")
ERRORS = {"fp32": 1e-3, "bf16": 0.15, "fp8": 0.6}  # of the change that the LoRA makes


@pytest.mark.parametrize("kind", ["whole", "on use"])
@pytest.mark.parametrize("dtype", ERRORS)
def test_maps_are_the_librarys_however_weights_are_kept(report, dtype, kind):
    assert report[f"{dtype} {kind} partial"] == (kind == "on use")
    plain, (library,) = np.array(report[f"{dtype} {kind} plain"][0]), report["library plain"]
    for name in NAMES[1:]:
        found = np.array(report[f"{dtype} {kind} {name}"][0]) - plain
        wanted = np.array(report[f"library {name}"][0]) - np.array(library)
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert error < ERRORS[dtype], (name, error)


@pytest.mark.parametrize("kind", ["whole", "on use"])
def test_8_bits_with_a_lora_are_what_widening_them_first_gives(report, kind):
    for name in (*NAMES, "nothing"):
        kept, widened = (report[f"{dtype} file {kind} {name}"] for dtype in ("auto", "fp32"))
        assert kept == pytest.approx(widened, rel=1e-3, abs=1e-5), name
    for dtype in ("auto", "fp32"):
        assert report[f"{dtype} file {kind} nothing"] == report[f"{dtype} file {kind} plain"]


@pytest.mark.parametrize("kind, limit", [("whole", 0.3), ("on use", 1e-3)])
def test_where_no_adapter_acts_the_sum_is_rounded_to_8_bits_at_most(report, kind, limit):
    kept, widened = (
        np.subtract(*(report[f"{dtype} file {kind} {loras} modulation"] for loras in (1, 0)))
        for dtype in ("auto", "fp32")
    )
    assert np.linalg.norm(widened) > 1
    assert np.linalg.norm(kept - widened) < limit * np.linalg.norm(widened)


@pytest.mark.parametrize("kind", ["whole", "on use"])
@pytest.mark.parametrize("dtype", ERRORS)
def test_models_that_share_weights_do_not_disturb_each_other(report, dtype, kind):
    for name in ("plain", "reference", "both"):
        first, again = report[f"{dtype} {kind} {name}"]
        assert first == again, name
