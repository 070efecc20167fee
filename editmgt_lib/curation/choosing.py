"""Which of several results is best: every pair is judged in both orders, only agreement counts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .backends.base import Judge, NoAnswer, Pixels, Preference, prefer

ONLY, JUDGE, TIE, DISAGREED, UNJUDGED = "only", "judge", "tie", "order_disagreed", "unjudged"


@dataclass(frozen=True)
class Choice:
    """An order of results.

    Attributes:
        order: indices, the best first.
        by: "only" one result; "judge"; "tie", or "order_disagreed" if it hung on the order of the
            question, and "unjudged" without a judge's answer: these go by the ranks.
        agreed: whether all answers did, in both orders; None if there are none.
        judge: name of who answered. comparisons: plain data, answers and costs too.
    """

    order: tuple[int, ...]
    by: str
    agreed: bool | None = None
    judge: str = ""
    comparisons: tuple[Mapping[str, Any], ...] = ()


def choose(
    judges: Sequence[Judge],
    before: Pixels,
    results: Sequence[Pixels],
    instruction: str,
    category: str,
    ranks: Sequence[int],
) -> Choice:
    """Order results by the comparisons they win; those that win equally many by their ranks.

    The first judge that answers decides. Raises NoAnswer if none did and one may another time.
    """
    by_rank = tuple(sorted(range(len(results)), key=lambda index: ranks[index]))
    if len(results) == 1:
        return Choice(by_rank, ONLY)
    failures = []
    for judge in judges:
        try:
            compared = list(_compare_all(judge, before, results, instruction, category))
        except NoAnswer as error:
            failures.append(error)
            continue
        return _ordered(compared, by_rank, judge.name)
    for error in failures:
        if not error.failure.lasting:
            raise error
    refused = tuple({"failure": error.failure.code, "detail": error.failure.detail}
                    for error in failures)  # fmt: skip
    return Choice(by_rank, UNJUDGED, comparisons=refused)


def _compare_all(
    judge: Judge, before: Pixels, results: Sequence[Pixels], instruction: str, category: str
) -> Iterator[tuple[tuple[int, int], Preference]]:
    for pair in combinations(range(len(results)), 2):
        both = (results[pair[0]], results[pair[1]])
        yield pair, prefer(judge, before, both, instruction, category)


def _ordered(
    compared: Sequence[tuple[tuple[int, int], Preference]], by_rank: tuple[int, ...], judge: str
) -> Choice:
    wins = dict.fromkeys(by_rank, 0)
    for pair, found in compared:
        if found.winner is not None:
            wins[pair[found.winner]] += 1
    order = tuple(sorted(by_rank, key=lambda index: -wins[index]))  # stable: then by rank
    top = {index for index in order if wins[index] == wins[order[0]]}
    by = JUDGE
    if len(top) > 1:
        among = [found.agreed for pair, found in compared if top.issuperset(pair)]
        by = TIE if all(among) else DISAGREED
    told = tuple(
        {"of": list(pair), "winner": found.winner, "agreed": found.agreed,
         "raw": [dict(answer.raw) for answer in found.answers]}
        for pair, found in compared
    )  # fmt: skip
    return Choice(order, by, all(found.agreed for _, found in compared), judge, told)
