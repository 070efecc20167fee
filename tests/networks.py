"""Tiny random networks for the metrics, in the folders that `load_networks` reads."""

import json
import shutil
from functools import partial

import torch
from safetensors.torch import save_file

SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}


def write_networks(root):
    """All networks by name; the same ones every time."""
    from editmgt_lib.evaluation.metrics.perceptual import BACKBONES

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in ("clip-vit-b-32", "clip-vit-l-14"):
            write_clip(root / name)
        for name in ("dino-s-16", "dino-b-8"):
            write_transformer(root / name, "ViTModel", "ViTConfig", image_size=224, patch_size=32)
        write_transformer(
            root / "dinov2-b-14", "Dinov2Model", "Dinov2Config", image_size=64, patch_size=32
        )
        for name, (build, _) in BACKBONES.items():
            folder = root / f"lpips-{name}"
            folder.mkdir(parents=True)
            weights = {f"features.{k}": v for k, v in build().state_dict().items()}
            save_file(weights | {"classifier.1.bias": torch.zeros(1)}, folder / "model.safetensors")
    return root


def write_transformer(folder, kind, config_kind, **options):
    import transformers

    config = getattr(transformers, config_kind)(**SIZE, num_attention_heads=2, **options)
    build = partial(getattr(transformers, kind), config)
    model = build(add_pooling_layer=False) if kind == "ViTModel" else build()
    spread(model).save_pretrained(folder)


def write_clip(folder):
    from transformers import CLIPConfig, CLIPModel

    from editmgt_lib.toyworld.language import corpus
    from editmgt_lib.toyworld.text_encoders import write_text_folders

    write_text_folders(folder / "text", corpus(), text_length=77, width=16, pooled=16)
    encoder = json.loads((folder / "text/text_encoder/config.json").read_text())
    names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    text = SIZE | {"num_attention_heads": 2} | {name: encoder[name] for name in names}
    vision = SIZE | {"num_attention_heads": 2, "image_size": 224, "patch_size": 32}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    spread(CLIPModel(config)).save_pretrained(folder)
    shutil.copytree(folder / "text/tokenizer", folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "text")


def spread(model):
    """Widen the random weights, so that different inputs have clearly different embeddings."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model
