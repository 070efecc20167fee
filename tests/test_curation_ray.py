"""Ray Data as an executor: what it writes is what the in-process executor writes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from editmgt_lib.curation import executor_ray
from editmgt_lib.curation.assembly import Curation
from editmgt_lib.curation.engine import EngineOptions
from editmgt_lib.curation.executor import due_rows, run_shard
from editmgt_lib.curation.rows import Unavailable
from editmgt_lib.curation.run import open_workers
from editmgt_lib.curation.sources import SourceConfig
from editmgt_lib.curation.store import claim
from editmgt_lib.curation.verdicts import DuplicateOptions, decide_all
from editmgt_lib.errors import InputError

ROOT = Path(__file__).parents[1]
RAY = EngineOptions(executor="ray", workers=2)
ONE = EngineOptions(executor="ray", workers=1)


@pytest.fixture(scope="session")
def cluster():
    """One for all tests; its workers find the tests' stages."""
    pytest.importorskip("ray")  # which an application too may import before us
    with pytest.MonkeyPatch.context() as patch:
        before = os.environ.get("PYTHONPATH", "")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests"), before]))
        patch.syspath_prepend(ROOT / "tests")
        ray, handler = executor_ray.imported(), signal.getsignal(signal.SIGTERM)
        executor_ray.begin(ray, RAY, RAY.pool(""))
        executor_ray.put_back(handler)  # the other tests are not about Ray's
        yield ray
        ray.shutdown()


@pytest.fixture
def stages(cluster):
    """By a name that workers find, however pytest calls the tests' modules."""
    import curation_stages

    return curation_stages


def curation(folder, keys, shard_rows=4):
    """Keys listed in shards."""
    folder.mkdir()
    (folder / "x.png").write_bytes(b"1")
    (folder / "list.csv").write_text("image,id\n" + "".join(f"x.png,{key}\n" for key in keys))
    source = SourceConfig("s", str(folder / "list.csv"))
    made = Curation(folder / "out", {"s": source}, ("images",))
    claim(made.folder)
    made.list_new(shard_rows)
    decide_all(made, [], DuplicateOptions())
    return made


def run(made, stage, options):
    """Run all shards; gives the keys in the order they were told."""
    told = []
    due = {shard: len(due_rows(made, stage.name, shard)) for shard in made.shards}
    with open_workers(made, stage, due, options) as workers:
        for shard in due:
            run_shard(made, stage, shard, workers, lambda row, found: told.append(row.origin.key))
    return told


def written(made):
    """Digests of all that was written, and of manifests all but the time spent."""
    digests = {}
    for path in sorted((made.folder / "images").iterdir()):
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps({**json.loads(data), "seconds": 0}).encode()
        digests[path.name] = hashlib.sha256(data).hexdigest()
    return digests


# ---- without a cluster


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    made = curation(tmp_path / "a", ["a"])
    with pytest.raises(InputError, match=r"not installed .*pip install \"editmgt\[ray\]\""):
        open_workers(made, SimpleNamespace(name="images"), {0: 1}, RAY)


@pytest.mark.parametrize(
    ("due", "workers", "batch"),
    [({0: 5}, 2, 1), ({0: 256, 3: 256, 4: 7}, 2, 1), ({0: 10}, 2, 4), ({0: 5000}, 1, 8)],
)
def test_calls_hold_every_row_once_and_in_order(due, workers, batch):
    calls = executor_ray.calls_of(due, workers, batch)
    rows = [(c["shard"], n) for c in calls for n in range(c["start"], c["stop"])]
    assert rows == [(shard, n) for shard, count in due.items() for n in range(count)]
    sizes = [c["stop"] - c["start"] for c in calls]
    assert max(sizes) <= max(8, batch) and (max(sizes) == batch or max(sizes) % batch == 0)
    assert len(calls) >= min(2 * workers, sum(due.values()) // batch)


def test_a_started_cluster_is_private_and_quiet(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = []
    ray = SimpleNamespace(init=lambda *words, **options: given.append((words, options)))
    executor_ray.begin(ray, RAY, RAY.pool("images"))
    ((words, options),) = given
    assert words == ("local",) and options["num_cpus"] == 2
    assert options["_node_ip_address"] == "127.0.0.1"
    assert (options["include_dashboard"], options["log_to_driver"]) == (False, False)
    assert executor_ray.DEFAULTS["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    def refuse(address, **_):
        raise ConnectionError("nobody listens")

    options = EngineOptions(executor="ray", address="10.0.0.1:6379")
    with pytest.raises(InputError, match="10.0.0.1:6379.*nobody listens"):
        executor_ray.begin(SimpleNamespace(init=refuse), options, options.pool(""))


def test_worker_processes_end_with_a_parent_that_was_killed(tmp_path):
    code = (
        "import curation_stages, os, time\n"
        "from editmgt_lib.curation.executor import _processes\n"
        "if __name__ == '__main__':\n"
        "    pool = _processes(curation_stages.Numbered(), 1)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_running(worker), 30)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.02)


# ---- on one


def test_both_executors_write_the_same(stages, tmp_path):
    keys = ["a", "error", "bb", "nan", "picture-1", "split", "crash", "refused", "ccc", "picture-2"]
    stage = stages.Numbered(batch=2)
    one, two = (curation(tmp_path / name, keys) for name in ("ray", "local"))
    told = run(one, stage, RAY)
    assert told == keys
    run(two, stage, EngineOptions(workers=2, processes=True))
    assert written(one) == written(two)
    codes = {r.origin.key: f and f.code for r in one.rows(0) + one.rows(1)
             for f in [r.found["images"].failure]}  # fmt: skip
    assert (codes["crash"], codes["refused"], codes["a"]) == ("crashed", "refused", None)


def test_a_back_end_that_is_gone_stops_the_run_which_the_other_executor_ends(stages, tmp_path):
    made = curation(tmp_path / "a", ["a", "b", "c", "d", "e", "down"], shard_rows=3)
    with pytest.raises(Unavailable, match="gone"):
        run(made, stages.Numbered(), ONE)
    assert sorted(p.name for p in (made.folder / "images").iterdir()) == [
        "000000-000.json", "000000-000.jsonl"
    ]  # fmt: skip

    class Up(stages.Numbered):
        def one(self, key):
            return super().one("up")

    assert run(made, Up(), EngineOptions(workers=1)) == ["d", "e", "down"]


def test_a_run_may_end_within_a_shard(stages, tmp_path):
    made, told = curation(tmp_path / "a", [f"{n:02}" for n in range(12)], shard_rows=12), []
    stage = stages.Numbered()
    with open_workers(made, stage, {0: 12}, ONE) as workers:
        run_shard(made, stage, 0, workers, lambda row, found: told.append(row.origin.key),
                  lambda: len(told) < 5)  # fmt: skip
    assert told == ["00", "01", "02", "03", "04"]
    assert run(made, stage, RAY) == [f"{n:02}" for n in range(5, 12)]


def test_a_pool_that_would_wait_for_ever_is_refused(stages, tmp_path):
    made = curation(tmp_path / "a", ["a"])
    for options, kind in (
        (EngineOptions(executor="ray", workers=4000), "CPU"),
        (EngineOptions(executor="ray", pools={"images": {"workers": 1, "gpus": 50}}), "GPU"),
    ):
        with pytest.raises(InputError, match=f"more than the .* {kind} of the Ray cluster"):
            run(made, stages.Numbered(), options)


def test_bulk_editing_writes_the_same_files(stages, tmp_path):
    from .test_bulk import draw, edit, files, results

    for number in range(5):
        draw(tmp_path / "in" / "sub" / f"{number}.png", number)
    outs = tmp_path / "ray", tmp_path / "local"
    for out, executor in zip(outs, ("ray", "local"), strict=True):
        edit(tmp_path / "in", out, editor=stages.Inverting(), executor=executor)
    one, two = ({name: (out / name).read_bytes() for name in files(out)} for out in outs)
    assert one == two and len(results(outs[0])) == 5 and len(one) == 6


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_loses_at_most_a_shard(cluster, tmp_path, how):
    made = curation(tmp_path / "a", [f"slow-{n:02}" for n in range(40)], shard_rows=4)
    code = (
        "import sys, curation_stages\n"
        "from pathlib import Path\n"
        "from tests.test_curation_ray import ONE, run\n"
        "from editmgt_lib.curation.assembly import Curation\n"
        "from editmgt_lib.curation.sources import SourceConfig\n"
        "folder = Path(sys.argv[1])\n"
        "source = SourceConfig('s', str(folder / 'list.csv'))\n"
        "run(Curation(folder / 'out', {'s': source}, ('images',)), curation_stages.Numbered(), ONE)"
    )
    address = cluster.get_runtime_context().gcs_address
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")], cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": address}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    folder = made.folder / "images"
    wait_for(lambda: (folder / "000000-000.json").is_file() or process.poll() is not None, 600)
    process.send_signal(how)
    process.wait(300)
    assert process.returncode != 0
    done = 4 * len(list(folder.glob("*.json")))
    assert 4 <= done < 40
    if how != signal.SIGKILL:
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    from curation_stages import Numbered

    assert len(run(made, Numbered(), EngineOptions(workers=2))) == 40 - done
    wait_for(
        lambda: cluster.available_resources().get("CPU") == RAY.workers, 120
    )  # actors are gone


def test_the_handler_of_sigterm_is_as_before(monkeypatch, tmp_path):
    def taken(*_):
        signal.signal(signal.SIGTERM, lambda *_: None)

    ray = SimpleNamespace(is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setattr(executor_ray, "imported", lambda: ray)
    monkeypatch.setattr(executor_ray, "begin", taken)
    monkeypatch.setattr(executor_ray, "_require_room", lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)
    made = Curation(tmp_path, {}, ("images",))
    with executor_ray.RayWorkers(made, SimpleNamespace(name="images"), {}, RAY):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
