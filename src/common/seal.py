"""Seals scripts: no environment, user configuration, locale or search path of a machine reaches an output.

(But for LD_LIBRARY_PATH, which some interpreters need: it chooses the C library, as the system does.) A script of src/
starts once more in its own process, with an environment that holds what `ALLOWED` names and fixed values: so what the C
library and the interpreter read when they start is gone too. tools/ and tests keep their environment, and get the fixed
values for libraries alone; tools/ start once more where the locale is not UTF-8.
"""

import os
import sys

SOURCE = os.path.realpath(os.path.join(__file__, "../.."))
SEALED = "SEALED_PROCESS"  # holds the id of the process that has started once more

ALLOWED = {
    "PATH", "TERM", "TMPDIR", "LD_LIBRARY_PATH", "DEBUG",
    # fetch: the folder of the dataset, and the way to the network
    "FASHION_MNIST_DIR", "SSL_CERT_DIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    # train: who computes what, and what torchrun tells the processes that it starts
    "CHECKPOINT_DIR", "TRAIN_THREADS", "TRAIN_PROCESSES", "TRAINING_ERRORS", "CUDA_VISIBLE_DEVICES",
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME",
    "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    # the stage or experiment that dvc runs, for our errors
    "DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME",
}  # fmt: skip
ALLOWED_PREFIXES = ("PET_", "TORCHELASTIC_", "GLOO_", "NCCL_", "TORCH_NCCL_")

# With AVX-512 or more threads, NumPy's float64 exp, log and power and OpenBLAS' matrix products have other
# last bits (NumPy 2.4.6, OpenBLAS 0.3.31, SciPy's too). Both read the variables when they are loaded, and
# a processor without these instructions takes them without a warning.
LIBRARIES = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V4,AVX512_ICL,AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONIOENCODING": "utf-8",  # of the programs that tools/ starts, as PYTHONUTF8
    "PYTHONUTF8": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # for which ONNX Runtime keeps an id of the device below HOME
    "TORCH_CPP_LOG_LEVEL": "FATAL",  # what ends a process is an exception too; a stack beside it hides our line
}
INTERPRETER = {
    "HOME": "/proc/nobody",  # where libraries look for a user's configuration; nobody can make a folder there
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONNOUSERSITE": "1",
    "PYTHONUNBUFFERED": "1",  # a line shows when it is printed, in a log too
    "TZ": "UTC0",
}


def environment() -> dict[str, str]:
    """The environment of a sealed script, made from that of this process."""
    kept = {key: os.environ[key] for key in os.environ if key in ALLOWED or key.startswith(ALLOWED_PREFIXES)}
    return kept | LIBRARIES | INTERPRETER


def seal() -> None:
    """Seals this process if it runs a script of src/.

    It comes back in a process that has started once more; in a sealed process libraries come before src/
    in the search path.
    """
    os.environ.update(LIBRARIES)
    script = getattr(sys.modules["__main__"], "__file__", None)
    folder = os.path.dirname(os.path.realpath(script or ""))
    if folder != SOURCE:
        if sys.getfilesystemencoding() != "utf-8" and os.path.dirname(folder) == os.path.dirname(SOURCE):
            os.execv(sys.executable, [sys.executable, *sys.argv])  # with PYTHONUTF8, for names of files
        return
    sealed = environment()
    if os.environ.get(SEALED) != str(os.getpid()):
        os.execve(sys.executable, [sys.executable, *sys.argv], sealed | {SEALED: str(os.getpid())})
    os.environ.clear()
    os.environ.update(sealed)
    sys.path = [*(folder for folder in sys.path if os.path.realpath(folder) != SOURCE), SOURCE]
