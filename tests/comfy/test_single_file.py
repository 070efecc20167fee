"""A checkpoint in one file: listed, loaded and watched for changes like a folder."""

import os

import pytest

from editmgt_lib.checkpoints.names import TOY_FOLDER

from . import prompts

PLACES = ("editmgt", "checkpoints")


def listed(client):
    options = client.get("/object_info/EditMGT_Load")["EditMGT_Load"]["input"]["required"]
    return str(options["checkpoint"])


def run(client, picture, checkpoint):
    prompt = prompts.edit(picture, seed=11)
    prompt["load"]["inputs"]["checkpoint"] = checkpoint
    return client.run(prompt)


def pixels(client, done):
    assert done.status == "success", done.message()
    (file,) = client.files(done, "save")
    return prompts.pixels(file)


@pytest.fixture
def picture(client):
    """A ToyWorld picture in the input folder."""
    return client.upload("scene.png", prompts.png(prompts.scene()))


@pytest.mark.parametrize("place", PLACES)
def test_a_single_file_edits_like_its_folder(client, models, picture, place):
    pack = pytest.importorskip("editmgt_lib.checkpoints").pack
    file = models / place / f"toy-in-{place}.safetensors"
    pack(TOY_FOLDER, file, "keep")
    try:
        assert file.name in listed(client)
        whole = pixels(client, run(client, picture, "toyworld"))
        assert (pixels(client, run(client, picture, file.name)) == whole).all()
        pack(TOY_FOLDER, file, "fp8")
        os.utime(file, (1, 1))
        again = run(client, picture, file.name)
        assert again.status == "success" and "load" in again.executed  # the file is another
    finally:
        file.unlink()
    assert file.name not in listed(client)


def test_other_files_are_not_listed_and_a_cut_one_is_refused(client, models, picture):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from editmgt_lib.checkpoints.packed import FORMAT

    other, part = (models / "checkpoints" / f"{name}.safetensors" for name in ("other", "part"))
    try:
        save_file({"a": torch.zeros(2)}, other)
        save_file({"a": torch.zeros(2)}, part, {"format": FORMAT})
        names = listed(client)
        assert other.name not in names and part.name in names
        refused = run(client, picture, part.name)
        assert refused.status == "rejected" and "vqvae/config.json" in refused.message()
    finally:
        other.unlink()
        part.unlink()
