"""The embedded default: ToyWorld's own writer, judge and editors, and scorers from folders."""

import io
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.curation.backends import (
    CATEGORIES,
    OFFLINE,
    NoAnswer,
    prefer,
    read_backends,
    seed_of,
    toy_picture,
)
from editmgt_lib.curation.backends.aesthetic_scorer import read_head
from editmgt_lib.curation.backends.toyworld import OWN_NAMES
from editmgt_lib.curation.backends.toyworld_reading import read_edit, read_scene
from editmgt_lib.data.toyworld import draw_pair
from editmgt_lib.errors import InputError
from editmgt_lib.toyworld.world import (
    STYLES,
    edit_scene,
    fits,
    is_heldout,
    render,
    sample_pair,
)

TOY = read_backends(OFFLINE)
WRITER, JUDGE, SCORER = TOY.writers["toy"], TOY.judges["toy"], TOY.scorers["toy"]
SIZE = 64


def drawn(category, number=0):
    return sample_pair(np.random.default_rng([7, number]), OWN_NAMES[category])


def first_picture(number=0):
    return np.asarray(Image.open(io.BytesIO(toy_picture(number, SIZE))).convert("RGB"))


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_sentence_of_the_language_is_understood(category):
    for number in range(40):
        pair = drawn(category, number)
        found = read_edit(pair.source, OWN_NAMES[category], pair.instruction)
        assert found is not None and found.target == pair.target, pair.instruction


def test_the_spare_colour_is_understood_too():
    for number in range(20):
        pair = draw_pair(0, number, task="spare")
        found = read_edit(pair.source, pair.category, pair.instruction)
        assert found is not None and found.target == pair.target, pair.instruction


@pytest.mark.parametrize(
    "text", ["", "make it nice", "remove the thing", "remove the red", "add a red", "please"]
)
def test_other_sentences_are_not(text):
    for category in CATEGORIES:
        assert read_edit(drawn("remove").source, OWN_NAMES[category], text) is None


def test_a_name_that_fits_nothing_or_several_is_not_understood():
    pair = drawn("remove", 3)
    absent = next(
        f"remove the {color} {shape}"
        for color in ("red", "blue", "green", "pink", "black")
        for shape in ("star", "heart")
        if f"{color} {shape}" not in {thing.name for thing in pair.source.things}
    )
    assert read_edit(pair.source, "remove", absent) is None


def test_scenes_are_read_off_pictures():
    for number in range(3):
        scene = drawn("add", number).source
        found = read_scene(render(scene, SIZE))
        assert (found.things, found.background) == (scene.things, scene.background)
        for style in STYLES[1:]:
            found = read_scene(render(replace(scene, style=style), SIZE))
            assert found.style == style
            assert [(t.shape, t.slot) for t in found.things] == [
                (t.shape, t.slot) for t in scene.things
            ]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, 80, 3), np.uint8),
        np.zeros((50, 50, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8),
    ],
)  # fmt: skip
def test_other_pictures_are_not(pixels):
    assert read_scene(pixels) is None and SCORER.score(pixels).values["toyworld"] == 0
    with pytest.raises(NoAnswer, match="not_toyworld"):
        WRITER.caption(pixels, 0)


def test_the_writer_writes_what_it_understands():
    pixels = first_picture()
    caption = WRITER.caption(pixels, 0).values
    wanted = dict.fromkeys(CATEGORIES, 2)
    written = WRITER.write(caption, wanted, 5, pixels).values["instructions"]
    assert written == WRITER.write(caption, wanted, 5, pixels).values["instructions"]
    assert written != WRITER.write(caption, wanted, 6, pixels).values["instructions"]
    scene = read_scene(pixels)
    assert len({one["instruction"] for one in written}) == len(written) >= 10
    for one in written:
        pair = read_edit(scene, OWN_NAMES[one["category"]], one["instruction"])
        assert pair is not None and not is_heldout(pair.target)
        assert one["object"] and one["caption"]


@pytest.mark.parametrize("category", ["remove", "replace", "color"])
def test_the_writer_says_where_the_object_is(category):
    """Nothing outside the box is part of the edit, and something inside is."""
    seen = [
        (one, read_scene(pixels))
        for pixels in map(first_picture, range(4))
        for one in WRITER.write({}, {category: 1}, 5, pixels).values["instructions"]
    ]
    assert seen
    for one, scene in seen:
        pair = read_edit(scene, category, one["instruction"])
        before, after = (render(s, SIZE).astype(int) for s in (pair.source, pair.target))
        changed = (before != after).any(-1)
        left, top, right, bottom = (round(side * SIZE) for side in one["box"])
        assert changed[top:bottom, left:right].any()
        changed[top:bottom, left:right] = False
        assert not changed.any()


def test_other_edits_have_no_box():
    written = WRITER.write({}, {"style": 1, "add": 1}, 5, first_picture()).values["instructions"]
    assert [one["category"] for one in written] == ["add", "style"]
    assert not any("box" in one for one in written)


def test_refused_instructions_are_not_written_again():
    pixels = first_picture(1)
    [one] = WRITER.write({}, {"color": 1}, 5, pixels).values["instructions"]
    faults = [{**one, "reason": "dull"}]
    again = WRITER.write({}, {"color": 3}, 5, pixels, faults).values["instructions"]
    assert one["instruction"] not in {other["instruction"] for other in again}


def test_the_judge_knows_success_from_failure():
    pair = drawn("color")
    before, after = render(pair.source, SIZE), render(pair.target, SIZE)
    text = pair.instruction
    assert set(JUDGE.rate(before, after, text, "color").values.values()) == {10}
    unchanged = JUDGE.rate(before, before, text, "color").values
    assert unchanged == {"instruction": 0, "preservation": 10, "quality": 0}
    black = np.zeros_like(after)
    assert JUDGE.rate(before, black, text, "color").values["preservation"] == 0
    found = prefer(JUDGE, before, (before, after), text, "color")
    assert (found.winner, found.agreed) == (1, True)
    assert prefer(JUDGE, before, (after, after), text, "color").winner is None


def test_the_judge_says_what_it_cannot_judge():
    before = first_picture()
    with pytest.raises(NoAnswer, match="does not understand"):
        JUDGE.rate(before, before, "make it nice", "style")
    with pytest.raises(NoAnswer, match="another size"):
        JUDGE.rate(before, before[:32], drawn("style").instruction, "style")


def test_two_settings_of_the_shipped_checkpoint_edit():
    pixels = np.asarray(Image.open(io.BytesIO(toy_picture(0))).convert("RGB"))
    seed = seed_of(0, "row", "toy")
    text = WRITER.write({}, {"remove": 1}, 5, pixels).values["instructions"][0]["instruction"]
    editor = TOY.editors["toy-fast"]
    made = editor.edit(pixels, text, seed)
    assert made.pixels.dtype == np.uint8 and made.pixels.shape == pixels.shape
    assert (made.pixels != pixels).any() and made.facts["seed"] == seed
    assert (made.pixels == editor.edit(pixels, text, seed).pixels).all()
    assert editor.edit(pixels, text, seed, (64, 32)).pixels.shape == (32, 64, 3)
    assert editor.describe() != TOY.editors["toy"].describe()


def test_edits_of_a_given_scene():
    rng = np.random.default_rng(0)
    scene = drawn("style").source
    for category in filter(lambda name: fits(scene, name), OWN_NAMES.values()):
        pair = edit_scene(rng, scene, category)
        assert pair.source == scene != pair.target
    assert not fits(drawn("style").target, "color")


# ---- scorers from folders


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    from .networks import SIZE as TINY
    from .networks import spread, write_clip

    root = tmp_path_factory.mktemp("networks")
    write_clip(root / "clip")
    labels = {"id2label": {0: "normal", 1: "nsfw"}, "label2id": {"normal": 0, "nsfw": 1}}
    config = ViTConfig(**TINY, num_attention_heads=2, image_size=32, patch_size=16, **labels)
    spread(ViTForImageClassification(config)).save_pretrained(root / "classifier")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "classifier")
    return root


def head(path, width=16, **change):
    """A head whose only output is the mean of its input's first value along the layers, plus 5."""
    import torch
    from safetensors.torch import save_file

    state, rows = {}, width
    for name, out in (("0", 1024), ("2", 128), ("4", 64), ("6", 16), ("7", 1)):
        weight = torch.zeros(out, rows)
        weight[0, 0] = 1
        state |= {f"layers.{name}.weight": weight, f"layers.{name}.bias": torch.zeros(out)}
        rows = out
    state["layers.7.bias"] += 5
    save_file({**state, **change}, path)
    return path


def scorer(**table):
    return read_backends({"scorers": {"s": table}}).scorers["s"]


def test_the_aesthetic_head_stands_on_clips_unit_vector(networks, tmp_path):
    from editmgt_lib.evaluation.metrics.networks import NETWORKS

    table = {"clip": str(networks / "clip"), "head": str(head(tmp_path / "head.safetensors"))}
    one = scorer(kind="aesthetic", **table)
    one.check()
    pixels = first_picture()
    vector = NETWORKS["clip-vit-l-14"].load(networks / "clip", "cpu").encode("crop", [pixels])[0]
    expected = 5 + vector[0] / np.linalg.norm(vector)
    assert one.score(pixels).values["aesthetic"] == pytest.approx(expected, abs=2e-3)


def test_heads_that_do_not_fit_or_could_run_code_are_refused(tmp_path):
    with pytest.raises(InputError, match="do not belong together"):
        read_head(head(tmp_path / "head.safetensors"), 768)
    for name, match in (("bad.pth", "convert it once"), ("bad.safetensors", "no aesthetic head")):
        (tmp_path / name).write_bytes(b"no tensors")
        with pytest.raises(InputError, match=match):
            read_head(tmp_path / name, 16)


def test_a_classifier_gives_the_probability_of_its_label(networks):
    table = {"kind": "classifier", "folder": str(networks / "classifier"), "score": "nsfw"}
    yes = scorer(**table, label="nsfw")
    yes.check()
    no = scorer(**table, label="normal")
    pixels = first_picture()
    total = yes.score(pixels).values["nsfw"] + no.score(pixels).values["nsfw"]
    assert total == pytest.approx(1, abs=1e-5) and yes.gives == ("nsfw",)
    with pytest.raises(InputError, match="use one of 'normal', 'nsfw'"):
        scorer(**table, label="porn").check()


def test_faces_are_counted_and_their_union_measured(monkeypatch, tmp_path):
    class Detector:
        @classmethod
        def create(cls, model, config, size, least):
            assert size == (SIZE, SIZE)
            return cls()

        def detect(self, pixels):
            assert pixels[0, 0].tolist() == [3, 2, 1]  # BGR
            return 1, np.array([[0, 0, 32, 32, 9], [16, 0, 32, 32, 9], [-40, 0, 8, 8, 9]], "f4")

    cv2 = types.ModuleType("cv2")
    cv2.FaceDetectorYN = Detector
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    (tmp_path / "yunet.onnx").write_bytes(b"x")
    one = scorer(kind="faces", model=str(tmp_path / "yunet.onnx"))
    one.check()
    pixels = np.full((SIZE, SIZE, 3), (1, 2, 3), np.uint8)
    assert one.score(pixels).values == {"faces": 3, "face_area": 48 * 32 / SIZE**2}
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match="opencv"):
        one.check()


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "aesthetic", "clip": "none", "head": "none"},
        {"kind": "classifier", "folder": "none", "label": "x", "score": "x"},
    ],
)
def test_missing_folders_are_told(table):
    with pytest.raises(InputError, match="scorer 's' lacks none"):
        scorer(**table).check()


def test_descriptions_are_plain_data():
    for backend in TOY:
        json.dumps(backend.describe())
