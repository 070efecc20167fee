"""Runs in ComfyUI's own Python, in its checkout: relevance maps with LoRAs, as cards have it.

Loaded whole or layer by layer, in small formats, stacked, and one after the other on one model.

python inside_lora.py FOLDER_OF_LORAS CHECKOUT_OF_THE_PACK prints one JSON, which test_lora.py
beside this file judges.
"""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

from inside import Pack

STACKS = {
    "plain": (),
    "both": (("both", 0.8),),
    "reference": (("reference", 0.8),),
    "two": (("both", 0.8), ("reference", 0.5), ("reference", -0.3)),
    "two, turned": (("reference", -0.3), ("reference", 0.5), ("both", 0.8)),
    "half and half": (("both", 0.4), ("both", 0.4)),
}
OF_A_FILE = STACKS | {"nothing": (("both", 0.0),)}


class LoraPack(Pack):
    """The pack with LoRAs."""

    def with_stack(self, folder: Path, stack):
        """The loaded model with LoRAs, sharing its weights."""
        lora, transformer = self.part("editmgt_lib.lora"), self.model.transformer
        for name, strength in stack:
            read = lora.Lora.read(folder / f"{name}.safetensors")
            transformer = self.memory.with_lora(transformer, read, strength)
        return dataclasses.replace(self.model, transformer=transformer)

    def map(self, model) -> list[float]:
        """The relevance of every token, from one pass."""
        import torch

        pipeline = model.pipeline
        picture = torch.linspace(0, 1, 256 * 256 * 3).reshape(1, 256, 256, 3)
        with torch.inference_mode(), self.memory.on_device(model.transformer):
            tokens = pipeline.encode_image(picture)
            words = pipeline.encode_instruction("make the background snow")
            found = pipeline.localize(tokens, words)
        return found.relevance.flatten().tolist()

    def modulation(self, model) -> list[float]:
        """What a modulation layer makes of some numbers."""
        import torch

        layer = model.pipeline.transformer.transformer_blocks[0].norm1
        with torch.inference_mode(), self.memory.on_device(model.transformer):
            return layer(torch.linspace(-1, 1, layer.linear.in_features)[None]).flatten().tolist()


@contextlib.contextmanager
def no_vram():
    """Have the manager load nothing ahead: every layer is moved, cast and patched on use."""
    import comfy.model_management as management

    management.unload_all_models()  # or as much is loaded again
    kept = management.is_device_cpu, management.vram_state
    management.is_device_cpu = lambda device: False
    management.vram_state = management.VRAMState.NO_VRAM
    try:
        yield
    finally:
        management.is_device_cpu, management.vram_state = kept
        management.unload_all_models()


def main() -> None:
    """Everything, as JSON."""
    root, folder = Path(sys.argv.pop()), Path(sys.argv.pop())
    sys.argv.append("--cpu")
    sys.path.insert(0, str(Path.cwd()))
    import comfy.options

    comfy.options.enable_args_parsing()
    pack, report = LoraPack(root), {}
    for dtype in ("fp32", "bf16", "fp8"):
        pack.load(dtype)
        for kind, loading in (("whole", contextlib.nullcontext()), ("on use", no_vram())):
            with loading:
                for name in (*STACKS, "plain", "reference", "both"):  # again, after others
                    found = pack.map(pack.with_stack(folder, STACKS[name]))
                    report.setdefault(f"{dtype} {kind} {name}", []).append(found)
                network = pack.model.transformer.patcher.model
                report[f"{dtype} {kind} partial"] = bool(network.model_lowvram)
    pack.write_8_bits()
    for dtype in ("auto", "fp32"):  # kept, widened
        pack.load(dtype, "small.safetensors")
        for kind, loading in (("whole", contextlib.nullcontext()), ("on use", no_vram())):
            with loading:
                for name, stack in OF_A_FILE.items():
                    report[f"{dtype} file {kind} {name}"] = pack.map(pack.with_stack(folder, stack))
                for stack in ((), (("modulation", 1.0),)):
                    found = pack.modulation(pack.with_stack(folder, stack))
                    report[f"{dtype} file {kind} {len(stack)} modulation"] = found
    loader = pack.part("editmgt_lib.loader")
    for name, stack in STACKS.items():
        files = [(folder / f"{file}.safetensors", strength) for file, strength in stack]
        library = loader.load("toyworld", device="cpu", dtype="float32", lora=files)
        model = dataclasses.replace(pack.model, pipeline=library)
        report[f"library {name}"] = [pack.map(model)]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
