"""Load EditMGT fetches the published checkpoint: progress, cancel, going on, and leaving it be.

The Hub is a local one that serves the toy checkpoint under the published name, on a server of its
own whose HF_ENDPOINT points there.
"""

import time
from pathlib import Path

import pytest

from tools.comfy.server import places, running

from . import prompts
from .fake_hub import serving

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "editmgt_lib" / "toyworld" / "checkpoint"
PUBLISHED = "WeiChow/EditMGT"


@pytest.fixture(scope="module")
def hub():
    """The local hub."""
    with serving(TOY) as started:
        yield started


@pytest.fixture(scope="module")
def base(hub, tmp_path_factory):
    """The folder of a server that knows no other hub."""
    return tmp_path_factory.mktemp("download")


@pytest.fixture(scope="module")
def client(hub, base):
    """A connection to that server."""
    if places() is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to a checkout and COMFY_PYTHON to its Python")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(base / "home"))
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            patch.delenv(name, raising=False)
        with running(base) as server, server.client() as connected:
            yield connected


def prompt_for(client, *, download):
    """The edit with the published checkpoint."""
    picture = client.upload("scene.png", prompts.png(prompts.scene()))
    prompt = prompts.edit(picture)
    prompt["load"]["inputs"]["checkpoint"] = PUBLISHED + " (download)" * download
    return prompt


def test_unless_asked_the_network_is_not_touched(client, hub):
    run = client.run(prompt_for(client, download=False))
    assert run.status == "rejected" and "(download)" in run.message()
    assert not hub.requests


def test_cancel_in_the_middle_then_go_on_then_leave_it_be(client, hub, base):
    hub.pause, asked = 0.02, []

    def stop(kind, data):
        if kind == "progress" and data["node"] == "load" and data["value"] >= 2 and not asked:
            asked.append(time.monotonic())
            client.interrupt()

    client.on_event = stop
    run = client.run(prompt_for(client, download=True))
    client.on_event = None
    assert run.status == "interrupted" and time.monotonic() - asked[0] < 5
    values, most = [v for v, _ in run.progress["load"]], run.progress["load"][-1][1]
    assert values == sorted(values) and values[0] == 0 < values[-1] < most
    folder = base / "models" / "editmgt" / PUBLISHED.replace("/", "--")
    assert not (folder / "vqvae" / "config.json").exists()  # what makes it complete comes last

    kept = {name for name in hub.sent if (folder / name).exists()}
    assert kept and kept != set(hub.sent)
    hub.pause = 0.0
    hub.sent.clear()
    run = client.run(prompt_for(client, download=True))
    assert run.status == "success", run.message()
    for file in (p for p in TOY.rglob("*") if p.is_file()):
        assert (folder / file.relative_to(TOY)).read_bytes() == file.read_bytes()
    assert hub.sent and not kept & set(hub.sent), "complete files were fetched again"
    assert not list(folder.rglob("*.incomplete"))

    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    weights = folder / "vqvae" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run = client.run(prompt_for(client, download=False))
    assert run.status == "rejected"
    for part in ("tokenizer", "vqvae (", str(folder), "(download)"):
        assert part in run.message(), run.message()
    assert client.run(prompt_for(client, download=True)).status == "success"

    before = hub.requests
    client.post("/free", {"unload_models": True, "free_memory": True})
    assert client.run(prompt_for(client, download=True)).status == "success"
    assert client.run(prompt_for(client, download=False)).status == "success"
    assert hub.requests == before
