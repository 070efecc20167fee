"""Exports of curated pairs: what is in them, on what terms, and what a kill leaves."""

import hashlib
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editmgt_lib import files
from editmgt_lib.cli import main
from editmgt_lib.curation.config import config_from
from editmgt_lib.curation.export import ExportOptions, export, shards
from editmgt_lib.curation.export.columns import COLUMNS, PAIRS
from editmgt_lib.curation.export.shards import write_pairs
from editmgt_lib.curation.saved import save_config, saved_config
from editmgt_lib.curation.terms import USES
from editmgt_lib.data.opening import open_reader
from editmgt_lib.errors import InputError

from .curated_folder import Curated, Edits, Quality, noise, png

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

REVERSED = ExportOptions(reverse=True, samples=2)


def rows_of(out):
    """Rows by id."""
    found = [
        row
        for path in sorted(out.glob("data/*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row for row in found}


def pixels(cell):
    with Image.open(io.BytesIO(cell["bytes"])) as image:
        return np.asarray(image.convert("RGB"))


def tree(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """Six pictures, three instructions each: one not edited, one by a closed editor, one no-op."""
    with pytest.MonkeyPatch.context() as patch:
        yield Curated(
            edits=Edits(broken=frozenset({"001.png"}), closed=frozenset({"002.png"})),
            quality=Quality(undone=frozenset({("003.png", "add")})),
        ).make(tmp_path_factory.mktemp("curation"), patch)


@pytest.fixture(scope="module")
def exported(curated, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "lamps"
    return out, export(curated, out, REVERSED)


# ---- columns and rows


def test_the_first_columns_are_those_of_crispedit(exported):
    out, _ = exported
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    expected = [
        ("input_img", picture), ("instruction", pa.string()), ("output_img", picture),
        ("type", pa.string()),
    ]  # fmt: skip
    for path in out.glob("data/*.parquet"):
        schema = pq.read_schema(path)
        assert [(f.name, f.type) for f in schema][:4] == expected
        assert schema.names == [column.name for column in COLUMNS]
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        assert list(features) == schema.names
        assert features["input_img"] == features["mask"] == {"_type": "Image"}


def test_what_is_exported_and_what_is_not_adds_up(exported):
    out, found = exported
    rows = rows_of(out)
    forward = [row for row in rows.values() if row["reversed_of"] is None]
    assert len(forward) == 18 - 3 - 3 - 1 == found.card["rows"]["exported"]
    assert found.card["left_out"] == {"terms of the editor: FLUX.1-dev-Non-Commercial-1.1.1": 3}
    last = [row for row in found.card["survival"] if not row["category"]][-1]
    assert last["kept"] == len(forward) + sum(found.card["left_out"].values())
    assert {row["source_id"] for row in forward} == {"000.png", "003.png", "004.png", "005.png"}
    assert {row["type"] for row in forward} == {"add", "remove", "background change"}
    assert not any(row["negative"] for row in rows.values())


def test_a_row_says_what_it_is_and_on_what_terms(exported):
    row = next(r for r in rows_of(exported[0]).values() if r["source_id"] == "000.png")
    source = png(noise(0))
    assert (pixels(row["input_img"]) == noise(0)).all()
    assert row["source_sha256"] == hashlib.sha256(source).hexdigest()
    changed = (pixels(row["input_img"]) != pixels(row["output_img"])).any(-1)
    assert changed.any() and not (changed & (pixels(row["mask"])[..., 0] == 0)).any()
    expected = {
        "source": "photos", "source_licence": "CC-BY-4.0", "editor": "open",
        "editor_revision": "1.2", "editor_licence": "Apache-2.0", "uses": list(USES),
        "writer": "pen", "chosen_by": "only", "agreed": None, "width": 48, "height": 32,
        "changed": pytest.approx(256 / (48 * 32)), "judged_quality": 7.5, "dino": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert json.loads(row["candidates"])[0]["seed"] == row["seed"]
    assert json.loads(row["scores"])["quality"]["noop"] == 0
    assert "scores.nsfw" in row["unscored"]


def test_a_rewritten_instruction_keeps_the_one_the_editor_was_told(tmp_path, monkeypatch):
    curated = Curated(pictures=1, quality=Quality(rewritten="paint a square"))
    export(curated.make(tmp_path, monkeypatch), tmp_path / "out")
    told = {
        (r["instruction"], r["original_instruction"]) for r in rows_of(tmp_path / "out").values()
    }
    assert {instruction for instruction, _ in told} == {"paint a square"}
    assert "remove the lamp" in {original for _, original in told}


def test_reversed_rows_swap_the_pictures_and_claim_no_score_with_a_direction(exported):
    rows = rows_of(exported[0])
    turned = [row for row in rows.values() if row["reversed_of"]]
    assert {row["type"] for row in turned} == {"add", "remove"}
    assert exported[1].card["rows"]["reversed"] == len(turned) == 7
    for row in turned:
        other = rows[row["reversed_of"]]
        assert row["input_img"] == other["output_img"] and row["output_img"] == other["input_img"]
        assert {row["type"], other["type"]} == {"add", "remove"}
        assert row["instruction"] != other["instruction"]
        assert (row["caption"], row["target_caption"]) == (
            other["target_caption"],
            other["caption"],
        )
        assert (row["shift_x"], row["shift_y"]) == (-other["shift_x"], -other["shift_y"])
        assert row["judged_instruction"] is row["clip_direction"] is row["spatial"] is None
        assert row["changed"] == other["changed"] and row["uses"] == other["uses"]


def test_negatives_are_never_taken_for_targets(curated, tmp_path):
    out = tmp_path / "negatives"
    found = export(curated, out, ExportOptions(negatives=True))
    (row,) = rows_of(out).values()
    assert row["negative"] and row["reason"] == "quality: noop" and "output_img" not in row
    assert pixels(row["rejected_img"]).shape == (32, 48, 3)
    assert sum(found.card["left_out"].values()) == 3  # not edited at all
    with pytest.raises(InputError, match="no column"):
        open_reader(str(out))
    assert (
        "never" in (out / "README.md").read_text() or "no reader" in (out / "README.md").read_text()
    )


def test_negatives_have_no_way_back():
    with pytest.raises(InputError, match="negatives"):
        ExportOptions(reverse=True, negatives=True)


# ---- terms


@pytest.mark.parametrize(
    ("allow", "sources"),
    [((), 15), (("publish",), 15), (("train",), 12), (("publish", "train", "commercial"), 12)],
)
def test_both_terms_must_allow_all_uses(curated, tmp_path, allow, sources):
    found = export(curated, tmp_path / "out", ExportOptions(allow))
    assert found.card["rows"]["exported"] == sources - 1  # one no-op


def test_the_terms_of_the_source_count_too(tmp_path, monkeypatch):
    curated = Curated(pictures=2, licence="unsplash-lite").make(tmp_path, monkeypatch)
    found = export(curated, tmp_path / "out")
    assert found.files == () and found.card["left_out"] == {"terms of the source: unsplash-lite": 6}
    found = export(curated, tmp_path / "train", ExportOptions(("train",)))
    assert found.card["rows"]["exported"] == 6
    entry = next(e for e in found.card["licences"] if e["of"] == "source")
    assert "publish" not in entry["uses"] and entry["duties"] == ["delete on notice"]


def test_the_removal_list_is_read_anew(tmp_path, monkeypatch):
    gone = tmp_path / "gone.txt"
    gone.write_text("")
    curated = Curated(pictures=2, tables={"removed": str(gone)}).make(tmp_path, monkeypatch)
    assert export(curated, tmp_path / "out").card["rows"]["exported"] == 6
    gone.write_text(hashlib.sha256(png(noise(0))).hexdigest())
    assert export(curated, tmp_path / "out").card["rows"]["exported"] == 3
    assert {row["source_id"] for row in rows_of(tmp_path / "out").values()} == {"001.png"}


# ---- pictures


def with_exif(image, kind, **options):
    exif = Image.Exif()
    exif[0x0112] = options.pop("orientation", 1)
    exif[0x010E] = "a secret place"
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "orientation", "kept"),
    [
        ("JPEG", 1, True),
        ("JPEG", 6, False),
        ("PNG", 1, True),
        ("PNG", 3, False),
        ("WEBP", 1, False),
    ],
)
def test_pictures_are_upright_and_carry_no_metadata(tmp_path, monkeypatch, kind, orientation, kept):
    (tmp_path / "pictures").mkdir()
    data = with_exif(Image.fromarray(noise(7, (64, 40))), kind, orientation=orientation)
    (tmp_path / "pictures" / f"a.{kind.lower()}").write_bytes(data)
    export(Curated(pictures=0).make(tmp_path, monkeypatch), tmp_path / "out")
    row = next(iter(rows_of(tmp_path / "out").values()))
    stored = row["input_img"]["bytes"]
    assert b"secret" in data and b"secret" not in stored and b"Exif" not in stored
    with Image.open(io.BytesIO(data)) as image:
        turned = image.transpose({6: 4, 3: 3}[orientation]) if orientation != 1 else image
        assert (pixels(row["input_img"]) == np.asarray(turned.convert("RGB"))).all()
    assert stored.startswith(data[:2]) == kept or kind == "PNG"
    assert (row["width"], row["height"]) == pixels(row["input_img"]).shape[1::-1]


def test_a_preview_behind_a_jpeg_is_not_published(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    main_picture, preview = (
        with_exif(Image.fromarray(noise(n, (64, 40))), "JPEG") for n in (7, 8)
    )  # fmt: skip
    (tmp_path / "pictures" / "a.jpg").write_bytes(main_picture + preview)
    export(Curated(pictures=0).make(tmp_path, monkeypatch), tmp_path / "out")
    row = next(iter(rows_of(tmp_path / "out").values()))
    assert b"secret" not in row["input_img"]["bytes"]


def test_both_pictures_have_the_size_of_the_edit(tmp_path, monkeypatch):
    curated = Curated(pictures=1, size=(96, 64), edits=Edits(size=(48, 32)))
    export(curated.make(tmp_path, monkeypatch), tmp_path / "out")
    for row in rows_of(tmp_path / "out").values():
        assert pixels(row["input_img"]).shape == pixels(row["output_img"]).shape == (32, 48, 3)
        assert (row["width"], row["source_width"]) == (48, 96)


def test_a_picture_that_changed_since_is_refused_by_name(tmp_path, monkeypatch):
    curated = Curated(pictures=1).make(tmp_path, monkeypatch)
    (tmp_path / "pictures" / "000.png").write_bytes(png(noise(99)))
    with pytest.raises(InputError, match="000.png of photos has changed"):
        export(curated, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


# ---- files


def test_readers_of_ours_read_the_folder_as_it_is(exported, tiny_checkpoint, tmp_path, capsys):
    out, found = exported
    reader = open_reader(str(out))
    read = [row for part in reader.parts for row in reader.rows(part)]
    rows = rows_of(out)
    assert reader.edits and {row.id for row in read} == set(rows)
    one = read[0]
    assert (one.prompt, one.kind) == (rows[one.id]["instruction"], rows[one.id]["type"])
    assert one.target == rows[one.id]["output_img"]["bytes"]
    call = ["cache", str(out), "--out", str(tmp_path / "cache"), "--device", "cpu", "--model"]
    assert main([*call, str(tiny_checkpoint)]) == 0
    assert f"{len(rows)} pairs" in capsys.readouterr().out


def test_files_have_about_the_stated_size_and_groups_of_a_hundred(
    exported, curated, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    out = tmp_path / "lamps"
    found = export(curated, out, REVERSED)
    names = [file.name for file in found.files]
    assert names[:3] == [f"data/add_{n:05d}.parquet" for n in range(3)]
    assert {file.rows for file in found.files} <= {1, 2, 3} and names == sorted(names)
    assert set(rows_of(out)) == set(rows_of(exported[0]))


def test_row_groups(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(shards.ShardWriter, "add", lambda self, pair: taken.append(pair))
    export(Curated(pictures=1).make(tmp_path, monkeypatch), tmp_path / "out")
    path = tmp_path / "many.parquet"
    write_pairs(path, taken[:1] * 230, "plan", PAIRS)
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
        assert [group.num_rows for group in groups] == [100, 100, 30]
        columns = {c.path_in_schema: c for c in map(groups[0].column, range(groups[0].num_columns))}
    picture, text = columns["input_img.bytes"], columns["instruction"]
    assert (picture.compression, picture.is_stats_set) == ("UNCOMPRESSED", False)
    assert text.compression == "SNAPPY"


def test_files_are_cut_by_their_size(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        large = np.random.default_rng(number).integers(0, 256, (400, 600, 3), np.uint8)
        (tmp_path / "pictures" / f"{number}.png").write_bytes(png(large))  # 0.7 MB, twice a row
    curated = Curated(pictures=0).make(tmp_path, monkeypatch)
    found = export(curated, tmp_path / "one", ExportOptions(megabytes=1, samples=0))
    assert [file.rows for file in found.files] == [1] * 6
    found = export(curated, tmp_path / "two", ExportOptions(megabytes=2, samples=0))
    assert [file.rows for file in found.files] == [2] * 3


def test_the_same_rows_make_the_same_bytes(exported, curated, tmp_path):
    again = tmp_path / exported[0].name
    export(curated, again, REVERSED)
    assert tree(again) == tree(exported[0])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survived", (0, 2, 4, 8))
def test_a_kill_at_any_file_leaves_what_a_second_run_completes(
    exported, curated, tmp_path, monkeypatch, survived
):
    out, left = tmp_path / exported[0].name, [survived]
    real = os.replace

    def replace_or_die(source, target):
        if out in target.parents:
            if not left[0]:
                raise Killed
            left[0] -= 1
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace_or_die)
        with pytest.raises(Killed):
            export(curated, out, REVERSED)
    assert not (out / "manifest.json").exists()
    for folder in filter(Path.is_dir, (out, out / "data")):
        (folder / ".0123456789abcdef.tmp.parquet").write_bytes(b"half")  # kill -9 cleans nothing up
    before = {p: p.stat().st_ino for p in out.glob("data/*_*.parquet")}
    export(curated, out, REVERSED)
    assert tree(out) == tree(exported[0])
    assert all(p.stat().st_ino == number for p, number in before.items())  # not written again


def test_the_manifest_says_what_is_there(exported):
    out, found = exported
    manifest = json.loads((out / "manifest.json").read_text())
    listed = {f["name"]: f["sha256"] for f in manifest["files"]} | manifest["others"]
    present = {name: hashlib.sha256(data).hexdigest() for name, data in tree(out).items()}
    assert listed == {k: v for k, v in present.items() if k not in ("manifest.json", "export.json")}
    assert manifest["rows"] == len(rows_of(out)) == sum(f["rows"] for f in manifest["files"])


def test_damaged_and_foreign_files_are_replaced(exported, curated, tmp_path):
    out = tmp_path / exported[0].name
    shutil.copytree(exported[0], out)
    first, second, third = sorted(out.glob("data/*.parquet"))
    data = bytearray(first.read_bytes())
    data[100] ^= 1  # a bit of a picture
    first.write_bytes(data)
    second.write_bytes(second.read_bytes()[:-9])
    (out / "data" / "style_00007.parquet").write_bytes(third.read_bytes())  # of earlier thresholds
    export(curated, out, REVERSED)
    assert tree(out) == tree(exported[0])


def test_a_moved_threshold_brings_the_folder_up_to_date(tmp_path, monkeypatch):
    setup = Curated(pictures=3, quality=Quality(undone=frozenset({("001.png", "add")})))
    curated, out = setup.make(tmp_path, monkeypatch), tmp_path / "out"
    assert export(curated, out).card["rows"]["exported"] == 8
    config, _ = saved_config(curated)
    for limits, count in (({"changed": ">= 2"}, 0), ({"noop": "off"}, 9), ({"noop": "== 0"}, 8)):
        setup.run(curated, replace(config, keep={"quality": limits}))
        assert export(curated, out).card["rows"]["exported"] == count
        assert len(list(out.glob("data/*.parquet"))) == (3 if count else 0)


def test_an_export_decides_as_the_curation_did(tmp_path, monkeypatch):
    """The cap on instructions about the same thing is one of its thresholds."""
    curated = Curated(pictures=3, tables={"instructions": {"most_alike": 1}})
    found = export(curated.make(tmp_path, monkeypatch), tmp_path / "out")
    assert found.card["rows"]["exported"] == 3  # one of each kind


def test_other_folders_are_refused(exported, curated, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and holds no export"):
        export(curated, tmp_path)
    with pytest.raises(InputError, match="holds an export with"):
        export(curated, exported[0], ExportOptions(("train",)))
    with pytest.raises(InputError, match=r"`editmgt curate` wrote \(config.json: No such file"):
        export(tmp_path, tmp_path / "out")


def test_what_is_not_judged_to_the_end_is_not_exported(tmp_path, monkeypatch):
    whole = Curated(pictures=1)
    curated = replace(whole, stages=whole.stages[:3]).make(tmp_path, monkeypatch)
    config, _ = saved_config(curated)
    assert export(curated, tmp_path / "unjudged").card["rows"]["exported"] == 3
    save_config(curated, config, whole.stages)  # as of a run stopped before the stage quality
    found = export(curated, tmp_path / "out")
    assert found.card["left_out"] == {"not yet seen by quality": 3} and not found.files


def test_pictures_alone_are_no_pairs(tmp_path, monkeypatch):
    curated = replace(Curated(pictures=1), stages=("images",)).make(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="no pairs: the stage edits is not configured"):
        export(curated, tmp_path / "out")


def test_names_that_are_no_text_and_names_that_are_no_files(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    odd = os.fsdecode(b"\xff|</script>.png")
    (tmp_path / "pictures" / odd.replace("/", "")).write_bytes(png(noise(3)))
    found = export(Curated(pictures=0).make(tmp_path, monkeypatch), tmp_path / "out")
    assert found.card["rows"]["exported"] == 3
    (name,) = {row["source_id"] for row in rows_of(tmp_path / "out").values()}
    assert name.endswith(".png")


# ---- the card


def test_the_card_begins_with_yaml_that_hubs_read(exported):
    yaml = pytest.importorskip("yaml")
    text = (exported[0] / "README.md").read_text("utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], head["license_name"]) == ("other", "mixed")
    assert head["configs"][0]["data_files"][0]["path"] == "data/*.parquet"
    assert head["size_categories"] == ["n<1K"] and head["pretty_name"] == "lamps"


def test_one_licence_is_stated_as_such(tmp_path, monkeypatch):
    curated = Curated(pictures=1, licence="Apache-2.0").make(tmp_path, monkeypatch)
    export(curated, tmp_path / "out")
    assert 'license: "apache-2.0"' in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_the_card_has_survival_thresholds_licences_and_makers(exported):
    out, found = exported
    card = json.loads((out / "card.json").read_text("utf-8"))
    assert card == json.loads(json.dumps(found.card))
    table = {(row["stage"], row["category"]): row for row in card["survival"]}
    assert table["images", ""]["seen"] == 6  # pictures
    assert table["instructions", ""]["seen"] == 18  # their instructions
    edits = table["edits", ""]
    assert (edits["seen"], edits["kept"], edits["failed"]) == (18, 15, 3)
    assert edits["reasons"] == {"refused": 3}
    assert table["quality", "add"]["reasons"] == {"noop": 1}
    for stage in ("edits", "quality"):
        mine = [row for (name, kind), row in table.items() if name == stage and kind]
        assert sum(row["seen"] for row in mine) == table[stage, ""]["seen"]
    assert "images.short_side >= 16" in card["rules"]
    text = (out / "README.md").read_text("utf-8")
    for part in ("| edits, remove", "refused 3", "`images.short_side >= 16`", "attribution",
                 "(https://creativecommons.org/licenses/by/4.0/)", "editor open", "1.2",
                 "`scores.nsfw` 11", "quality.changed"):  # fmt: skip
        assert part in text, part


def test_stand_ins_are_named_and_nothing_is_called_curated(exported, tmp_path, monkeypatch):
    assert "no curated" not in (exported[0] / "README.md").read_text("utf-8")
    tables = {"scorers": {"dice": {"kind": "toyworld"}}}
    export(Curated(pictures=1, tables=tables).make(tmp_path, monkeypatch), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "**This is no curated data set.**" in text and '"stand-in"' in text
    assert "dice" in text.split("## Rows")[0]
    assert "No curated data set" in (tmp_path / "out" / "rows.html").read_text("utf-8")


def test_nothing_published_names_a_folder_of_this_machine(exported, curated):
    for name, data in tree(exported[0]).items():
        assert str(curated.parent).encode() not in data, name


def test_a_configuration_is_read_back_as_it_was(tmp_path):
    table = {
        "sources": [{"name": "a", "path": "x", "uses": ["train"]}],
        "keep": {"images": {"aspect": "off", "short_side": "> 5"}},
        "scorers": {"s": {"kind": "openai", "url": "u", "model": "m", "options": {"7.x": 1}}},
        "engine": {"workers": 3},
    }
    config = config_from(table)
    for one in (config, replace(config, keep={"images": {}})):  # presets are not merged again
        save_config(tmp_path, one, ["images"])
        assert saved_config(tmp_path) == (one, ("images",))


# ---- the command


def test_the_command(curated, exported, tmp_path, capsys):
    out = tmp_path / "lamps"
    assert main(["export", str(curated), "-o", str(out), "--reverse", "--samples", "2"]) == 0
    assert tree(out) == tree(exported[0])
    told = capsys.readouterr().out
    assert "11 of 18 rows, 7 reversed" in told and "not exported: terms of the editor" in told
    assert main(["export", str(curated), "-o", str(tmp_path / "all"), "--allow", "none"]) == 0
    assert "14 of 18 rows" in capsys.readouterr().out
    assert main(["export", str(curated), "-o", str(tmp_path / "x"), "--allow", "sell"]) == 2
    assert "allow" in capsys.readouterr().err
