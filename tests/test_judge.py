"""Judging: known answers, strict reading, and a judge that does everything a judge can do wrong."""

import json
import random
from dataclasses import replace
from http.client import HTTPException
from itertools import product
from math import sqrt
from statistics import fmean, pstdev
from time import monotonic

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.data.processes import Process
from editmgt_lib.endpoints import is_refusal, transport
from editmgt_lib.errors import InputError
from editmgt_lib.evaluation.benchmark import Plan, run_benchmark
from editmgt_lib.evaluation.items import Item, Score
from editmgt_lib.evaluation.jsonl import append_lines
from editmgt_lib.evaluation.judging import (
    Calibration,
    JudgeOptions,
    between_runs,
    calibrate,
    check_judge,
    judge_run,
    read_published,
    scale,
)
from editmgt_lib.evaluation.judging.parsing import Unreadable, read_lines, read_list
from editmgt_lib.evaluation.judging.pictures import area_512, judged_sizes
from editmgt_lib.evaluation.judging.prompts import load_prompts
from editmgt_lib.evaluation.judging.protocols import find_protocol, overall
from editmgt_lib.evaluation.runs import RunFolder
from editmgt_lib.evaluation.statistics import Column, group_means

from . import lookalikes
from .fake_judge import FakeJudge, completion, failure, good, moody

GEDIT, IMGEDIT = find_protocol("gedit"), find_protocol("imgedit")
GEDIT_COUNTS = (40, 40, 40, 40, 70, 60, 60, 57, 60, 99, 40)


# ---- known answers of the benchmarks


@pytest.mark.parametrize(
    "size, expected",
    [((512, 512), (512, 512)), ((1024, 768), (591, 443)), ((500, 375), (591, 443)),
     ((1920, 1080), (682, 384)), ((640, 384), (660, 396)), ((672, 416), (650, 402))],
)  # fmt: skip
def test_size_of_512_squares_area(size, expected):
    assert area_512(size) == expected


def test_three_resizes():
    source, output = (640, 384), (1024, 1024)
    assert judged_sizes("output-to-source", source, output) == (source, source)
    assert judged_sizes("native", source, output) == (source, output)
    assert judged_sizes("area-512", source, output) == ((660, 396), (512, 512))


def test_gedit_scores_of_one_item():
    found = GEDIT.values({"sc": (7, 9), "pq": (6, 8)})
    assert (found["sc"], found["pq"]) == (7, 6) and found["o"] == pytest.approx(6.48074070)
    assert GEDIT.values({"sc": (0, 10), "pq": (6, 8)})["o"] == 0
    assert GEDIT.values({"pq": (6, 8)}) == {"pq": 6}  # half an answer is no O


def test_the_root_is_taken_per_item():
    items = [GEDIT.values({"sc": (sc, sc), "pq": (pq, pq)})["o"] for sc, pq in ((8, 2), (2, 8))]
    assert fmean(items) == pytest.approx(4) and overall(5, 5) == 5


def test_what_random_guesses_would_score():
    values = [overall(a, b) for a, b in product(range(11), repeat=2)]
    assert fmean(values) == pytest.approx(4.17209525) and pstdev(values) == pytest.approx(2.75565)


def _macro_micro(means):
    values, groups = np.repeat(means, GEDIT_COUNTS), np.repeat(range(11), GEDIT_COUNTS).astype(str)
    return fmean(group_means(values, groups).values()), values.mean()


def test_macro_and_micro_means():
    text_only = _macro_micro([10.0 if count == 99 else 0.0 for count in GEDIT_COUNTS])
    assert text_only == pytest.approx((0.909090909, 1.63366337))
    row = [7.69, 7.71, 5.77, 3.84, 5.13, 6.53, 6.13, 5.24, 5.56, 4.53, 6.42]
    assert _macro_micro(row) == pytest.approx((5.86818182, 5.70404290))


def test_failures_dropped_or_counted():
    scores = [Score(str(k), "m", 6.0) for k in range(90)]
    scores += [Score(str(k), "m", None, "failed") for k in range(90, 100)]
    worst = scale("gedit/o/any").worst
    assert Column.of(scores, worst, "drop").values.mean() == pytest.approx(6.0)
    assert Column.of(scores, worst).values.mean() == pytest.approx(5.4)
    guess = fmean(overall(a, b) for a, b in product(range(11), repeat=2))
    assert 0.9 * 6 + 0.1 * guess == pytest.approx(5.817, abs=5e-4)  # what the published parser does


def test_imgedit_scores_of_one_item():
    found = IMGEDIT.values({"criteria": (5, 4, 4)})
    assert (found["mean"], found["mean-capped"]) == (4.33, 4.33)
    found = IMGEDIT.values({"criteria": (1, 4, 4)})
    assert (found["mean"], found["mean-capped"]) == (3.0, 1.0)
    assert (found["first"], found["second"], found["third"]) == (1, 4, 4)


def test_imgedit_type_mean_and_item_mean():
    means = [3.56, 3.31, 1.70, 3.30, 2.62, 3.24, 4.49, 2.38, 4.17]
    counts = [95, 94, 117, 92, 86, 94, 100, 23, 36]
    values, groups = np.repeat(means, counts), np.repeat(range(9), counts).astype(str)
    assert fmean(group_means(values, groups).values()) == pytest.approx(3.19666667)
    assert values.mean() == pytest.approx(3.16903664)


# ---- reading answers


@pytest.mark.parametrize(
    "text",
    [
        '{"score": [7, 9], "reasoning": "ok"}',
        '```json\n{\n"score" : [7, 9],\n"reasoning" : "ok"\n}\n```',
        'Sure! Here it is: {"score": [7,9], "reasoning": "the "red" car\nis fine"} Bye.',
        '{"reasoning": "cut at the end", "score": [7, 9]',
        '{"score": [7, 9]} and once more {"score": [7, 9]}',
        "{'score': [7, 9], 'reasoning': 'ok'}",
    ],
)
def test_score_lists_that_are_read(text):
    assert read_list(text, 2, 0, 10) == (7, 9)


@pytest.mark.parametrize(
    "text",
    [
        "", "7", "[7, 9]", "7 and 9", '{"score": 7}', '{"score": []}', '{"score": [7]}',
        '{"score": [7, 9, 9]}', '{"score": [7, 11]}', '{"score": [-1, 9]}', '{"score": [7.5, 9]}',
        '{"score": [7.0, 9]}', '{"score": [true, 9]}', '{"score": ["7", "9"]}', '{"score": null}',
        '{"score": [[7, 9]]}', '{"score": [score1, score2]}', '{"score": [NaN, 9]}',
        '{"score": [7, 9]} or {"score": [2, 3]}', '{"scores": [7, 9]}', '{"score": [7, 1e400]}',
    ],
)  # fmt: skip
def test_score_lists_that_are_not_read(text):
    with pytest.raises(Unreadable):
        read_list(text, 2, 0, 10)


NAMES = ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Integrity")


@pytest.mark.parametrize(
    "text",
    [
        "Brief reasoning: 3 of 4.\n{}: 5\n{}: 4\n{}: 3",
        "- **{}**: 5\n- **{}**: 4\n- **{}**: 3\n",
        "**{}:** 5.\r\n**{}:** 4/5\r\n**{}:** 3 / 5",
        "{}: 5\n{}: 4\n{}: 3\n{}: 5",
    ],
)
def test_score_lines_that_are_read(text):
    assert read_lines(text.format(*NAMES, NAMES[0]), NAMES, 1, 5) == (5, 4, 3)


@pytest.mark.parametrize(
    "text",
    ["", "{}: 5\n{}: 4", "{}: 5\n{}: 4\n{}: 6", "{}: 0\n{}: 4\n{}: 3", "{}: 4.5\n{}: 4\n{}: 3",
     "{}: 5\n{}: 4\n{}: good", "{}: -1\n{}: 4\n{}: 3", "{}: 5 or 4\n{}: 4\n{}: 3",
     "{}: 5\n{}: 4\n{}: 3\n{}: 2", "{} 5\n{} 4\n{} 3", "{}: 5 {}: 4 {}: 3"],
)  # fmt: skip
def test_score_lines_that_are_not_read(text):
    with pytest.raises(Unreadable):
        read_lines(text.format(*NAMES, NAMES[0]), NAMES, 1, 5)


def test_refusals_are_told_from_nonsense():
    assert is_refusal("I'm sorry, but I can’t help with that.") and is_refusal("I cannot rate this")
    assert not is_refusal("Quite good; the cat cannot be seen any more.")


# ---- prompts of a checkout

VIE = '''
_context_no_delimit = """Rate. Give {"score": [...]}"""
_prompts_0shot_two_image_edit_rule = "Two pictures."
_prompts_0shot_tie_rule_SC = "Was it done? <instruction>"
_prompts_0shot_rule_PQ = "Is it nice?"
other = undefined_name + 1
raise SystemExit("a file that is parsed is not run")
'''
TYPES = ("add", "style")
PROMPTS_JSON = {
    kind: f"{kind}: <edit_prompt>\n{kind} fits: A number from 1 to 5.\n"
    "Looks & Feel: A number from 1 to 5.\nRest: A number from 1 to 5.\n"
    for kind in TYPES
}


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "GEdit-Bench" / "viescore").mkdir(parents=True)
    (folder / "Benchmark" / "Basic").mkdir(parents=True)
    (folder / "GEdit-Bench" / "viescore" / "vie_prompts.py").write_text(VIE)
    (folder / "Benchmark" / "Basic" / "prompts.json").write_text(json.dumps(PROMPTS_JSON))
    return folder


def test_prompts_are_read_from_a_checkout_without_running_it(checkout):
    prompts = load_prompts("gedit", checkout)
    assert prompts.rubric == "official"
    assert prompts.templates["sc"].endswith("Two pictures.\nWas it done? <instruction>")
    assert prompts.templates["pq"].endswith("}\nIs it nice?")
    assert load_prompts("imgedit", checkout).templates == PROMPTS_JSON
    assert load_prompts("gedit", None).rubric == "own-rubric-not-comparable"


def test_the_digest_is_that_of_the_prompts_alone(checkout):
    file = checkout / "GEdit-Bench" / "viescore" / "vie_prompts.py"
    before = load_prompts("gedit", file).digest
    file.write_text("# a comment\n" + VIE)
    assert load_prompts("gedit", file).digest == before
    file.write_text(VIE.replace("nice", "fine"))
    assert load_prompts("gedit", file).digest != before


def test_prompts_in_imgedits_archive_have_another_name_and_an_older_type(tmp_path):
    older = {"alter": PROMPTS_JSON["add"]}
    (tmp_path / "judge_prompt.json").write_text(json.dumps(older))
    (tmp_path / "prompts.json").write_text("[]")  # of something else
    prompts = load_prompts("imgedit", tmp_path)
    assert prompts.templates == older
    (question,) = IMGEDIT.questions(prompts, Item("1", "adjust", "do it", "s.png"))
    assert question.text.startswith("add: do it")


@pytest.mark.parametrize("protocol", ["gedit", "imgedit"])
@pytest.mark.parametrize("content", ["", "{", "[]", "x = 1", '{"add": "no place"}', "a = 'b' +"])
def test_other_files_are_no_prompts(tmp_path, protocol, content):
    name = {"gedit": "vie_prompts.py", "imgedit": "prompts.json"}[protocol]
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"no prompts for {protocol}.*{name}"):
        load_prompts(protocol, tmp_path)


def test_two_different_prompts_are_refused(checkout):
    (checkout / "vie_prompts.py").write_text(VIE)
    assert load_prompts("gedit", checkout).rubric == "official"  # the same, twice
    (checkout / "vie_prompts.py").write_text(VIE.replace("nice", "fine"))
    with pytest.raises(InputError, match="different prompts"):
        load_prompts("gedit", checkout)


# ---- runs

TASKS = ("add", "style")


def picture(seed, size=(24, 16)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


def make_run(folder, count=6, process=None, chains=False):
    """A prepared and generated run, as the stages before leave it."""
    run = RunFolder(folder, process=process or Process(0, 1, None))
    items = [
        Item(
            id=f"item-{k}", task=TASKS[k % 2], instruction=f"do thing {k}",
            source=f"run:inputs/{k}.png", previous=f"item-{k - 1}" if chains and k else None,
            extra={"key": f"key-{k}", "raw": f"run:inputs/raw-{k}.png"},
        )
        for k in range(count)
    ]  # fmt: skip
    if not (folder / "items.jsonl").exists():
        append_lines(folder / "items.jsonl", [item.to_dict() for item in items])
        RunFolder(folder, process=Process(0, 1, None)).claim("prepare", {"data": str(folder)})
        for place in ("inputs", "pictures"):
            (folder / place).mkdir()
        for k in range(count):
            picture(k).save(folder / "inputs" / f"{k}.png")
            picture(k, (48, 32)).save(folder / "inputs" / f"raw-{k}.png")
            picture(100 + k, (32, 32)).save(folder / "pictures" / f"item-{k}.png")
    return run


def options(server, **changes):
    plain = {"threads": 2, "backoff": 0.0, "timeout": 20.0, "max_failed": 1.0, "model": "fake"}
    return JudgeOptions(server.url, **{**plain, **changes})


def by_criterion(run):
    """Scores by item and the second part of the metric's name."""
    return {(item, name.split("/")[1]): score for (item, name), score in run.scores().items()}


def outcomes(run):
    return [row["outcome"] for row in run.rows("judge")]


def test_all_items_are_judged_once(tmp_path):
    run = make_run(tmp_path)
    with FakeJudge() as judge:
        outcome = judge_run(run, options(judge))
        assert (outcome.items, outcome.failed, outcome.asked) == (6, 0, 12)
        assert judge_run(run, options(judge)).items == 0
        assert len(judge.asked) == 12
    scores = by_criterion(run)
    assert len(scores) == 18 and all(score.status == "ok" for score in scores.values())
    for k in range(6):
        sc, pq, o = (scores[f"item-{k}", name].value for name in ("sc", "pq", "o"))
        assert o == pytest.approx(sqrt(sc * pq))


def test_raw_answers_are_kept(tmp_path):
    run = make_run(tmp_path, 1)
    with FakeJudge() as judge:
        judge_run(run, options(judge))
    row = next(row for row in run.rows("judge") if row["question"] == "sc")
    assert row["item"] == "item-0" and row["outcome"] == "ok" and row["finish"] == "stop"
    assert row["returned"] == "fake-judge-2026-01-01" and row["model"] == "fake"
    assert row["parameters"] == {"temperature": 0, "seed": 42, "max_tokens": 1400}
    assert json.loads(row["text"])["score"] and row["usage"]["completion_tokens"] == 3
    assert len(row["prompt"]) == 16 and len(row["key"]) == 16


def test_the_metrics_name_says_everything(tmp_path, checkout):
    run = make_run(tmp_path / "run", 1)
    with FakeJudge() as judge:
        own = judge_run(run, options(judge)).metrics[2]
        official = judge_run(run, options(judge, prompts=checkout)).metrics[2]
        changed = options(
            judge, prompts=checkout, resize="native", encoding="jpeg75", order="images-first",
            parameters={"temperature": 1.0, "seed": None}, repeat=2,
        )  # fmt: skip
        other = judge_run(run, changed).metrics[2]
    digest = load_prompts("gedit", checkout).digest[:8]
    start = f"gedit/o/fake-judge-2026-01-01/official-{digest}"
    assert "/own-rubric-not-comparable-" in own
    assert official == f"{start}/output-to-source"
    assert other.startswith(f"{start}/native/jpeg75/images-first/settings-")
    assert other.endswith("/mean-of-2")
    assert {name for _, name in run.scores()} >= {own, official, other}


def test_the_judge_sees_what_the_options_say(tmp_path):
    sizes = {
        "output-to-source": [(24, 16), (24, 16)],
        "native": [(24, 16), (32, 32)],
        "area-512": [(627, 418), (512, 512)],
        "area-512-raw": [(627, 418), (512, 512)],
    }
    for resize, expected in sizes.items():
        run = make_run(tmp_path / resize, 1)
        with FakeJudge() as judge:
            judge_run(run, options(judge, resize=resize, threads=1))
        both, alone = judge.asked
        assert [picture.size for picture in both.pictures] == expected
        assert [picture.size for picture in alone.pictures] == expected[1:]
        assert both.uris[0].startswith("data:image/png;base64,")
    source = np.asarray(Image.open(run.source(run.items()[0])))
    with FakeJudge() as judge:
        judge_run(run, options(judge, resize="native", order="images-first", threads=1))
    assert np.array_equal(np.asarray(judge.asked[0].pictures[0]), source)
    assert [part["type"] for part in judge.asked[0].parts] == ["image_url", "image_url", "text"]
    with FakeJudge() as judge:
        judge_run(run, options(judge, resize="native", encoding="jpeg75", threads=1))
    assert judge.asked[0].pictures[0].format == "JPEG"
    assert judge.asked[0].payload["temperature"] == 0


def test_imgedits_questions(tmp_path, checkout):
    run = make_run(tmp_path / "run")
    with FakeJudge() as judge:
        outcome = judge_run(run, options(judge, protocol="imgedit", prompts=checkout))
        assert outcome.asked == 6
        assert all(asked.pictures[1].size == (32, 32) for asked in judge.asked)  # not resized
        judge_run(run, options(judge, protocol="imgedit"))
    scores = by_criterion(run)
    for k in range(6):
        each = [scores[f"item-{k}", name].value for name in ("first", "second", "third")]
        assert scores[f"item-{k}", "mean"].value == round(fmean(each), 2)
    official = scale(outcome.metrics[0])
    assert (official.worst, official.best, official.comparable) == (1, 5, True)
    own = next(scale(name) for _, name in run.scores() if "own-rubric" in name)
    assert not own.comparable and "not comparable" in own.meaning
    assert scale("clip-i/vit-b-32/source") is None and scale("gedit/x/y") is None


def test_a_type_the_prompts_do_not_know_is_refused_before_any_question(tmp_path, checkout):
    PROMPTS = {"add": PROMPTS_JSON["add"]}
    (checkout / "Benchmark" / "Basic" / "prompts.json").write_text(json.dumps(PROMPTS))
    run = make_run(tmp_path / "run")
    with FakeJudge() as judge:
        with pytest.raises(InputError, match="'style'.*item-1.*only add"):
            judge_run(run, options(judge, protocol="imgedit", prompts=checkout))
        assert not judge.asked


# ---- a judge that does not do as asked


@pytest.mark.parametrize(
    "said, kind",
    [
        (completion("I'm sorry, I can't assist with that."), "refusal"),
        (completion("", refusal="No."), "refusal"),
        (completion("", "content_filter"), "filter"),
        (failure(400, "The response was filtered", "content_filter"), "filter"),
        (failure(403, "flagged by moderation"), "filter"),
        (failure(400, "too many pixels"), "error"),
        (failure(500, "broken"), "error"),
        ((200, b"<html>gateway</html>", {}), "error"),
        ((200, b'{"choices": []}', {}), "error"),
        ((200, b"[]", {}), "error"),
        ((200, b'{"choices": [{"message": null}], "usage": 3}', {}), "error"),
        ((200, b'{"error": {"code": 502, "message": "upstream"}}', {}), "error"),
        (
            (200, b'{"error": {"code": 403, "message": "flagged", "metadata": "moderation"}}', {}),
            "filter",
        ),
        (failure(504, "upstream"), "timeout"),
        (30.0, "timeout"),
        (completion("about seven"), "malformed"),
        (completion(None), "malformed"),
        (completion('{"score": [7, 12]}'), "malformed"),
        (completion('{"score": [7', "length"), "malformed"),
    ],
)
def test_bad_answers_are_failures_of_their_kind(tmp_path, said, kind):
    """One item of four is answered badly: it has no score, and the others keep theirs."""
    run = make_run(tmp_path, 4)

    def answer(asked):
        return said if "do thing 2" in asked.text else good(asked)

    with FakeJudge(answer) as judge:
        judge_run(run, options(judge, retries=0, timeout=2.0 if said == 30.0 else 20.0))
    scores = by_criterion(run)
    assert {key for key, score in scores.items() if score.status == "failed"} == {
        ("item-2", "sc"), ("item-2", "o")
    }  # fmt: skip
    assert scores["item-2", "sc"].value is None
    assert scores["item-2", "sc"].reason.startswith(f"sc: {kind}: ")
    assert scores["item-2", "pq"].status == "ok"
    bad = [row for row in run.rows("judge") if row["outcome"] != "ok"]
    assert {row["outcome"] for row in bad} == {kind}
    assert len(bad) == (2 if kind == "malformed" else 1)  # only what is malformed is asked again


def test_only_the_failed_call_is_asked_again_and_told_why(tmp_path):
    run = make_run(tmp_path, 1)

    def answer(asked):
        first = "do thing" in asked.text and not asked.is_again
        return completion('{"score": [7, 12]}') if first else good(asked)

    with FakeJudge(answer) as judge:
        outcome = judge_run(run, options(judge))
    assert outcome.asked == len(judge.asked) == 3 and outcome.failed == 0
    again = next(asked for asked in judge.asked if asked.is_again)
    assert again.payload["messages"][1] == {"role": "assistant", "content": '{"score": [7, 12]}'}
    assert "a score of 12, outside 0 to 10" in again.payload["messages"][2]["content"]
    assert outcomes(run) == ["malformed", "ok", "ok"]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_temporary_failures_are_tried_again(tmp_path, status):
    run = make_run(tmp_path, 2)

    def answer(asked):
        busy = failure(status, "busy", **{"Retry-After": "0.05"})
        return busy if asked.nth < 3 else good(asked)

    with FakeJudge(answer) as judge:
        assert judge_run(run, options(judge)).failed == 0
    assert {row["tries"] for row in run.rows("judge")} == {3}
    assert all(row["seconds"] >= 0.1 for row in run.rows("judge"))


def test_failed_items_alone_are_asked_again(tmp_path):
    run = make_run(tmp_path)
    bad = {"do thing 1", "do thing 4"}

    def answer(asked):
        refused = any(one in asked.text for one in bad)
        return completion("I cannot rate it") if refused else good(asked)

    with FakeJudge(answer) as judge:
        assert judge_run(run, options(judge)).failed == 2
        before = by_criterion(run)
        count = len(judge.asked)
        bad.clear()
        outcome = judge_run(run, options(judge))
        assert (outcome.items, outcome.failed, len(judge.asked) - count) == (2, 0, 2)
    after = by_criterion(run)
    assert all(score.status == "ok" for score in after.values())
    assert all(after[key] == score for key, score in before.items() if score.status == "ok")


def test_errors_are_never_reused_and_answers_are(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")

    def answer(asked):
        return completion("about seven") if "do thing 3" in asked.text else good(asked)

    with FakeJudge(answer) as judge:
        judge_run(first, options(judge))
    with FakeJudge() as judge:
        outcome = judge_run(second, options(judge, reuse=(first.path,)))
        assert outcome.asked == len(judge.asked) == 1 and outcome.failed == 0
        assert "do thing 3" in judge.asked[0].text
    rows = second.rows("judge")
    assert len(rows) == 12 and sum(row.get("reused", False) for row in rows) == 11
    with FakeJudge() as judge:  # another question, so nothing is known of it
        assert judge_run(second, options(judge, parameters={"temperature": 0.5})).asked == 12
    with pytest.raises(InputError, match="no run in"):
        check_judge(options(judge, reuse=(tmp_path / "none",)))


def test_too_many_failures_stop_the_stage_and_lose_nothing(tmp_path):
    run = make_run(tmp_path, 40)

    def answer(asked):
        number = (
            int(asked.text.split("do thing ")[-1].split()[0]) if "do thing" in asked.text else 0
        )
        return failure(500, "on fire") if number >= 10 else good(asked)

    calm = {"retries": 0, "max_failed": 0.2, "threads": 1}
    with FakeJudge(answer) as judge:
        line = "items failed.*item-10, sc: error: HTTP 500: on fire"
        with pytest.raises(InputError, match=line):
            judge_run(run, options(judge, **calm))
        assert len(judge.asked) < 60
    assert sum(s.status == "ok" for (_, c), s in by_criterion(run).items() if c == "o") == 10
    with FakeJudge() as judge:
        assert judge_run(run, options(judge, **calm)).failed == 0
        assert sum("do thing" in asked.text for asked in judge.asked) == 30
    assert all(score.status == "ok" for score in by_criterion(run).values())


@pytest.mark.parametrize(
    "said, line",
    [
        (failure(401, "Incorrect API key provided: sesame"), "does not accept the key"),
        (failure(404, "The model `fake` does not exist"), "knows no such model"),
        (failure(429, "You exceeded your quota", "insufficient_quota"), "quota is used up"),
        ((302, b"", {"Location": "http://127.0.0.1:9/v1/chat/completions"}), "leads elsewhere"),
    ],
)
def test_what_no_other_question_will_change_stops_at_once(tmp_path, monkeypatch, said, line):
    monkeypatch.setenv("MY_KEY", "sesame")
    run = make_run(tmp_path, 30)
    with FakeJudge(lambda _: said) as judge:
        with pytest.raises(InputError, match=line) as caught:
            judge_run(run, options(judge, key_variable="MY_KEY"))
        assert len(judge.asked) <= 2 and "sesame" not in str(caught.value)


def test_whatever_an_answer_holds_can_be_kept(tmp_path):
    """Half a character, parts instead of text, and numbers that JSON does not know."""
    run = make_run(tmp_path, 1)
    half = json.loads(r'"\ud83d"')
    body = completion([{"text": half}, {"text": '{"score": [7, 8]}'}])[1]
    body["usage"] = {"total_tokens": 5, "cost": float("nan"), "details": {"a": None}}
    with FakeJudge(lambda _: (200, json.dumps(body).encode(), {})) as judge:
        assert judge_run(run, options(judge)).failed == 0
    row = run.rows("judge")[0]
    assert row["usage"] == {"total_tokens": 5} and row["text"].startswith('?{"score": [7, 8]')


def test_a_proxy_is_not_asked_for_this_machine(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with FakeJudge() as judge:
        assert judge_run(make_run(tmp_path, 1), options(judge)).failed == 0


def test_an_answer_that_never_ends():
    class Endless:
        def read1(self, size):
            return b"x" * size

    with pytest.raises(TimeoutError):
        transport._read(Endless(), monotonic() - 1, 1 << 23)
    with pytest.raises(HTTPException, match="more than"):
        transport._read(Endless(), monotonic() + 60, 1 << 23)


def test_a_judge_that_is_not_there(tmp_path):
    run = make_run(tmp_path, 2)
    with FakeJudge() as judge:
        pass
    with pytest.raises(InputError, match="cannot reach the judge at http.*after 2 tries"):
        judge_run(run, options(judge, retries=1))
    with FakeJudge() as judge:  # and one that comes back
        assert judge_run(run, options(judge)).failed == 0


def test_a_judge_that_dies(tmp_path):
    run = make_run(tmp_path, 12)
    with FakeJudge(delay=0.05) as judge:

        def close_after_five(_, done, *__):
            if done == 5:
                judge.close()

        with pytest.raises(InputError, match="cannot reach the judge"):
            judge_run(run, options(judge, retries=1), progress=close_after_five)
    kept = {row["key"] for row in run.rows("judge") if row["outcome"] == "ok"}
    assert len(kept) >= 10
    with FakeJudge() as judge:
        outcome = judge_run(run, options(judge))
        assert outcome.failed == 0 and outcome.asked == 24 - len(kept)


def test_where_nobody_can_be_judged_there_is_no_score(tmp_path):
    run = make_run(tmp_path, 2)
    broken = FakeJudge(lambda _: failure(500, "broken"))
    with broken, pytest.raises(InputError, match="none of 2 items.*item-., sc: error: HTTP 500"):
        judge_run(run, options(broken, retries=0))
    assert not run.scores() and len(run.rows("judge")) == 4


def test_the_key_is_sent_and_nowhere_written(tmp_path, monkeypatch):
    run = make_run(tmp_path, 2)
    monkeypatch.delenv("MY_KEY", raising=False)

    def answer(asked):
        echo = failure(500, f"header was {asked.headers['Authorization']}")
        return echo if "do thing" in asked.text else good(asked)

    with FakeJudge(answer) as judge:
        chosen = options(judge, key_variable="MY_KEY", retries=0)
        with pytest.raises(InputError, match="'MY_KEY' holds no key"):
            judge_run(run, chosen)
        monkeypatch.setenv("MY_KEY", "open-sesame")
        judge_run(run, chosen)
        assert {asked.headers["Authorization"] for asked in judge.asked} == {"Bearer open-sesame"}
    written = "".join(p.read_text() for p in tmp_path.rglob("*.json*"))
    assert "header was Bearer (key)" in written and "sesame" not in written
    assert "sesame" not in repr(chosen.endpoint())


@pytest.mark.parametrize("url", ["//x/v1", "localhost:8000", "ftp://x/v1", "http://me:secret@x/v1"])
def test_addresses_that_cannot_be(url):
    with pytest.raises(InputError, match="judge's address"):
        JudgeOptions(url, "m").endpoint()


def test_addresses_are_completed():
    wanted = "http://x:8000/v1/chat/completions"
    for url in ("http://x:8000/v1", "http://x:8000/v1/", wanted):
        assert JudgeOptions(url, "m").endpoint().url == wanted
    asked = JudgeOptions("https://x/openai?api-version=1", "m").endpoint().url
    assert asked == "https://x/openai/chat/completions?api-version=1"


@pytest.mark.parametrize(
    "change", [{"model": ""}, {"protocol": "other"}, {"resize": "big"}, {"encoding": "webp"},
               {"repeat": 0}, {"threads": 0}, {"timeout": 0}, {"max_failed": 2},
               {"order": "mixed"}, {"model": 7}, {"url": None}, {"parameters": 3},
               {"url": ""}, {"key_variable": 3}, {"threads": "many"},
               {"parameters": {"messages": []}}, {"retries": -1},
               {"parameters": {"temperature": float("nan")}}],
)  # fmt: skip
def test_options_that_cannot_be(change):
    with pytest.raises(InputError):
        JudgeOptions(**{"url": "http://x/v1", "model": "m", **change})


def test_another_judge_under_the_same_name_is_noticed(tmp_path):
    run = make_run(tmp_path)
    with FakeJudge() as judge:
        judge_run(make_run(tmp_path, 6), options(judge))
    (tmp_path / "scores-judge-0.jsonl").unlink()
    rows = (tmp_path / "judge-0.jsonl").read_text().splitlines(True)
    (tmp_path / "judge-0.jsonl").write_text("".join(rows[:4]))
    other = FakeJudge(lambda asked: good(asked, "fake-judge-2026-06-06"))
    line = "'fake-judge-2026-06-06'.*'fake-judge-2026-01-01'"
    with other, pytest.raises(InputError, match=line):
        judge_run(run, options(other))
    with FakeJudge() as judge:  # the first one is back
        assert judge_run(run, options(judge)).failed == 0
    assert {name.split("/")[2] for _, name in run.scores()} == {"fake-judge-2026-01-01"}


def test_a_server_that_states_no_model(tmp_path):
    run = make_run(tmp_path, 1)
    with FakeJudge(lambda asked: good(asked, model=None)) as judge:
        assert "/fake_unconfirmed_/" in judge_run(run, options(judge)).metrics[0]


# ---- results that cannot be judged


def test_missing_black_and_broken_pictures_are_failures_nobody_is_asked_about(tmp_path):
    run = make_run(tmp_path, 4)
    run.picture("item-0").unlink()
    Image.new("RGB", (8, 8)).save(run.picture("item-1"))
    run.picture("item-2").write_bytes(b"no picture")
    with FakeJudge() as judge:
        outcome = judge_run(run, options(judge, max_failed=0.0))  # they are not the judge's
        assert (outcome.failed, len(judge.asked)) == (3, 2)
    scores = by_criterion(run)
    assert scores["item-0", "pq"].reason == "there is no picture"
    assert scores["item-1", "o"].reason == "the picture is entirely black"
    assert scores["item-2", "o"].status == "failed" and scores["item-3", "o"].status == "ok"


def test_only_the_end_of_a_chain_is_judged(tmp_path):
    run = make_run(tmp_path, 3, chains=True)
    with FakeJudge() as judge:
        assert judge_run(run, options(judge, resize="native")).items == 1
        before = next(asked for asked in judge.asked if len(asked.pictures) == 2).pictures[0]
    assert np.array_equal(np.asarray(before), np.asarray(Image.open(run.picture("item-1"))))


# ---- stopped, shared, repeated


def plain_scores(run):
    return sorted((s.item, s.metric, s.value, s.status, s.reason) for s in run.scores().values())


def test_stopped_at_random_and_resumed_gives_the_same(tmp_path):
    whole, parts = make_run(tmp_path / "a", 40), make_run(tmp_path / "b", 40)
    with FakeJudge(moody) as judge:
        judge_run(whole, options(judge, retries=1))
    rng = random.Random(0)

    def stop_sometimes(*_):
        if rng.random() < 0.15:
            raise KeyboardInterrupt

    with FakeJudge(moody) as judge:
        for _ in range(60):
            try:
                judge_run(parts, options(judge, retries=1), progress=stop_sometimes)
                break
            except KeyboardInterrupt:  # and a kill in the middle of a line
                with (parts.path / "judge-0.jsonl").open("a") as file:
                    file.write('{"item": "item-7", "colu')
        else:
            pytest.fail("never done")
    assert plain_scores(whole) == plain_scores(parts)
    kinds = set(outcomes(whole))
    assert {"ok", "malformed"} < kinds and kinds & {"refusal", "filter", "timeout"}


def test_shared_between_processes(tmp_path):
    alone = make_run(tmp_path / "a", 7)
    with FakeJudge() as judge:
        judge_run(alone, options(judge))
        make_run(tmp_path / "b", 7)
        for rank in (0, 1):
            run = make_run(tmp_path / "b", 7, Process(rank, 2, None))
            judge_run(run, options(judge))
        assert len(judge.asked) == 28
    assert plain_scores(run) == plain_scores(alone)
    assert (tmp_path / "b" / "scores-judge-1.jsonl").exists()


def test_as_many_requests_at_a_time_as_threads(tmp_path):
    run = make_run(tmp_path, 8)
    with FakeJudge(delay=0.1) as judge:
        judge_run(run, options(judge, threads=4))
    assert 2 <= judge.peak <= 4


def test_repeats_show_how_a_judge_differs_from_itself(tmp_path):
    run = make_run(tmp_path, 4)
    value = {42: 2, 43: 4, 44: 9}

    def answer(asked):
        return completion(json.dumps({"score": [value[asked.payload["seed"]]] * 2}))

    with FakeJudge(answer) as judge:
        metrics = judge_run(run, options(judge)).metrics
        assert len(judge.asked) == 8 and not between_runs(run)
        metrics = judge_run(run, options(judge, repeat=3)).metrics
        assert len(judge.asked) == 24  # the first repeat was known
    assert run.scores()["item-0", metrics[2]].value == pytest.approx(5)
    found = between_runs(run)[metrics[2]]
    assert found.items == 4 and found.macro == pytest.approx((2, 4, 9))
    assert found.macro_deviation == pytest.approx(sqrt(13)) == found.micro_deviation


def test_one_failed_repeat_fails_the_item(tmp_path):
    run = make_run(tmp_path, 2)

    def answer(asked):
        bad = asked.payload["seed"] == 43 and "do thing 1" in asked.text
        return completion("I cannot rate it") if bad else good(asked)

    with FakeJudge(answer) as judge:
        judge_run(run, options(judge, repeat=2))
    scores = by_criterion(run)
    assert scores["item-1", "o"].reason.startswith("sc (repeat 2): refusal")
    assert scores["item-1", "pq"].status == scores["item-0", "o"].status == "ok"


# ---- calibration


def test_the_offset_to_published_scores(tmp_path):
    run = make_run(tmp_path, 4)
    with FakeJudge() as judge:
        metric = judge_run(run, options(judge)).metrics[0]
    ours = {item: score.value for (item, c), score in by_criterion(run).items() if c == "sc"}
    table = tmp_path / "published.csv"
    lines = ["key,sementics_score,quality_score,instruction_language"]
    lines += [f"key-{k},{ours[f'item-{k}'] - 1.5},4,en" for k in range(4)]
    table.write_text("\n".join([*lines, "key-0,9,9,cn", "key-99,1,1,en"]))
    published = read_published([table], run.items(), "sc")
    assert set(published) == set(ours)
    found = calibrate(run.scores().values(), metric, published, "published v1.1")
    assert found.items == 4 and found.offset == pytest.approx(1.5) and found.error < 1e-9
    found.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == found
    assert found.on_published_scale(metric, 6.5) == pytest.approx(5.0)
    for part in ("fake-judge", "output-to-source", "comparable-"):
        with pytest.raises(InputError, match="not comparable"):
            found.on_published_scale(metric.replace(part, f"{part}2"), 6.5)
    with pytest.raises(InputError, match="0 items have both"):
        calibrate([], metric, published, "x")
    with pytest.raises(InputError, match="as a calibration"):
        Calibration.load(table)
    table.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="sementics_score"):
        read_published([table], run.items(), "sc")


def test_keys_that_two_items_share_are_left_out(tmp_path):
    table = tmp_path / "published.csv"
    table.write_text("key,sementics_score,quality_score\na,4,9\nb,1,1\nc,2,2\nc,3,3\n")
    keys = {"1": "a", "2": "b", "3": "b", "4": "c"}
    items = [Item(n, "t", "do", "s.png", extra={"key": key}) for n, key in keys.items()]
    assert read_published([table], items, "o") == {"1": 6.0}


# ---- through the runner


@pytest.mark.parametrize("name", ["gedit", "imgedit"])
def test_the_stage_judge_of_a_benchmark(tmp_path, checkout, name):
    """The look-alike of each benchmark judged in every mood."""
    data, place = tmp_path / "data", tmp_path / "run"
    dataset = {"gedit": lookalikes.gedit, "imgedit": lookalikes.imgedit}[name](data, small=True)
    prompts = {task: PROMPTS_JSON["add"].replace("add", task) for task in dataset.tasks}
    (checkout / "Benchmark" / "Basic" / "prompts.json").write_text(json.dumps(prompts))

    def answer(asked):
        return completion("I cannot rate it") if "remove" in asked.text else moody(asked)

    with FakeJudge(answer) as judge:
        plan = Plan(
            stages=("prepare", "generate", "judge"), editor="copy", baselines=False,
            judge={"url": judge.url, "model": "m", "backoff": 0.0, "retries": 1,
                   "max_failed": 1.0, "prompts": checkout},
        )  # fmt: skip
        run_benchmark(RunFolder(place, data), dataset, data, plan, lambda: None)
    run = RunFolder(place)
    metrics = {metric for _, metric in run.scores()}
    assert {metric.split("/")[0] for metric in metrics} == {name}
    assert all(scale(metric).comparable for metric in metrics)
    assert len(run.scores()) == len(metrics) * len(run.items())
    assert {score.status for score in run.scores().values()} == {"ok", "failed"}
    with pytest.raises(InputError, match="no prompts for"):  # before anything else is done
        bad = replace(plan, judge={**plan.judge, "prompts": data / "none"})
        run_benchmark(RunFolder(tmp_path / "new", data), dataset, data, bad, lambda: None)
    assert not (tmp_path / "new").exists()
