"""Programs in sandboxes: what they get, what is told of them, what is left. At every level that this machine has."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hostile import children

from codeshell import _C
from codeshell.errors import UserError
from codeshell.evaluate.programs import Limits
from codeshell.evaluate.sandbox import launch, levels, probe
from codeshell.evaluate.sandbox.launch import Bind, Command, Outcome, Session, run, start
from codeshell.evaluate.sandbox.levels import Level

ROOT = Path(__file__).resolve().parents[3]
SMALL = Limits(cpu_seconds=5, wall_seconds=60, memory=512 << 20, kept_output=1000, drained_output=1 << 20)


@pytest.fixture(
    params=[Level.NAMESPACES_CGROUP, Level.NAMESPACES, Level.LANDLOCK], ids=["cgroup", "namespaces", "landlock"]
)
def level(request: pytest.FixtureRequest) -> Level:
    try:
        levels.prove(request.param)
    except UserError as error:
        pytest.skip(f"level {request.param.value} is not to be had here: {error}")
    return Level(request.param)


@pytest.fixture
def isolated() -> Level:
    """The best level, which must have a root of its own."""
    try:
        found = levels.require().level
    except UserError as error:
        pytest.skip(f"no isolation on this machine: {error}")
    if found < Level.NAMESPACES:
        pytest.skip(f"level {found.value}, the best here, has no root of its own")
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = set(children())
    yield
    assert set(children()) <= before
    for folder in _C.sandbox.groups()["folders"]:
        if folder:
            assert list(Path(folder).glob(f"codeshell-{os.getpid()}-*")) == []


def shell(text: str, level: Level, limits: Limits = SMALL, **more: object) -> Outcome:
    return run(Command(["/bin/sh", "-c", text], limits=limits, **more), level)  # type: ignore[arg-type]


def test_gets_its_files_input_and_environment_and_nothing_else(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODESHELL_SECRET", "secret")
    text, environment = 'cat a b/c -; echo "$X"; env | grep -c SECRET', {"X": "y z"}
    outcome = shell(text, level, files={"a": b"1", "b/c": b"2"}, stdin=b"3\n", environment=environment)
    assert (outcome.stdout, outcome.cause, outcome.signal) == (b"123\ny z\n0\n", "ended", None)
    assert outcome.status == 1  # of grep


def test_large_input_does_not_block(level: Level) -> None:
    data = os.urandom(3 << 20)
    assert shell("wc -c", level, stdin=data).stdout.split() == [b"3145728"]
    assert shell("exit 0", level, stdin=data).status == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_tells_the_signal(level: Level, number: int) -> None:
    outcome = shell(f"kill -{int(number)} $$", level)
    assert (outcome.status, outcome.signal, outcome.cause) == (None, number, "ended")


def test_keeps_the_end_of_each_stream(level: Level) -> None:
    outcome = shell("seq 1 5000; seq 1 3 >&2", level)
    whole = "".join(f"{number}\n" for number in range(1, 5001)).encode()
    assert outcome.stdout == whole[-1000:]
    assert outcome.stderr == b"1\n2\n3\n"
    assert outcome.output_bytes == len(whole) + 6


def test_cpu_time_of_children_counts(level: Level) -> None:
    busy = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    outcome = shell(f"({busy}) & ({busy}) & wait; times", level)
    assert outcome.cause == "ended"
    # The second line is the shell's own account of its children: user and system time, such as "0m0.140000s".
    told = re.findall(rb"(\d+)m([\d.]+)s", outcome.stdout.splitlines()[1])
    of_children = sum(60 * int(minutes) + float(seconds) for minutes, seconds in told)
    # The system counts the shell's times in hundredths of a second.
    assert len(told) == 2 and of_children > 0.02
    assert outcome.cpu_seconds > of_children - 0.02


def test_wall_time_is_the_net(level: Level) -> None:
    outcome = shell("sleep 1000", level, Limits(wall_seconds=0.3))
    assert outcome.cause == "wall_time"
    assert outcome.cpu_seconds < 0.3 <= outcome.wall_seconds


def test_kills_what_stays(level: Level) -> None:
    outcome = shell("setsid sleep 1000 & setsid sleep 1000 & exit 7", level)
    assert (outcome.status, outcome.killed) == (7, 2)


def test_a_session_keeps_files_and_no_processes(level: Level) -> None:
    with Session(level, SMALL) as box:
        box.write({"in/text": b"abc"})
        first = box.run(Command(["/bin/sh", "-c", "cp in/text out; sleep 1000 & exit 0"], limits=SMALL))
        second = box.run(Command(["/bin/sh", "-c", "cat out; pwd; kill -0 -1"], limits=SMALL))
        folder = box.folder
    assert first.killed == 1
    assert second.stdout == b"abc" + folder.encode() + b"\n"
    assert not Path(folder).exists() or folder == "/box"


def test_a_link_does_not_lead_files_out(level: Level, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with Session(level, SMALL) as box:
        box.run(Command(["/bin/ln", "-s", str(tmp_path), "out"], limits=SMALL))
        with pytest.raises(UserError, match="file out/x cannot be written"):
            box.write({"out/x": b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "a\0b"])
def test_refuses_names_outside(level: Level, name: str) -> None:
    with Session(level, SMALL) as box, pytest.raises(UserError, match="must be a name below the working folder"):
        box.write({name: b""})


def test_says_what_cannot_be_started(level: Level) -> None:
    with pytest.raises(UserError, match="is not in the sandbox; bind its folder"):
        run(Command(["/absent/program"], limits=SMALL), level)
    with pytest.raises(UserError, match="is not in the sandbox"):
        run(Command(["no-such-program"], limits=SMALL), level)


def test_says_which_file_does_not_fit(isolated: Level) -> None:
    limits = Limits(file_bytes=1 << 20)
    with pytest.raises(UserError, match=r"file big cannot be written: .*limited"):
        run(Command(["/bin/true"], files={"small": b"1", "big": bytes(2 << 20)}, limits=limits), isolated)


def test_binds_are_read_only_unless_asked(isolated: Level, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "a").write_text("host")
    binds = [Bind(str(tmp_path), "/data"), Bind(str(tmp_path), "/cache", writable=True)]
    outcome = shell("cat /data/a; touch /data/b; touch /cache/c", isolated, binds=binds)
    assert outcome.stdout == b"host"
    assert b"/data/b" in outcome.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
    below = shell(
        "cat /tmp/in/a /box/in/a", isolated, binds=[Bind(str(tmp_path), f"/{at}/in") for at in ("tmp", "box")]
    )
    assert below.stdout == b"hosthost"
    with pytest.raises(UserError, match=f"{tmp_path}/absent cannot be shown at /x: No such file"):
        shell("true", isolated, binds=[Bind(f"{tmp_path}/absent", "/x")])


def test_a_folder_can_be_the_root(isolated: Level, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/hello").write_text("from the folder")
    (tmp_path / "home").mkdir()
    system = [Bind(f"/{name}", f"/{name}") for name in ("usr", "bin", "lib", "lib64") if Path(f"/{name}").exists()]
    outcome = shell("cat /tools/hello; ls -d /home", isolated, root=str(tmp_path), binds=system)
    assert outcome.stdout == b"from the folder"
    with pytest.raises(UserError, match="cannot be used as a root"):
        shell("true", isolated, root=str(tmp_path / "absent"))


@pytest.mark.parametrize("least", [3, 12, 25, 500])
def test_passes_descriptors_under_their_numbers(level: Level, least: int) -> None:
    reading, writing = os.pipe()
    number = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, least)
    os.close(writing)
    try:
        text = (
            "import os, sys\n"
            "for number in range(3, 1024):\n"
            "    try:\n"
            "        os.fstat(number)\n"
            "        os.write(int(sys.argv[1]), f'{number} '.encode())\n"
            "    except OSError:\n"
            "        pass\n"
        )
        command = [probe.python_program(level), "-I", "-S", "-c", text, str(number)]
        outcome = run(Command(command, binds=probe.python_binds(), limits=SMALL, pass_fds=[number]), level)
        os.close(number)
        assert outcome.status == 0, outcome.stderr
        assert os.read(reading, 1000) == f"{number} ".encode()
    finally:
        os.close(reading)


def test_runs_in_several_threads(level: Level) -> None:
    found: list[bytes] = []

    def work(number: int) -> None:
        for turn in range(4):
            found.append(shell(f"echo {number} {turn}", level).stdout)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"{number} {turn}\n".encode() for number in range(4) for turn in range(4))


def test_a_started_program_can_be_polled_and_killed(level: Level) -> None:
    with start(Command(["sleep", "1000"], limits=SMALL), level) as running:
        assert running.poll() is None
        assert Path(f"/proc/{running.pid}").exists()
        running.kill()
        outcome = running.wait()
        assert outcome is not None
        assert (outcome.cause, outcome.signal) == ("killed", signal.SIGKILL)


def test_stop_all_ends_what_other_threads_run(level: Level) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(shell("sleep 1000", level)))
    thread.start()
    try:
        while not any(session._box for session in list(launch._LIVE)):
            time.sleep(0.01)
        while thread.is_alive():
            launch.stop_all()
            thread.join(0.05)
        with pytest.raises(UserError, match="stopped"):
            shell("true", level)
    finally:
        launch.resume()
    assert [outcome.cause for outcome in outcomes] == ["killed"]
    assert shell("true", level).status == 0


def test_ends_with_the_process_that_made_it(level: Level) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from codeshell.evaluate.sandbox.launch import Command, start\n"
        "running = start(Command(['/bin/sh', '-c', 'setsid sleep 1000 & sleep 1000']), int(sys.argv[2]))\n"
        "print(running.pid, flush=True)\n"
        "running.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, ROOT, str(int(level))], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        keeper = int(process.stdout.readline())
        process.kill()
    for _ in range(400):
        if not Path(f"/proc/{keeper}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{keeper}").exists()
    # The next process takes away the folder (level 2) and the empty groups (level 4) of the one that was killed.
    sweep = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from codeshell.evaluate.sandbox.launch import Command, run\n"
        "run(Command(['true']), int(sys.argv[2]))\n"
    )
    subprocess.run([sys.executable, "-c", sweep, ROOT, str(int(level))], check=True)
    assert list(Path(tempfile.gettempdir()).glob(f"codeshell-box-{process.pid}-*")) == []
    for folder in _C.sandbox.groups()["folders"]:
        assert not folder or list(Path(folder).glob(f"codeshell-{process.pid}-*")) == []


def test_removes_trees_that_resist(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (tmp_path / "outside").write_text("stays")
    (root / "link").symlink_to(tmp_path)
    os.mkfifo(root / "fifo")
    here = os.open(root, os.O_RDONLY)
    for _ in range(700):
        os.mkdir("deep", dir_fd=here)
        inner = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.fchmod(here, 0)
    os.close(here)
    (root / "closed").mkdir()
    (root / "closed" / "x").write_text("")
    (root / "closed").chmod(0)
    assert _C.sandbox.remove_tree(str(root))
    assert not root.exists()
    assert (tmp_path / "outside").read_text() == "stays"
    assert _C.sandbox.remove_tree(str(root))  # absent already


SERVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from codeshell import _C

def run(code):
    reading, writing = os.pipe()
    pid = _C.sandbox.fork_program(
        cpu_seconds=5, address_space=1 << 30, processes=8, file_bytes=4 << 20, files=50, keep_fds=[writing]
    )
    if pid == 0:
        try:
            result = repr(eval(code))
        except BaseException as error:
            result = type(error).__name__
        os.write(writing, result.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read().decode()
    status = os.waitpid(pid, 0)[1]
    print(text or status, flush=True)

run("os.getpid(), os.getcwd(), os.listdir('.'), open('left', 'w').write('x')")
run("os.listdir('.')")
run("[name for name in os.listdir('/proc') if name.isdigit()]")
run("open('/proc/self/status').read().split('CapEff:')[1].split()[0]")
run("_C.sandbox.fork_program(cpu_seconds=1, address_space=0, processes=1, file_bytes=1, files=1, keep_fds=[])")
run("open('/usr/x', 'w')")
run("os.kill(1, 9)")
print(_C.sandbox.program_failure() == "", os.listdir("."))
"""


def test_a_server_forks_programs_that_are_apart(isolated: Level) -> None:
    python = probe.python_program(isolated)
    command = Command(
        [python, "-I", "-S", "server.py", str(ROOT)],
        files={"server.py": SERVER.encode()},
        binds=[*probe.python_binds(), Bind(str(ROOT / "codeshell"), str(ROOT / "codeshell"))],
        server=True,
    )
    with start(command, isolated) as running:
        outcome = running.wait(60)
    assert outcome is not None
    assert outcome.stdout.decode().splitlines() == [
        "(1, '/box', [], 1)",
        "[]",
        "['1']",
        "'0000000000000000'",
        "Refused",
        "OSError",
        "None",
        "True ['server.py']",
    ], outcome.stderr


def test_a_box_ends_once() -> None:
    with contextlib.suppress(UserError):
        box = Session(Level.LIMITS, SMALL)
        box.close()
        box.close()
