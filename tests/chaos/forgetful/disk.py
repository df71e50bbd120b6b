"""A data directory on the forgetful file system: mounted, made to fail, and unmounted again."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import msgspec

from tests.chaos.errors import CommandFailedError, NotPossibleError
from tests.chaos.forgetful.control import PATHS, Control
from tests.chaos.forgetful.model import Store, lose_power
from tests.chaos.system import call, need_root

MOUNT_SECONDS = 10.0


class ForgetfulDisk:
    """The file system over one data directory. The node must be down for all but `control`."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._live = data.with_name(data.name + ".live")
        self._store = data.with_name(data.name + ".durable")
        self._control = data.with_name(data.name + ".control")
        self._server: subprocess.Popen[bytes] | None = None

    @staticmethod
    def check() -> None:
        """Raise `NotPossibleError` where it cannot be had."""
        need_root("fusermount3", "umount")
        if not Path("/dev/fuse").exists():
            raise NotPossibleError("needs /dev/fuse")
        try:
            importlib.import_module("mfusepy")
        except (ImportError, OSError) as error:
            raise NotPossibleError(f"needs the package mfusepy and libfuse (Debian's package fuse3): {error}") from error

    @property
    def mounted(self) -> bool:
        """Whether the file system is mounted."""
        return os.path.ismount(self._data)

    def insert(self) -> None:
        """Mount the disk. Everything that the data directory holds is durable."""
        self._data.rename(self._live)
        self._data.mkdir(mode=0o700)
        self._mount()

    def control(self, control: Control | None) -> None:
        """From the next sync on this goes wrong with syncs, or nothing."""
        if control is None:
            self._control.unlink(missing_ok=True)
            return
        draft = self._control.with_suffix(".tmp")
        draft.write_bytes(msgspec.json.encode(control))
        draft.replace(self._control)

    def lose_power(self, random: Random | None) -> None:
        """Remove what was not synced, or with `random` a random part of it. The node's processes must have been killed
        before.
        """
        self._unmount()
        store = Store(self._store, self._live)
        paths = msgspec.json.decode((self._store / PATHS).read_bytes(), type=dict[int, str])
        lose_power(store, random, {number: Path(path) for number, path in paths.items()})
        self._mount()

    def remove(self) -> None:
        """Unmount it; the data directory holds what it held at the end. Does what is left to do, whatever was done."""
        self.control(None)
        self._unmount()
        if self._live.exists():
            self._data.rmdir()
            self._live.rename(self._data)
        shutil.rmtree(self._store, ignore_errors=True)

    def _mount(self) -> None:
        log = self._data.with_name(self._data.name + ".fuse.log").open("ab")
        paths = [self._data, self._live, self._store, self._control]
        argv = [sys.executable, "-m", "tests.chaos.forgetful.filesystem", *map(str, paths)]
        with log:
            self._server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + MOUNT_SECONDS
        while not os.path.ismount(self._data):
            if self._server.poll() is not None or time.monotonic() > end:
                raise CommandFailedError(f"the file system did not mount on {self._data}")
            time.sleep(0.01)

    def _unmount(self) -> None:
        end = time.monotonic() + MOUNT_SECONDS
        while self.mounted:
            try:
                call("umount", str(self._data))
            except CommandFailedError:  # a process that was killed a moment ago may still hold a file
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        if self._server is not None:
            try:
                self._server.wait(MOUNT_SECONDS)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None
