"""Caching, determinism, batches, live previews, cancelling, and what errors say."""

import io
import json
import queue
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.checkpoints.layout import SETTINGS_FILE
from editmgt_lib.checkpoints.names import TOY_FOLDER

from . import prompts


@pytest.fixture
def picture(client):
    """A ToyWorld picture in the input folder."""
    return client.upload("scene.png", prompts.png(prompts.scene()))


# ---- caching and seeds


def test_running_again_runs_nothing(client, picture):
    prompt = prompts.with_localization(prompts.edit(picture, seed=101))
    assert client.run(prompt).status == "success"
    again = client.run(prompt)
    assert again.status == "success" and again.executed == []


def test_another_threshold_runs_only_sampler_and_what_follows(client, picture):
    prompt = prompts.with_localization(prompts.edit(picture, seed=102, threshold=0.1))
    assert client.run(prompt).status == "success"
    prompt["edit"]["inputs"]["threshold"] = 0.15
    again = client.run(prompt)
    assert again.status == "success"
    assert set(again.executed) <= {"edit", "decode", "save", "changed", "save_changed"}
    assert {"edit", "decode", "save"} <= set(again.executed)


def result(client, prompt):
    run = client.run(prompt)
    assert run.status == "success", run.message()
    return [prompts.pixels(file) for file in client.files(run, "save")]


def test_a_seed_gives_the_same_picture_on_any_run(client):
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    picture = client.upload("noise.png", prompts.png(noise))  # the model cannot be sure of it
    first = result(client, prompts.edit(picture, seed=5))
    other = result(client, prompts.edit(picture, seed=6))
    client.post("/free", {"unload_models": True, "free_memory": True})
    again = result(client, prompts.edit(picture, seed=5))
    assert (first[0] == again[0]).all() and (first[0] != other[0]).any()


def batched(client, names, **sampling):
    """The edit on a batch of pictures put together by core nodes."""
    prompt = prompts.edit(names[0], **sampling)
    link = ("image", 0)
    for number, name in enumerate(names[1:]):
        prompt[f"image{number}"] = prompts.node("LoadImage", image=name)
        prompt[f"join{number}"] = prompts.node(
            "ImageBatch", image1=link, image2=(f"image{number}", 0)
        )
        link = (f"join{number}", 0)
    prompt["tokens"]["inputs"]["image"] = list(link)
    return prompt


def test_an_item_is_the_same_alone_and_in_a_batch(client):
    names = [client.upload(f"item{k}.png", prompts.png(prompts.scene(k))) for k in range(3)]
    together = result(client, batched(client, names, seed=20))
    assert len(together) == 3
    for k, name in enumerate(names):
        alone = result(client, prompts.edit(name, seed=20 + k))
        assert (alone[0] == together[k]).all(), f"item {k}"


# ---- the negative text

NEGATIVE = "turn this into a sketch"


@pytest.fixture
def with_negative(models):
    """The toy model as a checkpoint of another name whose own negative text is not empty."""
    folder = models / "editmgt" / "negative"
    folder.mkdir(parents=True, exist_ok=True)
    for part in TOY_FOLDER.iterdir():
        if part.is_dir() and not (folder / part.name).exists():
            (folder / part.name).symlink_to(part, target_is_directory=True)
    settings = json.loads((TOY_FOLDER / SETTINGS_FILE).read_text(encoding="utf-8"))
    settings["negative"] = NEGATIVE
    (folder / SETTINGS_FILE).write_text(json.dumps(settings), encoding="utf-8")
    yield folder.name
    shutil.rmtree(folder)  # other tests compare the list of checkpoints


def test_auto_is_the_checkpoints_own_negative_and_an_empty_one_is_empty(client, with_negative):
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    picture = client.upload("noise.png", prompts.png(noise))

    def edited(checkpoint, **negative):
        prompt = prompts.edit(picture, seed=7, guidance=4.0, **negative)
        prompt["load"]["inputs"]["checkpoint"] = checkpoint
        if not negative:
            del prompt["words"]["inputs"]["negative"]
        return result(client, prompt)[0]

    own = edited(with_negative)  # as a prompt without this input has it
    assert (own == edited(with_negative, negative="auto")).all()
    assert (own == edited("toyworld", negative=NEGATIVE)).all()
    empty = edited(with_negative, negative="")
    assert (empty == edited("toyworld")).all() and (empty != own).any()


# ---- masks


def loaded(name, **sampling):
    """The edit with Load Image's own mask as region: what is transparent, or 64 x 64 of nothing."""
    prompt = prompts.edit(name, prompts.TEXT, **sampling)
    prompt["edit"]["inputs"]["region"] = ["image", 1]
    return prompt


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_a_picture_that_nobody_painted_on_has_no_region(client, picture, fit):
    prompt = loaded(picture, seed=31)
    prompt["tokens"]["inputs"].update(mask=["image", 1], fit=fit)
    run = client.run(prompt)
    assert run.status == "success", run.message()
    assert "blank" in run.texts["edit"][0] and ("blank" in str(run.texts.get("tokens"))) == (
        fit == "crop"
    )
    shown = prompts.pixels(client.files(run, "save")[0])
    assert (shown == result(client, prompts.edit(picture, prompts.TEXT, seed=31))[0]).all()


def test_a_mask_of_another_size_is_stretched(client, picture):
    small = np.zeros((50, 40), np.uint8)
    small[:, :20] = 255
    large = np.zeros((256, 256), np.uint8)
    large[:, :128] = 255
    names = [client.upload(f"{m.shape[0]}.png", prompts.png(m)) for m in (small, large)]
    first, other = (client.run(prompts.edit(picture, mask=name, seed=32)) for name in names)
    assert first.status == other.status == "success", first.message()
    assert "40x50" in first.texts["edit"][0] and "256x256" in first.texts["edit"][0]
    assert "resized" not in other.texts["edit"][0]
    shown = [prompts.pixels(client.files(run, "save")[0]) for run in (first, other)]
    assert (shown[0] == shown[1]).all()
    assert (shown[0][:, 144:] == prompts.scene()[:, 144:]).all()


def test_a_batch_with_some_blank_masks(client, picture):
    """Picture 0 painted, picture 1 not: as each on its own."""
    painted = np.dstack([prompts.scene(1), np.full((256, 256), 255, np.uint8)])
    painted[:, :64, 3] = 0  # Load Image's mask is what is transparent
    name = client.upload("painted.png", prompts.png(painted))
    prompt = batched(client, [name, picture], seed=33)
    for key, source in (("m0", "image"), ("m1", "image0")):
        prompt[key] = prompts.node("MaskToImage", mask=(source, 1))
    prompt["both"] = prompts.node("ImageBatch", image1=("m0", 0), image2=("m1", 0))
    prompt["region"] = prompts.node("ImageToMask", image=("both", 0), channel="red")
    prompt["edit"]["inputs"]["region"] = ["region", 0]
    run = client.run(prompt)
    assert run.status == "success", run.message()
    assert "blank (picture 1)" in run.texts["edit"][0]
    together = [prompts.pixels(file) for file in client.files(run, "save")]
    for shown, alone, seed in zip(together, (name, picture), (33, 34), strict=True):
        assert (shown == result(client, loaded(alone, seed=seed))[0]).all()


# ---- batches that run together


def test_a_batch_can_run_together(client):
    names = [client.upload(f"item{k}.png", prompts.png(prompts.scene(k))) for k in range(3)]
    apart, together = (client.run(batched(client, names, seed=35, threshold=0.1, batched=value))
                       for value in (False, True))  # fmt: skip
    assert apart.status == together.status == "success", together.message()
    assert apart.progress["edit"][-1] == (12, 12) and together.progress["edit"][-1] == (4, 4)
    assert len([node for node, _ in together.previews if node in ("edit", None)]) == 5
    for files in zip(client.files(apart, "save"), client.files(together, "save"), strict=True):
        one, other = (prompts.pixels(file).astype(int) for file in files)
        assert (one != other).any(-1).mean() < 0.05  # a token may round otherwise


# ---- lists of values


def sweep(client, prompt, widget, output, values, name=""):
    """Run with a list linked to "node.widget"."""
    node, key = widget.split(".")
    prompt["values"] = prompts.node("EditMGT_ListOfValues", values=values, name=name)
    prompt[node]["inputs"][key] = ["values", output]
    return client.run(prompt)


def test_a_seed_is_swept(client):
    noise = np.random.default_rng(2).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    picture, seeds = client.upload("noise2.png", prompts.png(noise)), (5, 2**63 + 3)
    run = sweep(client, prompts.edit(picture), "edit.seed", 2, ", ".join(map(str, seeds)), "seed")
    assert run.status == "success", run.message()
    shown = [prompts.pixels(file) for file in client.files(run, "save")]
    for one, seed in zip(shown, seeds, strict=True):
        assert (one == result(client, prompts.edit(picture, seed=seed))[0]).all()
    assert f"seed {seeds[1]}" in run.texts["edit"][-1]


def test_steps_are_swept(client, picture):
    run = sweep(client, prompts.edit(picture, seed=36), "edit.steps", 2, "2, 3, 5")
    assert run.status == "success", run.message()
    assert [int(re.match(r"(\d+) steps", text)[1]) for text in run.texts["edit"]] == [2, 3, 5]


def test_texts_are_swept(client, picture):
    values = "turn this into a sketch\nmake the background snow"
    run = sweep(client, prompts.edit(picture, seed=37), "words.text", 3, values)
    assert run.status == "success", run.message()
    assert len(client.files(run, "save")) == 2


@pytest.mark.parametrize("widget, output, values, said", [
    ("edit.threshold", 0, "much, more", "'much' is not a number"),
    ("edit.steps", 2, "2, 2.5", "'2.5' is not a whole number"),
])  # fmt: skip
def test_a_value_of_another_kind_stops_those_who_use_it(
    client, picture, widget, output, values, said
):
    ends = queue.Queue()
    client.on_event = lambda kind, data: ends.put((kind, data)) if "execution_" in kind else None
    sweep(client, prompts.edit(picture, seed=38), widget, output, values)
    told = [ends.get(timeout=60)]
    while told[-1][0] != "execution_success":  # ComfyUI goes on with the other values
        told.append(ends.get(timeout=60))
    client.on_event = None
    messages = [data["exception_message"] for kind, data in told if kind == "execution_error"]
    assert messages and said in messages[0]


# ---- previews and progress


def test_live_previews_and_progress(client, picture):
    run = client.run(prompts.edit(picture, seed=301, steps=8))
    assert run.status == "success", run.message()
    value, most = run.progress["edit"][-1]
    assert value == most == 8
    shown = [Image.open(io.BytesIO(data)) for node, data in run.previews if node in ("edit", None)]
    assert len(shown) >= 4
    assert all(min(image.size) >= 64 for image in shown)
    first, last = (np.asarray(i.convert("RGB")).astype(int) for i in (shown[0], shown[-2]))
    assert first.shape == last.shape and np.abs(first - last).mean() > 2


def test_every_picture_of_a_batch_is_previewed(client):
    names = [client.upload(f"item{k}.png", prompts.png(prompts.scene(k))) for k in range(3)]
    run = client.run(batched(client, names, seed=303))
    assert run.status == "success", run.message()
    assert run.progress["edit"][-1] == (12, 12)
    shown = [Image.open(io.BytesIO(data)) for node, data in run.previews if node in ("edit", None)]
    assert len(shown) == 13  # and at the end the report
    last = [np.asarray(shown[k].convert("RGB")).astype(int) for k in (3, 7, 11)]
    size = last[0].shape[1::-1]
    finished = [np.asarray(Image.fromarray(prompts.pixels(file)).resize(size)).astype(int)
                for file in client.files(run, "save")]  # fmt: skip
    far = np.array([[np.abs(a - b).mean() for b in finished] for a in last])
    assert far.shape == (3, 3) and max(far.diagonal()) < 15
    assert list(far.argmin(axis=1)) == [0, 1, 2]


def test_previews_can_be_switched_off(client, server, picture):
    if server.version_numbers < (0, 4, 0):
        pytest.skip("this ComfyUI has no preview setting per prompt")
    prompt = prompts.edit(picture, seed=302, steps=8)
    run = client.run(prompt, extra={"preview_method": "none"})
    assert run.status == "success" and not run.previews
    assert run.progress["edit"][-1] == (8, 8)


# ---- cancel


def test_cancel_ends_within_a_step_and_the_next_run_works(client, picture):
    def stop(kind, data):
        if kind == "progress" and data["node"] == "edit" and data["value"] == 3:
            client.interrupt()

    client.on_event = stop
    run = client.run(prompts.edit(picture, seed=401, steps=400))
    client.on_event = None
    assert run.status == "interrupted"
    value, most = run.progress["edit"][-1]
    assert most == 400 and value < 60
    assert client.run(prompts.edit(picture, seed=402)).status == "success"


# ---- errors


def refused(client, prompt, *parts):
    """The run fails, saying all of `parts`; the next run works."""
    run = client.run(prompt)
    assert run.status in ("error", "rejected"), run.status
    text = run.message()
    for part in parts:
        assert part in text, text
    if run.status == "error":  # what newer frontends put before the message
        assert run.error["exception_type"] == "EditMGT.InputError"
    return run


def test_an_empty_instruction(client, picture):
    refused(client, prompts.edit(picture, "  "), "text")


def test_words_that_are_not_in_the_instruction(client, picture):
    prompt = prompts.with_localization(prompts.edit(picture), words="elephant")
    refused(client, prompt, "elephant", "snow")


def test_masks_that_do_not_match_the_batch(client):
    names = [client.upload(f"item{k}.png", prompts.png(prompts.scene(k))) for k in range(3)]
    prompt = batched(client, names)
    prompt["solid"] = prompts.node("SolidMask", value=1.0, width=256, height=256)
    prompt["as_image"] = prompts.node("MaskToImage", mask=("solid", 0))
    prompt["two"] = prompts.node("RepeatImageBatch", image=("as_image", 0), amount=2)
    prompt["region"] = prompts.node("ImageToMask", image=("two", 0), channel="red")
    prompt["edit"]["inputs"]["region"] = ["region", 0]
    refused(client, prompt, "2", "3")


def test_crop_without_a_mask(client, picture):
    refused(client, prompts.edit(picture, fit="crop"), "mask")


def test_an_error_is_followed_by_a_good_run(client, picture):
    refused(client, prompts.edit(picture, fit="crop"), "mask")
    assert client.run(prompts.edit(picture, seed=7)).status == "success"


def test_a_checkpoint_that_is_not_there(client, picture):
    prompt = prompts.edit(picture)
    prompt["load"]["inputs"]["checkpoint"] = "no-such-model"
    run = refused(client, prompt, "no-such-model")
    assert run.status == "rejected"


# ---- folders


def test_a_folders_results_keep_its_names(client, server):
    if not server.log_file:
        pytest.skip("the server was already running: where its input folder is is not known")
    folder = server.log_file.parent / "input" / "my photos"
    folder.mkdir()
    sizes = {"b cat": 128, "a.dog": 64}
    for name, size in sizes.items():
        (folder / f"{name}.png").write_bytes(prompts.png(prompts.scene(size=size)))
    (folder / "notes.txt").write_text("not a picture")
    prompt = prompts.edit("", seed=37, steps=2)
    prompt["image"] = prompts.node("EditMGT_LoadFolder", folder="my photos")
    prompt["save"]["inputs"]["filename_prefix"] = ["image", 1]
    run = client.run(prompt)
    assert run.status == "success", run.message()
    saved = [item["filename"] for item in run.outputs["save"]["images"]]
    assert saved == ["a.dog_00001_.png", "b cat_00001_.png"]
    assert [prompts.pixels(f).shape[0] for f in client.files(run, "save")] == [64, 128]
    prompt["image"]["inputs"].update(skip=1, most=1)
    run = client.run(prompt)
    assert [item["filename"] for item in run.outputs["save"]["images"]] == ["b cat_00002_.png"]
    prompt["image"]["inputs"]["folder"] = ".."
    assert client.run(prompt).status == "rejected"
