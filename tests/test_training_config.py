"""Runs as TOML files: strict reading, writing back, recipes that fit, and what a run will take."""

import re
from pathlib import Path

import pytest
import torch

from editmgt_lib.errors import InputError
from editmgt_lib.tables import to_toml, toml_reader
from editmgt_lib.training.building import Builder
from editmgt_lib.training.config import (
    GENERATION,
    config_from,
    config_table,
    load_config,
    recipe_names,
    sources_of,
)
from editmgt_lib.training.parallel import ONE
from editmgt_lib.training.plan import plan_stage, require_room

pytestmark = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="the extra `train` needs torch 2.9"
)

ROOT = Path(__file__).parents[1]
STAGE = {"kind": "edit", "steps": 10, "batch": 2, "learning_rate": 1e-3}
RUN = {"size": 64, "data": {"kind": "toyworld"}, "stages": [STAGE]}
PUBLISHED = {
    "num_layers": 14,
    "num_single_layers": 28,
    "num_attention_heads": 8,
    "attention_head_dim": 128,
    "joint_attention_dim": 2304,
    "pooled_projection_dim": 1024,
    "axes_dims_rope": [16, 56, 56],
    "vocab_size": 8256,
    "codebook_size": 8192,
    "downsample": True,
    "upsample": True,
    "connector_type": "linear",
}


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_read_and_written_back_the_same(name):
    config = load_config(name)
    assert config_from(toml_reader().loads(to_toml(config_table(config)))) == config


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith("toyworld")])
def test_toy_recipes_fit_together(name):
    config = load_config(name)
    assert config.transformer.codebook_size == config.tokenizer.num_vq_embeddings
    assert config.size % (config.tokenizer.factor * config.transformer.stride) == 0
    stages = {stage.name: stage for stage in config.stages}
    assert list(stages) == ["text", "tokenizer", "text-to-image", "edit", "refine", "decoder"]
    assert max(config.settings.localization.layers) < config.transformer.num_blocks
    for name in ("edit", "refine"):
        shares = [table["weight"] for table in sources_of(config, stages[name])]
        assert sum(shares) == pytest.approx(1)
    tasks = [table["task"] for table in sources_of(config, stages["text-to-image"])]
    assert tasks == ["generate"]


def test_toy_recipes_train_and_edit_alike():
    """Sizes and lengths of runs apart: nothing supervises the attention of either."""
    cpu, gpu = (load_config(f"toyworld-{device}") for device in ("cpu", "gpu"))
    assert cpu.settings.sampling == gpu.settings.sampling
    for config in (cpu, gpu):  # the map is read in the first two single blocks
        first = config.transformer.num_layers
        assert config.settings.localization.layers == (first, first + 1)
    for one, other in zip(cpu.stages, gpu.stages, strict=True):
        assert getattr(one, "objective", None) == getattr(other, "objective", None)
    assert all(
        stage.objective.alignment == 0 for config in (cpu, gpu) for stage in config.stages[3:5]
    )


def test_recipes_of_the_published_size_say_what_they_need():
    for name in ("published", "lora-24gb", "finetune-8gpu"):
        config = load_config(name)
        assert config.size == 1024 and config.text_length == 256 and config.start
        for stage in config.stages:
            assert stage.kind in GENERATION and stage.validation
            # The average forgets within the run.
            assert stage.loop.average ** (stage.loop.steps / 2) < 0.3, stage.name
    published = load_config("published")
    assert [s.loop.steps for s in published.stages] == [5000, 50000, 1000]
    assert load_config("lora-24gb").stages[0].lora.rank == 16


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sise": 3}, "no key 'sise'; did you mean 'size'"),
        ({"stages": [STAGE | {"learning_rat": 1}]}, "stages.edit: there is no key 'learning_rat'"),
        ({"stages": [STAGE | {"steps": "10"}]}, "stages.edit.steps is '10'.*int"),
        ({"stages": [STAGE | {"steps": 1.5}]}, "steps is 1.5"),
        ({"stages": [STAGE | {"steps": True}]}, "steps is True"),
        ({"stages": [{k: v for k, v in STAGE.items() if k != "batch"}]}, "batch is missing"),
        ({"stages": [STAGE | {"kind": "video"}]}, "kind is 'video'"),
        ({"stages": [STAGE | {"objective": {"text_dropout": 2}}]}, "objective: text_dropout is 2"),
        ({"stages": [STAGE | {"objective": {"dropout": 2}}]}, "no key 'dropout'"),
        ({"stages": [STAGE | {"betas": [0.9]}]}, "betas is .*2 values"),
        ({"stages": [STAGE | {"name": "../up"}]}, "name is '../up'"),
        ({"stages": [STAGE, STAGE]}, "two stages are called 'edit'"),
        ({"stages": []}, "no stages"),
        ({"stages": {}}, "list of tables"),
        ({"data": {}}, "has no data"),
        ({"data": {"kind": "tape"}}, "data.kind is 'tape'"),
        ({"data": {"kind": "toyworld", "share": 1}}, "data.share"),
        ({"engine": {"precision": "fp8"}}, "precision is 'fp8'"),
        ({"engine": {"parallel": "mpi"}}, "parallel is 'mpi'"),
        ({"engine": 3}, "engine is 3; write a table"),
        ({"settings": {"sampling": {"steps": 0}}}, "steps is 0"),
        ({"transformer": PUBLISHED | {"attention_head_dim": 3}}, "transformer: "),
        (
            {
                "engine": {"parallel": "fsdp"},
                "stages": [STAGE | {"objective": {"reference_dropout": 0.1}}],
            },
            "reference_dropout",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_in_a_run_is_named(change, named):
    with pytest.raises(InputError, match=named):
        config_from(RUN | change)


@pytest.mark.parametrize(
    ("text", "named"), [("size = ", "is not TOML"), ("size = 3\nsize = 4", "is not TOML")]
)
def test_a_file_that_is_not_toml_is_named(text, named, tmp_path):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(InputError, match=f"run.toml {named}"):
        load_config(tmp_path / "run.toml")
    with pytest.raises(InputError, match="cannot read .*none.toml"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(
        InputError, match="toyworld-tpu is neither a file nor a recipe.*toyworld-cpu"
    ):
        load_config("toyworld-tpu")


def test_values_are_changed_by_name(tmp_path):
    changes = ["edit.learning_rate=1e-5", "engine.precision=float32", "size=64",
               "edit.objective.steps=8", "start=some/folder", "edit.betas=[0.9, 0.95]"]  # fmt: skip
    config = load_config("toyworld-cpu", changes)
    edit = next(stage for stage in config.stages if stage.name == "edit")
    assert edit.loop.optimizer.learning_rate == 1e-5 and edit.loop.optimizer.betas == (0.9, 0.95)
    assert edit.objective.steps == 8 and edit.objective.patches == 0.5
    assert config.engine.precision == "float32" and config.size == 64
    assert config.start == "some/folder"
    for change, named in (("size", "key=value"), ("size.x=3", "not a table"), ("sice=3", "'size'")):
        with pytest.raises(InputError, match=named):
            load_config("toyworld-cpu", [change])


def test_paths_of_data_start_at_the_runs_file(tmp_path):
    table = RUN | {"data": {"kind": "folder", "path": "pairs"}}
    (tmp_path / "run.toml").write_text(to_toml(table))
    config = load_config(tmp_path / "run.toml")
    assert config.data["path"] == str(tmp_path / "pairs")
    assert load_config(tmp_path / "run.toml", ["data.path=here"]).data["path"] == "here"


def test_an_edit_stage_needs_a_network_to_start_from(tmp_path):
    stage = config_from(RUN).stages[0]
    builder = Builder(config_from(RUN), tmp_path, torch.device("cpu"))
    with pytest.raises(InputError, match="no network to start from; name a checkpoint"):
        builder._transformer(stage, None, None)
    with pytest.raises(InputError, match="name a checkpoint"):
        plan_stage(stage, config_from(RUN), None, ONE)


# --- what a run will take ---


def test_the_published_size_is_reckoned_as_counted_elsewhere():
    """1.009 B parameters; 3.44 TFLOP forward with a reference, three times that to train."""
    run = RUN | {"size": 1024, "text_length": 256, "transformer": PUBLISHED}
    plan = plan_stage(config_from(run).stages[0], config_from(run), None, ONE)
    assert plan.trained == pytest.approx(1.009e9, rel=0.01) and plan.frozen == 0
    assert plan.operations / 2 == pytest.approx(3 * 3.44e12, rel=0.02)
    assert plan.memory == pytest.approx(20 * plan.trained)
    assert plan.tokens == 2 * 2 * 4096
    engine = {"engine": {"recompute": True}}
    more = plan_stage(config_from(run | engine).stages[0], config_from(run | engine), None, ONE)
    assert more.operations == pytest.approx(4 / 3 * plan.operations)
    lora = run | {"stages": [STAGE | {"lora": {"rank": 16}}]}
    small = plan_stage(config_from(lora).stages[0], config_from(lora), None, ONE)
    assert small.trained == pytest.approx(4.13e6, rel=0.01)  # 42 blocks, q, k and v
    assert small.memory < 0.3 * plan.memory and small.disk < 0.01 * plan.disk


def test_too_little_room_is_refused(tmp_path, monkeypatch):
    run = RUN | {"transformer": PUBLISHED | {"num_layers": 1, "num_single_layers": 1}}
    plan = plan_stage(config_from(run).stages[0], config_from(run), None, ONE)
    require_room(plan, tmp_path / "not" / "there", ONE)
    few = type("Usage", (), {"free": plan.disk - 1})
    monkeypatch.setattr("editmgt_lib.training.plan.shutil.disk_usage", lambda _: few)
    with pytest.raises(InputError, match="of disk and .* free; choose another folder"):
        require_room(plan, tmp_path, ONE)
    monkeypatch.undo()
    monkeypatch.setattr("editmgt_lib.training.plan._memory", lambda _: plan.memory - 1)
    with pytest.raises(InputError, match="of memory per process.*LoRA"):
        require_room(plan, tmp_path, ONE)


def test_the_run_in_the_docs_can_be_read(tmp_path):
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    (tmp_path / "run.toml").write_text(block)
    config = load_config(tmp_path / "run.toml", ["hats.learning_rate=5e-5"])
    (stage,) = config.stages
    assert stage.lora.rank == 16 and stage.loop.optimizer.learning_rate == 5e-5
    for name in recipe_names():
        assert f"`{name}`" in text
