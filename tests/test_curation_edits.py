"""Edits: several editors, one judge in both orders, and the whole pipeline offline."""

import base64
import io
import json
import pickle
import re
import sys
import threading
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

from editmgt_lib.curation import run
from editmgt_lib.curation.assembly import Curation
from editmgt_lib.curation.backends import OFFLINE, RUBRIC, Sizing, read_backends, seed_of
from editmgt_lib.curation.choosing import choose
from editmgt_lib.curation.config import config_from, load_config
from editmgt_lib.curation.edits import EditOptions, EditStage, edit_source
from editmgt_lib.curation.estimate import plan_lines
from editmgt_lib.curation.rows import Found, Origin, Row, Unavailable
from editmgt_lib.curation.run import curate, lacking, pipeline
from editmgt_lib.curation.terms import Terms
from editmgt_lib.errors import InputError

from .curation_backends import (
    CAPTION,
    GOOD,
    FakeEditor,
    FakeJudge,
    FakeWriter,
    backends,
    config,
    instruction,
    lines,
    save_pictures,
    start,
)
from .fake_services import FakeImages, FakeModel, opened, pictures_of, png

SIZE = (40, 24)


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    folder = save_pictures(tmp_path_factory.mktemp("one") / "p", 1, SIZE)
    values = {"category": "remove", "instruction": GOOD["remove"][0]}
    data = (folder / "0.png").read_bytes()
    return Row("id.0", Origin("p", "0.png"), data, {"instructions": Found(values)})


def edit(row, editors, judges=(), **options):
    named = ({one.name: one for one in role} for role in (editors, judges))
    [found] = EditStage(*named, EditOptions(**options))([row])
    return found


def level(found, name="edited"):
    return int(np.asarray(Image.open(io.BytesIO(found.pictures[name]))).max())


# ---- choosing

DARK, LIGHT = FakeEditor("dark", 10), FakeEditor("light", 200)


@pytest.mark.parametrize("editors", [[DARK, LIGHT], [LIGHT, DARK]])
def test_the_judge_chooses_whatever_the_order(row, editors):
    judge = FakeJudge()
    found = edit(row, editors, [judge])
    assert (level(found), level(found, "other")) == (200, 10)
    values = found.values
    assert (values["editor"], values["chosen_by"], values["agreed"]) == ("light", "judge", True)
    assert values["judge"] == "j" and len(judge.calls) == 2
    assert values["candidates"][values["chosen"]]["editor"] == "light"
    assert values["candidates"][values["second"]]["editor"] == "dark"
    assert values["comparisons"][0]["raw"] == [{"cost": 3}] * 2


@pytest.mark.parametrize(
    ("answer", "by", "agreed"),
    [("first", "order_disagreed", False), ("second", "order_disagreed", False),
     ("tie", "tie", True)],
)  # fmt: skip
def test_an_order_dependent_judge_decides_nothing(row, answer, by, agreed):
    found = edit(row, [DARK, LIGHT], [FakeJudge(answer=answer)])
    assert (found.values["chosen_by"], found.values["agreed"]) == (by, agreed)
    assert found.pictures == edit(row, [DARK, LIGHT], [FakeJudge(answer=answer)]).pictures


def test_ties_are_drawn_evenly_by_the_row(row):
    chosen = []
    for number in range(200):
        one = Row(f"r{number}", row.origin, row.picture, row.found)
        chosen.append(edit(one, [DARK, LIGHT], [FakeJudge(answer="tie")]).values["editor"])
    assert 70 < chosen.count("dark") < 130


def test_one_result_is_not_judged(row):
    judge = FakeJudge()
    found = edit(row, [DARK], [judge])
    assert (found.values["chosen_by"], found.values["agreed"]) == ("only", None)
    assert found.pictures.keys() == {"edited"} and not judge.calls and "second" not in found.values


def test_every_pair_of_three_is_compared():
    pictures = [np.full((4, 4, 3), level, np.uint8) for level in (9, 1, 5)]
    judge = FakeJudge()
    choice = choose([judge], pictures[0], pictures, "x", "add", [0, 1, 2])
    assert (choice.order, choice.by, len(judge.calls)) == ((0, 2, 1), "judge", 6)
    # the best two are equal, so the rank decides between them alone
    pictures[2] = pictures[0]
    for ranks, order in (([0, 1, 2], (0, 2, 1)), ([2, 1, 0], (2, 0, 1))):
        choice = choose([judge], pictures[0], pictures, "x", "add", ranks)
        assert (choice.order, choice.by, choice.agreed) == (order, "tie", True)


def test_a_judge_that_refuses_is_replaced_by_the_next_or_by_a_draw(row):
    refusing = FakeJudge("a", raises="refused")
    found = edit(row, [DARK, LIGHT], [refusing, FakeJudge("b")])
    assert (found.values["judge"], found.values["chosen_by"]) == ("b", "judge")
    found = edit(row, [DARK, LIGHT], [refusing])
    assert (found.values["chosen_by"], found.values["agreed"]) == ("unjudged", None)
    assert found.values["comparisons"][0]["failure"] == "refused"
    assert edit(row, [DARK, LIGHT]).values["chosen_by"] == "unjudged"


def test_a_judge_that_may_answer_later_fails_the_row_until_then(row):
    with pytest.raises(Exception, match="timeout") as caught:
        edit(row, [DARK, LIGHT], [FakeJudge(raises="timeout")])
    assert not caught.value.failure.lasting


# ---- editors


@pytest.mark.parametrize(
    ("raises", "code"),
    [("refused", "refused"), ("timeout", "timeout"), (RuntimeError("broken"), "error"),
     (MemoryError(), "out_of_memory"), (InputError("no"), "bad_input")],
)  # fmt: skip
def test_one_editor_without_an_answer_costs_only_its_candidate(row, raises, code):
    found = edit(row, [FakeEditor("bad", raises=raises), LIGHT], [FakeJudge()])
    assert found.failure is None and found.values["chosen_by"] == "only"
    assert [one["failure"] for one in found.values["candidates"]] == [code, ""]
    found = edit(row, [FakeEditor("bad", raises=raises)])
    assert found.failure.code == code and not found.pictures
    assert found.values["candidates"][0]["failure"] == code


def test_one_that_may_answer_later_keeps_the_row_open(row):
    editors = [FakeEditor("a", raises="refused"), FakeEditor("b", raises="timeout")]
    failure = edit(row, editors).failure
    assert (failure.code, failure.lasting) == ("timeout", False)
    assert "a said so; b said so" in failure.detail


def test_an_editor_that_is_down_stops_the_run(row):
    with pytest.raises(Unavailable, match="is down"):
        edit(row, [LIGHT, FakeEditor("gone", raises="down")])


def test_a_result_of_another_size_is_no_result(row):
    found = edit(row, [FakeEditor("odd", shape=(24, 41, 3)), LIGHT])
    assert [one["failure"] for one in found.values["candidates"]] == ["size", ""]


def test_seeds_follow_from_row_editor_and_try(row):
    first, second = FakeEditor("a"), FakeEditor("b")
    found = edit(row, [first, second], [FakeJudge()], tries=2, seed=7)
    seeds = [call[2] for one in (first, second) for call in one.calls]
    assert seeds == [seed_of(7, row.id, name, n) for name in "ab" for n in range(2)]
    assert [one["seed"] for one in found.values["candidates"]] == seeds
    assert len(set(seeds)) == 4


def test_sizes_are_passed_both_ways(row):
    small = FakeEditor("small", sizing=Sizing(multiple=8, most=20 * 12))
    large, judge = FakeEditor("large", 9), FakeJudge()
    found = edit(row, [small, large], [judge])
    assert {call[0] for one in (small, large) for call in one.calls} == {judge.calls[0][0]}
    values = found.values
    assert values["width"] / values["height"] == pytest.approx(40 / 24, rel=0.1)
    assert values["width"] * values["height"] <= 240
    assert values["sent_width"] == values["width"] + 8
    image = Image.open(io.BytesIO(found.pictures["edited"]))
    done = Row(row.id, row.origin, row.picture, {**row.found, "edits": found})
    assert image.size == edit_source(done).shape[1::-1] == (values["width"], values["height"])


@pytest.mark.parametrize(("short", "size"), [(12, (20, 12)), (0, SIZE), (999, SIZE)])
def test_large_pictures_are_scaled_down_first(row, short, size):
    found = edit(row, [LIGHT], short_side=short)
    assert (found.values["width"], found.values["height"]) == size


def test_a_pair_carries_the_terms_of_its_editor(row):
    found = edit(row, [FakeEditor("k", terms=Terms("NC", ("publish",)))])
    assert found.values["editor_licence"] == "NC" and found.values["editor_uses"] == ["publish"]
    assert found.values["revision"] == "1"


def test_stages_travel_to_other_processes_and_their_settings_are_plain():
    for stage in pipeline(config_from({"preset": "toyworld"})):
        assert pickle.loads(pickle.dumps(stage)).settings == stage.settings
        json.dumps(stage.settings)


def test_a_local_model_edits_one_picture_at_a_time(monkeypatch):
    editor = read_backends(OFFLINE).editors["toy"]
    inside, most = [], []

    class Model:
        def edit(self, image, *_, **__):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.pop()
            raise ZeroDivisionError

    monkeypatch.setitem(vars(editor), "_model", Model())
    pixels = np.zeros((8, 8, 3), np.uint8)

    def work():
        with pytest.raises(ZeroDivisionError):
            editor.edit(pixels, "x", 0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


# ---- whole runs


def made(**changes):
    roles = {"writers": [FakeWriter()], "editors": [FakeEditor("a", 1), FakeEditor("b", 2)],
             "judges": [FakeJudge()]}  # fmt: skip
    return backends(**{**roles, **changes})


def test_a_run_goes_on_where_an_editor_went_down(tmp_path):
    folder, out = save_pictures(tmp_path / "p", 4), tmp_path / "out"

    class Failing(FakeEditor):
        def edit(self, *arguments):
            self.raises = "down" if len(self.calls) == 5 else None
            return super().edit(*arguments)

    editor = Failing("a", 1)
    with pytest.raises(Unavailable):
        start(folder, out, made(editors=[editor, FakeEditor("b", 2)]))
    assert len(lines(out, "edits")) == 4  # a shard of two pictures with two instructions each
    again = FakeEditor("a", 1), FakeEditor("b", 2)
    *_, stage = start(folder, out, made(editors=again))
    assert (stage.seen, stage.kept) == (8, 8) and len(again[0].calls) == 4
    start(folder, tmp_path / "whole", made())
    assert lines(out, "edits") == lines(tmp_path / "whole", "edits")


def test_rows_that_failed_for_now_are_done_by_the_next_run(tmp_path):
    folder, out = save_pictures(tmp_path / "p", 2), tmp_path / "out"
    *_, stage = start(folder, out, made(judges=[FakeJudge(raises="timeout")]))
    assert (stage.kept, stage.reasons) == (0, {"timeout": 4})
    *_, stage = start(folder, out, made())
    assert (stage.kept, stage.failed) == (4, 0)


def test_the_number_of_workers_changes_no_edit(tmp_path):
    folder = save_pictures(tmp_path / "p", 5)
    for workers in (1, 3):
        engine = {"workers": workers, "shard_rows": 3}
        start(folder, tmp_path / str(workers), made(), engine=engine)
    one, three = (lines(tmp_path / str(workers), "edits") for workers in (1, 3))
    assert one == three != []
    zips = [sorted((tmp_path / str(workers) / "edits").glob("*.zip")) for workers in (1, 3)]
    assert [p.read_bytes() for p in zips[0]] == [p.read_bytes() for p in zips[1]] != []


def test_terms_of_an_editor_drop_its_pairs_only_afterwards(tmp_path, monkeypatch):
    folder, out = save_pictures(tmp_path / "p", 2), tmp_path / "out"
    research = made(editors=[FakeEditor("k", terms=Terms("NC", ("publish",)))])
    assert start(folder, out, research)[-1].kept == 4
    *_, stage = start(folder, out, research, uses=["publish", "train"])
    assert (stage.kept, stage.reasons) == (0, {"licence": 4})
    monkeypatch.setattr(run, "open_backends", lambda _: research)
    uses = config(folder, research, uses=["publish", "train"])
    assert any("edits by k will be dropped" in line for line in lacking(uses, pipeline(uses)))


def test_disagreement_flags_a_row(tmp_path):
    folder, out = save_pictures(tmp_path / "p", 1), tmp_path / "out"
    start(folder, out, made(judges=[FakeJudge(answer="first")]))
    assert all(line["flags"] == ["edits.agreed"] for line in lines(out, "decisions"))


def test_what_is_not_configured_is_told(tmp_path, monkeypatch):
    for given, told in (
        ({"writers": [], "editors": [], "judges": []}, "no instructions are written"),
        ({"editors": []}, "nothing is edited"), ({"judges": []}, "nobody judges"),
    ):  # fmt: skip
        monkeypatch.setattr(run, "open_backends", lambda _, given=given: made(**given))
        one = config(tmp_path, made(**given))
        assert any(told in line for line in lacking(one, pipeline(one)))
    with pytest.raises(InputError, match=r"add a \[writers.NAME\]"):
        config(tmp_path, made(writers=[]))
    with pytest.raises(InputError, match="edits: there is no key 'try'"):
        config(tmp_path, made(), edits={"try": 1})


def test_limits_of_stages_that_are_absent_are_no_rules(tmp_path):
    plain = config_from({"sources": [{"name": "p", "path": str(tmp_path)}], "uses": ["train"]})
    assert {rule.stage for rule in plain.rules()} == {"sources", "images"}


# ---- offline


def test_the_offline_preset_names_the_embedded_back_ends():
    preset = config_from({"preset": "toyworld"})
    assert {role: getattr(preset, role) for role in OFFLINE} == OFFLINE
    [source] = preset.sources
    assert source.path == "toyworld:200" and source.row is not None


def test_scenes_of_the_toy_world_are_a_source(tmp_path):
    (tmp_path / "toy.toml").write_text('sources = [{name = "t", path = "toyworld:2"}]')
    made = load_config(tmp_path / "toy.toml")
    curation = Curation(tmp_path / "out", {"t": made.sources[0]})
    assert curation.list_new(10) == 2
    first, second = curation.rows(0)
    assert first.encoded() == first.encoded() != second.encoded()
    with pytest.raises(InputError, match="write as toyworld:200"):
        bad = config_from({"sources": [{"name": "t", "path": "toyworld:all"}]})
        Curation(tmp_path / "bad", {"t": bad.sources[0]}).list_new(10)


def test_a_plan_counts_questions_edits_and_judgements(tmp_path):
    source = {"name": "t", "path": "toyworld:3"}
    plan = config_from({"preset": "toyworld", "sources": [source]})
    curation = Curation(tmp_path / "out", {"t": plan.sources[0]})
    told = "\n".join(plan_lines(plan, pipeline(plan), curation))
    assert "3 captions and 3 to 9 questions" in told
    assert "6 edits by toy, 6 edits by toy-fast; 12 judgements" in told


def test_a_plan_says_what_is_left_at_the_rate_so_far(tmp_path, monkeypatch):
    folder, out = save_pictures(tmp_path / "p", 2), tmp_path / "out"
    start(folder, out, made())
    Image.new("RGB", SIZE).save(folder / "more.png")
    monkeypatch.setattr(run, "open_backends", lambda _: made())
    plan = config(folder, made())
    stages = pipeline(plan)
    names = tuple(stage.name for stage in stages)
    curation = Curation(out, {"p": plan.sources[0]}, names)
    told = {line.split(":")[0]: line for line in plan_lines(plan, stages, curation)}
    assert re.search(
        r"at most 1 row, .*, \d+ seconds? at the rate so far", told["stage instructions"]
    )
    assert "2 edits by a, 2 edits by b; 4 judgements" in told["stage edits"]


def curate_offline(out, **engine):
    """Three scenes through all stages, by the shipped checkpoint in few steps."""
    source = {"name": "t", "path": "toyworld:3", "licence": "synthetic"}
    editors = {
        name: {**table, "options": {"steps": steps}}
        for steps, (name, table) in enumerate(OFFLINE["editors"].items(), 1)
    }
    table = {
        "preset": "toyworld", "sources": [source], "editors": editors,
        "instructions": {"per_picture": 1}, "engine": engine,
    }  # fmt: skip
    return {stage.stage: stage for stage in curate(config_from(table), out)}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    out = tmp_path_factory.mktemp("offline") / "out"
    return out, curate_offline(out, workers=1)


def test_everything_runs_offline(offline):
    out, found = offline
    assert list(found) == ["sources", "images", "scores", "instructions", "edits", "quality"]
    assert not found["quality"].failed
    assert found["scores"].kept == 3 and found["edits"].seen >= 1 and not found["edits"].failed
    [first, *_] = lines(out, "edits")
    assert {one["failure"] for one in first["values"]["candidates"]} == {""}
    assert {line["values"]["judge"] for line in lines(out, "edits")} == {"toy"}
    assert first["values"]["editor_licence"] == "Apache-2.0" and len(first["pictures"]) == 2
    report = json.loads((out / "report.json").read_text())
    assert set(report["stand_ins"]) == {"toy", *OFFLINE["editors"]}


def test_worker_processes_write_the_same_bytes_in_every_stage(offline, tmp_path):
    out, found = offline
    assert curate_offline(tmp_path / "out", workers=2, processes=True) == found

    def written(folder):
        files = (path for path in folder.rglob("*") if path.suffix in (".jsonl", ".zip"))
        return {path.relative_to(folder): path.read_bytes() for path in files}

    assert written(tmp_path / "out") == written(out)
    assert {path.parts[0] for path in written(out)} > {"instructions", "edits", "quality"}


# ---- over the network


def test_servers_write_edit_and_judge(tmp_path):
    """The whole way over HTTP, with a fault, broken JSON and a refusal on it."""

    def said(payload):
        name = payload["response_format"]["json_schema"]["name"]
        if name == "caption":
            return {**CAPTION}
        if name == "rating":
            return {"reasoning": "", "done": "", **dict.fromkeys(RUBRIC, 9)}
        if name == "comparison":
            dark, light = (int(p.max()) for p in pictures_of(payload)[1:])
            return {"reasoning": "", "better": "first" if dark > light else "second"}
        if "refused" not in json.dumps(payload["messages"]):
            asked.append(payload)
            bad = instruction("remove", "Remove the dog", "dog")
            return "no JSON" if len(asked) == 1 else {"instructions": [bad]}
        return {"instructions": [instruction("remove")]}

    asked, balance = [], {**dict.fromkeys(GOOD, 0), "remove": 1}

    def grey(level):
        def content(form):
            picture = png(np.full_like(opened(form["image"]), level))
            return 200, {"data": [{"b64_json": base64.b64encode(picture).decode()}]}

        return content

    refusal = (400, {"error": {"message": "no", "code": "content_policy_violation"}})
    images = [FakeImages(change) for change in (grey(200), grey(20), lambda _: refusal)]
    folder, out = save_pictures(tmp_path / "p", 1, (64, 48)), tmp_path / "out"
    with ExitStack() as stack:
        servers = [stack.enter_context(one) for one in (FakeModel(said), *images)]
        model, *editors = (f"{one.url}/v1" for one in servers)
        table = {"kind": "openai", "url": model, "model": "m", "backoff": 0.001}
        named = {
            name: {"kind": "openai-images", "url": url, "model": "e", "terms": "Apache-2.0",
                   "retries": 0}
            for name, url in zip(("light", "dark", "none"), editors, strict=True)
        }  # fmt: skip
        made = read_backends({"writers": {"w": table}, "judges": {"j": table}, "editors": named})
        *_, stage = start(folder, out, made, instructions={"per_picture": 1, "balance": balance})
    assert (stage.seen, stage.kept, stage.failed) == (1, 1, 0)
    [line] = lines(out, "edits")
    assert (line["values"]["editor"], line["values"]["chosen_by"]) == ("light", "judge")
    spent = json.loads((out / "report.json").read_text())["spent"]
    questions = sum(method == "POST" for method, *_ in servers[0].asked)
    assert (spent["calls"], spent["edits"]) == (questions, 3) and spent["tokens"] == 10 * questions
    assert [one["failure"] for one in line["values"]["candidates"]][:2] == ["", ""]
    assert line["values"]["candidates"][2]["failure"] in ("refused", "filtered")
    [written] = lines(out, "instructions")
    assert [part["values"]["absent"] for part in written["parts"]] == [1, 0]
    outcomes = [a["outcome"] for raw in written["values"]["raw"] for a in raw["attempts"]]
    assert outcomes == ["ok", "malformed", "ok", "ok"]
