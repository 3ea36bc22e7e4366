"""Servers on 127.0.0.1 that run during one test."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(*words: str | Path, ready: Callable[[], bool], end: int = signal.SIGTERM, **options: Any) -> Iterator[None]:
    """Starts a server, waits until it is ready, and ends it after the block by the signal `end`."""
    with tempfile.TemporaryFile("w+") as output:
        server = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, **options)
        try:
            for _ in range(300):
                if server.poll() is not None or ready():
                    break
                time.sleep(0.1)
            output.seek(0)
            assert server.poll() is None and ready(), output.read()
            yield
        finally:
            server.send_signal(end)
            server.wait(timeout=30)


def installed(pattern: str, package: str) -> Path:
    """The newest file of a Debian package."""
    found = sorted(Path("/").glob(pattern))
    assert found, f"apt-get install {package}"
    return found[-1]


@contextmanager
def sshd(folder: Path) -> Iterator[tuple[int, Path]]:
    """OpenSSH for the present user; gives its port and a private key that it accepts."""
    server = installed("usr/sbin/sshd", "openssh-server")
    port, key, host = free_port(), folder / "key", folder / "host"
    for name in (key, host):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name], check=True)
    shutil.copy(f"{key}.pub", folder / "authorized")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nStrictModes no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # which the system's service would make
    with running(server, "-D", "-e", "-f", folder / "config", ready=lambda: answers(port)):
        yield port, key


@contextmanager
def s3() -> Iterator[str]:
    """moto's server without buckets; gives its address."""
    port = free_port()
    words = ("moto_server", "--host", "127.0.0.1", "--port", str(port))
    with running(*words, ready=lambda: answers(port)):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def postgresql() -> Iterator[str]:
    """PostgreSQL with an empty database; gives its address for Optuna."""
    programs = installed("usr/lib/postgresql/*/bin/postgres", "postgresql").parent
    port = free_port()
    # it refuses to run as root, who alone may choose another user
    owner = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    user: dict[str, Any] = {"user": owner.pw_uid, "group": owner.pw_gid} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        data = Path(folder) / "data"
        make: tuple[str | Path, ...] = (programs / "initdb", "-D", data, "-U", "sweep", "-A", "trust")
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **user)
        words = (programs / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1")
        asks = (str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port))

        def ready() -> bool:
            return subprocess.run(asks, check=False).returncode == 0

        # SIGINT: without waiting for clients
        with running(*words, ready=ready, end=signal.SIGINT, cwd=folder, **user):
            yield f"postgresql+psycopg://sweep@127.0.0.1:{port}/postgres"
