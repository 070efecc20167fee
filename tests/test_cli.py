"""The command line, run in-process: files written, exit codes, and what bad input gets."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from editmgt_lib import load, read_image, write_image
from editmgt_lib.cli import build_parser, main
from editmgt_lib.commands import console
from editmgt_lib.errors import OutOfMemory

TEXT = "make the red heart blue"
COMMANDS = ("edit", "generate", "info", "download", "convert", "cache", "train", "evaluate",
            "benchmark", "compare", "curate", "export")  # fmt: skip


@pytest.fixture
def picture(tmp_path):
    """70 x 50 pixels of noise."""
    return draw(tmp_path / "in.png")


@pytest.fixture
def editmgt(tiny_checkpoint):
    """Run the command on the tiny checkpoint; gives the exit code."""

    def run(*words, model=tiny_checkpoint):
        return main([*map(str, words), "--model", str(model)])

    return run


def draw(path, size=(70, 50), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def listing(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def the_error(capsys):
    """The only line on the error stream."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("editmgt: error: "), lines
    return lines[0]


# ---- editing


def test_edit_writes_the_picture_and_says_how(editmgt, picture, tmp_path, capsys):
    out, record = tmp_path / "new" / "out.png", tmp_path / "out.json"
    assert editmgt("edit", picture, TEXT, "-o", out, "--seed", 7, "--json", record) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(str(out)) and captured.err == ""
    row = json.loads(record.read_text())
    assert (row["input"], row["output"]) == (str(picture), str(out))
    assert (row["width"], row["height"], row["bits"], row["seed"]) == (70, 50, 8, 7)
    assert row["options"]["strength"] == 1.1 and row["truncated_tokens"] == 0
    stages = {"load", "instruction", "read", "image", "sample", "decode", "write"}
    assert set(row["seconds"]) == stages and min(row["seconds"].values()) >= 0
    assert 0 < row["changed"] <= 1 and read_image(out).pixels.shape == (1, 50, 70, 3)


def test_options_left_out_are_the_checkpoints_own(editmgt, picture, tmp_path, capsys):
    words = ("edit", picture, TEXT, "--json", "--overwrite", "-o", tmp_path / "out.png")
    assert editmgt(*words) == 0
    own = json.loads(capsys.readouterr().out)["options"]
    assert (own["steps"], own["guidance"]) == (3, 2.0)
    assert editmgt(*words, "--steps", 2) == 0
    assert json.loads(capsys.readouterr().out)["options"] == own | {"steps": 2}


def test_a_seed_gives_the_same_picture_again(editmgt, picture, tmp_path):
    outs = [tmp_path / f"{name}.png" for name in "abc"]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        assert editmgt("edit", picture, TEXT, "-o", out, "--seed", seed) == 0
    a, b, c = (out.read_bytes() for out in outs)
    assert a == b != c


def test_outside_the_changed_mask_the_output_is_the_input(editmgt, tmp_path, capsys):
    picture, mask = draw(tmp_path / "in.png", (128, 96)), np.zeros((96, 128), np.uint8)
    mask[40:50, 60:70] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out, changed = tmp_path / "out.png", tmp_path / "changed.png"
    words = ("--mask", tmp_path / "mask.png", "--fit", "native", "--changed-out", changed, "--json")
    assert editmgt("edit", picture, TEXT, "-o", out, *words) == 0
    before, after = np.asarray(Image.open(picture)), np.asarray(Image.open(out))
    may_differ = np.asarray(Image.open(changed)) > 0
    assert (before != after).any() and not (before != after)[~may_differ].any()
    assert json.loads(capsys.readouterr().out)["changed"] == pytest.approx(may_differ.mean(), 1e-4)


@pytest.mark.parametrize("update", ["step", "once"])
def test_the_command_does_what_the_library_does(editmgt, tiny_copy, picture, tmp_path, update):
    settings = json.loads((tiny_copy / "editmgt.json").read_text())
    settings["localization"] |= {"update": update}
    (tiny_copy / "editmgt.json").write_text(json.dumps(settings))
    model, pixels = load(tiny_copy, device="cpu"), read_image(picture).pixels
    for threshold in (0, 0.5):
        out = tmp_path / f"{threshold}.png"
        words = ("edit", picture, TEXT, "-o", out, "--threshold", threshold, "--device", "cpu")
        assert editmgt(*words, model=tiny_copy) == 0
        options = replace(model.settings.sampling, threshold=threshold)
        wanted = model.edit(pixels, TEXT, options=options).image
        assert (read_image(out).pixels - wanted).abs().max() <= 0.5 / 255 + 1e-6


def test_a_bar_counts_the_steps_on_a_terminal(editmgt, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert editmgt("edit", picture, TEXT, "-o", tmp_path / "out.png") == 0
    assert "editing" in (err := capsys.readouterr().err) and "/3 " in err


def test_the_relevance_map_has_the_pictures_size(editmgt, picture, tmp_path):
    for threshold in (0, 0.4):  # read for the map alone, and while sampling
        att = tmp_path / f"{threshold}.png"
        out = tmp_path / f"out-{threshold}.png"
        words = ("--threshold", threshold, "--words", "red heart,blue", "--attention-out", att)
        assert editmgt("edit", picture, TEXT, "-o", out, *words) == 0
        values = np.asarray(Image.open(att))
        assert values.shape == (50, 70) and values.min() < values.max()


def test_sixteen_bits_stay_sixteen(editmgt, tmp_path, capsys):
    values = torch.randint(0, 65536, (1, 40, 30, 3)).float() / 65535
    write_image(tmp_path / "deep.png", values, bits=16)
    assert editmgt("edit", tmp_path / "deep.png", TEXT, "-o", tmp_path / "out.png") == 0
    assert read_image(tmp_path / "out.png").bits == 16
    capsys.readouterr()
    assert editmgt("edit", tmp_path / "deep.png", TEXT, "-o", tmp_path / "out.jpg") == 2
    assert "16 bits" in the_error(capsys) and not (tmp_path / "out.jpg").exists()


def test_the_instruction_may_follow_the_options(editmgt, picture, tmp_path):
    assert main([]) == 2
    assert editmgt("edit", picture, "-o", tmp_path / "out.png", TEXT) == 0
    assert (tmp_path / "out.png").exists()


def test_a_folder_becomes_a_folder(editmgt, tmp_path):
    for name in ("b.jpg", "a.png", ".hidden.png", "sub/c.png"):
        draw(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    assert editmgt("edit", tmp_path / "in", TEXT, "-o", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert editmgt("edit", tmp_path / "in" / "a.png", TEXT, "-o", f"{tmp_path}/sub/") == 0
    assert editmgt("edit", tmp_path / "in" / "b.jpg", TEXT, "-o", tmp_path / "out/x.webp") == 0


def test_a_failing_input_does_not_lose_the_others(editmgt, tmp_path, capsys):
    good = [draw(tmp_path / f"{name}.png") for name in "ac"]
    (tmp_path / "b.png").write_bytes(b"not a picture")
    (tmp_path / "empty").mkdir()
    inputs = (good[0], tmp_path / "b.png", tmp_path / "none.png", tmp_path / "empty", good[1])
    out, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    assert editmgt("edit", *inputs, TEXT, "-o", out, "--json", rows) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("editmgt: error: ") for line in lines)
    assert {p.name for p in out.iterdir()} == {"a.png", "c.png"}
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(found) == 5 and sum("error" in row for row in found) == 3


def test_an_existing_output_is_kept_unless_told(editmgt, picture, tmp_path, capsys):
    (tmp_path / "out.png").write_bytes(b"mine")
    assert editmgt("edit", picture, TEXT, "-o", tmp_path / "out.png") == 2
    assert "--overwrite" in the_error(capsys)
    assert (tmp_path / "out.png").read_bytes() == b"mine"
    assert editmgt("edit", picture, TEXT, "-o", tmp_path / "out.png", "--overwrite") == 0
    assert read_image(tmp_path / "out.png").pixels.shape == (1, 50, 70, 3)


@pytest.mark.parametrize("option", ["-o", "--attention-out", "--changed-out", "--json"])
def test_an_input_is_never_overwritten(editmgt, picture, tmp_path, option, capsys):
    (tmp_path / "link.png").symlink_to(picture)
    before = listing(tmp_path)
    words = ["edit", picture, TEXT, "--overwrite", option, tmp_path / "link.png"]
    if option != "-o":
        words += ["-o", tmp_path / "out.png"]
    assert editmgt(*words) == 2
    assert listing(tmp_path) == before and the_error(capsys)


# ---- bad input: one line that says what to do, nothing written


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.png", TEXT], "no picture"),
        (["text.png", TEXT], "as a picture"),
        (["in.png", ""], "instruction is empty"),
        (["in.png", " \n"], "instruction is empty"),
        (["in.png"], "give pictures, then what to do"),
        (["in.png", "text.png"], "end with what to do"),
        (["in.png", TEXT, "--mask", "small.png"], "8x6 (height x width), the picture 50x70"),
        (["in.png", TEXT, "--mask", "none.png"], "none.png"),
        (["in.png", TEXT, "--mask", "black.png"], "no pixel above 0.5"),
        (["in.png", TEXT, "--fit", "crop"], "add --mask"),
        (["in.png", TEXT, "--fit", "stretch"], "stretch"),
        (["in.png", TEXT, "--words", "cat", "--threshold", "0.1"], "cat is not in the prompt"),
        (["in.png", TEXT, "--words", ","], "words is ','"),
        (["in.png", TEXT, "--words", "red"], "--threshold"),
        (["in.png", TEXT, "--combine", "union"], "add --mask"),
        (["in.png", TEXT, "--combine", "union", "--mask", "black.png"], "--threshold"),
        (["in.png", TEXT, "--steps", "0"], "steps is 0; use a whole number from 1 to 1000"),
        (["in.png", TEXT, "--steps", "x"], "--steps"),
        (["in.png", TEXT, "--threshold", "1.5"], "threshold is 1.5; use a number from 0 to 1"),
        (["in.png", TEXT, "--threshold", "nan"], "threshold is nan"),
        (["in.png", TEXT, "--guidance", "-1"], "guidance is -1.0; use a number from 0 to 100"),
        (["in.png", TEXT, "--strength", "0"], "strength is 0.0; use a number from 0.01 to 100"),
        (["in.png", TEXT, "--seed", "-1"], "seed is -1"),
        (["in.png", TEXT, "--seed", str(2**64)], "seed is 18446744073709551616"),
        (["in.png", TEXT, "--feather", "-3"], "feather is -3.0"),
        (["in.png", TEXT, "--hold-rule", "maybe"], "maybe"),
        (["in.png", TEXT, "--device", "cudda"], "cudda"),
        (["in.png", TEXT, "--dtype", "int8"], "int8"),
        (["in.png", TEXT, "--sed", "1"], "--sed"),
        (["in.png", TEXT, "--json", "out.txt"], ".json"),
        (["in.png", TEXT, "-o", "out.bmp"], ".png"),
        (["in.png", TEXT, "-o", "x" * 300 + ".png"], "File name too long"),
        (["x" * 300, TEXT], "no picture"),
        (["~nobody.png", TEXT], "no picture ~nobody.png"),
        (["in.png", TEXT, "-o", "text.png/out.png"], "text.png is a file"),
        (["in.png", "small.png", TEXT, "-o", "all.png"], "give a folder"),
        (["in.png", TEXT, "--changed-out", "out.png"], "also --out"),
    ],
)
def test_bad_input_of_edit(editmgt, picture, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    draw(tmp_path / "small.png", (6, 8))
    Image.new("L", (70, 50)).save(tmp_path / "black.png")
    before = listing(tmp_path)
    assert editmgt("edit", *words, *([] if "-o" in words else ["-o", "out.png"])) == 2
    assert says in the_error(capsys)
    assert listing(tmp_path) == before


def test_mask_of_another_size_names_both_sizes_in_crop_mode_too(editmgt, picture, tmp_path, capsys):
    draw(tmp_path / "mask.png", (50, 70))
    words = ("--mask", tmp_path / "mask.png", "--fit", "crop", "-o", tmp_path / "out.png")
    assert editmgt("edit", picture, TEXT, *words) == 2
    assert "70x50" in (line := the_error(capsys)) and "50x70" in line


def test_a_prompt_of_ten_thousand_characters_is_cut_and_reported(
    editmgt, picture, tmp_path, capsys
):
    text = "make the red heart blue " * 417  # whole words
    assert editmgt("edit", picture, text, "-o", tmp_path / "out.png", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["truncated_tokens"] > 1000
    lines = captured.err.splitlines()
    assert len(lines) == 1 and "24 text rows" in captured.err and max(map(len, lines)) < 1100


def corrupt(folder):
    file = folder / "editmgt" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(b"\xff" * 4000)


def truncate(folder):
    file = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def replace_by_pickle(folder):
    (folder / "editmgt" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "editmgt" / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def remove_part(folder):
    (folder / "llm_encoder" / "config.json").unlink()


def contradict(folder):
    file = folder / "editmgt" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_layers": 3, "vocab_size": 99}))


def misspell(folder):
    (folder / "editmgt.json").write_text('{"sampling": {"stepps": 3}}')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (corrupt, "diffusion_pytorch_model.safetensors"),
        (truncate, "vqvae"),
        (replace_by_pickle, "pytorch_model.bin"),
        (remove_part, "llm_encoder/config.json"),
        (contradict, "num_layers: config says 3, the tensors say 1"),
        (misspell, "stepps"),
    ],
)
def test_broken_checkpoints(editmgt, tiny_copy, picture, tmp_path, capsys, damage, says):
    damage(tiny_copy)
    before = listing(tmp_path)
    assert editmgt("edit", picture, TEXT, "-o", tmp_path / "out.png", model=tiny_copy) == 2
    assert says in the_error(capsys)
    assert editmgt("generate", TEXT, "-o", tmp_path / "out.png", model=tiny_copy) == 2
    assert says in the_error(capsys) and listing(tmp_path) == before


@pytest.mark.parametrize("name", ["", "nowhere", "owner/name", "a/b/c"])
def test_models_that_are_not_there(editmgt, picture, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert editmgt("edit", picture, TEXT, "-o", tmp_path / "out.png", model=name) == 2
    assert name in the_error(capsys) and not (tmp_path / "out.png").exists()


# ---- stops and defects


def raising(monkeypatch, method, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(f"editmgt_lib.pipeline.EditMGT.{method}", broken)


def test_ctrl_c_leaves_nothing_half_written(editmgt, tmp_path, monkeypatch, capsys):
    inputs = [draw(tmp_path / "in" / f"{name}.png") for name in "ab"]
    from editmgt_lib.commands import editing

    def write(path, *_):
        if path.name == "b.png":
            raise KeyboardInterrupt
        return write_image(path, *_)

    monkeypatch.setattr(editing, "write_image", write)
    out, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    assert editmgt("edit", *inputs, TEXT, "-o", out, "--json", rows) == 130
    assert capsys.readouterr().err == "editmgt: stopped\n"
    assert [p.name for p in out.iterdir()] == ["a.png"]
    assert len(rows.read_text().splitlines()) == 1
    raising(monkeypatch, "sample", KeyboardInterrupt())
    assert editmgt("edit", inputs[0], TEXT, "-o", tmp_path / "x.png") == 130
    assert not (tmp_path / "x.png").exists()


def test_a_defect_is_told_from_bad_input(editmgt, picture, tmp_path, monkeypatch, capsys):
    raising(monkeypatch, "decode", RuntimeError("of ours"))
    words = ("edit", picture, TEXT, "-o", tmp_path / "out.png")
    assert editmgt(*words) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "RuntimeError: of ours" in err and "--debug" in err
    assert editmgt(*words, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err and not (tmp_path / "out.png").exists()


def test_a_defect_weighs_more_than_bad_input(editmgt, picture, tmp_path, monkeypatch):
    raising(monkeypatch, "decode", RuntimeError("of ours"))
    assert editmgt("edit", picture, tmp_path / "none.png", TEXT, "-o", tmp_path / "out") == 1


def test_out_of_memory_is_no_defect(editmgt, picture, tmp_path, monkeypatch, capsys):
    raising(monkeypatch, "sample", OutOfMemory("out of memory while sampling; use bfloat16"))
    assert editmgt("edit", picture, TEXT, "-o", tmp_path / "out.png") == 2
    assert "use bfloat16" in the_error(capsys)


def test_a_full_disk_leaves_no_part_of_a_file(editmgt, picture, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("editmgt_lib.pictures.writing._png", full)
    before = listing(tmp_path)
    assert editmgt("edit", picture, TEXT, "-o", tmp_path / "out.png") == 2
    assert "No space left" in the_error(capsys) and listing(tmp_path) == before


# ---- generate


def test_generate(editmgt, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert editmgt("generate", "a red ball", "-o", out, "--size", "96x64", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["width"], row["height"], row["options"]["steps"]) == (96, 64, 3)
    assert Image.open(out).size == (96, 64)


def test_generate_several_with_a_seed_each(editmgt, tmp_path):
    folder = tmp_path / "out"
    last = 2**64 - 1  # the seed after it is 0
    assert editmgt("generate", "ball", "-o", folder, "--count", 2, "--seed", last) == 0
    assert editmgt("generate", "ball", "-o", tmp_path / "zero.png") == 0
    assert sorted(p.name for p in folder.iterdir()) == ["0001.png", "0002.png"]
    assert (folder / "0002.png").read_bytes() == (tmp_path / "zero.png").read_bytes()
    assert (folder / "0001.png").read_bytes() != (tmp_path / "zero.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["", "-o", "out.png"], "prompt is empty"),
        (["ball", "-o", "out.png", "--size", "big"], "512x384"),
        (["ball", "-o", "out.png", "--size", "65"], "multiple of 32"),
        (["ball", "-o", "out.png", "--size", "99999"], "8192"),
        (["ball", "-o", "out.png", "--count", "0"], "count is 0"),
        (["ball", "-o", "out.png", "--count", "2"], "give a folder"),
        (["ball", "-o", "out.png", "--steps", "1001"], "1000"),
        (["ball", "ball", "-o", "out.png"], "unknown argument ball; put a text"),
    ],
)
def test_bad_input_of_generate(editmgt, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert editmgt("generate", *words) == 2
    assert says in the_error(capsys) and not listing(tmp_path)


# ---- info


def test_info_counts_what_is_loaded(tiny_checkpoint, capsys):
    assert main(["info", str(tiny_checkpoint), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    model = load(tiny_checkpoint, device="cpu", dtype="bfloat16")
    used = [sum(p.nbytes for p in net.parameters()) for net in (model.transformer, model.vq)]
    needed = row["memory_bytes"]["bfloat16"]
    assert needed["without_text"] == sum(used)
    assert sum(used) + model.text_encoders.parameter_bytes <= needed["all"]
    assert row["complete"] and row["parts"]["vqvae"]["dtypes"] == {"F32": 41}
    assert main(["info", str(tiny_checkpoint)]) == 0
    out = capsys.readouterr().out
    assert "CLIP text encoder" in out and "64x64 pixels" in out


def test_info_on_a_broken_folder_shows_the_rest(tiny_copy, capsys):
    corrupt(tiny_copy)
    remove_part(tiny_copy)
    assert main(["info", str(tiny_copy)]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("cannot be used") == 2 and "image tokenizer" in captured.out
    assert len(captured.err.splitlines()) == 1 and "llm_encoder" in captured.err
    assert main(["info", str(tiny_copy / "none")]) == 2


# ---- download, train, evaluate


def test_download_passes_what_was_asked(tmp_path, monkeypatch, capsys):
    from editmgt_lib.checkpoints import hub
    from editmgt_lib.commands import download

    assert download.REPO == hub.DEFAULT_REPO
    asked = {}

    def fake(repo, *, folder, revision, progress):
        asked.update(repo=repo, folder=folder, revision=revision)
        assert progress("editmgt/config.json", 5, 10) is not False
        return folder

    monkeypatch.setattr(hub, "download", fake)
    assert main(["download", "a/b", "--to", str(tmp_path), "--revision", "v1"]) == 0
    assert asked == {"repo": "a/b", "folder": tmp_path, "revision": "v1"}
    assert str(tmp_path) in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["download"]) == 0
    assert asked["folder"] == hub.folder_for(hub.DEFAULT_REPO) and asked["revision"] is None


def test_download_offline_fails_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("editmgt_lib.checkpoints.hub.is_offline", lambda: True)
    assert main(["download", "--to", str(tmp_path / "x")]) == 2
    assert "HF_HUB_OFFLINE" in the_error(capsys) and not (tmp_path / "x").exists()


def test_train_passes_what_was_asked(tmp_path, monkeypatch):
    from editmgt_lib.training import commands

    asked = {}

    def trained(*a, report, **k):
        asked.update(a=a, k=k)
        return tmp_path / "checkpoint"

    monkeypatch.setattr(commands, "run_training", trained)
    assert main(["train", "toyworld-cpu", "--out", str(tmp_path)]) == 0
    assert asked == {"a": ("toyworld-cpu", tmp_path), "k": {"device": "auto"}}
    words = ["--stages", "tokenizer, edit", "--minutes", "1.5", "--threads", "2", "--device", "cpu"]
    assert main(["train", "toyworld-cpu", "--out", str(tmp_path), *words]) == 0
    options = {"stages": ["tokenizer", "edit"], "minutes": 1.5, "threads": 2, "device": "cpu"}
    assert asked["k"] == options
    words = ["--set", "edit.batch=8", "--set", "size=64", "--dry-run"]
    assert main(["train", "run.toml", "--out", str(tmp_path), *words]) == 0
    changes = {"changes": ["edit.batch=8", "size=64"], "dry_run": True}
    assert asked == {"a": ("run.toml", tmp_path), "k": {"device": "auto"} | changes}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "nothing is neither a file nor a recipe; give a .toml file, or one of "),
        ([__file__], "test_cli.py is not a .toml file"),
        (["toyworld-cpu", "--stages", "nothing"], "tokenizer"),
        (["toyworld-cpu", "--stages", ","], "stages is ','"),
        (["toyworld-cpu", "--minutes", "0"], "minutes is 0"),
        (["toyworld-cpu", "--minutes", "nan"], "minutes is nan"),
        (["toyworld-cpu", "--threads", "-1"], "threads is -1"),
    ],
)
def test_bad_input_of_train(tmp_path, capsys, words, says):
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    assert says in the_error(capsys) and not listing(tmp_path)


def test_evaluate_writes_what_was_asked(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    from editmgt_lib import evaluation

    def smaller(model, options, progress):  # the same on two categories and two lambdas
        options = replace(options, categories=("add", "remove"), thresholds=(0.0, 0.2))
        return whole(model, options, progress)

    whole = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", smaller)
    monkeypatch.chdir(tmp_path)
    words = ["--samples", "1", "--json", "e.json", "--sheet", "s.png", "--layers"]
    words += ["--sweep-threshold", "c.png"]
    assert main(["evaluate", str(tiny_checkpoint), *words]) == 0
    captured = capsys.readouterr()
    assert "generate threshold=0.1: 2 of 2" in captured.err and "remove" in captured.out
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["sweep"] and figures["layers"] and figures["setting"]["samples"] == 1
    assert Image.open("s.png").size[0] > 300 and Image.open("c.png").size[0] >= 600
    before = listing(tmp_path)
    assert main(["evaluate", str(tiny_checkpoint), *words]) == 2
    assert "--overwrite" in the_error(capsys) and listing(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--samples", "0"], "samples is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--sheet", "x.txt"], ".png"),
        (["--json", "x.png"], ".json"),
    ],
)
def test_bad_input_of_evaluate(tiny_checkpoint, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(tiny_checkpoint), *words]) == 2
    assert says in the_error(capsys) and not listing(tmp_path)


# ---- help and messages


def test_help_is_light_and_silent():
    code = (
        "import sys, editmgt_lib.cli as c\n"
        "assert c.main(['edit', '--help']) == 0 and c.main(['--version']) == 0\n"
        "heavy = {'torch', 'numpy', 'PIL', 'transformers', 'tqdm', 'safetensors'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained_in_one_line_with_its_default(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    [commands] = (a for a in build_parser()._actions if a.dest == argparse_dest())
    for action in commands.choices[command]._actions:
        assert action.help and action.help in text  # not wrapped
        optional = action.option_strings and not action.required
        if optional and action.dest not in ("help", "debug"):
            assert "(default" in action.help, action.dest


@pytest.mark.parametrize("command", [*COMMANDS, "lora info", "lora extract"])
def test_outputs_are_named_alike(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert ("-o " in text) == ("--out " in text) and "--output" not in text


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("edit in.png text -o out.png", "edit"),
        ("info", "info"),
        ("train run.toml -o runs", "train"),
        ("lora info x", "lora info"),
        ("lora extract a b -o c", "lora extract"),
    ],
)
def test_an_unknown_option_gets_its_commands_help_and_the_nearest_one(words, command, capsys):
    assert main([*words.split(), "--debgu", "--xyzzy"]) == 2
    expected = f"--debgu --xyzzy; did you mean --debug?; see `editmgt {command} --help`"
    assert expected in the_error(capsys)
    assert main([*words.split(), "--xyzzy"]) == 2
    assert f"unknown argument --xyzzy; see `editmgt {command} --help`" in the_error(capsys)


def argparse_dest():
    """How argparse calls the list of commands."""
    return "==SUPPRESS=="


def test_ranges_in_the_help_are_those_of_the_library():
    from editmgt_lib.sampling.options import SamplingOptions

    [commands] = (a for a in build_parser()._actions if a.dest == argparse_dest())
    published = SamplingOptions()
    ranges = {
        "steps": "1..1000",
        "guidance": "0..100",
        "strength": "0.01..100",
        "refresh": "1..1000",
        "guidance_interval": "0..1",
    }
    for action in commands.choices["edit"]._actions:
        if hasattr(published, action.dest) and action.dest != "negative":
            value = getattr(published, action.dest)
            numbers = value if isinstance(value, tuple) else (value,)
            shown = ",".join(f"{n:g}" if isinstance(n, float) else str(n) for n in numbers)
            assert f"[{shown}]" in action.help
            assert ranges.get(action.dest, "") in action.help


def test_counts_and_sizes_are_readable():
    from editmgt_lib.commands.info import count, size

    assert [count(n) for n in (7, 1234, 2_614_341_888)] == ["7", "1.23 k", "2.61 B"]
    assert [size(n) for n in (0, 999, 585_010_000, 4_040_000_000, 12 * 10**12)] == [
        "0 B", "999 B", "585.01 MB", "4.04 GB", "12000.00 GB",
    ]  # fmt: skip


def test_fast_is_a_preset_that_single_options_overrule():
    from editmgt_lib.commands.editing import Request
    from editmgt_lib.sampling.options import FAST

    args = ["edit", "in.png", "x", "-o", "out.png", "--fast", "--refresh", "3"]
    parsed = build_parser().parse_args(args)
    parsed.instruction = "make it red"
    assert Request.of(parsed).sampling == {**FAST, "refresh": 3}


def test_messages_are_one_line_of_bounded_length():
    assert console.one_line("missing tensors (2):\n  a\n  b\n") == "missing tensors (2): a; b"
    assert console.one_line("plain") == "plain"
    assert len(console.one_line("x" * 20_000)) < 1100
