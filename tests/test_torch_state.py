"""An edit does not depend on what other packages made of torch's global state, nor change it."""

import ast
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import editmgt_lib
from editmgt_lib.sampling.noise import ItemNoise
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.toyworld.text_encoders import build_text_encoders

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {"steps": 3, "guidance": 2.0, "strength": 1.1, "threshold": 0.1}


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
        assert torch.empty(0).device == torch.device(device)
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def no_grad_mode():
    torch.set_grad_enabled(False)
    try:
        yield
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "meta": lambda: default_device("meta"),
    "inside meta": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic,
    "no grad": no_grad_mode,
}


@pytest.fixture(autouse=True)
def nothing_is_left_changed():
    """The random state is untouched, and the defaults are what they were."""
    generator = torch.get_rng_state()
    before = torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled()
    yield
    assert torch.equal(generator, torch.get_rng_state())
    after = torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled()
    assert after == before


@pytest.fixture(scope="module")
def scene():
    return editmgt_lib.read_image(ROOT / "docs" / "images" / "scene.png").pixels


@pytest.fixture(scope="module")
def shipped():
    return editmgt_lib.load("toyworld", device="cpu")


def outcome(model, scene, **changes):
    """What an edit, a map and a picture from text come to."""
    options = SamplingOptions(**{**OPTIONS, **changes})
    tokens = model.encode_image(scene, "native")
    instruction = model.encode_instruction("remove the red heart", "blurry")
    edited, localization = model.sample(tokens, instruction, options)
    decoded = model.decode(edited, feather=4.0)
    asked = model.localize(tokens, instruction)
    blank = model.blank_tokens(1, (64, 64))
    drawn, _ = model.sample(blank, instruction, SamplingOptions(steps=2, guidance=2.0))
    assert decoded.image.dtype == localization.relevance.dtype == torch.float32
    return {
        "states": instruction.states,
        "ids": edited.ids,
        "map": localization.relevance,
        "image": decoded.image,
        "changed": decoded.changed,
        "asked": asked.relevance,
        "drawn": model.decode(drawn).image,
    }


def assert_same(outcome, expected):
    assert [name for name in expected if not torch.equal(outcome[name], expected[name])] == []


@pytest.fixture(scope="module")
def plain(shipped, scene):
    return outcome(shipped, scene)


@pytest.mark.parametrize("state", STATES)
def test_an_edit_is_the_same_in_any_state_of_torch(shipped, scene, plain, state):
    with STATES[state]():
        assert_same(outcome(shipped, scene), plain)


@pytest.mark.parametrize("state", STATES)
def test_a_model_loaded_in_any_state_of_torch_is_the_same(scene, plain, state):
    with STATES[state]():
        model = editmgt_lib.load("toyworld", device="cpu")
    assert_same(outcome(model, scene), plain)


@pytest.mark.parametrize("state", ["float64", "float16", "meta"])
@pytest.mark.parametrize(
    "changes",
    [
        {"draw": "race", "schedule": "linear", "temperature": 1.5},
        {"hold_rule": "restore", "strength_scope": "image"},
        {"reuse": "known", "refresh": 2, "steps": 4},
    ],
    ids=str,
)
def test_every_option_is_the_same_in_any_state_of_torch(shipped, scene, state, changes):
    expected = outcome(shipped, scene, **changes)
    with STATES[state]():
        assert_same(outcome(shipped, scene, **changes), expected)


@pytest.mark.parametrize("draw", ["inverse", "race"])
@pytest.mark.parametrize("state", ["float64", "bfloat16", "meta"])
def test_a_seed_is_the_same_numbers(state, draw):
    numbers = [ItemNoise([3], draw).draw(1, 4, 8, last) for last in (False, True)]
    with STATES[state]():
        again = [ItemNoise([3], draw).draw(1, 4, 8, last) for last in (False, True)]
    for ours, theirs in zip(again, numbers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("state", ["float64", "bfloat16", "meta"])
def test_new_text_encoders_are_the_same(state):
    expected = build_text_encoders(["red heart"], width=16)
    with STATES[state]():
        again = build_text_encoders(["red heart"], width=16)
    for ours, theirs in ((again.clip, expected.clip), (again.gemma, expected.gemma)):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_threads_that_build_leave_the_process_as_it_was():
    expected = build_text_encoders(["red heart"], width=16).gemma.layers[0].mlp.up_proj.weight
    with default_dtype(torch.float64), ThreadPoolExecutor(4) as pool:
        built = pool.map(lambda _: build_text_encoders(["red heart"], width=16), range(8))
        for encoders in built:
            assert torch.equal(encoders.gemma.layers[0].mlp.up_proj.weight, expected)


FLOATS = ("zeros", "ones", "empty", "rand", "randn", "linspace", "eye", "full", "tensor")
OTHERS = ("arange", "randint", "randperm")


def factory_calls():
    """Calls of torch's factories in the core with the options they leave to torch's defaults."""
    skipped = ("training", "evaluation")
    for path in sorted((ROOT / "editmgt_lib").rglob("*.py")):
        if path.parent.name in skipped:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, name = node.func.value, node.func.attr
            if getattr(owner, "id", None) != "torch" or name not in (*FLOATS, *OTHERS):
                continue
            given = {keyword.arg for keyword in node.keywords}
            asked = {"device", "dtype"} if name in FLOATS else {"device"}
            if None not in given and asked - given:
                yield f"{path.relative_to(ROOT)}:{node.lineno} torch.{name}: {asked - given}"


def test_no_factory_leaves_dtype_or_device_to_the_process():
    assert list(factory_calls()) == []
