"""Training: resume to the bit, the losses, the codebook, and a whole recipe in miniature."""

import copy
import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import editmgt_lib
from editmgt_lib.checkpoints import read_state_dict
from editmgt_lib.errors import CheckpointError, InputError
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.models.vq import VQModel
from editmgt_lib.toyworld.batches import crowded_scene, to_pixels, training_scene
from editmgt_lib.toyworld.language import STYLES, corpus
from editmgt_lib.toyworld.scenes import Scene, Thing, is_heldout, render
from editmgt_lib.toyworld.text_encoders import build_text_encoders
from editmgt_lib.training import commands, generation, initial
from editmgt_lib.training.decoder import DecoderStage
from editmgt_lib.training.generation import (
    GenerationOptions,
    GenerationStage,
    alignment_loss,
    mask_tokens,
)
from editmgt_lib.training.loop import LoopOptions, Run, StepRandom, build_optimizers, train
from editmgt_lib.training.recipes import RECIPES, STAGES, Recipe
from editmgt_lib.training.state import STATE
from editmgt_lib.training.text import OFFSETS, TextStage, training_prompt
from editmgt_lib.training.tokenizer import DECAY, IDLE_STEPS, TokenizerStage

from .tiny import CODES, MASK, TRANSFORMER, VQ

pytestmark = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="the extra `train` needs torch 2.9"
)

SIZE = 64
CORPUS = ("make the red circle blue", "remove the green square", "a star at the top left")
EDIT = GenerationOptions(
    edit=True,
    size=SIZE,
    steps=3,
    changed_weight=4.0,
    alignment=0.2,
    aligned_blocks=(1,),
    generate_share=0.3,
)
TEXT = GenerationOptions(edit=False, size=SIZE, steps=3)
LOOP = LoopOptions(6, 4, 1e-2, warmup=2, cooldown=2, average=0.9, muon=1e-2, checkpoint_every=2)
RECIPE = Recipe(
    size=SIZE,
    text_length=16,
    tokenizer=VQ,
    transformer=TRANSFORMER,
    continuous=1,
    loops={stage: LOOP for stage in STAGES},
    generation=TEXT,
    edit=EDIT,
)


@pytest.fixture(scope="module")
def networks():
    """Transformer, text encoders and tokenizer to copy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vq = VQModel(VQ).requires_grad_(False)
        vq.quantize.embedding.weight.normal_()  # codes far apart
    encoders = build_text_encoders(CORPUS, text_length=16, width=16, pooled=16)
    return initial.new_transformer(TRANSFORMER, seed=0), encoders, vq


@pytest.fixture
def edit_stage(networks):
    return GenerationStage(*copy.deepcopy(networks), EDIT)


@pytest.fixture
def tokenizer_stage():
    return TokenizerStage(VQ, SIZE, seed=0)


def stage_of(kind, networks):
    if kind == "text":
        return TextStage(copy.deepcopy(networks[1]))
    if kind == "tokenizer":
        return TokenizerStage(VQ, SIZE, seed=0, continuous=2)
    if kind == "decoder":
        return DecoderStage(copy.deepcopy(networks[2]), SIZE)
    return GenerationStage(*copy.deepcopy(networks), EDIT if kind == "edit" else TEXT)


def weights_of(stage):
    return {n: t.clone() for n, t in stage.modules.state_dict().items()}


def state_of(run):
    """All that decides how a run goes on."""
    kept = {n: o.state[p] for o in run.optimizers for n, p in run._of(o)}
    moments = {f"{n}.{k}": t for n, state in kept.items() for k, t in state.items()}
    averages = {f"average.{n}": t for n, t in run.averages.items()}
    return weights_of(run.stage) | averages | moments


def assert_same(one, other):
    assert one.keys() == other.keys()
    different = [n for n in one if not torch.equal(one[n], other[n])]
    assert not different


def advance(run, steps):
    for _ in range(steps):
        run.advance()
    return run


# --- the loop ---


@pytest.mark.parametrize("kind", STAGES)
def test_a_resumed_run_repeats_an_uninterrupted_one(kind, networks, tmp_path):
    straight = advance(Run(stage_of(kind, networks), LOOP, tmp_path / "straight"), 6)
    advance(Run(stage_of(kind, networks), LOOP, tmp_path / "resumed"), 3).save()
    stage = stage_of(kind, networks)
    with torch.no_grad():  # so that all that counts has to come from the file
        for tensor in stage.modules.state_dict().values():
            tensor.add_(1)
    resumed = Run(stage, LOOP, tmp_path / "resumed")
    assert resumed.step == 3
    assert_same(state_of(straight), state_of(advance(resumed, 3)))
    start = stage_of(kind, networks).modules.state_dict()
    assert any(not torch.equal(t, start[n]) for n, t in weights_of(stage).items())


def test_averages_are_exported_and_trained_weights_kept(edit_stage, tmp_path):
    run = advance(Run(edit_stage, LOOP, tmp_path / "edit"), 3)
    before = weights_of(edit_stage)
    commands.export(run, tmp_path / "checkpoint")
    saved = read_state_dict(tmp_path / "checkpoint" / "editmgt")
    for name, tensor in saved.items():
        assert torch.equal(tensor, run.averages[f"transformer.{name}"])
    assert any(not torch.equal(t, before[f"transformer.{n}"]) for n, t in saved.items())
    assert_same(before, weights_of(edit_stage))


def test_trained_weights_come_back_when_drawing_fails(tokenizer_stage, tmp_path):
    run = advance(Run(tokenizer_stage, LOOP, tmp_path), 2)
    before = weights_of(tokenizer_stage)
    with pytest.raises(ZeroDivisionError):
        run.with_averages(lambda: 1 / 0)
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
    loop = LoopOptions(100, 1, 2.0, warmup=10, cooldown=20)
    rates = [loop.schedule(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:81] == [1.0] * 72
    assert rates[-1] == pytest.approx(0.05) and rates[80:] == sorted(rates[80:], reverse=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("batch", 1.5), ("learning_rate", 0), ("average", 1.1), ("clip", float("nan"))],
)
def test_loop_options_are_checked(name, value):
    with pytest.raises(InputError, match=name):
        LoopOptions(**{"steps": 1, "batch": 1, "learning_rate": 1.0} | {name: value})


@pytest.mark.parametrize(
    "change",
    [{"text_dropout": 2}, {"first_step": -1}, {"alignment": -1}, {"aligned_blocks": ()}],
    ids=str,
)
def test_generation_options_are_checked(change):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(EDIT, **change)


def test_same_step_same_numbers_other_step_others():
    one, same, other = (StepRandom.of(5, step) for step in (2, 2, 3))
    draws = [(r.data.random(), torch.rand(1, generator=r.masks).item()) for r in (one, same, other)]
    assert draws[0] == draws[1] != draws[2] and draws[0][0] != draws[0][1]


# --- interruptions ---


def interrupt_at(stage, monkeypatch, step, stop):
    calls, loss = [], stage.loss

    def interrupted(random, batch):
        calls.append(1)
        if len(calls) == step:
            stop()
        return loss(random, batch)

    monkeypatch.setattr(stage, "loss", interrupted)


def test_an_error_in_a_step_leaves_the_last_saved_state(tokenizer_stage, monkeypatch, tmp_path):
    def stop():
        raise KeyboardInterrupt

    interrupt_at(tokenizer_stage, monkeypatch, 4, stop)
    with pytest.raises(KeyboardInterrupt):
        train(Run(tokenizer_stage, LOOP, tmp_path), name="test")
    again = Run(TokenizerStage(VQ, SIZE, seed=0), LOOP, tmp_path)
    assert again.step == 2
    straight = advance(Run(TokenizerStage(VQ, SIZE, seed=0), LOOP, tmp_path / "none"), 2)
    assert_same(state_of(straight), state_of(again))


def test_control_c_ends_the_step_and_saves(tokenizer_stage, monkeypatch, tmp_path):
    interrupt_at(tokenizer_stage, monkeypatch, 3, lambda: signal.raise_signal(signal.SIGINT))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(Run(tokenizer_stage, LOOP, tmp_path), name="test")
    assert signal.getsignal(signal.SIGINT) is handler
    again = Run(TokenizerStage(VQ, SIZE, seed=0), LOOP, tmp_path)
    straight = advance(Run(TokenizerStage(VQ, SIZE, seed=0), LOOP, tmp_path / "none"), 3)
    assert again.step == 3
    assert_same(state_of(straight), state_of(again))


def test_a_second_control_c_stops_at_once(tokenizer_stage, monkeypatch, tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    interrupt_at(tokenizer_stage, monkeypatch, 1, twice)
    with pytest.raises(KeyboardInterrupt):
        train(Run(tokenizer_stage, LOOP, tmp_path), name="test")
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_corrupt_state_is_named(damage, tokenizer_stage, tmp_path):
    advance(Run(tokenizer_stage, LOOP, tmp_path), 1).save()
    path = tmp_path / STATE
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-100], "empty": b"", "text": b"x" * 400}[damage])
    with pytest.raises(CheckpointError, match=STATE):
        Run(tokenizer_stage, LOOP, tmp_path)


def test_a_state_of_another_network_is_named(tokenizer_stage, edit_stage, tmp_path):
    advance(Run(tokenizer_stage, LOOP, tmp_path), 1).save()
    wider = dataclasses.replace(VQ, block_out_channels=(24,))
    for stage in (edit_stage, TokenizerStage(wider, SIZE, seed=0)):
        with pytest.raises(CheckpointError, match="another recipe"):
            Run(stage, LOOP, tmp_path)


# --- the text encoders ---


def test_text_rows_come_to_tell_their_words_and_those_before(networks, tmp_path):
    encoders = build_text_encoders(corpus(), text_length=32, width=64, pooled=32)
    stage = TextStage(encoders)
    run = Run(stage, LoopOptions(60, 16, 1e-2, warmup=5), tmp_path)
    first, last = (advance(run, n).advance() for n in (0, 58))
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
    rng = StepRandom.of(0, 0).data
    prompts = [training_prompt(rng) for _ in range(200)]
    assert len(set(prompts)) > 150
    assert any("background" in p and "change" in p for p in prompts)
    assert any(p.startswith("a picture of") for p in prompts)


# --- the generation stages ---


def test_masked_share_follows_the_cosine():
    target = torch.zeros(6000, 4, 4, dtype=torch.long)
    ids, u = mask_tokens(target, MASK, torch.Generator().manual_seed(0))
    assert set(ids.unique().tolist()) == {0, MASK}
    count = (ids == MASK).sum((1, 2))
    expected = (torch.cos(u * torch.pi / 2) * 16).round().clamp(min=1)
    assert torch.equal(count, expected.long())
    assert count.min() == 1 and count.max() == 16
    assert u.mean() == pytest.approx(0.5, abs=0.02)
    assert (count / 16).mean() == pytest.approx(2 / torch.pi, abs=0.02)
    everywhere = (ids == MASK).float().mean(0)  # no place is preferred
    assert everywhere.max() - everywhere.min() < 0.05


def test_some_items_start_like_the_sampler_with_everything_masked():
    target = torch.zeros(4000, 4, 4, dtype=torch.long)
    ids, u = mask_tokens(target, MASK, torch.Generator().manual_seed(0), first_step=0.25)
    whole = (ids == MASK).all(2).all(1)
    assert (u == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert whole[u == 0].all() and whole[u > 0.4].sum() == 0


def test_masks_in_patches_lie_together_and_keep_their_share():
    target = torch.zeros(500, 8, 8, dtype=torch.long)
    joined = {}
    for patches in (0.0, 1.0):
        ids, u = mask_tokens(target, MASK, torch.Generator().manual_seed(0), patches=patches)
        masked = ids == MASK
        expected = (torch.cos(u * torch.pi / 2) * 64).round().clamp(min=1)
        assert torch.equal(masked.sum((1, 2)), expected.long())
        joined[patches] = (masked[:, 1:] == masked[:, :-1]).float().mean()
    assert joined[1.0] > joined[0.0] + 0.05


def test_only_masked_tokens_change():
    target = torch.randint(CODES, (8, 4, 4), generator=torch.Generator().manual_seed(1))
    ids, _ = mask_tokens(target, MASK, torch.Generator().manual_seed(0))
    assert torch.equal(ids[ids != MASK], target[ids != MASK])


def test_alignment_prefers_attention_on_what_changes():
    changed = torch.zeros(1, 4, 4, dtype=torch.bool)
    changed[0, 1, 2:] = True  # the upper right one of 2 x 2 positions
    on, off = torch.tensor([[0.1, 0.7, 0.1, 0.1]]), torch.tensor([[0.7, 0.1, 0.1, 0.1]])
    assert alignment_loss([on], changed, 2) < alignment_loss([off], changed, 2)
    assert alignment_loss([3 * on], changed, 2) == pytest.approx(
        alignment_loss([on], changed, 2).item()
    )
    assert alignment_loss([on, off], changed, 2) > alignment_loss([on, on], changed, 2)


def test_alignment_ignores_items_without_change():
    changed = torch.zeros(2, 4, 4, dtype=torch.bool)
    changed[0, 0, 0] = True
    scores = torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.9, 0.1, 0.0, 0.0]], requires_grad=True)
    loss = alignment_loss([scores], changed, 2)
    loss.backward()
    assert scores.grad[0].abs().sum() > 0 and (scores.grad[1] == 0).all()
    assert alignment_loss([scores[1:]], changed[1:], 2) == 0


def test_dropped_prompts_really_are_empty(networks, monkeypatch):
    """The published code draws the mask the wrong way round and overwrites what it drops."""
    transformer, encoders, vq = networks
    with torch.no_grad():
        empty, _ = encoders.encode_ids(*encoders.tokenize([""] * 16))
    given = []
    prepare = transformer.prepare
    monkeypatch.setattr(transformer, "prepare", lambda t, *a: given.append(t) or prepare(t, *a))
    for share, dropped in ((0.0, [0]), (1.0, [16]), (0.5, range(3, 14))):
        options = dataclasses.replace(EDIT, text_dropout=share, generate_share=0)
        GenerationStage(transformer, encoders, vq, options).loss(StepRandom.of(0, 1), 16)
        same = (given.pop() - empty).abs().amax((1, 2)) < 1e-3 * empty.abs().max()
        assert int(same.sum()) in dropped


def test_held_out_scenes_are_never_trained_on(edit_stage, networks, monkeypatch):
    seen = []

    def spy(scenes, size, device="cpu"):
        seen.extend(scenes)
        return torch.zeros(len(scenes), 3, SIZE, SIZE)

    monkeypatch.setattr(generation, "to_pixels", spy)
    text = GenerationStage(*networks, TEXT)
    for stage in (edit_stage, text):
        for step in range(30):
            stage.draw(StepRandom.of(0, step), 16)
    assert len(seen) > 1000
    assert not any(map(is_heldout, seen))


@pytest.mark.parametrize("size", [64, 256])
def test_pictures_put_together_from_cells_are_those_that_are_drawn(size):
    rng = np.random.default_rng(0)
    scenes = [training_scene(rng) for _ in range(200)] + [crowded_scene(rng) for _ in range(60)]
    scenes += [Scene((), "wood"), Scene((Thing("star", "pink", 8),), "sand", "blueprint")]
    assert {s.style for s in scenes} == set(STYLES)
    drawn = torch.from_numpy(np.stack([render(scene, size) for scene in scenes]))
    assert torch.equal(to_pixels(scenes, size), drawn.permute(0, 3, 1, 2).float() / 255)


@pytest.mark.parametrize("kind", STAGES)
def test_figures_of_a_step_are_left_on_the_device(kind, networks, tmp_path):
    run = Run(stage_of(kind, networks), LOOP, tmp_path)
    for _ in range(2):
        for name, figure in run.advance().items():
            assert isinstance(figure, torch.Tensor) and not figure.requires_grad, name
            assert figure.ndim == 0 and torch.isfinite(figure), name


def test_loss_falls_on_edits(edit_stage, tmp_path):
    run = Run(edit_stage, LoopOptions(16, 4, 1e-2, warmup=2), tmp_path)
    losses = [run.advance()["loss"] for _ in range(16)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


# --- the codebook ---


def test_dead_codes_restart_on_latents_of_the_batch(tokenizer_stage):
    stage = tokenizer_stage
    stage.loss(StepRandom.of(0, 0), 8)
    stage.after_step()
    with torch.no_grad():
        stage.codes[:10] = 1e3  # nothing is near these
    before = stage.codes.clone()
    stage.modules.idle[:] = 0
    stage.modules.idle[:5] = IDLE_STEPS
    stage.loss(StepRandom.of(0, 1), 8)
    latents = stage._latents
    for code in stage.codes[:5]:
        assert (latents == code).all(1).any()
    assert torch.equal(stage.codes[5:], before[5:])
    assert (stage.modules.idle[:5] == 0).all() and (stage.modules.counts[:5] == 1).all()


def test_idle_steps_are_counted_from_the_last_use(tokenizer_stage):
    stage = tokenizer_stage
    stage.loss(StepRandom.of(0, 0), 4)
    with torch.no_grad():  # far off, its moving average too
        stage.codes[0], stage.modules.sums[0], stage.modules.counts[0] = 1e3, 1e3, 1.0
    for step in (1, 2):
        stage.loss(StepRandom.of(0, step), 4)
        used = stage._ids.unique()
        stage.after_step()
    assert (stage.modules.idle[used] == 0).all() and stage.modules.idle[0] == 2


def test_codes_move_by_averages(tokenizer_stage):
    stage = tokenizer_stage
    stage.loss(StepRandom.of(0, 0), 8)
    code = int(stage._ids.mode().values)
    given = stage._latents[stage._ids == code]
    count, total = stage.modules.counts[code].clone(), stage.modules.sums[code].clone()
    stage.after_step()
    wanted = (DECAY * total + (1 - DECAY) * given.sum(0)) / (
        DECAY * count + (1 - DECAY) * len(given)
    )
    assert torch.allclose(stage.codes[code], wanted, rtol=1e-5, atol=1e-7)


def test_layers_that_embed_conditions_learn_slowly():
    model = MaskedTransformer(TRANSFORMER)
    parameters = dict(model.named_parameters())
    groups = [g for o in build_optimizers(parameters, LOOP) for g in o.param_groups]
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    assert set(rates) == set(parameters.values())
    slow = {n for n, p in parameters.items() if rates[p] < LOOP.learning_rate}
    assert {n.split(".")[0] for n in slow} == {"time_text_embed", "cond_embed"}


def test_codebook_has_no_gradient_and_the_encoder_has(tokenizer_stage, tmp_path):
    run = Run(tokenizer_stage, LOOP, tmp_path)
    loss, figures = tokenizer_stage.loss(StepRandom.of(0, 0), 4)
    codes = tokenizer_stage.codes.clone()
    loss.backward()
    for optimizer in run.optimizers:
        optimizer.step()
    assert tokenizer_stage.codes.grad is None and torch.equal(tokenizer_stage.codes, codes)
    assert tokenizer_stage.model.quant_conv.weight.grad.abs().sum() > 0
    assert figures["codes"] > 1


def test_the_first_steps_leave_the_codebook_out(tmp_path):
    run = Run(TokenizerStage(VQ, SIZE, seed=0, continuous=2), LOOP, tmp_path)
    codes = run.stage.codes.clone()
    assert [run.advance()["codes"] for _ in range(2)] == [0, 0]
    assert torch.equal(run.stage.codes, codes)
    assert run.advance()["codes"] > 0 and not torch.equal(run.stage.codes, codes)


def test_a_polished_decoder_changes_no_token(networks, tmp_path):
    vq = copy.deepcopy(networks[2])
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ids, decoded = vq.encode(pixels), vq.decode(vq.encode(pixels)).detach()
    run = Run(DecoderStage(vq, SIZE), LoopOptions(12, 4, 1e-2, warmup=2), tmp_path)
    losses = [run.advance()["loss"] for _ in range(12)]
    assert sum(losses[-4:]) < sum(losses[:4])
    run.stage.export(tmp_path)
    after = VQModel(VQ)
    after.load_state_dict(read_state_dict(tmp_path / "vqvae"))
    assert torch.equal(after.encode(pixels), ids) and not torch.equal(after.decode(ids), decoded)


# --- whole recipes ---


@pytest.fixture
def tiny_recipe(monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", RECIPE)
    monkeypatch.setattr(initial, "corpus", lambda: CORPUS)
    monkeypatch.setattr(initial, "PICTURES", 20)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recipe_trains_and_goes_on_where_a_gpu_is(tiny_recipe, tmp_path):
    commands.run_training("tiny", tmp_path, steps=3, device="cuda")
    folder = commands.run_training("tiny", tmp_path, steps=5, device="cuda")
    for stage in STAGES:
        progress = json.loads((tmp_path / stage / "progress.json").read_text())
        assert progress == {"step": 5, "steps": 5, "exported": True}
        assert stage == "text" or list((tmp_path / stage).glob("sheet-000005.png"))
    model = editmgt_lib.load(folder, device="cuda")
    assert torch.isfinite(model.generate("a star")).all()


def test_a_recipe_ends_in_a_checkpoint_that_edits_and_generates(tiny_recipe, tmp_path):
    folder = commands.run_training("tiny", tmp_path, steps=2, threads=1)
    model = editmgt_lib.load(folder, device="cpu")
    assert model.settings.resolution == SIZE and model.settings.sampling.steps == 3
    picture = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    assert model.edit(picture, "make the red circle blue").image.shape == picture.shape
    assert model.generate("a star").shape == picture.shape
    for stage in STAGES:
        assert stage == "text" or list((tmp_path / stage).glob("sheet-000002.png"))
        progress = json.loads((tmp_path / stage / "progress.json").read_text())
        assert progress == {"step": 2, "steps": 2, "exported": True}
    # Again: nothing is left to do. With more steps: every stage goes on.
    weights = folder / "editmgt" / "model.safetensors"
    before = weights.stat().st_mtime_ns, weights.read_bytes()
    commands.run_training("tiny", tmp_path, steps=2, threads=1)
    assert (weights.stat().st_mtime_ns, weights.read_bytes()) == before
    commands.run_training("tiny", tmp_path, steps=3, threads=1)
    assert weights.read_bytes() != before[1]


def test_compiled_training_starts_from_half_precision_too(tiny_recipe, tmp_path, monkeypatch):
    """Through the tracer alone: the compiler is torch's business, and takes minutes."""
    trained = commands.run_training("tiny", tmp_path / "a", steps=1, threads=1)
    half = shutil.copytree(trained, tmp_path / "b" / "checkpoint")
    for file in half.rglob("*.safetensors"):
        save_file({n: t.half() for n, t in load_file(file).items()}, file)
    whole = MaskedTransformer.compile_blocks
    asked = []

    def compile_blocks(self):
        asked.append({p.dtype for p in self.parameters()})
        whole(self, backend="eager")

    monkeypatch.setattr(MaskedTransformer, "compile_blocks", compile_blocks)
    folder = commands.run_training(
        "tiny", tmp_path / "b", stages=("edit",), steps=2, threads=1, compiled=True
    )
    assert asked == [{torch.float32}]
    state = read_state_dict(folder / "editmgt")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    before = read_state_dict(trained / "editmgt")
    assert state.keys() == before.keys() and {t.dtype for t in state.values()} == {torch.float32}


def test_a_stage_cut_short_goes_on(tiny_recipe, tmp_path):
    commands.run_training("tiny", tmp_path, stages=("tokenizer",), minutes=1e-9, steps=3)
    progress = json.loads((tmp_path / "tokenizer" / "progress.json").read_text())
    assert progress["step"] < 3
    commands.run_training("tiny", tmp_path, stages=("tokenizer",), steps=3)
    progress = json.loads((tmp_path / "tokenizer" / "progress.json").read_text())
    assert progress["step"] == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"recipe": "toy"}, "recipe is 'toy'"),
        ({"stages": ("tokenizer", "edits")}, "'edits'"),
        ({"steps": 0}, "steps is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"minutes": -1}, "minutes is -1"),
        ({"device": "gpu"}, "device 'gpu'"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_named(arguments, named, tmp_path):
    with pytest.raises(InputError, match=named):
        commands.run_training(**{"recipe": "toyworld-cpu", "out": tmp_path} | arguments)


def test_a_stage_without_its_predecessor_says_which(tiny_recipe, tmp_path):
    for missing in ("tokenizer", "text", "text-to-image"):
        with pytest.raises(CheckpointError, match=f"train stage '{missing}' first"):
            commands.run_training("tiny", tmp_path, stages=("edit",))
        commands.run_training("tiny", tmp_path, stages=(missing,), steps=1)


@pytest.mark.parametrize("name", ["toyworld-cpu", "toyworld-gpu"])
def test_shipped_recipes_fit_together(name):
    recipe = RECIPES[name]
    assert recipe.transformer.codebook_size == recipe.tokenizer.num_vq_embeddings
    assert recipe.size % (recipe.tokenizer.factor * recipe.transformer.stride) == 0
    blocks = recipe.transformer.num_layers + recipe.transformer.num_single_layers
    assert max(recipe.edit.aligned_blocks) < blocks
    assert recipe.edit.edit and not recipe.generation.edit
    assert recipe.size == recipe.edit.size == recipe.generation.size
    assert set(recipe.loops) == set(STAGES)
