"""The benchmark counts right, makes its tables, and runs; how long things take is no test."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import editmgt_lib
from benchmarks import __main__ as command
from benchmarks import curation, records, study, table, training, work
from benchmarks.cases import CASES, Case, instruction_of, random_inputs, write_checkpoint
from benchmarks.clock import machine
from benchmarks.compare import Row, compare
from benchmarks.ours import Ours
from editmgt_lib.errors import InputError
from editmgt_lib.evaluation.batches import pair_batches
from editmgt_lib.evaluation.options import EvaluationOptions
from editmgt_lib.models.attention import MeanOfRows
from editmgt_lib.models.backends import math_attention
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.models.vq import VQConfig, VQModel
from editmgt_lib.pictures.canvas import Canvas, Tokens
from editmgt_lib.pipeline import EditMGT
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.settings import Settings
from editmgt_lib.toyworld.language import corpus
from editmgt_lib.toyworld.text_encoders import build_text_encoders
from editmgt_lib.toyworld.world import CATEGORIES

from .tiny import TRANSFORMER, VQ

TEXT, SIDE, HALVES = 8, 4, 2
LEVELS = VQConfig(
    block_out_channels=(8, 16, 16), layers_per_block=2, latent_channels=4,
    num_vq_embeddings=32, norm_num_groups=4,
)  # fmt: skip


def encoders():
    wide, pooled = TRANSFORMER.joint_attention_dim, TRANSFORMER.pooled_projection_dim
    return build_text_encoders(corpus(), text_length=TEXT, width=wide, pooled=pooled)


TINY = Case(
    "tiny", TRANSFORMER, replace(VQ, norm_num_groups=0), TEXT, SIDE, layers=(1, 2), steps=3,
    text_encoders=encoders,
)  # fmt: skip


def counted(call):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        value = call()
    return counter.get_total_flops(), value


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("probed", [0, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_transformers_operations_are_counted(reference, probed, steps):
    model = MaskedTransformer(TRANSFORMER, attention=math_attention)
    tokens = SIDE**2
    sizes = work.Sizes(HALVES, TEXT, tokens, tokens if reference else 0, steps, probed)
    ids = torch.randint(TRANSFORMER.codebook_size, (HALVES, SIDE, SIDE))
    text = torch.randn(HALVES, TEXT, TRANSFORMER.joint_attention_dim)
    pooled, micro = torch.randn(HALVES, TRANSFORMER.pooled_projection_dim), torch.rand(HALVES, 5)
    given = text, pooled, micro, range(steps), (SIDE, SIDE), ids if reference else None
    prepared, conditioning = counted(lambda: model.prepare(*given))
    probe = MeanOfRows(torch.full((1, TEXT), 1 / TEXT))
    attention = model.attention_of(conditioning, probe, range(probed))
    stepped, prediction = counted(lambda: model.step(ids, steps - 1, conditioning, attention))
    assert len(prediction.scores) == probed
    assert prepared == work.preparation(TRANSFORMER, sizes).flops
    assert stepped == work.step(TRANSFORMER, sizes, drawn=0).flops


def test_a_guided_run_is_counted_as_it_is_computed():
    """Every step, with the projection onto the codebook, as the sampler calls it."""
    inputs = random_inputs(TINY)
    model = MaskedTransformer(TRANSFORMER, attention=math_attention)
    editor = EditMGT(model, VQModel(VQ), None, Settings())
    ids = inputs["reference"]
    tokens = Tokens(ids, Canvas.blank(1, SIDE * VQ.factor, SIDE * VQ.factor, VQ.factor), ids)
    options = SamplingOptions(steps=3, guidance=3.0)
    run, _ = counted(lambda: editor.sample(tokens, instruction_of(inputs), options))
    sizes = work.Sizes(HALVES, TEXT, SIDE**2, SIDE**2, steps=3)
    assert run == work.sampling(TRANSFORMER, sizes).flops


@pytest.mark.parametrize("config", [VQ, LEVELS], ids=["patches", "levels"])
def test_the_tokenizers_operations_are_counted(config):
    model, side = VQModel(config), SIDE * config.factor
    encoded, ids = counted(lambda: model.encode(torch.rand(1, 3, side, side)))
    decoded, _ = counted(lambda: model.decode(ids))
    assert encoded == work.encoding(config, SIDE**2).flops
    assert decoded == work.decoding(config, SIDE**2).flops


def test_fewer_tokens_are_pending_at_every_step():
    left = work.pending(4096, 36)
    assert left[0] == 4096 and left[24] == 2047 and len(left) == 36
    assert left == sorted(left, reverse=True)


class Steady:
    """A side that takes as long as it is told."""

    def __init__(self, **seconds):
        self.seconds, self.asked = seconds, []

    def measure(self, stage, **asked):
        self.asked.append(stage)
        if stage not in self.seconds:
            return {"missing": "not here"}
        return {"seconds": self.seconds[stage], "peak_mib": 7.0}


def test_pairs_are_interleaved_and_compared():
    rows = [Row("a", "step"), Row("b", "decode"), Row("c", "text")]
    ours, theirs = Steady(step=2.0, decode=1.0), Steady(step=3.0)
    first, second, third = compare(rows, {"ours": ours, "official": theirs}, rounds=2)
    assert first["ratio"] == 1.5 and first["ours"]["median"] == 2.0
    assert len(first["ours"]["seconds"]) == 2  # the first of three rounds warms up
    assert second["official"]["missing"] == "not here" and "ratio" not in second
    assert "missing" in third["ours"]
    assert ours.asked[:4] == ["step", "decode", "text", "step"]


@pytest.fixture(scope="module")
def result():
    parts = ["stages", "runs", "options", "offload", "ceiling"]
    return command.run(TINY, command.Plan("cpu", ["float32"], parts, rounds=1, quick=True))


def test_a_quick_run_measures_every_stage(result):
    measured = result["precisions"]["float32"]
    have = {row["stage"] for row in measured["rows"] if "median" in row["ours"]}
    apart = {"text", "tokenize", "prepare", "step", "consolidate", "draw", "decode"}
    assert have == apart | {"sample", "edit"} and len(measured["options"]) == 8
    assert [row["asked"]["offload"] for row in measured["offload"]] == ["none", "stages", "layers"]
    assert all(row["ours"]["median"] > 0 for row in measured["options"] + measured["offload"])
    assert measured["ceiling"]["limits"]["flops"] > 0 and measured["ceiling"]["rows"]
    assert json.loads(json.dumps(result)) == result


def test_tables_are_made_from_the_file(result, tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    assert table.main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == table.render(result).strip()
    for text in ("token draw and reveal", "held below 0.3", "offload layers", "GFLOP", "CUDA"):
        assert text in printed


def test_compiling_leaves_the_plain_model_alone(tmp_path):
    write_checkpoint(TINY, tmp_path)
    ours = Ours(TINY, tmp_path, random_inputs(TINY), "cpu", "float32")
    blocks, compiled = ours.model.transformer.blocks, ours.compiled().transformer.blocks
    assert all(a.halves != b.halves for a, b in zip(blocks, compiled, strict=True))


def test_the_study_compares_each_variant_with_its_base():
    model = editmgt_lib.load("toyworld", device="cpu")
    own = replace(model.settings.sampling, steps=4)
    runs = study.variants(own)
    assert all(list(runs).index(v.base) <= k for k, v in enumerate(runs.values()))
    few = {name: runs[name] for name in ("exact", "reuse known", "inside a mask")}
    batches = pair_batches(model, EvaluationOptions(samples=1, batch=1), CATEGORIES[:1], 1)
    rows = study.measure({"float32": model}, few, batches, seed=0)
    assert [row["option"] for row in rows] == list(few)
    assert rows[0]["same tokens"] == 1 and rows[0]["speed-up"] == 1
    about = {"config": "x", "machine": machine("cpu"), "options": rows}
    assert "reuse known" in table.render(about)


def test_a_training_step_is_measured_with_and_without_encoders():
    result = training.run(TINY, rounds=1, batch=2, device="cpu", official=None, python="")
    rows = result["precisions"]["float32"]["rows"]
    assert [row["asked"]["encoders"] for row in rows] == [False, True]
    assert all(row["ours"]["median"] > 0 and row["tokens"] == 2 * SIDE**2 for row in rows)
    assert "our tokens/s" in table.render(result)
    assert any("--official" in line for line in result["lacks"])


def test_the_published_size_asks_for_a_gpu(capsys):
    assert command.main(["--config", "published", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "no CUDA device" in printed and "--force" in printed


def test_the_published_case_has_the_published_size():
    with torch.device("meta"):
        model = MaskedTransformer(CASES["published"]().transformer)
    assert sum(p.numel() for p in model.parameters()) == 1_009_306_624


def test_results_are_written_whole_without_numbers_json_has_no_words_for(tmp_path):
    file, lines = tmp_path / "new" / "one.json", tmp_path / "new" / "rows.jsonl"
    records.write(file, {"a": float("nan"), "b": [1.5, (float("inf"),)]})
    records.update(file, {"c": {"d": -float("inf")}})
    assert json.loads(file.read_text(), parse_constant=pytest.fail) == {
        "a": None, "b": [1.5, [None]], "c": {"d": None}
    }  # fmt: skip
    with pytest.raises(InputError, match="as JSON"):
        records.write(file, {"a": torch.zeros(1)})
    assert records.read(file)["b"] == [1.5, [None]]
    records.add_line(lines, {"a": float("nan")})
    records.add_line(lines, {"b": 2})
    assert records.read_lines(lines) == [{"a": None}, {"b": 2}]
    assert records.read_lines(tmp_path / "none") == []
    assert [path.name for path in file.parent.iterdir() if path not in (file, lines)] == []


def test_unknown_names_are_refused():
    with pytest.raises(SystemExit, match="fp8"):
        command.main(["--dtype", "fp8"])


def test_the_readme_shows_the_kept_results():
    readme = (table.HERE / "README.md").read_text(encoding="utf-8")
    assert readme == table.readme_with_results(), "run python -m benchmarks.table"


def test_curations_stages_are_measured_and_two_million_pairs_reckoned(tmp_path, capsys):
    file = tmp_path / "curation.json"
    words = ["--rows", "4", "--edits", "1", "--side", "48", "--growth", "10", "20", "--without-ray"]
    assert curation.main([*words, "--json", str(file)]) == 0
    result = json.loads(file.read_text())["curation"]
    assert [s["stage"] for s in result["stages"]][0] == "images, 48 px"
    assert all(rate > 0 for s in result["stages"] for rate in s["rates"].values())
    assert [g["rows"] for g in result["growth"]] == [10, 20]
    shown = capsys.readouterr().out
    # 2e6 edits of 22 s are 12,222 hours, on 8 cards 64 days
    assert "12,222" in shown and "63.7" in shown and "times that others report" in shown
