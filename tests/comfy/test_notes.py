"""What a user should know is written on the node it is about."""

import numpy as np
import pytest

from . import prompts

NOTHING = "nothing to note"
NORMAL = "make the background striped"


@pytest.fixture
def picture(client):
    """A ToyWorld picture in the input folder."""
    return client.upload("scene.png", prompts.png(prompts.scene()))


def texts(client, prompt):
    run = client.run(prompt)
    assert run.status == "success", run.message()
    return run.texts


@pytest.mark.parametrize(
    "text, said",
    [("remove the elephant", ["elephant"]), ("remove the red circle " * 20, ["too long"])],
)
def test_a_text_that_is_not_understood(client, picture, text, said):
    found = texts(client, prompts.edit(picture, text, seed=501))
    assert len(found["words"]) == 1 and all(part in found["words"][0] for part in said)
    assert set(found) <= {"words", "edit"}


def test_a_note_goes_once_its_cause_has_gone(client, picture):
    assert "zebra" in texts(client, prompts.edit(picture, "add a zebra", seed=502))["words"][0]
    assert texts(client, prompts.edit(picture, NORMAL, seed=502))["words"] == [NOTHING]
    assert "words" not in texts(client, prompts.edit(picture, NORMAL + "  ", seed=502))


def test_a_cached_node_says_nothing_again(client, picture):
    prompt = prompts.edit(picture, "add a giraffe", seed=503)
    assert "giraffe" in texts(client, prompt)["words"][0]
    prompt["edit"]["inputs"]["seed"] = 504
    assert "words" not in texts(client, prompt)


def test_an_edit_that_changes_nothing(client, picture):
    found = texts(client, prompts.edit(picture, seed=505, threshold=1.0))
    assert "nothing changed" in found["edit"][0]


def test_a_second_edit_that_changes_nothing_of_the_first(client, picture):
    prompt = prompts.edit(picture, "turn this into a sketch", seed=506)
    prompt["again"] = {**prompt["edit"], "inputs": {**prompt["edit"]["inputs"]}}
    prompt["again"]["inputs"].update(tokens=["edit", 0], threshold=1.0)
    prompt["decode"]["inputs"]["tokens"] = ["again", 0]
    found = texts(client, prompt)
    assert "nothing changed" in found["again"][0]
    assert found.get("edit", [NOTHING]) == [NOTHING]


def test_the_notes_of_a_list_say_of_which_run_they_are(client, picture):
    prompt = prompts.edit(picture, seed=507)
    prompt["values"] = prompts.node("EditMGT_ListOfValues", values="1, 0, 1", name="threshold")
    prompt["edit"]["inputs"]["threshold"] = ["values", 0]
    first, *others = texts(client, prompt)["edit"][-1].splitlines()
    assert first.startswith("nothing changed")
    assert len(others) == 1 and others[0].startswith("run 3: nothing changed")


def test_a_picture_that_the_toy_model_does_not_know(client):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    foreign = client.upload("noise.png", prompts.png(noise))
    assert len(texts(client, prompts.edit(foreign, seed=508))["tokens"]) == 1
