"""Curation row by row: verdicts, copies, terms, sources, shards and the executor."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from editmgt_lib.curation.assembly import Curation
from editmgt_lib.curation.decide import Decision, LicenceRule, Limit, RemovalRule, by_stage, decide
from editmgt_lib.curation.duplicates import Copy, Hashed, close_pairs, find_copies
from editmgt_lib.curation.engine import EngineOptions
from editmgt_lib.curation.executor import Workers, answer, run_shard
from editmgt_lib.curation.rows import Failure, Found, Origin, Row, Stored, Unavailable
from editmgt_lib.curation.sources import SourceConfig, list_source, row_id
from editmgt_lib.curation.store import PieceName, pieces, read_manifest
from editmgt_lib.curation.terms import LICENCES, SOURCES, USES, allowed, terms_of
from editmgt_lib.curation.verdicts import DuplicateOptions, decide_all
from editmgt_lib.errors import CheckpointError, InputError

from .curation_stages import Numbered


def row(values=None, stage="images", failure=None, uses=(), id="a"):
    found = {"sources": Found(), stage: Found(values or {}, failure=failure)}
    return Row(id, Origin("s", "k", "licence", uses), b"", found)


# ---- verdicts


@pytest.mark.parametrize(
    ("text", "value", "verdict"),
    [
        ("> 4.5", 4.5, "drop"),  # strict: a gate of "> 4.5" does not let 4.5 pass
        (">= 4.5", 4.5, "keep"),
        ("> 1024", 1024, "drop"),
        (">=1024", 1024, "keep"),
        ("> 0.05, < 0.95", 0.95, "drop"),
        ("> 0.05, < 0.95", 0.5, "keep"),
        ("== 1", 3, "drop"),
        ("<= 1e-3", 0.001, "keep"),
        ("<= 2", float("nan"), "drop"),
        (">= 0", float("nan"), "drop"),
        ("> -1", -2, "drop"),
        ("<= 5", "many", "drop"),
    ],
)
def test_limits(text, value, verdict):
    rules = by_stage([Limit.parse("images.score", text)])
    decision = decide(row({"score": value}), rules)
    assert decision.verdict == verdict
    if verdict == "drop":
        assert (decision.stage, decision.reason) == ("images", "score")
        assert decision.limit and str(decision.measured) == str(value)


@pytest.mark.parametrize(
    "text", ["", "1024", "> ", ">> 3", "> 1 < 2", "> 1.2.3", "flag", "maybe > 1"]
)
def test_a_bad_limit_is_an_error_that_says_how(text):
    with pytest.raises(InputError, match="keep.images.entropy is .*>= 1024"):
        Limit.parse("images.entropy", text)


def test_an_unscored_value_drops_only_where_it_is_required():
    values = {"aesthetic": None}
    plain = decide(row(values), by_stage([Limit.parse("images.aesthetic", "> 4.5")]))
    assert (plain.verdict, plain.unscored) == ("keep", ("images.aesthetic",))
    needed = decide(row(values), by_stage([Limit.parse("images.aesthetic", "required > 4.5")]))
    assert (needed.verdict, needed.reason) == ("drop", "not_scored")


def test_a_flag_drops_nothing():
    decision = decide(row({"faces": 3}), by_stage([Limit.parse("images.faces", "flag == 0")]))
    assert (decision.verdict, decision.flags) == ("keep", ("images.faces",))


def test_a_failure_decides_with_its_code():
    failed = row({"entropy": 0}, failure=Failure("unreadable", "cut off"))
    decision = decide(failed, by_stage([Limit.parse("images.entropy", ">= 3")]))
    assert decision == Decision("failed", "images", "unreadable", "cut off", reached="images")


def test_removal_list_goes_by_file_and_by_pixels():
    digests = frozenset({"a" * 64, "b" * 64})
    for values in ({"sha256": "a" * 64}, {"sha256": "c" * 64, "pixels": "b" * 64}):
        assert decide(row(values), by_stage([RemovalRule(digests)])).reason == "removed"
    assert decide(row({"sha256": "c" * 64}), by_stage([RemovalRule(digests)])).verdict == "keep"


def test_a_picture_that_changed_after_it_was_measured_is_refused():
    digest = hashlib.sha256(b"old").hexdigest()
    found = {"images": Found({"sha256": digest}, {"thumbnail": b"small"})}
    row = Row("a", Origin("photos", "1.png"), b"old", found)
    assert (row.encoded(), row.encoded("images.thumbnail")) == (b"old", b"small")
    with pytest.raises(InputError, match="1.png of photos has changed"):
        replace(row, picture=b"new").encoded()


# ---- terms


@pytest.mark.parametrize(
    ("licence", "clean"),
    [
        ("own", True), ("CC0-1.0", True), ("CC BY 2.0", True), ("open-images", True),
        ("https://creativecommons.org/licenses/by/2.0/", True),
        ("http://creativecommons.org/licenses/by-nc/4.0", False),
        ("CC-BY-ND-4.0", False), ("unsplash-lite", False), ("journeydb", False), ("laion", False),
        ("unknown", False), ("some words", False), ("", False),
    ],
)  # fmt: skip
def test_what_may_be_published_and_trained_on(licence, clean):
    rule = LicenceRule(("publish", "train"))
    verdict = decide(row(uses=terms_of(licence).uses), by_stage([rule])).verdict
    assert verdict == ("keep" if clean else "drop")


def test_terms_of_known_sources():
    assert allowed(("train",), SOURCES["unsplash-lite"])  # to train on, not to publish
    assert not allowed(("train",), SOURCES["journeydb"])
    assert not any(SOURCES["laion"].uses)
    assert all(set(terms.uses) <= set(USES) for terms in LICENCES.values())


# ---- copies


def hashed(id, phash, area=100, pixels=None, mirrored=None):
    return Hashed(id, area, pixels or id, phash, 0xFFFF << 48 if mirrored is None else mirrored)


def test_the_largest_stays_and_then_the_first():
    pictures = [hashed("small", 0, 10), hashed("large", 1, 20), hashed("late", 3, 20)]
    assert find_copies(pictures, 2) == {
        "late": Copy("large", 1, False), "small": Copy("large", 1, False)
    }  # fmt: skip


def test_copies_do_not_creep_along_a_chain():
    """b is like a, c is like b but not like a: c stays."""
    chain = [hashed("a", 0b0), hashed("b", 0b11), hashed("c", 0b1111)]
    assert set(find_copies(chain, 2)) == {"b"}


def test_equal_pixels_are_copies_at_any_distance():
    pictures = [hashed("a", 0, pixels="p"), hashed("b", (1 << 64) - 1, pixels="p")]
    assert find_copies(pictures, -1) == {"b": Copy("a", 0, True)}


def test_mirrored_copies():
    pictures = [hashed("a", 5, mirrored=99), hashed("b", 98, mirrored=4)]
    assert find_copies(pictures, 1) == {"b": Copy("a", 1, False)}
    assert not find_copies(pictures, 1, mirrored=False)


def test_two_rows_of_one_id_are_refused():
    with pytest.raises(InputError, match="unique"):
        find_copies([hashed("a", 0), hashed("a", 1)], 0)


@pytest.mark.parametrize("most", [0, 1, 4, 7])
def test_close_pairs_are_those_of_trying_all(most):
    random = np.random.default_rng(most)
    first = random.integers(0, 2**64, 200, np.uint64)
    flips = np.array([1 << int(b) for b in random.integers(0, 64, (6, 200)).ravel()], np.uint64)
    near = np.bitwise_xor.reduce(np.vstack([first[None], flips.reshape(6, 200)]), axis=0)
    hashes = np.concatenate([first, near])
    found = {(i, j) for i, j, _ in close_pairs(hashes, hashes, most)}
    differ = [[bin(int(a) ^ int(b)).count("1") for b in hashes] for a in hashes]
    expected = {
        (i, j) for i in range(400) for j in range(400) if i != j and differ[i][j] <= most
    }  # fmt: skip
    assert found == expected
    assert most < 6 or expected


# ---- sources


def listed(**options):
    source = SourceConfig("s", **{k: str(v) for k, v in options.items()})
    return [source.row(one) for one in list_source(source)]


def test_a_tree_in_the_order_of_its_names(tmp_path):
    for name in ("b/2.png", "a.JPG", "b/10.webp", "readme.txt", "b/c/x.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    rows = listed(path=tmp_path, licence="own")
    assert [r.origin.key for r in rows] == ["a.JPG", "b/10.webp", "b/2.png", "b/c/x.tif"]
    assert rows[0].id == row_id("s", "a.JPG") and rows[0].encoded() == b"x"
    assert rows[0].origin.uses == USES


def test_a_list_states_licences_row_by_row(tmp_path):
    (tmp_path / "1.png").write_bytes(b"x")
    lines = [
        {"image": "1.png", "license": "CC BY-NC 4.0", "url": "u", "author": "me"},
        {"image": "1.png"},
        {"image": "1.png", "id": 7, "licence": "own"},
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = listed(path=tmp_path / "l.jsonl", licence="unsplash-lite")
    assert [r.origin.key for r in rows] == ["1.png", "1.png#2", "7"]
    assert len({r.id for r in rows}) == 3
    assert [r.origin.licence for r in rows] == ["CC BY-NC 4.0", "unsplash-lite", "own"]
    assert rows[0].origin.uses == terms_of("CC-BY-NC-4.0").uses
    assert (rows[0].origin.url, rows[0].origin.author) == ("u", "me")


def test_csv_and_most(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    (tmp_path / "l.csv").write_text("file_name,License\n0.png,MIT\n1.png,\n2.png,,,\n")
    source = SourceConfig("s", str(tmp_path / "l.csv"), most=3)
    rows = [source.row(one) for one in list_source(source)]
    assert [r.origin.licence for r in rows] == ["MIT", "unknown", "unknown"]
    assert rows[2].found["sources"].failure.detail == "more cells than columns"


def test_paths_never_leave_the_folder(tmp_path):
    inner = tmp_path / "pictures"
    inner.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (inner / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "a\0b", "", ".", "gone.png"]
    lines = [json.dumps({"image": path}) for path in paths] + ["[1]", "{", '{"image": 5}']
    (inner / "l.jsonl").write_text("\n".join(lines))
    rows = listed(path=inner / "l.jsonl")
    assert len(rows) == len(lines)
    assert {r.found["sources"].failure.code for r in rows} == {"bad_path"}
    assert not any(r.picture for r in rows)
    (tree,) = listed(path=inner)
    assert tree.picture is None


def test_parquet_is_listed_by_footers_and_read_in_order(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    cells = [{"bytes": b"picture %d" % n, "path": None} for n in range(30)]
    cells[4] = {"bytes": None, "path": None}
    table = {"input_img": cells, "license": ["own"] * 30}
    pq.write_table(pa.table(table), tmp_path / "add_00000.parquet", row_group_size=7)
    rows = listed(path=tmp_path)
    assert [r.origin.key for r in rows[:2]] == ["add_00000.parquet:0", "add_00000.parquet:1"]
    assert rows[29].encoded() == b"picture 29" and rows[29].origin.uses == USES
    with pytest.raises(InputError, match="no bytes"):
        rows[4].encoded()


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_names_of_sources_are_plain_words(name):
    with pytest.raises(InputError, match="name is"):
        SourceConfig(name, "x")


# ---- shards and the executor


def curation(tmp_path, keys, stage="images", shard_rows=100):
    pictures = tmp_path / "pictures"
    pictures.mkdir(exist_ok=True)
    (pictures / "p.png").write_bytes(b"x")
    lines = [json.dumps({"image": "p.png", "id": key}) for key in keys]
    (pictures / "l.jsonl").write_text("\n".join(lines))
    sources = {"s": SourceConfig("s", str(pictures / "l.jsonl"))}
    made = Curation(tmp_path / "out", sources, (stage,))
    made.list_new(shard_rows)
    return made


def no_copies(made):
    """Verdicts from failures alone."""
    decide_all(Curation(made.folder, made.sources, ()), [], DuplicateOptions())


def run(made, stage=None, shard=0, **options):
    stage = stage or Numbered()
    no_copies(made)
    with Workers(stage, EngineOptions(**options)) as workers:
        return run_shard(made, stage, shard, workers, lambda row, found: None)


def test_what_was_found_comes_back_with_pictures_and_parts(tmp_path):
    made = curation(tmp_path, ["picture-1", "plain", "split"])
    manifest = run(made)
    assert manifest.rows == 3 and len(manifest.digests) == 2
    rows = made.rows(0)
    assert [r.id.split(".")[1:] for r in rows] == [[], [], ["0"], ["1"], ["2"]]
    assert rows[0].encoded("images.made").endswith(b"picture-1")
    assert isinstance(rows[0].found["images"].pictures["made"], Stored)
    assert rows[4].value("images.score") == 2 and rows[4].encoded("images.made") == b"2"
    assert {r.root for r in rows[2:]} == {row_id("s", "split")}
    with pytest.raises(InputError, match="no picture"):
        rows[1].encoded("images.made")


@pytest.mark.parametrize("batch", [1, 4])
def test_one_bad_row_spoils_no_other(tmp_path, batch):
    made = curation(tmp_path, ["a", "error", "bb", "nan", "refused", "ccc"])
    run(made, Numbered(batch=batch))
    found = [r.found["images"] for r in made.rows(0)]
    codes = [f.failure and f.failure.code for f in found]
    assert codes == [None, "error", None, "not_plain", "refused", None]
    assert [f.values.get("score") for f in found if not f.failure] == [1, 2, 3]
    assert read_manifest(made.folder, PieceName("images", 0, 0)).codes == {
        "error": 1, "not_plain": 1, "refused": 1
    }  # fmt: skip


def test_a_back_end_that_is_gone_stops_the_run_and_leaves_nothing_half_done(tmp_path):
    made = curation(tmp_path, ["a", "down", "b"])
    with pytest.raises(Unavailable, match="gone"):
        run(made)
    assert not pieces(made.folder, "images", 0)
    assert not [p for p in (made.folder / "images").glob("*") if p.suffix in (".jsonl", ".zip")]


def test_a_row_that_kills_its_process_fails_alone(tmp_path, monkeypatch):
    # By a name that worker processes find, however pytest calls the tests' modules.
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import curation_stages

    made = curation(tmp_path, ["a", "crash", "bb", "ccc"])
    run(made, curation_stages.Numbered(), processes=True, workers=1)
    codes = [r.found["images"].failure and r.found["images"].failure.code for r in made.rows(0)]
    assert codes == [None, "crashed", None, None]


def test_a_damaged_shard_is_named(tmp_path):
    made = curation(tmp_path, ["a", "b"])
    run(made)
    path = PieceName("images", 0, 0).path(made.folder, ".jsonl")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"000000-000\.jsonl .* remove"):
        made.rows(0)


def test_answers_must_be_as_many_as_rows():
    class Short(Numbered):
        def __call__(self, rows):
            return []

    (found,) = answer(Short(), [row()])
    assert found.failure.code == "error" and "0 answers for 1 rows" in found.failure.detail


def test_new_pictures_go_into_further_shards(tmp_path):
    made = curation(tmp_path, ["a", "b", "c"], shard_rows=2)
    assert len(made.shards) == 2
    before = [r.id for shard in made.shards for r in made.rows(shard)]
    more = curation(tmp_path, ["0", "a", "b", "c", "d", "e"], shard_rows=2)
    assert len(more.shards) == 4
    assert [r.id for shard in range(2) for r in more.rows(shard)] == before


def test_a_source_that_is_gone_from_the_configuration_is_named(tmp_path):
    made = curation(tmp_path, ["a"])
    with pytest.raises(InputError, match="source 's'"):
        Curation(made.folder, {}, ()).rows(0)
