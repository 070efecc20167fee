"""What the picture tokenizer promises beside equal numbers: sizes, memory, precision, errors."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from editmgt_lib.errors import CheckpointError, InputError
from editmgt_lib.models.vq import VQConfig, VQModel
from editmgt_lib.models.vq_blocks import nearest_codes


def tiny(**changes) -> VQConfig:
    widths = {"block_out_channels": (8, 12, 16), "latent_channels": 6}
    counts = {"layers_per_block": 1, "num_vq_embeddings": 32, "norm_num_groups": 4}
    return VQConfig(**(widths | counts | changes))


TINY = tiny()


def make(config: VQConfig = TINY, seed: int = 0) -> VQModel:
    torch.manual_seed(seed)
    model = VQModel(config).eval()
    nn.init.normal_(model.quantize.embedding.weight)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # away from 1 and 0, so that a forgotten scale or shift shows
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
    return model


def random_ids(*shape: int, config: VQConfig = TINY) -> torch.Tensor:
    return torch.randint(config.num_vq_embeddings, shape, generator=torch.manual_seed(1))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_round_trip_shapes_with_and_without_patches(patch):
    config = tiny(patch_size=patch)
    model, factor = make(config), 4 * patch
    ids = model.encode(torch.rand(2, 3, 3 * factor, 5 * factor))
    assert (config.factor, ids.dtype, tuple(ids.shape)) == (factor, torch.int64, (2, 3, 5))
    with torch.no_grad():
        pixels = model.decode(ids)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.float32, (2, 3, 3 * factor, 5 * factor))


@pytest.mark.parametrize("config", [TINY, tiny(patch_size=2, norm_num_groups=0)])
@torch.no_grad()
def test_the_layout_of_the_weights_decides_that_of_the_maps_and_no_result(config):
    plain, other = make(config), make(config).to(memory_format=torch.channels_last)
    maps = []
    for layer in other.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.register_forward_hook(lambda *given: maps.append(given[-1]))
    pixels, ids = torch.rand(2, 3, 48, 72), random_ids(2, 6, 9, config=config)
    assert relative(other.latents(pixels), plain.latents(pixels)) < 1e-5
    assert relative(other.decode(ids), plain.decode(ids)) < 1e-5
    assert relative(other.decode_tiled(ids, tile=2), plain.decode(ids)) < 1e-5
    assert maps and all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
    half = other.bfloat16()  # widened for every call
    assert relative(half.decode(ids), plain.bfloat16().decode(ids)) < 1e-5


@torch.no_grad()
def test_patches_become_channels():
    patched = make(tiny(patch_size=2))
    plain = make(tiny(in_channels=12, out_channels=12))
    plain.load_state_dict(patched.state_dict())
    pixels, ids = torch.rand(1, 3, 16, 24), random_ids(1, 2, 3)
    unshuffled = nn.functional.pixel_unshuffle(pixels, 2)
    assert torch.equal(patched.latents(pixels), plain.latents(unshuffled))
    assert torch.equal(patched.decode(ids), nn.functional.pixel_shuffle(plain.decode(ids), 2))


def test_nearest_codes_equal_the_brute_force_in_any_chunking():
    vectors, codes = torch.randn(90, 6, generator=torch.manual_seed(3)).split([50, 40])
    exact = (vectors.double()[:, None] - codes.double()[None]).square().sum(-1).argmin(1)
    for rows in (1, 7, 1000):
        assert torch.equal(nearest_codes(vectors, codes, rows), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_codes(vectors, codes), exact)


@torch.no_grad()
def test_an_item_does_not_depend_on_its_batch():
    model, pixels = make(), torch.rand(3, 3, 16, 24, generator=torch.manual_seed(2))
    ids = model.encode(pixels)
    for k in range(3):
        assert torch.equal(model.encode(pixels[k : k + 1]), ids[k : k + 1])
        assert relative(model.decode(ids[k : k + 1]), model.decode(ids)[k : k + 1]) < 1e-5


@pytest.mark.parametrize("tile", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("config", [TINY, tiny(patch_size=2, block_out_channels=(16, 8))])
@torch.no_grad()
def test_tiled_equals_whole(tile, config):
    model, ids = make(config), random_ids(2, 7, 5, config=config)
    whole, tiled = model.decode(ids), model.decode_tiled(ids, tile=tile, storage="cpu")
    assert relative(tiled, whole) < 1e-5


class PeakMemory(TorchDispatchMode):
    """Highest number of bytes in tensors made inside the block (scratch inside kernels aside)."""

    def __init__(self):
        super().__init__()
        self.live, self.now, self.peak = weakref.WeakSet(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = [t.untyped_storage() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)]
        for tensor in filter(torch.is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            if storage in self.live or any(storage is g for g in given):
                continue
            self.live.add(storage)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _freed(self, size: int) -> None:
        self.now -= size


def test_tiled_needs_less_memory():
    config = tiny(block_out_channels=(8, 16, 16))
    model, ids = make(config), random_ids(1, 32, 32, config=config)
    with torch.no_grad(), PeakMemory() as whole:
        model.decode(ids)
    with PeakMemory() as tiled:
        model.decode_tiled(ids, tile=2)
    finest = 8 * 128 * 128 * 4  # bytes of a map of the finest level; its input is twice as wide
    assert tiled.peak < 4.4 * finest < 4.9 * finest < whole.peak < 5.2 * finest


def test_tiled_layers_see_bands_only():
    """What the device holds when the maps are stored elsewhere."""
    model, seen = make(), []
    for module in model.decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, given, out: seen.append(given[0].shape[2:]))
    model.decode_tiled(random_ids(1, 32, 3), tile=2)
    assert max(rows * 3 / cols for rows, cols in seen) == 4  # two token rows and both halos


# how far one token reaches


@pytest.mark.parametrize(
    ("widths", "layers", "reach"),
    [((4,), 1, 10), ((4, 4), 1, 12), ((4, 4, 4), 1, 13), ((4, 4), 2, 15)],
)
def test_reach_is_how_far_one_changed_token_shows(widths, layers, reach):
    config = tiny(block_out_channels=widths, layers_per_block=layers)
    assert config.decoder_reach == reach
    changed = changed_tokens_without_norms(VQModel(config), columns=reach + 4)
    assert changed == list(range(reach + 1))  # attained, and not passed


@torch.no_grad()
def changed_tokens_without_norms(model: VQModel, columns: int) -> list[int]:
    """Token columns whose pixels change with the id at column 0; positive weights cannot cancel."""
    decoder = model.decoder.double()
    for module in list(decoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    for parameter in decoder.parameters():
        nn.init.constant_(parameter, 0.1)
    before = torch.ones(1, model.config.latent_channels, 1, columns, dtype=torch.float64)
    after = before.clone()
    after[..., 0] += 1
    changed = (decoder(after) != decoder(before)).any(dim=1)[0].any(dim=0)
    return changed.view(columns, -1).any(dim=1).nonzero().flatten().tolist()


# precision and injected layers


@torch.no_grad()
def test_encoding_is_float32_under_autocast_and_with_narrow_weights():
    model, pixels = make(), torch.rand(1, 3, 16, 24, generator=torch.manual_seed(4))
    ids, latents = model.encode(pixels), model.latents(pixels)
    decoded = model.decode(ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.latents(pixels), latents)
        assert torch.equal(model.decode(ids), decoded)
        assert relative(model.decode_tiled(ids, tile=2), decoded) < 1e-5
    narrow = make().bfloat16()
    widened = make().bfloat16().float()
    assert torch.equal(narrow.latents(pixels), widened.latents(pixels))
    assert torch.equal(narrow.decode(ids), widened.decode(ids))
    assert relative(narrow.decode_tiled(ids, tile=2), widened.decode(ids)) < 1e-5
    assert next(narrow.parameters()).dtype == torch.bfloat16


@torch.no_grad()
def test_without_upcast_the_weights_decide_the_precision():
    model = make(tiny(force_upcast=False)).bfloat16()
    pixels = torch.rand(1, 3, 16, 16)
    assert model.latents(pixels).dtype == torch.bfloat16
    assert model.decode(model.encode(pixels)).dtype == torch.float32


def test_every_layer_comes_from_the_injected_namespace():
    names = ("Conv2d", "GroupNorm", "Embedding")
    operations = SimpleNamespace(**{n: type(n, (getattr(nn, n),), {}) for n in names})
    model = VQModel(TINY, operations)
    owners = {type(m) for m in model.modules() if m._parameters}
    assert owners == set(vars(operations).values())


def test_narrow_weights_serve_several_threads():
    model, ids = make().bfloat16(), random_ids(1, 4, 6)
    with torch.no_grad():
        expected = model.decode(ids)
    with ThreadPoolExecutor(4) as pool:
        for pixels in pool.map(lambda _: model.decode(ids).detach(), range(24)):
            assert torch.equal(pixels, expected)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "spatial"}, "norm_type='spatial'.*'group'"),
        ({"act_fn": "gelu"}, "act_fn='gelu'.*'silu'"),
        ({"mid_block_add_attention": True}, "mid_block_add_attention=True.*False"),
        ({"lookup_from_codebook": False}, "lookup_from_codebook=False.*True"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "DownEncoderBlock2D"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "2 entries.*3"),
        ({"block_out_channels": [8, 12, 18]}, "18 is not a multiple of norm_num_groups=4"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"patch_size": 1.5}, "patch_size is 1.5"),
        ({"vq_embed_dim": -1}, "vq_embed_dim is -1"),
        ({"force_upcast": "yes"}, "force_upcast='yes'"),
    ],
    ids=str,
)
def test_unsupported_values_are_named(change, message):
    with pytest.raises(InputError, match=message):
        tiny(**change)
    with pytest.raises(CheckpointError, match=message):
        VQConfig.from_dict({**TINY.to_dict(), **change})


def test_unknown_config_keys_are_a_warning_and_missing_ones_an_error():
    with pytest.warns(UserWarning, match="a/config.json: ignored unknown keys decay, kernel$"):
        config = VQConfig.from_dict({**TINY.to_dict(), "kernel": 5, "decay": 0.1}, "a/config.json")
    assert config == TINY
    with pytest.raises(CheckpointError, match="block_out_channels, latent_channels"):
        VQConfig.from_dict({"layers_per_block": 1, "num_vq_embeddings": 8, "norm_num_groups": 4})


def test_config_round_trip():
    values = {**TINY.to_dict(), "_class_name": "VQModel", "_diffusers_version": "0.32.1"}
    assert VQConfig.from_dict(values) == TINY


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(1, 3, 16, 18), "18x16.*multiples of 4"),
        (torch.zeros(1, 3, 0, 16), "16x0"),
        (torch.zeros(1, 16, 16, 3), r"\(1, 16, 16, 3\)"),
        (torch.zeros(3, 16, 16), r"\(3, 16, 16\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 16, 16), torch.nan), "NaN"),
    ],
)
def test_pictures_that_cannot_be_encoded(pixels, message):
    with pytest.raises(InputError, match=message):
        make().encode(pixels)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.full((1, 2, 2), 32), r"32\.\.32.*0\.\.31"),
        (torch.full((1, 2, 2), -1), "-1"),
        (torch.zeros(2, 2, dtype=torch.int64), r"\(2, 2\)"),
        (torch.zeros(1, 2, 2), "float32"),
    ],
)
def test_ids_that_cannot_be_decoded(ids, message):
    for decode in (make().decode, make().decode_tiled):
        with pytest.raises(InputError, match=message):
            decode(ids)


@pytest.mark.parametrize("tile", [0, 1.5, True])
def test_tiles_are_whole_rows(tile):
    with pytest.raises(InputError, match="tile is"):
        make().decode_tiled(random_ids(1, 2, 2), tile=tile)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_twin_codes_are_told_apart_in_any_number_of_rows(rows):
    """Codes 1e-3 apart: rounding of the published sum alone picks either, from batch to batch."""
    generator = torch.Generator().manual_seed(0)
    codes = 10 * torch.randn(32, 16, generator=generator)
    codes = torch.cat([codes, codes + 1e-3 * torch.randn(32, 16, generator=generator)])
    vectors = codes + 1e-4 * torch.randn(64, 16, generator=generator)
    assert nearest_codes(vectors, codes, rows).tolist() == list(range(64))


def test_one_code_is_the_nearest():
    assert nearest_codes(torch.randn(3, 4), torch.zeros(1, 4)).tolist() == [0, 0, 0]
