"""What a stage will take, before its first step: parameters, memory, disk, operations, hours.

Operations are counted by torch on networks without memory; how fast this device multiplies is
measured for a moment. Hours assume `UTILISATION` of that, so they are a guess to within a factor of
two; the progress bar knows better after some steps.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..checkpoints.layout import layout_of
from ..checkpoints.weights import read_config, read_headers
from ..errors import InputError
from ..models.config import TransformerConfig, complete_config
from ..models.transformer import MaskedTransformer
from ..models.vq import VQConfig, VQModel
from .config import GENERATION, RunConfig, StageConfig
from .lora import add_adapter, new_lora
from .parallel import World

UTILISATION = 0.4
GB = 1e9


@dataclass(frozen=True)
class Plan:
    """What a stage will take; sizes in bytes, memory per process and without activations.

    operations: of a step. peak: operations per second of plain matrix products.
    """

    name: str
    steps: int
    batch: int
    trained: int
    frozen: int
    tokens: int
    memory: float
    disk: float
    operations: float
    peak: float
    hours: float

    @property
    def lines(self) -> tuple[str, str]:
        """For people."""
        tokens = f", {self.tokens:,} tokens" if self.tokens else ""
        return (
            f"{self.name}: trains {_count(self.trained)} parameters, {_count(self.frozen)} frozen; "
            f"{self.steps} steps of {self.batch} samples{tokens}",
            f"  memory {_bytes(self.memory)} per process and activations, disk "
            f"{_bytes(self.disk)}, {self.operations / 1e12:.3g} TFLOP per step, about "
            f"{_hours(self.hours)}",
        )


def plan_stage(stage: StageConfig, config: RunConfig, start: Path | None, world: World) -> Plan:
    """Reckon a stage; `start` is the checkpoint it may start from."""
    loop, factor = stage.loop, config.engine.recompute + (2 if stage.lora else 3)
    network, sample, tokens = _network(stage, config, start)
    if stage.lora and not stage.lora.start:
        o = stage.lora
        lora = new_lora(network, o.targets, rank=o.rank, alpha=o.alpha, scope=o.scope)
        add_adapter(network, lora)
    counts = [(p.requires_grad, p.numel()) for p in network.parameters()]
    trained, frozen = (sum(n for kind, n in counts if kind is want) for want in (True, False))
    # Float32 weights, gradients, two moments and the average.
    share = world.size if config.engine.parallel == "fsdp" else 1
    memory = (4 * frozen + 20 * trained) / share
    states = loop.keep_last + 1 + (loop.steps // loop.keep_every if loop.keep_every else 0)
    disk = 16 * trained * states + 4 * (trained if stage.lora else trained + frozen)
    operations = factor * loop.batch * _operations(sample)
    peak = world.size * product_speed(world.device, config.engine.precision)
    return Plan(
        stage.name, loop.steps, loop.batch, trained, frozen, loop.batch * tokens, memory, disk,
        operations, peak, loop.steps * operations / (UTILISATION * peak) / 3600,
    )  # fmt: skip


def _network(stage: StageConfig, config: RunConfig, start: Path | None):
    """Network without memory, a function that passes one sample through it, and its tokens."""
    vq = config.tokenizer
    if vq is None and start is not None:
        vq = VQConfig.from_dict(read_config(start / "vqvae"))
    if stage.kind in GENERATION:
        return _transformer(stage, config, start, config.size // (vq.factor if vq else 16))
    if stage.kind == "text":
        from .initial import new_text_encoders

        encoders = new_text_encoders(config.transformer, config.text_length, config.seed)
        network = nn.ModuleList(encoders.modules_to_train())
        return network, lambda: encoders.encode_ids(*encoders.tokenize([""])), config.text_length
    with torch.device("meta"):
        network, pixels = VQModel(vq), torch.empty(1, 3, config.size, config.size)
    network.quantize.requires_grad_(False)
    if stage.kind == "decoder":
        for part in (network.encoder, network.quant_conv):
            part.requires_grad_(False)

    def sample() -> None:
        latents = network.quant_conv(network.encoder(F.pixel_unshuffle(pixels, vq.patch_size)))
        network.decoder(network.post_quant_conv(latents))

    return network, sample, (config.size // vq.factor) ** 2


def _transformer(stage: StageConfig, config: RunConfig, start: Path | None, side: int):
    sizes = config.transformer or _sizes_of(start, stage)
    with torch.device("meta"):
        network = MaskedTransformer(sizes)
        ids = torch.empty(1, side, side, dtype=torch.long)
        text = torch.empty(1, config.text_length, sizes.joint_attention_dim)
        pooled, micro = torch.empty(1, sizes.pooled_projection_dim), torch.empty(1, 5)
        timestep = torch.empty(1)
    reference = ids if stage.kind == "edit" else None

    def sample() -> None:
        features = network(ids, timestep, text, pooled, micro, reference).features
        network.logits(features)

    return network, sample, side**2 * (1 if reference is None else 2)


def _sizes_of(start: Path | None, stage: StageConfig) -> TransformerConfig:
    if start is None:
        raise InputError(
            f"stage {stage.name!r} has no network; name a checkpoint to `start` from, or add a "
            "table [transformer] of sizes"
        )
    folder = start / layout_of(start).transformer
    shapes = {name: info.shape for name, info in read_headers(folder).items()}
    return TransformerConfig.from_dict(complete_config(read_config(folder), shapes, str(folder)))


def _operations(sample) -> float:
    """Operations of one sample's forward pass; without a kernel's own, which are few."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        sample()
    return float(counter.get_total_flops())


def product_speed(device: torch.device, precision: str) -> float:
    """Operations per second of a matrix product on this device, measured for a moment."""
    side = 8192 if device.type == "cuda" else 512
    dtype = getattr(torch, precision) if device.type == "cuda" else torch.float32
    a = torch.ones(side, side, device=device, dtype=dtype)
    done, began = 0, 0.0
    for warm in (True, False):
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < 0.05:
            product = a @ a
            done += 1
            if warm and done == 3:
                break
            float(product[0, 0])  # waits for the device
    return 2 * side**3 * done / (time.perf_counter() - began)


def require_room(plan: Plan, out: Path, world: World) -> None:
    """Raise InputError unless disk and memory hold what the plan needs."""
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < plan.disk:
        raise InputError(
            f"stage {plan.name!r} needs {_bytes(plan.disk)} of disk and {place} has "
            f"{_bytes(free)} free; choose another folder, or lower keep_last or raise keep_every"
        )
    memory = _memory(world.device)
    if memory is not None and memory < plan.memory:
        raise InputError(
            f"stage {plan.name!r} needs {_bytes(plan.memory)} of memory per process before "
            f"activations and {world.device} has {_bytes(memory)}; train a LoRA, or set "
            "engine.parallel to 'fsdp' with more processes"
        )


def _memory(device: torch.device) -> float | None:
    """All memory of a device, in bytes; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return None


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _bytes(number: float) -> str:
    return f"{number / GB:.3g} GB"


def _hours(hours: float) -> str:
    return f"{60 * hours:.2g} minutes" if hours < 1 else f"{hours:.2g} hours"
