"""One server for all tests of this folder, or a visible skip."""

import pytest

from tools.comfy.server import already_running, places, running


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running ComfyUI with this checkout linked in under an unusual folder name."""
    given = already_running()
    if given:
        yield given
        return
    if places() is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to a checkout and COMFY_PYTHON to its Python")
    arguments = ("--cpu", "--preview-method", "auto")
    base = tmp_path_factory.mktemp("comfy")
    with running(base, name="Any-Folder.1", arguments=arguments) as started:
        yield started


@pytest.fixture
def client(server):
    """A connection of its own for each test."""
    with server.client() as connected:
        yield connected


@pytest.fixture
def folder(client):
    """The name of the pack's folder on this server."""
    module = client.get("/object_info")["EditMGT_Load"]["python_module"]
    return module.removeprefix("custom_nodes.")


@pytest.fixture
def models(server):
    """The models folder of a server that these tests started."""
    if not server.log_file or not (folder := server.log_file.parent / "models").is_dir():
        pytest.skip("the server was already running: where its models lie is not known")
    return folder
