"""`bindings.localstorage`: files below one folder (spec `components.md` 4).

No name leads out of the folder: `..` ends at its top, a symbolic link is followed only to where it stays inside, and
what is opened is reached from the folder's own descriptor one directory after the other without following links, so
that a link put in between cannot lead elsewhere either.

Knows: files. Never knows: who asks. Everything that blocks runs on a few threads of its own.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import errno
import json
import os
import re
import stat
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.bindings import Response
from pillion.kinds.component import setting
from pillion.wire import gojson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pillion.kinds.bindings import Request
    from pillion.kinds.component import Context

T = TypeVar("T")
THREADS = 4
LARGEST = 1 << 30
"""Bytes of a file that `get` reads into memory."""
MOST_FILES = 100_000
"""Names in one answer of `list`."""
FORBIDDEN = ("/proc", "/sys", "/boot", "/var/run/secrets")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial")


class LocalStorage:
    """The file output binding."""

    operations = ("create", "get", "delete", "list")

    @dataclass(frozen=True)
    class Settings:
        root_path: str = setting(help="folder of the files; made if it is not there")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._where = f"component {context.name}"
        self._files = Files(settings.root_path)
        self._threads: ThreadPoolExecutor | None = None
        self._slots = asyncio.Semaphore(THREADS)

    async def open(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="localstorage")
        try:
            await self._run(self._files.open)
        except (OSError, ValueError) as error:
            raise ConfigError(f"rootPath: {error}", where=self._where) from error

    async def ping(self) -> None:
        await self._run(self._files.check)

    async def close(self) -> None:
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)
        self._files.close()

    async def invoke(self, request: Request) -> Response | None:
        name = request.metadata.get("fileName", "")
        if request.operation == "create":
            data = content(request.data)
            written = await self._run(lambda: self._files.write(name or str(uuid.uuid4()), data))
            return Response(gojson.dumps({"fileName": written}))
        if request.operation == "list":
            return Response(gojson.dumps(await self._run(lambda: self._files.names(name))))
        if not name:
            raise ComponentError("localstorage: fileName is missing in the request metadata")
        if request.operation == "get":
            return Response(await self._run(lambda: self._files.read(name)))
        await self._run(lambda: self._files.delete(name))
        return None

    async def _run(self, work: Callable[[], T]) -> T:
        """Run on a thread; as many calls as there are threads are handed over, the others wait. A caller that leaves
        does not free its thread: the slot is given back when the work is done.
        """
        await self._slots.acquire()
        if self._threads is None:
            self._slots.release()
            raise ComponentError("localstorage: the component is not open")
        loop = asyncio.get_running_loop()
        working = self._threads.submit(work)
        working.add_done_callback(lambda _: loop.call_soon_threadsafe(self._slots.release))
        return await asyncio.wrap_future(working)

    def __repr__(self) -> str:
        return f"<LocalStorage {self._files.root}>"


class Files:
    """The folder. Everything here blocks, and raises `ComponentError`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._fd = -1

    def open(self) -> None:
        """Make the folder if need be and hold on to it. Raises OSError, ValueError for a folder that is forbidden."""
        self.root = os.path.realpath(self.root)
        for bad in FORBIDDEN:
            for place in (bad, os.path.realpath(bad)):
                if self.root == place or self.root.startswith(place + "/"):
                    raise ValueError(f"{self.root} lies in {bad}, where no files are kept")
        Path(self.root).mkdir(mode=0o777, parents=True, exist_ok=True)
        self._fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def check(self) -> None:
        with _told("the folder"):
            os.fstat(self._fd)
            os.stat(self.root)

    def write(self, name: str, data: bytes) -> str:
        """Write a file, whole or not at all; return its name relative to the root."""
        *folders, last = parts = self._inside(name)
        with _told(name), self._folder(folders, make=True) as folder:
            _refuse_directory(folder, last)
            partial = f".{uuid.uuid4().hex}.partial"
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.replace(partial, last, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(partial, dir_fd=folder)
                raise
        return "/".join(parts)

    def read(self, name: str) -> bytes:
        *folders, last = self._inside(name)
        with _told(name), self._folder(folders) as folder:
            # O_NONBLOCK: a pipe without a writer would hold the thread for ever.
            handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            with os.fdopen(handle, "rb") as file:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode):
                    raise ComponentError(f"localstorage: {name!r} is not a file")
                if found.st_size > LARGEST:
                    raise ComponentError(f"localstorage: {name!r} has more than {LARGEST} bytes")
                return file.read(LARGEST)

    def delete(self, name: str) -> None:
        """Remove a file, or the link of that name."""
        *folders, last = self._inside(name, follow_last=False)
        with _told(name), self._folder(folders) as folder:
            os.unlink(last, dir_fd=folder)

    def names(self, name: str) -> list[str]:
        """Return the absolute paths of all files below a folder, or of one file; links are not followed."""
        parts = self._inside(name, top=True)
        start = "/".join((self.root, *parts))
        found: list[str] = []
        with _told(name or "."):
            if parts and not os.path.isdir(start):
                os.stat(start)
                return [start]
            with self._folder(parts) as folder:
                for where, folders, files, _ in os.fwalk(".", dir_fd=folder, follow_symlinks=False):
                    folders.sort()
                    prefix = os.path.normpath(os.path.join(start, where))
                    found += [f"{prefix}/{file}" for file in sorted(files) if not _PARTIAL.fullmatch(file)]
                    if len(found) > MOST_FILES:
                        raise ComponentError(f"localstorage: more than {MOST_FILES} files")
        return [path.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for path in found]

    def _inside(self, name: str, *, follow_last: bool = True, top: bool = False) -> list[str]:
        """Return the steps from the root to what `name` means, links resolved. Raises `ComponentError`."""
        if "\0" in name or len(name) > 4096:
            raise ComponentError(f"localstorage: {name[:100]!r} is not a file name")
        steps = os.path.normpath("/" + name).strip("/")  # the top's parent is the top
        if not steps and top:
            return []
        if not steps:
            raise ComponentError(f"localstorage: {name!r} is the folder itself")
        path = f"{self.root}/{steps}"
        with _told(name):
            if follow_last:
                real = os.path.realpath(path)
            else:
                folder, _, last = path.rpartition("/")
                real = f"{os.path.realpath(folder)}/{last}"
        if not real.startswith(self.root.rstrip("/") + "/"):
            raise ComponentError(f"localstorage: {name!r} leads out of the folder")
        return real[len(self.root.rstrip("/")) + 1 :].split("/")

    @contextlib.contextmanager
    def _folder(self, steps: list[str], *, make: bool = False) -> Iterator[int]:
        """Open a folder below the root, step by step and without following links."""
        current = os.dup(self._fd)
        try:
            for step in steps:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(step, 0o777, dir_fd=current)
                inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
                os.close(current)
                current = inner
            yield current
        finally:
            os.close(current)


def content(data: bytes) -> bytes:
    """Return what to write: a JSON string is unwrapped, and then base64 is decoded where it is base64 throughout."""
    if data[:1] == b'"':
        with contextlib.suppress(ValueError):
            text = json.loads(data)
            if isinstance(text, str):
                data = text.encode("utf-8", "replace")
    plain = data.replace(b"\r", b"").replace(b"\n", b"")
    if _BASE64.fullmatch(plain):
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(plain, validate=True)
    return data


def _refuse_directory(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise ComponentError(f"localstorage: {name!r} is a folder")


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn failures of the file system into errors that name the file as the caller did."""
    try:
        yield
    except FileNotFoundError as error:
        raise ComponentError(f"file not found: {name}") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ComponentError(f"localstorage: {name!r} leads over a symbolic link that changed") from error
        raise ComponentError(f"localstorage: {name!r}: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise ComponentError(f"localstorage: {name!r} is not a file name") from error
