"""Files: free names, atomic writes."""

import errno
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from sb3_carracing.errors import UserError
from sb3_carracing.files import check_output_file, check_writable, next_free, replacing, write_atomically


def test_next_free_never_names_a_file_that_exists(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        file = next_free(tmp_path / "evaluation.json")
        file.touch()
        names.append(file.name)
    assert names == ["evaluation.json", "evaluation_2.json", "evaluation_3.json"]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_atomically(file, "old")

    def be_killed() -> None:
        with replacing(file) as temporary:
            temporary.write_text("ne")
            assert file.read_text() == "old"
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        be_killed()
    assert file.read_text() == "old"
    write_atomically(file, b"new")
    assert file.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    plain = tmp_path / "plain"
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode


def test_what_a_killed_process_leaves_is_taken_for_no_agent(tmp_path: Path) -> None:
    with replacing(tmp_path / "best_model.zip") as temporary:
        temporary.touch()
        assert not list(tmp_path.glob("*.zip"))


@pytest.mark.parametrize("moment", ["half", "whole", "renamed"])
@pytest.mark.parametrize("name", ["evaluation.json", "best_model.zip"])
def test_a_killed_process_leaves_the_old_file_or_the_new_one(tmp_path: Path, name: str, moment: str) -> None:
    file = tmp_path / name
    write_atomically(file, "old")
    process = os.fork()
    if process == 0:
        with replacing(file) as temporary:
            temporary.write_text("ne" if moment == "half" else "new")
            if moment == "renamed":
                temporary.replace(file)
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(process, 0)[1])
    assert file.read_text() == ("new" if moment == "renamed" else "old")
    write_atomically(file, "newer")
    assert file.read_text() == "newer"


def test_a_disk_that_is_full_when_a_file_is_synchronized_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems may notice it only then."""
    file = tmp_path / "result.json"
    write_atomically(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{file}'"):
        write_atomically(file, "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_file_system_without_fsync_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(descriptor: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", unknown)
    write_atomically(tmp_path / "result.json", "new")
    assert (tmp_path / "result.json").read_text() == "new"


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with pytest.raises(OSError, match=rf"No space left on device: '{file}'"), replacing(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # A program that is not there is not the file.
    with pytest.raises(FileNotFoundError, match="'ffmpeg'"), replacing(file):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "ffmpeg")


def test_a_folder_that_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "folder", 10_000)
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is a file: name a folder"):
        check_writable(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot write to .*file/below: Not a directory"):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(UserError, match=r"folder is a folder: name a file"):
        check_output_file(tmp_path / "new" / "folder")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
    with pytest.raises(UserError, match=r"has room for 999 bytes, and 1,000 are needed"):
        check_output_file(tmp_path / "result.json", 1000)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system that nobody can write to")
def test_a_read_only_disk_is_named() -> None:
    with pytest.raises(UserError, match="cannot write to /proc: "):
        check_output_file(Path("/proc/result.json"))
