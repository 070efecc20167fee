"""Runs in ComfyUI's own Python, in its checkout: edits with other attention, and partly loaded.

python inside.py CHECKOUT_OF_THE_PACK prints one JSON, which test_memory.py beside this file judges.
"""

import contextlib
import importlib
import importlib.util
import json
import sys
from pathlib import Path

BACKENDS = ("attention_pytorch", "attention_split", "attention_sub_quad")
STRENGTHS = (1.0, 1.1)  # the toy's own, which biases no key, and the published one, which does
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
        networks, progress = self.part("nodes.networks"), self.part("nodes.progress")
        self.model = networks.load("toyworld", "fp32", progress.Progress(networks.PARTS))

    def part(self, name: str):
        """A module of the pack."""
        return importlib.import_module(f"pack.{name}")

    def edit(self, strength: float) -> list[int]:
        """Token ids of one localised edit, through the nodes' own stages."""
        import torch

        world, model = self.part("editmgt_lib.toyworld.world"), self.model
        pair = world.pair_at(0, 1, True, "replace")
        picture = torch.from_numpy(world.render(pair.source, 128)).float()[None] / 255
        sampler = self.part("nodes.region_hold_sampler")
        consolidate = self.part("nodes.consolidate_attention")
        own = model.pipeline.settings
        with torch.inference_mode():
            with self.memory.on_device(model.vq):
                tokens = model.pipeline.encode_image(picture)
            with self.memory.on_device(*model.text):
                words = model.pipeline.encode_instruction("replace the purple circle with a star")
            found = consolidate.localized(model, tokens, words, own)
            options = own.override(strength=strength, threshold=0.1, steps=8).sampling
            edited = sampler.sampled(model, tokens, words, options, found, None, "intersection")
        return edited.ids.flatten().tolist()


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
    pack, report = Pack(root), {"attention": [], "partial": {}}
    for strength in STRENGTHS:
        for name in BACKENDS:
            calls: dict[str, int] = {}
            with chosen(name, calls):
                ids = pack.edit(strength)
            row = {"backend": name, "strength": strength, "calls": calls, "ids": ids}
            report["attention"].append(row)
    with partly_loaded(report["partial"]):
        report["ids when partly loaded"] = pack.edit(STRENGTHS[-1])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
