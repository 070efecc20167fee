"""Fingerprints of networks and settings: equal where the tokens they make are equal."""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from ..models.vq import VQModel

LENGTH = 16  # hexadecimal digits


def digest(*parts: Any) -> str:
    """Fingerprint of plain data."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def tokenizer_fingerprint(vq: VQModel) -> str:
    """Fingerprint of what decides the ids of a picture: encoder and codebook, not the decoder."""
    config = {k: v for k, v in vq.config.to_dict().items() if not k.startswith("_")}
    weights = _weights(vq.encoder, vq.quant_conv, vq.quantize, dtype=torch.float32)
    return digest("vq", config, weights)


def text_fingerprint(encoder: nn.Module) -> str:
    """Fingerprint of a text encoder, the same in float32 and bfloat16."""
    return digest("text", _weights(encoder, dtype=torch.bfloat16))


def _weights(*modules: nn.Module, dtype: torch.dtype) -> str:
    """Hash names, shapes and values, rounded to `dtype`."""
    total = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            total.update(f"{name}{tuple(tensor.shape)}".encode())
            values = tensor.detach().to("cpu", dtype).contiguous().flatten()
            total.update(values.view(torch.uint8).numpy())
    return total.hexdigest()
