"""The files that the host shares with its workers."""

from __future__ import annotations

import os

import pytest

from trl_pper.judge.worker import output_file, sealed_file


@pytest.mark.parametrize(
    "change",
    [
        lambda descriptor: os.write(descriptor, b"other"),
        lambda descriptor: os.ftruncate(descriptor, 1),
        lambda descriptor: os.ftruncate(descriptor, 99),
    ],
)
def test_a_program_and_its_tests_cannot_be_changed_once_handed_over(change):
    with sealed_file(b"words") as descriptor:
        with pytest.raises(PermissionError):
            change(descriptor)
        assert os.pread(descriptor, 99, 0) == b"words"


def test_an_output_grows_at_its_end_and_never_shrinks():
    with output_file() as descriptor:
        os.write(descriptor, b"first")
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, b" second")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        assert os.pread(descriptor, 99, 0) == b"first second"
