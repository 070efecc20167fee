"""The official side: runs in an interpreter of its own and answers JSON lines.

Started by `official.py`; imports nothing of the library. The official files are unchanged; replaced
in memory are packages no measured path calls, the picture reader (it crops at random) and the
position ids of pictures that are not 1024 px wide (it doubles them).
"""

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .clock import measured, set_precision, synchronize
from .official_training import TrainingStep

_STUBS = ("torchvision", "torchvision.transforms", "pyarrow", "pyarrow.parquet", "pyarrow.fs")


class Stop(Exception):
    """Raised from the callback to end a run."""


def import_official(checkout: str) -> SimpleNamespace:
    """Import the official modules, with empty ones for packages that are not installed."""
    import diffusers  # noqa: F401
    import transformers  # noqa: F401  both look for torchvision once, and must not find the stub

    sys.path.insert(0, checkout)
    for name in _STUBS:
        try:
            importlib.import_module(name)
        except ImportError:
            parent, _, child = name.rpartition(".")
            sys.modules[name] = ModuleType(name)
            if parent:
                setattr(sys.modules[parent], child, sys.modules[name])
    names = ("pipeline", "transformer", "scheduler", "local_utils", "dataset_utils", "v2_utils")
    return SimpleNamespace(**{n: importlib.import_module(f"src.{n}") for n in names})


class Official:
    """The official pipeline, opened from a local folder."""

    def __init__(self, asked: dict[str, Any]) -> None:
        torch.set_num_threads(asked["threads"])
        torch.set_grad_enabled(False)
        self.asked, self.device = asked, asked["device"]
        self.src = import_official(asked["checkout"])
        start = time.perf_counter()
        dtype = set_precision(asked["precision"])
        pipe = self.src.pipeline.Pipeline(
            vqvae=self._vq(dtype), tokenizer=None, text_encoder=None, tokenizer_t5=None,
            transformer=self.src.transformer.Transformer2DModel.from_pretrained(
                asked["folder"], subfolder="editmgt", torch_dtype=dtype
            ),
            scheduler=self.src.scheduler.Scheduler(mask_token_id=asked["mask_id"]),
            text_encoder_t5=None,
        )  # fmt: skip
        self.pipe = pipe.to(self.device)
        self.opened = time.perf_counter() - start
        pipe.set_progress_bar_config(disable=True)
        inputs = load_file(asked["inputs"])
        self.inputs = {
            k: v.to(self.device, dtype if v.is_floating_point() else None)
            for k, v in inputs.items()
        }
        self._adapt()

    def _vq(self, dtype: torch.dtype) -> Any:
        from diffusers import VQModel

        if self.asked["has_vq"]:
            folder = self.asked["folder"]
            return VQModel.from_pretrained(folder, subfolder="vqvae", torch_dtype=dtype)
        levels = self.asked["factor"].bit_length()
        return VQModel(  # stands in: the pipeline reads its scale off it
            block_out_channels=(32,) * levels, num_vq_embeddings=2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )  # fmt: skip

    def _adapt(self) -> None:
        """Allow sizes other than the published one, and given pictures."""
        module, length = self.src.pipeline, self.asked["text_length"]
        position_ids = module._prepare_latent_image_ids
        module._prepare_latent_image_ids = lambda *a, up_sample=False: position_ids(*a)
        module.get_text_encoder_length = lambda *_, **__: length
        module.process_image = lambda image, size: {"image": self.inputs["picture"][0]}
        self.encode_picture = module.prepare_cond_token
        self.pipe.transformer.text_seq_len = length

    def text(self) -> dict[str, Any]:
        """Both encoders whole, for one prompt and one negative prompt, token ids made anew."""
        if not self.asked["text_folder"]:
            return {"missing": "no text encoders in this configuration"}
        prompts = self.asked["prompt"], self.asked["negative"]
        return measured(lambda: [self.encoded(prompt) for prompt in prompts], self.device)

    def encoded(self, prompt: str | list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """States and pooled vectors of a prompt, or of several at once."""
        if not hasattr(self, "text_encoders"):
            self.text_encoders = self._text_encoders(Path(self.asked["text_folder"]))
        encoders, tokenizers, lengths = self.text_encoders
        ids = [
            t(prompt, truncation=True, padding="max_length", max_length=n,
              return_tensors="pt").input_ids.to(self.device)
            for t, n in zip(tokenizers, lengths, strict=True)
        ]  # fmt: skip
        return self.src.dataset_utils.encode_prompt(encoders, ids, "CLIP_Gemma2")

    def _text_encoders(self, folder: Path) -> tuple[list, list, list[int]]:
        from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPTextModelWithProjection

        dtype = set_precision(self.asked["precision"])
        clip = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
        gemma = AutoModelForCausalLM.from_pretrained(
            folder / "llm_encoder", attn_implementation="eager"
        )
        folders = folder / "tokenizer", folder / "llm_encoder"
        tokenizers = [AutoTokenizer.from_pretrained(path) for path in folders]
        encoders = [net.to(self.device, dtype) for net in (clip, gemma)]
        lengths = [clip.config.max_position_embeddings, self.asked["text_length"]]
        return encoders, tokenizers, lengths

    def train(self, batch: int, encoders: bool) -> dict[str, Any]:
        """One optimizer step; after it the weights are others."""
        if not hasattr(self, "training_step"):
            self.training_step = TrainingStep(self)
        return measured(lambda: self.training_step(batch, encoders), self.device, memory=True)

    def tokenize(self) -> dict[str, Any]:
        """Picture to token ids."""
        if not self.asked["has_vq"]:
            return {"missing": "its tokenizer class has no patches"}
        picture = self.inputs["picture"].to(self.pipe.vqvae.dtype)
        return measured(lambda: self.encode_picture(None, picture, self.pipe.vqvae), self.device)

    def prepare(self, **_: Any) -> dict[str, Any]:
        """There is no such stage."""
        return {"missing": "done again at every step"}

    def step(self, **asked: Any) -> dict[str, Any]:
        """From the call to the end of the first step, from given reference tokens."""

        def stop(*_: Any) -> None:
            raise Stop

        def run() -> None:
            try:
                self._run(steps=self.asked["steps"], callback=stop, **asked)
            except Stop:
                return

        return measured(run, self.device)

    def draw(self) -> dict[str, Any]:
        """`Scheduler.step` of the first step on given logits."""
        scheduler, side = self.pipe.scheduler, self.asked["side"]
        scheduler.set_timesteps(self.asked["steps"], (2, 0), self.device)
        generator = torch.Generator().manual_seed(0)
        shape = (1, self.asked["codes"], side, side)
        logits = torch.randn(shape, generator=generator)
        logits = logits.to(self.device, self.pipe.transformer.dtype)
        masked = torch.full((1, side, side), self.asked["mask_id"], device=self.device)
        first = scheduler.timesteps[0]
        return measured(lambda: scheduler.step(logits, first, masked), self.device)

    def consolidate(self) -> dict[str, Any]:
        """From mean attention to the relevance map."""
        scores = torch.rand(1, (self.asked["side"] // self.asked["stride"]) ** 2).to(self.device)
        tools = self.src.local_utils
        return measured(
            lambda: tools.smooth_local_scores(tools.rescale_scores(scores), method="adaptive"),
            self.device,
        )

    def decode(self) -> dict[str, Any]:
        """Token ids to a picture."""
        if not self.asked["has_vq"]:
            return {"missing": "its tokenizer class has no patches"}
        ids, side = self.inputs["reference"], self.asked["side"] * self.asked["factor"]
        return measured(
            lambda: self.pipe.safe_decode_latents(ids, 1, side, side, "np"), self.device
        )

    def sample(self, steps: int, published_draw: bool = False, **asked: Any) -> dict[str, Any]:
        """A whole sampling run from given tokens."""
        ids: list[torch.Tensor] = []

        def run() -> None:
            generator = torch.Generator().manual_seed(0) if published_draw else None
            ids.append(self._run(steps=steps, generator=generator, **asked))

        return measured(run, self.device, memory=True) | {"ids": ids[0]}

    def edit(self, steps: int, **asked: Any) -> dict[str, Any]:
        """Picture to picture."""
        if not self.asked["has_vq"]:
            return {"missing": "its tokenizer class has no patches"}
        return measured(
            lambda: self._run(steps=steps, picture=True, output="np", **asked),
            self.device, memory=True,
        )  # fmt: skip

    def _run(
        self,
        steps: int,
        strength: float = 1.0,
        layers: list[int] | None = None,
        threshold: float = 0.0,
        guidance: float | None = None,
        generator: torch.Generator | None = None,
        callback: Any = None,
        picture: bool = False,
        output: str = "latent",
    ) -> Any:
        """Call the pipeline, after removing what an earlier call left on its modules."""
        pipe, given, side = self.pipe, self.inputs, self.asked["side"] * self.asked["factor"]
        pipe.transformer.clear_attention_hooks()
        for module in pipe.transformer.modules():
            if hasattr(module, "reference_strength_factor"):
                del module.reference_strength_factor
        pipe.attention_enable_blocks = layers and list(range(layers[0], layers[1] + 1))
        pipe.local_guidance = threshold
        reference = given["reference"]
        self.src.pipeline.prepare_cond_token = (
            self.encode_picture if picture else lambda **_: reference
        )
        return pipe(
            height=side, width=side, num_inference_steps=steps, reference_image=[None],
            guidance_scale=self.asked["guidance"] if guidance is None else guidance,
            prompt_embeds=given["pooled"], encoder_hidden_states=given["states"],
            negative_prompt_embeds=given["negative_pooled"],
            negative_encoder_hidden_states=given["negative_states"],
            reference_strength=strength, generator=generator, callback=callback,
            output_type=output, return_dict=False,
        )[0]  # fmt: skip


def answer(official: Official, asked: dict[str, Any]) -> dict[str, Any]:
    """Measure once; ids go to a file, and an official error is an answer too."""
    into = asked.pop("into", None)
    try:
        found = getattr(official, asked.pop("stage"))(**asked)
    except Exception as error:
        traceback.print_exc()
        synchronize(official.device)
        first = str(error).splitlines() or [""]
        return {"missing": f"raises {type(error).__name__}: {first[0][:60]}"}
    if "ids" in found:
        save_file({"ids": found.pop("ids").long().cpu().contiguous()}, into)
    return found


def main() -> None:
    """Serve until the input ends; output of the official code goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    official = Official(json.loads(sys.stdin.readline()))
    print(json.dumps({"opened_s": official.opened}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(official, json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
