"""LoRA: files of every kind, merging, stacks, scopes, and training a few steps."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import editmgt_lib
from editmgt_lib import cli
from editmgt_lib.checkpoints import fp8, read_state_dict
from editmgt_lib.checkpoints.lora_files import CONFIGS, USUAL_NAMES
from editmgt_lib.errors import CheckpointError, InputError
from editmgt_lib.lora import Lora, LoraLayer, attach, extract, merge, merged, read_stack
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.training.lora import (
    adapter_lora,
    add_adapter,
    new_lora,
    save_adapter,
)

from .tiny import TRANSFORMER

ALL = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "ff.net.0.proj", "proj_mlp", "proj_out")
TEXT = ("add_q_proj", "to_add_out", "ff_context.net.2")
NAME = "transformer_blocks.0.attn.to_q"


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskedTransformer(TRANSFORMER).train(False).requires_grad_(False)


def random_lora(network, targets=ALL, scope="both", seed=1, rank=3, alpha=6.0, size=0.2):
    """A LoRA that changes what the network gives."""
    lora = new_lora(network, targets, rank=rank, alpha=alpha, scope=scope, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: x._replace(up=size * torch.randn(x.up.shape, generator=generator))
        for name, x in lora.layers.items()
    }
    return replace(lora, layers=layers)


def run(network, reference=True, **options):
    """Features of one pass over random tokens."""
    generator = torch.Generator().manual_seed(7)
    first = next(network.parameters())
    ids = torch.randint(0, 32, (2, 4, 4), generator=generator)
    text = torch.randn(2, 5, 16, generator=generator).to(first.dtype)
    pooled = torch.randn(2, 16, generator=generator).to(first.dtype)
    micro = torch.tensor([[64.0, 64, 0, 0, 6]]).expand(2, 5)
    others = ids.flip(-1) if reference else None
    return network(ids, torch.tensor([3.0, 5.0]), text, pooled, micro, others, **options).features


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        torch.testing.assert_close(layer.product(), theirs[name].product())


# Files


def test_a_file_comes_back_as_it_was(network, tmp_path):
    lora = replace(random_lora(network, scope="reference"), metadata={"trigger": "hat", "steps": 7})
    back = Lora.read(lora.write(tmp_path / "a.safetensors"))
    same(lora.layers, back.layers)
    assert all(torch.equal(x.up, back.layers[n].up) for n, x in lora.layers.items())
    assert (back.scope, back.rank, back.alpha, back.notes) == ("reference", 3, 6.0, ())
    assert back.metadata["trigger"] == "hat" and back.metadata["steps"] == 7


def test_the_header_is_what_other_programs_show(network, tmp_path):
    from safetensors import safe_open

    lora = replace(random_lora(network), metadata={"trigger": "hat", "resolution": "1024x1024"})
    with safe_open(lora.write(tmp_path / "a.safetensors"), framework="pt") as file:
        header, keys = file.metadata(), set(file.keys())
    assert header["modelspec.architecture"] == "editmgt/lora"
    assert header["modelspec.trigger_phrase"] == "hat"
    described = json.loads(header["lora_adapter_metadata"])
    assert described["transformer.r"] == 3 and described["transformer.lora_alpha"] == 6.0
    assert {
        f"transformer.{NAME}.{end}" for end in ("alpha", "lora_A.weight", "lora_B.weight")
    } < keys


FORMS = {
    "ours": ("transformer.{}.", "lora_A.weight", "lora_B.weight"),
    "bare": ("{}.", "lora_A.weight", "lora_B.weight"),
    "peft": ("base_model.model.{}.", "lora_A.weight", "lora_B.weight"),
    "peft, adapter named": (
        "base_model.model.{}.",
        "lora_A.default.weight",
        "lora_B.default.weight",
    ),
    "diffusers, old": ("transformer.{}.", "lora.down.weight", "lora.up.weight"),
    "ai-toolkit": ("diffusion_model.{}.", "lora_A.weight", "lora_B.weight"),
    "compiled and distributed": ("module._orig_mod.{}.", "lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_unet_{_}.", "lora_down.weight", "lora_up.weight"),
    "official": ("unet._orig_mod.{}.", "lora_A.weight", "lora_B.weight"),
}


def write_as(path, lora, form, alpha=True, metadata=None):
    prefix, down, up = FORMS[form]
    tensors = {}
    for name, layer in lora.layers.items():
        key = prefix.replace("{_}", name.replace(".", "_")).replace("{}", name)
        tensors[key + down], tensors[key + up] = layer.down.contiguous(), layer.up.contiguous()
        if alpha:
            tensors[key + "alpha"] = torch.tensor(layer.alpha)
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(network, tmp_path, form):
    lora = random_lora(network, (*ALL, *TEXT))
    back = Lora.read(write_as(tmp_path / "a.safetensors", lora, form))
    same(lora.layers, back.fitted(network.state_dict()).layers)
    assert back.scope == ("reference" if form == "official" else "both")


SIDES = {
    "official": (USUAL_NAMES[0], CONFIGS[0], "official"),
    "peft": (USUAL_NAMES[1], CONFIGS[1], "peft"),
    "renamed": ("hats.safetensors", "hats.json", "official"),
}


@pytest.mark.parametrize("side", SIDES)
def test_alpha_comes_from_the_json_beside_the_file(network, tmp_path, side):
    name, config, form = SIDES[side]
    lora = random_lora(network)
    path = write_as(tmp_path / name, lora, form, alpha=False)
    (tmp_path / config).write_text(json.dumps({"r": 3, "lora_alpha": 6}))
    back = Lora.read(path)
    same(lora.layers, back.layers)
    assert any(config in note for note in back.notes)
    if side != "renamed":  # the folder a script wrote stands for its file
        same(lora.layers, Lora.read(tmp_path).layers)


def test_alpha_comes_from_metadata(network, tmp_path):
    lora = random_lora(network)
    described = json.dumps({"transformer.r": 3, "transformer.lora_alpha": 1,
                            "transformer.alpha_pattern": {"attn.to_q": 6}})  # fmt: skip
    headers = {"lora_adapter_metadata": described}
    back = Lora.read(write_as(tmp_path / "a.safetensors", lora, "ours", False, headers))
    assert {x.alpha for n, x in back.layers.items() if n.endswith("to_q")} == {6.0}
    assert {x.alpha for n, x in back.layers.items() if not n.endswith("to_q")} == {1.0}
    headers = {"ss_network_alpha": "6.0"}
    back = Lora.read(write_as(tmp_path / "b.safetensors", lora, "kohya", False, headers))
    assert back.alpha == 6.0


def test_rank_stabilised_alpha_has_the_same_effect(network, tmp_path):
    lora = random_lora(network, rank=4)
    path = write_as(tmp_path / USUAL_NAMES[1], lora, "peft", alpha=False)
    (tmp_path / CONFIGS[1]).write_text(json.dumps({"lora_alpha": 6, "use_rslora": True}))
    assert Lora.read(path).layers[NAME].scale == pytest.approx(6 / 2)


@pytest.mark.parametrize("zero", [False, True])
def test_a_missing_alpha_is_the_rank_and_said(network, tmp_path, zero):
    lora = random_lora(network, alpha=0.001)
    layers = {n: x._replace(alpha=0.0) for n, x in lora.layers.items()}
    path = write_as(tmp_path / "a.safetensors", replace(lora, layers=layers), "ai-toolkit", zero)
    back = Lora.read(path)
    assert back.alpha == 3.0 and "no alpha" in back.notes[0]


BROKEN = {
    "lora_A of a pair alone": {"x.lora_A.weight": (2, 4)},
    "an alpha alone": {"x.lora_A.weight": (2, 4), "x.lora_B.weight": (4, 2), "xy.alpha": ()},
    "DoRA": {"x.lora_A.weight": (2, 4), "x.lora_B.weight": (4, 2), "x.dora_scale": (4,)},
    "LoKr": {"x.lokr_w1": (2, 4), "x.lokr_w2": (4, 2)},
    "a convolution": {"x.lora_A.weight": (2, 4, 1, 1), "x.lora_B.weight": (4, 2, 1, 1)},
    "ranks": {"x.lora_A.weight": (2, 4), "x.lora_B.weight": (4, 3)},
    "a checkpoint": {"context_embedder.weight": (4, 4)},
    "twice": {f"{p}x.lora_{h}.weight": (4, 4) for p in ("", "transformer.") for h in "AB"},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_lora_of_linear_layers_is_listed(tmp_path, kind):
    save_file({n: torch.zeros(s) for n, s in BROKEN[kind].items()}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors(.|\n)*(x|context)"):
        Lora.read(tmp_path / "a.safetensors")


def test_no_file_another_format_and_nan(network, tmp_path):
    with pytest.raises(InputError, match="there is no LoRA file"):
        Lora.read(tmp_path / "none.safetensors")
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="can run code"):
        Lora.read(tmp_path / "a.pt")
    (tmp_path / "b.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        Lora.read(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="end in .safetensors"):
        random_lora(network).write(tmp_path / "a.bin")
    lora = random_lora(network, size=float("nan"))
    with pytest.raises(CheckpointError, match="finite"):
        Lora.read(lora.write(tmp_path / "c.safetensors"))


# On a network


def test_names_and_shapes_that_do_not_fit_are_listed(network):
    layer = random_lora(network).layers[NAME]
    strange = Lora({"blocks.7.to_q": layer, NAME: layer._replace(down=torch.zeros(3, 5))})
    for use in (lambda: merge(network, [(strange, 1.0)]), lambda: attach(network, strange)):
        with pytest.raises(CheckpointError) as error:
            use()
        assert "blocks.7.to_q" in str(error.value) and f"{NAME}: checkpoint [32, 32]" in str(
            error.value
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_merging_equals_acting_at_run_time(network, dtype, strength):
    lora = random_lora(network, (*ALL, *TEXT))
    network.to(dtype)
    before, held = run(network), network.state_dict()[NAME + ".weight"].clone()
    adapter = attach(network, lora, strength)
    beside = run(network)
    assert torch.equal(network.state_dict()[NAME + ".weight"], held)
    del network.adapters[-1]
    assert torch.equal(run(network), before)
    merge(network, [(lora, strength)])
    within = run(network)
    change = (within.float() - before.float()).norm()
    error = (within.float() - beside.float()).norm() / change
    assert change > 0.05 * before.float().norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.1)
    assert sum(p.numel() for p in adapter.parameters()) > 0


def test_the_order_of_a_stack_does_not_matter(network):
    stack = [(random_lora(network, seed=seed), 0.3 * seed) for seed in (1, 2, 3)]
    state = network.state_dict()
    one, other = merged(state, stack), merged(state, stack[::-1])
    for name in state:
        torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-7)
    two = merged(merged(state, stack[:1]), stack[1:])
    torch.testing.assert_close(two[NAME + ".weight"], one[NAME + ".weight"])
    runs = []
    for order in (stack, stack[::-1]):
        for lora, strength in order:
            attach(network, replace(lora, scope="reference"), strength)
        runs.append(run(network))
        del network.adapters[:]
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-5)


def test_eight_bit_weights_are_widened_where_they_change(network):
    state = {}
    for name, tensor in network.state_dict().items():
        small = tensor.ndim == 2 and "blocks" in name
        state[name] = fp8.quantise(tensor) if small else tensor
        if small:
            state[name + fp8.SCALE] = fp8.row_scales(tensor)
    wide, scales = fp8.split_scales(state, "")
    lora = random_lora(network, ["to_q"])
    result = merged(state, [(lora, 1.0)])
    weight = NAME + ".weight"
    expected = fp8.dequantise(wide[weight], scales[weight]) + lora.layers[NAME].product()
    torch.testing.assert_close(result[weight], expected)
    assert weight + fp8.SCALE not in result
    other = "transformer_blocks.0.attn.to_k.weight"
    assert result[other] is state[other] and other + fp8.SCALE in result
    fp8.split_scales(result, "")  # still whole


def test_extracting_from_a_merged_checkpoint_gives_the_lora_back(network, tmp_path):
    lora = random_lora(network)
    base, tuned = network.state_dict(), merged(network.state_dict(), [(lora, 1.0)])
    back = extract(base, tuned, rank=3)
    assert back.layers.keys() == lora.layers.keys() and back.rank == 3
    for name, layer in lora.layers.items():
        torch.testing.assert_close(back.layers[name].product(), layer.product(), atol=1e-5, rtol=0)
    assert back.metadata["kept"] == pytest.approx(1)
    less = extract(base, tuned, rank=1)
    assert less.rank == 1 and 0.3 < less.metadata["kept"] < 0.99
    with pytest.raises(InputError, match="no linear layer that differs"):
        extract(base, base)
    odd = {n: t for n, t in tuned.items() if n != NAME + ".weight"}
    with pytest.raises(CheckpointError, match="to_q"):
        extract(base, odd)
    normed = {n: t + 1 if n == "encoder_proj_layer_norm.weight" else t for n, t in tuned.items()}
    assert "encoder_proj_layer_norm" in extract(base, normed, rank=3).notes[0]


# Scope


def test_a_reference_lora_acts_on_the_reference_alone(network):
    before, alone = run(network), run(network, reference=False)
    attach(network, random_lora(network, scope="reference"))
    assert not torch.allclose(run(network), before, atol=1e-3)
    assert torch.equal(run(network, reference=False), alone)


def test_it_changes_the_rows_of_the_reference_only(network):
    """In the first block, before attention mixes the streams."""
    seen = {}

    def recorded(q, k, v, groups):
        seen.setdefault("first", (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    network.attention = recorded
    run(network)
    plain = seen.pop("first")
    attach(network, random_lora(network, scope="reference"))
    run(network)
    known = 5 + 4  # rows of text and target
    for old, new in zip(plain, seen["first"], strict=True):
        assert torch.equal(old[:, :, :known], new[:, :, :known])
        assert ((old - new)[:, :, known:].abs().amax(-1) > 0).all()


def test_a_reference_lora_is_not_merged_and_has_no_text_layers(network):
    with pytest.raises(InputError, match="reference alone"):
        merge(network, [(random_lora(network, scope="reference"), 1.0)])
    lora = replace(random_lora(network, TEXT), scope="reference")
    with pytest.raises(InputError, match="add_q_proj"):
        attach(network, lora)
    with pytest.raises(InputError, match="scope is 'target'"):
        replace(lora, scope="target")


# Whole models


@pytest.fixture
def files(network, tmp_path):
    """Two LoRA files for the tiny checkpoint, and one of scope reference."""
    both = [random_lora(network, seed=s).write(tmp_path / f"{s}.safetensors") for s in (1, 2)]
    return [*both, random_lora(network, scope="reference").write(tmp_path / "r.safetensors")]


def features(model, reference=True):
    return run(model.transformer, reference)


@pytest.mark.parametrize("which", [0, 2])
def test_loading_with_strength(tiny_checkpoint, files, which):
    plain = editmgt_lib.load(tiny_checkpoint, device="cpu", text=False)
    load = lambda *lora: editmgt_lib.load(tiny_checkpoint, device="cpu", text=False, lora=lora)  # noqa: E731
    zero = load((files[which], 0))
    assert torch.equal(features(zero), features(plain)) and not zero.transformer.adapters
    for name, tensor in plain.transformer.state_dict().items():
        assert torch.equal(tensor, zero.transformer.state_dict()[name])
    assert torch.equal(features(load(files[which])), features(load((files[which], 1))))
    assert not torch.allclose(features(load((files[which], 0.5))), features(plain), atol=1e-3)
    alone = torch.equal(features(load(files[which]), False), features(plain, False))
    assert alone == (which == 2)
    for strength in (2.5, -2.01, float("nan"), "1"):
        with pytest.raises(InputError, match=r"safetensors is .*-2\.0 to 2\.0"):
            load((files[which], strength))


def test_a_stack_edits_alike_under_offload_and_reuse(tiny_checkpoint, files):
    stack = [(file, 0.7) for file in files]
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    results = [
        editmgt_lib.load(tiny_checkpoint, device="cpu", lora=stack, offload=mode).edit(
            image, "remove the red heart", seed=3, reuse=reuse
        )
        for mode, reuse in (("none", "none"), ("stages", "none"), ("none", "reference"))
    ]
    assert torch.equal(results[0].tokens.ids, results[1].tokens.ids)
    assert results[2].tokens.ids.shape == results[0].tokens.ids.shape
    half = editmgt_lib.load(tiny_checkpoint, device="cpu", dtype="bfloat16", lora=stack)
    assert half.edit(image, "remove the red heart").image.isfinite().all()


def test_compiled_blocks_take_adapters(network):
    attach(network, random_lora(network, scope="reference"))
    plain = run(network)
    network.compile_blocks(backend="eager")
    torch.testing.assert_close(run(network), plain, rtol=1e-4, atol=1e-5)


# Command line


def test_commands(tiny_checkpoint, files, tmp_path, capsys):
    from editmgt_lib.pictures.images import write_image

    write_image(tmp_path / "in.png", torch.rand(1, 64, 64, 3))
    model = ["--model", str(tiny_checkpoint), "--device", "cpu"]

    def edit(name, *more):
        out = tmp_path / name
        code = cli.main(["edit", str(tmp_path / "in.png"), "remove the star", "-o", str(out),
                         "--json", str(out) + ".json", *model, *more])  # fmt: skip
        assert code == 0, capsys.readouterr().err
        return json.loads(out.with_suffix(".png.json").read_text()), out.read_bytes()

    record, _ = edit("a.png", "--lora", f"{files[0]}:0.5", "--lora", str(files[2]))
    assert [row["strength"] for row in record["lora"]] == [0.5, 1.0]
    _, plain = edit("b.png")
    _, zero = edit("c.png", "--lora", f"{files[0]}:0")
    assert plain == zero
    for text, words in ((f"{files[0]}:3", "strength"), ("no.safetensors", "no LoRA file")):
        assert cli.main(["generate", "a star", "-o", str(tmp_path / "d.png"), "--lora", text]) == 2
        assert words in capsys.readouterr().err


def test_info_convert_and_extract(tiny_checkpoint, files, network, tmp_path, capsys):
    assert cli.main(["lora", "info", str(files[2])]) == 0
    shown = capsys.readouterr().out
    assert "reference" in shown and "transformer_blocks.*.attn.to_q" in shown
    assert cli.main(["lora", "info", str(files[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank"] == 3
    whole, out = tmp_path / "m.safetensors", tmp_path / "x.safetensors"
    convert = ["convert", str(tiny_checkpoint), "--dtype", "keep", "-o"]
    assert cli.main([*convert, str(whole), "--lora", f"{files[0]}:0.5"]) == 0
    base = read_state_dict(tiny_checkpoint / "editmgt")
    expected = merged(base, [(Lora.read(files[0]), 0.5)])
    for name, tensor in read_state_dict(whole / "editmgt").items():
        assert torch.equal(tensor, expected[name]), name
    assert cli.main([*convert, str(out), "--lora", str(files[2])]) == 2
    assert "reference alone" in capsys.readouterr().err and not out.exists()
    extracting = ["lora", "extract", str(tiny_checkpoint), str(whole), "-o", str(out)]
    assert cli.main([*extracting, "--rank", "3"]) == 0
    assert "100.0%" in capsys.readouterr().out
    assert cli.main(extracting) == 2  # there is a file
    found = Lora.read(out).layers[NAME].product()
    torch.testing.assert_close(found, 0.5 * Lora.read(files[0]).layers[NAME].product(),
                               atol=1e-5, rtol=0)  # fmt: skip


# Training


@pytest.mark.parametrize("scope", ["both", "reference"])
def test_a_few_steps_train_the_adapter_alone(network, tmp_path, scope):
    base = {n: t.clone() for n, t in network.state_dict().items()}
    start = run(network)
    lora = new_lora(network, ALL, rank=4, alpha=8, scope=scope, seed=0)
    parameters = add_adapter(network, lora)
    assert torch.equal(run(network), start)  # up is zero
    assert all(p.requires_grad for p in parameters)
    assert sum(p.requires_grad for p in network.parameters()) == len(parameters) == 2 * 16
    target = start.roll(1, 0)
    optimizer = torch.optim.Adam(parameters, 0.02)
    losses = []
    for _ in range(8):
        loss = (run(network) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in base.items())
    result = run(network).detach()
    path = save_adapter(tmp_path / "a.safetensors", network, {"steps": 8})
    saved = Lora.read(path)
    assert (saved.scope, saved.alpha, saved.metadata["steps"]) == (scope, 8.0, 8)
    del network.adapters[:]
    attach(network, saved)
    torch.testing.assert_close(run(network), result)
    del network.adapters[:]
    assert len(add_adapter(network, saved)) == len(parameters)
    torch.testing.assert_close(run(network).detach(), result)
    same(adapter_lora(network).layers, saved.layers)


@pytest.mark.parametrize("reference", [True, False])
def test_every_parameter_is_used_in_every_step(network, reference):
    parameters = add_adapter(network, new_lora(network, ALL, scope="reference"))
    run(network, reference).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    assert any(p.grad.abs().sum() > 0 for p in parameters) == reference


def test_targets(network):
    names = set(new_lora(network, ["to_q"]).layers)
    blocks = {*network.block_names}
    assert names == {f"{block}.attn.to_q" for block in blocks}
    assert set(new_lora(network, ["single_*.proj_mlp"]).layers) == {
        f"single_transformer_blocks.{i}.proj_mlp" for i in (0, 1)
    }
    assert set(new_lora(network, "to_out.0").layers) == {"transformer_blocks.0.attn.to_out.0"}
    for wrong, near in (("to_qq", "to_q"), ("proj_mpl", "proj_mlp"), ("norm1.linear", "attn.to_q")):
        with pytest.raises(InputError, match=f"{wrong}.*{near}"):
            new_lora(network, ["to_k", wrong])
    with pytest.raises(InputError, match="add_q_proj"):
        new_lora(network, ["add_q_proj"], scope="reference")
    with pytest.raises(InputError, match="targets is"):
        new_lora(network, [])
    first, again = (new_lora(network, ["to_q"], seed=4).layers[NAME].down for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, new_lora(network, ["to_q"], seed=5).layers[NAME].down)


def test_a_stack_takes_loras_in_memory(network):
    lora = random_lora(network)
    assert read_stack([(lora, 0.5), (lora, 0)]) == ((lora, 0.5),)
    assert LoraLayer(torch.zeros(2, 3), torch.zeros(4, 2), 6).scale == 3


def test_our_file_has_the_tensors_it_should(network, tmp_path):
    lora = random_lora(network)
    tensors = load_file(lora.write(tmp_path / "a.safetensors"))
    assert len(tensors) == 3 * len(lora.layers)
    assert float(tensors[f"transformer.{NAME}.alpha"]) == 6.0
