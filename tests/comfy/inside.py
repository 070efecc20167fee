"""Runs in ComfyUI's own Python, in its checkout: edits as a user's settings and card have it.

With other attention and number formats, partly loaded, and with their memory counted.

python inside.py CHECKOUT_OF_THE_PACK prints one JSON, which test_memory.py beside this file judges.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import sys
import tempfile
import weakref
from pathlib import Path

BACKENDS = ("attention_pytorch", "attention_split", "attention_sub_quad")
STRENGTHS = (1.0, 1.1)  # the toy's own, which biases no key, and the published one, which does
FORMATS = ("bf16", "fp8")
SHARE = 0.3  # of the weights that are loaded


class Pack:
    """The pack as ComfyUI imports it, with a toy checkpoint that is loaded."""

    def __init__(self, root: Path) -> None:
        spec = importlib.util.spec_from_file_location(
            "pack", root / "__init__.py", submodule_search_locations=[str(root)]
        )
        sys.modules["pack"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["pack"])
        self.part("nodes.paths").register()
        self.memory = self.part("nodes.memory")
        self.models = tempfile.TemporaryDirectory()  # gone with the process
        self.load("fp32")

    def load(self, dtype: str, name: str = "toyworld") -> None:
        """Load a checkpoint in that number format."""
        networks, progress = self.part("nodes.networks"), self.part("nodes.progress")
        self.model = networks.load(name, dtype, progress.Progress(networks.PARTS))

    def part(self, name: str):
        """A module of the pack."""
        return importlib.import_module(f"pack.{name}")

    def formats(self) -> dict[str, str]:
        """Number formats of a linear layer, of the projection onto codes, and of what it makes."""
        import torch

        network = self.model.pipeline.transformer
        rows = torch.zeros(1, network.config.width, dtype=self.model.pipeline.dtype)
        with self.memory.on_device(self.model.transformer), torch.inference_mode():
            logits = network.logits(rows)
        tensors = {
            "linear": network.blocks[0].attn.to_q.weight,
            "projection": network.mlm_layer.conv2.weight,
            "logits": logits,
        }
        return {name: str(tensor.dtype) for name, tensor in tensors.items()}

    def write_8_bits(self) -> None:
        """Write the toy checkpoint in 8 bits, as "small.safetensors"."""
        import folder_paths

        toy = self.part("editmgt_lib.checkpoints.names").TOY_FOLDER
        folder = Path(self.models.name)
        folder_paths.add_model_folder_path("editmgt", str(folder))
        self.part("editmgt_lib.checkpoints").pack(toy, folder / "small.safetensors", "fp8")

    def eight_bits(self) -> dict[str, dict]:
        """Of a file in 8 bits: bytes that weights take in memory, and what comes out, by dtype."""
        self.write_8_bits()
        return {
            f"{name} {dtype}": self.weights(dtype, name)
            for name, dtype in (
                ("small.safetensors", "auto"), ("small.safetensors", "fp32"), ("toyworld", "fp8"),
            )
        }  # fmt: skip

    def weights(self, dtype: str, name: str) -> dict:
        """What a checkpoint takes in memory and gives, on the card whole and in part."""
        import torch

        self.load(dtype, name)
        networks = (self.model.transformer, *self.model.text)
        with torch.inference_mode(), self.memory.on_device(*self.model.text):
            words = self.model.pipeline.encode_instruction("make the background snow")
        whole = self.edit(STRENGTHS[-1])
        with partly_loaded({}):
            part = self.edit(STRENGTHS[-1])
        return {
            "bytes": [sum(p.nbytes for p in n.patcher.model.parameters()) for n in networks],
            "states": words.states.double().sum().item(),
            "ids": whole,
            "ids when partly loaded": part,
        }

    def compiled(self) -> dict:
        """An edit by a copy whose blocks are captured, not compiled, and by the model after it."""
        from torch._dynamo.utils import counters

        graphs, plain = [], self.model.transformer

        def backend(graph, inputs):
            graphs.append(graph)
            return graph

        counters.clear()
        before = self.edit(STRENGTHS[-1])
        copied = self.memory.with_compiled_blocks(plain, backend=backend)
        self.model = dataclasses.replace(self.model, transformer=copied)
        ids = self.edit(STRENGTHS[-1])
        found = {"graphs": len(graphs), "breaks": dict(counters["graph_break"])}
        with partly_loaded({}):
            part = self.edit(STRENGTHS[-1])
        self.model = dataclasses.replace(self.model, transformer=plain)
        total = len(graphs)
        after = self.edit(STRENGTHS[-1])
        return found | {
            "before": before, "ids": ids, "ids when partly loaded": part, "after": after,
            "graphs of the original": len(graphs) - total,
        }  # fmt: skip

    def needed(self, together: int = 1, **options) -> dict[str, int]:
        """Bytes that tensors take at the most while pictures are sampled, and our estimate."""
        import torch

        pipeline = self.model.pipeline
        sampling = pipeline.settings.override(**options).sampling
        with torch.inference_mode():
            tokens = pipeline.encode_image(torch.rand(together, 256, 256, 3))
            words = pipeline.encode_instruction("make the background snow")
            with live_tensors() as live:
                pipeline.sample(tokens, words, sampling, batched=together > 1)
        estimate = self.model.sampling_memory(tokens.canvas, sampling, together)
        return {"peak": live.peak, "estimate": estimate}

    def edit(self, strength: float) -> list[int]:
        """Token ids of one localised edit, through the nodes' own stages."""
        import torch

        world, model = self.part("editmgt_lib.toyworld.world"), self.model
        pair = world.pair_at(0, 1, True, "replace")
        picture = torch.from_numpy(world.render(pair.source)).float()[None] / 255
        sampler = self.part("nodes.region_hold_sampler")
        consolidate = self.part("nodes.consolidate_attention")
        own = model.pipeline.settings
        with torch.inference_mode():
            with self.memory.on_device(model.vq):
                tokens = model.pipeline.encode_image(picture)
            with self.memory.on_device(*model.text):
                words = model.pipeline.encode_instruction("replace the black tree with a star")
            found = consolidate.localized(model, tokens, words, own)
            options = own.override(strength=strength, threshold=0.1, steps=8).sampling
            edited, *_ = sampler.sampled(
                model, tokens, words, options, found, None, "intersection", False
            )
        return edited.ids.flatten().tolist()


def live_tensors():
    """A block in which the storage of all new tensors is counted, and the most at a time."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Live(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.sizes, self.peak = weakref.WeakKeyDictionary(), 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            known = {s._cdata for s in storages((args, kwargs))}
            result = function(*args, **kwargs)
            self.sizes |= {s: s.nbytes() for s in storages(result) if s._cdata not in known}
            self.peak = max(self.peak, sum(self.sizes.values()))
            return result

    def storages(values):
        return [x.untyped_storage() for x in tree_leaves(values) if hasattr(x, "untyped_storage")]

    return Live()


@contextlib.contextmanager
def chosen(name: str, calls: dict[str, int]):
    """Make a backend the one ComfyUI was started with; count the calls of each."""
    import comfy.ldm.modules.attention as attention

    kept = {backend: getattr(attention, backend) for backend in BACKENDS}
    default = attention.optimized_attention

    def counted(backend, function):
        def call(*args, **options):
            calls[backend] = calls.get(backend, 0) + 1
            return function(*args, **options)

        return call

    try:
        for backend, function in kept.items():
            setattr(attention, backend, counted(backend, function))
        attention.optimized_attention = getattr(attention, name)
        yield
    finally:
        attention.optimized_attention = default
        for backend, function in kept.items():
            setattr(attention, backend, function)


@contextlib.contextmanager
def partly_loaded(report: dict):
    """Have the manager leave most of each network where it rests, as it does on a small card."""
    import comfy.model_management as management

    def load(patchers, **options):
        for patcher in patchers:
            if options.get("force_full_load"):
                patcher.load(patcher.load_device, full_load=True)
                continue
            room = int(patcher.model_size() * SHARE)
            patcher.load(patcher.load_device, lowvram_model_memory=room)
            layers = [m for m in patcher.model.modules() if hasattr(m, "comfy_cast_weights")]
            away = [m for m in layers if hasattr(m, "prev_comfy_cast_weights")]
            kind = type(patcher.model).__name__
            report[kind] = {
                "loaded": patcher.model.model_loaded_weight_memory / patcher.model_size(),
                "layers": len(layers), "cast at use": len(away),
                "partial": bool(patcher.model.model_lowvram),
            }  # fmt: skip

    kept = management.load_models_gpu
    management.load_models_gpu = load
    try:
        yield
    finally:
        management.load_models_gpu = kept


def main() -> None:
    """Everything, as JSON."""
    root = Path(sys.argv.pop())
    sys.argv.append("--cpu")
    sys.path.insert(0, str(Path.cwd()))
    import comfy.options

    comfy.options.enable_args_parsing()
    pack, report = Pack(root), {"attention": [], "partial": {}, "formats": {}}
    for strength in STRENGTHS:
        for name in BACKENDS:
            calls: dict[str, int] = {}
            with chosen(name, calls):
                ids = pack.edit(strength)
            row = {"backend": name, "strength": strength, "calls": calls, "ids": ids}
            report["attention"].append(row)
    with partly_loaded(report["partial"]):
        report["ids when partly loaded"] = pack.edit(STRENGTHS[-1])
    report["memory"] = [
        {**options, **pack.needed(**options)}
        for options in (
            {"steps": 16, "guidance": 1.0},
            {"steps": 36, "guidance": 6.0},
            {"steps": 200, "guidance": 6.0, "reuse": "known"},
            {"steps": 16, "guidance": 6.0, "together": 4},
            {"steps": 200, "guidance": 6.0, "reuse": "known", "together": 4},
        )
    ]
    report["eight bits"] = pack.eight_bits()
    for dtype in FORMATS:
        pack.load(dtype)
        report[f"compiled {dtype}"] = pack.compiled()
        with partly_loaded({}):
            report["formats"][dtype] = pack.formats() | {"ids": pack.edit(STRENGTHS[-1])}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
