"""The picture tokenizer against the golden arrays, the published key list and diffusers' class."""

import json
from pathlib import Path

import pytest
import torch

from editmgt_lib.models.vq import VQConfig, VQModel

from . import goldens

CASES = goldens.case_dirs("vqmodel")
KEY_LISTS = [root / "fullsize" / "vqmodel_keys.json" for root in goldens.roots()]
KEY_LISTS = [path for path in KEY_LISTS if path.exists()]
TOLERANCE = 1e-5


def golden_model(case: Path) -> VQModel:
    model = VQModel(VQConfig.from_dict(goldens.meta(case)["config"]))
    model.load_state_dict(goldens.load(case / "weights.safetensors"), strict=True)
    return model.eval()


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
@torch.no_grad()
def test_pictures_become_the_golden_tokens_and_pictures(case):
    model = golden_model(case)
    inputs = goldens.load(case / "inputs.safetensors")
    expected = goldens.load(case / "outputs.safetensors")
    sizes = [name.removeprefix("image_") for name in inputs if name.startswith("image_")]
    assert sizes
    for size in sizes:
        pixels = inputs[f"image_{size}"]
        ids = model.encode(pixels)
        assert torch.equal(ids.int(), expected[f"{size}.indices"]), size
        pairs = {
            "latents": model.latents(pixels),
            "quantized": model.lookup(ids),
            "decoded": model.decode(ids),
        }
        for name, actual in pairs.items():
            goldens.assert_close(actual, expected[f"{size}.{name}"], TOLERANCE, f"{size}.{name}")


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
@torch.no_grad()
def test_any_ids_decode_to_the_golden_picture(case):
    model = golden_model(case)
    ids = goldens.load(case / "inputs.safetensors")["indices_random"]
    expected = goldens.load(case / "outputs.safetensors")["random.decoded"]
    goldens.assert_close(model.decode(ids), expected, TOLERANCE, "decode")
    goldens.assert_close(model.decode_tiled(ids, tile=1), expected, TOLERANCE, "decode_tiled")


@pytest.mark.parametrize("path", KEY_LISTS, ids=lambda p: p.parent.parent.name)
def test_the_published_size_has_the_published_keys_and_shapes(path):
    published = json.loads(path.read_text())
    config = VQConfig.from_dict(published["config"])
    with torch.device("meta"):
        ours = VQModel(config).state_dict()
    expected = {name: tuple(shape) for name, shape, _ in published["keys"]}
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == expected
    assert sum(tensor.numel() for tensor in ours.values()) == 146_244_675
    assert (config.factor, config.decoder_reach) == (16, 18)


CONFIGS = {
    "widening": dict(block_out_channels=[8, 16, 24], layers_per_block=1, latent_channels=6),
    "one level": dict(block_out_channels=[8], layers_per_block=2, latent_channels=4),
    "own code width": dict(
        block_out_channels=[16, 8], layers_per_block=1, latent_channels=6, vq_embed_dim=5
    ),
}


@pytest.mark.parametrize("shape", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=str)
@torch.no_grad()
def test_equal_to_the_diffusers_class(shape, size):
    diffusers = pytest.importorskip("diffusers")
    config = VQConfig.from_dict(dict(shape, num_vq_embeddings=40, norm_num_groups=4))
    torch.manual_seed(0)
    values = config.to_dict()
    ours_alone = {"patch_size": 1, "encoder_kernel_size": 3}  # what diffusers' class always does
    assert {key: values.pop(key) for key in ours_alone} == ours_alone
    reference = diffusers.VQModel(**values).eval()
    torch.nn.init.normal_(reference.quantize.embedding.weight)
    ours = VQModel(config).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    pixels = torch.rand(2, 3, *size)
    latents = reference.encode(pixels).latents
    goldens.assert_close(ours.latents(pixels), latents, TOLERANCE, "latents")
    ids = ours.encode(pixels)
    assert torch.equal(ids.flatten(), reference.quantize(latents)[2][2])
    b, rows, cols = ids.shape
    decoded = reference.decode(
        ids, force_not_quantize=True, shape=(b, rows, cols, latents.shape[1])
    ).sample
    goldens.assert_close(ours.decode(ids), decoded, TOLERANCE, "decoded")
