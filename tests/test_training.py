"""Training: the stages, the loop's arithmetic, and a whole recipe in miniature."""

import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import editmgt_lib
from editmgt_lib.checkpoints import read_state_dict
from editmgt_lib.errors import CheckpointError, InputError
from editmgt_lib.lora import Lora
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.models.vq import VQModel
from editmgt_lib.settings import Settings
from editmgt_lib.toyworld import batches
from editmgt_lib.toyworld.batches import crowded_scene, to_pixels, training_scene
from editmgt_lib.toyworld.language import STYLES, corpus
from editmgt_lib.toyworld.scenes import Scene, Thing, is_heldout, render
from editmgt_lib.toyworld.text_encoders import build_text_encoders
from editmgt_lib.training import commands, initial
from editmgt_lib.training.config import config_from
from editmgt_lib.training.decoder import DecoderStage
from editmgt_lib.training.lora import add_adapter, new_lora, weights_digest
from editmgt_lib.training.optimizers import OptimizerOptions, build_optimizers, decays
from editmgt_lib.training.options import LoopOptions
from editmgt_lib.training.run import Run
from editmgt_lib.training.text import OFFSETS, TextStage, training_prompt
from editmgt_lib.training.tokenizer import DECAY, IDLE_STEPS

from .tiny import CODES, TRANSFORMER, VQ
from .training_runs import (
    ADAM,
    CORPUS,
    KINDS,
    SIZE,
    Fixed,
    advance,
    assert_same,
    loop,
    losses_of,
    networks,
    stage_of,
    weights_of,
)

pytestmark = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="the extra `train` needs torch 2.9"
)

LOOP = loop()
MUON = dataclasses.replace(ADAM, muon=1e-2)


@pytest.fixture
def tokenizer_stage():
    stage = stage_of("tokenizer")
    stage.continuous = 0
    return stage


@pytest.fixture
def edit_stage():
    return stage_of("edit")


# --- the loop ---


def test_averages_are_exported_and_trained_weights_kept(edit_stage, tmp_path):
    run = advance(Run(edit_stage, LOOP, tmp_path / "edit"), 3)
    before = weights_of(edit_stage)
    run.export(lambda: edit_stage.export(tmp_path))
    saved = read_state_dict(tmp_path / "editmgt")
    for name, tensor in saved.items():
        assert torch.equal(tensor, run.averages[f"transformer.{name}"])
    assert any(not torch.equal(t, before[f"transformer.{n}"]) for n, t in saved.items())
    assert_same(before, weights_of(edit_stage))


def test_trained_weights_come_back_when_drawing_fails(tokenizer_stage, tmp_path):
    run = advance(Run(tokenizer_stage, LOOP, tmp_path), 2)
    before = weights_of(tokenizer_stage)
    with pytest.raises(ZeroDivisionError):
        run.export(lambda: 1 / 0)
    assert_same(before, weights_of(tokenizer_stage))


def test_average_lies_between_what_the_weights_have_been(tokenizer_stage, tmp_path):
    run, name = Run(tokenizer_stage, LOOP, tmp_path), "vqvae.quant_conv.bias"
    seen = [run.parameters[name].detach().clone()]
    for _ in range(4):
        run.advance()
        seen.append(run.parameters[name].detach().clone())
    path = torch.stack(seen)
    assert (run.averages[name] >= path.amin(0)).all() and (run.averages[name] <= path.amax(0)).all()
    assert not torch.equal(run.averages[name], seen[-1])


def test_learning_rate_rises_stays_and_falls():
    options = loop(steps=100, warmup=10, cooldown=20)
    rates = [options.schedule(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:81] == [1.0] * 72
    assert rates[-1] == pytest.approx(0.05) and rates[80:] == sorted(rates[80:], reverse=True)


def test_the_schedule_takes_one_step_per_optimizer_step(edit_stage, tmp_path):
    """Published scripts step it once per process, and a warm-up ends too early."""
    run = Run(edit_stage, loop(warmup=4, micro_batch=1), tmp_path)
    rates = []
    for _ in range(4):
        run.advance()
        fastest = max(group["lr"] for group in run.optimizers[0].param_groups)
        rates.append(fastest / ADAM.learning_rate)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (LoopOptions, "steps", 0),
        (LoopOptions, "batch", 1.5),
        (LoopOptions, "average", 1.1),
        (LoopOptions, "keep_last", 0),
        (LoopOptions, "gate", -1),
        (OptimizerOptions, "learning_rate", 0),
        (OptimizerOptions, "clip", float("nan")),
        (OptimizerOptions, "decay", "none"),
        (OptimizerOptions, "betas", (0.9, 2)),
    ],
)
def test_options_are_checked(kind, name, value):
    good = {"steps": 1, "batch": 1, "optimizer": ADAM}
    good = good if kind is LoopOptions else {"learning_rate": 1.0}
    with pytest.raises(InputError, match=name):
        kind(**good | {name: value})


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_a_step_are_left_on_the_device(kind, tmp_path):
    run = Run(stage_of(kind), LOOP, tmp_path)
    for _ in range(2):
        for name, figure in run.advance().shown.items():
            assert isinstance(figure, torch.Tensor) and not figure.requires_grad, name
            assert figure.ndim == 0 and torch.isfinite(figure), name


@pytest.mark.parametrize("kind", ["text-to-image", "whole-edit"])
def test_one_batch_is_learnt_by_heart(kind, tmp_path):
    """The fastest finder of faults in a trainer."""
    stage = stage_of(kind)
    stage.options = dataclasses.replace(stage.options, alignment=0.0, text_dropout=0.0)
    stage.source = Fixed(stage.source, 4)
    draw = stage.prepare
    stage.prepare = lambda numbers: draw([number % 4 for number in numbers])
    options = loop(steps=120, optimizer=OptimizerOptions(2e-2), warmup=10, cooldown=60)
    losses = losses_of(Run(stage, options, tmp_path), 120)
    assert losses[0] > 3 and losses[-1] < 0.1


# --- optimizers ---


def test_layers_that_embed_conditions_learn_slowly():
    parameters = dict(MaskedTransformer(TRANSFORMER).named_parameters())
    groups = [g for o in build_optimizers(parameters, ADAM) for g in o.param_groups]
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    assert set(rates) == set(parameters.values())
    slow = {n for n, p in parameters.items() if rates[p] < ADAM.learning_rate}
    assert {n.split(".")[0] for n in slow} == {"time_text_embed", "cond_embed"}


def test_matrices_decay_and_nothing_else():
    """The published list of names is another model's, so gains of norms decay there."""
    parameters = dict(MaskedTransformer(TRANSFORMER).named_parameters())
    groups = [g for o in build_optimizers(parameters, ADAM) for g in o.param_groups]
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in parameters.items():
        matrix = parameter.ndim >= 2 and name != "embed.embeddings.weight"
        assert bool(decay[parameter]) == matrix, name
    norm = "project_to_hidden_norm.weight"
    assert decays(norm, parameters[norm], "published")
    assert not decays("embed.embeddings.weight", parameters["embed.embeddings.weight"], "published")
    assert not decays("context_embedder.bias", parameters["context_embedder.bias"], "published")


def test_muon_takes_the_matrices_of_blocks_but_not_the_modulations():
    parameters = dict(MaskedTransformer(TRANSFORMER).named_parameters())
    adam, muon = build_optimizers(parameters, MUON)
    names = {id(p): n for n, p in parameters.items()}
    inside = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert "single_transformer_blocks.0.attn.to_q.weight" in inside
    assert all("_blocks." in n and ".norm" not in n and n.endswith("weight") for n in inside)
    rest = {names[id(p)] for g in adam.param_groups for p in g["params"]}
    assert rest | inside == set(parameters) and not rest & inside


def test_muon_takes_the_matrices_of_an_adapter():
    network = MaskedTransformer(TRANSFORMER)
    add_adapter(network, new_lora(network, rank=2))
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    (muon,) = build_optimizers(trained, MUON)
    assert isinstance(muon, torch.optim.Muon)
    assert len(muon.param_groups[0]["params"]) == len(trained) > 0


def test_norms_keep_the_fused_kernel_under_autocast(tmp_path):
    stage = stage_of("edit", precision=torch.bfloat16)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Mismatch dtype")
        advance(Run(stage, LOOP, tmp_path), 1)
    assert {p.dtype for p in stage.modules.parameters()} == {torch.float32}


# --- new networks ---


def test_a_new_network_looks_at_its_own_place_in_the_reference():
    network, grid = initial.new_transformer(TRANSFORMER, seed=0), (16, 16)
    numbers = torch.Generator().manual_seed(0)
    reference = torch.randint(CODES, (1, *grid), generator=numbers)
    other = reference.clone()
    row, col = 4, 10
    other[:, row : row + 2, col : col + 2] += 1
    other %= CODES
    blank = torch.full((1, *grid), TRANSFORMER.mask_token_id)
    text, pooled = torch.randn(1, 6, 16, generator=numbers), torch.zeros(1, 16)
    micro = torch.tensor([[256.0, 256, 0, 0, 6]])
    with torch.no_grad():
        before, after = (
            network(blank, torch.tensor([5.0]), text, pooled, micro, ids).features
            for ids in (reference, other)
        )
    effect = (after - before).norm(dim=-1)[0]
    own = effect[row : row + 2, col : col + 2].mean()
    assert own > 4 * effect.mean()


# --- the text encoders ---


def test_text_rows_come_to_tell_their_words_and_those_before(tmp_path):
    stage = TextStage(build_text_encoders(corpus(), text_length=32, width=64, pooled=32))
    run = Run(stage, loop(60, 16, warmup=5, cooldown=0), tmp_path)
    first, last = (advance(run, n).advance().shown for n in (0, 58))
    assert last["recall"] < 0.6 * first["recall"] and last["contents"] < 0.6 * first["contents"]
    assert 0 in OFFSETS and min(OFFSETS) <= -5  # "a red star at the top left": from "left" to "red"


def test_encoders_stay_as_they_are_once_the_transformer_trains(edit_stage, tmp_path):
    """Trained along, they forgot the words."""
    clip, gemma = edit_stage.text_encoders.clip, edit_stage.text_encoders.gemma
    before = [p.detach().clone() for m in (clip, gemma) for p in m.parameters()]
    advance(Run(edit_stage, LOOP, tmp_path), 2)
    after = [p for m in (clip, gemma) for p in m.parameters()]
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))
    assert not any(name.startswith(("clip", "gemma")) for name in edit_stage.modules.state_dict())


def test_prompts_are_of_the_training_split_and_of_both_kinds():
    rng = np.random.default_rng(0)
    prompts = [training_prompt(rng) for _ in range(200)]
    assert len(set(prompts)) > 150
    assert any("background" in p and "change" in p for p in prompts)
    assert any(p.startswith("a picture of") for p in prompts)


def test_held_out_scenes_are_never_trained_on(monkeypatch):
    seen = []

    def spy(scenes, size, device="cpu"):
        seen.extend(scenes)
        return torch.zeros(len(scenes), 3, SIZE, SIZE)

    monkeypatch.setattr("editmgt_lib.data.toyworld.to_pixels", spy)
    monkeypatch.setattr("editmgt_lib.training.decoder.to_pixels", spy)
    for kind in ("text-to-image", "edit", "decoder"):
        stage = stage_of(kind)
        for start in range(0, 200, 50):
            stage.prepare(range(start, start + 50))
    scenes = [scene for scene in seen if len(scene.things) < 9]  # the decoder's crowded ones
    assert len(scenes) > 500
    assert not any(map(is_heldout, scenes))
    assert batches.CROWDED_STYLED > 0


@pytest.mark.parametrize("size", [64, 256])
def test_pictures_put_together_from_cells_are_those_that_are_drawn(size):
    rng = np.random.default_rng(0)
    scenes = [training_scene(rng) for _ in range(200)] + [crowded_scene(rng) for _ in range(60)]
    scenes += [Scene((), "wood"), Scene((Thing("star", "pink", 8),), "sand", "blueprint")]
    assert {s.style for s in scenes} == set(STYLES)
    drawn = torch.from_numpy(np.stack([render(scene, size) for scene in scenes]))
    assert torch.equal(to_pixels(scenes, size), drawn.permute(0, 3, 1, 2).float() / 255)


# --- the codebook ---


def step_of(stage, numbers):
    prepared = stage.prepare(numbers)
    return stage.loss(prepared, prepared.counts)


def coded(stage, numbers):
    """Latents [N, width] of the pictures with these numbers, and their codes [N]."""
    pixels, _ = stage.prepare(numbers).data
    with torch.no_grad():
        latents = stage.model.latents(pixels)
        return latents.movedim(1, -1).flatten(0, -2), stage.model.quantize_ids(latents).flatten()


def test_dead_codes_restart_on_latents_of_the_batch(tokenizer_stage):
    stage = tokenizer_stage
    step_of(stage, range(8))
    stage.after_step()
    with torch.no_grad():
        stage.codes[:10] = 1e3  # nothing is near these
    before = stage.codes.clone()
    stage.modules.idle[:] = 0
    stage.modules.idle[:5] = IDLE_STEPS
    step_of(stage, range(8, 16))
    latents, _ = coded(stage, range(8, 16))
    for code in stage.codes[:5]:
        assert (latents - code).abs().amax(dim=1).min() < 1e-5
    assert torch.equal(stage.codes[5:], before[5:])
    assert (stage.modules.idle[:5] == 0).all() and (stage.modules.counts[:5] == 1).all()


def test_idle_steps_are_counted_from_the_last_use(tokenizer_stage):
    stage = tokenizer_stage
    step_of(stage, range(4))
    with torch.no_grad():  # far off, its moving average too
        stage.codes[0], stage.modules.sums[0], stage.modules.counts[0] = 1e3, 1e3, 1.0
    for step in (1, 2):
        numbers = range(4 * step, 4 * step + 4)
        step_of(stage, numbers)
        used = coded(stage, numbers)[1].unique()
        stage.after_step()
    assert (stage.modules.idle[used] == 0).all() and stage.modules.idle[0] == 2


def test_codes_move_by_averages(tokenizer_stage):
    stage = tokenizer_stage
    step_of(stage, range(8))
    latents, ids = coded(stage, range(8))
    code = int(ids.mode().values)
    given = latents[ids == code]
    count, total = stage.modules.counts[code].clone(), stage.modules.sums[code].clone()
    stage.after_step()
    wanted = (DECAY * total + (1 - DECAY) * given.sum(0)) / (
        DECAY * count + (1 - DECAY) * len(given)
    )
    assert torch.allclose(stage.codes[code], wanted, rtol=1e-5, atol=1e-7)


def test_codebook_has_no_gradient_and_the_encoder_has(tokenizer_stage, tmp_path):
    run = Run(tokenizer_stage, LOOP, tmp_path)
    loss, figures = step_of(tokenizer_stage, range(4))
    codes = tokenizer_stage.codes.clone()
    loss.backward()
    for optimizer in run.optimizers:
        optimizer.step()
    assert torch.equal(tokenizer_stage.codes, codes)
    assert tokenizer_stage.model.quant_conv.weight.grad.abs().sum() > 0
    assert figures["codes"] > 1
    assert torch.equal(tokenizer_stage.model.quantize.embedding.weight, codes)


def test_the_first_steps_leave_the_codebook_out(tmp_path):
    run = Run(stage_of("tokenizer"), LOOP, tmp_path)
    codes = run.stage.codes.clone()
    assert [run.advance().shown["codes"] for _ in range(2)] == [0, 0]
    assert torch.equal(run.stage.codes, codes)
    assert run.advance().shown["codes"] > 0 and not torch.equal(run.stage.codes, codes)


def test_a_codebook_is_not_learnt_from_parts_of_a_batch(tokenizer_stage, tmp_path):
    with pytest.raises(InputError, match="micro_batch"):
        Run(tokenizer_stage, loop(micro_batch=2), tmp_path)


def test_a_polished_decoder_changes_no_token(tmp_path):
    vq = networks()[2]
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ids, decoded = vq.encode(pixels), vq.decode(vq.encode(pixels)).detach()
    run = Run(DecoderStage(vq, SIZE), loop(12, cooldown=0), tmp_path)
    losses = losses_of(run, 12)
    assert sum(losses[-4:]) < sum(losses[:4])
    run.stage.export(tmp_path)
    after = VQModel(VQ)
    after.load_state_dict(read_state_dict(tmp_path / "vqvae"))
    assert torch.equal(after.encode(pixels), ids) and not torch.equal(after.decode(ids), decoded)


# --- whole recipes ---


def tiny_config(**changes):
    stage = {"steps": 2, "batch": 4, "learning_rate": 1e-2, "warmup": 1}
    objective = {"steps": 3, "alignment": 0.2, "aligned_blocks": [1]}
    toyworld = {"kind": "toyworld"}
    mixed = {"sources": [toyworld | {"weight": 0.7}, toyworld | {"task": "generate"}]}
    more = {
        "tokenizer": {"continuous": 1},
        "text-to-image": {"objective": {"steps": 3}},
        "edit": {"objective": objective, "data": mixed, "validation": {"samples": 2}},
    }
    table = {
        "size": SIZE,
        "text_length": 16,
        "tokenizer": {k: v for k, v in VQ.to_dict().items() if k[0] != "_"},
        "transformer": TRANSFORMER.to_dict(),
        "data": toyworld,
        "settings": {"negative": "", "sampling": {"guidance": 1.0}},
        "stages": [{"kind": kind, **stage, **more.get(kind, {})} for kind in KINDS],
    }
    table["tokenizer"] = json.loads(json.dumps(table["tokenizer"]))
    table["tokenizer"] = {k: v for k, v in table["tokenizer"].items() if v is not None}
    return config_from({k: v for k, v in (table | changes).items() if v is not None})


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(initial, "corpus", lambda: CORPUS)
    monkeypatch.setattr(initial, "PICTURES", 20)
    return tiny_config()


def progress_of(folder):
    return json.loads((folder / "progress.json").read_text())


@pytest.mark.cuda
def test_a_recipe_trains_and_goes_on_where_a_gpu_is(tiny, tmp_path):
    commands.run_training(tiny, tmp_path, steps=3, device="cuda")
    folder = commands.run_training(tiny, tmp_path, stages=("decoder",), steps=5, device="cuda")
    for stage, step in (("text", 3), ("tokenizer", 3), ("edit", 3), ("decoder", 5)):
        assert progress_of(tmp_path / stage) == {"step": step, "steps": step, "exported": True}
    model = editmgt_lib.load(folder, device="cuda")
    assert torch.isfinite(model.generate("a star")).all()


def test_a_recipe_ends_in_a_checkpoint_that_edits_and_generates(tiny, tmp_path):
    lines = []
    folder = commands.run_training(tiny, tmp_path, threads=1, report=lines.append)
    model = editmgt_lib.load(folder, device="cpu")
    assert model.settings.resolution == SIZE and model.settings.sampling.steps == 3
    picture = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    assert model.edit(picture, "make the red heart blue").image.shape == picture.shape
    assert model.generate("a star").shape == picture.shape
    for stage in KINDS:
        assert any(line.startswith(f"{stage}: trains ") for line in lines)
        assert stage == "text" or list((tmp_path / stage).glob("sheet-000002.png"))
        assert progress_of(tmp_path / stage) == {"step": 2, "steps": 2, "exported": True}
    log = (tmp_path / "edit" / "log.jsonl").read_text()
    figures = [json.loads(line) for line in log.splitlines()]
    assert all(line["utilisation"] > 0 for line in figures if "data_wait" in line)
    assert "validation/instruction_gap" in log and "validation-average/reference_gap" in log
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["packages"]["torch"] and about["code"] and about["processes"] == 1
    # Again: nothing is left to do. With more steps, the last stage goes on.
    weights = folder / "vqvae" / "model.safetensors"
    before = weights.stat().st_mtime_ns, weights.read_bytes()
    commands.run_training(tiny, tmp_path, threads=1)
    assert (weights.stat().st_mtime_ns, weights.read_bytes()) == before
    last = {"stages": ("decoder",), "steps": 3, "threads": 1}
    commands.run_training(tmp_path / "run.toml", tmp_path, **last)
    assert weights.read_bytes() != before[1]
    # What a saved stage was trained on is not exchanged behind its back.
    commands.run_training(tiny, tmp_path, **last | {"stages": ("tokenizer",)})
    with pytest.raises(CheckpointError, match="text-to-image/state/.* data "):
        commands.run_training(tiny, tmp_path, **last | {"stages": ("text-to-image",)})
    # A stage whose states are gone does not start from its own result.
    shutil.rmtree(tmp_path / "edit")
    with pytest.raises(CheckpointError, match="holds the result of stage 'edit'"):
        commands.run_training(tiny, tmp_path, stages=("edit",))


def test_the_published_walk_in_miniature(tiny_meissonic, tiny_checkpoint, tmp_path):
    """Base model, fresh connector, text to image, then edits twice; on live data of each kind."""
    common = {"steps": 1, "batch": 2, "learning_rate": 1e-3, "validation": {"samples": 2}}
    table = {
        "start": str(tiny_meissonic),
        "language_model": str(tiny_checkpoint / "llm_encoder"),
        "text_length": 24,
        "settings": None,
        "transformer": None,
        "engine": {"recompute": True},
        "stages": [
            common | {"name": "stage-1", "kind": "text-to-image"},
            common | {"name": "stage-2", "kind": "edit"},
            common | {"name": "stage-3", "kind": "edit", "objective": {"time": "ratio"}},
        ],
    }
    lines = []
    config = tiny_config(**table)
    folder = commands.run_training(config, tmp_path, report=lines.append, threads=1)
    assert [line.split(":")[0] for line in lines[::2]] == ["stage-1", "stage-2", "stage-3"]
    first = dataclasses.replace(config, stages=config.stages[:1])
    alone = commands.run_training(first, tmp_path / "first", steps=1, threads=1)
    assert not Settings.read(alone).edits  # it draws, and was never asked to edit
    model = editmgt_lib.load(folder, device="cpu")
    assert model.settings.trained_time == "ratio" and model.settings.edits
    assert model.transformer.connector is not None
    picture = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    assert model.edit(picture, "make the red heart blue").image.shape == picture.shape
    base = read_state_dict(tiny_meissonic / "transformer")
    after = model.transformer.state_dict()
    assert max(float((after[n] - base[n]).abs().max()) for n in base) < 0.1


def test_a_lora_is_trained_and_used(tiny_checkpoint, tmp_path):
    config = tiny_config(
        start=str(tiny_checkpoint),
        text_length=24,
        stages=[{
            "kind": "edit", "name": "hats", "steps": 2, "batch": 2, "learning_rate": 1e-2,
            "warmup": 1, "lora": {"rank": 2, "trigger": "a hat"},
        }],
    )  # fmt: skip
    file = commands.run_training(config, tmp_path, threads=1)
    assert file == tmp_path / "hats.safetensors"
    state = next((tmp_path / "hats" / "state").glob("step-*"))
    assert all("adapters" in name for name in load_file(state / "weight.safetensors"))
    picture = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    base = editmgt_lib.load(str(tiny_checkpoint), device="cpu", dtype="float32").transformer
    assert Lora.read(file).metadata["base"] == weights_digest(base)
    with torch.no_grad():
        next(base.parameters()).view(-1)[0] += 1
    assert Lora.read(file).metadata["base"] != weights_digest(base)
    model = editmgt_lib.load(str(tiny_checkpoint), lora=[(file, 1.0)], device="cpu")
    assert model.edit(picture, "make the red heart blue").image.shape == picture.shape
    resumed = commands.run_training(config, tmp_path, steps=3, threads=1)
    assert resumed == file and progress_of(tmp_path / "hats")["step"] == 3


def test_a_whole_network_goes_on_from_a_checkpoint(tiny_checkpoint, tmp_path):
    stage = {"kind": "edit", "steps": 1, "batch": 2, "learning_rate": 1e-3}
    config = tiny_config(start=str(tiny_checkpoint), text_length=24, stages=[stage])
    folder = commands.run_training(config, tmp_path, threads=1)
    model = editmgt_lib.load(folder, device="cpu")  # with the parts that were not trained
    before = read_state_dict(tiny_checkpoint / "editmgt")
    after = model.transformer.state_dict()
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < moved < 0.1


def test_compiled_training_starts_from_half_precision_too(tiny, tmp_path, monkeypatch):
    """Through the tracer alone: the compiler is torch's business, and takes minutes."""
    trained = commands.run_training(tiny, tmp_path / "a", steps=1, threads=1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "edit")
    (tmp_path / "b" / "makers.json").unlink()
    half = tmp_path / "b" / "checkpoint"
    for file in half.rglob("*.safetensors"):
        save_file({n: t.half() for n, t in load_file(file).items()}, file)
    whole = MaskedTransformer.compile_blocks
    asked = []

    def compile_blocks(self):
        asked.append({p.dtype for p in self.parameters()})
        whole(self, backend="eager")

    monkeypatch.setattr(MaskedTransformer, "compile_blocks", compile_blocks)
    folder = commands.run_training(
        tiny, tmp_path / "b", stages=("edit",), steps=2, threads=1, compiled=True
    )
    assert asked == [{torch.float32}]
    state = read_state_dict(folder / "editmgt")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    before = read_state_dict(trained / "editmgt")
    assert state.keys() == before.keys() and {t.dtype for t in state.values()} == {torch.float32}


def test_a_stage_cut_short_goes_on(tiny, tmp_path):
    commands.run_training(tiny, tmp_path, stages=("tokenizer",), minutes=1e-9, steps=3)
    assert not (tmp_path / "checkpoint").exists()
    commands.run_training(tiny, tmp_path, stages=("tokenizer",), steps=3)
    assert progress_of(tmp_path / "tokenizer")["step"] == 3


def test_a_dry_run_writes_nothing(tiny, tmp_path):
    lines = []
    commands.run_training(tiny, tmp_path / "run", dry_run=True, report=lines.append)
    assert len(lines) == 2 * len(KINDS) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("folder", "pairs", "pairs, which does not exist; name the folder there"),
        ("cache", "", "holds no cache"),
        ("parquet", "", "holds no list"),
    ],
)
def test_data_is_looked_for_before_anything_else(tiny, tmp_path, kind, name, says):
    """Text and tokenizer would train first, without it."""
    (tmp_path / "empty").mkdir()
    data = {"kind": kind, "path": str(tmp_path / "empty" / name)}
    config, lines = dataclasses.replace(tiny, data=data), []
    with pytest.raises(InputError, match=says):
        commands.run_training(config, tmp_path / "run", report=lines.append)
    assert not lines and not (tmp_path / "run").exists()
    commands.run_training(config, tmp_path / "run", dry_run=True, report=lines.append)
    assert lines


def test_a_stage_that_cannot_start_writes_nothing(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="train stage 'tokenizer' first"):
        commands.run_training(tiny, tmp_path / "run", stages=("edit",))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"recipe": "toy"}, "toy is neither a file nor a recipe"),
        ({"stages": ("tokenizer", "edits")}, "'edits'"),
        ({"steps": 0}, "steps is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"minutes": -1}, "minutes is -1"),
        ({"device": "gpu"}, "device is 'gpu'"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_named(arguments, named, tmp_path):
    with pytest.raises(InputError, match=named):
        commands.run_training(**{"recipe": "toyworld-cpu", "out": tmp_path} | arguments)


def test_a_stage_without_its_predecessor_says_which(tiny, tmp_path):
    for missing in ("tokenizer", "text", "text-to-image"):
        with pytest.raises(CheckpointError, match=f"train stage '{missing}' first"):
            commands.run_training(tiny, tmp_path, stages=("edit",))
        commands.run_training(tiny, tmp_path, stages=(missing,), steps=1)
