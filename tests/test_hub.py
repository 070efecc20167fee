"""Downloading: what is asked for, what is not asked for twice, and what is said when it fails."""

import importlib
import inspect
import shutil
import threading
import time
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import save

from editmgt_lib.checkpoints import hub, resolve, transfer
from editmgt_lib.checkpoints.layout import PARTS
from editmgt_lib.errors import Cancelled, CheckpointError, InputError

from .comfy.fake_hub import commit_of, point_at, serving

REPO = hub.DEFAULT_REPO
WEIGHTS = save({"w": torch.zeros(3)})
UNWANTED = {
    "README.md": b"readme",
    "editmgt/model.bin": b"code",
    "editmgt/modeling.py": b"code",
    "editmgt/old/config.json": b"{}",
    "transformer/config.json": b"{}",
    "text_encoder/model.fp16.safetensors": WEIGHTS,
    "editmgt/.hidden.json": b"{}",
}


def repository():
    files = {f"{p.name}/{p.marker}": b"{}" for p in PARTS}
    files |= {f"{p.name}/model.safetensors": WEIGHTS for p in PARTS if p.has_weights}
    return files | {"llm_encoder/tokenizer.model": b"abc", "tokenizer/merges.txt": b"a b"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub of one repository, asked by the real huggingface_hub over HTTP."""
    for path, data in (repository() | UNWANTED).items():
        file = tmp_path / "repository" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    with serving(tmp_path / "repository") as started:
        point_at(started, monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(transfer, "POLL_SECONDS", 0.01)
        yield started


def fetched(server):
    """What was asked for since the last time, markers and all."""
    names = sorted(server.sent)
    server.sent.clear()
    return names


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def change(server, path, data):
    file = server.folder / path
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)


def test_fetches_the_allowed_files_of_the_pinned_revision(server, tmp_path):
    folder = hub.download(folder=tmp_path / "m")
    assert folder == tmp_path / "m" and contents(folder) == repository()
    assert fetched(server) == sorted(repository())
    assert server.revisions == {"0a00f14ea159728fb76ac99ed741f9deca5fee28"}


def test_markers_come_last_so_that_a_folder_with_all_of_them_is_complete(server, tmp_path):
    hub.download(folder=tmp_path / "m")
    assert set(list(server.sent)[-6:]) == {f"{p.name}/{p.marker}" for p in PARTS}


def test_revisions_of_other_repositories(server, tmp_path):
    hub.download("someone/else", folder=tmp_path / "a")
    assert server.revisions == {"main", commit_of("main")}
    hub.download("someone/else", folder=tmp_path / "b", revision="v2")
    assert server.revisions == {"main", commit_of("main"), "v2", commit_of("v2")}


def test_complete_files_are_not_fetched_again_and_damaged_ones_are(server, tmp_path):
    folder = hub.download(folder=tmp_path / "m")
    fetched(server)
    hub.download(folder=folder)
    assert fetched(server) == []
    (folder / "vqvae/model.safetensors").write_bytes(bytes(len(WEIGHTS)))  # right size
    (folder / "tokenizer/merges.txt").write_bytes(b"b a")
    (folder / "editmgt/model.safetensors").write_bytes(WEIGHTS[:9])
    (folder / "scheduler/scheduler_config.json").unlink()
    hub.download(folder=folder)
    assert len(fetched(server)) == 4 and contents(folder) == repository()


def test_variants_only_where_there_is_nothing_else(server, tmp_path):
    change(server, "vqvae/model.safetensors", None)
    change(server, "vqvae/model.fp16.safetensors", WEIGHTS)
    hub.download(folder=tmp_path / "m")
    names = fetched(server)
    assert "vqvae/model.fp16.safetensors" in names
    assert "text_encoder/model.fp16.safetensors" not in names


def test_a_repository_that_is_no_checkpoint_is_refused_before_anything_is_fetched(server, tmp_path):
    change(server, "vqvae/config.json", None)
    change(server, "editmgt/model.safetensors", None)
    with pytest.raises(CheckpointError, match=r"vqvae/config\.json, editmgt/\*\.safetensors"):
        hub.download(folder=tmp_path / "m")
    assert fetched(server) == []


def test_a_repository_without_a_schedule_is_a_checkpoint(server, tmp_path):
    change(server, "scheduler/scheduler_config.json", None)
    assert len(contents(hub.download(folder=tmp_path / "m"))) == len(repository()) - 1


def test_progress_counts_to_the_whole_and_never_back(server, tmp_path):
    seen, caller = [], threading.get_ident()

    def progress(*report):
        assert threading.get_ident() == caller
        seen.append(report)

    total = sum(map(len, repository().values()))
    hub.download(folder=tmp_path / "m", progress=progress)
    assert {name for name, _, _ in seen} == set(repository())
    assert all(whole == total for _, _, whole in seen)
    done = [count for _, count, _ in seen]
    assert done == sorted(done) and done[-1] == total


def test_leftovers_of_a_killed_download_are_removed_at_the_end(server, tmp_path):
    left = tmp_path / "m/.cache/huggingface/download/editmgt/x.0123abcd.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"part")
    hub.download(folder=tmp_path / "m")
    assert not left.exists()


def test_names_that_would_leave_the_folder_are_not_wanted():
    listing = [hub.RemoteFile(path, len(data)) for path, data in repository().items()]
    outside = ["../outside.json", "editmgt/../../outside.json", "/outside.json", "vqvae/a\\b.json"]
    chosen = hub.wanted_files([*listing, *(hub.RemoteFile(path, 2) for path in outside)], REPO)
    assert {file.path for file in chosen} == set(repository())


BIG = save({"w": torch.zeros(8 << 20, dtype=torch.uint8)})


def by_bytes():
    """Whether the installed huggingface_hub reports within files, and so can stop there."""
    return "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters


class Interrupt(BaseException):
    """As ComfyUI's."""


@pytest.mark.skipif(not by_bytes(), reason="this huggingface_hub stops between files only")
@pytest.mark.parametrize("how", [False, Interrupt, KeyboardInterrupt])
def test_stopping_within_a_file_ends_its_transfer(server, tmp_path, monkeypatch, how):
    change(server, "llm_encoder/model.safetensors", BIG)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    server.pause = 0.05  # of 128 chunks: six seconds

    def progress(name, done, total):
        if done < 1 << 18:
            return None
        if how is False:
            return False
        raise how

    began = time.monotonic()
    with pytest.raises(how or Cancelled):
        hub.download(folder=tmp_path / "m", progress=progress)
    assert time.monotonic() - began < 4
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name and t.is_alive()]
    server.pause = 0
    time.sleep(0.2)  # the server notices when it next sends
    sent = sum(server.sent["llm_encoder/model.safetensors"])
    assert sent < len(BIG) / 2
    assert hub.find_downloaded("owner/name", tmp_path) is None
    hub.download(folder=tmp_path / "m")
    assert (tmp_path / "m/llm_encoder/model.safetensors").read_bytes() == BIG


def test_stopping_aborts_transfers_by_xet(server, tmp_path, monkeypatch):
    """These go on whatever a progress bar raises."""
    xet = pytest.importorskip("huggingface_hub.utils._xet")
    if not hasattr(xet, "abort_xet_session"):
        pytest.skip("this huggingface_hub cannot abort them")
    aborted = []
    monkeypatch.setattr(xet, "abort_xet_session", lambda: aborted.append(True))
    hub.download(folder=tmp_path / "m")
    assert not aborted
    server.pause = 0.2
    with pytest.raises(Cancelled):
        hub.download(folder=tmp_path / "n", progress=lambda name, done, _: done == 0)
    assert aborted


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*file/m"):
        hub.download(folder=tmp_path / "file" / "m")


@pytest.mark.parametrize("path", ["vqvae/model.safetensors", "tokenizer/merges.txt"])
def test_other_content_than_the_hub_states_is_refused_and_removed(server, tmp_path, path):
    good, bad = repository()[path], bytes(len(repository()[path]))  # of the same size
    server.corrupt[path] = bad
    with pytest.raises(CheckpointError, match=f"{path} did not arrive.*download again"):
        hub.download(folder=tmp_path / "m")
    assert not (tmp_path / "m" / path).exists()
    assert not (tmp_path / "m/editmgt/config.json").exists()  # what makes it complete comes last
    server.corrupt.clear()
    assert (hub.download(folder=tmp_path / "m") / path).read_bytes() == good


def test_offline_mode_asks_for_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.is_offline()
    with pytest.raises(InputError, match="offline mode"):
        hub.download(folder=tmp_path / "m")
    assert not server.requests


def test_a_full_disk_is_told_beforehand(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    needed = sum(map(len, repository().values()))
    with pytest.raises(InputError, match=f"needs {needed:,} bytes .* 10 are free"):
        hub.download(folder=tmp_path / "new")
    assert fetched(server) == [] and not (tmp_path / "new").exists()


def made(kind, message="said", status=None):
    error = kind.__new__(kind)
    error.args = (message,)
    if status:
        error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (made(hub_errors.GatedRepoError), "Gemma's apply.*huggingface.co/WeiChow/EditMGT"),
        (made(hub_errors.HfHubHTTPError, status=403), "accept"),
        (made(hub_errors.RepositoryNotFoundError), "no such repository"),
        (made(hub_errors.RevisionNotFoundError), "no revision 0a00f14"),
        (made(hub_errors.EntryNotFoundError), "a file is not there"),
        (made(hub_errors.LocalEntryNotFoundError), "cannot be reached"),
        (made(hub_errors.OfflineModeIsEnabled), "cannot be reached"),
        (made(hub_errors.HfHubHTTPError, status=503), "answered 503"),
        (made(hub_errors.HFValidationError), "owner/name"),
        (made(type("ConnectError", (type("TransportError", (Exception,), {}),), {})), "reached"),
        (ConnectionError("no route"), "cannot be reached .*no route"),
        (OSError(28, "No space left"), "disk is full"),
        (PermissionError(13, "denied"), "cannot be written"),
        (RuntimeError("odd\nsecond"), "RuntimeError: odd;"),
    ],
)
def test_failures_are_explained(tmp_path, monkeypatch, error, says):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match=f"cannot download {REPO}: .*{says}"):
        hub.download(folder=tmp_path)


def test_failures_while_fetching_are_explained_too(server, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("gone")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match="cannot be reached"):
        hub.download(folder=tmp_path / "m")


# ---- resolve


def test_a_hub_name_never_reaches_out_unless_allowed(server, tmp_path):
    with pytest.raises(InputError, match=f"`editmgt download {REPO}`, or in Python with allow_"):
        resolve(REPO, local_dir=tmp_path)
    assert not server.requests
    folder = resolve(REPO, local_dir=tmp_path, allow_download=True)
    assert folder == hub.folder_for(REPO, tmp_path) == tmp_path / "WeiChow--EditMGT"
    server.requests = 0
    assert resolve(REPO, local_dir=tmp_path) == folder
    assert resolve(REPO, local_dir=tmp_path, allow_download=True) == folder
    assert not server.requests


def test_a_truncated_download_does_not_count_as_downloaded(server, tmp_path):
    folder = resolve(REPO, local_dir=tmp_path, allow_download=True)
    (folder / "vqvae/model.safetensors").write_bytes(WEIGHTS[:-1])
    with pytest.raises(InputError, match="not complete"):
        resolve(REPO, local_dir=tmp_path)
    resolve(REPO, local_dir=tmp_path, allow_download=True)
    assert resolve(REPO, local_dir=tmp_path) == folder


def test_the_hubs_own_cache_counts(server, tmp_path, monkeypatch):
    cached = hub.download(folder=tmp_path / "snapshot")

    def lookup(repo_id, filename, revision):
        return str(cached / filename) if revision == hub.PINNED[REPO] else object()

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lookup)
    assert resolve(REPO, local_dir=tmp_path / "none") == cached


def test_names_that_are_nothing(server, tmp_path):
    for name in ("nothing", "/no/such/folder", "a/b/c", tmp_path / "owner" / "name", ""):
        with pytest.raises(InputError, match="there is no (checkpoint|folder)"):
            resolve(name)
    assert not server.requests


def test_the_toy_checkpoint_has_a_name(monkeypatch, tmp_path):
    module = importlib.import_module("editmgt_lib.checkpoints.names")
    if module.TOY_FOLDER.is_dir():
        assert resolve("toyworld") == module.TOY_FOLDER
    monkeypatch.setattr(module, "TOY_FOLDER", tmp_path / "absent")
    with pytest.raises(CheckpointError, match="install it again"):
        resolve("toyworld")


NETWORK = {
    **{name: b"{}" for name in ("config.json", "tokenizer.json", "tokenizer_config.json")},
    **{name: b"x" for name in ("vocab.json", "merges.txt", "special_tokens_map.json")},
    "model.safetensors": WEIGHTS,
}


@pytest.fixture
def network(server):
    """A repository of one network of transformers, with what else such ones hold."""
    others = (
        "pytorch_model.bin",
        "tf_model.h5",
        "README.md",
        "modeling.py",
        "model.fp16.safetensors",
    )
    for name in [path.name for path in server.folder.iterdir()]:
        place = server.folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    for name, data in (NETWORK | dict.fromkeys(others, b"?")).items():
        (server.folder / name).write_bytes(data)
    return server


def test_a_network_comes_without_code_and_other_formats(network, tmp_path):
    folder = hub.download_network("openai/clip", folder=tmp_path / "clip", revision="v1")
    assert contents(folder) == NETWORK
    assert list(network.sent)[-1] == "config.json"
    assert network.revisions == {"v1", commit_of("v1")}
    fetched(network)
    hub.download_network("openai/clip", folder=folder, revision="v1")
    assert fetched(network) == []


def test_a_network_without_safetensors_is_refused_before_anything_is_fetched(network, tmp_path):
    change(network, "model.safetensors", None)
    with pytest.raises(CheckpointError, match="openai/clip at main has no .* safetensors"):
        hub.download_network("openai/clip", folder=tmp_path / "clip")
    assert fetched(network) == []


def test_no_network_offline(network, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="unset HF_HUB_OFFLINE"):
        hub.download_network("openai/clip", folder=tmp_path / "clip")
    assert fetched(network) == []
