"""`flexsc_loop.files`: each function does what its namesake of os, shutil, tempfile or pathlib does."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import resource
import shutil
import stat
import tempfile

import pytest
from support import name_of

from flexsc_loop import files

LIMIT = 10_000
TIMES = (1_000_000_000, 1_234_567_890)
#: Where a function of the same name is not in `os`.
NAMESAKES = {
    "exists": os.path.exists,
    "copyfile": shutil.copyfile,
    "rmtree": shutil.rmtree,
    **{name: getattr(pathlib.Path, name) for name in ("read_bytes", "read_text", "write_bytes", "write_text")},
}


class At(str):
    """A path below the tree that the call is made in."""


def make(root):
    """A small tree with all kinds of things."""
    root.mkdir()
    (root / "file").write_bytes(b"first\r\nsecond\n\xc3\xa9\n")
    (root / "other").write_bytes(b"other")
    (root / "folder" / "sub").mkdir(parents=True)
    (root / "folder" / "inside").write_bytes(b"inside")
    (root / "empty" / "deep").mkdir(parents=True)
    (root / "link").symlink_to("file")
    (root / "dangling").symlink_to("nowhere")
    (root / "to_folder").symlink_to("folder")
    (root / "caf\u00e9").write_bytes("caf\u00e9".encode("latin-1"))
    return root


def snapshot(root):
    """All that can be seen of a tree, but the times of what has been made."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        contents = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        times = status.st_mtime_ns if status.st_mtime_ns < 2 * 10**18 // 2 else None
        found[str(path.relative_to(root))] = stat.filemode(status.st_mode), status.st_nlink, contents, times
    return found


def there(root, value):
    """An argument, with what is `At` as a path in this tree."""
    if isinstance(value, At):
        return root / value
    return value


def plain(root, value):
    """What a call gives, in words that are the same for either tree."""
    if isinstance(value, os.stat_result):
        return stat.filemode(value.st_mode), value.st_nlink, value.st_uid, value.st_size
    if isinstance(value, list):
        return sorted(value)
    if isinstance(value, str | bytes | os.PathLike):
        return type(value), os.fsdecode(value).replace(str(root), "")
    return value


def complaint(root, error):
    """What an exception says; of a wrong argument its kind alone, since each version of Python words that anew."""
    if isinstance(error, OSError) and error.errno:
        return type(error), error.errno, plain(root, error.filename), plain(root, error.filename2)
    return type(error), "" if isinstance(error, TypeError | ValueError) else str(error).replace(str(root), "")


CALLS = [
    ("read_bytes", At("file")), ("read_bytes", At("link")), ("read_bytes", At("missing")), ("read_bytes", At("folder")),
    ("read_bytes", At("dangling")), ("read_bytes", pathlib.Path("/dev/null")),
    ("read_bytes", pathlib.Path("/proc/self/cmdline")),
    ("read_text", At("file"), {"encoding": "utf-8"}), ("read_text", At("file"), {"encoding": "ascii"}),
    ("read_text", At("file"), {"encoding": "ascii", "errors": "replace"}), ("read_text", At("missing")),
    ("read_text", At("caf\u00e9"), {"encoding": "latin-1"}), ("read_text", At("file"), {"encoding": "no such"}),
    ("write_bytes", At("file"), b""), ("write_bytes", At("new"), bytes(100_000)), ("write_bytes", At("folder"), b"x"),
    ("write_bytes", At("link"), b"through the link"), ("write_bytes", At("dangling"), memoryview(b"made")),
    ("write_bytes", At("new"), "text"), ("write_bytes", At("missing/new"), b"x"),
    ("write_bytes", At("file"), bytearray(b"array")),
    ("write_text", At("new"), "one\ntwo\n\u00e9", {"encoding": "utf-8"}), ("write_text", At("new"), b"x"),
    ("write_text", At("new"), "one\ntwo", {"encoding": "utf-16", "newline": "\r\n"}),
    ("write_text", At("new"), "\u00e9", {"encoding": "ascii", "errors": "xmlcharrefreplace"}),
    ("write_text", At("folder"), "x"),
    ("stat", At("file")), ("stat", At("link")), ("stat", At("link"), {"follow_symlinks": False}),
    ("stat", At("dangling")), ("stat", At("missing")), ("stat", "nul\0"), ("stat", At("file/below")), ("stat", 3.5),
    ("lstat", At("link")), ("lstat", At("file")), ("lstat", At("missing")),
    ("exists", At("file")), ("exists", At("missing")), ("exists", At("dangling")), ("exists", At("folder")),
    ("exists", "nul\0"), ("exists", ""),
    ("access", At("file"), os.R_OK), ("access", At("missing"), os.F_OK), ("access", At("file"), os.X_OK),
    ("access", At("dangling"), os.F_OK, {"follow_symlinks": False}),
    ("listdir", At("folder")), ("listdir", At("")), ("listdir", At("empty/deep")), ("listdir", At("file")),
    ("listdir", At("missing")), ("listdir", At("to_folder")),
    ("readlink", At("link")), ("readlink", At("file")), ("readlink", At("missing")),
    ("mkdir", At("new")), ("mkdir", At("new"), 0o700), ("mkdir", At("folder")), ("mkdir", At("file")),
    ("mkdir", At("missing/new")), ("mkdir", At("file/new")),
    ("makedirs", At("new/a/b")), ("makedirs", At("folder/sub")), ("makedirs", At("folder/sub"), {"exist_ok": True}),
    ("makedirs", At("file"), {"exist_ok": True}), ("makedirs", At("new/x"), 0o700),
    ("unlink", At("file")), ("unlink", At("link")), ("unlink", At("folder")), ("unlink", At("missing")),
    ("remove", At("file")), ("remove", At("folder")), ("remove", At("dangling")),
    ("rmdir", At("empty/deep")), ("rmdir", At("folder")), ("rmdir", At("file")), ("rmdir", At("missing")),
    ("removedirs", At("empty/deep")), ("removedirs", At("folder/sub")), ("removedirs", At("missing")),
    ("rmtree", At("folder")), ("rmtree", At("missing")), ("rmtree", At("missing"), True), ("rmtree", At("to_folder")),
    ("rmtree", At("file")),
    ("rename", At("file"), At("new")), ("rename", At("file"), At("other")), ("rename", At("file"), At("folder")),
    ("rename", At("folder"), At("file")), ("rename", At("missing"), At("new")), ("rename", At("folder"), At("new")),
    ("rename", At("folder"), At("folder/sub/x")), ("rename", At("link"), At("new")),
    ("renames", At("empty/deep"), At("new/a")), ("renames", At("missing"), At("new/a")),
    ("replace", At("file"), At("other")), ("replace", At("file"), At("empty")), ("replace", At("missing"), At("other")),
    ("link", At("file"), At("new")), ("link", At("file"), At("other")), ("link", At("folder"), At("new")),
    ("link", At("missing"), At("new")), ("link", At("link"), At("new"), {"follow_symlinks": False}),
    ("symlink", "file", At("new")), ("symlink", "anything", At("file")), ("symlink", "", At("new")),
    ("symlink", "folder", At("new"), True),
    ("chmod", At("file"), 0o600), ("chmod", At("link"), 0o640), ("chmod", At("missing"), 0o600),
    ("utime", At("file"), TIMES), ("utime", At("file"), {"ns": (10**17, 10**17 + 7)}), ("utime", At("missing")),
    ("utime", At("link"), TIMES, {"follow_symlinks": False}), ("utime", At("file"), 5),
    ("copyfile", At("file"), At("new")), ("copyfile", At("file"), At("other")), ("copyfile", At("file"), At("file")),
    ("copyfile", At("link"), At("new")), ("copyfile", At("link"), At("new"), {"follow_symlinks": False}),
    ("copyfile", At("missing"), At("new")), ("copyfile", At("folder"), At("new")),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda call: name_of(*call))
async def test_as_its_namesake_does(loop, tmp_path, call):
    name, *given = call
    options = given.pop() if isinstance(given[-1], dict) else {}
    theirs, ours = make(tmp_path / "theirs"), make(tmp_path / "ours")
    function = NAMESAKES.get(name) or getattr(os, name)
    try:
        wanted = plain(theirs, function(*[there(theirs, one) for one in given], **options))
    except Exception as error:
        wanted = complaint(theirs, error)
    try:
        got = plain(ours, await getattr(files, name)(*[there(ours, one) for one in given], **options))
    except Exception as error:
        got = complaint(ours, error)
    assert got == wanted
    assert snapshot(ours) == snapshot(theirs)


async def test_what_cannot_be_encoded_does_no_harm(loop, tmp_path):
    """pathlib has emptied the file by then."""
    (tmp_path / "file").write_bytes(b"as it was")
    with pytest.raises(UnicodeEncodeError):
        await files.write_text(tmp_path / "file", "\u00e9", encoding="ascii")
    assert (tmp_path / "file").read_bytes() == b"as it was"


@pytest.mark.parametrize("write", ["write_bytes", "write_text"])
async def test_no_room(loop, write):
    with pytest.raises(OSError) as caught:
        await getattr(files, write)("/dev/full", b"x" if write == "write_bytes" else "x")
    assert caught.value.errno == errno.ENOSPC


def test_every_function_is_compared():
    apart = {"open", "scandir", "mkstemp", "mkdtemp", "TemporaryFile", "NamedTemporaryFile", "TemporaryDirectory"}
    assert {name for name, *_ in CALLS} == set(files.__all__) - apart


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path])
async def test_kinds_of_paths(loop, tmp_path, kind):
    root = make(tmp_path / "tree")
    path = kind(str(root / "file"))
    assert await files.read_bytes(path) == (root / "file").read_bytes()
    assert (await files.stat(path)).st_size == (root / "file").stat().st_size
    assert await files.listdir(kind(str(root / "folder"))) == os.listdir(kind(str(root / "folder")))
    assert await files.readlink(kind(str(root / "link"))) == os.readlink(kind(str(root / "link")))
    await files.rename(path, kind(str(root / "new")))
    await files.unlink(kind(str(root / "new")))
    assert not await files.exists(path)


async def test_in_a_folder_that_is_open(loop, tmp_path):
    """dir_fd and descriptors, as os takes them."""
    root = make(tmp_path / "tree")
    folder = os.open(root, os.O_RDONLY)
    try:
        await files.mkdir("made", dir_fd=folder)
        await files.symlink("file", "made/link", dir_fd=folder)
        await files.rename("other", "moved", src_dir_fd=folder, dst_dir_fd=folder)
        await files.replace("moved", "made/moved", src_dir_fd=folder, dst_dir_fd=folder)
        await files.link("file", "hard", src_dir_fd=folder, dst_dir_fd=folder)
        assert await files.readlink("made/link", dir_fd=folder) == "file"
        assert (await files.stat("hard", dir_fd=folder)).st_nlink == 2
        assert stat.S_ISLNK((await files.lstat("made/link", dir_fd=folder)).st_mode)
        assert await files.access("hard", os.R_OK, dir_fd=folder)
        await files.chmod("hard", 0o600, dir_fd=folder)
        await files.utime("hard", TIMES, dir_fd=folder)
        assert (await files.stat("file", dir_fd=folder)).st_mtime == TIMES[1]
        await files.unlink("hard", dir_fd=folder)
        await files.remove("made/link", dir_fd=folder)
        await files.unlink("made/moved", dir_fd=folder)
        await files.rmdir("made", dir_fd=folder)
        assert sorted(await files.listdir(folder)) == sorted(os.listdir(root))
        assert (await files.stat(folder)).st_ino == root.stat().st_ino
        assert await files.exists(folder)
    finally:
        os.close(folder)
    assert not await files.exists(folder)


async def test_scandir(loop, tmp_path):
    root = make(tmp_path / "tree")
    wanted = {entry.name: (entry.is_dir(), entry.is_symlink(), entry.inode()) for entry in os.scandir(root)}

    def seen(entries):
        return {entry.name: (entry.is_dir(), entry.is_symlink(), entry.inode()) for entry in entries}

    assert seen(await files.scandir(root)) == wanted
    async with files.scandir(root) as entries:
        assert seen([entry async for entry in entries]) == wanted
    with await files.scandir(str(root)) as entries:
        first = next(entries)
        entries.close()
        assert first.name in wanted and [*entries] == []
    for wrong, error in ((root / "missing", FileNotFoundError), (root / "file", NotADirectoryError)):
        with pytest.raises(error) as caught:
            await files.scandir(wrong)
        assert caught.value.filename == str(wrong)


async def test_a_large_folder(loop, soak):
    """100,000 entries with --soak."""
    count = 100_000 if soak else 5_000
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        for number in range(count):
            os.mknod(f"{folder}/{number:06}")
        turns = 0

        async def count_turns():
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count_turns())
        assert sorted(await files.listdir(folder)) == [f"{number:06}" for number in range(count)]
        async with files.scandir(folder) as entries:
            assert len([entry async for entry in entries]) == count
        counting.cancel()
        assert turns > 1, "the loop stood still meanwhile"
        await files.rmtree(folder)
        os.mkdir(folder)


# ---- temporary files


@pytest.mark.parametrize("mode", ["w+b", "w+", "wb", "w"])
@pytest.mark.parametrize("name", ["TemporaryFile", "NamedTemporaryFile"])
async def test_temporary_files(loop, tmp_path, name, mode):
    data = b"some\ndata" if "b" in mode else "some\ndata"
    async with getattr(files, name)(mode, dir=tmp_path, prefix="before", suffix="after") as file:
        assert await file.write(data) == len(data)
        if "+" in mode:
            await file.seek(0)
            assert await file.read() == data
        await file.flush()
        names = os.listdir(tmp_path)
        if name == "NamedTemporaryFile":
            assert names == [os.path.basename(file.name)]
            assert names[0].startswith("before") and names[0].endswith("after")
            assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o600
        else:
            assert names == []
    assert file.closed
    assert os.listdir(tmp_path) == []


async def test_a_named_file_that_stays(loop, tmp_path):
    async with files.NamedTemporaryFile(dir=tmp_path, delete=False) as file:
        await file.write(b"kept")
    assert (tmp_path / file.name).read_bytes() == b"kept"
    async with files.NamedTemporaryFile(dir=tmp_path, delete_on_close=False) as file:
        await file.write(b"kept until the end")
        await file.close()
        assert (tmp_path / file.name).read_bytes() == b"kept until the end"
    assert not os.path.exists(file.name)


async def test_a_named_file_that_is_dropped_is_removed(loop, tmp_path):
    file = await files.NamedTemporaryFile(dir=tmp_path)
    with pytest.warns(ResourceWarning):
        del file
    assert os.listdir(tmp_path) == []


async def test_temporary_folders(loop, tmp_path):
    async with files.TemporaryDirectory("after", "before", tmp_path) as name:
        assert os.listdir(tmp_path) == [os.path.basename(name)]
        await files.makedirs(f"{name}/some/folders")
        await files.write_bytes(f"{name}/some/file", b"x")
    assert os.listdir(tmp_path) == []
    folder = await files.TemporaryDirectory(dir=tmp_path)
    assert os.path.isdir(folder.name)
    await folder.cleanup()
    assert os.listdir(tmp_path) == []


async def test_mkstemp_and_mkdtemp(loop, tmp_path):
    fd, name = await files.mkstemp("after", "before", tmp_path)
    try:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600 and not os.get_inheritable(fd)
    finally:
        os.close(fd)
    folder = await files.mkdtemp("after", "before", tmp_path)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    for one in (name, folder):
        assert os.path.basename(one).startswith("before") and one.endswith("after")
        assert os.path.dirname(one) == str(tmp_path)
    with pytest.raises(FileNotFoundError):
        await files.mkdtemp(dir=tmp_path / "missing")


# ---- limits


@pytest.fixture
def limited():
    """No file of this process gets larger than LIMIT."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [LIMIT + 1, 5 * LIMIT])
@pytest.mark.parametrize("write", ["write_bytes", "write_text"])
async def test_a_file_that_does_not_fit_is_an_error(loop, tmp_path, limited, write, size):
    """Though most of it has been written."""
    data = b"x" * size if write == "write_bytes" else "x" * size
    with pytest.raises(OSError) as caught:
        await getattr(files, write)(tmp_path / "file", data)
    assert caught.value.errno == errno.EFBIG
    assert await getattr(files, write)(tmp_path / "file", data[:LIMIT]) == LIMIT
