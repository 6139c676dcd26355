"""Tests of infra/files.py: what a failure half-way leaves behind."""
import pytest

from infra.files import read_json, whole, whole_folder, write_json


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with whole(path) as part:
            part.write_text("ne")
            raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
    with whole(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "new"


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with whole(tmp_path / "a.txt"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    folder = tmp_path / "stage"
    with whole_folder(folder) as part:
        (part / "one").write_text("")
        assert not folder.exists()
    with pytest.raises(KeyboardInterrupt):
        with whole_folder(folder) as part:
            (part / "half").write_text("")
            raise KeyboardInterrupt
    assert [p.name for p in folder.iterdir()] == ["one"]
    with whole_folder(folder) as part:
        (part / "two").write_text("")
    assert [p.name for p in folder.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["stage"]


def test_what_a_killed_process_left_of_a_folder_is_not_taken_over(tmp_path):
    (tmp_path / "stage.part").mkdir()
    (tmp_path / "stage.part/half").write_text("")
    with whole_folder(tmp_path / "stage") as part:
        (part / "one").write_text("")
    assert [p.name for p in (tmp_path / "stage").iterdir()] == ["one"]


def test_json_goes_to_and_fro(tmp_path):
    value = {"name": "Größe", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
