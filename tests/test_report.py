"""Reports of benchmark runs: the figures are right, nothing is left out unseen, the page stands
alone."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from math import inf

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.cli import main
from editmgt_lib.errors import InputError
from editmgt_lib.evaluation.items import Score
from editmgt_lib.evaluation.metrics import find
from editmgt_lib.evaluation.report import write_comparison, write_report
from editmgt_lib.evaluation.report.figures import Cell, detectable
from editmgt_lib.evaluation.runs import RunFolder

from .reported_runs import JUDGED, L1, PSNR, add_baseline, save, write_run, write_scores

FAST = {"draws": 200}


class Page(HTMLParser):
    """What a browser would find in a page: elements with their attributes, JSON blocks, text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.blocks, self.text, self._open = [], [], "", None
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = dict(attrs) if tag == "script" else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open is None:
            self.text += data
        elif self._open.get("type") == "application/json":
            self.blocks.append((self._open, json.loads(data)))

    def json(self, name):
        return next(found for attributes, found in self.blocks if attributes.get("id") == name)

    @property
    def pictures(self):
        blocks = [found for attrs, found in self.blocks if attrs.get("class") == "pictures"]
        return [row for block in blocks for row in block]


def reported(run, **options):
    write_report(run, {**FAST, **options})
    return json.loads((run.path / "report.json").read_text("utf-8"))


def figures(report, metric=L1, row=0):
    return report["rows"][row]["figures"][metric]


def cell_of(cell):
    return {k: v for k, v in cell.items() if k not in ("low", "high", "error")}


# ---- figures


def test_everything_left_out_is_counted_beside_the_mean(tmp_path):
    scores = {
        L1: [0.2, 0.4, "failed", "n/a", None, 0.3],
        PSNR: [20, inf, "failed", 30, "n/a", 40],
    }
    run = write_run(tmp_path, scores, tasks=["x", "x", "x", "x", "x", "y"])
    found = figures(reported(run))
    counts = {"failed": 1, "not_applicable": 1, "infinite": 0, "missing": 1}
    assert cell_of(found["tasks"]["x"]) == {"mean": pytest.approx(1.6 / 3), "n": 3, **counts}
    assert cell_of(found["micro"]) == {"mean": pytest.approx(1.9 / 4), "n": 4, **counts}
    assert found["macro"]["mean"] == pytest.approx((1.6 / 3 + 0.3) / 2)
    psnr = figures(reported(run), PSNR)["micro"]
    worst = find((PSNR,))[0].worst
    assert psnr["mean"] == pytest.approx((20 + worst + 30 + 40) / 4)
    assert (psnr["n"], psnr["infinite"], psnr["failed"]) == (4, 1, 1)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert re.search(r"\| micro +\| +0\.4[78]\S* \[.*\] \| +4 \| +1 \| +1 \| +0 \| +1 \|", text)


def test_dropping_failures_needs_its_name_and_is_said(tmp_path):
    run = write_run(tmp_path, {JUDGED: [6.0] * 9 + ["failed"]})
    assert figures(reported(run), JUDGED)["micro"]["mean"] == pytest.approx(5.4)
    assert "worst value" in (tmp_path / "report.md").read_text("utf-8")
    dropped = figures(reported(run, failures="drop"), JUDGED)["micro"]
    assert (dropped["mean"], dropped["n"], dropped["failed"]) == (6.0, 9, 1)
    assert "FAILED ITEMS ARE LEFT OUT" in (tmp_path / "report.md").read_text("utf-8")
    assert "FAILED ITEMS ARE LEFT OUT" in Page(tmp_path / "report.html").text


def test_macro_and_micro_of_the_known_case(tmp_path):
    """Case 20: of GEdit's 11 tasks one has 10 everywhere, the others 0."""
    sizes = [99, *[50] * 9, 57]
    tasks = [f"t{k}" for k, size in enumerate(sizes) for _ in range(size)]
    values = [10.0 if task == "t0" else 0.0 for task in tasks]
    found = figures(reported(write_run(tmp_path, {JUDGED: values}, tasks)), JUDGED)
    assert found["macro"]["mean"] == pytest.approx(0.909090909)
    assert found["micro"]["mean"] == pytest.approx(1.63366337)
    assert found["tasks"]["t0"]["low"] is None  # all values equal: a bootstrap cannot tell


def test_intervals_are_those_of_the_known_cases(tmp_path):
    first = [5, 6, 7, 8, 9, 4, 5, 6, 7, 8]
    second = [4, 6, 6, 8, 7, 4, 6, 5, 7, 7]
    run = write_run(tmp_path / "a", {JUDGED: first})
    add_baseline(run, "copy", {JUDGED: second})
    report = reported(run, draws=10_000)
    micro = figures(report, JUDGED)["micro"]
    assert [micro[k] for k in ("mean", "low", "high")] == pytest.approx([6.5, 5.6, 7.4])
    assert micro["error"] == pytest.approx(0.474853, abs=1e-3)
    by = report["against"]["copy-input"][JUDGED]["micro"]
    assert [by[k] for k in ("mean", "low", "high")] == pytest.approx([0.5, 0.0, 1.0])
    strata = write_run(tmp_path / "b", {JUDGED: [2, 4, 6, 8, 9, 10]}, ["A"] * 4 + ["B"] * 2)
    macro = figures(reported(strata, draws=10_000), JUDGED)["macro"]
    assert macro["mean"] == pytest.approx(7.25)
    assert (macro["low"], macro["high"]) == pytest.approx((6.0, 8.25), abs=0.13)


def test_edits_of_one_picture_are_drawn_together(tmp_path):
    values = [0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9]
    alone = figures(reported(write_run(tmp_path / "a", {L1: values})))["micro"]
    clusters = ["s"] * 4 + ["t"] * 4
    together = figures(reported(write_run(tmp_path / "b", {L1: values}, clusters=clusters)))
    assert together["micro"]["error"] > 1.4 * alone["error"]
    one = figures(reported(write_run(tmp_path / "c", {L1: values}, clusters=["s"] * 8)))["micro"]
    assert one["mean"] == pytest.approx(0.5) and one["low"] is None


def test_smallest_difference_is_that_of_the_known_case():
    found = detectable(Cell(6.0, error=2.5 / 606**0.5))
    assert (found["0"], found["0.5"]) == pytest.approx((0.4024, 0.2845), abs=1e-4)
    assert detectable(Cell(6.0)) is None


def test_only_the_end_of_a_chain_counts(tmp_path):
    run = write_run(tmp_path, {L1: ["n/a", 0.25]}, previous=[None, "aa"], turn=[1, 2])
    report = reported(run)
    assert report["items"]["total"] == 1
    assert figures(report)["micro"]["n"] == 1 and figures(report)["micro"]["not_applicable"] == 0


def test_baselines_are_rows_and_never_lend_a_metric(tmp_path):
    run = write_run(tmp_path, {L1: [0.2, 0.4], JUDGED: [5, 7]})
    add_baseline(run, "copy", {L1: [0.0, 0.0], PSNR: [inf, inf]})
    add_baseline(run, "roundtrip", {L1: [0.1, 0.1]})
    report = reported(run)
    assert [row["name"] for row in report["rows"]] == [
        "this run", "copy-input", "tokenizer round trip",
    ]  # fmt: skip
    assert list(report["metrics"]) == [L1, JUDGED]
    assert figures(report, JUDGED, 1)["micro"]["mean"] is None
    assert report["against"]["tokenizer round trip"][L1]["micro"]["mean"] == pytest.approx(0.2)
    text = Page(tmp_path / "report.html").text
    assert "copy-input, macro" in text and "this run minus copy-input" in text


def test_two_definitions_are_two_columns(tmp_path):
    names = ["l1/source/fit-output", "l1/target/fit-output", "l1/target/fit-target"]
    run = write_run(tmp_path, {name: [0.1 * k, 0.2] for k, name in enumerate(names)})
    assert list(reported(run)["metrics"]) == names
    line = (tmp_path / "report.md").read_text("utf-8").split("## All metrics")[1]
    assert all(f" {name} " in line.split("\n\n")[2] for name in names)


def test_facts_of_the_run_are_told_without_places(tmp_path):
    run = write_run(tmp_path, {L1: [0.1, 0.2]})
    run.claim("score", {"metrics": [L1], "versions": {"torch": "9.9"}})
    facts = reported(run)["facts"]
    assert facts["generate"] == {"editor": "model", "model": "toy", "weights": "abc", "seed": "7"}
    assert facts["score"]["versions.torch"] == "9.9"
    for name in ("report.md", "report.json", "report.html"):
        assert "/secret" not in (tmp_path / name).read_text("utf-8")
        assert str(tmp_path) not in (tmp_path / name).read_text("utf-8")


def test_known_defects_are_counted_and_left_out_by_name(tmp_path):
    marks = [(), ("equal-captions",), ("equal-captions", "placeholder"), ()]
    run = write_run(tmp_path / "a", {L1: [0.1, 0.5, 0.9, 0.3]}, exclusions=marks)
    assert reported(run)["defects"] == {"equal-captions": 2, "placeholder": 1}
    assert figures(reported(run))["micro"]["n"] == 4
    found = reported(run, exclude="placeholder")
    assert figures(found)["micro"]["mean"] == pytest.approx(0.3) and found["items"]["total"] == 3
    assert "placeholder 1 (LEFT OUT)" in (run.path / "report.md").read_text("utf-8")
    assert figures(reported(run, exclude=("placeholder", "equal-captions")))["micro"]["n"] == 2
    with pytest.raises(InputError, match="no item has the defect 'typo'; known are: equal-capt"):
        write_report(run, {"exclude": "typo"})
    other = write_run(tmp_path / "b", {L1: [0.2, 0.6, 0.6, 0.4]}, exclusions=marks)
    report = compared(run, other, tmp_path / "out", exclude="placeholder")
    assert report["comparisons"][L1]["difference"]["micro"]["mean"] == pytest.approx(0.1)
    assert "WITHOUT ITEMS WITH placeholder" in (tmp_path / "out" / "compare.md").read_text("utf-8")


def test_each_column_knows_which_way_is_better(tmp_path):
    names = (L1, PSNR, JUDGED, "gedit/sc/j/vie-1234/native", "imgedit/mean/j/own-1234/native")
    report = reported(write_run(tmp_path / "a", {name: [1, 2, "failed"] for name in names}))
    better = [report["metrics"][name]["better"] for name in names]
    assert better == ["lower", "higher", "higher", "higher", "higher"]
    worst = [figures(report, name)["micro"]["mean"] * 3 - 3 for name in names]
    assert worst == pytest.approx([1, 0, 0, 0, 1])  # a scale from 1 to 5 has no 0
    unknown = write_run(tmp_path / "b", {"lpips/other": [0.1, 0.2]})
    with pytest.raises(InputError, match="no metric 'lpips/other'"):
        write_report(unknown, {})


# ---- what is refused


def test_a_run_without_scores_and_wrong_options(tmp_path):
    run = write_run(tmp_path, {L1: [None, None]})
    with pytest.raises(InputError, match="no scores to report; run the stage score"):
        write_report(run, {})
    for options, says in (
        ({"failure": "drop"}, "no option 'failure'; use failures"),
        ({"failures": "zero"}, "failures is 'zero'"),
        ({"pictures": "big"}, "pictures is 'big'"),
        ({"size": 4}, "size is 4"),
        ({"draws": 1.5}, "draws is 1.5"),
        ({"megabytes": -1}, "megabytes is -1"),
    ):
        with pytest.raises(InputError, match=says):
            write_report(run, options)


# ---- the page


def test_the_page_holds_the_figures_and_needs_nothing_else(tmp_path):
    run = write_run(tmp_path, {L1: [0.25, "failed", "n/a"], PSNR: [inf, "failed", 9]},
                    pictures=[(40, 30)])  # fmt: skip
    report = reported(run)
    page = Page(tmp_path / "report.html")
    assert page.json("report") == report
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "base")
        assert not attributes.get("src") and not attributes.get("href", "").startswith("http")
    source = (tmp_path / "report.html").read_text("utf-8")
    assert "url(" not in source and "@import" not in source and "fetch(" not in source
    data = page.json("data")
    assert [item["status"] for item in data["items"]] == ["ok", "failed", "ok"]
    assert data["items"][0]["values"] == [[0.25, "inf"]]
    assert [item["codes"] for item in data["items"]] == [["oo"], ["ff"], ["no"]]
    assert data["items"][1]["why"] == ["why failed"]


def test_texts_of_the_data_cannot_break_the_page(tmp_path):
    evil = "</script><script>alert(1)</script><img src=x> {{script}} & 'q'"
    run = write_run(tmp_path, {L1: [0.1, 0.2]}, tasks=[evil, "two"], instruction=[evil, "ö"])
    reported(run)
    page = Page(tmp_path / "report.html")
    assert page.json("data")["items"][0]["text"] == evil
    assert page.json("data")["items"][0]["task"] == evil
    assert sum(tag == "script" for tag, _ in page.elements) == 4
    assert not any(tag == "img" for tag, _ in page.elements)
    assert evil in page.text


def test_small_pictures_are_embedded(tmp_path):
    run = write_run(tmp_path, {L1: [0.1] * 90}, pictures=[(400, 200)],
                    mask=["run:inputs/mask.png"] * 90)  # fmt: skip
    save(tmp_path / "inputs" / "mask.png", (400, 200), (0, 0, 0))
    Image.open(tmp_path / "inputs" / "mask.png").convert("L").point(
        lambda _: 0
    ).save(tmp_path / "inputs" / "mask.png")  # fmt: skip
    save(run.map("aa"), (400, 200), (255, 255, 255))
    run.picture("ac").write_bytes(b"broken")
    run.picture("ad").unlink()
    reported(run, size=64)
    page = Page(tmp_path / "report.html")
    assert page.json("data")["size"] == 64 and len(page.pictures) == 90
    assert [set(row) for row in page.pictures[:4]] == [
        {"source", "result", "map", "mask"},
        {"source", "result", "mask"},
        {"source", "mask"},
        {"source", "mask"},
    ]
    assert opened(page.pictures[0]["result"]).size == (64, 32)
    assert opened(page.pictures[45]["source"]).getpixel((9, 9))[0] == pytest.approx(
        45 * 9 % 256, abs=4
    )  # pictures and items stay together across blocks
    assert opened(page.pictures[0]["map"]).getpixel((5, 5))[:2] == pytest.approx((252, 255), abs=5)


def test_the_outline_runs_along_the_inside_of_the_mask(tmp_path):
    run = write_run(tmp_path, {L1: [0.1]}, pictures=[(64, 64)], mask=["run:inputs/m.png"])
    mask = Image.new("L", (64, 64))
    mask.paste(255, (10, 20, 30, 40))
    mask.save(tmp_path / "inputs" / "m.png")
    reported(run, size=64)
    (row,) = Page(tmp_path / "report.html").pictures
    drawn = opened(row["mask"]).convert("RGBA").getchannel("A").point(lambda a: 255 * (a > 0))
    assert drawn.getbbox() == (10, 20, 30, 40)
    assert drawn.getpixel((20, 20)) == 255 and drawn.getpixel((20, 30)) == 0
    assert np.count_nonzero(drawn) == 4 * 20 - 4


def test_pictures_shrink_until_they_fit_or_are_linked_or_left_out(tmp_path):
    run = write_run(tmp_path / "a b", {L1: [0.1, 0.2]}, pictures=[(500, 500)])
    reported(run)
    assert Page(run.path / "report.html").json("data")["size"] == 192
    reported(run, megabytes=0)
    assert Page(run.path / "report.html").json("data")["size"] == 64
    reported(run, pictures="link")
    page = Page(run.path / "report.html")
    assert page.json("data")["size"] is None
    assert page.pictures[1] == {"source": "inputs/ab.png", "result": "pictures/ab.png"}
    reported(run, pictures="none")
    assert Page(run.path / "report.html").pictures == []


def opened(uri):
    head, data = uri.split(",", 1)
    assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_sweep_has_a_report_of_all_points(tmp_path):
    run = write_run(tmp_path, {L1: [None, None]})
    for steps, value in ((16, 0.25), (8, 0.5)):
        part = run.part("sweep", f"steps={steps}")
        part.claim("generate", {"editor": "model", "steps": steps})
        write_scores(part, {L1: [value, value + 0.1]})
    report = reported(RunFolder(tmp_path))
    assert [row["name"] for row in report["rows"]] == ["steps=8", "steps=16"]
    assert figures(report, row=1)["micro"]["mean"] == pytest.approx(0.3)
    page = Page(tmp_path / "report.html")
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert links == ["sweep/steps%3D8/report.html", "sweep/steps%3D16/report.html"]
    assert page.json("data")["items"] == []


# ---- comparisons


def compared(first, second, out, **options):
    write_comparison(first, second, out, {**FAST, **options})
    return json.loads((out / "compare.json").read_text("utf-8"))


def test_a_comparison_pairs_the_items(tmp_path):
    first = write_run(tmp_path / "one", {JUDGED: [4, 6, 6, 8, 7, 4, 6, 5, 7, 7], L1: [0.5] * 10})
    values = [5, 6, 7, 8, 9, 4, 5, 6, 7, 8]
    second = write_run(tmp_path / "two", {JUDGED: values, L1: [0.1] * 9 + ["failed"]},
                       pictures=[(20, 20)])  # fmt: skip
    report = compared(first, second, tmp_path / "out", draws=10_000)
    by = report["comparisons"][JUDGED]["difference"]["micro"]
    assert [by[k] for k in ("mean", "low", "high")] == pytest.approx([0.5, 0.0, 1.0])
    assert report["comparisons"][JUDGED]["reading"] == "no difference shown"
    most = report["comparisons"][JUDGED]["most"]
    assert most[0] == {"item": "ae", "change": 2.0} and len(most) == 6
    l1 = report["comparisons"][L1]
    assert l1["difference"]["micro"]["mean"] == pytest.approx((-0.4 * 9 + 0.5) / 10)
    assert l1["most"][0] == {"item": "aj", "change": 0.5}  # failed: the worst value
    assert l1["reading"] == "better"
    page = Page(tmp_path / "out" / "compare.html")
    assert page.json("report") == report
    assert page.json("data")["roles"] == ["source", "one", "two", "reference"]
    assert set(page.pictures[0]) == {"two"}
    text = (tmp_path / "out" / "compare.md").read_text("utf-8")
    assert "two minus one" in text and "| ae" in text


def test_comparisons_of_other_data_or_metrics_are_refused(tmp_path):
    scores = {L1: [0.1, 0.2]}
    first = write_run(tmp_path / "a", scores)
    for name, options, says in (
        ("b", {"digest": "other"}, "digest was 'd' and is 'other'"),
        ("c", {"dataset": "gedit-en"}, "dataset was 'magicbrush' and is 'gedit-en'"),
    ):
        with pytest.raises(InputError, match=says):
            compared(first, write_run(tmp_path / name, scores, **options), tmp_path / "out")
    other = write_run(tmp_path / "d", {**scores, PSNR: [10, 20]})
    with pytest.raises(InputError, match=f"only one of them has {PSNR}.*--metrics"):
        compared(first, other, tmp_path / "out")
    with pytest.raises(InputError, match="with itself"):
        compared(first, RunFolder(first.path), tmp_path / "out")
    with pytest.raises(InputError, match="holds no prepared run"):
        compared(first, RunFolder(tmp_path / "nothing"), tmp_path / "out")
    with pytest.raises(InputError, match=f"no scores named {PSNR!r}"):
        write_comparison(first, other, tmp_path / "out", FAST, metrics=(PSNR,))
    assert not (tmp_path / "out").exists()
    write_comparison(first, other, tmp_path / "out", FAST, metrics=(L1,))
    assert (tmp_path / "out" / "compare.html").exists()


def test_the_command_compares(tmp_path, capsys):
    scores = {L1: [0.1, 0.2, 0.4]}
    runs = [str(write_run(tmp_path / name, scores).path) for name in "ab"]
    words = ["--out", str(tmp_path / "out"), "--report", "draws=100", "--report", "pictures=none"]
    assert main(["compare", *runs, *words]) == 0
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".md", ".json", ".html"}
    report = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
    assert report["comparisons"][L1]["difference"]["micro"]["mean"] == 0
    capsys.readouterr()
    assert main(["compare", *runs, *words, "--metrics", "l2"]) == 2
    assert "no scores named 'l2'" in capsys.readouterr().err


def test_compare_is_an_option_of_benchmark_too(tmp_path, capsys):
    scores = {L1: [0.1, 0.2, 0.4]}
    runs = [str(write_run(tmp_path / name, scores).path) for name in "ab"]
    words = ["--report", "draws=100", "--report", "pictures=none"]
    for place, command in (("c", ["compare", *runs]),
                           ("d", ["benchmark", "magicbrush", "--compare", *runs])):  # fmt: skip
        assert main([*command, "--out", str(tmp_path / place), *words]) == 0
    text = [(tmp_path / place / "compare.md").read_text("utf-8") for place in "cd"]
    assert text[0] == text[1]
    capsys.readouterr()
    words = ["benchmark", "gedit-en", "--compare", *runs, "--out", str(tmp_path / "e")]
    assert main(words) == 2
    assert "is a run of magicbrush, not of gedit-en" in capsys.readouterr().err


def test_the_spread_between_repeats_of_a_judge_is_reported(tmp_path):
    name = f"{JUDGED}/mean-of-3"
    run = write_run(tmp_path, {name: [None] * 3})
    repeats = [[2, 4, 9], [4, 4, 4], [6, 4, 2]]
    run.append(
        "scores-judge",
        [
            Score(item.id, name, sum(values) / 3).to_dict() | {"repeats": values}
            for item, values in zip(run.items(), repeats, strict=True)
        ],
    )
    [found] = reported(run)["between"]
    assert (found["metric"], found["runs"]) == (name, 3)
    assert found["micro"]["mean"] == pytest.approx(13 / 3)
    assert found["micro"]["deviation"] == pytest.approx(((1 / 9 + 1 / 9 + 4 / 9) / 2) ** 0.5)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "## Between runs" in text and "4.33 ± 0.58" in text
    assert "4.33 ± 0.58" in (tmp_path / "report.html").read_text("utf-8")


def test_the_spread_between_seeds_is_reported_by_what_else_was_swept(tmp_path):
    run = write_run(tmp_path, {L1: [None, None]})
    values = {"threshold=0,seed=0": 0.2, "threshold=0,seed=1": 0.4, "threshold=0.1,seed=0": 0.5}
    for name, value in values.items():
        part = run.part("sweep", name)
        part.claim("generate", {"editor": "model"})
        write_scores(part, {L1: [value, value + 0.1]})
    [found] = reported(RunFolder(tmp_path))["between"]  # one seed alone has no spread
    assert (found["name"], found["metric"], found["runs"]) == ("threshold=0, seeds", L1, 2)
    assert found["macro"]["mean"] == pytest.approx(0.35)
    assert found["macro"]["deviation"] == pytest.approx(0.02**0.5)
    alone = write_run(tmp_path / "alone", {L1: [0.1, 0.2]})
    assert reported(alone)["between"] == []
