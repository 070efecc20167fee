"""CLIP, DINO and LPIPS: the reference preprocessing, the networks' folders, known answers."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from editmgt_lib.errors import CheckpointError, InputError
from editmgt_lib.evaluation.metrics import (
    NETWORKS,
    NotApplicable,
    Sample,
    find,
    listing,
    load_networks,
    needed_networks,
    preprocessing,
    score,
)
from editmgt_lib.evaluation.metrics.encoders import cosine, self_similarity_distance
from editmgt_lib.evaluation.metrics.perceptual import BACKBONES, Lpips, read_heads
from editmgt_lib.evaluation.metrics.similarities import direction

from .networks import write_networks

LONG = "red " * 90


def noise(seed, height=60, width=80):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def photo(height, width):
    """Smooth enough that filters matter, sharp enough that crops do."""
    rows, cols = np.mgrid[:height, :width]
    waves = [np.sin(rows / (5 + k)) * np.cos(cols / (9 - k)) for k in range(3)]
    return np.uint8(np.round(127.5 + 120 * np.stack(waves, -1)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def networks(folder):
    return load_networks(folder, NETWORKS)


@pytest.fixture
def item():
    mask = np.zeros((60, 80), bool)
    mask[10:40, 10:50] = True
    captions = {"input": "a red heart", "output": "a blue heart", "local": "blue", "global": LONG}
    pictures = {role: noise(i) for i, role in enumerate(("result", "source", "target"))}
    return Sample("item", pictures, mask, captions)


def values(item, networks, *names):
    return [found.value for found in score([item], find(names), networks)]


# ---- cosines


def test_cosine():
    found = cosine(np.array([1, 2, 3]), np.array([4, 5, 6]))
    assert [found, 100 * found, 2.5 * found] == pytest.approx([0.974631846, 97.4631846, 2.43657962])
    assert cosine(np.zeros(2), np.ones(2)) == 0


def test_clamping_the_mean_is_not_clamping_items():
    """torchmetrics' CLIPScore clamps the mean; ours stays raw, so either can be had."""
    raw = [cosine(np.array([1, 0]), np.array([x, np.sqrt(1 - x * x)])) for x in (0.4, -0.2)]
    assert raw == pytest.approx([0.4, -0.2])
    assert 100 * max(0, np.mean(raw)) == pytest.approx(10)
    assert np.mean([100 * max(0, x) for x in raw]) == pytest.approx(20)


def test_direction():
    right, up, turned = np.array([1.0, 0]), np.array([0, 1.0]), np.array([0.6, 0.8])
    assert direction(right, turned, right, up) == pytest.approx(0.948683298)
    assert direction(3 * right, 5 * turned, 2 * right, up) == pytest.approx(0.948683298)
    assert direction(right, right, right, up) == 0
    with pytest.raises(NotApplicable, match="mean the same"):
        direction(right, turned, up, up)


def test_direction_of_equal_captions_is_undefined(item, networks):
    same = Sample("same", item.pictures, None, {"input": "a red heart", "output": "a red heart"})
    (found,) = score([same], find(["clip-dir/vit-b-32/input-output"]), networks)
    assert (found.status, found.reason) == ("n/a", "the captions are equal")


def test_self_similarity_distance():
    one = np.array([[1.0, 0], [0, 1.0]])
    other = np.array([[2.0, 0], [3.0, 0]])
    assert self_similarity_distance(one, other) == pytest.approx(0.5)
    assert self_similarity_distance(one, 5 * one) == pytest.approx(0)


# ---- preprocessing


def reference(picture, short, mean, std):
    """Resize, CenterCrop, ToTensor and Normalize as torchvision defines them for a PIL image."""
    image = Image.fromarray(picture)
    width, height = image.size
    scale = short / min(width, height)
    size = (short, int(short * height / width)) if width <= height else (
        int(short * width / height), short)  # fmt: skip
    assert abs(size[0] - width * scale) < 1 and abs(size[1] - height * scale) < 1
    values = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    top, left = (int(round((length - 224) / 2.0)) for length in values.shape[:2])
    values = values[top : top + 224, left : left + 224].astype(np.float32) / np.float32(255)
    return (values - np.float32(mean)) / np.float32(std)


SHAPES = [(768, 1024), (500, 500), (224, 224), (301, 225), (100, 333)]


@pytest.mark.parametrize("shape", SHAPES)
def test_clip_input_is_openai_clips(shape):
    picture = photo(*shape)
    expected = reference(
        picture, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )
    found = preprocessing.clip_input(picture).permute(1, 2, 0).numpy()
    assert found.shape == (224, 224, 3)
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_dino_input_is_that_of_magicbrush(shape):
    picture = photo(*shape)
    expected = reference(picture, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = preprocessing.dino_input(picture).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_inputs_are_torchvisions(shape):
    """Against the transforms themselves, where torchvision is installed: no pixel differs."""
    transforms = pytest.importorskip("torchvision.transforms")
    bicubic = transforms.InterpolationMode.BICUBIC
    for short, mean, std, ours in (
        (224, preprocessing.CLIP_MEAN, preprocessing.CLIP_STD, preprocessing.clip_input),
        (256, preprocessing.IMAGENET_MEAN, preprocessing.IMAGENET_STD, preprocessing.dino_input),
    ):
        steps = (transforms.Resize(short, bicubic), transforms.CenterCrop(224))
        steps += (transforms.ToTensor(), transforms.Normalize(mean, std))
        expected = transforms.Compose(steps)(Image.fromarray(photo(*shape)))
        assert torch.equal(ours(photo(*shape)), expected)


def test_resized_on_tensors_pixels_differ():
    """The size of the error that Pillow's path avoids: up to some 255ths, not rounding."""
    picture = photo(300, 400)
    tensor = torch.tensor(picture).movedim(-1, 0)[None].float() / 255
    small = torch.nn.functional.interpolate(
        tensor, (224, 298), mode="bicubic", antialias=True
    )[0, :, :, 37:261]  # fmt: skip
    mean, std = (torch.tensor(v)[:, None, None] for v in
                 (preprocessing.CLIP_MEAN, preprocessing.CLIP_STD))  # fmt: skip
    levels = (preprocessing.clip_input(picture) * std + mean - small).abs().max() * 255
    assert 0.1 < levels < 4


def test_how_much_a_crop_keeps():
    clip = preprocessing.short_side_size(1024, 768, 224)
    dino = preprocessing.short_side_size(1024, 768, 256)
    square = preprocessing.short_side_size(512, 512, 256)
    assert (clip, dino, square) == ((298, 224), (341, 256), (256, 256))
    kept = [224 * 224 / (width * height) for width, height in (clip, dino, square)]
    assert kept == pytest.approx([0.751677852, 0.574780059, 0.765625])


def test_squashing_sees_what_a_crop_does_not():
    first = photo(200, 600)
    second = first.copy()
    second[:, :50] = 0
    for crop, squash in (
        (preprocessing.clip_input, preprocessing.clip_squashed),
        (preprocessing.dino_input, preprocessing.dino_squashed),
    ):
        assert torch.equal(crop(first), crop(second))
        assert not torch.equal(squash(first), squash(second))


def test_structure_input():
    grey = np.full((512, 512, 3), 255, np.uint8)
    plain = preprocessing.structure_input(grey, antialias=True, scale=1)
    flawed = preprocessing.structure_input(grey, antialias=False, scale=255)
    mean, std = np.array(preprocessing.IMAGENET_MEAN), np.array(preprocessing.IMAGENET_STD)
    assert plain.shape == flawed.shape == (3, 224, 224)
    assert np.allclose(plain[:, 0, 0], (1 - mean) / std, atol=1e-5)
    assert np.allclose(flawed[:, 0, 0], (255 - mean) / std, atol=1e-3)
    wide = preprocessing.structure_input(photo(100, 400), antialias=True, scale=1)
    assert wide.shape == (3, 120, 480)


# ---- encoders


def test_clip_embeddings_are_transformers_own(networks):
    clip = networks["clip-vit-b-32"]
    picture, text = noise(0), "a red heart"
    with torch.inference_mode():
        ids = torch.tensor([clip.tokenizer(text).input_ids])
        output = clip.model(input_ids=ids, pixel_values=preprocessing.clip_input(picture)[None])
    (image,), (words,) = clip.encode("crop", [picture]), clip.encode("text", [text])
    assert cosine(image, output.image_embeds[0].numpy()) == pytest.approx(1, abs=1e-5)
    assert cosine(words, output.text_embeds[0].numpy()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["clip-vit-b-32", "dino-s-16", "dinov2-b-14"])
def test_embeddings_do_not_depend_on_the_batch(networks, name):
    pictures = [noise(i, 50 + i, 70) for i in range(5)]
    together = networks[name].encode("crop", pictures)
    networks[name].batch = 2
    try:
        in_twos = networks[name].encode("crop", pictures)
    finally:
        networks[name].batch = 32
    for one, other, picture in zip(together, in_twos, pictures, strict=True):
        (alone,) = networks[name].encode("crop", [picture])
        assert np.allclose(one, alone, atol=1e-4)
        assert np.allclose(one, other, atol=1e-4)


def test_dino_is_the_class_token(networks):
    dino = networks["dino-s-16"]
    with torch.inference_mode():
        states = dino.model(pixel_values=preprocessing.dino_input(noise(0))[None])
    (found,) = dino.encode("crop", [noise(0)])
    assert np.allclose(found, states.last_hidden_state[0, 0], atol=1e-6)


def test_keys_are_those_of_the_last_layer(networks):
    """The projection of the normalized input of the last layer, on all tokens."""
    dino = networks["dino-b-8"]
    pixels = preprocessing.structure_input(noise(0), antialias=True, scale=1)[None]
    with torch.inference_mode():
        states = dino.model(
            pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True
        ).hidden_states[-2]
        norms = [m for n, m in dino.model.named_modules() if n.endswith("layernorm_before")]
        names = (".key", ".k_proj")
        keys = [m for n, m in dino.model.named_modules() if n.endswith(names)]
        expected = keys[-1](norms[-1](states))[0]
    (found,) = dino.encode("keys", [noise(0)])
    assert found.shape == expected.shape and found.shape[0] == 1 + (224 // 32) * (298 // 32)
    assert np.allclose(found, expected, atol=1e-5)


def test_keys_leave_no_hook(networks):
    key = networks["dino-b-8"]._last_key()
    before = list(key._forward_hooks)
    networks["dino-b-8"].encode("keys", [noise(0)])
    assert list(key._forward_hooks) == before


def test_unknown_way(networks):
    with pytest.raises(InputError, match="no way 'keys'"):
        networks["clip-vit-b-32"].encode("keys", [noise(0)])


# ---- LPIPS


class Taps(torch.nn.Module):
    """A backbone as torchmetrics wants it: the list of features of all its layers."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        places = self.network.taps
        return [self.network.features[: place + 1](x) for place in places]


@pytest.mark.parametrize(("backbone", "kind"), [("alex", "Alexnet"), ("squeeze", "SqueezeNet")])
def test_lpips_is_that_of_torchmetrics(networks, monkeypatch, backbone, kind):
    """Its scaling, normalization, heads and means, on our backbone with the same weights."""
    from torchmetrics.functional.image import lpips

    ours = networks[f"lpips-{backbone}"]
    monkeypatch.setattr(lpips, kind, lambda **options: Taps(ours))
    theirs = lpips._LPIPS(net=backbone)
    pair = [torch.tensor(noise(i)).movedim(-1, 0)[None].float() / 255 for i in (0, 1)]
    with torch.inference_mode():
        expected = float(theirs(*pair, normalize=True))
    assert ours.distance(noise(0), noise(1)) == pytest.approx(expected, rel=1e-5)
    assert ours.distance(noise(0), noise(0)) == 0


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_backbones_are_torchvisions(backbone):
    models = pytest.importorskip("torchvision.models")
    theirs = {"alex": models.alexnet, "squeeze": models.squeezenet1_1}[backbone]()
    ours = Lpips(backbone).features
    ours.load_state_dict(theirs.features.state_dict())
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for place, module in enumerate(ours):
            assert torch.allclose(
                ours[: place + 1](x), theirs.eval().features[: place + 1](x), atol=1e-6
            )
            assert type(module).__name__ == type(theirs.features[place]).__name__


def test_lpips_by_region(networks):
    """All of the picture is the whole; a change far from the region does not count."""
    lpips = networks["lpips-alex"]
    first, second = noise(0, 128, 256), noise(0, 128, 256)
    second[:, 160:] = noise(1, 128, 96)
    left = np.zeros((128, 256), bool)
    left[:, :40] = True
    whole = lpips.distance(first, second)
    assert lpips.distance(first, second, np.ones((128, 256), bool)) == pytest.approx(whole)
    near, far = lpips.distance(first, second, ~left), lpips.distance(first, second, left)
    assert far < 0.01 * near
    assert near > whole


def test_lpips_of_a_picture_too_small_is_undefined(networks):
    for backbone in BACKBONES:
        network = networks[f"lpips-{backbone}"]
        with pytest.raises(NotApplicable, match="fewer than 32"):
            network.distance(noise(0, 31, 90), noise(1, 31, 90))
        assert network.distance(noise(0, 32, 32), noise(1, 32, 32)) > 0


def test_missing_torchmetrics_is_said(monkeypatch):
    from editmgt_lib.evaluation.metrics import perceptual

    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install editmgt\[eval\]"):
        read_heads("alex")


# ---- scoring


def test_every_metric_has_a_value_or_a_reason(item, networks):
    metrics = listing()
    found = list(score([item], metrics, networks))
    assert [f.metric for f in found] == [m.name for m in metrics]
    reasons = {f.reason for f in found if f.status != "ok"}
    assert reasons == {
        "no output of Emu Edit",
        "only ToyWorld has it",
        "the global caption is too long for clip-vit-b-32",
        "the global caption is too long for clip-vit-l-14",
        "no pixel is 33-64 pixels away from the mask",
        "no pixel is 65-up pixels away from the mask",
    }


def test_scoring_together_is_scoring_apart(item, networks):
    other = Sample("other", {r: noise(9 + i) for i, r in enumerate(item.pictures)}, item.mask)
    names = [
        *("clip-i/vit-b-32/source", "clip-i/vit-b-32/target", "dino/v1-s-16/source"),
        "structure/dino-b-8/source/fit-output",
    ]
    together = [f.value for f in score([item, other], find(names), networks)]
    apart = values(item, networks, *names) + values(other, networks, *names)
    assert together == pytest.approx(apart, abs=1e-4)
    assert len(set(np.round(together, 4))) == len(together)


def test_the_input_copied(item, networks):
    """What doing nothing scores: 1 against the source, no direction, no distance."""
    pictures = item.pictures | {"result": item.pictures["source"]}
    copy = Sample("copy", pictures, item.mask, item.captions)
    names = {
        "clip-i/vit-b-32/source": 1,
        "clip-i/vit-b-32-squash/source": 1,
        "dino/v1-s-16/source": 1,
        "dino/v2-b-14/source": 1,
        "clip-dir/vit-b-32/input-output": 0,
        "structure/dino-b-8/source/fit-output": 0,
        "structure/dino-b-8-pie/source/fit-output": 0,
        "lpips/alex/source/fit-output": 0,
        "lpips-zeroed/squeeze/source/fit-output": 0,
    }
    assert dict(zip(names, values(copy, networks, *names), strict=True)) == pytest.approx(
        names, abs=1e-5
    )


def test_the_edited_part_is_black_elsewhere(item, networks):
    name = "clip-t-edited/vit-l-14/output"
    (before,) = values(item, networks, name)
    result = np.where(item.mask[..., None], item.pictures["result"], noise(77))
    changed = Sample("2", item.pictures | {"result": result}, item.mask, item.captions)
    assert values(changed, networks, name) == [pytest.approx(before)]


def test_structure_fits_the_output_to_the_source(item, networks):
    small = Sample("2", item.pictures | {"result": noise(0, 45, 45)})
    (found,) = values(small, networks, "structure/dino-b-8/source/fit-output")
    assert found > 0


def test_missing_networks_are_named(item):
    with pytest.raises(InputError, match="need dino-s-16; .*dino/v1-s-16/source"):
        list(score([item], find(["l1/source/fit-output", "dino/v1-s-16/source"]), {}))


def test_a_caption_too_long_is_not_applicable_for_failed_items_either(item, networks):
    failed = Sample("1", {"source": noise(0)}, None, item.captions, "there is no picture")
    names = ["clip-t/vit-b-32/global", "clip-t/vit-b-32/output"]
    found = list(score([failed, item], find(names), networks))
    assert [f.status for f in found] == ["n/a", "failed", "n/a", "ok"]


def test_failed_items_are_not_encoded(networks):
    failed = Sample("1", {"source": noise(0)}, failure="there is no picture")
    (found,) = score([failed], find(["clip-i/vit-b-32/source"]), networks)
    assert (found.status, found.reason) == ("failed", "there is no picture")


# ---- folders


def test_needed_networks():
    metrics = find(["clip-dir/vit-b-32/input-output", "lpips/alex/source/fit-output"])
    assert needed_networks(metrics) == ("clip-vit-b-32", "lpips-alex")
    assert set(needed_networks(listing())) == set(NETWORKS)


def test_missing_folders_are_all_named(folder):
    with pytest.raises(InputError, match="lacks dino-b-8, lpips-alex.*facebook/dino-vitb8"):
        load_networks(folder / "clip-vit-b-32", ["dino-b-8", "lpips-alex"])


def test_unknown_network(folder):
    with pytest.raises(InputError, match="no network 'clip'; use one of clip-vit-b-32"):
        load_networks(folder, ["clip"])


def copied(folder, name, tmp_path):
    shutil.copytree(folder / name, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("name", ["clip-vit-b-32", "dino-s-16", "dinov2-b-14"])
def test_a_missing_tensor_is_refused(folder, tmp_path, name):
    place = copied(folder, name, tmp_path)
    tensors = load_file(place / "model.safetensors")
    gone = next(key for key in tensors if "layernorm" in key or "norm1" in key or "ln" in key)
    save_file({k: v for k, v in tensors.items() if k != gone}, place / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} lacks "):
        load_networks(tmp_path, [name])


def test_another_model_is_refused(folder, tmp_path):
    copied(folder, "dino-s-16", tmp_path).rename(tmp_path / "dinov2-b-14")
    with pytest.raises(CheckpointError, match="model_type is 'vit', expected 'dinov2'"):
        load_networks(tmp_path, ["dinov2-b-14"])


@pytest.mark.parametrize("name", ["clip-vit-b-32", "dino-s-16", "lpips-squeeze"])
def test_pickled_weights_are_refused(folder, tmp_path, name):
    place = copied(folder, name, tmp_path)
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only safetensors is loaded"):
        load_networks(tmp_path, [name])


def test_a_truncated_file_is_refused(folder, tmp_path):
    place = copied(folder, "clip-vit-b-32", tmp_path) / "model.safetensors"
    place.write_bytes(place.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_networks(tmp_path, ["clip-vit-b-32"])


def test_half_precision_files_compute_in_float32(folder, tmp_path):
    place = copied(folder, "dino-s-16", tmp_path)
    tensors = load_file(place / "model.safetensors")
    save_file({k: v.half() for k, v in tensors.items()}, place / "model.safetensors")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    network = load_networks(tmp_path, ["dino-s-16"])["dino-s-16"]
    assert {p.dtype for p in network.model.parameters()} == {torch.float32}


def test_loading_is_quiet_and_leaves_no_trace(folder, capfd):
    before = torch.get_rng_state()
    load_networks(folder, ["clip-vit-b-32", "dino-s-16"])
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
