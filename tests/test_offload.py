"""Offloaded weights: what is on the device when, and that all are back afterwards.

A device is stood in for by copies: a tensor is "on the device" while a copy of it is alive.
"""

import gc
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from weakref import WeakValueDictionary

import pytest
import torch

from editmgt_lib import offload as offloading
from editmgt_lib.checkpoints import read_state_dict, save_module
from editmgt_lib.cli import main
from editmgt_lib.errors import Cancelled, InputError, OutOfMemory
from editmgt_lib.loader import OFFLOAD, load
from editmgt_lib.localization.maps import LocalizationOptions
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.models.vq import VQModel
from editmgt_lib.offload import execution_device, move_execution, offload, onloaded
from editmgt_lib.pictures.images import write_image
from editmgt_lib.sampling.loop import SamplingOptions

PROMPT = "make the red heart blue"
MAPPED = SamplingOptions(steps=3, guidance=2.0, threshold=0.3)
MODES = ("stages", "layers")


class Device:
    """What is on the stand-in device now, and the most bytes there were at a time."""

    def __init__(self):
        self.alive, self.peak, self.brought, self.full_at = WeakValueDictionary(), 0, 0, None

    def bring(self, tensor, device):
        if id(tensor) in self.alive:
            return tensor
        self.brought += 1
        if self.brought == self.full_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        here = twin(tensor)
        if isinstance(tensor, torch.nn.Parameter):
            here = torch.nn.Parameter(here, requires_grad=False)
        self.alive[id(here)] = here
        self.peak = max(self.peak, sum(t.nbytes for t in self.alive.values()))
        return here

    def holds(self, network):
        """Names of the network's parameters that are here."""
        return {n for n, p in network.named_parameters() if id(p) in self.alive}


def twin(tensor):
    """A copy as far from a multiple of 64 bytes as the original: CPU kernels round by that."""
    memory = torch.empty(tensor.nbytes + 64, dtype=torch.uint8)
    start = (tensor.data_ptr() - memory.data_ptr()) % 64
    copy = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)


@pytest.fixture
def device(monkeypatch):
    device = Device()
    monkeypatch.setattr(offloading, "_onload", device.bring)
    return device


@pytest.fixture(params=MODES)
def offloaded(request, tiny_checkpoint):
    return load(tiny_checkpoint, device="cpu", offload=request.param)


@pytest.fixture(scope="module")
def resident(tiny_checkpoint):
    return load(tiny_checkpoint, device="cpu")


def picture(batch=1):
    return torch.rand(batch, 64, 48, 3, generator=torch.Generator().manual_seed(0))


def networks(model):
    return {
        "clip": model.text_encoders.clip,
        "gemma": model.text_encoders.gemma,
        "transformer": model.transformer,
        "vq": model.vq,
    }


def state(model):
    """Identity and address of every tensor, and every hook."""
    modules = {f"{k}.{n}": m for k, net in networks(model).items() for n, m in net.named_modules()}
    tensors = {
        (where, name): (id(t), t.data_ptr())
        for where, module in modules.items()
        for table in (module._parameters, module._buffers)
        for name, t in table.items()
        if t is not None
    }
    hooks = {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules.items()}
    return tensors, hooks


def weight_bytes(network, without=""):
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return sum(t.nbytes for n, t in tensors if not without or not n.startswith(without))


# Where everything is


def test_every_stage_has_its_own_network_on_the_device(offloaded, device, monkeypatch):
    seen = {}

    def record(place):
        here = {name for name, net in networks(offloaded).items() if device.holds(net)}
        seen.setdefault(place, set()).update(here)

    def recording(kind, method, place):
        original = getattr(kind, method)

        def called(*args, **options):
            record(place)
            return original(*args, **options)

        monkeypatch.setattr(kind, method, called)

    recording(VQModel, "encode", "encode")
    recording(VQModel, "decode", "decode")
    recording(MaskedTransformer, "prepare", "prepare")
    recording(MaskedTransformer, "step", "step")
    recording(type(offloaded.text_encoders.clip.text_model), "forward", "clip")
    recording(type(offloaded.text_encoders.gemma.layers[0]), "forward", "gemma")
    once = LocalizationOptions(update="once")
    offloaded.edit(picture(), PROMPT, options=MAPPED, localization=once)
    assert seen == {
        "encode": {"vq"},
        "clip": {"clip"},
        "gemma": {"gemma"},
        "prepare": {"transformer"},
        "step": {"transformer"},
        "decode": {"vq"},
    }


@pytest.mark.parametrize(("mode", "at_a_time"), [("stages", [{0, 1}] * 2), ("layers", [{0}, {1}])])
def test_the_language_model_comes_whole_or_layer_by_layer(
    tiny_checkpoint, device, monkeypatch, mode, at_a_time
):
    model, seen = load(tiny_checkpoint, device="cpu", offload=mode), []
    kind = type(model.text_encoders.gemma.layers[0])
    forward = kind.forward

    def watched(*args, **options):
        here = device.holds(model.text_encoders.gemma)
        assert "embed_tokens.weight" not in here
        seen.append({int(name.split(".")[1]) for name in here})
        return forward(*args, **options)

    monkeypatch.setattr(kind, "forward", watched)
    model.encode_instruction(PROMPT, "ugly")
    assert seen == at_a_time * 2


@pytest.mark.parametrize("options", [MAPPED, replace(MAPPED, threshold=0.0, guidance=1.0)])
def test_the_most_there_is_at_a_time(offloaded, device, options):
    gemma = offloaded.text_encoders.gemma
    parts = {name: weight_bytes(net) for name, net in networks(offloaded).items()}
    parts["gemma"] = weight_bytes(gemma, without="embed_tokens")
    if gemma.execution.layerwise:
        rest_of_it = weight_bytes(gemma, without=("embed_tokens", "layers"))
        parts["gemma"] = rest_of_it + max(map(weight_bytes, gemma.layers))
    offloaded.edit(picture(2), PROMPT, options=options)
    assert device.peak == max(parts.values())


def test_offloaded_networks_run_on_their_execution_device(tiny_checkpoint):
    """`meta` is a device of its own: a weight left behind would raise."""
    meta, model = torch.device("meta"), load(tiny_checkpoint, device="cpu", offload="stages")
    model.to(meta)
    encoders, vq = model.text_encoders, model.vq
    assert model.device == encoders.device == execution_device(vq) == meta
    with torch.no_grad(), onloaded(vq):
        channels = vq.encoder.conv_in.in_channels
        assert vq.encoder(torch.zeros(1, channels, 64, 64, device=meta)).is_meta
    ids = torch.zeros(1, 24, dtype=torch.long, device=meta)
    with torch.no_grad(), onloaded(encoders.clip):
        assert encoders.clip(input_ids=ids).text_embeds.is_meta
    with onloaded(model.transformer):
        tensors = [*model.transformer.parameters(), *model.transformer.buffers()]
        assert all(tensor.is_meta for tensor in tensors)
    assert not any(p.is_meta for net in networks(model).values() for p in net.parameters())


# The same results, and all are back


@pytest.mark.parametrize("update", ["step", "once"])
def test_an_edit_equals_one_with_all_on_the_device(offloaded, resident, device, update):
    how = LocalizationOptions(update=update)
    ours, theirs = (
        m.edit(picture(2), [PROMPT, "remove the ball"], options=MAPPED, localization=how)
        for m in (offloaded, resident)
    )
    assert torch.equal(ours.tokens.ids, theirs.tokens.ids)
    assert torch.equal(ours.image, theirs.image)
    assert torch.equal(ours.localization.relevance, theirs.localization.relevance)
    assert device.brought > 0 and torch.equal(
        offloaded.generate(PROMPT, options=MAPPED), resident.generate(PROMPT, options=MAPPED)
    )


def broken(*_, **__):
    raise RuntimeError("of ours")


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("nothing", None),
        ("callback", Cancelled),
        ("interrupt", KeyboardInterrupt),
        ("step", RuntimeError),
        ("layer", RuntimeError),
        ("decode", RuntimeError),
        ("bring the first", OutOfMemory),
        ("bring a later one", OutOfMemory),
        ("bring the last", OutOfMemory),
        ("words", InputError),
    ],
)
def test_everything_is_back_afterwards(offloaded, resident, device, monkeypatch, what, error):
    before, options = state(offloaded), {"options": MAPPED}
    with monkeypatch.context() as broke:
        if what in ("callback", "interrupt"):
            options["callback"] = interrupt if what == "interrupt" else lambda event: False
        elif what == "step":
            broke.setattr(MaskedTransformer, "step", broken)
        elif what == "layer":
            layer = offloaded.text_encoders.gemma.layers[1].mlp
            broke.setattr(type(layer), "forward", broken)
        elif what == "decode":
            broke.setattr(VQModel, "decode", broken)
        elif what.startswith("bring"):
            device.full_at = {"bring the first": 1, "bring a later one": 60}.get(what, 150)
        elif what == "words":
            options["localization"] = LocalizationOptions(words=("zebra",))
        if error is None:
            offloaded.edit(picture(), PROMPT, **options)
        else:
            with pytest.raises(error):
                offloaded.edit(picture(), PROMPT, **options)
    device.full_at = None
    gc.collect()  # the caught error's frames held copies
    assert state(offloaded) == before
    assert not device.alive
    again = offloaded.edit(picture(), PROMPT, options=MAPPED)
    assert torch.equal(again.image, resident.edit(picture(), PROMPT, options=MAPPED).image)


def test_a_decoder_may_visit_while_the_transformer_is_there(offloaded, device):
    """As a preview does, which decodes what there is at every step."""
    from editmgt_lib.results import decode_pixels

    before, pictures = state(offloaded), []

    def preview(event):
        pictures.append(decode_pixels(offloaded.vq, event.proposal))

    offloaded.edit(picture(), PROMPT, options=MAPPED, callback=preview)
    assert len(pictures) == 3 and state(offloaded) == before and not device.alive


def test_nested_visits_end_with_the_outer_one(offloaded, device):
    network = offloaded.transformer
    with onloaded(network):
        there = device.brought
        with onloaded(network):
            assert device.brought == there
        assert device.holds(network) == {name for name, _ in network.named_parameters()}
    assert not device.holds(network)


# Moving, saving, freeing, saying


def test_tied_weights_come_once_and_stay_tied(device):
    tied = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    offload(tied.requires_grad_(False), torch.device("cpu"))
    with onloaded(tied):
        assert tied[1].weight is tied[0].weight and device.brought == 3
    assert tied[1].weight is tied[0].weight


def test_an_offloaded_model_is_moved_saved_and_freed(tiny_checkpoint, device, tmp_path):
    model = load(tiny_checkpoint, device="cpu", offload="stages", dtype="bfloat16")
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.bfloat16)
    before = state(model)
    assert model.to("meta") is model and model.device.type == "meta"
    assert "meta" in repr(model) and "meta" in repr(model.text_encoders)
    assert model.to("cpu").device.type == "cpu" and state(model) == before
    with pytest.raises((RuntimeError, AssertionError)):
        move_execution(model.vq, "xla")
    with onloaded(model.transformer):
        save_module(tmp_path, model.transformer, model.transformer.config.to_dict())
    saved = read_state_dict(tmp_path)
    assert all(torch.equal(t, saved[n]) for n, t in model.transformer.state_dict().items())
    instruction = model.encode_instruction(PROMPT)
    model.free_text()
    assert model.sample(model.encode_image(picture()), instruction, MAPPED)[0].ids.shape == (
        1,
        4,
        4,
    )
    assert model.to("cpu").device.type == "cpu"
    assert load(tiny_checkpoint, device="cpu", offload="layers", text=False).text_encoders is None


def test_what_is_advised_depends_on_what_was_done(tiny_checkpoint, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(VQModel, "encode", full)
    for mode in OFFLOAD:
        model = load(tiny_checkpoint, device="cpu", offload=mode)
        with pytest.raises(OutOfMemory) as caught:
            model.encode_image(picture())
        assert "offload" not in str(caught.value)  # no use on the CPU, nor twice
    from editmgt_lib import results

    monkeypatch.setattr(results, "execution_device", lambda network: torch.device("cuda"))
    model = load(tiny_checkpoint, device="cpu")
    with (
        pytest.raises(OutOfMemory, match="offload 'stages', or use a"),
        results.stage("sampling", "use a smaller batch", model.transformer),
    ):
        full()


def test_an_offload_that_is_none_is_named(tiny_checkpoint):
    with pytest.raises(InputError, match="offload is 'disk'.*'none', 'stages', 'layers'"):
        load(tiny_checkpoint, offload="disk")


# Copies beside computation


class Lane:
    """A stand-in for a stream of copies: they hold NaN until computation waited for them."""

    def __init__(self, device):
        self.device, self.log, self.pending, self.open = device, [], {}, False

    def __call__(self, _):
        return self

    @contextmanager
    def copying(self):
        self.open = True
        yield
        self.open = False

    def bring(self, tensor, place):
        here = self.device.bring(tensor, place)
        if self.open:
            self.pending[id(here)] = here.clone()
            here.data.fill_(torch.nan if here.is_floating_point() else 0)
        return here

    def copied(self):
        self.log.append("copy")
        return len(self.log)

    def receive(self, copies, event):
        self.log.append("wait")
        for here in copies:
            here.data.copy_(self.pending.pop(id(here)))

    def computed(self):
        self.log.append("computed")
        return SimpleNamespace(synchronize=lambda: self.log.append("until computed"))


@pytest.fixture
def lane(device, monkeypatch):
    lane = Lane(device)
    monkeypatch.setattr(offloading, "_lane", lane)
    monkeypatch.setattr(offloading, "_onload", lane.bring)
    return lane


class Tower(torch.nn.Module):
    """Layers in a row."""

    def __init__(self, layers, width=4, device="cpu"):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(layers))
        self.requires_grad_(False)
        offload(self, torch.device(device), layerwise=("layers",))

    def forward(self, x):
        with onloaded(self):
            for layer in self.layers:
                x = layer(x)
        return x


def test_layers_are_copied_one_ahead(lane):
    tower, x = Tower(4), torch.ones(1, 4)
    tower(x)
    first, last = ["copy", "wait", "copy", "computed"], ["wait", "computed"]
    assert lane.log == [*first, *["wait", "until computed", "copy", "computed"] * 2, *last]
    with torch.no_grad():
        wanted = torch.nn.Sequential(*tower.layers)(x)
        assert torch.equal(tower(x), wanted)
    with onloaded(tower):
        assert torch.equal(tower(x), wanted) and torch.equal(tower(x), wanted)
    assert not lane.pending and not lane.device.alive
    assert lane.device.peak == 2 * weight_bytes(tower.layers[0])


def test_text_is_the_same_when_layers_come_ahead(lane, resident, tiny_checkpoint):
    model = load(tiny_checkpoint, device="cpu", offload="layers")
    before, theirs = state(model), resident.encode_instruction(PROMPT)
    assert torch.equal(model.encode_instruction(PROMPT).states, theirs.states)
    assert state(model) == before and not lane.device.alive


@pytest.mark.parametrize("failing", [0, 1])
def test_a_layer_that_fails_leaves_no_copies(lane, tiny_checkpoint, monkeypatch, failing):
    model = load(tiny_checkpoint, device="cpu", offload="layers")
    before = state(model)
    with monkeypatch.context() as broke:
        broke.setattr(model.text_encoders.gemma.layers[failing].mlp, "forward", broken)
        with pytest.raises(RuntimeError, match="of ours"):
            model.encode_instruction(PROMPT)
    lane.pending.clear()
    gc.collect()
    assert state(model) == before and not lane.device.alive
    assert model.encode_instruction(PROMPT).states.isfinite().all()


def test_weights_rest_in_pinned_memory(monkeypatch):
    network = torch.nn.ModuleDict({k: torch.nn.Linear(3, 3) for k in ("a", "b", "table")})
    network["b"].weight = network["a"].weight
    pinned, table = [], network["table"].weight.data_ptr()

    def pin(tensor):
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(offloading, "_pinned", pin)
    offload(network, torch.device("cpu"), excluded=("table",))
    assert not pinned
    move = torch.device("cuda")
    offload(network.requires_grad_(False), move, excluded=("table",))
    assert len({t.data_ptr() for t in pinned}) >= 3
    places = {t.data_ptr() for t in pinned}
    assert all(network[k].weight.data_ptr() in places for k in ("a", "b"))
    assert network["b"].weight is network["a"].weight
    assert network["table"].weight.data_ptr() == table


def test_a_system_that_pins_no_more_still_offloads(monkeypatch):
    def refuse(tensor):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(offloading, "_pinned", refuse)
    network = torch.nn.Linear(3, 3).requires_grad_(False)
    before = network.weight.data_ptr()
    offload(network, torch.device("cuda"))
    assert network.weight.data_ptr() == before and execution_device(network).type == "cuda"


# The command line


def test_commands_offload_with_the_same_result(tiny_checkpoint, device, tmp_path, capsys):
    write_image(tmp_path / "in.png", picture())
    for mode in OFFLOAD:
        device.brought = 0
        words = ["--model", str(tiny_checkpoint), "--device", "cpu", "--offload", mode, "-o"]
        out = str(tmp_path / f"{mode}.png")
        assert main(["edit", str(tmp_path / "in.png"), PROMPT, *words, out]) == 0
        assert bool(device.brought) == (mode != "none")
        assert main(["generate", PROMPT, *words, str(tmp_path / f"{mode}-new.png")]) == 0
    for kind in ("", "-new"):
        assert len({(tmp_path / f"{mode}{kind}.png").read_bytes() for mode in OFFLOAD}) == 1
    assert main(["edit", str(tmp_path / "in.png"), PROMPT, "--offload", "disk", "-o", "x.png"]) == 2
    assert "--offload" in capsys.readouterr().err


def test_evaluation_offloads_with_the_same_result(tiny_checkpoint, device, tmp_path):
    from editmgt_lib.evaluation import EvaluationOptions, evaluate

    options = EvaluationOptions(samples=1, categories=("add",), layers=True)
    reports = [
        evaluate(load(tiny_checkpoint, device="cpu", offload=mode), options).to_dict()
        for mode in ("none", "layers")
    ]
    for part in ("layers", "groups", "setting", "pairs"):
        assert part in reports[0] and repr(reports[0][part]) == repr(reports[1][part])  # NaN
    assert device.brought > 0


def test_info_says_what_each_mode_needs(tiny_checkpoint, device, capsys):
    import json

    assert main(["info", str(tiny_checkpoint), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["memory_bytes"]["float32"]
    for mode in MODES:
        model = load(tiny_checkpoint, device="cpu", offload=mode, dtype="float32")
        device.peak = 0
        model.edit(picture(), PROMPT, options=MAPPED)
        assert abs(device.peak - told[mode]) < 1000  # small buffers are in no file
    assert main(["info", str(tiny_checkpoint)]) == 0
    assert "with offload stages" in capsys.readouterr().out


# On a real device


@pytest.mark.cuda
def test_networks_are_never_on_a_gpu_together(tmp_path):
    measured, results = {}, {}
    for mode in OFFLOAD:
        model = mid_size(tmp_path, mode, "cuda")
        sizes = {name: weight_bytes(net) for name, net in networks(model).items()}
        layer = weight_bytes(model.text_encoders.gemma.layers[0])
        torch.cuda.reset_peak_memory_stats()
        results[mode] = model.edit(picture(), PROMPT, options=MAPPED)
        measured[mode] = torch.cuda.max_memory_allocated()
        del model
        gc.collect()
        torch.cuda.empty_cache()
    room = 90e6  # what is computed, and the workspaces of the libraries
    largest, second, *_ = sorted(sizes.values(), reverse=True)
    assert largest == sizes["gemma"] and layer + room < second + room < largest
    assert measured["none"] > sum(sizes.values())
    assert measured["stages"] < largest + room < largest + second
    assert measured["layers"] < second + room < largest
    for mode in MODES:
        assert torch.equal(results[mode].tokens.ids, results["none"].tokens.ids)
        assert torch.equal(results[mode].image, results["none"].image)


def mid_size(folder, offload, device):
    """A random model of some 700 MB, most of it in the language model."""
    from editmgt_lib.files import atomic_write_json
    from editmgt_lib.toyworld.language import corpus
    from editmgt_lib.toyworld.text_encoders import write_text_folders

    from .conftest import SETTINGS
    from .tiny import TRANSFORMER, VQ

    if not (folder / "editmgt.json").exists():
        sizes = {"num_attention_heads": 8, "attention_head_dim": 96, "num_single_layers": 2}
        sizes |= {"axes_dims_rope": (16, 40, 40), "joint_attention_dim": 2560}
        config, tokenizer = replace(TRANSFORMER, **sizes), replace(VQ, block_out_channels=(512,))
        torch.manual_seed(0)
        save_module(folder / "vqvae", VQModel(tokenizer), tokenizer.to_dict())
        save_module(folder / "editmgt", MaskedTransformer(config), config.to_dict())
        write_text_folders(folder, corpus(), text_length=24, width=2560, pooled=16)
        schedule = {"masking_schedule": "cosine", "mask_token_id": config.mask_token_id}
        atomic_write_json(folder / "scheduler" / "scheduler_config.json", schedule)
        atomic_write_json(folder / "editmgt.json", SETTINGS)
    return load(folder, device=device, dtype="float32", offload=offload)
