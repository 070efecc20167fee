"""What many tests share: a tiny random checkpoint in the published layout, and a real browser."""

import os
import shutil

import pytest
import torch

SETTINGS = {
    "resolution": 64,
    "text_length": 24,
    "negative": "ugly",
    "sampling": {"steps": 3, "guidance": 2.0},
    "localization": {"layers": [0, 2]},
}


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def write_tiny_checkpoint(folder, settings=SETTINGS):
    """64x64 pixels, 4x4 tokens, 2x2 positions, ToyWorld's words; by the library's own functions."""
    from editmgt_lib.checkpoints import save_module
    from editmgt_lib.files import atomic_write_json
    from editmgt_lib.models.transformer import MaskedTransformer
    from editmgt_lib.models.vq import VQModel
    from editmgt_lib.toyworld.language import corpus
    from editmgt_lib.toyworld.text_encoders import write_text_folders

    from .tiny import TRANSFORMER, VQ

    name = "diffusion_pytorch_model.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {"vqvae": VQModel(VQ), "editmgt": MaskedTransformer(TRANSFORMER)}
        networks["vqvae"].quantize.embedding.weight.data.normal_()  # codes far apart
    for part, config in (("vqvae", VQ), ("editmgt", TRANSFORMER)):
        save_module(folder / part, networks[part], config.to_dict(), weights_name=name)
    write_text_folders(folder, corpus(), text_length=settings["text_length"], width=16, pooled=16)
    schedule = {"masking_schedule": "cosine", "mask_token_id": TRANSFORMER.mask_token_id}
    atomic_write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    atomic_write_json(folder / "editmgt.json", settings)
    return folder


def write_tiny_meissonic(folder, tiny_checkpoint):
    """Meissonic's published layout: `transformer/` without connector, CLIP alone, no settings."""
    from editmgt_lib.checkpoints import save_module
    from editmgt_lib.models.transformer import MaskedTransformer
    from editmgt_lib.toyworld.language import corpus
    from editmgt_lib.toyworld.text_encoders import write_text_folders

    from .tiny import MEISSONIC

    for part in ("vqvae", "scheduler"):
        shutil.copytree(tiny_checkpoint / part, folder / part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = MaskedTransformer(MEISSONIC)
    stated = {"connector_type": None, "text_encoder_architecture": None}
    config = {k: v for k, v in MEISSONIC.to_dict().items() if k not in stated}
    name = "diffusion_pytorch_model.safetensors"
    save_module(folder / "transformer", network, config, weights_name=name)
    write_text_folders(folder, corpus(), text_length=77, width=16, pooled=16)
    shutil.rmtree(folder / "llm_encoder")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Folder of the tiny checkpoint; not to be changed (see `tiny_copy`)."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_meissonic(tiny_checkpoint, tmp_path_factory):
    """Folder of a tiny base model in Meissonic's layout; not to be changed."""
    return write_tiny_meissonic(tmp_path_factory.mktemp("base") / "meissonic", tiny_checkpoint)


@pytest.fixture
def tiny_copy(tiny_checkpoint, tmp_path):
    """A copy of the tiny checkpoint to break."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def browser():
    play = pytest.importorskip("playwright.sync_api", reason="the package playwright is not here")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed; CHROMIUM can name one")
    with play.sync_playwright() as started:
        options = ["--no-sandbox", "--disable-gpu"]
        opened = started.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=options, timeout=300_000
        )
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open a file; when the test ends there must have been no error and no request elsewhere."""
    troubles, pages = [], []

    def opening(path, **options):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("request", lambda r: r.url.startswith("http") and troubles.append(r.url))
        page.goto(path.resolve().as_uri())
        pages.append(page)
        return page

    yield opening
    for page in pages:
        page.close()
    assert troubles == []
