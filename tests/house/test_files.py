"""Files that are replaced whole, and what is no file and therefore never replaced."""

import os
import socket
import stat
import threading

import pytest

from funcnet._files import descriptor, is_stream, replacing


def write(path, content=b"new"):
    with replacing(path) as file:
        file.write(content)


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    file, link, loose = tmp_path / "file", tmp_path / "link", tmp_path / "loose"
    file.write_bytes(b"old")
    link.symlink_to("file")
    loose.symlink_to("made")
    write(link)
    write(loose)
    assert link.is_symlink()
    assert loose.is_symlink()
    assert (file.read_bytes(), (tmp_path / "made").read_bytes()) == (b"new", b"new")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_signal_just_after_the_file_took_its_place_is_that_signal(tmp_path, monkeypatch):
    replace = os.replace

    def interrupted(*paths):
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "file")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_a_pipe_is_written_into(tmp_path):
    pipe, link, read = tmp_path / "pipe", tmp_path / "link", []
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
        reader.start()
        write(path)
        reader.join(10)
        assert is_stream(path)
    assert read == [b"new", b"new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_into(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in ("/dev/null", link):
        write(path)
        assert stat.S_ISCHR(os.stat(path).st_mode)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc")
def test_a_descriptor_goes_on_where_it_is(tmp_path):
    """A shell's `>file` opened it: as a new file it would lose what was printed before."""
    with open(tmp_path / "printed", "wb", buffering=0) as printed:
        printed.write(b"before ")
        for path in (f"/dev/fd/{printed.fileno()}", f"/proc/self/fd/{printed.fileno()}"):
            assert descriptor(path) == printed.fileno()
            write(path, b"amid ")
        printed.write(b"after")
    assert (tmp_path / "printed").read_bytes() == b"before amid amid after"
    assert descriptor("/dev/stdout") == 1


def test_what_is_neither_a_file_nor_a_stream_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    (tmp_path / "link").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind("ear")
        for path in (".", "link", "ear"):
            with pytest.raises(OSError, match="is not written to"):
                write(path)
            assert not is_stream(path)
    assert sorted(os.listdir()) == ["ear", "link"]
