"""The benchmark counts right, makes its tables, and runs; how long things take is no test."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as command
from benchmarks import table, work
from benchmarks.cases import CASES, Case
from benchmarks.compare import Row, compare, effect
from benchmarks.run import Plan, run
from editmgt_lib.models.attention import MeanOfRows
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.models.vq import VQConfig, VQModel
from editmgt_lib.toyworld.language import corpus
from editmgt_lib.toyworld.text_encoders import build_text_encoders

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


def plain_attention(q, k, v, key_bias=None):
    """Counted on every device, unlike the fused kernels."""
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def counted(call):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        value = call()
    return counter.get_total_flops(), value


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("probed", [0, 2])
def test_the_transformers_operations_are_counted(reference, probed):
    model = MaskedTransformer(TRANSFORMER, attention=plain_attention)
    tokens = SIDE**2
    sizes = work.Sizes(HALVES, TEXT, tokens, tokens if reference else 0, probed)
    ids = torch.randint(TRANSFORMER.codebook_size, (HALVES, SIDE, SIDE))
    text = torch.randn(HALVES, TEXT, TRANSFORMER.joint_attention_dim)
    pooled, micro = torch.randn(HALVES, TRANSFORMER.pooled_projection_dim), torch.rand(HALVES, 5)
    prepared, conditioning = counted(
        lambda: model.prepare(text, pooled, micro, (SIDE, SIDE), ids if reference else None)
    )
    probe = MeanOfRows(torch.full((1, TEXT), 1 / TEXT))
    times, blocks = torch.zeros(HALVES), range(probed)
    stepped, found = counted(lambda: model.step(ids, times, conditioning, probe, blocks))
    assert len(found.scores) == probed
    assert prepared == work.preparation(TRANSFORMER, sizes).flops
    assert stepped == work.step(TRANSFORMER, sizes, drawn=0).flops


def test_drawn_tokens_are_projected_once():
    sizes = work.Sizes(HALVES, TEXT, SIDE**2, SIDE**2)
    none, some = (work.step(TRANSFORMER, sizes, drawn=n).flops for n in (0, 5))
    assert some - none == 2 * 5 * TRANSFORMER.width * TRANSFORMER.codebook_size


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
    assert effect([first, second], "a", "b") == {"ours": -0.5}


@pytest.fixture(scope="module")
def result():
    parts = ["stages", "edit", "memory", "options", "scaling", "ceiling"]
    plan = Plan("cpu", ["float32"], parts, rounds=1, quick=True)
    return run(TINY, plan)


def test_a_quick_run_measures_every_stage(result):
    found = result["precisions"]["float32"]
    have = {row["stage"] for row in found["rows"] if "median" in row["ours"]}
    apart = {"text", "tokenize", "prepare", "step", "consolidate", "draw", "decode"}
    assert have == apart | {"sample", "edit"} and len(found["options"]) == 8
    assert [row["asked"]["offload"] for row in found["memory"]] == ["none", "stages", "layers"]
    assert all(row["ours"]["median"] > 0 for row in found["memory"])
    assert found["ceiling"]["limits"]["flops"] > 0 and found["scaling"]["steps"]
    assert json.loads(json.dumps(result)) == result


def test_tables_are_made_from_the_file(result, tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    assert table.main([str(path)]) == 0
    said = capsys.readouterr().out
    assert said.strip() == table.render(result).strip()
    parts = ("token draw and reveal", "map read", "offload layers", "GFLOP needed", "time grows")
    for text in (*parts, "CUDA"):
        assert text in said


def test_the_published_size_says_what_it_lacks_without_a_gpu(capsys):
    assert command.main(["--config", "published", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "no CUDA device" in said and "--force" in said


def test_the_published_case_has_the_published_size():
    with torch.device("meta"):
        model = MaskedTransformer(CASES["published"]().transformer)
    assert sum(p.numel() for p in model.parameters()) == 1_009_306_624


def test_unknown_names_are_refused():
    with pytest.raises(SystemExit, match="fp8"):
        command.main(["--dtype", "fp8"])


def test_the_readme_shows_the_kept_results():
    readme = (table.HERE / "README.md").read_text()
    assert readme == table.readme_with_results(), "run python -m benchmarks.table --readme"
