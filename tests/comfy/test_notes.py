"""What a user should know is written on the node it is about."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from tools.comfy.parts import TOY

from . import prompts

OWN = f"{TOY['steps']} steps, guidance {TOY['guidance']:g}"
NOTHING = "nothing to note"
NORMAL = "make the background snow"


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
    [("remove the elephant", ["elephant"]), ("remove the red heart " * 20, ["too long"])],
)
def test_a_text_that_is_not_understood(client, picture, text, said):
    found = texts(client, prompts.edit(picture, text, seed=501))
    assert len(found["words"]) == 1 and all(part in found["words"][0] for part in said)
    assert set(found) <= {"words", "edit"}


def test_a_note_goes_once_its_cause_has_gone(client, picture):
    assert "zebra" in texts(client, prompts.edit(picture, "add a zebra", seed=502))["words"][0]
    assert texts(client, prompts.edit(picture, NORMAL, seed=502))["words"] == [NOTHING]
    assert "words" not in texts(client, prompts.edit(picture, NORMAL + "  ", seed=502))


def test_a_cached_node_says_nothing_new(client, picture):
    prompt = prompts.edit(picture, "add a giraffe", seed=503)
    first = texts(client, prompt)["words"]
    assert "giraffe" in first[0]
    prompt["edit"]["inputs"]["seed"] = 504
    assert texts(client, prompt).get("words", first) == first  # the history of old versions has it


def test_an_edit_that_changes_nothing(client, picture):
    found = texts(client, prompts.edit(picture, seed=505, threshold=1.0))
    report, note = found["edit"][0].rsplit("\n", 1)
    assert note.startswith("nothing changed") and "100% held, 0% changed" in report


def test_notes_are_not_in_the_log_too(client, server, picture):
    found = texts(client, prompts.edit(picture, "add a kangaroo", seed=509, threshold=1.0))
    assert "kangaroo" in found["words"][0] and "nothing changed" in found["edit"][0]
    assert "kangaroo" not in server.log and "nothing changed" not in server.log


def test_the_sampler_says_what_it_used_and_what_came_of_it(client, picture):
    prompt = prompts.edit(picture, "turn this into a sketch", seed=510, guidance=2.5)
    used, came, place = texts(client, prompt)["edit"][0].splitlines()
    assert used == "4 steps, guidance 2.5, seed 510"
    pattern = r"\d+\.\d s, 0% held, (\d+)% changed"
    assert int(re.fullmatch(pattern, came)[1]) > 50 and place == "cpu fp32"


def test_zero_and_nothing_are_the_checkpoints_own(client, picture):
    zeros = {"steps": 0, "guidance": 0.0, "strength": 0.0}
    own = dict(TOY)
    noise = np.random.default_rng(3).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    foreign, made = client.upload("noise3.png", prompts.png(noise)), []
    for given in (zeros, own, {"steps": 0}):
        run = client.run(prompts.edit(foreign, seed=511, **given))
        assert run.status == "success", run.message()
        assert run.texts["edit"][0].startswith(f"{OWN}, seed 511")
        made.append(prompts.pixels(client.files(run, "save")[0]))
    assert all((other == made[0]).all() for other in made)


def test_a_new_sampler_with_the_toy_model_names_the_toys_numbers(client, picture):
    published = {"steps": 36, "guidance": 6.0, "strength": 1.1}
    said = texts(client, prompts.edit(picture, seed=513, **published))["edit"][0]
    assert (
        said.startswith("36 steps, guidance 6,") and f"{OWN}, strength {TOY['strength']:g}" in said
    )


def test_a_region_counts_as_held(client, picture):
    half = np.zeros((256, 256), np.uint8)
    half[:, :64] = 255
    mask = client.upload("quarter.png", prompts.png(half))
    prompt = prompts.edit(picture, "turn this into a sketch", seed=512, mask=mask)
    assert "75% held" in texts(client, prompt)["edit"][0]


def test_a_second_edit_that_changes_nothing_of_the_first(client, picture):
    prompt = prompts.edit(picture, "turn this into a sketch", seed=506)
    prompt["again"] = {**prompt["edit"], "inputs": {**prompt["edit"]["inputs"]}}
    prompt["again"]["inputs"].update(tokens=["edit", 0], threshold=1.0)
    prompt["decode"]["inputs"]["tokens"] = ["again", 0]
    found = texts(client, prompt)
    assert "nothing changed" in found["again"][0]
    assert "nothing changed" not in found["edit"][0]


def test_each_value_of_a_list_has_a_card_of_its_own(client, picture):
    prompt = prompts.edit(picture, seed=507)
    prompt["values"] = prompts.node("EditMGT_ListOfValues", values="1, 0, 1", name="threshold")
    prompt["edit"]["inputs"]["threshold"] = ["values", 0]
    run = client.run(prompt)
    assert len(client.files(run, "edit")) == 3
    assert ["nothing changed" in text for text in run.texts["edit"]] == [True, False, True]


def test_a_picture_that_the_toy_model_does_not_know(client):
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    foreign = client.upload("noise.png", prompts.png(noise))
    assert len(texts(client, prompts.edit(foreign, seed=508))["tokens"]) == 1


def test_the_report_is_drawn_into_the_node_below_the_last_preview(client, picture):
    """The one form that every frontend keeps once the job has ended."""
    run = client.run(prompts.edit(picture, seed=514))
    (card,) = client.files(run, "edit")
    card = prompts.pixels(card).astype(int)
    shown, words = card[:288], card[288:]  # the picture is square, the words are below
    assert shown.std() > 20 and (words.max(-1) > 180).mean() > 0.02  # light ink on dark paper
    assert (words.max(-1) < 60).mean() > 0.6
    last = Image.open(io.BytesIO(run.previews[-1][1])).convert("RGB")  # shown instead where it is
    card = Image.fromarray(card.astype(np.uint8)).resize(last.size)
    assert np.abs(np.asarray(last).astype(int) - np.asarray(card)).mean() < 8


def test_a_note_about_a_picture_is_below_its_grid(client, picture):
    noise = np.random.default_rng(4).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    foreign = client.upload("noise4.png", prompts.png(noise))
    runs = [client.run(prompts.edit(name, seed=515)) for name in (picture, foreign)]
    known, unknown = (prompts.pixels(client.files(run, "tokens")[0]) for run in runs)
    assert known.shape[0] == known.shape[1]
    assert (unknown[288:].max(-1) > 180).mean() > 0.02 and (unknown[288:].max(-1) < 60).mean() > 0.6
