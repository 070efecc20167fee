"""Load a checkpoint by its name, with networks that ComfyUI's memory manager moves."""

from dataclasses import dataclass
from pathlib import Path

import comfy.model_management as management
import torch

from ..editmgt_lib.checkpoints import check_mask_token, read_headers
from ..editmgt_lib.checkpoints.layout import LANGUAGE_MODEL, LAYOUTS, SETTINGS_FILE
from ..editmgt_lib.loader import check_text_fits, load_tokenizer, load_transformer
from ..editmgt_lib.pictures.canvas import Canvas
from ..editmgt_lib.pipeline import EditMGT
from ..editmgt_lib.sampling.options import SamplingOptions
from ..editmgt_lib.settings import Settings
from ..editmgt_lib.text.clip import ClipEncoder
from ..editmgt_lib.text.encoders import TextEncoders
from ..editmgt_lib.text.loading import load_clip, load_gemma
from ..editmgt_lib.text.loading import load_tokenizer as load_text_tokenizer
from .eight_bits import let_layers_widen, round_weights
from .memory import FORMATS, Layers, Managed, attention, manage, precision, shrink, text_dtype
from .paths import locate
from .progress import Progress

CPU = torch.device("cpu")  # where weights are read; the manager moves them
PARTS = 4


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """What a MODEL output carries: the stages, and the managed networks they need."""

    name: str
    pipeline: EditMGT
    transformer: Managed
    vq: Managed
    text: tuple[Managed, ...]

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.pipeline.dtype})"

    def coding_memory(self, height: int, width: int) -> int:
        """Bytes that encoding or decoding a canvas of this size needs beside the weights."""
        config = self.pipeline.vq.config
        cells = height * width // config.patch_size**2
        return 5 * 4 * cells * config.block_out_channels[0]  # five full-size maps at a time

    def sampling_memory(self, canvas: Canvas, options: SamplingOptions, together: int = 1) -> int:
        """Bytes that sampling some pictures together needs beside the weights."""
        config, dtype = self.pipeline.transformer.config, self.pipeline.dtype
        tokens = canvas.rows * canvas.cols
        vector = (2 if options.guided else 1) * config.width * dtype.itemsize
        length = self.pipeline.settings.text_length + 2 * tokens // config.stride**2
        text = 6 * config.num_layers  # shift, scale and gate of two halves
        image = text + 3 * config.num_single_layers
        modulations = (options.steps * (text + image) + image) * vector
        blocks = config.num_layers + config.num_single_layers
        cached = 2 * blocks * length * vector if options.reuse != "none" else 0
        block, drawing = 20 * length * vector, 4 * 4 * tokens * config.codebook_size
        return together * (modulations + cached + max(block, drawing))


def load(name: str, dtype: str, progress: Progress) -> Model:
    """Read all networks of a checkpoint; `dtype` is one of `memory.FORMATS` or "auto".

    Raises InputError, CheckpointError.
    """
    folders = locate(name)
    settings = Settings.read(folders[SETTINGS_FILE])
    device = management.get_torch_device()
    place = next(folders[one.transformer] for one in LAYOUTS if one.transformer in folders)
    weights = sum(info.elements for info in read_headers(place).values())
    compute, storage = precision(dtype, device, weights)
    widen = dtype not in ("auto", "fp8")  # a file in 8 bits stays so
    transformer = load_transformer(place, CPU, compute, Layers, attention, widen=widen)
    check_mask_token(folders[SETTINGS_FILE], transformer.config.mask_token_id)
    if storage == FORMATS["fp8"]:
        round_weights(transformer)
    else:
        shrink(transformer.blocks, storage)
    progress.advance()
    vq = load_tokenizer(folders["vqvae"], CPU, Layers)
    progress.advance()
    encoders, text = _load_text(folders, dtype, settings.text_length, progress)
    check_text_fits(transformer.config, encoders, name)
    return Model(
        name,
        EditMGT(transformer, vq, encoders, settings, folders[SETTINGS_FILE]),
        manage(transformer, device, management.unet_offload_device(), compute),
        manage(vq, management.vae_device(), management.vae_offload_device(), torch.float32),
        text,
    )


def _load_text(
    folders: dict[str, Path], dtype: str, text_length: int, progress: Progress
) -> tuple[TextEncoders, tuple[Managed, ...]]:
    """Load the text encoders that the checkpoint has.

    Gemma-2 is transformers' model, moved as a whole. Core's own (for Lumina 2) would allow partial
    loading, but it omits the soft cap on attention logits that Gemma-2 was trained with and only
    supports the 2B size: its states are not those the checkpoint was trained on.
    """
    device = management.text_encoder_device()
    kind = text_dtype(dtype, device)
    widen = dtype not in ("auto", "fp8")
    clip = load_clip(folders["text_encoder"], CPU, kind, widen)
    tokenizer = load_text_tokenizer(folders["tokenizer"])
    progress.advance()
    if language_model := folders.get(LANGUAGE_MODEL.name):
        gemma = load_gemma(language_model, CPU, kind, widen)
        words = load_text_tokenizer(language_model)
        encoders = TextEncoders(clip, tokenizer, gemma, words, text_length)
    else:
        encoders = ClipEncoder(clip, tokenizer)
    for network in encoders.networks:
        if dtype == "fp8":
            round_weights(network)
        let_layers_widen(network)
    progress.advance()
    rest = management.text_encoder_offload_device()
    return encoders, tuple(manage(one, device, rest, kind) for one in encoders.networks)
