"""The stage quality: what it writes of a pair, who is asked, and what the thresholds make of it."""

import io
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

from editmgt_lib.curation.backends import OFFLINE, Answer, NoAnswer, read_backends
from editmgt_lib.curation.backends.base import CATEGORIES, RUBRIC
from editmgt_lib.curation.backends.model_options import ModelOptions
from editmgt_lib.curation.backends.toyworld import OWN_NAMES
from editmgt_lib.curation.backends.vlm import VlmJudge, VlmWriter
from editmgt_lib.curation.config import config_from
from editmgt_lib.curation.decide import by_stage, decide, parse_limits
from editmgt_lib.curation.embeddings import CLIP_VALUES, DINO_VALUES, Embedder
from editmgt_lib.curation.executor import answer
from editmgt_lib.curation.pairs import NOT_DONE, is_negative
from editmgt_lib.curation.quality import VALUES, WHOLE, QualityOptions, QualityStage
from editmgt_lib.curation.rows import DROP, FAILED, KEEP, Failure, Found, Origin, Row
from editmgt_lib.errors import InputError
from editmgt_lib.toyworld.world import render, sample_pair

from .fake_services import FakeModel
from .networks import write_networks
from .picture_bytes import saved

TOY = read_backends(OFFLINE)
SIZE = 64
KEEP_RULES = config_from({"sources": [{"name": "p", "path": "p"}]}).keep["quality"]
RULES = by_stage(parse_limits({"quality": KEEP_RULES}))
GOOD = {
    "noop": 0, "largest": 0.9, "stretch": 0, "moved": 0.2, "outside": 0, "drift": 0,
    "clip_direction": 0.2, "clip_image": 0.9, "dino": 0.8, "instruction": 9, "preservation": 9,
    "quality": 8,
}  # fmt: skip


class Asked:
    """A judge and a writer that count their calls."""

    name, revision = "asked", "1"

    def __init__(self, instruction="Remove the cup", rating=(9, 8, 7), raises=None):
        self.instruction, self.rating, self.raises, self.calls = instruction, rating, raises, []

    def describe(self):
        return {"kind": "asked"}

    def _called(self, what, before, after, instruction, category):
        self.calls.append((what, before.shape, after.shape, instruction, category))
        if self.raises:
            raise self.raises

    def rate(self, before, after, instruction, category):
        self._called("rate", before, after, instruction, category)
        return Answer(dict(zip(RUBRIC, self.rating, strict=True)), {"cost": 1})

    def rewrite(self, before, after, instruction, category, seed):
        self._called("rewrite", before, after, instruction, category)
        return Answer({"instruction": self.instruction}, {"cost": 2})


def scene(seed=0, size=(96, 64)):
    random = np.random.default_rng(seed)
    rough = Image.fromarray(random.integers(0, 256, (8, 12, 3), np.uint8))
    return np.asarray(rough.resize(size, Image.Resampling.BICUBIC))


def changed(picture):
    after = picture.copy()
    after[10:30, 20:50] = 255 - after[10:30, 20:50] // 2
    return after


def pair(before, after, category="remove", id="abc.0", **said):
    values = {"category": category, "instruction": "Remove the mug", "caption": "a mug on a table",
              "target_caption": "a table", **said}  # fmt: skip
    files = [x if isinstance(x, bytes) else saved(Image.fromarray(x)) for x in (before, after)]
    edits = Found({"editor": "e"}, {"edited": files[1]})
    found = {"instructions": Found(values), "edits": edits}
    return Row(id, Origin("p", "x.png"), files[0], found)


def found(row, judge=None, rewriter=None, **options):
    return QualityStage(QualityOptions(**options), judge, rewriter)([row])[0]


def verdict(row, what):
    return decide(row.add("quality", what)[0], RULES)


# ---- what it writes


def test_a_pair_and_its_mask():
    before = scene()
    one = found(pair(before, changed(before)))
    assert one.failure is None and set(VALUES) <= set(one.values)
    assert one.values["changed"] == pytest.approx(600 / (96 * 64), rel=0.2)
    data = one.pictures["mask"]
    mask = Image.open(io.BytesIO(data))
    assert isinstance(data, bytes) and (mask.mode, mask.size, mask.format) == ("L", (96, 64), "PNG")
    values = np.asarray(mask)
    assert set(np.unique(values)) == {0, 255} and not values[30:].any() and values[10:30].any()


def test_what_is_found_does_not_depend_on_the_batch_or_the_process():
    rows = [pair(scene(n), changed(scene(n + n % 2)), id=f"r{n}.0") for n in range(3)]
    stage = QualityStage()
    alone = [stage([row])[0] for row in rows]
    again = pickle.loads(pickle.dumps(stage))(rows)
    for one, other in zip(alone, again, strict=True):
        assert one.values == other.values and one.pictures == other.pictures


def test_without_models_values_are_none_and_it_says_what_is_lacking():
    one = found(pair(scene(), changed(scene())))
    assert {one.values[name] for name in (*CLIP_VALUES, *DINO_VALUES, *RUBRIC)} == {None}
    assert one.values["rewritten"] == "" and "raw" not in one.values
    [line] = QualityStage().missing
    assert all(name in line for name in (*CLIP_VALUES, *DINO_VALUES, *RUBRIC))
    assert verdict(pair(scene(), changed(scene())), one).verdict == KEEP
    full = QualityStage(QualityOptions(clip="c", dino="d"), Asked())
    assert full.missing == ()


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_is_measured(category):
    one = found(pair(scene(), changed(scene()), category))
    whole = category in WHOLE
    assert (one.values["outside"] is None) == (one.values["drift"] is None) == whole
    assert one.values["changed"] > 0 and one.values["shift_x"] is not None


def test_a_box_counts_for_what_is_already_there():
    before = scene()
    box = [0.6, 0.6, 0.9, 0.9]
    for category, place in (("remove", "box"), ("color", "box"), ("add", "regions")):
        values = found(pair(before, changed(before), category, box=box)).values
        assert values["place"] == place and (values["outside"] > 0) == (place == "box")


# ---- pictures of all kinds


def test_an_edit_of_another_size_is_measured_at_its_own():
    before = scene(0, (192, 128))
    small = Image.fromarray(changed(before)).resize((96, 64), Image.Resampling.LANCZOS)
    one = found(pair(before, np.asarray(small)))
    assert one.values["stretch"] == 0 and one.values["noop"] == 0
    assert Image.open(io.BytesIO(one.pictures["mask"])).size == (96, 64)
    still = Image.fromarray(before).resize((96, 64), Image.Resampling.LANCZOS)
    assert found(pair(before, np.asarray(still))).values["noop"] == 1


def test_an_edit_of_another_shape_is_dropped():
    before = scene()
    wide = Image.fromarray(changed(before)).resize((96, 72))
    one = found(pair(before, np.asarray(wide)))
    assert verdict(pair(before, before), one).reason == "stretch"


def test_alpha_and_sixteen_bits_are_seen_as_pictures():
    before = scene()
    opaque = np.dstack([before, np.full(before.shape[:2], 255, np.uint8)])
    hidden = np.dstack([before, np.zeros(before.shape[:2], np.uint8)])
    deep = saved(Image.fromarray(before[..., 0].astype(np.uint16) * 257))
    grey = np.repeat(before[..., :1], 3, -1)
    assert found(pair(opaque, before)).values["changed"] == 0
    assert found(pair(hidden, np.full_like(before, 255))).values["changed"] == 0
    assert found(pair(deep, grey)).values["changed"] == 0
    assert found(pair(deep, changed(grey))).values["noop"] == 0


@pytest.mark.parametrize("broken", [b"", b"\x89PNG\r\n\x1a\n", b"no picture"])
def test_an_edit_that_cannot_be_read_fails_alone(broken):
    rows = [pair(scene(), broken), pair(scene(), changed(scene()))]
    bad, good = answer(QualityStage(), rows)
    assert bad.failure is not None and good.failure is None


# ---- judge and rewriter


def test_the_judge_sees_the_pair_at_one_size():
    judge = Asked()
    one = found(pair(scene(0, (192, 128)), changed(scene()), "color"), judge)
    assert judge.calls == [("rate", (64, 96, 3), (64, 96, 3), "Remove the mug", "color")]
    assert [one.values[name] for name in RUBRIC] == [9, 8, 7]
    assert one.values["raw"] == {"judge": {"cost": 1}}


@pytest.mark.parametrize("lasting", [True, False])
def test_a_judge_without_an_answer_is_no_score(lasting):
    """Elsewhere it becomes -1 and is kept, or a middle score."""
    row = pair(scene(), changed(scene()))
    one = found(row, Asked(raises=NoAnswer("parse_error", "no JSON", lasting)))
    assert one.failure == Failure("parse_error", "no JSON", lasting)
    assert {one.values[name] for name in RUBRIC} == {None}
    assert one.values["changed"] > 0 and one.pictures["mask"]  # what was measured stays
    assert verdict(row, one).verdict == FAILED


def test_a_judge_with_a_defect_fails_the_row():
    [one] = answer(QualityStage(judge=Asked(raises=KeyError("score"))),
                   [pair(scene(), changed(scene()))])  # fmt: skip
    assert one.failure.code == "error" and not one.failure.lasting


def test_an_instruction_is_rewritten_to_what_happened():
    writer = Asked("Remove the mug and the spoon")
    one = found(pair(scene(), changed(scene())), rewriter=writer)
    assert one.values["rewritten"] == "Remove the mug and the spoon"
    assert one.values["raw"] == {"rewriter": {"cost": 2}}
    still = found(pair(scene(), scene()), rewriter=writer)
    assert still.values["rewritten"] == "" and len(writer.calls) == 1  # nothing happened


@pytest.mark.parametrize("lasting", [True, False])
def test_a_pair_is_good_without_a_rewriter_that_will_never_answer(lasting):
    error = NoAnswer("refused", "no", lasting)
    one = found(pair(scene(), changed(scene())), Asked(), Asked(raises=error))
    assert (one.failure is None) == lasting and one.values["instruction"] == 9
    assert one.values["rewritten"] == "" and one.values["raw"]["rewriter"]["failure"] == "refused"


def test_back_ends_are_found_by_name():
    one, other = Asked(), Asked()
    judges, writers = {"a": one, "b": other}, {"w": one}
    assert QualityStage.of(QualityOptions(), judges, writers).judge is one
    assert QualityStage.of(QualityOptions(), judges, writers).rewriter is None
    named = QualityStage.of(QualityOptions(judge="b", rewriter="w"), judges, writers)
    assert named.judge is other and named.rewriter is one
    assert QualityStage.of(QualityOptions(), {}, {}).judge is None
    for wrong in ({"judge": "c"}, {"rewriter": "a"}, {"clip": "nowhere"}, {"dino": "nowhere"}):
        with pytest.raises(InputError, match=next(iter(wrong.values()))):
            QualityStage.of(QualityOptions(**wrong), judges, writers)


@pytest.mark.parametrize(
    "wrong", [{"tolerance": 255}, {"tolerance": -1}, {"tolerance": 2.5}, {"visible": 256}]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        QualityOptions(**wrong)


def test_settings_hold_all_that_decides():
    stage = QualityStage(QualityOptions(), Asked())
    for other in (
        replace(stage, options=QualityOptions(tolerance=40)), replace(stage, judge=None),
        replace(stage, options=QualityOptions(visible=9)), replace(stage, rewriter=Asked()),
    ):  # fmt: skip
        assert other.settings != stage.settings


# ---- a model behind a server


def test_a_model_rates_and_rewrites():
    rating = {"reasoning": "", "done": "", "instruction": 3, "preservation": 10, "quality": 8}
    said = {"changes": "the spoon is gone", "instruction": "Remove the spoon"}
    with FakeModel(rating, said) as server:
        options = ModelOptions(f"{server.url}/v1", "m", backoff=0.001)
        one = found(
            pair(scene(), changed(scene())), VlmJudge("j", options), VlmWriter("w", options)
        )
    assert one.values["instruction"] == 3 and one.values["rewritten"] == "Remove the spoon"


@pytest.mark.parametrize("text", ["seven", '{"instruction": 12.5}', '{"instruction": 7'])
def test_a_rating_that_cannot_be_read_is_no_score(text):
    with FakeModel(text) as server:
        judge = VlmJudge("j", ModelOptions(f"{server.url}/v1", "m", backoff=0.001))
        one = found(pair(scene(), changed(scene())), judge)
    assert one.failure.code == "parse_error" and one.values["instruction"] is None


# ---- the toy world stands in


def drawn(category, number=0):
    return sample_pair(np.random.default_rng([7, number]), OWN_NAMES[category])


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_exact_criterion_rates_and_says_what_happened(category):
    judge, writer = TOY.judges["toy"], TOY.writers["toy"]
    true, other = drawn(category), drawn(category, 1)
    before, after = render(true.source, SIZE), render(true.target, SIZE)
    row = pair(before, after, category, instruction=true.instruction)
    one = found(row, judge, writer)
    assert one.values["instruction"] == 10 and one.values["rewritten"] == true.instruction
    assert verdict(row, one).verdict == KEEP
    said = writer.rewrite(before, after, other.instruction, "motion change", 0).values
    if category != "style":  # which hides colours, so that no scene can be read
        redone = pair(before, after, category, instruction=said["instruction"])
        assert said["instruction"] and found(redone, judge).values["instruction"] == 10


def test_where_no_sentence_leads_there_is_none():
    writer, true = TOY.writers["toy"], drawn("remove")
    before = render(true.source, SIZE)
    noise = np.random.default_rng(0).integers(0, 256, before.shape, np.uint8)
    for after in (before, noise, render(true.target, 2 * SIZE)[:, :SIZE]):
        assert writer.rewrite(before, after, true.instruction, "remove", 0).values == {
            "instruction": ""
        }


# ---- thresholds


def judged(**values):
    row = pair(scene(), scene())
    return decide(row.add("quality", Found({**GOOD, **values}))[0], RULES)


@pytest.mark.parametrize(
    "bad",
    [
        {"noop": 1}, {"largest": 0.001}, {"stretch": 0.0108}, {"moved": 6}, {"outside": 0.3},
        {"drift": 25}, {"drift": -25},
        {"clip_direction": 0.0}, {"clip_direction": -0.2}, {"clip_image": 0.5}, {"dino": 0.1},
        {"instruction": 0}, {"instruction": 6}, {"preservation": 3}, {"quality": 2},
    ],
    ids=str,
)  # fmt: skip
def test_every_default_drops_what_is_bad(bad):
    """A threshold of 0.5 on a scale of 1 to 10 passes everything."""
    decision = judged(**bad)
    assert (decision.verdict, decision.reason) == (DROP, next(iter(bad)))


def test_defaults_keep_what_is_good_and_what_nobody_scored():
    assert judged().verdict == KEEP and not judged().flags
    unknown = dict.fromkeys(GOOD)
    assert judged(**unknown).verdict == KEEP and len(judged(**unknown).unscored) == len(GOOD)
    assert set(KEEP_RULES) == set(GOOD) <= set(VALUES)


def test_a_no_op_is_dropped_by_default():
    row = pair(scene(), scene())
    decision = verdict(row, found(row, Asked(rating=(0, 10, 10))))
    assert (decision.verdict, decision.reason) == (DROP, "noop")


def test_a_moved_picture_is_dropped_by_default():
    before = scene(0, (192, 128))
    zoomed = Image.fromarray(before).resize((192, 128), box=(6, 4, 186, 124))
    for after in (np.roll(before, 6, 1), np.roll(before, -6, 0), np.asarray(zoomed)):
        row = pair(before, changed(after))
        assert verdict(row, found(row)).reason == "moved"


# ---- negatives


@pytest.mark.parametrize("reason", [*NOT_DONE, "moved", "preservation", "stretch", "outside"])
def test_only_edits_that_were_not_done_are_negatives(reason):
    bad = {"noop": 1, "largest": 0.0, "clip_direction": -1, "moved": 9, "stretch": 1, "outside": 1}
    row = pair(scene(), scene())
    row = row.add("quality", Found({**GOOD, reason: bad.get(reason, 0)}))[0]
    decision = decide(row, RULES)
    assert decision.reason == reason and is_negative(decision, row) == (reason in NOT_DONE)


def test_what_was_kept_failed_or_never_edited_is_no_negative():
    row = pair(scene(), scene())
    done = row.add("quality", Found(GOOD))[0]
    failed = row.add("quality", Found({"noop": 1}, failure=Failure("timeout")))[0]
    assert not is_negative(decide(done, RULES), done)
    assert not is_negative(decide(failed, RULES), failed)
    bad = row.add("quality", Found({"noop": 1}))[0]
    decision = decide(bad, RULES)
    assert is_negative(decision, bad)
    for edits in (Found(), Found(failure=Failure("refused")), None):
        other = {k: v for k, v in {**bad.found, "edits": edits}.items() if v is not None}
        assert not is_negative(decision, replace(bad, found=other))


# ---- embeddings


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("networks"))


def embedder(networks, dino="dinov2-b-14"):
    return Embedder(str(networks / "clip-vit-b-32"), str(networks / dino))


CAPTIONS = ("a red circle at the left", "a blue star at the right")


def test_embeddings_tell_results_apart(networks):
    """AnyEdit's soft-max over one text gives 1.0 to everything."""
    before, tools = scene(), embedder(networks)
    values = [tools.measure(before, after, *CAPTIONS) for after in (changed(before), scene(5))]
    for name in (*CLIP_VALUES, *DINO_VALUES):
        assert values[0][name] != values[1][name] and abs(values[0][name]) < 1
    turned = tools.measure(before, scene(5), *CAPTIONS[::-1])
    assert turned["clip_direction"] == pytest.approx(-values[1]["clip_direction"], abs=1e-3)


def test_a_result_that_is_its_source_moves_nowhere(networks):
    values = embedder(networks, "dino-s-16").measure(scene(), scene(), *CAPTIONS)
    assert values["clip_direction"] == 0
    assert values["clip_image"] == pytest.approx(1) == values["dino"]


@pytest.mark.parametrize(
    "captions", [("", "a star"), ("a star", ""), ("a star", "a star"), ("a star", "star " * 90)]
)
def test_no_direction_without_two_captions(networks, captions):
    values = embedder(networks).measure(scene(), scene(5), *captions)
    assert values["clip_direction"] is None and values["clip_image"] is not None


def test_a_style_need_not_look_like_its_source(networks):
    options = QualityOptions(clip=str(networks / "clip-vit-b-32"), dino=str(networks / "dino-s-16"))
    for category in ("style", "color"):
        said = {"caption": CAPTIONS[0], "target_caption": CAPTIONS[1]}
        row = pair(scene(), changed(scene()), category, **said)
        values = QualityStage(options)([row])[0].values
        assert (values["clip_image"] is None) == (category == "style")
        assert values["dino"] is not None and values["clip_direction"] is not None


def test_another_network_is_another_setting_and_a_wrong_one_is_said(networks):
    one, other = embedder(networks), embedder(networks, "dino-s-16")
    assert one.describe() != other.describe() == pickle.loads(pickle.dumps(other)).describe()
    with pytest.raises(Exception, match="clip"):
        Embedder(dino=str(networks / "clip-vit-b-32")).measure(scene(), scene(), *CAPTIONS)
