"""Runs `python [-E] SCRIPT …` and `dvc …` in forks of one process that has imported what is slow to import.

Interpreters that import torch and keras took four fifths of the tests' time. Tests that need no fresh
interpreter put the folder that `start` returns first in PATH. Its `python` and `dvc` hand arguments,
environment, working directory and standard streams to the server, and end as the fork there ends; they pass
SIGINT and SIGTERM on to the fork and to all that it started. They run the real program where a fork could
not do the same: for another option of Python, as `-c`, or for another value of a variable that Python or a
library reads only when it starts. Limits (`resource`) and umask are the server's, and so are the instruction
sets that ATen chose at its first operation. A script of src/ seals a fork without starting once more
(src/common/seal.py).

All forks have the server's hash seed and much of its memory layout. So tests of bytes that must not
depend on the process use the real programs. A test that kills processes must kill the forks themselves, which
are in other process groups than the programs that wait for them (`kill_all_of` in conftest.py).
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
import warnings
import weakref
from pathlib import Path
from typing import Any, NoReturn

SLOW_IMPORTS = (
    "dulwich.porcelain", "dvc.cli.parser", "dvc.repo.experiments.queue.celery", "dvc.repo.experiments.run",
    "dvc.repo.reproduce", "dvc.scm", "dvclive", "filelock", "hydra", "keras", "matplotlib.pyplot", "onnx",
    "onnxruntime", "onnxscript", "optuna", "pandas", "pydantic.main", "ruamel.yaml", "scipy.stats",
    "scmrepo.git", "sklearn.discriminant_analysis", "sklearn.metrics", "sklearn.model_selection", "torch.export",
    "torch.onnx", "torch.utils.data",
)  # fmt: skip
READ_AT_START = (
    "ATEN_", "GOMP_", "KERAS_", "LANG", "LC_", "MKL_", "NPY_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON",
)  # fmt: skip
NOT_READ_AT_START = ("PYTHON", "PYTHONUNBUFFERED")  # make's own; one that forks heed
PR_SET_CHILD_SUBREAPER = 36  # option of prctl(2): orphans become children of this process
CLIENT = """#!{sys.executable} -IS
import json, os, signal, socket, sys
words = [{dvc!r}] * sys.argv[0].endswith("/dvc") + sys.argv[1:]
read = {{key: value for key, value in os.environ.items() if key.startswith({READ_AT_START!r})}}
for key in {NOT_READ_AT_START!r}:
    read.pop(key, None)
script = words[words[:1] == ["-EB"]:]
if read != {read!r} or not script or not script[0].endswith((".py", "/dvc")):
    os.execv({sys.executable!r}, [{sys.executable!r}, *words])
passed_on = {{signal.SIGINT, signal.SIGTERM}}
signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)  # until there is a fork to pass them on to
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([script, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
answers = server.makefile()
group = int(answers.readline())
for number in passed_on:
    signal.signal(number, lambda number, frame: os.killpg(group, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if status != -signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def read_at_start() -> dict[str, str]:
    """The variables of this process that a fork could not heed."""
    names = [name for name in os.environ if name.startswith(READ_AT_START) and name not in NOT_READ_AT_START]
    return {name: os.environ[name] for name in names}


def start() -> tuple[subprocess.Popen, Path]:
    """The server, which ends when its standard input is closed, and the folder of its programs."""
    folder = Path(tempfile.mkdtemp())
    address = str(folder / "socket")
    read = read_at_start()
    dvc = str(Path(sys.executable).with_name("dvc"))
    for name in ("python", "dvc"):
        (folder / name).write_text(CLIENT.format_map(globals() | locals()))
        (folder / name).chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # no file: forks that write into a pipe could not reconfigure it
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the tests
            env=os.environ | {"MPLBACKEND": "agg", "MPL_IGNORE_SYSTEM_FONTS": "1"},
        )
    return server, folder


def serve(listener: socket.socket) -> None:
    """Answers until standard input is closed. The slow imports wait for the first request."""
    sys.executable = str(Path(listener.getsockname()).with_name("python"))  # for the forks
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # of what forks leave: a container's init may take seconds
    ended, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    clients: dict[socket.socket, int] = {}  # with the process groups of their forks
    while True:
        sources: list[Any] = [listener, 0, ended, *clients]
        ready, _, _ = select.select(sources, [], [])
        if 0 in ready:
            return
        if ended in ready:
            os.read(ended, 4096)
            tell_clients(clients)
        for killed in [client for client in clients if client in ready]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(clients.pop(killed), signal.SIGKILL)
            killed.close()
        if listener in ready:
            answer(listener, clients)


def tell_clients(clients: dict[socket.socket, int]) -> None:
    """Takes leave of all processes that have ended, and tells the clients whose forks they are."""
    waiting = {group: client for client, group in clients.items()}
    with contextlib.suppress(ChildProcessError):  # there are no others
        while (process := os.waitpid(-1, os.WNOHANG))[0]:
            if client := waiting.get(process[0]):
                with contextlib.suppress(BrokenPipeError):  # it was killed
                    client.sendall(b"%d\n" % os.waitstatus_to_exitcode(process[1]))
                del clients[client]
                client.close()


def export_a_network() -> None:
    """The first export to ONNX imports and computes what later ones need too, above all the signatures of operators.

    It must leave no thread, which forks would not have.
    """
    torch, tqdm = importlib.import_module("torch"), importlib.import_module("tqdm").tqdm
    libraries = importlib.import_module("torch.onnx._internal._lazy_import").onnxscript_apis
    libraries.get_torchlib_ops = functools.cache(libraries.get_torchlib_ops)
    interval, tqdm.monitor_interval = tqdm.monitor_interval, 0
    logger = logging.getLogger("torch.onnx")
    logger.setLevel(logging.ERROR)
    layers = torch.nn
    network = layers.Sequential(
        layers.Conv2d(1, 2, 3, padding=1), layers.BatchNorm2d(2), layers.ReLU(), layers.MaxPool2d(2),
        layers.Flatten(), layers.Linear(32, 2), layers.Softmax(-1),
    )  # fmt: skip
    shapes = ({0: torch.export.Dim("images")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(network.eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes, verbose=False)
    logger.setLevel(logging.NOTSET)
    tqdm.monitor_interval = interval


def answer(listener: socket.socket, clients: dict[socket.socket, int]) -> None:
    """Runs a request in a fork, and tells the client the fork's process group."""
    if "keras" not in sys.modules:
        for name in SLOW_IMPORTS:
            importlib.import_module(name)
        export_a_network()
        for finalizer in [*weakref.finalize._registry]:  # type: ignore[attr-defined]
            finalizer.atexit = False  # torch's take each fork as long as the fork itself
    client, _ = listener.accept()
    length, streams, _, _ = socket.recv_fds(client, 8, 3)
    request = client.makefile("rb").read(int.from_bytes(length, "big"))
    if not request:  # the client was killed
        return
    gc.freeze()  # a collection in a fork would copy every page that it looks at
    if (child := os.fork()) == 0:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in (listener, client, *clients):
            other.close()
        run(streams, *json.loads(request))
    with contextlib.suppress(PermissionError):  # it has done so, and runs another program
        os.setpgid(child, child)
    for stream in streams:
        os.close(stream)
    clients[client] = child
    with contextlib.suppress(BrokenPipeError):  # the client was killed, as select says next
        client.sendall(b"%d\n" % child)


def run(streams: list[int], words: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """Goes on as if this process had been started as `python WORDS`."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    unbuffered = os.isatty(1) or bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(line_buffering=unbuffered)  # type: ignore[union-attr]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment | {"SEALED_PROCESS": str(os.getpid())})
    importlib.import_module("numpy").random.seed()  # else all forks would draw the same numbers
    script = Path(words[0]).absolute()
    sys.argv, sys.path[0] = words, str(script.resolve().parent)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = str(script)
    try:
        exec(compile(script.read_bytes(), script, "exec"), vars(main))  # noqa: S102
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and end.code is not status:
            print(end.code, file=sys.stderr)
    except BaseException as error:
        trace = error.__traceback__ and error.__traceback__.tb_next  # without this function
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if sys.stdout is not None:  # as errors.py leaves it
        sys.stdout.flush()
    else:
        with contextlib.suppress(OSError):
            sys.__stdout__.flush()  # type: ignore[union-attr]
    sys.stderr.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
