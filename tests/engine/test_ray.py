"""Shards on a Ray cluster: the same bytes as locally, and nothing lost when a node dies at work."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import codeshell.engine.ray as ray_module
from codeshell.cli import main
from codeshell.dedup import job as dedup_job
from codeshell.dedup.job import _read as read_group
from codeshell.documents.batches import Batch
from codeshell.documents.inputs import InputOptions, Shard
from codeshell.engine import Engine, LocalEngine, make_engine, map_shards
from codeshell.engine.files import TEMPORARY, atomic_path
from codeshell.engine.ray import ATTEMPTS, RayEngine
from codeshell.errors import UserError

STORE = 80 << 20
"""Bytes of shared memory a node; Ray takes no less than 75 MiB."""

NEEDED = 3 * STORE

PATIENCE = {
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1500,
    "health_check_failure_threshold": 3,
    "grpc_client_keepalive_time_ms": 1000,
    "grpc_client_keepalive_timeout_ms": 4000,
}
"""How soon the cluster gives up a silent node: with Ray's own settings after 15 s, its tasks after up to 7 minutes."""

WAIT = 30.0
"""Seconds for anything that Ray does; each takes a few at most."""

pytestmark = pytest.mark.timeout(180)


def missing() -> str:
    """Why the tests that start Ray cannot run here; empty if they can."""
    if importlib.util.find_spec("ray") is None:
        return 'Ray is not installed; pip install "codeshell[ray]"'
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    return "" if free >= NEEDED else f"/dev/shm has {free >> 20} MiB free, two Ray nodes need {NEEDED >> 20}"


real = pytest.mark.skipif(bool(missing()), reason=missing())


class Nodes:
    """A cluster of a head and one more node, one CPU each, on this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.options = {"num_cpus": 1, "object_store_memory": STORE}
        head = {"include_dashboard": False, "_system_config": PATIENCE, **self.options}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.second = self.cluster.add_node(**self.options)
        self.address = self.cluster.address

    def kill_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)

    def restore_second(self) -> None:
        if self.second not in self.cluster.worker_nodes:
            self.second = self.cluster.add_node(**self.options)
        self.cluster.wait_for_nodes(WAIT)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]  # the nodes must find this module
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray

        nodes = Nodes()
        yield nodes
        ray.shutdown()
        nodes.cluster.shutdown()


@pytest.fixture
def engine(nodes: Nodes) -> Iterator[RayEngine]:
    nodes.restore_second()
    with RayEngine(address=nodes.address) as engine:
        yield engine


def node() -> str:
    """The node that this runs on; empty outside Ray."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else ""


def until(condition: Any, seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def note(task: tuple[Path, int], name: str) -> None:
    """Add a line "node pid" to the file `NAME-SHARD` of the job's log."""
    with open(task[0] / "log" / f"{name}-{task[1]}", "a") as file:
        file.write(f"{node()} {os.getpid()}\n")


def notes(job: Path, name: str, number: int) -> list[list[str]]:
    path = job / "log" / f"{name}-{number}"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def write_shard(task: tuple[Path, int]) -> dict[str, Any]:
    """The synthetic stage: a file of bytes that depend on the shard's number, in two pieces with time between them."""
    directory, number = task
    note(task, "at")
    data = random.Random(number).randbytes(1 << 20)
    try:
        with atomic_path(directory / "out" / f"shard-{number:05d}.bin") as temporary, open(temporary, "wb") as file:
            file.write(data[: 1 << 19])
            file.flush()
            end = time.monotonic() + WAIT
            while (directory / "hold").exists() and time.monotonic() < end:
                time.sleep(0.02)
            file.write(data[1 << 19 :])
    finally:
        note(task, "left")
    return {"shard": number, "sha256": hashlib.sha256(data).hexdigest()}


def square(number: int) -> int:
    return number * number


def uneven(number: int) -> int:
    time.sleep(0.3 if number % 4 == 0 else 0.0)
    return number


def user_error_at_three(number: int) -> int:
    if number >= 3:
        raise UserError(f"shard {number}: broken; fix it")
    return number


class PeculiarError(Exception):
    """Cannot be unpickled: its arguments are not those of __init__."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def value_error(number: int) -> int:
    raise ValueError(f"no {number}")


def peculiar(number: int) -> int:
    raise PeculiarError(number, 2)


def unpicklable(number: int) -> Any:
    return threading.Lock()


def die(task: tuple[Path, int]) -> int:
    directory, deaths = task
    with open(directory / "deaths", "a") as file:
        file.write("x")
    if (directory / "deaths").stat().st_size <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return deaths


def sleep(task: tuple[Path, int]) -> int:
    directory, number = task
    (directory / f"pid-{number}").write_text(str(os.getpid()))
    time.sleep(2 * WAIT)
    return number


def make_directories(path: Path) -> Path:
    for name in ("out", "log", "markers"):
        (path / name).mkdir(parents=True)
    return path


def run_job(engine: Engine, path: Path, shards: int = 6) -> list[dict[str, Any]]:
    return map_shards(engine, path / "markers", "write", write_shard, [(path, number) for number in range(shards)])


def contents(path: Path) -> dict[str, bytes]:
    found = [file for name in ("out", "markers") for file in (path / name).iterdir()]
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(found)}


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@real
@pytest.mark.parametrize("frozen", [False, True], ids=["dead", "thought-dead"])
def test_a_node_killed_at_work_loses_nothing(nodes: Nodes, engine: RayEngine, tmp_path: Path, frozen: bool) -> None:
    """`frozen`: the node (its daemon and the task's process) stands still, and continues when all is done."""
    expected = run_job(LocalEngine(1), make_directories(tmp_path / "local"))
    job = make_directories(tmp_path / "ray")
    (job / "hold").touch()  # every task stays in the middle of its file
    victims: list[int] = []
    workers: list[int] = []
    frozen_processes: list[int] = []

    def kill() -> None:
        until(lambda: len(list((job / "out").glob(f"*{TEMPORARY}"))) == 2)  # a task on each node
        for number in range(6):
            for place, pid in notes(job, "at", number):
                if place == nodes.second.node_id:
                    victims.append(number)
                    workers.append(int(pid))
        if frozen:
            frozen_processes.extend([parent(workers[0]), workers[0]])
            for process in frozen_processes:
                os.kill(process, signal.SIGSTOP)
        else:
            nodes.kill_second()
            until(lambda: not alive(workers[0]))
        (job / "hold").unlink()

    dead = nodes.second.node_id
    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    statistics = run_job(engine, job)
    thread.join()
    assert len(victims) == 1, "the killed node had no task"
    assert alive(workers[0]) == frozen
    if frozen:
        assert contents(job) == contents(tmp_path / "local")
        for process in reversed(frozen_processes):
            os.kill(process, signal.SIGCONT)
        # It ends its task, or Ray ends it first.
        until(lambda: [dead, str(workers[0])] in notes(job, "left", victims[0]) or not alive(workers[0]))
        nodes.kill_second()
        with contextlib.suppress(ProcessLookupError):
            os.kill(workers[0], signal.SIGKILL)
    attempts = [place for place, _ in notes(job, "at", victims[0])]
    assert attempts[0] == dead
    assert len(attempts) == 2
    assert attempts[1] != dead
    assert all(len(notes(job, "at", number)) == 1 for number in range(6) if number != victims[0])
    assert statistics == expected
    assert contents(job) == contents(tmp_path / "local")  # and no temporary file among them


def dedup_inputs(path: Path) -> list[str]:
    """Eight files of texts of 40 words, a third of them edited copies of others."""
    choice = random.Random(5)
    texts = [" ".join(f"w{choice.randrange(10**6)}" for _ in range(40)) for _ in range(160)]
    for _ in range(80):
        words = choice.choice(texts).split()
        words[choice.randrange(40)] = "edited"
        texts.append(" ".join(words))
    choice.shuffle(texts)
    path.mkdir()
    for number in range(8):
        table = pa.table({"text": texts[number::8], "number": range(number, len(texts), 8)})
        pq.write_table(table, path / f"{number}.parquet")
    return [str(path / f"{number}.parquet") for number in range(8)]


def held_read(shards: Sequence[Shard], wanted: frozenset[str], options: InputOptions) -> Iterator[Batch]:
    """The job's reader, but that it stays behind the first batch while the file `hold-STEP` is there."""
    folder = Path(shards[0].source.path).parent.parent
    step = "sign" if "id" in wanted else "sets"
    note((folder, shards[0].number), step)
    for batch in read_group(shards, wanted, options):
        yield batch
        end = time.monotonic() + 3 * WAIT
        while (folder / f"hold-{step}").exists() and time.monotonic() < end:
            time.sleep(0.02)


def files_of(path: Path) -> dict[str, bytes]:
    """All that a job has written, but how long it took."""
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "timings.json"]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@real
@pytest.mark.parametrize("step", ["sign", "sets"])
def test_dedup_with_a_node_killed_at_work_writes_the_same_bytes(
    nodes: Nodes, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.restore_second()
    monkeypatch.setattr(dedup_job, "GROUP_BYTES", 1)  # a task for each file
    command = ["dedup", *dedup_inputs(tmp_path / "in")]
    assert main([*command, "--workers", "1", "-o", str(tmp_path / "local")]) == 0
    monkeypatch.setattr(dedup_job, "_read", held_read)
    (tmp_path / "log").mkdir()
    (tmp_path / f"hold-{step}").touch()
    victims: list[int] = []

    def kill() -> None:
        def on_second() -> list[int]:
            return [n for n in range(8) for place, _ in notes(tmp_path, step, n) if place == nodes.second.node_id]

        until(on_second, 3 * WAIT)  # the steps before it take their time, too
        victims.extend(on_second())
        worker = int(notes(tmp_path, step, victims[0])[0][1])
        nodes.kill_second()
        until(lambda: not alive(worker))
        (tmp_path / f"hold-{step}").unlink()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    output = tmp_path / "ray"
    assert main([*command, "--engine", "ray", "--address", nodes.address, "-o", str(output)]) == 0
    thread.join()
    assert len(victims) == 1, "the killed node had no shard"
    first, second = notes(tmp_path, step, victims[0])
    assert first[0] == nodes.second.node_id != second[0]
    expected = files_of(tmp_path / "local")
    assert files_of(output) == expected
    assert set(expected) > {"duplicates.parquet", "kept/0.parquet", "stats.json", "job.json", "plan.json"}
    assert pq.read_table(output / "duplicates.parquet").num_rows > 40


@real
def test_results_come_in_order(engine: RayEngine, tmp_path: Path) -> None:
    assert engine.workers == 2
    assert list(engine.map(square, range(50))) == [number * number for number in range(50)]
    assert list(engine.map(uneven, range(9))) == list(range(9))
    assert list(engine.map(square, [])) == []
    job = make_directories(tmp_path)
    assert len(run_job(engine, job)) == 6  # on which nodes is the scheduler's choice


@real
def test_a_user_error_is_that_user_error_of_the_first_shard(engine: RayEngine) -> None:
    got = []
    with pytest.raises(UserError) as caught:
        for value in engine.map(user_error_at_three, range(20)):
            got += [value]
    assert type(caught.value) is UserError
    assert str(caught.value) == "shard 3: broken; fix it"
    assert got == [0, 1, 2]


@real
def test_other_exceptions_keep_their_class_and_tell_where(engine: RayEngine) -> None:
    with pytest.raises(ValueError) as caught:
        list(engine.map(value_error, [1]))
    assert type(caught.value) is ValueError
    assert str(caught.value) == "no 1"
    assert "in value_error" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"^PeculiarError: 1 and 2\n"):
        list(engine.map(peculiar, [1]))
    with pytest.raises(TypeError, match="cannot pickle"):
        list(engine.map(unpicklable, [1]))


@real
def test_what_a_node_lacks_is_named(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = ModuleType("only_on_the_driver")
    exec("def function(number): return number", ghost.__dict__)
    monkeypatch.setitem(sys.modules, ghost.__name__, ghost)
    with pytest.raises(UserError, match=r"^a Ray node cannot import .*'only_on_the_driver'.*; install the same"):
        list(engine.map(ghost.function, [1]))
    monkeypatch.setattr(ray_module, "__version__", "0.0.0")
    with pytest.raises(UserError, match=r"^node .*the command codeshell 0\.0\.0; install the same"):
        list(engine.map(square, [1]))


@real
def test_a_worker_that_dies_is_tried_again_but_not_for_ever(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_module, "POLL_SECONDS", 0.05)
    (tmp_path / "once").mkdir()
    assert list(engine.map(die, [(tmp_path / "once", 1)])) == [1]
    told = capsys.readouterr()
    assert told.err.startswith("ray: 1 tasks lost (The worker died unexpectedly")
    assert told.err.count("\n") == 1
    assert told.out == ""
    with pytest.raises(UserError, match=f"^a worker process died {ATTEMPTS} times .* run again to resume"):
        list(engine.map(die, [(tmp_path, 99)]))
    assert (tmp_path / "deaths").stat().st_size == ATTEMPTS


@real
def test_an_interrupt_ends_what_is_in_flight(engine: RayEngine, tmp_path: Path) -> None:
    waits = True

    def handler(*_: object) -> None:
        if waits:  # later, Ctrl-C would end the tests
            raise KeyboardInterrupt

    def interrupt() -> None:
        until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

    before = signal.signal(signal.SIGINT, handler)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(engine.map(sleep, [(tmp_path, number) for number in range(9)]))
        assert time.monotonic() - started < WAIT
    finally:
        waits = False
        thread.join()
        signal.signal(signal.SIGINT, before)
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    until(lambda: not any(alive(pid) for pid in pids))
    assert list(engine.map(square, [3])) == [9]  # the cluster is free again
    assert len(pids) == 2


@real
def test_a_limit_of_workers_holds_on_a_cluster(nodes: Nodes, tmp_path: Path) -> None:
    nodes.restore_second()
    job = make_directories(tmp_path)
    with make_engine("ray", 1, nodes.address) as engine:  # type: ignore[attr-defined]
        assert engine.workers == 1
        (job / "hold").touch()

        def release() -> None:
            until(lambda: list((job / "log").iterdir()))
            time.sleep(0.5)
            started.append(len(list((job / "log").iterdir())))  # one "at", no "left"
            (job / "hold").unlink()

        started: list[int] = []
        thread = threading.Thread(target=release, daemon=True)
        thread.start()
        run_job(engine, job, shards=3)
        thread.join()
    assert started == [1]


LOCAL = """
import ray, test_ray
from codeshell.engine import make_engine
engine = make_engine("ray", workers=2)
print(list(engine.map(test_ray.square, range(5))), [node["NodeManagerAddress"] for node in ray.nodes()])
pids = list(engine.map(test_ray.pid, range(2)))
engine.close()
print(ray.is_initialized(), *pids)
"""


def pid(_: int) -> int:
    return os.getpid()


@real
def test_a_ray_of_its_own_is_quiet_local_and_ended() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LOCAL],
        capture_output=True,
        text=True,
        timeout=2 * WAIT,
        env=environment | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "[0, 1, 4, 9, 16] ['127.0.0.1']"
    state, *pids = second.split()
    assert state == "False"
    until(lambda: not any(alive(int(number)) for number in pids))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@real
def test_a_cluster_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    port = free_port()
    for address, words in (
        (f"127.0.0.1:{port}", "no Ray at .*refused"),
        ("nonsense", "give auto, local, or HOST:PORT"),
        ("ray://127.0.0.1:10001", "give auto, local, or HOST:PORT"),
        ("127.0.0.1:99999999", "no Ray at|must be between"),
    ):
        with pytest.raises(UserError, match=f"^--address {address}: .*{words}") as caught:
            make_engine("ray", address=address)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(UserError, match=f"^--address 127.0.0.1:{port}: no Ray at"):
        make_engine("ray")


def test_ray_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'^--engine ray: Ray is not installed; pip install "codeshell\[ray\]"$'):
        make_engine("ray")


def test_wrong_arguments_are_one_line() -> None:
    with pytest.raises(UserError, match=r"^--engine slurm: no such engine; there are local, ray$"):
        make_engine("slurm")
    with pytest.raises(UserError, match=r"^--address 10\.0\.0\.1:6379: only --engine ray"):
        make_engine("local", address="10.0.0.1:6379")
    with pytest.raises(UserError, match=r"^--workers -1: "):
        make_engine("ray", workers=-1)
    assert isinstance(make_engine("local", 2), LocalEngine)
