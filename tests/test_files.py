"""Files are whole or absent."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
import torch

from ptq4dm import files
from ptq4dm.errors import ArtifactError


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_only_when_whole(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.new_folder(tmp_path / "a") as building:
        (building / "half").write_text("x")
        raise KeyboardInterrupt
    assert leftovers(tmp_path) == []
    with files.new_folder(tmp_path / "a") as building:
        (building / "ptq4dm.json").write_text("{}")
        assert not (tmp_path / "a").exists()
    assert leftovers(tmp_path) == ["a"]


def test_a_failed_rewrite_keeps_the_old_folder(tmp_path):
    with files.new_folder(tmp_path / "a") as building:
        (building / "ptq4dm.json").write_text("old")
    with pytest.raises(ZeroDivisionError), files.new_folder(tmp_path / "a") as building:
        (building / "ptq4dm.json").write_text("new")
        raise ZeroDivisionError
    assert (tmp_path / "a" / "ptq4dm.json").read_text() == "old"
    with files.new_folder(tmp_path / "a") as building:
        (building / "ptq4dm.json").write_text("new")
    assert (tmp_path / "a" / "ptq4dm.json").read_text() == "new"
    assert leftovers(tmp_path) == ["a"]


def test_somebody_elses_folder_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "only copy.txt").write_text("x")
    with (
        pytest.raises(ArtifactError, match=r"will not replace .*thesis: not empty"),
        files.new_folder(tmp_path / "thesis"),
    ):
        pass
    assert (tmp_path / "thesis" / "only copy.txt").exists()


def test_two_runs_cannot_write_to_one_folder(tmp_path):
    with (
        files.new_folder(tmp_path / "a"),
        pytest.raises(ArtifactError, match="another run is writing to"),
        files.new_folder(tmp_path / "a"),
    ):
        pass


def test_a_run_that_met_the_lock_of_an_ended_one_does_not_write_beside_a_third(tmp_path, monkeypatch):
    """The file that it opened is no longer the one that the third run holds."""
    lock, flock = tmp_path / ".a.lock", fcntl.flock
    (tmp_path / "of the third").touch()

    def meanwhile(handle, operation):
        flock(handle, operation)
        os.replace(
            tmp_path / "of the third", lock
        )  # the first run ended and took its file away; the third made its own

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with pytest.raises(ArtifactError, match="another run is writing to"), files.exclusive(tmp_path / "a"):
        pytest.fail("two runs at once")
    assert lock.exists()


def test_a_place_for_a_file_is_tried_without_leaving_anything(tmp_path):
    files.require_writable(tmp_path / "new" / "folder" / "file")
    assert leftovers(tmp_path) == []
    with pytest.raises(ArtifactError, match="it is a folder: name a file"):
        files.require_writable(tmp_path)
    with pytest.raises(ArtifactError, match="it is a folder: name a file"), files.new_file(tmp_path):
        pass
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "a", Path("/proc/nowhere/a")):
        with pytest.raises(ArtifactError, match=f"cannot write {place}"):
            files.require_writable(place)


def test_a_full_disk_is_said_in_one_line(tmp_path):
    with pytest.raises(ArtifactError, match="the disk is full: free some space"), files.new_folder(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert leftovers(tmp_path) == []


def test_a_real_full_device_is_said_in_one_line():
    with (
        pytest.raises(ArtifactError, match="cannot write /dev/full"),
        files.written_or_explained("/dev/full"),
        open("/dev/full", "w") as full,
    ):
        full.write("x")


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot write"), files.new_folder(tmp_path / "file" / "a"):
        pass


def test_tensors_come_back_and_damage_is_seen(tmp_path):
    tensors = {"a": torch.arange(6).reshape(2, 3), "b": torch.zeros(())}
    path = tmp_path / "t.safetensors"
    files.write_tensors(path, tensors, {"k": "v"})
    back, metadata = files.read_tensors(path)
    assert metadata["k"] == "v" and all(torch.equal(back[name], tensors[name]) for name in tensors)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="damaged or no safetensors"):
        files.read_tensors(path)
    with pytest.raises(ArtifactError, match="missing"):
        files.read_tensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize("change", ["value", "shape", "dtype", "name", "fact"])
def test_a_fingerprint_sees_every_kind_of_change(change):
    tensor = torch.tensor([1.0, 2.0])
    base = files.fingerprint({"a": tensor}, {"steps": 50})
    other = {
        "value": lambda: files.fingerprint({"a": tensor + 1}, {"steps": 50}),
        "shape": lambda: files.fingerprint({"a": tensor[None]}, {"steps": 50}),
        "dtype": lambda: files.fingerprint({"a": tensor.view(torch.int32)}, {"steps": 50}),
        "name": lambda: files.fingerprint({"b": tensor}, {"steps": 50}),
        "fact": lambda: files.fingerprint({"a": tensor}, {"steps": 51}),
    }[change]()
    assert base != other
    assert base == files.fingerprint({"a": tensor.clone()}, {"steps": 50})


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "a"
    with files.new_folder(target) as building:
        (building / "ptq4dm.json").write_text("old")
    rename, calls = os.rename, []

    def interrupted(source, goal):
        calls.append(goal)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, goal)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), files.new_folder(target) as building:
        (building / "ptq4dm.json").write_text("new")
    assert (target / "ptq4dm.json").read_text() == "old" and leftovers(tmp_path) == ["a"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    with files.new_folder(tmp_path / "a") as building:
        (building / "ptq4dm.json").write_text("old")
    (tmp_path / "latest").symlink_to("a")
    with files.new_folder(tmp_path / "latest") as building:
        (building / "ptq4dm.json").write_text("new")
    assert (tmp_path / "latest").is_symlink() and (tmp_path / "a" / "ptq4dm.json").read_text() == "new"
    assert leftovers(tmp_path) == ["a", "latest"]


def test_files_replace_the_old_ones_together_or_not_at_all(tmp_path):
    (tmp_path / "one").write_text("old")
    with pytest.raises(ArtifactError, match="the disk is full"), files.new_files(tmp_path) as building:
        (building / "one").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "one").read_text() == "old" and leftovers(tmp_path) == ["one"]
    with files.new_files(tmp_path) as building:
        (building / "one").write_text("new"), (building / "two").write_text("new")
    assert leftovers(tmp_path) == ["one", "two"] and (tmp_path / "one").read_text() == "new"


@pytest.mark.parametrize("place", ["/proc/nowhere", "/sys/nowhere"])
def test_a_right_that_cannot_be_had_is_said_in_one_line(place):
    with pytest.raises(ArtifactError, match=f"cannot write {place}"), files.exclusive(Path(place)):
        pass
