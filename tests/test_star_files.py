"""Tests of corpora/star_files.py on a corpus of three dialogues; nothing is downloaded."""
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from corpora import star, star_files
from corpora.dialogues import turns_of
from corpora.star_turns import dialogue
from data import DataError
from tests.star_talks import BANK, REPLIES, TALK, picks, raw, says, types

PARTS = {"star_dialogues.tar.xz": "dialogues/", "star_tasks_apis.tar.xz": "tasks/"}
# ids of the talks of `made`, in the order of the archive
IDS = (10, 9, 2)


# ---------------------------------------------------------------- a corpus

def made(talks=None):
    """path -> bytes of a small corpus; two of its dialogues do not count."""
    if talks is None:
        talks = [raw(*TALK["Events"], id=id) for id in IDS]
    broken_off = raw(says("x"), types("y"), id=50, level="EarlyDisconnectDuringDialogue")
    silent = raw({"Agent": "User", "Action": "complete"}, id=51)
    drawing = {"graph": BANK, "replies": {"query": "Query"}}
    files = {}
    for talk in [*talks, broken_off, silent]:
        files[f"dialogues/{talk['DialogueID']}.json"] = talk
    files["tasks/bank_balance/responses.json"] = REPLIES
    files["tasks/bank_balance/bank_balance.json"] = drawing
    return {name: json.dumps(value).encode() for name, value in files.items()}


def made_of(*events):
    return made([raw(*events, id=id) for id in (1, 2, 3)])


def pack(folder, files, monkeypatch):
    """The two archives in `folder`, with their checksums in ARCHIVES."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = {}
    for name, part in PARTS.items():
        with tarfile.open(folder / name, "w:xz") as archive:
            for path, content in files.items():
                if path.startswith(part):
                    info = tarfile.TarInfo(path)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        sums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(star_files, "ARCHIVES", sums)


def zipped(path, files):
    """As GitHub packs a commit: with the other files, in one folder."""
    others = {"README.md": b"x", "tasks/bank_balance/bank_balance.jpg": b"jpg"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (others | files).items():
            archive.writestr(f"STAR-{star_files.COMMIT}/{name}", content)


def pin(files, monkeypatch):
    """Makes these files the content of COMMIT."""
    sums = {part: star_files.checksum(files, part) for part in ("dialogues", "tasks")}
    monkeypatch.setattr(star_files, "CONTENT", sums)


def there(url, sha256, path, description):
    """In place of `fetch`."""
    if not path.exists():
        pytest.fail(f"tried to fetch {path}")
    return path


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """A data folder with the small corpus as archives, and a cache folder of its own."""
    monkeypatch.setenv("GOPO_CACHE", str(tmp_path / "user"))
    monkeypatch.setattr(star_files, "fetch", there)
    pack(tmp_path / "star", made(), monkeypatch)
    return tmp_path


@pytest.fixture
def read_only(mini):
    (mini / "star").chmod(0o555)
    yield mini
    (mini / "star").chmod(0o755)


def unread(*_):
    pytest.fail("read the archives again")


def everything(data):
    return data.train + data.dev + data.test


def cached(folder):
    return (folder / star_files.CACHE).exists()


# ---------------------------------------------------------------- what is loaded

def test_load_by_hand(mini):
    data = star.load(mini)
    got = sorted(everything(data), key=lambda dialogue: int(dialogue.id))
    # the broken-off one and the one without a word are no dialogues
    assert [dialogue.id for dialogue in got] == ["2", "9", "10"]
    # "custom" is no skill
    assert list(data.skills) == ["bank_inform_balance", "hello"]
    assert data.sops == {"bank_balance": BANK}
    skill = data.skills["bank_inform_balance"]
    assert skill.needs == ("balance",)
    assert skill.task == 2
    assert skill.examples == ("Your current balance is {balance} in credit.",)
    talk = dialogue(TALK, {"bank_inform_balance": ("balance",)})
    assert got[0].turns[1] == talk.turns[1]
    assert "no labels" in data.note.lower()


def test_an_unknown_split_is_refused(mini):
    with pytest.raises(DataError, match="by dialogue or by task"):
        star.load(mini, "domain")


# ---------------------------------------------------------------- the cache

def test_the_second_time_it_comes_from_the_cache(mini, monkeypatch):
    data = star.load(mini)
    assert cached(mini / "star")
    assert not (mini / "user").exists()
    assert not list((mini / "star").glob("*.part"))
    monkeypatch.setattr(star_files, "contents", unread)
    assert star.load(mini) == data


def half(cache):
    return cache[:len(cache) // 2]


def empty(cache):
    return b""


def not_gzip(cache):
    return b"not gzip"


def wrong_bytes(cache):
    return cache[:-20] + b"\0" * 12 + cache[-8:]


@pytest.mark.parametrize("damage", [half, empty, not_gzip, wrong_bytes])
def test_a_damaged_cache_is_made_again(mini, damage):
    whole = star.load(mini)
    cache = mini / "star" / star_files.CACHE
    good = cache.read_bytes()
    cache.write_bytes(damage(good))
    assert star.load(mini) == whole
    key = json.loads(gzip.decompress(good))["key"]
    assert star_files.read_cache(cache, key) is not None


def test_the_cache_knows_its_files(mini, monkeypatch):
    star.load(mini)
    pack(mini / "star", made_of(says("Hi"), picks("hello", "Hello")), monkeypatch)
    assert {turn.user for turn in turns_of(star.load(mini).train)} == {"Hi"}


def test_the_key_covers_all_code_that_decides_what_is_cached():
    names = {path.name for path in star_files.CODE}
    assert {"data.py", "sop.py", "star.py", "star_files.py", "star_turns.py"} <= names


@pytest.mark.parametrize("name", sorted(path.name for path in star_files.CODE))
def test_the_key_changes_with_the_text_of_any_code(name, mini, monkeypatch, tmp_path):
    """Touching sop.py, say: a cache of before is not read again."""
    folder = tmp_path / "code"
    folder.mkdir()
    copies = [shutil.copy(path, folder / path.name) for path in star_files.CODE]
    monkeypatch.setattr(star_files, "CODE", copies)
    archives = star_files.sources(mini / "star")
    before = star_files.cache_key(archives, copies)
    assert star_files.cache_key(archives, copies) == before
    star.load(mini)
    with open(folder / name, "a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert star_files.cache_key(archives, copies) != before
    monkeypatch.setattr(star_files, "contents", unread)
    with pytest.raises(pytest.fail.Exception, match="read the archives again"):
        star.load(mini)


def test_a_read_only_folder_is_left_alone(read_only, monkeypatch):
    whole = star.load(read_only)
    names = {path.name for path in (read_only / "star").iterdir()}
    assert names == set(star_files.ARCHIVES)
    assert cached(read_only / "user")
    monkeypatch.setattr(star_files, "contents", unread)
    assert star.load(read_only) == whole


def test_no_place_for_a_cache_is_no_error(read_only, monkeypatch):
    (read_only / "file").write_text("")
    monkeypatch.setenv("GOPO_CACHE", str(read_only / "file"))
    assert len(star.load(read_only).train) == 1


# ---------------------------------------------------------------- archives and downloads

def test_a_damaged_archive_is_named(mini, monkeypatch):
    path = mini / "star" / "star_dialogues.tar.xz"
    path.write_bytes(path.read_bytes()[:200])
    advice = r"remove it and run python -m corpora\.star --download"
    with pytest.raises(DataError, match=rf"star_dialogues\.tar\.xz: damaged.*{advice}"):
        star.load(mini)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(star_files.ARCHIVES, path.name, sha256)
    with pytest.raises(DataError, match=rf"star_dialogues\.tar\.xz: cannot be read .*{advice}"):
        star.load(mini)


def without(files, name):
    return {path: content for path, content in files.items() if path != name}


def test_a_zip_counts_by_its_content(mini, monkeypatch):
    for name in star_files.ARCHIVES:
        (mini / "star" / name).unlink()
    path = mini / "star" / star_files.ZIP
    files = made()
    pin(files, monkeypatch)
    zipped(path, files)
    # the drawing is not needed
    assert len(star.load(mini).sops) == 1
    nine = files["dialogues/9.json"]
    changed = (
        files | {"dialogues/9.json": b"{}"},
        without(files, "dialogues/9.json"),
        files | {"tasks/bank_balance/responses.json": b"{}"},
        # the same bytes under another name
        without(files, "dialogues/9.json") | {"dialogues/8.json": nine},
        # one file more
        files | {"dialogues/8.json": nine},
    )
    advice = r"remove it and run python -m corpora\.star --download"
    for wrong in changed:
        zipped(path, wrong)
        with pytest.raises(DataError, match=rf"is not that of commit 305897509.*{advice}"):
            star.load(mini)
        # put there by hand
        assert path.exists()
    path.write_bytes(b"PK but no more")
    with pytest.raises(DataError, match=r"STAR-.*\.zip: cannot be read"):
        star.load(mini)


def test_a_download_is_checked_and_a_wrong_one_removed(tmp_path, monkeypatch):
    files = made()
    pin(files, monkeypatch)
    monkeypatch.setenv("GOPO_CACHE", str(tmp_path / "user"))
    monkeypatch.setattr(star_files, "ARCHIVES", {"no.tar.xz": ""})
    answers = [made_of(says("x"), types("y")), files]

    def download(url, sha256, path, description):
        zipped(path, answers.pop(0))

    monkeypatch.setattr(star_files, "fetch", download)
    with pytest.raises(DataError, match="its dialogues/ is not that of commit"):
        star.load(tmp_path)
    assert not (tmp_path / "star" / star_files.ZIP).exists()
    assert len(star.load(tmp_path).train) == 1


def test_no_network_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(star_files, "URL", "http://127.0.0.1:9/star.zip")
    wrong = (
        r"STAR-.*\.zip: cannot fetch STAR from http://127\.0\.0\.1:9/star\.zip "
        r".*GOPO_DATA or --data_dir")
    with pytest.raises(DataError, match=wrong):
        star.load(tmp_path)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is the oracle")
def test_the_checksum_is_that_of_sha256sum(tmp_path):
    """A reader can check CONTENT in a clone of COMMIT, by the command that its comment names."""
    files = {
        "a/b.json": b"{}",
        "a/deep/y.json": b"1\0\n",
        "a/10.json": b"",
        "a/9.json": "é".encode(),
        # neither of the folder, though its name begins so
        "ab/x.json": b"x",
        "b/1.json": b"b",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    command = "find a -name '*.json' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert star_files.checksum(files, "a") == done.stdout.split()[0]
