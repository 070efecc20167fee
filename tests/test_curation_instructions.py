"""Instructions: what code finds wrong with them, how they are asked for, and what is written."""

import json
import shutil
import sys
from collections import Counter

import numpy as np
import pytest

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

from editmgt_lib.curation.backends import CATEGORIES, NoAnswer, prompts, toyworld
from editmgt_lib.curation.instructions import InstructionOptions, InstructionStage
from editmgt_lib.curation.places import check_places, position
from editmgt_lib.curation.rows import Origin, Row
from editmgt_lib.curation.validation import CHECKS, Proposal, find_faults, same_edit
from editmgt_lib.curation.variety import THEMES, VERBS, draw_counts, draw_wishes
from editmgt_lib.errors import InputError
from editmgt_lib.toyworld.world import SLOT_NAMES, caption, edit_scene, fits, sample_scene

from .curation_backends import (
    CAPTION,
    GOOD,
    OBJECTS,
    FakeWriter,
    backends,
    config,
    instruction,
    lines,
    save_pictures,
    start,
)  # fmt: skip

# ---- faults


def proposal(category, text, about=None, target="", described=CAPTION):
    about = GOOD[category][1] if about is None else about
    objects = tuple(described["objects"])
    return Proposal(category, text, about, target, described["caption"], objects)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_good_instruction_has_no_fault(category):
    assert find_faults(proposal(category, GOOD[category][0])) == ()


@pytest.mark.parametrize(
    ("fault", "category", "text", "about"),
    [
        ("length", "remove", "Remove cup", "cup"),
        ("length", "remove", "Remove the cup " + "very " * 60, "cup"),
        ("junk", "remove", "Remove the cup </s>", "cup"),
        ("junk", "remove", "**Remove the cup**", "cup"),
        ("junk", "remove", "Remove the cup \u8bf7\u5220\u9664", "cup"),
        ("junk", "remove", "Remove the cup \U0001f600", "cup"),
        ("junk", "remove", "Remove the cup as on https://x.example", "cup"),
        ("junk", "remove", "Remove the cup\x00", "cup"),
        ("refusal", "remove", "I\u2019m sorry, I can\u2019t remove the cup", "cup"),
        ("refusal", "add", "As an AI I add no spoon", "spoon"),
        ("misfiled", "add", "Remove the cup", "cup"),
        ("misfiled", "remove", "Replace the cup with a jug", "cup"),
        ("misfiled", "motion change", "Delete the cup", "cup"),
        ("misfiled", "style", "Insert a cup of tea", "cup"),
        ("misfiled", "replace", "Replace the background with a beach", "background"),
        ("misfiled", "extend", "Extend the cup to the right", "cup"),
        ("several", "remove", "Remove the cup and add a spoon", "cup"),
        ("several", "color", "Make the cup green. Then make the table blue.", "cup"),
        ("unnamed", "remove", "Remove it from here", "cup"),
        ("unnamed", "remove", "Remove the cup from here", ""),
        ("absent", "remove", "Remove the dog", "dog"),
        ("absent", "color", "Make the blue cup green", "blue cup"),
        ("present", "add", "Add a cup to the table", "cup"),
        ("ambiguous", "remove", "Remove the plate", "plate"),
        ("misplaced", "remove", "Remove the cup on the right", "cup"),
        ("noop", "color", "Make the red cup red", "red cup"),
        ("noop", "replace", "Replace the cup with a cup", "cup"),
        ("noop", "background change", "Make the background brown", "background"),
        ("noop", "motion change", "Move the cup to the left", "cup"),
        ("subtle", "motion change", "Tip the cup slightly", "cup"),
        ("subtle", "color", "Make the cup a bit darker green", "cup"),
    ],
)
def test_faults_are_found(fault, category, text, about):
    described = {**CAPTION, "objects": [*OBJECTS, {"name": "red cup", "count": 1, "where": ""}]}
    described = described if about == "red cup" else CAPTION
    assert fault in find_faults(proposal(category, text, about, described=described))


@pytest.mark.parametrize(
    ("category", "text", "about"),
    [
        ("add", "Add another cup to the table", "cup"),
        ("add", "Add a spoon slightly to the left of the cup", "spoon"),
        ("add", "Insert a caf\u00e9 sign behind the cup", "caf\u00e9 sign"),
        ("add", "Insert a cafe\u0301 sign behind the cup", "cafe\u0301 sign"),
        ("motion change", "Turn the cup by 90\u00b0", "cup"),
        ("remove", "Remove all plates", "plate"),
        ("remove", "Erase the left plate", "plate"),
        ("remove", "Please take the cup away.", "cup"),
        ("remove", "Remove the red cup", "red cup"),
        ("replace", "Swap the red cup for a red jug", "cup"),
        ("color", "Make the red cup green", "red cup"),
        ("color", "Paint the cup green, like grass", "cup"),
        ("background change", "Replace the background with a beach", "background"),
        ("background change", "Put the cup on a green background", "background"),
        ("style", "Redraw it as a comic", "picture"),
        ("motion change", "Move the cup to the right", "cup"),
    ],
)
def test_what_is_no_fault(category, text, about):
    assert set(find_faults(proposal(category, text, about))) <= {"misplaced"}
    if "left plate" not in text:
        assert find_faults(proposal(category, text, about)) == ()


def test_a_caption_that_did_not_change_is_a_noop():
    same = CAPTION["caption"].upper()
    assert find_faults(proposal("remove", "Remove the cup", target=same)) == ("noop",)
    assert not find_faults(proposal("motion change", "Tip the cup over", target=same))


def test_nothing_is_found_in_toyworlds_own_instructions():
    """Whatever its words are: false alarms would cost the writer's work."""
    seen = Counter()
    for number in range(25):
        rng = np.random.default_rng(number)
        scene = sample_scene(rng)
        objects = [{"name": t.name, "count": 1, "where": SLOT_NAMES[t.slot]} for t in scene.things]
        described = {"caption": caption(scene, rng), "objects": objects}
        for category, own in toyworld.OWN_NAMES.items():
            if fits(scene, own):
                pair = edit_scene(rng, scene, own)
                one = toyworld._written(category, pair, rng)
                found = proposal(
                    category, one["instruction"], one["object"], one["caption"], described
                )
                assert find_faults(found) == (), one
                seen[category] += 1
    assert seen.keys() == set(CATEGORIES)


def test_equal_edits_in_other_words():
    def same(category, one, other, about="cup"):
        first, second = (same_edit(proposal(category, text, about)) for text in (one, other))
        return first == second

    assert same("remove", "Remove the cup", "Please erase a cup.")
    assert same("style", "Turn the picture into a woodcut.", "please turn picture into woodcut")
    assert not same("replace", "Replace the cup with a jug", "Replace the jug with a cup")
    assert not same("color", "Make the cup red", "Make the cup blue")


# ---- places


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("top left", {"x": -1, "y": -1}), ("center", {"x": 0, "y": 0}), ("", {}),
        ("on the right, in the background", {"x": 1, "z": 1}), ("middle left", {"x": -1}),
        ("on a shelf", {}),
    ],
)  # fmt: skip
def test_positions(text, found):
    assert position(text) == found


@pytest.mark.parametrize(
    ("category", "text", "name", "verdict"),
    [
        ("remove", "Remove the cup", "cup", ""),
        ("remove", "Remove the cup on the left", "cup", "confirmed"),
        ("remove", "Remove the cup on the left side of the picture", "cup", "confirmed"),
        ("remove", "Remove the leftmost cup", "cup", "confirmed"),
        ("remove", "Remove the right cup", "cup", "refuted"),
        ("remove", "Remove the plate in the top right corner", "plate", "refuted"),
        ("remove", "Remove the cup at the top", "cup", "unchecked"),
        ("remove", "Remove the dog on the left", "dog", "unchecked"),
        ("remove", "Remove the cup left of the plate", "cup", "confirmed"),
        ("remove", "Remove the cup to the right of the plate", "cup", "refuted"),
        ("remove", "Remove the cup above the plate", "cup", "unchecked"),
        ("remove", "Remove the cup in the left hand", "cup", "unchecked"),
        ("color", "Paint the plate on the left blue", "plate", "refuted"),
        ("replace", "Replace the cup with a jug on the right", "cup", "unchecked"),
        ("replace", "Replace the cup on the right with a jug", "cup", "refuted"),
        ("motion change", "Move the cup to the right", "cup", "unchecked"),
        ("motion change", "Move the cup on the left to the right", "cup", "confirmed"),
        ("motion change", "Move the cup to the right of the plate", "cup", "unchecked"),
        ("add", "Add a spoon on the left", "spoon", "unchecked"),
        ("background change", "Change the background to a beach", "background", ""),
    ],
)
def test_places_are_compared_with_the_caption(category, text, name, verdict):
    assert check_places(category, text, name, OBJECTS) == verdict


def test_of_two_objects_one_in_the_place_is_enough():
    objects = [{"name": "cup", "where": "left"}, {"name": "blue cup", "where": "right"}]
    assert check_places("remove", "Remove the cup on the right", "cup", objects) == "confirmed"
    centre = [{"name": "cup", "where": "center"}]
    assert check_places("remove", "Remove the cup on the right", "cup", centre) == "unchecked"


# ---- balance


def test_categories_come_out_even_whatever_the_order_of_rows():
    rows = [f"row{number}" for number in range(2000)]
    drawn = {row: draw_counts(3, row, 3, {}) for row in rows}
    assert all(sum(counts.values()) == 3 for counts in drawn.values())
    assert all(set(counts.values()) == {1} for counts in drawn.values())
    total = sum((Counter(counts) for counts in drawn.values()), Counter())
    assert all(abs(total[name] / 6000 - 1 / 7) < 0.012 for name in CATEGORIES)
    pairs = Counter(frozenset(counts) for counts in drawn.values())
    assert len(pairs) == 35  # every three of seven come together
    assert drawn == {row: draw_counts(3, row, 3, {}) for row in reversed(rows)}
    assert drawn != {row: draw_counts(4, row, 3, {}) for row in rows}


def test_weights_are_expected_shares():
    balance = {**dict.fromkeys(CATEGORIES, 0), "add": 3, "style": 1}
    total = Counter()
    for number in range(1000):
        counts = draw_counts(0, f"row{number}", 2, balance)
        assert counts["add"] in (1, 2)
        total.update(counts)
    assert total.keys() == {"add", "style"} and abs(total["add"] - 1500) < 60
    assert draw_counts(0, "row", 14, {}) == dict.fromkeys(CATEGORIES, 2)


def test_a_model_is_told_verbs_and_themes_of_what_is_asked():
    wishes = draw_wishes(0, "row", dict.fromkeys(CATEGORIES, 1))
    text = prompts.write_text({}, {"add": 1}, (), wishes)
    assert json.dumps({"add": wishes["add"]}) in text
    assert "For variety" not in prompts.write_text({}, {"add": 1}, (), {})


def test_verbs_and_themes_come_out_even():
    seen = {name: Counter() for name in CATEGORIES}
    for number in range(1500):
        for name, wish in draw_wishes(0, f"row{number}", dict.fromkeys(CATEGORIES, 1)).items():
            seen[name].update(wish.values())
    for name in CATEGORIES:
        for words in (VERBS[name], THEMES[name]):
            numbers = [
                seen[name][word] for word in set(words) - (set(VERBS[name]) & set(THEMES[name]))
            ]
            assert min(numbers) > 0.5 * 1500 / len(words), name


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"per_picture": 0}, "per_picture"), ({"tries": 0}, "tries"),
        ({"balance": {"adds": 1}}, "balance"), ({"balance": {"add": -1}}, "balance.add"),
        ({"balance": dict.fromkeys(CATEGORIES, 0)}, "leaves out every category"),
        ({"per_pictures": 3}, "did you mean 'per_picture'"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options, match, tmp_path):
    with pytest.raises(InputError, match=match):
        config(tmp_path, backends([FakeWriter()]), instructions=options)


# ---- one picture


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    folder = save_pictures(tmp_path_factory.mktemp("one") / "p", 1)
    return Row("id", Origin("p", "0.png"), (folder / "0.png").read_bytes())


def asked(row, writer, only="remove", count=1, **options):
    balance = {**dict.fromkeys(CATEGORIES, 0), only: 1}
    options = InstructionOptions(per_picture=count, balance=balance, **options)
    [found] = InstructionStage({one.name: one for one in [writer]}, options)([row])
    return found


def faulty(found):
    """Names of faults, by instruction."""
    names = (*CHECKS, "unasked", "repeated")
    return [
        (part.values["instruction"], *(name for name in names if part.values[name]))
        for part in found.parts
    ]


def test_faults_go_back_to_the_writer_and_stay_on_record(row):
    bad = instruction("remove", "Remove the dog", "dog")
    writer = FakeWriter(tries=[[bad], [instruction("remove")]])
    found = asked(row, writer)
    assert faulty(found) == [("Remove the dog", "absent"), ("Remove the cup",)]
    first, second = (call for call in writer.calls if call[0] == "write")
    assert first[3] == [] and second[1] == {"remove": 1}
    [told] = second[3]
    assert told["instruction"] == "Remove the dog" and "does not have its object" in told["reason"]
    assert first[4].keys() == {"remove"} and second[4] == {}  # wishes, the first time only
    assert first[2] != second[2]  # another seed
    assert [part.values["tries"] for part in found.parts] == [1, 2]


def test_tries_are_bounded_and_only_faults_are_asked_again(row):
    good, bad = instruction("remove"), instruction("remove", "Remove the dog", "dog")
    writer = FakeWriter(tries=[[good, bad], [bad]])
    found = asked(row, writer, count=2, tries=3)
    assert [call[1] for call in writer.calls if call[0] == "write"] == [
        {"remove": 2}, {"remove": 1}, {"remove": 1},
    ]  # fmt: skip
    assert faulty(found)[2:] == [("Remove the dog", "absent", "repeated")] * 2
    assert len(writer.calls[-1][3]) == 2  # every fault so far


def test_fewer_than_asked_are_not_asked_again(row):
    writer = FakeWriter(tries=[[instruction("remove")]])
    assert len(asked(row, writer, count=2).parts) == 1
    assert len(writer.calls) == 2


def test_repeats_and_what_nobody_asked_for_are_marked(row):
    writer = FakeWriter(
        tries=[[instruction("remove"), instruction("remove", "Erase the cup."),
                instruction("style"), instruction("remove", "Remove all plates", "plates")]]
    )  # fmt: skip
    assert faulty(asked(row, writer, count=2, tries=1)) == [
        ("Remove the cup",), ("Erase the cup.", "repeated"),
        ("Turn the picture into a woodcut", "unasked"), ("Remove all plates",),
    ]  # fmt: skip


def test_space_is_one_blank(row):
    spaced = instruction("remove", " Remove\n the   cup ", "cup")
    assert faulty(asked(row, FakeWriter(tries=[[spaced]]))) == [("Remove the cup",)]


def test_values_of_a_part_are_those_of_the_contract(row):
    found = asked(row, FakeWriter())
    [part] = found.parts
    assert {
        "category", "instruction", "object", "target_caption", "caption", "writer", "tries",
        "words", "spatial",
    } <= part.values.keys()  # fmt: skip
    assert (part.values["writer"], part.values["words"]) == ("w", 3)
    assert (part.values["category"], part.values["spatial"]) == ("remove", "")
    assert all(part.values[name] == 0 for name in (*CHECKS, "unasked", "repeated"))
    assert found.values["raw"] == [{"cost": 1}, {"cost": 2}]
    assert found.values["asked"] == {"remove": 1} and found.values["objects"] == OBJECTS


def test_a_refusal_fails_the_picture_unless_another_writer_answers(row):
    found = asked(row, FakeWriter(raises="refused"))
    assert (found.failure.code, found.failure.lasting) == ("refused", True)
    stage = InstructionStage({"a": FakeWriter("a", raises="refused"), "b": FakeWriter("b")})
    [found] = stage([row])
    assert {part.values["writer"] for part in found.parts} == {"b"}
    stage = InstructionStage({n: FakeWriter(n, raises=n) for n in ("refused", "timeout")})
    [found] = stage([row])
    assert (found.failure.code, found.failure.lasting) == ("timeout", False)


def test_a_refusal_later_on_keeps_what_was_written(row):
    bad = instruction("remove", "Remove the dog", "dog")
    writer = FakeWriter(tries=[[instruction("remove"), bad], NoAnswer("refused", "no")])
    assert len(asked(row, writer, count=2).parts) == 2
    writer = FakeWriter(tries=[NoAnswer("refused", "no")])
    assert asked(row, writer).failure.code == "refused"


def test_no_instruction_at_all_is_a_failure(row):
    found = asked(row, FakeWriter(tries=[[]]))
    assert found.failure.code == "no_instructions" and "none of remove" in found.failure.detail


def test_writers_share_the_pictures():
    writers = {name: FakeWriter(name) for name in "ab"}
    stage = InstructionStage(writers)
    firsts = Counter(int(stage._rng(Row(f"r{n}", None, None), "writer").integers(2))
                     for n in range(400))  # fmt: skip
    assert min(firsts.values()) > 150


# ---- whole runs


def test_refused_instructions_are_written_with_their_reason(tmp_path):
    bad = instruction("remove", "Remove the dog", "dog")
    writer = FakeWriter(tries=[[bad, instruction("style")]])
    folder = save_pictures(tmp_path / "p", 3)
    options = {"instructions": {"tries": 1, "per_picture": 14}}
    *_, stage = start(folder, tmp_path / "out", backends([writer]), **options)
    assert (stage.seen, stage.kept, stage.reasons) == (6, 3, {"absent": 3})
    images = _[1]
    assert (images.seen, images.kept) == (3, 3)  # pictures, not instructions
    reasons = Counter(line.get("reason", "") for line in lines(tmp_path / "out", "decisions"))
    assert reasons == {"absent": 3, "": 3}


def test_a_moved_threshold_brings_an_instruction_back(tmp_path):
    writer = FakeWriter(tries=[[instruction("remove", "Remove the dog", "dog")]])
    folder, out = save_pictures(tmp_path / "p", 2), tmp_path / "out"
    options = {"instructions": {"tries": 1, "per_picture": 7}}
    assert start(folder, out, backends([writer]), **options)[-1].kept == 0
    calls = len(writer.calls)
    keep = {"instructions": {"absent": "off"}}
    assert start(folder, out, backends([writer]), keep=keep, **options)[-1].kept == 2
    assert len(writer.calls) == calls


def test_a_failed_picture_is_asked_again_by_the_next_run(tmp_path):
    folder, out = save_pictures(tmp_path / "p", 3), tmp_path / "out"
    *_, stage = start(folder, out, backends([FakeWriter(raises="timeout")]))
    assert (stage.kept, stage.reasons) == (0, {"timeout": 3})
    *_, stage = start(folder, out, backends([FakeWriter()]))
    assert (stage.kept, stage.failed) == (6, 0)
    writer = FakeWriter()
    start(folder, out, backends([writer]))
    assert writer.calls == []


def test_the_number_of_workers_changes_nothing(tmp_path):
    folder = save_pictures(tmp_path / "p", 5)
    for workers in (1, 3):
        engine = {"workers": workers, "shard_rows": 3}
        start(folder, tmp_path / str(workers), backends([FakeWriter()]), engine=engine)
    for stage in ("instructions", "decisions"):
        one, three = (lines(tmp_path / str(workers), stage) for workers in (1, 3))
        assert one == three != []


def test_the_report_counts_what_kept_instructions_are_about(tmp_path):
    bad = instruction("remove", "Remove the dog", "dog")
    writer = FakeWriter(tries=[[bad, instruction("remove"), instruction("style")]])
    folder, out = save_pictures(tmp_path / "p", 3), tmp_path / "out"
    start(folder, out, backends([writer]), instructions={"tries": 1, "per_picture": 14})
    assert json.loads((out / "report.json").read_text())["words"] == {
        "remove": {"rows": 3, "objects": 1, "top_objects": [["cup", 3]],
                   "top_first_words": [["remove", 3]]},
        "style": {"rows": 3, "objects": 1, "top_objects": [["picture", 3]],
                  "top_first_words": [["turn", 3]]},
    }  # fmt: skip


def test_too_many_of_a_kind_are_dropped_in_the_order_of_rows(tmp_path):
    folder, out = save_pictures(tmp_path / "p", 5), tmp_path / "out"
    balance = {**dict.fromkeys(CATEGORIES, 0), "remove": 1}
    options = {"per_picture": 1, "balance": balance}
    writer = FakeWriter()
    start(folder, out, backends([writer]), instructions=options)
    calls = len(writer.calls)
    capped = {**options, "most_alike": 2}
    *_, stage = start(folder, out, backends([writer]), instructions=capped)
    assert (stage.seen, stage.kept, stage.reasons) == (5, 2, {"common": 3})
    verdicts = [line["verdict"] for line in lines(out, "decisions")]
    assert verdicts == ["keep"] * 2 + ["drop"] * 3 and len(writer.calls) == calls
    other = shutil.copytree(out, tmp_path / "other")
    assert start(folder, other, backends([writer]), instructions=options)[-1].kept == 5
