"""Evaluation: the strict criterion, the figures, whole runs on a tiny model and on an oracle."""

import dataclasses
import json
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editmgt_lib.errors import InputError
from editmgt_lib.evaluation import (
    EvaluationOptions,
    contact_sheet,
    draw_curve,
    evaluate,
    layers,
    metrics,
    save_picture,
)
from editmgt_lib.evaluation import batches as batching
from editmgt_lib.evaluation.report.toyworld_sweep import Sweep, SweepPoint
from editmgt_lib.localization.maps import Localization
from editmgt_lib.models.config import TransformerConfig
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.models.vq import VQConfig, VQModel
from editmgt_lib.pictures.fitting import Tokens
from editmgt_lib.pipeline import EditMGT
from editmgt_lib.sampling.loop import StepEvent
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.settings import Settings
from editmgt_lib.toyworld import language, success
from editmgt_lib.toyworld.atlas import atlas
from editmgt_lib.toyworld.drawing import ground, sprite
from editmgt_lib.toyworld.success import judge
from editmgt_lib.toyworld.text_encoders import build_text_encoders
from editmgt_lib.toyworld.world import (
    BACKGROUNDS,
    CATEGORIES,
    COLORS,
    SHAPES,
    STYLES,
    EditPair,
    Scene,
    Thing,
    change_mask,
    pair_at,
    render,
    slot_box,
)

SIZE = 64
PAIRS = [pair_at(11, i, True, CATEGORIES[i % 7]) for i in range(20 * 7)]


def shown(scene: Scene, size: int = SIZE) -> np.ndarray:
    return render(scene, size).astype(np.float32) / 255


def with_things(scene: Scene, things) -> Scene:
    return dataclasses.replace(scene, things=tuple(sorted(things, key=lambda t: t.slot)))


def edit_succeeded(picture, pair: EditPair) -> bool:
    return judge(picture, pair).succeeded


def reason(verdict) -> str:
    return "; ".join(map(str, verdict.faults))


def other(names, used):
    return next(name for name in names if name != used)


def blurred(picture: np.ndarray) -> np.ndarray:
    """What a tokenizer does to a picture: soft edges, a slight shift of colour, some noise."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = [padded[y : y + len(picture), x : x + len(picture)] for y in (0, 2) for x in (0, 2)]
    soft = 0.8 * picture + 0.2 * np.mean(around, 0)
    noise = np.random.default_rng(0).normal(0, 0.01, picture.shape)
    return np.clip(soft + noise + 0.01, 0, 1).astype(np.float32)


# --- the criterion ---


@pytest.mark.parametrize("size", [64, 128])
def test_the_target_succeeds_even_softened(size):
    for pair in PAIRS if size == SIZE else PAIRS[:21]:
        verdict = judge(shown(pair.target, size), pair)
        assert verdict.succeeded, (pair, verdict)
        # The smallest size has one pixel lines: only larger ones survive blur.
        if size > SIZE:
            assert edit_succeeded(blurred(shown(pair.target, size)), pair), pair


def test_tensors_are_taken_too():
    assert edit_succeeded(torch.from_numpy(shown(PAIRS[0].target)), PAIRS[0])


def test_the_unedited_source_fails():
    for pair in PAIRS:
        faults = judge(shown(pair.source), pair).faults
        assert faults, pair
        if pair.category in ("add", "replace", "remove", "color", "motion"):
            assert {fault.kind for fault in faults} == {"edited"}
        if pair.category == "background":
            assert "ground" in {fault.kind for fault in faults}


def test_black_on_snow_is_no_silhouette():
    # The pair whose source and target look most alike.
    scene = Scene((Thing("heart", "black", 4),), "snow")
    target = dataclasses.replace(scene, style="silhouette")
    pair = EditPair("style", "make it a silhouette", ("silhouette",), scene, target)
    for size in (64, 128):
        assert not edit_succeeded(shown(scene, size), pair)
        assert edit_succeeded(shown(target, size), pair)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_blank_picture_fails(level):
    for pair in PAIRS:
        assert not edit_succeeded(np.full((SIZE, SIZE, 3), level, np.float32), pair)


def test_the_empty_background_of_the_target_fails():
    for pair in PAIRS:
        if pair.target.things:
            assert not edit_succeeded(shown(with_things(pair.target, ())), pair)


def spoiled(pair: EditPair) -> list[tuple[str, Scene]]:
    """The target with one bystander gone, or of another colour, shape or place."""
    bystanders = [thing for thing in pair.target.things if thing in pair.source.things]
    if not bystanders:
        return []
    thing, target = bystanders[0], pair.target
    rest = [t for t in target.things if t != thing]
    changes = {
        "removed": None,
        "other shape": dataclasses.replace(thing, shape=other(SHAPES, thing.shape)),
        "moved": dataclasses.replace(thing, slot=target.free_slots[0]),
    }
    if target.style == "plain":
        recolored = dataclasses.replace(thing, color=other(COLORS, thing.color))
        changes["other colour"] = recolored
    return [
        (name, with_things(target, [*rest, new] if new else rest)) for name, new in changes.items()
    ]


def test_a_spoiled_bystander_fails():
    seen = set()
    for pair in PAIRS:
        for name, scene in spoiled(pair):
            faults = judge(shown(scene), pair).faults
            assert "bystander" in {fault.kind for fault in faults}, (name, pair)
            seen.add((pair.category, name))
    kinds = {"removed", "other shape", "moved", "other colour"}
    assert {name for _, name in seen} == kinds
    assert {category for category, _ in seen} == set(CATEGORIES)


def test_any_variant_of_the_ground_will_do():
    for pair in PAIRS[:35]:
        other_texture = dataclasses.replace(pair.target, texture=pair.target.texture ^ 1)
        assert edit_succeeded(shown(other_texture), pair)
        changed, found = change_mask(pair, SIZE), shown(other_texture)
        outside = metrics.outside_error(found, shown(pair.source), changed)
        exact = metrics.outside_error(shown(pair.target), shown(pair.source), changed)
        assert pair.category in ("background", "style") or exact.mean == 0 < outside.mean


def test_every_confusion_of_two_objects_is_seen():
    for wanted in SHAPES:
        scene = Scene((Thing(wanted, "red", 0),), "snow")
        pair = EditPair("add", "add it", (), Scene((), "snow"), scene)
        others = {(shape, "red") for shape in SHAPES} | {(wanted, color) for color in COLORS}
        for shape, color in others:
            found = Scene((Thing(shape, color, 0),), "snow")
            assert edit_succeeded(shown(found), pair) == (found == scene)


def test_an_invented_object_fails():
    for pair in PAIRS[:70]:
        new = Thing("star", "green", pair.target.free_slots[-1])
        picture = shown(with_things(pair.target, [*pair.target.things, new]))
        assert not edit_succeeded(picture, pair)


def test_a_wrong_background_or_style_fails():
    for pair in PAIRS[:70]:
        target = pair.target
        for background in BACKGROUNDS if target.style == "plain" else ():
            found = dataclasses.replace(target, background=background)
            assert edit_succeeded(shown(found), pair) == (background == target.background)
        for style in STYLES:
            found = dataclasses.replace(target, style=style)
            assert edit_succeeded(shown(found), pair) == (style == target.style)


def test_one_wrong_cell_fails_wherever_it_is():
    pair = next(p for p in PAIRS if p.category == "add")
    picture, step = shown(pair.target), SIZE // 16
    for row, col in [(0, 0), (5, 5), (15, 15), (4, 9), (11, 2)]:
        y, x = row * step, col * step
        broken = picture.copy()
        broken[y : y + step, x : x + step] = 1 - broken[y : y + step, x : x + step]
        assert not edit_succeeded(broken, pair), (row, col)


def test_one_cell_of_another_background_is_beyond_the_bound():
    grounds = [ground(name, "plain", 256) / 255 for name in BACKGROUNDS]
    grounds += [ground("snow", name, 256) / 255 for name in STYLES[1:]]
    for first, second in combinations(grounds, 2):
        errors = [np.sqrt(np.mean((a - b) ** 2)) for a, b in product(first, second)]
        assert min(errors) > success.GROUND_CELL_ERROR or max(errors) < 1e-6


def test_half_an_object_fails():
    for pair in PAIRS[:35]:
        if not pair.target.things:
            continue
        y0, _, x0, x1 = slot_box(pair.target.things[0].slot, SIZE)
        half = slice(y0, y0 + (x1 - x0) // 2), slice(x0, x1)
        broken = shown(pair.target)
        broken[half] = shown(with_things(pair.target, ()))[half]
        assert not edit_succeeded(broken, pair)


def test_the_reason_names_place_and_finding():
    scene = Scene((Thing("star", "red", 0),), "snow")
    pair = EditPair("color", "make it blue", (), scene, Scene((Thing("star", "blue", 0),), "snow"))
    assert reason(judge(shown(scene), pair)) == (
        "top left: blue star on snow expected, found red star on snow"
    )


def test_looks_are_apart_or_alike():
    drawn = [sprite(look.shape, look.color or "red", look.background or "snow", look.style, SIZE)
             for look in atlas(SIZE).things]  # fmt: skip
    pixels = np.stack([picture.ravel() for picture in drawn]) / np.float32(255)
    for one in pixels[::7]:
        errors = ((pixels - one) ** 2).mean(1)
        assert not ((errors > 1e-5) & (errors < 4e-4)).any(), errors[errors > 1e-5].min()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((64, 64)), r"shape \(64, 64\)"),
        (np.zeros((64, 32, 3)), "square"),
        (np.zeros((60, 60, 3)), "size is 60"),
        (np.full((64, 64, 3), np.nan), "NaN"),
    ],
)
def test_a_picture_that_cannot_be_judged_is_refused(picture, message):
    with pytest.raises(InputError, match=message):
        judge(picture, PAIRS[0])


def test_the_shipped_tokenizer_passes_its_own_targets():
    import editmgt_lib

    model = editmgt_lib.load("toyworld", text=False)
    pairs = PAIRS[:28]
    assert {p.target.style for p in pairs} >= {"plain", "blueprint"}
    for pair in pairs:
        pixels = torch.from_numpy(shown(pair.target, model.settings.resolution))
        pixels = pixels.permute(2, 0, 1)[None]
        again = model.vq.decode(model.vq.encode(pixels)).clamp(0, 1)[0].permute(1, 2, 0)
        assert edit_succeeded(again.detach(), pair), pair


# --- figures ---


def test_outside_error_looks_outside_only():
    source, result = np.zeros((4, 4, 3)), np.zeros((4, 4, 3))
    changed = np.zeros((4, 4), bool)
    changed[:2] = True
    result[:2] = 1.0
    assert metrics.outside_error(result, source, changed) == (0.0, 0.0)
    result[2, 0] = (0.3, 0.0, 0.0)
    result[3, 3] = (0.05, 0.05, 0.05)
    error = metrics.outside_error(result, source, changed)
    assert error.mean == pytest.approx(0.45 / 24) and error.share == 1 / 8
    assert metrics.outside_error(result, source, changed, tolerance=0.01).share == 2 / 8
    assert metrics.outside_error(result, source, np.ones((4, 4), bool)) == (None, None)
    with pytest.raises(InputError, match="size"):
        metrics.outside_error(result, source, np.ones((3, 4), bool))


def test_mask_cells_count_any_touched_pixel():
    changed = np.zeros((8, 8), bool)
    changed[3, 4] = True
    cells = metrics.mask_cells(changed, 2, 4)
    assert np.argwhere(cells).tolist() == [[0, 2]]
    with pytest.raises(InputError, match="8x8"):
        metrics.mask_cells(changed, 3, 4)


def slow_auc(scores, truth) -> float:
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]
    return float(np.mean(pairs))


def slow_best_iou(scores, truth) -> float:
    shares = []
    for threshold in scores:
        chosen = scores >= threshold
        shares.append((chosen & truth).sum() / (chosen | truth).sum())
    return max(shares)


scores_and_truth = st.lists(
    st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=24
).filter(lambda items: 0 < sum(true for _, true in items) < len(items))


@settings(max_examples=60, deadline=None)
@given(scores_and_truth)
def test_auc_and_best_iou_equal_brute_force(items):
    scores = np.array([value for value, _ in items]) / 6
    truth = np.array([true for _, true in items])
    assert metrics.auc(scores, truth) == pytest.approx(slow_auc(scores, truth), abs=1e-12)
    best, threshold = metrics.best_iou(scores, truth)
    assert best == pytest.approx(slow_best_iou(scores, truth), abs=1e-12)
    found = metrics.overlap(scores, truth, threshold)
    assert found.iou == pytest.approx(best) == found.best_iou


def test_a_mask_without_two_sides_has_no_figures():
    for truth in (np.ones((2, 2), bool), np.zeros((2, 2), bool)):
        assert metrics.overlap(np.zeros((2, 2)), truth, 0.5) == (None,) * 4


# --- options ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch": 300}, "batch is 300"),
        ({"threshold": 0}, "threshold is 0"),
        ({"threshold": 2}, "threshold is 2"),
        ({"categories": ()}, "categories is"),
        ({"categories": ("zoom",)}, "'zoom'"),
        ({"categories": ("add", "add")}, "different"),
        ({"hold_rules": ("drop",)}, "'drop'"),
        ({"thresholds": ()}, "thresholds is"),
        ({"thresholds": (0.1, 3.0)}, "thresholds is 3"),
        ({"study_samples": 0}, "study_samples is 0"),
    ],
)
def test_bad_options_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        EvaluationOptions(**values)


# --- a whole run ---


def tiny_model(kind=EditMGT) -> EditMGT:
    """Random weights; 64 px pictures of 16 x 16 tokens, 8 x 8 positions, 1 + 2 blocks."""
    codes, text = 64, 32
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vq = VQConfig(
            block_out_channels=(16,), layers_per_block=1, latent_channels=4,
            num_vq_embeddings=codes, norm_num_groups=0, patch_size=4, encoder_kernel_size=1,
        )  # fmt: skip
        config = TransformerConfig(
            num_layers=1, num_single_layers=2, num_attention_heads=2, attention_head_dim=16,
            joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
            vocab_size=codes + 8, codebook_size=codes, downsample=True, upsample=True,
            connector_type="linear",
        )  # fmt: skip
        transformer = MaskedTransformer(config).eval().requires_grad_(False)
        networks = transformer, VQModel(vq).eval().requires_grad_(False)
    encoders = build_text_encoders(language.corpus(), text_length=text, width=16, pooled=16)
    sampling = SamplingOptions(steps=2, guidance=2.0, strength=1.0)
    options = Settings(resolution=SIZE, text_length=text, negative="", sampling=sampling)
    return kind(*networks, encoders, options)


class Oracle(EditMGT):
    """Knows every pair of the seed: edits perfectly, but spoils one cell outside what is held."""

    known: dict

    def pairs(self, tokens, instruction):
        sources = (tokens.canvas.source * 255).round().byte().numpy()
        found = zip(instruction.prompt, sources, strict=True)
        return [self.known[prompt, source.tobytes()] for prompt, source in found]

    def localize(self, tokens, instruction, options=None, sampling=None):
        masks = [change_mask(pair, SIZE) for pair in self.pairs(tokens, instruction)]
        cells = np.stack([metrics.mask_cells(mask, 8, 8) for mask in masks])
        return Localization(torch.from_numpy(cells).float(), options)

    def sample(self, tokens, instruction, options=None, *, localization=None, callback=None, **_):
        held = None
        if localization is not None:
            held = localization.held(options.threshold, 16, 16)
        ids = torch.zeros_like(tokens.ids)
        for k, item in enumerate(ids):
            item_held = None if held is None else held[k : k + 1]
            callback(
                StepEvent(0, 1, item[None], item[None], item_held, item[None] < 0, k, len(ids))
            )
        done = Tokens(ids, tokens.canvas, tokens.ids)
        object.__setattr__(done, "made", (self.pairs(tokens, instruction), held))
        return done, localization

    def decode(self, tokens, **_):
        pairs, held = tokens.made
        pictures = np.stack([shown(pair.target) for pair in pairs])
        if held is None:
            pictures[:, 20:24, 36:40] = 0.5  # a cell between the slots
        return type("Decoded", (), {"image": torch.from_numpy(pictures)})


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    model = tiny_model(Oracle)
    pairs = [
        pair_at(0, batching.pair_index(c, rank), True, c) for c in CATEGORIES for rank in range(3)
    ]
    model.known = {(p.instruction, render(p.source, SIZE).tobytes()): p for p in pairs}
    return model


def test_an_oracle_gets_full_marks(oracle):
    heard = []
    options = EvaluationOptions(samples=3, threshold=0.3, rows=1)
    report = evaluate(oracle, options, lambda *event: heard.append(event))
    assert len(heard) == 4 * 21 and heard[20] == ("generate threshold=0.0", 21, 21, 0)
    assert heard[-1] == ("score threshold=0.3", 21, 21, 0)
    assert list(report.categories) == list(CATEGORIES) and len(report.rows) == 7
    for name, summary in report.categories.items():
        assert (summary.pairs, summary.success, summary.held_success) == (3, 0.0, 1.0)
        assert summary.faults == {"ground": 3} and summary.held_faults == {}
        if name not in ("background", "style"):
            assert summary.auc > 0.95 and summary.held_outside == 0 < summary.outside
    assert report.groups["local"].held_share > 0.5 > report.groups["global"].held_share
    assert set(report.groups) == {"local", "global", "all"}
    table = report.table()
    assert "| motion " in table and "lambda 0.3" in table and "all |" in table


def test_categories_do_not_share_their_sources(oracle):
    options = EvaluationOptions(samples=3)
    sources = [
        pair.source
        for batch in batching.pair_batches(oracle, options, CATEGORIES, 3)
        for pair in batch.pairs
    ]
    assert len(set(sources)) == len(sources)


@pytest.fixture(scope="module")
def tiny() -> EditMGT:
    return tiny_model()


FEW = EvaluationOptions(samples=2, categories=("add", "style"), batch=2)


@pytest.fixture(scope="module")
def full_report(tiny):
    options = dataclasses.replace(
        FEW, sweep=True, layers=True, thresholds=(0.5, 0.0), hold_rules=("proposal", "restore")
    )
    return evaluate(tiny, options)


def test_a_run_repeats_and_ignores_the_batch_size(tiny, full_report):
    again = evaluate(tiny, FEW)
    assert again == dataclasses.replace(full_report, sweep=None, layers=None)
    alone = evaluate(tiny, dataclasses.replace(FEW, batch=1))
    for one, other_ in zip(alone.results, again.results, strict=True):
        assert one.free == other_.free and one.index == other_.index


def test_a_random_model_fails_and_the_report_is_plain_json(full_report):
    assert full_report.groups["all"].success == 0
    text = json.dumps(full_report.to_dict(), allow_nan=False)
    read = json.loads(text)
    assert set(read) == {
        "setting", "categories", "groups", "seconds_per_edit", "sweep", "layers", "pairs",
    }  # fmt: skip
    assert read["categories"]["style"]["outside"] is None
    assert read["setting"]["threshold"] == 0.1 and read["seconds_per_edit"] > 0
    assert len(read["pairs"]) == 4 and read["pairs"][0]["free"]["faults"]


def test_the_sweep_has_every_point(full_report):
    sweep = full_report.sweep
    assert [(p.hold_rule, p.threshold) for p in sweep.points] == [
        ("proposal", 0.0), ("proposal", 0.5), ("restore", 0.0), ("restore", 0.5),
    ]  # fmt: skip
    off, _, also_off, restored = sweep.points
    assert dataclasses.replace(also_off, hold_rule="proposal") == off
    assert restored.local_outside < off.local_outside  # held tokens keep the source's pixels
    assert "| restore " in full_report.table()


def test_the_layers_have_every_reading(tiny, full_report):
    report = full_report.layers
    assert len(report.blocks) == 3 * 3 * 3 and len(report.ranges) == 3 * 3 * 6
    assert all(0 <= p.auc <= 1 and set(p.categories) == {"add"} for p in report.ranges)
    ranges = [p for p in report.ranges if (p.state, p.rows) == ("masked", "all")]
    best = report.best("masked", "all")
    assert best in ranges and best.auc > max(p.auc for p in ranges) - 1e-3
    assert report.default("masked", "all").first == report.default_range[0]
    assert "2 single" in report.table() and "halfway, words" in report.table()
    assert len(report.to_dict()["best_ranges"]) == 9
    nothing = dataclasses.replace(FEW, categories=("style",))
    assert layers.localization_by_layer(tiny, nothing) is None


def test_block_maps_are_those_of_the_pipeline(tiny):
    """The default reading of the table is what `localize` computes."""
    batch = next(batching.pair_batches(tiny, FEW, ("add",), 2))
    sampling = tiny.settings.sampling
    for state in ("masked", "source"):
        options = dataclasses.replace(tiny.settings.localization, state=state, filter="none")
        wanted = tiny.localize(batch.tokens, batch.instruction, options, sampling).relevance
        maps, grid = layers.block_maps(tiny, batch, state, sampling)
        first, last = full_range(tiny)
        scores = maps[first : last + 1, :, 0].mean(0)
        got = layers.consolidate(scores, grid, options).relevance
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def full_range(model):
    chosen = model.settings.localization.block_range(1, 2)
    return chosen[0], chosen[-1]


def test_words_of_each_pair_get_their_own_rows(tiny):
    batch = next(batching.pair_batches(tiny, FEW, ("motion",), 2))
    weights = torch.stack(layers.weights_of_rows(batch), dim=1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    for item, pair in enumerate(batch.pairs):
        rows = weights[item, 2].nonzero().flatten().tolist()
        words = [w.word for w in batch.instruction.rows[item] if set(w.rows) & set(rows)]
        assert set(" ".join(pair.words).split()) <= set(words)


# --- pictures ---


def test_sheet_and_curve_are_written(tmp_path, full_report):
    sheet = contact_sheet(full_report.rows)
    assert sheet.width > 800 and sheet.height > 4 * 144
    curve = draw_curve(full_report.sweep)
    assert curve.size == (1200, 400)
    save_picture(sheet, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="format"):
        save_picture(sheet, tmp_path / "sheet.what")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with pytest.raises(InputError, match="rows is empty"):
        contact_sheet(())


def test_a_curve_without_local_edits_or_error_is_drawn():
    point = SweepPoint("restore", 0.0, 1.0, None, None, None)
    other_point = dataclasses.replace(point, threshold=0.7)
    assert draw_curve(Sweep(1, (point, other_point))).size == (600, 400)
    exact = dataclasses.replace(point, outside=0.0, local_outside=0.0, local_success=1.0)
    assert draw_curve(Sweep(1, (exact,))).size == (600, 400)


def test_the_best_lambda_loses_no_success():
    def point(threshold, hit, error):
        return SweepPoint("proposal", threshold, hit, error, hit, error)

    points = (point(0.0, 0.9, 0.05), point(0.1, 0.9, 0.01), point(0.2, 0.8, 0.001))
    assert Sweep(5, points).best("proposal").threshold == 0.1


@pytest.mark.parametrize("rounding", [0.0, 1e-6, -1e-6])
def test_rounding_does_not_choose_lambda_or_layers(rounding):
    """Error and AUC differ in their last digits between processors."""
    errors = ((0.0, 0.01), (0.1, 0.001), (0.2, 0.001 + rounding))
    points = tuple(SweepPoint("proposal", at, 1.0, error, 1.0, error) for at, error in errors)
    assert Sweep(5, points).best("proposal").threshold == 0.1
    aucs = ((0, 0, 0.9), (0, 1, 0.98), (1, 1, 0.98 + rounding))
    ranges = tuple(layers.LayerPoint("masked", "all", *place, {}) for place in aucs)
    report = layers.LayerReport(5, 1, "adaptive", (0, 0), (), ranges)
    assert (report.best("masked", "all").first, report.best("masked", "all").last) == (0, 1)


def test_a_verdict_does_not_hang_on_rounding(monkeypatch):
    """Sketch and silhouette look alike where they are empty; one of them has to be named."""
    empty, sand = Scene((Thing("star", "red", 0),), "snow", "sketch"), Scene((), "sand")
    pair = EditPair("background", "make it sand", (), empty, sand)
    exact, errors = judge(shown(empty), pair), success._Known.errors
    assert "sand expected, found nothing on sketch" in reason(exact)
    random = np.random.default_rng(0)

    def rounded(known, patches):
        found = errors(known, patches)
        return found + random.uniform(-1e-5, 1e-5, found.shape)

    monkeypatch.setattr(success._Known, "errors", rounded)
    for _ in range(5):
        assert judge(shown(empty), pair) == exact
