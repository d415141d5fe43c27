"""Programs that reach for files, processes, networks and the kernel: refused, and without effect on the host."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from tests.judge.hostile.attack import Attack, parametrize, silent
from tests.judge.hostile.escape import ATTACKS, script

pytestmark = [pytest.mark.hostile, pytest.mark.slow]

SECRET = f"secret-{secrets.token_hex(8)}"


class Outside:
    """What the host puts in reach, open to every user: a folder with files, and servers."""

    def __init__(self, servers: contextlib.ExitStack) -> None:
        # Not pytest's folder, which other users may not enter.
        self.folder = Path(tempfile.mkdtemp())
        self.folder.chmod(0o777)
        servers.callback(shutil.rmtree, self.folder)
        self.secret = self.folder / "secret"
        for name, text in (("secret", SECRET), ("planted.py", f"word = {SECRET!r}")):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o666)
        self.named, self.abstract = str(self.folder / "socket"), secrets.token_hex(8)
        self.servers = [socket.socket(kind) for kind in (socket.AF_INET, socket.AF_UNIX, socket.AF_UNIX)]
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        addresses = (("127.0.0.1", 0), self.named, "\0" + self.abstract)
        for server, address in zip(self.servers, addresses, strict=True):
            servers.enter_context(server).bind(address)
            server.listen()
        servers.enter_context(self.datagrams).bind(("127.0.0.1", 0))
        for server in (*self.servers, self.datagrams):
            server.setblocking(False)
        os.chmod(self.named, 0o777)
        self.before = self.state()

    def state(self) -> dict[str, object]:
        """Return what can be seen of the folder."""
        seen = {path.name: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in self.folder.iterdir()}
        return {**seen, "content": self.secret.read_text(), "mark": os.listxattr(self.secret)}

    def contacts(self) -> list[int]:
        """Return the servers, by number, to which something came since the last time."""
        found = []
        for number, server in enumerate((*self.servers, self.datagrams)):
            with contextlib.suppress(BlockingIOError):
                server.recv(1) if server is self.datagrams else server.accept()[0].close()
                found.append(number)
        return found

    def assert_untouched(self) -> None:
        """Assert that nothing was changed, connected or sent."""
        assert self.state() == self.before
        assert self.contacts() == []
        for path in ("/tmp/made-by-an-attack", "/made-by-an-attack"):
            assert not os.path.exists(path)


@pytest.fixture(scope="module")
def outside(arena):
    with contextlib.ExitStack() as servers:
        yield Outside(servers)


def aimed(attack: Attack, arena, outside: Outside) -> Attack:
    """Return the attack with the input that says what is where."""
    [worker] = arena.judge(attack.profile).processes()
    given = {
        "secret": str(outside.secret),
        "outside": str(outside.folder),
        "repository": str(Path(__file__).parents[2]),
        "home": str(Path.home()),
        "pids": [os.getpid(), worker],
        "uid": os.getuid(),
        "port": outside.servers[0].getsockname()[1],
        "datagrams": outside.datagrams.getsockname()[1],
        "named": outside.named,
        "abstract": outside.abstract,
    }
    return dataclasses.replace(attack, tests=silent(given=json.dumps(given)))


@parametrize(ATTACKS)
def test_no_program_gets_out(arena, outside, attack):
    verdict = arena.withstand(aimed(attack, arena, outside))
    outside.assert_untouched()
    assert SECRET not in verdict.message


def control(body: str) -> Attack:
    return Attack(name="control", target="control", program=script(body), tests=silent(), profile="patient")


@pytest.mark.parametrize(
    "body",
    [
        "open('secret', 'w').write(given['secret'])\nreturn read('secret')",
        "os.symlink(os.__file__, 'way')\nreturn read('way')",
        "return read(os.__file__)",
        "return os.kill(os.getpid(), 0)",
        "return call('openat2', -100, b'.', ctypes.c_char_p(bytes(24)), 24)",
        "return os.environ['PATH']",
        "a, b = socket.socketpair()\nreturn a.send(b'x')",
        "return first(lambda: open('nowhere'), lambda: 1)",
    ],
)
def test_what_a_program_may_do_is_not_refused(arena, outside, body):
    """The script around the attempts says so when one succeeds."""
    verdict = arena.run(aimed(control(body), arena, outside))
    assert verdict.pass_rate == 0.0
    assert "printed 'reached" in verdict.message or 'printed "reached' in verdict.message


def test_the_host_reaches_what_the_programs_do_not(outside):
    """Everything that the attempts aim at is there, and what they would do to it shows."""
    assert outside.secret.read_text() == SECRET
    for number, server in enumerate(outside.servers):
        with socket.socket(server.family) as client:
            client.connect(server.getsockname())
            assert outside.contacts() == [number]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", outside.datagrams.getsockname())
        assert outside.contacts() == [len(outside.servers)]
    assert os.environ["HF_TOKEN"] == "hf_secret"
    made = outside.folder / "made"
    made.touch()
    with pytest.raises(AssertionError):
        outside.assert_untouched()
    made.unlink()
    outside.assert_untouched()
