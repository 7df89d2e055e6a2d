"""A real Postgres on the loopback address, of Debian's package ``postgresql``."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
POSTGRES = shutil.which("pg_ctl") or next((str(folder / "pg_ctl") for folder in reversed(_DEBIAN)), None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Postgres:
    """A database cluster in a temporary folder; the password of its user ``prefect`` is needed by nobody."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        # Postgres refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        shutil.chown(folder, self._user)
        self._pg_ctl("initdb", "--options", "--username prefect --auth trust --encoding UTF8")
        self.start()

    @property
    def url(self) -> str:
        """The address as Prefect takes it."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder}"
        self._pg_ctl("start", "--wait", "--log", str(self.folder / "log"), "--options", options)

    def kill(self) -> None:
        """End it at once, as a power loss does: the next start recovers from its write-ahead log."""
        self._pg_ctl("stop", "--mode", "immediate")

    def _pg_ctl(self, *arguments: str) -> None:
        assert POSTGRES is not None
        command = [POSTGRES, "--pgdata", str(self.folder / "data"), "--silent", *arguments]
        subprocess.run(command, user=self._user, cwd=self.folder, check=True, timeout=120)


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Start one and end it, with its folder."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        database = Postgres(Path(folder))
        try:
            yield database
        finally:
            database.kill()
