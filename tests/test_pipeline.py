"""The five stages, and `edit`, which is nothing but the five in a row."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import editmgt_lib
from editmgt_lib.errors import Cancelled, CheckpointError, InputError, OutOfMemory
from editmgt_lib.loader import choose_dtype, load
from editmgt_lib.localization.maps import Localization, LocalizationOptions
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.models.vq import VQModel
from editmgt_lib.pictures.fitting import FitOptions, project_mask, support
from editmgt_lib.sampling.noise import ItemNoise, SharedNoise
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.sampling.predictor import Predictor
from editmgt_lib.settings import Settings
from editmgt_lib.text.instruction import Instruction
from editmgt_lib.toyworld import world

PROMPT, OTHER = "make the red heart blue", "remove the green mug"
QUICK = SamplingOptions(steps=3, guidance=2.0)
CODES = 32
ROOT = Path(__file__).resolve().parents[1]


def open_tiny(folder, **options):
    """The tiny checkpoint, its codes moved to where noise pictures lie, so that tokens differ."""
    model = load(folder, device="cpu", **options)
    cells = picture(16, 16 * CODES).permute(0, 3, 1, 2)
    with torch.no_grad():
        model.vq.quantize.embedding.weight.copy_(model.vq.latents(cells)[0, :, 0].T)
    return model


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return open_tiny(tiny_checkpoint)


@pytest.fixture(scope="module")
def instruction(model):
    return model.encode_instruction(PROMPT)


def picture(height=64, width=64, batch=1, channels=3, seed=0):
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(seed))


def corner(height, width, share=0.15, batch=1):
    """A region in the upper left corner: few tokens of the grid."""
    region = torch.zeros(batch, height, width)
    region[:, : max(1, int(height * share)), : max(1, int(width * share))] = 1
    return region


def ready(relevance, **options):
    """A map that stays as it is."""
    return Localization(relevance, LocalizationOptions(update="once", **options))


def left_half(batch=1):
    """Relevance 1 in the left half of the 4x4 tokens, 0 in the right one."""
    relevance = torch.zeros(batch, 4, 4)
    relevance[:, :, :2] = 1
    return relevance


# The package


def test_import_is_fast_and_silent():
    code = (
        "import sys, editmgt_lib\n"
        "heavy = {'torch', 'numpy', 'transformers', 'PIL', 'safetensors', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert 'load' in dir(editmgt_lib)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_is_there():
    for name in editmgt_lib.__all__:
        assert getattr(editmgt_lib, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = editmgt_lib.no_such_name


# Loading


def test_settings_of_the_checkpoint_are_the_defaults(model):
    assert model.settings.resolution == 64
    assert model.settings.sampling == SamplingOptions(steps=3, guidance=2.0)
    assert model.settings.localization == LocalizationOptions(layers=(0, 2))
    steps = []
    model.edit(picture(), PROMPT, callback=lambda event: steps.append((event.step, event.steps)))
    assert steps == [(0, 3), (1, 3), (2, 3)]


def test_settings_survive_a_round_trip(tmp_path):
    settings = Settings(
        resolution=256,
        text_length=32,
        negative="blurry",
        sampling=SamplingOptions(steps=12, temperature=(1.0, 0.5), seed=(1, 2)),
        localization=LocalizationOptions(layers=(3, 5), words=("heart",)),
    )
    (tmp_path / "editmgt.json").write_text(json.dumps(settings.to_dict()))
    assert Settings.read(tmp_path) == settings
    assert Settings.read(tmp_path / "none") == Settings()


@pytest.mark.parametrize(
    ("option", "usual", "other"), [("filter_strength", 1.0, 2.0), ("preserve_peaks", True, False)]
)
def test_options_of_older_settings_files(tmp_path, option, usual, other):
    """Ignored where they say what is always done now; otherwise with a warning."""
    file = tmp_path / "editmgt.json"
    file.write_text(json.dumps({"localization": {option: usual}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Settings.read(tmp_path) == Settings()
    file.write_text(json.dumps({"localization": {option: other}}))
    with pytest.warns(UserWarning, match=f"localization.{option} is {other}"):
        assert Settings.read(tmp_path) == Settings()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"resolutoin": 512}, "resolutoin"),
        ({"localization": {"filter": "bilateral"}}, "'adaptive', 'gaussian', 'none'"),
        ({"sampling": {"steps": 0}}, "steps"),
        ({"sampling": {"step": 3}}, "step"),
        ({"sampling": [3]}, "sampling"),
        ({"localization": {"layers": [2, 1]}}, "layers"),
        ({"negative": 3}, "negative"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, content, named):
    (tmp_path / "editmgt.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=named) as caught:
        Settings.read(tmp_path)
    assert "editmgt.json" in str(caught.value)


def test_a_device_or_dtype_that_cannot_be_is_named(tiny_checkpoint):
    with pytest.raises(InputError, match="'int8'.*bfloat16"):
        load(tiny_checkpoint, dtype="int8")
    with pytest.raises(InputError, match="device is 'abacus'; use 'auto', 'cpu'"):
        load(tiny_checkpoint, device="abacus")
    with pytest.raises(InputError, match="nowhere"):
        load("nowhere/at/all")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32


def test_without_text_encoders_an_encoded_instruction_is_enough(tiny_checkpoint, instruction):
    model = open_tiny(tiny_checkpoint, text=False)
    with pytest.raises(InputError, match="freed"):
        model.encode_instruction(PROMPT)
    tokens, _ = model.sample(model.encode_image(picture()), instruction, QUICK)
    assert tokens.ids.shape == (1, 4, 4)


def test_freeing_the_text_encoders(tiny_checkpoint, model, instruction):
    other = open_tiny(tiny_checkpoint)
    kept = other.encode_instruction(PROMPT)
    other.free_text()
    assert other.text_encoders is None
    with pytest.raises(InputError, match="load"):
        other.encode_instruction(PROMPT)
    source = picture()
    ours, _ = other.sample(other.encode_image(source), kept, QUICK)
    theirs, _ = model.sample(model.encode_image(source), instruction, QUICK)
    assert torch.equal(ours.ids, theirs.ids)


def test_moving_returns_the_model(tiny_checkpoint):
    model = open_tiny(tiny_checkpoint)
    assert model.to("cpu") is model
    model.free_text()
    assert model.to("cpu").device.type == "cpu"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_whole_edit_in_short_numbers(tiny_checkpoint, model, dtype):
    short = open_tiny(tiny_checkpoint, dtype=dtype)
    assert str(short.dtype) == f"torch.{dtype}" and dtype in repr(short)
    source = picture(48, 80)
    result = short.edit(source, PROMPT, options=replace(QUICK, threshold=0.2))
    assert result.image.dtype == torch.float32 and torch.isfinite(result.image).all()
    # The tokenizer computes in float32 whatever the rest does: low precision moves tokens.
    assert torch.equal(result.tokens.source_ids, model.encode_image(source).ids)
    assert short.generate(PROMPT, options=QUICK).dtype == torch.float32


# Stage 1: picture to tokens


def test_encoded_pictures_are_their_own_source(model):
    tokens = model.encode_image(picture(50, 70, batch=2))
    assert tokens.ids.shape == (2, 4, 4) and tokens.ids.dtype == torch.int64
    assert torch.equal(tokens.source_ids, tokens.ids) and not tokens.changed.any()
    assert 0 <= int(tokens.ids.min()) <= int(tokens.ids.max()) < CODES
    assert len(tokens.ids.unique()) > 8


def test_tokens_of_a_picture_do_not_depend_on_its_batch(model):
    batch = picture(50, 70, batch=3)
    tokens = model.encode_image(batch)
    for k in range(3):
        assert torch.equal(model.encode_image(batch[k : k + 1]).ids, tokens.ids[k : k + 1])


def test_fits_give_their_grids(model):
    wide = picture(32, 128)
    assert model.encode_image(wide).ids.shape == (1, 4, 4)
    assert model.encode_image(wide, "native").ids.shape == (1, 2, 8)
    full = FitOptions("native", resolution=128, factor=16)
    assert model.encode_image(picture(128, 96), full).ids.shape == (1, 8, 6)
    assert model.encode_image(wide, "crop", corner(32, 128)).ids.shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * torch.nan, "nan"),
        (lambda x: x * 255, "divide"),
        (lambda x: x[0], r"\(64, 64, 3\)"),
        (lambda x: x[..., :2], r"\(1, 64, 64, 2\)"),
        (lambda x: x[:, :0], r"\(1, 0, 64, 3\)"),
        (lambda x: x.numpy(), "ndarray"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused(model, change, message):
    with pytest.raises(InputError, match=message):
        model.edit(change(picture()), PROMPT)


def test_fits_that_cannot_be_are_refused(model):
    with pytest.raises(InputError, match="'stretch'.*pad"):
        model.encode_image(picture(), "stretch")
    with pytest.raises(InputError, match="crop.*mask"):
        model.encode_image(picture(), "crop")


# Stage 2: text


def test_the_checkpoints_negative_prompt_is_the_default(model):
    assert model.encode_instruction(PROMPT).negative == ("ugly",)
    assert model.encode_instruction(PROMPT, "").negative == ("",)
    both = model.encode_instruction([PROMPT, OTHER], ["a", "b"])
    assert both.batch == 2 and both.negative == ("a", "b")
    with pytest.raises(InputError, match="3 negative prompts for 2"):
        model.encode_instruction([PROMPT, OTHER], ["a", "b", "c"])


@pytest.mark.parametrize("prompt", ["", "  \n", [], ["make it red", " "], None, [3]])
def test_an_empty_prompt_is_refused(model, prompt):
    with pytest.raises(InputError, match="prompt is .*say what to change"):
        model.edit(picture(), prompt)


# Stage 3: where


@pytest.mark.parametrize("state", ["masked", "source"])
def test_a_map_covers_the_positions_in_unit_range(model, instruction, state):
    tokens = model.encode_image(picture(batch=2))
    found = model.localize(tokens, instruction, LocalizationOptions(state=state))
    assert found.relevance.shape == (2, 2, 2) and found.relevance.dtype == torch.float32
    assert 0 <= float(found.relevance.min()) <= float(found.relevance.max()) <= 1


def test_a_map_is_that_of_the_first_step(model, instruction):
    tokens, options = model.encode_image(picture()), replace(QUICK, steps=1)
    before = model.localize(tokens, instruction, None, options)
    _, during = model.sample(tokens, instruction, options, localization=before.options)
    torch.testing.assert_close(before.relevance, during.relevance, rtol=1e-5, atol=1e-6)


def test_words_choose_the_rows(model, instruction):
    tokens = model.encode_image(picture())
    maps = [
        model.localize(tokens, instruction, LocalizationOptions(filter="none", **kind)).relevance
        for kind in ({"words": ("heart",)}, {"words": ("red",)}, {}, {"rows": "content"})
    ]
    for i in range(4):
        for other in maps[i + 1 :]:
            assert not torch.allclose(maps[i], other, atol=1e-4)


def test_words_and_layers_that_do_not_exist(model, instruction):
    tokens = model.encode_image(picture())
    with pytest.raises(InputError, match="zebra.*make, the, red, heart, blue"):
        model.localize(tokens, instruction, LocalizationOptions(words=("zebra",)))
    wrong = LocalizationOptions(layers=(1, 7))
    with pytest.raises(InputError, match=r"\(1, 7\).*3 blocks.*0 to 2"):
        model.localize(tokens, instruction, wrong)
    with pytest.raises(InputError, match="layers"):
        model.edit(picture(), PROMPT, options=replace(QUICK, threshold=0.1), localization=wrong)


def test_a_blank_picture_has_a_map_too(model, instruction):
    blank = model.blank_tokens()
    assert model.localize(blank, instruction).relevance.shape == (1, 2, 2)
    _, found = model.sample(blank, instruction, QUICK, localization=LocalizationOptions())
    assert found.relevance.shape == (1, 2, 2)


# Stage 4: sampling


def test_given_tokens_are_not_written_to_and_no_mask_is_left(model, instruction):
    tokens = model.encode_image(picture(batch=2))
    before = tokens.ids.clone()
    result, found = model.sample(tokens, instruction, QUICK)
    assert torch.equal(tokens.ids, before) and found is None
    assert result.ids.dtype == torch.int64 and result.ids.shape == before.shape
    assert 0 <= int(result.ids.min()) <= int(result.ids.max()) < CODES
    assert result.changed.any()


def test_a_seed_says_it_all(model, instruction):
    tokens, state = model.encode_image(picture()), torch.get_rng_state()
    runs = [model.sample(tokens, instruction, replace(QUICK, seed=s))[0].ids for s in (5, 5, 6)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(state, torch.get_rng_state())


def test_noise_may_be_given(model, instruction):
    tokens = model.encode_image(picture())
    own, _ = model.sample(tokens, instruction, replace(QUICK, seed=4))
    given, _ = model.sample(tokens, instruction, QUICK, noise=ItemNoise([4]))
    assert torch.equal(own.ids, given.ids)
    race = replace(QUICK, draw="race")
    noise = [SharedNoise(torch.Generator().manual_seed(4)) for _ in range(2)]
    first, second = (model.sample(tokens, instruction, race, noise=n)[0] for n in noise)
    assert torch.equal(first.ids, second.ids)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("rule", ["proposal", "restore"])
def test_an_item_does_not_depend_on_its_batch(model, guidance, rule):
    prompts, seeds = [PROMPT, OTHER, PROMPT], (11, 5, 8)
    images, region = picture(batch=3), torch.rand(3, 64, 64).round()
    options = SamplingOptions(
        steps=4, guidance=guidance, threshold=0.3, hold_rule=rule, seed=seeds, strength=1.3
    )
    whole = model.edit(images, prompts, options=options, region=region)
    for k in range(3):
        one = slice(k, k + 1)
        alone = model.edit(
            images[one], prompts[k], options=replace(options, seed=seeds[k]), region=region[one]
        )
        assert torch.equal(alone.tokens.ids, whole.tokens.ids[one]), f"item {k}"
        assert torch.equal(alone.image, whole.image[one])


def test_seeds_count_up_in_a_batch(model, instruction):
    images = picture().expand(3, -1, -1, -1)
    whole, _ = model.sample(model.encode_image(images), instruction, replace(QUICK, seed=7))
    for k in range(3):
        options = replace(QUICK, seed=7 + k)
        alone, _ = model.sample(model.encode_image(images[:1]), instruction, options)
        assert torch.equal(alone.ids, whole.ids[k : k + 1])
    with pytest.raises(InputError, match="2 entries for 3 items"):
        model.sample(model.encode_image(images), instruction, replace(QUICK, seed=(1, 2)))


def test_prompts_are_one_or_as_many_as_pictures(model):
    with pytest.raises(InputError, match="2 prompts for 3 pictures"):
        model.edit(picture(batch=3), [PROMPT, OTHER])


def test_a_callback_sees_the_run(model, instruction):
    tokens, events = model.encode_image(picture()), []
    options = replace(QUICK, steps=5, threshold=0.3)
    result, _ = model.sample(tokens, instruction, options, callback=events.append)
    assert [(e.step, e.steps) for e in events] == [(k, 5) for k in range(5)]
    for e in events:
        assert e.ids.shape == e.proposal.shape == e.held.shape == e.pending.shape == (1, 4, 4)
        assert torch.equal(e.pending, e.ids == model.transformer.config.mask_token_id)
        assert int(e.proposal.max()) < CODES
        assert torch.equal(e.proposal[~e.pending], e.ids[~e.pending])
        assert len(repr(e)) < 100
    pending = [int(e.pending.sum()) for e in events]
    assert pending == sorted(pending, reverse=True) and pending[-1] == 0
    assert torch.equal(events[-1].ids, result.ids)


def test_a_callback_cancels(model):
    seen = []

    def stop(event):
        seen.append(event.step)
        return event.step < 1

    with pytest.raises(Cancelled, match="step 2 of 3"):
        model.edit(picture(), PROMPT, options=QUICK, callback=stop)
    assert seen == [0, 1]

    def cancel(event):
        raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        model.edit(picture(), PROMPT, options=QUICK, callback=cancel)
    with pytest.raises(ZeroDivisionError):
        model.edit(picture(), PROMPT, options=QUICK, callback=lambda event: 1 / 0)


def test_edits_chain_on_tokens(model, instruction, monkeypatch):
    """Nothing is encoded again between two edits, and one decode knows all that changed."""
    source = picture(60, 90)
    tokens = model.encode_image(source)
    second_prompt = model.encode_instruction(OTHER)

    def refuse(*_):
        raise AssertionError("the picture was encoded again")

    monkeypatch.setattr(VQModel, "encode", refuse)
    left, right = torch.zeros(2, 1, 60, 90)
    left[..., :20], right[..., -20:] = 1, 1
    first, _ = model.sample(tokens, instruction, replace(QUICK, seed=1), region=left)
    second, _ = model.sample(first, second_prompt, replace(QUICK, seed=2), region=right)
    assert second.source_ids is tokens.source_ids and second.canvas is tokens.canvas
    in_left = project_mask(left, tokens.canvas)
    assert torch.equal(second.ids[in_left], first.ids[in_left])
    assert (second.changed & in_left).any() and (second.changed & ~in_left).any()
    decoded = model.decode(second)
    assert torch.equal(decoded.image[~decoded.changed], source[~decoded.changed])


def test_the_reference_of_a_chained_edit_is_the_edited_picture(model, instruction, monkeypatch):
    tokens = model.encode_image(picture())
    first, _ = model.sample(tokens, instruction, QUICK)
    seen, prepare = [], MaskedTransformer.prepare

    def spied(self, *given):
        seen.append(given[5])
        return prepare(self, *given)

    monkeypatch.setattr(MaskedTransformer, "prepare", spied)
    model.sample(first, instruction, QUICK)
    assert all(torch.equal(half, first.ids[0]) for half in seen[0])


# Stage 4: what may change


@pytest.mark.parametrize("fit_options", ["pad", "native", "crop"])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_outside_the_region_no_token_changes(model, instruction, fit_options, threshold):
    region = corner(72, 100)
    tokens = model.encode_image(picture(72, 100), fit_options, region)
    options = replace(QUICK, threshold=threshold)
    result, _ = model.sample(tokens, instruction, options, region=region)
    assert not (result.changed & ~project_mask(region, tokens.canvas)).any()


def test_region_and_relevance_meet_or_add_up(model, instruction):
    tokens, top = model.encode_image(picture()), torch.zeros(1, 64, 64)
    top[:, :32] = 1
    rows = torch.zeros(1, 4, 4, dtype=torch.bool)
    rows[:, :2] = True
    relevant = left_half().bool()
    options, events = replace(QUICK, threshold=0.5, hold_rule="restore", steps=4), []
    for combine, allowed in (("intersection", rows & relevant), ("union", rows | relevant)):
        result, _ = model.sample(
            tokens, instruction, options, localization=ready(left_half()), region=top,
            combine=combine, callback=events.append,
        )  # fmt: skip
        assert not (result.changed & ~allowed).any(), combine
        assert (result.changed & allowed).sum() > allowed.sum() // 2, combine
        if combine == "union":
            assert torch.equal(events[-1].held, ~allowed)
    with pytest.raises(InputError, match="'either'.*'union'"):
        model.sample(tokens, instruction, options, combine="either")


def test_union_with_nothing_read_off_is_the_region(model, instruction):
    tokens, region = model.encode_image(picture()), corner(64, 64)
    for localization in (None, LocalizationOptions()):
        result, _ = model.sample(
            tokens, instruction, QUICK, region=region, combine="union", localization=localization
        )
        assert not (result.changed & ~project_mask(region, tokens.canvas)).any()


@pytest.mark.parametrize("rule", ["restore", "proposal"])
def test_a_ready_map_is_used_as_it_is(model, instruction, rule):
    tokens, events = model.encode_image(picture()), []
    options = replace(QUICK, threshold=0.5, hold_rule=rule, steps=4)
    given = ready(left_half())
    result, found = model.sample(
        tokens, instruction, options, localization=given, callback=events.append
    )
    assert torch.equal(found.relevance, given.relevance)
    assert all(torch.equal(e.held, ~left_half().bool()) for e in events)
    # The right half is held. Here every held token is masked when first proposed, so both keep it.
    assert not result.changed[:, :, 2:].any()
    assert result.changed[:, :, :2].any()


def test_one_ready_map_serves_a_batch(model, instruction):
    tokens, options = model.encode_image(picture(batch=2)), replace(QUICK, threshold=0.5)
    one, found = model.sample(tokens, instruction, options, localization=ready(left_half()))
    two, _ = model.sample(tokens, instruction, options, localization=ready(left_half(2)))
    assert torch.equal(one.ids, two.ids) and found.relevance.shape == (2, 4, 4)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 4, 2), (4, 4)])
def test_a_map_of_other_pictures_is_refused(model, instruction, shape):
    tokens, options = model.encode_image(picture(batch=2)), replace(QUICK, threshold=0.5)
    with pytest.raises(InputError, match=r"map is .*tokens are \(2, 4, 4\)"):
        model.sample(tokens, instruction, options, localization=ready(torch.zeros(shape)))


def test_a_map_to_be_read_anew_lends_its_options(model, instruction):
    tokens, options = model.encode_image(picture()), replace(QUICK, threshold=0.4)
    how = LocalizationOptions(layers=(1, 1), filter="none")
    stale = Localization(torch.zeros(1, 2, 2), how)
    by_map, found = model.sample(tokens, instruction, options, localization=stale)
    by_options, _ = model.sample(tokens, instruction, options, localization=how)
    assert torch.equal(by_map.ids, by_options.ids) and found.options == how
    assert not torch.equal(found.relevance, stale.relevance)


def test_update_once_reads_one_map(model, instruction, monkeypatch):
    tokens, events, reads = model.encode_image(picture()), [], []
    options = replace(QUICK, threshold=0.4, steps=4)
    once = LocalizationOptions(update="once", filter="none")
    step = MaskedTransformer.step

    def spied(self, *given, **named):
        reads.append(list(given[3].probed))
        return step(self, *given, **named)

    monkeypatch.setattr(MaskedTransformer, "step", spied)
    direct, found = model.sample(
        tokens, instruction, options, localization=once, callback=events.append
    )
    assert [bool(r) for r in reads] == [True, False, False, False, False]
    assert all(torch.equal(e.held, events[0].held) for e in events)
    whole = model.edit(picture(), PROMPT, options=options, localization=once)
    assert torch.equal(whole.tokens.ids, direct.ids)
    read = model.localize(tokens, instruction, once, options)
    ahead, _ = model.sample(tokens, instruction, options, localization=read)
    assert torch.equal(ahead.ids, direct.ids)
    assert torch.equal(found.relevance, read.relevance)


def test_at_threshold_one_restoring_changes_nothing(model, instruction):
    source = picture(70, 50, batch=2)
    options = replace(QUICK, threshold=1.0, hold_rule="restore")
    result = model.edit(source, PROMPT, options=options)
    assert not result.tokens.changed.any() and not result.changed.any()
    assert torch.equal(result.image, source)


def test_nothing_to_hold_needs_no_map(model, instruction, monkeypatch):
    monkeypatch.setattr("editmgt_lib.sampling.predictor.consolidate", lambda *_: 1 / 0)
    tokens = model.encode_image(picture())
    _, found = model.sample(tokens, instruction, QUICK)
    assert found is None


def test_keeping_parts_needs_a_picture(model, instruction):
    blank = model.blank_tokens()
    with pytest.raises(InputError, match="threshold and region"):
        model.sample(blank, instruction, replace(QUICK, threshold=0.1))
    with pytest.raises(InputError, match="threshold and region"):
        model.sample(blank, instruction, QUICK, region=corner(64, 64))


def test_masks_that_do_not_fit_name_both_sizes(model):
    with pytest.raises(InputError, match="32x48.*64x80"):
        model.edit(picture(64, 80), PROMPT, region=torch.ones(1, 32, 48))
    with pytest.raises(InputError, match="2 masks for 3 pictures"):
        model.edit(picture(64, 80, batch=3), PROMPT, region=torch.ones(2, 64, 80))
    with pytest.raises(InputError, match=r"\(64, 80\)"):
        model.edit(picture(64, 80), PROMPT, region=torch.ones(64, 80))
    with pytest.raises(InputError, match=r"item \[1\].*no pixel"):
        region = torch.stack([torch.ones(64, 80), torch.zeros(64, 80)])
        model.edit(picture(64, 80, batch=2), PROMPT, region=region)


# Stage 5: pixels


@pytest.mark.parametrize("fit_options", ["pad", "native", "crop"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("feather", [0.0, 5.0])
def test_the_rest_of_the_picture_is_equal_bit_for_bit(model, fit_options, channels, feather):
    source, region = picture(150, 100, channels=channels), corner(150, 100)
    result = model.edit(
        source, PROMPT, fit_options=fit_options, region=region, options=QUICK, feather=feather
    )
    colours = source[..., :3].expand(-1, -1, -1, 3)
    assert result.image.shape == (1, 150, 100, max(channels, 3))
    assert result.image.dtype == torch.float32
    assert 0 < result.changed.float().mean() < 1
    assert torch.equal(result.image[..., :3][~result.changed], colours[~result.changed])
    if channels == 4:
        assert torch.equal(result.image[..., 3], source[..., 3])
    assert not torch.equal(result.image[..., :3][result.changed], colours[result.changed])
    tokens = result.tokens
    allowed = support(project_mask(region, tokens.canvas), tokens.canvas, 1)
    assert not (result.changed & ~allowed).any()


def test_an_untouched_picture_comes_back_as_it_was(model):
    source = picture(61, 47)
    decoded = model.decode(model.encode_image(source))
    assert torch.equal(decoded.image, source) and not decoded.changed.any()


def test_growth_widens_the_support(model, instruction):
    source, region = picture(), corner(64, 64)
    tokens, _ = model.sample(model.encode_image(source), instruction, QUICK, region=region)
    areas = [model.decode(tokens, grow=grow).changed for grow in (0, 1, 2)]
    counts = [int(area.sum()) for area in areas]
    assert 0 < counts[0] < counts[1] < counts[2]
    for name, value in (("grow", -1), ("feather", -1.0), ("feather", float("nan"))):
        with pytest.raises(InputError, match=name):
            model.decode(tokens, **{name: value})


def test_tokens_still_masked_cannot_be_decoded(model):
    with pytest.raises(InputError, match="mask tokens have no code"):
        model.decode(model.blank_tokens())


# All in a row


def test_edit_is_the_stages_in_a_row(model):
    source, region = picture(80, 50), corner(80, 50, 0.4)
    options = replace(QUICK, threshold=0.3, seed=3)
    how = LocalizationOptions(rows="content")
    result = model.edit(
        source, PROMPT, negative="low", options=options, localization=how, region=region,
        combine="union", feather=3,
    )  # fmt: skip
    tokens = model.encode_image(source)
    instruction = model.encode_instruction(PROMPT, "low")
    edited, found = model.sample(
        tokens, instruction, options, localization=how, region=region, combine="union"
    )
    decoded = model.decode(edited, feather=3)
    assert torch.equal(result.image, decoded.image)
    assert torch.equal(result.changed, decoded.changed)
    assert torch.equal(result.tokens.ids, edited.ids)
    assert torch.equal(result.localization.relevance, found.relevance)


def test_inputs_are_never_written_to(model):
    source, region = picture(70, 90, batch=2, channels=4), corner(70, 90, 0.5)
    instruction = model.encode_instruction(PROMPT)
    given = ready(left_half())
    watched = [source, region, given.relevance, instruction.states, instruction.negative_pooled]
    before = [tensor.clone() for tensor in watched]
    options = replace(QUICK, threshold=0.5, hold_rule="restore")
    model.edit(source, PROMPT, options=options, localization=given, region=region, feather=2)
    tokens = model.encode_image(source)
    model.localize(tokens, instruction)
    model.decode(model.sample(tokens, instruction, options, region=region)[0])
    assert all(torch.equal(a, b) for a, b in zip(watched, before, strict=True))


def test_the_result_is_no_view_of_the_picture(model):
    source = picture()
    image = model.decode(model.encode_image(source)).image
    image.zero_()
    assert source.any()


def test_half_precision_and_byte_pictures(model):
    source = picture()
    half = model.edit(source.half(), PROMPT, options=QUICK, region=corner(64, 64))
    assert torch.equal(half.image[~half.changed], source.half().float()[~half.changed])
    bytes_ = (source * 255).to(torch.uint8)
    whole = model.edit(bytes_, PROMPT, options=QUICK, region=corner(64, 64))
    assert torch.equal(whole.image[~whole.changed], (bytes_.float() / 255)[~whole.changed])


# Text to image


def test_generate(model):
    one = model.generate(PROMPT, options=QUICK)
    assert one.shape == (1, 64, 64, 3) and torch.isfinite(one).all()
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    assert torch.equal(one, model.generate(PROMPT, options=QUICK))
    both = model.generate([PROMPT, OTHER], options=QUICK, size=(32, 96))
    assert both.shape == (2, 32, 96, 3)
    assert torch.equal(both[:1], model.generate(PROMPT, options=QUICK, size=(32, 96)))


def test_generate_holds_nothing_and_can_be_cancelled(model):
    held = replace(QUICK, threshold=0.5)
    assert torch.equal(model.generate(PROMPT, options=held), model.generate(PROMPT, options=QUICK))
    with pytest.raises(Cancelled):
        model.generate(PROMPT, options=QUICK, callback=lambda event: False)
    with pytest.raises(InputError, match="width is 40.*32"):
        model.generate(PROMPT, size=(64, 40))


# Full devices


def full_gpu(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def full_host(*_, **__):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 99 bytes")


@pytest.mark.parametrize("full", [full_gpu, full_host])
@pytest.mark.parametrize(
    ("where", "method", "message"),
    [
        (VQModel, "encode", "tokenizing; use a smaller"),
        (MaskedTransformer, "step", "sampling; use.*bfloat16"),
        (VQModel, "quantize_ids", "tokenizing"),
    ],
)
def test_a_full_device_says_what_to_lower(model, monkeypatch, full, where, method, message):
    monkeypatch.setattr(where, method, full)
    with pytest.raises(OutOfMemory, match=f"out of memory while {message}") as caught:
        model.edit(picture(), PROMPT, options=QUICK)
    assert isinstance(caught.value, MemoryError) and caught.value.__cause__ is not None


def test_a_full_device_while_preparing(model, instruction, monkeypatch):
    tokens = model.encode_image(picture())
    monkeypatch.setattr(MaskedTransformer, "prepare", full_gpu)
    with pytest.raises(OutOfMemory, match="sampling"):
        model.sample(tokens, instruction, QUICK)
    with pytest.raises(OutOfMemory, match="localising"):
        model.localize(tokens, instruction)


def test_decoding_falls_back_to_bands(model, monkeypatch):
    source = picture(64, 64)
    tokens = model.edit(source, PROMPT, options=QUICK).tokens
    expected = model.decode(tokens)
    monkeypatch.setattr(VQModel, "decode", full_gpu)
    tiled = model.decode(tokens)
    torch.testing.assert_close(tiled.image, expected.image, rtol=0, atol=1e-5)
    monkeypatch.setattr(VQModel, "decode_tiled", full_gpu)
    with pytest.raises(OutOfMemory, match="decoding; use a smaller picture"):
        model.decode(tokens)


def test_other_errors_pass_through(model, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(MaskedTransformer, "step", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        model.edit(picture(), PROMPT, options=QUICK)


# Short texts


def test_reprs_are_short(model, instruction):
    source = picture(batch=2)
    result = model.edit(source, PROMPT, options=replace(QUICK, threshold=0.2))
    tokens = result.tokens
    things = [model, instruction, tokens, tokens.canvas, result, result.localization]
    things += [model.decode(tokens), model.encode_instruction([PROMPT, OTHER])]
    for thing in things:
        text = repr(thing)
        assert len(text) < 400 and "tensor(" not in text, text
    assert repr(result).startswith("EditResult") and "%" in repr(result)


def test_a_saved_instruction_edits_alike(model, instruction, tmp_path):
    instruction.save(tmp_path / "prompt.safetensors")
    loaded = Instruction.load(tmp_path / "prompt.safetensors")
    tokens = model.encode_image(picture())
    ours, _ = model.sample(tokens, instruction, QUICK)
    theirs, _ = model.sample(tokens, loaded, QUICK)
    assert torch.equal(ours.ids, theirs.ids)


# What a user is promised


@pytest.fixture(scope="module")
def toy():
    return load("toyworld", device="cpu")


@pytest.fixture(scope="module")
def toy_pictures():
    pairs = [world.pair_at(3, k, True, "color") for k in range(3)]
    pixels = torch.stack([torch.from_numpy(world.render(p.source, 128)) for p in pairs])
    return pixels.float() / 255, [p.instruction for p in pairs]


def test_a_picture_and_seed_give_the_same_tokens_in_any_batch(toy, toy_pictures):
    """On the shipped checkpoint: its logits do move with the batch that they are computed in."""
    pictures, texts = toy_pictures
    how = {"steps": 6, "guidance": 3.0, "threshold": 0.1, "strength": 1.1}
    whole = toy.edit(pictures, texts, seed=(5, 6, 7), **how)
    for k, seed in enumerate((5, 6, 7)):
        alone = toy.edit(pictures[k : k + 1], texts[k], seed=seed, **how)
        assert torch.equal(alone.tokens.ids, whole.tokens.ids[k : k + 1])
        assert torch.equal(alone.image, whole.image[k : k + 1])
        maps = alone.localization.relevance, whole.localization.relevance[k : k + 1]
        assert torch.equal(*maps)


def test_a_batch_can_go_through_the_network_together(toy, toy_pictures, monkeypatch):
    pictures, texts = toy_pictures
    sizes, step = [], MaskedTransformer.step

    def spied(self, ids, *more):
        sizes.append(len(ids))
        return step(self, ids, *more)

    monkeypatch.setattr(MaskedTransformer, "step", spied)
    together = toy.edit(pictures, texts, seed=5, steps=2, guidance=1.0, batched=True)
    assert sizes == [3, 3]
    each = toy.edit(pictures, texts, seed=5, steps=2, guidance=1.0)
    assert sizes == [3, 3] + [1] * 6
    # Rounding may turn a token over, not more.
    assert float((together.tokens.ids == each.tokens.ids).float().mean()) > 0.95


def test_options_override_the_checkpoints_own_one_by_one(tiny_copy):
    settings = json.loads((tiny_copy / "editmgt.json").read_text())
    settings["sampling"] |= {"steps": 5, "guidance": 1.0, "hold_rule": "restore"}
    (tiny_copy / "editmgt.json").write_text(json.dumps(settings))
    model, events = load(tiny_copy, device="cpu"), []
    model.edit(picture(), PROMPT, seed=3, threshold=0.2, callback=events.append)
    assert [e.steps for e in events] == [5] * 5
    changed = model.settings.override(seed=3, words=("red",), steps=None)
    assert changed.sampling == replace(model.settings.sampling, seed=3)
    assert changed.localization.words == ("red",)
    with pytest.raises(InputError, match="unknown option cfg; use one of steps, guidance"):
        model.edit(picture(), PROMPT, cfg=3)


def test_a_whole_set_of_options_can_be_given_and_overridden(model):
    one = model.edit(picture(), PROMPT, options=QUICK, seed=9)
    other = model.edit(picture(), PROMPT, options=replace(QUICK, seed=9))
    assert torch.equal(one.tokens.ids, other.tokens.ids)


def test_generate_takes_options_one_by_one(model):
    assert torch.equal(
        model.generate("a red heart", seed=4, steps=2),
        model.generate("a red heart", options=replace(model.settings.sampling, seed=4, steps=2)),
    )


def test_padding_is_held(model, instruction):
    """A picture half as high as its canvas: the tokens above and below it are not drawn anew."""
    tokens = model.encode_image(picture(20, 64))
    assert tokens.canvas.covered.any(2).tolist() == [[False, True, True, False]]
    events = []
    result, _ = model.sample(tokens, instruction, QUICK, callback=events.append)
    assert not (result.changed & ~tokens.canvas.covered).any()
    assert all(not (e.pending & ~tokens.canvas.covered).any() for e in events)


def test_the_last_event_comes_though_all_tokens_were_known_before(model, instruction):
    region = torch.zeros(1, 64, 64)
    region[:, :8, :8] = 1  # one token: drawn in the last step at the latest
    tokens, events = model.encode_image(picture()), []
    options = replace(QUICK, steps=40)
    model.sample(tokens, instruction, options, region=region, callback=events.append)
    assert [e.step for e in events][-1] == 39 and not events[-1].pending.any()


def test_an_edit_that_changes_nothing_says_so(model):
    result = model.edit(picture(batch=2), PROMPT, options=replace(QUICK, threshold=1.0))
    assert not result.changed.any()
    assert any("nothing changed (picture 0, 1)" in note for note in result.notes)
    assert not model.edit(picture(), PROMPT, options=QUICK).notes


def test_no_map_is_read_where_nothing_is_held(model, instruction, monkeypatch):
    """A ready map that says it wants to be read anew is passed through at threshold 0."""
    tokens = model.encode_image(picture())
    given = model.localize(tokens, instruction)
    monkeypatch.setattr("editmgt_lib.sampling.predictor.consolidate", lambda *_: 1 / 0)
    _, last = model.sample(tokens, instruction, QUICK, localization=given)
    assert torch.equal(last.relevance, given.relevance)


def test_a_picture_of_another_kind_gets_a_note(toy, toy_pictures):
    pictures, texts = toy_pictures
    assert not toy.encode_image(pictures).notes
    across = torch.linspace(0, 1, 128).expand(1, 128, 128)[..., None]
    photo = across.expand(-1, -1, -1, 3)
    (note,) = toy.encode_image(torch.cat([pictures[:1], photo])).notes
    assert "does not know pictures like this one (picture 1)" in note
    assert note in toy.edit(torch.cat([pictures[:1], photo]), texts[0], steps=1).notes


def test_guidance_and_the_codebook_projection_are_computed_in_float32(tiny_checkpoint, instruction):
    """In a bfloat16 model too, where rounding them costs most of what the rest leaves."""
    model = load(tiny_checkpoint, device="cpu", dtype="bfloat16")
    tokens = model.encode_image(picture())
    masked = torch.full_like(tokens.ids, model.transformer.config.mask_token_id)
    predictor = Predictor(model.transformer, tokens, instruction, QUICK)
    logits, _ = predictor(masked, 0)
    features = predictor.predict(masked, 0).features
    assert features.dtype == torch.bfloat16 and logits.dtype == torch.float32
    negative, positive = features.double().flatten(1, 2)
    whole = load(tiny_checkpoint, device="cpu").transformer.mlm_layer.conv2.weight
    guided = negative + QUICK.guidance * (positive - negative)
    expected = guided @ whole.double().flatten(1).T
    assert float((logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_only_guidance_needs_the_negative_prompt(model, monkeypatch):
    asked, encode = [], type(model.text_encoders).encode

    def watched(self, *given):
        asked.append(given[-1])
        return encode(self, *given)

    monkeypatch.setattr(type(model.text_encoders), "encode", watched)
    for guidance in (1.0, 2.0):
        model.edit(picture(), PROMPT, steps=2, guidance=guidance)
        model.generate(PROMPT, steps=2, guidance=guidance)
    assert asked == [False, False, True, True]
    plain = model.encode_instruction(PROMPT, guided=False)
    tokens = model.encode_image(picture())
    alone, _ = model.sample(tokens, plain, SamplingOptions(steps=2, guidance=1.0))
    whole, _ = model.sample(
        tokens, model.encode_instruction(PROMPT), SamplingOptions(steps=2, guidance=1.0)
    )
    assert torch.equal(alone.ids, whole.ids)
    with pytest.raises(InputError, match="guidance is 2, but.*without its negative prompt"):
        model.sample(tokens, plain, QUICK)
