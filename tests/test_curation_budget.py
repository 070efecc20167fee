"""Budgets: what is counted, and that a run stops with all it did saved."""

import json
import re
import sys
from unittest.mock import patch

import pytest

from editmgt_lib.curation import run
from editmgt_lib.curation.assembly import Curation
from editmgt_lib.curation.estimate import plan_lines
from editmgt_lib.curation.rows import Failure, Found
from editmgt_lib.curation.run import curate, pipeline
from editmgt_lib.curation.spending import Budget, BudgetOptions, costs_of
from editmgt_lib.errors import InputError

from .curation_backends import (
    FakeEditor,
    FakeJudge,
    FakeWriter,
    backends,
    config,
    lines,
    save_pictures,
)

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

ASKED = {"attempts": [{"tries": 2, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}]}
UNTOLD = {"attempts": [{"usage": {}}]}
REFUSED = Failure("refused", "no")


@pytest.mark.parametrize(
    ("stage", "found", "costs"),
    [
        ("instructions", Found({"raw": [ASKED, UNTOLD]}), {"calls": 3, "tokens": 10}),
        ("instructions", Found({"raw": [{**ASKED, "cached": True}]}), {}),
        ("quality", Found({"raw": {"judge": ASKED, "x": UNTOLD}}), {"calls": 3, "tokens": 10}),
        (
            "edits",
            Found({"candidates": [{}, {}], "comparisons": [{"raw": [ASKED, ASKED]}]}),
            {"calls": 4, "tokens": 20, "edits": 2},
        ),
        ("instructions", Found(failure=REFUSED), {"calls": 1}),
        ("edits", Found({"candidates": [{}]}, failure=REFUSED), {"edits": 1}),
        ("images", Found(failure=Failure("unreadable")), {}),
        ("images", Found({"width": 9, "format": "PNG"}), {}),
    ],
)  # fmt: skip
def test_costs_are_counted_where_they_were_written(stage, found, costs):
    assert costs_of(stage, found) == costs


def test_hours_of_all_runs_count():
    times = iter([0, 1800, 3600])
    budget = Budget(BudgetOptions(hours=2), {"hours": 1.0}, lambda: next(times))
    assert not budget.exhausted and budget.exhausted == "hours"


@pytest.mark.parametrize("bad", [{"calls": -1}, {"edits": 1.5}, {"hours": "2"}])
def test_limits_are_numbers(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        BudgetOptions(**bad)


# ---- runs


def made():
    editors = [FakeEditor("a", 1), FakeEditor("b", 2)]
    return backends([FakeWriter()], editors, [FakeJudge()])


def start(folder, out, roles, workers, **budget):
    """Eight edits by each of two editors if the budget lasts; gives what was told."""
    said = []
    engine = {"workers": workers, "shard_rows": 3}
    with patch.object(run, "open_backends", lambda _: roles):
        curate(config(folder, roles, engine=engine, budget=budget), out, report=said.append)
    return said


@pytest.mark.parametrize("workers", [1, 2])
def test_a_spent_budget_stops_the_run_and_a_larger_one_ends_it(tmp_path, workers):
    folder, out = save_pictures(tmp_path / "p", 4), tmp_path / "out"
    first = made()
    *_, said = start(folder, out, first, workers, edits=5)
    done = len(lines(out, "edits"))
    in_hand = 0 if workers == 1 else 2 * workers
    assert 3 <= done <= 3 + in_hand  # two candidates each
    assert len(first.editors["a"].calls) == len(first.editors["b"].calls) == done
    assert re.search(rf"budget is spent: .*{2 * done} edits.* of 5 edits; {8 - done} rows of "
                     r"edits are left; raise budget.edits", said)  # fmt: skip
    assert not lines(out, "quality")
    again = made()
    start(folder, out, again, workers, edits=5)
    assert len(lines(out, "edits")) == done and not again.editors["a"].calls

    said = start(folder, out, again, workers, edits=500)
    assert not any("budget" in line for line in said)
    assert len(again.editors["a"].calls) == 8 - done
    start(folder, tmp_path / "whole", made(), 1)
    for stage in ("instructions", "edits", "quality"):  # other archives, but the same values
        one, other = (
            [(line["id"], line.get("values")) for line in lines(folder, stage)]
            for folder in (out, tmp_path / "whole")
        )
        assert one == other
    assert lines(out, "decisions") == lines(tmp_path / "whole", "decisions")
    assert json.loads((out / "report.json").read_text())["spent"]["edits"] == 16


def test_a_plan_says_what_is_allowed_and_what_was_spent(tmp_path, monkeypatch):
    folder, out, roles = save_pictures(tmp_path / "p", 2), tmp_path / "out", made()
    monkeypatch.setattr(run, "open_backends", lambda _: roles)

    def budget_line(**budget):
        table = config(folder, roles, budget=budget)
        plan = pipeline(table)
        made = Curation(out, {s.name: s for s in table.sources}, tuple(s.name for s in plan))
        return [line for line in plan_lines(table, plan, made) if "spent" in line]

    assert budget_line() == []
    assert budget_line(edits=6, hours=1.5) == [
        "budget: at most 6 edits, 1.5 hours; spent so far: nothing"
    ]
    start(folder, out, roles, 1)
    [line] = budget_line(edits=6)
    assert "at most 6 edits; spent so far: 8 edits" in line
