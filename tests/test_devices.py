"""Decisions about devices: which one, which dtype, and what counts as a full one."""

import argparse
import errno

import pytest
import torch

import editmgt_lib
from editmgt_lib import loader, precision, results
from editmgt_lib.checkpoints import load_module
from editmgt_lib.commands.options import add_model_options, load_model
from editmgt_lib.errors import CheckpointError, InputError, OutOfMemory, is_out_of_memory
from editmgt_lib.models.vq import VQModel
from editmgt_lib.precision import own_precision

from .tiny import VQ

FULL = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cuda, no class": RuntimeError("CUDA error: out of memory"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "rocm": RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB, max allowed: 9.1 GB)"),
    "mps, one tensor": RuntimeError("Invalid buffer size: 12.34 GB"),
    "xpu": torch.OutOfMemoryError("XPU out of memory. Tried to allocate 2.00 GiB"),
    "xpu, driver": RuntimeError("level_zero backend failed: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"),
    "directml": RuntimeError("Could not allocate tensor. There is not enough GPU video memory"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 99 bytes"),
    "cpu, windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
    "python": MemoryError(),
    "system": OSError(errno.ENOMEM, "Cannot allocate memory"),
}
OTHER = (
    RuntimeError("shapes differ"),
    ValueError("out of memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    InputError("out of memory is no prompt"),
    CheckpointError("out of memory"),
)


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


# Full devices


@pytest.mark.parametrize("device", FULL)
def test_every_device_says_in_its_own_way_that_it_is_full(device):
    assert is_out_of_memory(FULL[device])
    with (
        pytest.raises(OutOfMemory, match="while drawing; use less") as caught,
        results.memory_advice("drawing", "use less"),
    ):
        raise FULL[device]
    assert caught.value.__cause__ is FULL[device]


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_other_errors_are_left_alone(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, results.memory_advice("drawing", "use less"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu, driver", "directml", "cpu"])
def test_decoding_goes_on_in_tiles_on_any_full_device(device, monkeypatch):
    vq, ids = VQModel(VQ), torch.zeros(2, 4, 4, dtype=torch.int64)
    expected = results.decode_pixels(vq, ids)
    monkeypatch.setattr(VQModel, "decode", failing(FULL[device]))
    torch.testing.assert_close(results.decode_pixels(vq, ids), expected, rtol=0, atol=1e-5)
    monkeypatch.setattr(VQModel, "decode_tiled", failing(FULL[device]))
    with pytest.raises(OutOfMemory, match="decoding; use a smaller picture"):
        results.decode_pixels(vq, ids)
    monkeypatch.setattr(VQModel, "decode", failing(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        results.decode_pixels(vq, ids)


@pytest.mark.parametrize("device", ["cuda", "mps", "cpu"])
def test_loading_onto_a_full_device_says_what_to_lower(device, monkeypatch):
    state = VQModel(VQ).state_dict()
    monkeypatch.setattr(VQModel, "to", failing(FULL[device]))
    with pytest.raises(OutOfMemory, match="no room on cpu for here; load with offload"):
        load_module(lambda: VQModel(VQ), state, where="here")
    monkeypatch.setattr(VQModel, "to", failing(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        load_module(lambda: VQModel(VQ), state, where="here")


# Which device and dtype


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"cuda", "xpu", "mps"}, "cuda"),
        ({"xpu", "mps"}, "xpu"),
        ({"mps"}, "mps"),
        (set(), "cpu"),
    ],
    ids=str,
)
def test_the_fastest_device_there_is(monkeypatch, there, chosen):
    apis = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}
    for name, api in apis.items():
        monkeypatch.setattr(api, "is_available", lambda name=name: name in there)
    assert loader.choose_device("auto") == torch.device(chosen)


@pytest.mark.parametrize("name", ["foo", "cuda:x", ""])
def test_what_is_no_device_is_named_with_those_there_are(name):
    with pytest.raises(InputError) as error:
        loader.choose_device(name)
    assert str(error.value) == (f"device is {name!r}; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'")


def test_why_a_device_cannot_be_used_is_one_sentence(monkeypatch):
    def lacking(*_, **__):
        raise NotImplementedError("Could not run 'empty'. It is only for these: [CPU, Meta, ...].")

    monkeypatch.setattr(torch, "empty", lacking)
    with pytest.raises(InputError, match=r"'mps' cannot be used \(Could not run 'empty'\); try"):
        loader.choose_device("mps")


def test_cuda_cards_are_asked_one_by_one(monkeypatch):
    cards = {0: (7, 5), 1: (8, 0), 2: (9, 0)}  # the first, current one emulates bfloat16
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: cards[d.index or 0])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    chosen = [loader.choose_dtype("auto", torch.device("cuda", index)) for index in cards]
    assert chosen == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert loader.choose_dtype("auto", torch.device("cuda")) == torch.float32
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert loader.choose_dtype("auto", torch.device("cuda", 0)) == torch.bfloat16


@pytest.mark.parametrize("units", [True, False])
def test_xpu_needs_matrix_units(monkeypatch, units):
    class Properties:
        has_subgroup_matrix_multiply_accumulate = units

    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: Properties())
    expected = torch.bfloat16 if units else torch.float32
    assert loader.choose_dtype("auto", torch.device("xpu", 1)) == expected


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_elsewhere_auto_is_float32(device):
    assert loader.choose_dtype("auto", torch.device(device)) == torch.float32
    assert loader.choose_dtype("bfloat16", torch.device(device)) == torch.bfloat16


# TF32, whose switches are the process's


def switches():
    """What the process would compute with, in torch's old words and in its new ones."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    new = cuda, cudnn, *(getattr(cudnn, name, None) for name in ("conv", "rnn"))
    return (
        torch.get_float32_matmul_precision(), cuda.allow_tf32, cudnn.allow_tf32,
        *(getattr(owner, "fp32_precision", None) for owner in new),
    )  # fmt: skip


@pytest.fixture(params=["highest", "high", "medium"])
def process(request):
    """A process that was set up before the library came."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(request.param)
    torch.backends.cudnn.allow_tf32 = request.param == "medium"
    yield switches()
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def pretended(tf32, device="cuda"):
    network = torch.nn.Linear(1, 1)
    network.execution = torch.device(device), torch.float32
    network.tf32 = tf32
    return network


@pytest.mark.parametrize("tf32", [False, True])
def test_a_call_computes_as_the_loader_chose_and_leaves_no_trace(process, tf32):
    with pytest.raises(InputError), results.stage("x", "y", pretended(tf32)):
        assert switches()[1:3] == (tf32, tf32)
        raise InputError("in the middle")
    assert switches() == process


@pytest.mark.parametrize(("tf32", "device"), [(None, "cuda"), (True, "cpu"), (False, "cpu")])
def test_a_host_and_other_devices_keep_their_switches(process, tf32, device):
    with results.stage("x", "y", pretended(tf32, device)):
        assert switches() == process


def test_networks_that_a_host_builds_leave_its_switches_alone(process):
    network = VQModel(VQ)
    network.execution = torch.device("cuda"), torch.float32
    with results.stage("x", "y", network):
        assert switches() == process


def test_nested_and_overlapping_calls_restore_what_the_first_one_found(process):
    first, second = (own_precision(pretended(tf32)) for tf32 in (True, False))
    first.__enter__()
    with own_precision(pretended(False)):
        assert switches()[1:3] == (False, False)
    assert switches()[1:3] == (True, True)
    second.__enter__()
    first.__exit__(None, None, None)  # as two threads may
    assert switches()[1:3] == (False, False)
    second.__exit__(None, None, None)
    assert switches() == process


def test_switches_that_torch_itself_refuses_to_read_are_restored():
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("torch before 2.9")
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"  # the old switch says otherwise
    try:
        with pytest.raises(RuntimeError):
            _ = matmul.allow_tf32
        with own_precision(pretended(False)):
            assert not matmul.allow_tf32
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize("tf32", [False, True, None])
def test_every_network_of_a_model_knows_its_choice(tiny_checkpoint, tf32):
    before = switches()
    model = loader.load(tiny_checkpoint, device="cpu", tf32=tf32)
    assert switches() == before
    for network in (model.transformer, model.vq, *model.text_encoders.networks):
        assert network.tf32 is tf32
    with pytest.raises(InputError, match="tf32 is 'on'; use one of False, True, None"):
        loader.load(tiny_checkpoint, tf32="on")


@pytest.mark.parametrize("tf32", [False, True])
def test_each_stage_of_an_edit_computes_as_chosen(tiny_checkpoint, tf32, process, monkeypatch):
    model, seen = loader.load(tiny_checkpoint, device="cpu", tf32=tf32), []
    networks = model.transformer, model.vq, *model.text_encoders.networks
    monkeypatch.setattr(precision, "execution_device", lambda _: torch.device("cuda"))
    for network in networks:
        for layer in network.modules():
            layer.register_forward_pre_hook(lambda *_: seen.append(switches()[1:3]))
    size = model.settings.resolution
    model.edit(torch.rand(1, size, size, 3), "make it red", steps=2)
    assert len(seen) > len(networks)
    assert set(seen) == {(tf32, tf32)}
    assert switches() == process


@pytest.mark.parametrize("flags", [[], ["--tf32"]])
def test_the_command_line_says_whether_tf32_is_allowed(flags, monkeypatch):
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    monkeypatch.setattr(editmgt_lib, "load", lambda name, **options: options)
    assert load_model(parser.parse_args(flags))["tf32"] is bool(flags)
