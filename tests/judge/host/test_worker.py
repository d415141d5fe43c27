"""The files that the host shares with its workers."""

from __future__ import annotations

import os

import pytest

from trl_pper.judge.host.system import LinuxHost, PosixHost

BOTH = pytest.mark.parametrize("means", [LinuxHost(), PosixHost()], ids=["linux", "posix"])


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        lambda descriptor: os.write(descriptor, b"other"),
        lambda descriptor: os.ftruncate(descriptor, 1),
        lambda descriptor: os.ftruncate(descriptor, 99),
    ],
)
def test_a_program_handed_over_cannot_be_changed(means, change):
    with means.sealed_file(b"words") as descriptor:
        with pytest.raises(OSError, match=r"not permitted|Bad file descriptor|Invalid argument"):
            change(descriptor)
        assert os.pread(descriptor, 99, 0) == b"words"


@BOTH
def test_an_output_grows_at_its_end(means):
    with means.output_file() as descriptor:
        os.write(descriptor, b"first")
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, b" second")
        assert os.pread(descriptor, 99, 0) == b"first second"


def test_an_output_never_shrinks_where_the_system_can_see_to_it():
    with LinuxHost().output_file() as descriptor:
        os.write(descriptor, b"first")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        assert os.pread(descriptor, 99, 0) == b"first"


@BOTH
def test_what_a_process_writes_on_a_board_is_read_from_it(means):
    with means.board_file() as board:
        os.ftruncate(board.fileno(), 3)
        os.pwrite(board.fileno(), b"x", 1)
        assert os.pread(board.fileno(), 3, 0) == b"\0x\0"


def test_no_file_on_the_disk_has_a_name_once_something_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written, real = [], os.write

    def write(descriptor, content):
        written.append(list(tmp_path.iterdir()))
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    means = PosixHost()
    with means.sealed_file(b"answers"), means.output_file(), means.board_file():
        assert written == [[]]
        assert list(tmp_path.iterdir()) == []
