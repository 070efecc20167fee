"""The base model in Meissonic's layout: listed, loaded and used; a picture gets a note."""

import shutil

from . import prompts


def test_it_is_listed_and_runs_with_a_note_on_the_picture(client, models, tiny_meissonic):
    place = shutil.copytree(tiny_meissonic, models / "editmgt" / "base")
    try:
        options = client.get("/object_info/EditMGT_Load")["EditMGT_Load"]["input"]["required"]
        assert "base" in str(options["checkpoint"])
        picture = client.upload("scene.png", prompts.png(prompts.scene()))
        prompt = prompts.edit(picture, fit="native", seed=71, steps=2)
        prompt["load"]["inputs"]["checkpoint"] = "base"
        run = client.run(prompt)
        assert run.status == "success", run.message()
        assert "makes pictures from text" in run.texts["tokens"][0]
    finally:
        shutil.rmtree(place)
