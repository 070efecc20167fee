"""The golden folders themselves: none empty, none with a case or run that no test reads."""

import hashlib
import json

import pytest

from . import goldens

# Case names by the test file that compares them.
PREFIXES = (
    "transformer_",  # test_transformer, test_checkpoints
    "attention_capture",  # test_transformer
    "local_maps",  # test_local_maps
    "scheduler",  # test_scheduler
    "pipeline_",  # test_pipeline
    "vqmodel",  # test_vq
    "meissonic",  # test_meissonic
)
KEY_LISTS = "fullsize"  # names and shapes in the published size: test_vq, test_checkpoints
SHARED = {
    "attention_capture",
    "local_maps",
    "pipeline_updown",
    "scheduler",
    "transformer_linear_updown",
    "transformer_none_flat",
    "vqmodel",
    KEY_LISTS,
}
BUNDLED = SHARED | {"meissonic"}  # another program's: of the base model
FULL = SHARED | {"pipeline_flat", "transformer_linear_flat"}
ROOTS = goldens.roots()
CASES = [c for prefix in PREFIXES for c in goldens.case_dirs(prefix)]


def folders(root):
    return {d.name for d in root.iterdir() if d.is_dir()}


def test_the_known_sets_are_complete():
    assert folders(goldens.BUNDLED) == BUNDLED
    if goldens.BESIDE in ROOTS:
        assert folders(goldens.BESIDE) >= FULL


@pytest.mark.parametrize("root", ROOTS, ids=str)
def test_a_test_reads_every_folder(root):
    found = folders(root)
    assert found, f"{root} is empty"
    unread = [n for n in sorted(found) if n != KEY_LISTS and not n.startswith(PREFIXES)]
    assert not unread, f"{root} holds folders that no test reads: {unread}"


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
def test_every_case_has_settings_and_arrays(case):
    settings = goldens.meta(case)
    files = {p.stem for p in case.glob("*.safetensors")}
    assert files
    if "weights" in settings:
        assert (case.parent / settings["weights"]).is_file()
    if "runs" in settings:
        assert settings["runs"]
        assert files - {"inputs"} == set(settings["runs"])
    else:
        assert {"inputs", "outputs"} <= files


@pytest.mark.parametrize("root", ROOTS, ids=str)
def test_files_are_those_of_the_index(root):
    index = root / "index.json"
    if not index.exists():
        assert root not in (goldens.BUNDLED, goldens.BESIDE), f"{index} is missing"
        return
    listed = json.loads(index.read_text())["files"]
    here = {p.relative_to(root).as_posix() for d in root.iterdir() if d.is_dir()
            for p in d.rglob("*") if p.is_file()}  # fmt: skip
    assert here == {name for name in listed if "/" in name}
    for name in sorted(here):
        content = (root / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == listed[name]["sha256"], name
