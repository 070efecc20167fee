"""Downloading: what is asked for, what is not asked for twice, and what is said when it fails."""

import hashlib
import importlib
import json
import time
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import save

from editmgt_lib.checkpoints import hub, resolve
from editmgt_lib.checkpoints.layout import PARTS
from editmgt_lib.errors import Cancelled, CheckpointError, InputError

REPO = hub.DEFAULT_REPO
WEIGHTS = save({"w": torch.zeros(3)})
UNWANTED = {
    "README.md": b"readme",
    "editmgt/model.bin": b"code",
    "editmgt/modeling.py": b"code",
    "editmgt/old/config.json": b"{}",
    "transformer/config.json": b"{}",
    "text_encoder/model.fp16.safetensors": WEIGHTS,
    "../outside.json": b"{}",
    "editmgt/../../outside.json": b"{}",
    "editmgt/.hidden.json": b"{}",
}


def repository():
    files = {f"{p.name}/{p.marker}": b"{}" for p in PARTS}
    files |= {f"{p.name}/model.safetensors": WEIGHTS for p in PARTS if p.has_weights}
    return files | {"llm_encoder/tokenizer.model": b"abc", "tokenizer/merges.txt": b"a b"}


class FakeHub:
    """Stands in for huggingface_hub: one repository, and a record of what was asked."""

    def __init__(self):
        self.files = repository() | UNWANTED
        self.fetched, self.revisions, self.error = [], set(), None

    def list_repo_tree(self, repo_id, *, recursive, revision):
        self.revisions.add(revision)
        if self.error:
            raise self.error
        yield SimpleNamespace(path="editmgt")  # folders have no size
        for path, data in self.files.items():
            if path.endswith(".safetensors"):
                large = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest())
                yield SimpleNamespace(path=path, size=len(data), lfs=large, blob_id="0" * 40)
            else:
                blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                yield SimpleNamespace(path=path, size=len(data), lfs=None, blob_id=blob)

    def hf_hub_download(self, repo_id, filename, *, revision, local_dir, force_download):
        self.revisions.add(revision)
        self.fetched.append(filename)
        path = hub.Path(local_dir) / filename
        # The real one trusts its own record of a file that is there, unless it is forced.
        if not path.exists() or force_download:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.files[filename])


@pytest.fixture
def fake(monkeypatch):
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "POLL_SECONDS", 0.01)
    return fake


def test_fetches_the_allowed_files_of_the_pinned_revision(fake, tmp_path):
    folder = hub.download(folder=tmp_path / "m")
    assert folder == tmp_path / "m"
    assert sorted(fake.fetched) == sorted(repository())
    assert fake.revisions == {"0a00f14ea159728fb76ac99ed741f9deca5fee28"}
    there = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}
    assert there == repository()


def test_markers_come_last_so_that_a_folder_with_all_of_them_is_complete(fake, tmp_path):
    hub.download(folder=tmp_path)
    assert set(fake.fetched[-6:]) == {f"{p.name}/{p.marker}" for p in PARTS}


def test_revisions_of_other_repositories(fake, tmp_path):
    hub.download("someone/else", folder=tmp_path / "a")
    hub.download("someone/else", folder=tmp_path / "b", revision="v2")
    assert fake.revisions == {"main", "v2"}


def test_complete_files_are_not_fetched_again_and_damaged_ones_are(fake, tmp_path):
    hub.download(folder=tmp_path)
    fake.fetched.clear()
    hub.download(folder=tmp_path)
    assert fake.fetched == []
    (tmp_path / "vqvae/model.safetensors").write_bytes(bytes(len(WEIGHTS)))  # right size
    (tmp_path / "tokenizer/merges.txt").write_bytes(b"b a")
    (tmp_path / "editmgt/model.safetensors").write_bytes(WEIGHTS[:9])
    (tmp_path / "scheduler/scheduler_config.json").unlink()
    hub.download(folder=tmp_path)
    assert len(fake.fetched) == 4
    assert all((tmp_path / f).read_bytes() == data for f, data in repository().items())


def test_variants_only_where_there_is_nothing_else(fake, tmp_path):
    fake.files["vqvae/model.fp16.safetensors"] = fake.files.pop("vqvae/model.safetensors")
    hub.download(folder=tmp_path)
    assert "vqvae/model.fp16.safetensors" in fake.fetched
    assert "text_encoder/model.fp16.safetensors" not in fake.fetched


def test_a_repository_that_is_no_checkpoint_is_refused_before_anything_is_fetched(fake, tmp_path):
    del fake.files["vqvae/config.json"], fake.files["editmgt/model.safetensors"]
    with pytest.raises(CheckpointError, match=r"vqvae/config\.json, editmgt/\*\.safetensors"):
        hub.download(folder=tmp_path)
    assert fake.fetched == []


def test_progress_counts_to_the_whole_and_never_back(fake, tmp_path):
    seen = []
    total = sum(map(len, repository().values()))
    hub.download(folder=tmp_path, progress=lambda *report: seen.append(report))
    assert {name for name, _, _ in seen} == set(repository())
    assert all(whole == total for _, _, whole in seen)
    done = [count for _, count, _ in seen]
    assert done == sorted(done) and done[-1] == total


def test_progress_within_a_file(fake, tmp_path, monkeypatch):
    def slow(repo_id, filename, *, local_dir, **options):
        part = tmp_path / ".cache/huggingface/download" / (filename + ".incomplete")
        part.parent.mkdir(parents=True, exist_ok=True)
        if filename == "editmgt/model.safetensors":
            part.write_bytes(WEIGHTS[:40])
            time.sleep(0.1)
            part.unlink()
        fake.hf_hub_download(repo_id, filename, local_dir=local_dir, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", slow)
    seen = []
    hub.download(folder=tmp_path, progress=lambda *report: seen.append(report))
    steps = {done for name, done, _ in seen if name == "editmgt/model.safetensors"}
    assert len(steps) >= 2


def test_leftovers_of_a_killed_download_are_removed_at_the_end(fake, tmp_path):
    left = tmp_path / ".cache/huggingface/download/editmgt/x.0123abcd.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"part")
    hub.download(folder=tmp_path)
    assert not left.exists()


def test_cancel_between_files_keeps_what_is_complete(fake, tmp_path):
    with pytest.raises(Cancelled, match="stopped"):
        hub.download(folder=tmp_path, progress=lambda *_: len(fake.fetched) < 3)
    assert len(fake.fetched) == 3
    fake.fetched.clear()
    hub.download(folder=tmp_path)
    assert len(fake.fetched) == len(repository()) - 3


def test_offline_mode_asks_for_nothing(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.is_offline()
    with pytest.raises(InputError, match="offline mode"):
        hub.download(folder=tmp_path)
    assert not fake.revisions


def test_a_full_disk_is_told_beforehand(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    needed = sum(map(len, repository().values()))
    with pytest.raises(InputError, match=f"needs {needed:,} bytes .* 10 are free"):
        hub.download(folder=tmp_path / "new")
    assert fake.fetched == [] and not (tmp_path / "new").exists()


def test_a_file_of_another_size_is_an_error(fake, tmp_path, monkeypatch):
    def short(repo_id, filename, *, local_dir, **_):
        (tmp_path / filename).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / filename).write_bytes(b"")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", short)
    with pytest.raises(CheckpointError, match="arrived with 0 bytes"):
        hub.download(folder=tmp_path)


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
def test_failures_are_explained(fake, tmp_path, error, says):
    fake.error = error
    with pytest.raises(InputError, match=f"cannot download {REPO}: .*{says}"):
        hub.download(folder=tmp_path)


def test_failures_while_fetching_are_explained_too(fake, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("gone")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError, match="cannot be reached"):
        hub.download(folder=tmp_path)


# ---- resolve


def test_a_hub_name_never_reaches_out_unless_allowed(fake, tmp_path):
    with pytest.raises(InputError, match=f"editmgt download {REPO}.*allow_download"):
        resolve(REPO, local_dir=tmp_path)
    assert not fake.revisions
    folder = resolve(REPO, local_dir=tmp_path, allow_download=True)
    assert folder == hub.folder_for(REPO, tmp_path) == tmp_path / "WeiChow--EditMGT"
    fake.revisions.clear()
    assert resolve(REPO, local_dir=tmp_path) == folder
    assert resolve(REPO, local_dir=tmp_path, allow_download=True) == folder
    assert not fake.revisions


def test_a_truncated_download_does_not_count_as_downloaded(fake, tmp_path):
    folder = resolve(REPO, local_dir=tmp_path, allow_download=True)
    (folder / "vqvae/model.safetensors").write_bytes(WEIGHTS[:-1])
    with pytest.raises(InputError, match="not complete"):
        resolve(REPO, local_dir=tmp_path)
    resolve(REPO, local_dir=tmp_path, allow_download=True)
    assert resolve(REPO, local_dir=tmp_path) == folder


def test_the_hubs_own_cache_counts(fake, tmp_path, monkeypatch):
    cached = hub.download(folder=tmp_path / "snapshot")

    def lookup(repo_id, filename, revision):
        return str(cached / filename) if revision == hub.PINNED[REPO] else object()

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lookup)
    assert resolve(REPO, local_dir=tmp_path / "none") == cached


def test_names_that_are_nothing(fake, tmp_path):
    for name in ("nothing", "/no/such/folder", "a/b/c", tmp_path / "owner" / "name", ""):
        with pytest.raises(InputError, match="there is no checkpoint"):
            resolve(name)
    assert not fake.revisions


def test_the_toy_checkpoint_has_a_name(monkeypatch, tmp_path):
    module = importlib.import_module("editmgt_lib.checkpoints.resolve")
    if module.TOY_FOLDER.is_dir():
        assert resolve("toyworld") == module.TOY_FOLDER
    monkeypatch.setattr(module, "TOY_FOLDER", tmp_path / "absent")
    with pytest.raises(CheckpointError, match="install it again"):
        resolve("toyworld")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "editmgt.json").write_text(json.dumps({"parts": []}))
    monkeypatch.setattr(module, "TOY_FOLDER", tmp_path / "toy")
    assert resolve("toyworld") == tmp_path / "toy"
