"""Files of the embedded stack: they are complete or absent, and an unprivileged user can reach them."""

import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from jgo.env import LockFile, compute_spec_hash

from local import jars, shelter
from local.files import complete_folder
from local.problem import Problem


@pytest.fixture
def shelters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shelter, "OPEN_FOLDER", tmp_path)
    return tmp_path


def test_an_interrupted_folder_is_not_left_behind_and_is_created_again(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt), complete_folder(target) as fresh:  # noqa: PT012
        (fresh / "half").touch()
        raise KeyboardInterrupt
    assert not target.exists()

    with complete_folder(target) as fresh:
        (fresh / "whole").touch()
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_folder_that_its_user_closed_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelter, "is_open", lambda path: path.name != "gateway")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "gateway")
        assert shelter.reachable(folder) == folder
        assert shelter.reachable(folder, "1.0") != folder


def test_files_move_to_a_shelter_when_a_parent_is_closed(shelters: Path) -> None:
    closed = shelters / "home"
    closed.mkdir(mode=0o700)
    folder = shelter.reachable(closed / "clone" / "postgres")
    assert folder.parent.parent == shelters
    assert folder == shelter.reachable(closed / "clone" / "postgres")
    assert folder != shelter.reachable(closed / "other" / "postgres")


def test_a_shelter_of_another_user_is_refused(shelters: Path) -> None:
    folder = shelters / "quickbite-1" / "postgres"
    folder.parent.symlink_to(shelters)
    with pytest.raises(Problem, match="belongs to another user"):
        shelter.claim(folder)


def test_remove_deletes_the_shelter_but_no_other_parent(shelters: Path) -> None:
    sheltered, own = shelters / "quickbite-1" / "postgres", shelters / "clone" / "postgres"
    for folder in (sheltered, own):
        folder.mkdir(parents=True)
        shelter.remove(folder)
    assert [path.name for path in shelters.iterdir()] == ["clone"]


def test_a_jar_with_another_checksum_is_refused_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = tmp_path / "repository" / "org" / "shop" / "broker" / "1.0" / "broker-1.0.jar"
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"half a jar")
    lock = tmp_path / "jgo.lock.toml"
    wanted = hashlib.sha256(b"a whole jar").hexdigest()
    dependency = {"groupId": "org.shop", "artifactId": "broker", "version": "1.0", "sha256": wanted}
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in dependency.items()]
    lock.write_text("[[dependencies]]\n" + "".join(lines))
    monkeypatch.setattr(jars, "LOCK", lock)
    monkeypatch.setenv("M2_REPO", str(tmp_path / "repository"))

    with pytest.raises(Problem, match=r"was deleted: try again"):
        jars.fetch(tmp_path / "lib")

    assert not jar.exists()
    assert list((tmp_path / "lib").iterdir()) == []


def test_every_locked_jar_has_a_checksum() -> None:
    assert "kafka-clients-4.3.1.jar" in jars.names()
    assert {len(checksum) for checksum in jars.checksums()} == {64}


def test_the_locked_jars_match_the_requested_ones() -> None:
    assert LockFile.load(jars.LOCK).spec_hash == compute_spec_hash(jars.LOCK.with_name("jgo.toml"))
