"""ToyWorld: pairs are reproducible, unambiguous, exact to the pixel, and split without leaks."""

import dataclasses
import re
from itertools import combinations, product

import numpy as np
import pytest

from editmgt_lib.errors import InputError
from editmgt_lib.toyworld import drawing, grounds, language, objects, world
from editmgt_lib.toyworld.atlas import Look, atlas
from editmgt_lib.toyworld.noise import keyed
from editmgt_lib.toyworld.world import (
    BACKGROUNDS,
    CATEGORIES,
    COLORS,
    SHAPES,
    SLOT_NAMES,
    STYLES,
    EditPair,
    Scene,
    Thing,
)

PAIRS = [world.pair_at(7, i, i % 2 == 1, CATEGORIES[i % 7]) for i in range(1400)]
FEW = PAIRS[:140]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+|[^a-z\s]", text))


def slots_mask(slots: set[int]) -> np.ndarray:
    mask = np.zeros((256, 256), bool)
    for slot in slots:
        y0, y1, x0, x1 = world.slot_box(slot, 256)
        mask[y0:y1, x0:x1] = True
    return mask


# --- determinism and split ---


def test_same_seed_same_pair_and_picture():
    for index in range(20):
        first, again = (world.pair_at(3, index, False) for _ in range(2))
        assert first == again
        assert np.array_equal(world.render(first.source), world.render(again.source))
    assert world.pair_at(3, 0, False) != world.pair_at(4, 0, False)
    assert world.pair_at(3, 0, False) != world.pair_at(3, 1, False)


def test_a_known_pair_stays_what_it_is():
    # A change here changes every data set ever made: it must be deliberate.
    pair = world.pair_at(0, 0, False, "motion")
    assert (pair.instruction, pair.words, pair.source.background) == (
        "please the blue apple should be at the bottom left",
        ("blue apple", "bottom left"),
        "brick",
    )


def test_split_is_by_source_scene_and_disjoint():
    train = {world.pair_at(1, i, False).source for i in range(1500)}
    held = {world.pair_at(1, i, True).source for i in range(300)}
    assert not any(map(world.is_heldout, train))
    assert all(map(world.is_heldout, held))
    assert not train & held
    generator = rng(5)
    for heldout in (False, True):
        scenes = [world.sample_scene(generator, heldout=heldout) for _ in range(100)]
        assert all(world.is_heldout(scene) == heldout for scene in scenes)


def test_about_one_scene_in_sixteen_is_held_out():
    things = [Thing(s, c, i) for s, c, i in product(SHAPES, COLORS, range(9))]
    scenes = [Scene((thing,), ground) for thing in things for ground in BACKGROUNDS]
    share = np.mean([world.is_heldout(scene) for scene in scenes])
    assert 1 / 20 < share < 1 / 13


# --- scenes ---


def test_scenes_are_plain_distinct_and_of_every_count():
    scenes = [world.sample_scene(rng(seed)) for seed in range(400)]
    counts = np.bincount([len(scene.things) for scene in scenes], minlength=5)
    assert counts[0] == 0 and (counts[1:] > 30).all() and len(counts) == 5
    for scene in scenes:
        assert scene.style == "plain"
        assert len({thing.name for thing in scene.things}) == len(scene.things)
    assert {thing.name for s in scenes for thing in s.things} == {
        f"{color} {shape}" for color, shape in product(COLORS, SHAPES)
    }
    assert {thing.slot for s in scenes for thing in s.things} == set(range(9))
    assert {s.background for s in scenes} == set(BACKGROUNDS)
    assert all(len(world.sample_scene(rng(k), count=k).things) == k for k in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Thing("blob", "red", 0), "shape is 'blob'"),
        (lambda: Thing("star", "teal", 0), "color is 'teal'"),
        (lambda: Thing("star", "red", 9), "slot is 9"),
        (lambda: Scene((), "wavy"), "background is 'wavy'"),
        (lambda: Scene((), "snow", "oil"), "style is 'oil'"),
        (lambda: Scene((Thing("star", "red", 1), Thing("star", "blue", 0)), "snow"), r"\[1, 0\]"),
        (lambda: Scene((Thing("star", "red", 1), Thing("star", "blue", 1)), "snow"), r"\[1, 1\]"),
        (lambda: Scene((), "snow", texture=-1), "texture is -1"),
        (lambda: Scene((), "snow", texture=1 << 32), "texture is 4294967296"),
        (lambda: world.render(Scene((), "snow"), 250), "size is 250"),
        (lambda: world.thing_mask("blob", 256), "shape is 'blob'"),
        (lambda: world.slot_box(9, 256), "slot is 9"),
        (lambda: world.sample_scene(rng(), count=5), "count is 5"),
        (lambda: world.sample_pair(rng(), "zoom"), "category is 'zoom'"),
        (lambda: world.caption(Scene((), "snow"), rng()), "things is empty"),
        (
            lambda: EditPair("add", "add it", ("top",), Scene((), "snow"), Scene((), "snow")),
            "words holds 'top'",
        ),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- pictures ---


def own_cells(slot: int, shape: str, style: str, size: int = 256) -> np.ndarray:
    """Pixels of the cells that an object in a slot covers, bool [size, size]."""
    mask = np.zeros((size, size), bool)
    y0, y1, x0, x1 = world.slot_box(slot, size)
    edge = size // 16
    mask[y0:y1, x0:x1] = np.kron(drawing.covered(shape, style), np.ones((edge, edge), bool))
    return mask


def test_every_name_has_its_paint():
    assert tuple(drawing.FILL) == language.ALL_COLORS
    assert tuple(objects.OBJECTS) == SHAPES
    assert tuple(grounds.GROUNDS) == BACKGROUNDS
    assert ("plain", *drawing.STYLE) == STYLES


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_object_has_the_same_pixels_in_every_slot(background, style):
    for shape, color in zip(SHAPES, COLORS, strict=False):
        patches = []
        for slot in range(9):
            picture = world.render(Scene((Thing(shape, color, slot),), background, style, slot))
            patches.append(picture[own_cells(slot, shape, style)])
        assert all(np.array_equal(patch, patches[0]) for patch in patches)


@pytest.mark.parametrize("size", [64, 256, 512])
def test_a_ground_is_made_of_its_variants(size):
    for background, style in product(BACKGROUNDS, STYLES):
        scene = Scene((), background, style, texture=3)
        picture = world.render(scene, size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        drawn = drawing.ground(background, style, size)
        assert len(drawn) == (grounds.VARIANTS if style == "plain" else 1)
        cells = drawing.cells_of(picture, size // 16)
        assert np.array_equal(cells, drawn[scene.variants % len(drawn)])


def test_variants_are_a_hash_that_is_the_same_everywhere():
    assert keyed(1, 2, 3) == 0.03372056511909527  # exact arithmetic on whole numbers
    scene = Scene((), "sand", texture=7)
    assert scene.variants[0].tolist() == [3, 2, 0, 0, 1, 5, 0, 2, 0, 2, 3, 4, 4, 2, 0, 0]
    share = np.mean([Scene((), "sand", texture=k).variants >= 4 for k in range(200)])
    assert share == pytest.approx(8 / 64, abs=0.005)


def test_variants_differ_visibly_and_have_no_seams():
    for background in BACKGROUNDS:
        cells = drawing.ground(background, "plain", 256).astype(float) / 255
        gaps = [np.sqrt(np.mean((a - b) ** 2)) for a, b in combinations(cells, 2)]
        assert min(gaps) > 0.019, background
        inner = np.abs(np.diff(cells, axis=2)).mean()
        seams = np.mean([np.abs(a[:, -1] - b[:, 0]) for a, b in product(cells, cells)])
        assert seams < 1.5 * inner + 0.01, background
        inner = np.abs(np.diff(cells, axis=1)).mean()
        seams = np.mean([np.abs(a[-1] - b[0]) for a, b in product(cells, cells)])
        # The joint of planks and bricks is a line along this border.
        assert background in ("wood", "brick") or seams < 1.5 * inner + 0.01, background


def test_only_the_texture_tells_two_grounds_apart():
    scene = world.sample_scene(rng(3), count=2)
    again = dataclasses.replace(scene, texture=scene.texture ^ 1)
    assert world.is_heldout(scene) == world.is_heldout(again)
    first, second = world.render(scene), world.render(again)
    covered = np.zeros((256, 256), bool)
    for thing in scene.things:
        covered |= own_cells(thing.slot, thing.shape, "plain")
    assert np.array_equal(first[covered], second[covered])
    assert (first != second).any(-1)[~covered].mean() > 0.5
    styled = [dataclasses.replace(s, style="blueprint") for s in (scene, again)]
    assert np.array_equal(*map(world.render, styled))


def test_a_small_codebook_holds_the_world():
    cells = atlas(128).cells
    assert (
        len(cells) == len({cell.tobytes() for cell in cells}) + 1 < 7000
    )  # two styles share paper
    scene = world.sample_scene(rng(4))
    for look in (Look.of(scene), Look.of(scene, scene.things[0])):
        assert scene.background in str(look)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_no_pixel_hangs_on_a_last_bit(size, monkeypatch):
    levels = []
    monkeypatch.setattr(drawing, "_bytes", lambda x: levels.append(x.ravel()) or x)
    for background in BACKGROUNDS:
        drawing.ground.__wrapped__(background, "plain", size)
    for shape, color in product(SHAPES, COLORS):
        for background in BACKGROUNDS[:: 1 if size == 64 else 5]:
            drawing.sprite.__wrapped__(shape, color, background, "plain", size)
    for shape, style in product(SHAPES, STYLES[1:]):
        drawing.sprite.__wrapped__(shape, "red", "snow", style, size)
    values = np.concatenate(levels) + 0.5 + drawing._UP
    assert np.abs(values - np.rint(values)).min() > 1e-10


def test_slots_start_on_tokens_and_do_not_touch():
    boxes = [world.slot_box(slot, 256) for slot in range(9)]
    assert sum(slots_mask({slot}).astype(int) for slot in range(9)).max() == 1
    assert all(value % 16 == 0 for box in boxes for value in box)
    assert boxes[0] == (0, 64, 0, 64) and boxes[8] == (192, 256, 192, 256)


@pytest.mark.parametrize("shape", SHAPES)
def test_objects_fill_their_box_without_leaving_it(shape):
    for size in (64, 256):
        mask = world.thing_mask(shape, size)
        box = size // 4
        assert mask.shape == (box, box) and mask.min() == 0 and mask.max() == 1
        extent = max(np.ptp(np.flatnonzero(mask.any(axis))) + 1 for axis in (0, 1))
        assert extent >= 0.7 * box
    assert 0 < np.mean((mask > 0) & (mask < 1)) < 0.15  # antialiased
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert not border.any()


def test_what_an_object_leaves_to_the_ground_is_faint():
    for shape, size in product(SHAPES, (64, 256, 512)):
        patch = drawing.sprite(shape, "black", "snow", "plain", size).astype(int)
        under = drawing.ground("snow", "plain", size)[0]
        left = np.abs(patch - under)[~drawing.covered(shape, "plain")]
        assert left.size == 0 or left.max() <= 12


def test_a_solid_is_lit_from_the_upper_left_and_casts_a_shadow_to_the_lower_right():
    picture = world.render(Scene((Thing("balloon", "blue", 4),), "snow")).astype(float).mean(-1)
    box = picture[96:160, 96:160]
    assert box[10:22, 18:30].mean() > box[30:42, 34:46].mean() + 20
    shadow = drawing.solid("balloon", 64).under[..., 0]
    left, right = shadow[:, :32], shadow[:, 32:]
    assert (right[:, ::-1] > 0).any() and ((right > 0) & (right < 0.99)).sum() > 1.5 * (
        (left > 0) & (left < 0.99)
    ).sum()


def test_colours_and_backgrounds_are_far_apart():
    def gap(first, second):
        return float(np.linalg.norm(np.subtract(first, second)))

    assert min(gap(a, b) for a, b in combinations(drawing.FILL.values(), 2)) > 85
    means = [drawing.ground(name, "plain", 256).mean((0, 1, 2)) for name in BACKGROUNDS]
    assert min(gap(a, b) for a, b in combinations(means, 2)) > 25
    assert min(gap(a, b) for a in drawing.FILL.values() for b in means) > 60


@pytest.mark.parametrize("style", STYLES[1:])
def test_styles_hide_colour_and_background(style):
    scenes = [
        Scene((Thing("heart", color, 4),), ground, style, texture)
        for texture, (color, ground) in enumerate(zip(COLORS, BACKGROUNDS, strict=False))
    ]
    first = world.render(scenes[0])
    assert all(np.array_equal(world.render(scene), first) for scene in scenes)
    filled = first[128, 128].tolist() != world.render(Scene((), "snow", style))[128, 128].tolist()
    assert filled == (style == "silhouette")


def test_a_picture_belongs_to_its_caller():
    scene = world.sample_scene(rng())
    first = world.render(scene)
    copy = first.copy()
    first[:] = 0
    assert np.array_equal(world.render(scene), copy)


# --- edits ---


@pytest.mark.parametrize("pair", FEW[:70], ids=lambda pair: pair.category)
def test_the_mask_is_exact(pair):
    source, target = world.render(pair.source), world.render(pair.target)
    mask = world.change_mask(pair)
    assert mask.any() and mask.dtype == bool and mask.shape == (256, 256)
    assert np.array_equal(source[~mask], target[~mask])
    assert (source[mask] != target[mask]).any(-1).all()
    if pair.category in ("background", "style"):
        return
    changed = set(pair.source.things) ^ set(pair.target.things)
    assert not (mask & ~slots_mask({thing.slot for thing in changed})).any()


def test_each_category_does_what_it_says():
    for pair in PAIRS:
        before, after = set(pair.source.things), set(pair.target.things)
        gone, come = before - after, after - before
        same_look = (pair.source.background, pair.source.style) == (
            pair.target.background,
            pair.target.style,
        )
        assert same_look == (pair.category not in ("background", "style"))
        sizes = (len(gone), len(come))
        whole = {"add": (0, 1), "remove": (1, 0), "background": (0, 0), "style": (0, 0)}
        assert sizes == whole.get(pair.category, (1, 1))
        if sizes != (1, 1):
            continue
        (old,), (new,) = gone, come
        alike = (old.shape == new.shape, old.color == new.color, old.slot == new.slot)
        if pair.category == "motion":
            assert alike == (True, True, False)
        elif pair.category == "color":
            assert alike == (True, False, True)
        else:
            assert alike[0] is False and alike[2] is True


def test_targets_are_valid_and_never_hold_twins():
    for pair in PAIRS:
        names = [thing.name for thing in pair.target.things]
        assert 1 <= len(names) <= 4 and len(set(names)) == len(names)
        assert pair.source.style == "plain"


def test_every_category_is_reachable_unasked():
    seen = {world.pair_at(0, index, False).category for index in range(120)}
    assert seen == set(CATEGORIES)
    assert all(pair.category == CATEGORIES[i % 7] for i, pair in enumerate(PAIRS))


# --- sentences ---


def test_the_named_object_is_unique_and_is_the_one_edited():
    short = 0
    for pair in PAIRS:
        if pair.category not in ("replace", "remove", "color", "motion"):
            continue
        name = pair.words[0]
        fits = [t for t in pair.source.things if name in (t.name, t.shape)]
        assert len(fits) == 1 and fits[0] not in pair.target.things
        assert f"the {name}" in pair.instruction
        short += " " not in name
    assert 0.1 < short / (len(PAIRS) * 4 / 7) < 0.3


def test_instructions_say_what_the_target_shows():
    for pair in PAIRS:
        source, target = set(pair.source.things), set(pair.target.things)
        new = next(iter(target - source), None)
        text = f" {pair.instruction.rstrip('.')} ".replace(",", " ")
        if pair.category in ("add", "motion"):
            assert f" {language.place(new.slot)[3:]} " in text
            assert SLOT_NAMES[new.slot] == pair.words[-1]
        if pair.category == "add":
            assert f" {language.article(new.name)} " in text
        if pair.category == "replace":
            kept = new.color in {old.color for old in source - target}
            assert f" {new.shape} " in text and (kept or f" {new.name} " in text)
        if pair.category == "color":
            assert f" {new.color} " in text
        if pair.category == "background":
            assert f" {pair.target.background} " in text
        if pair.category == "style":
            assert f" a {pair.target.style} " in text


def test_words_occur_once_and_as_whole_words():
    for pair in PAIRS:
        assert pair.words
        for word in pair.words:
            assert len(re.findall(rf"\b{word}\b", pair.instruction)) == 1


def test_instructions_are_short_lower_case_english():
    texts = [pair.instruction for pair in PAIRS]
    captions = [world.caption(pair.target, rng(i)) for i, pair in enumerate(PAIRS)]
    for text in texts + captions:
        assert text == text.lower() == " ".join(text.split())
        assert "{" not in text and language.length(text) <= language.CAPTION_TOKENS
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|\b(\w+) \1\b", text), text
    assert max(len(text.split()) for text in texts) <= 20
    assert 0 < sum(text.startswith("please ") for text in texts) < 0.12 * len(texts)
    assert 0 < sum(text.endswith(".") for text in texts) < 0.2 * len(texts)


@pytest.mark.parametrize("category", CATEGORIES)
def test_wordings_vary(category):
    assert 5 <= len(set(language.WORDINGS[category])) <= 8
    said = {pair.instruction.split()[0] for pair in PAIRS if pair.category == category}
    assert len(said) >= 3


def test_captions_mention_everything_visible():
    for index, pair in enumerate(PAIRS):
        scene, text = pair.target, world.caption(pair.target, rng(index))
        plain = scene.style == "plain"
        for thing in scene.things:
            noun, at = thing.name if plain else thing.shape, SLOT_NAMES[thing.slot]
            assert re.search(rf"\b{noun} ((at|in) the )?{at}\b", text), text
        seen = f"{scene.background} background" if plain else scene.style
        assert seen in text
        assert plain or not words_of(text) & set(language.ALL_COLORS)


def test_captions_vary_with_the_generator_only():
    scene = world.sample_scene(rng(2), count=3)
    assert world.caption(scene, rng(1)) == world.caption(scene, rng(1))
    assert len({world.caption(scene, rng(seed)) for seed in range(30)}) > 5


def test_corpus_covers_every_word():
    corpus = language.corpus()
    assert corpus == sorted(set(corpus)) and len(corpus) < 7000
    known = set().union(*map(words_of, corpus))
    for index, pair in enumerate(PAIRS):
        assert words_of(pair.instruction) <= known
        assert words_of(world.caption(pair.target, rng(index))) <= known
    everything = " ".join((*SHAPES, *language.ALL_COLORS, *SLOT_NAMES, *BACKGROUNDS))
    assert words_of(everything) | set(STYLES[1:]) <= known


def test_scenes_and_pairs_are_values():
    scene = world.sample_scene(rng())
    assert hash(scene) == hash(dataclasses.replace(scene))
    with pytest.raises(dataclasses.FrozenInstanceError):
        scene.style = "sketch"
