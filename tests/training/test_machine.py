"""What training sets for its process, its device, and what its arithmetic is."""

import ctypes
import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path

from common.errors import InputError

import keras
import pytest
import torch

from conftest import ROOT
from training import machine

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


# --- device ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "gpu", "given"),
    [("cpu", False, "cpu"), ("cpu", True, "cpu"), ("auto", False, "cpu"), ("auto", True, "cuda"),
     ("cuda", True, "cuda")],
)  # fmt: skip
def test_choose_device(wanted: str, gpu: bool, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert machine.choose_device(wanted) == given


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"^train\.device must be .*; received cuda$"):
        machine.choose_device("cuda")


# --- threads and determinism ----------------------------------------------------------------------


@pytest.fixture
def calls_of_memory(settings_of_torch: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each call of `keep_freed_memory`, which this process could not take back."""
    calls: list[str] = []
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: calls.append("called"))
    return calls


def test_set_up_is_for_the_same_bits_and_no_wasted_memory(calls_of_memory: list[str]) -> None:
    torch.set_num_threads(2)
    torch.backends.cudnn.allow_tf32 = True
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    os.environ[CUBLAS] = ":16:8"
    machine.set_up("float32")
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert os.environ[CUBLAS] == ":4096:8"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert calls_of_memory == ["called"]


def test_a_thread_gets_the_settings_that_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    # as on a machine with a GPU
    monkeypatch.setattr("keras.src.backend.torch.core.DEFAULT_DEVICE", "meta")
    seen = []

    def compute() -> None:
        machine.prepare_thread("cpu")
        seen.append((torch.get_num_threads(), str(keras.ops.ones(1).device)))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert seen == [(1, "cpu")]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_a_number_of_the_environment_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAIN_THREADS", raising=False)
    assert machine.number("TRAIN_THREADS", 4) == 4
    monkeypatch.setenv("TRAIN_THREADS", "")  # as a shell sets a variable that is empty
    assert machine.number("TRAIN_THREADS", 4) == 4
    monkeypatch.setenv("TRAIN_THREADS", "7")
    assert machine.number("TRAIN_THREADS", 4) == 7


@pytest.mark.parametrize("text", ["0", "x", "-1", "1.5", " 2", "²", "00"])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TRAIN_THREADS", text)
    with pytest.raises(InputError, match=f"^TRAIN_THREADS must be a number from 1; received {text}$"):
        machine.number("TRAIN_THREADS", 4)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_cores_are_those_that_this_process_may_use() -> None:
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cores)})
    try:
        assert machine.cores() == 1
    finally:
        os.sched_setaffinity(0, all_cores)
    assert machine.cores() == len(all_cores)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("libc", [("", ""), ("musl", "1.2.5")])
def test_other_c_libraries_are_left_as_they_are(libc: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object) -> None:
        raise AssertionError("another C library has no such mallopt")

    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(ctypes, "CDLL", load)
    machine.keep_freed_memory()


PAGE_FAULTS = """
import resource
import torch
from training import machine

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):  # each frees at its end what it holds: 3 x 64 MiB
        held = [torch.empty(64, 2**20, dtype=torch.uint8).fill_(1) for _ in range(3)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
machine.keep_freed_memory()
for _ in range(3):
    faults()  # until what is free has grown together, so that aligned tensors fit into it
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    """In a process of its own, since this cannot be taken back."""
    output = subprocess.check_output([sys.executable, "-c", PAGE_FAULTS], cwd=ROOT / "src", text=True)
    by_itself, kept = (int(line) for line in output.split())
    assert by_itself >= 15 * 32  # pages of 2 MiB at most: otherwise this would prove nothing
    assert kept < by_itself / 10


# --- arithmetic -----------------------------------------------------------------------------------

KNOWN = f"""
import os
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from common.backend import keras
from training import machine
assert {{"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"}} == set(machine.PORTABLE) <= os.environ.keys()
if sys.argv[1] == "bfloat16":
    machine.set_up("bfloat16")
elif sys.argv[1] != "nothing":
    del os.environ[sys.argv[1]]
print(machine.is_portable(), machine.arithmetic("float32", "cpu"), machine.processor(), sep="|")
"""
with_avx512 = pytest.mark.skipif(
    "avx512f" not in machine.vector_instructions(), reason="needs AVX-512: other processors compute the same without it"
)


@pytest.mark.skipif("avx2" not in machine.vector_instructions(), reason="needs AVX2")
@pytest.mark.parametrize(
    ("without", "portable"),
    [
        ("nothing", True),
        ("MKL_CBWR", False),
        pytest.param("ATEN_CPU_CAPABILITY", False, marks=with_avx512),
        pytest.param("ONEDNN_MAX_CPU_ISA", False, marks=with_avx512),
        ("bfloat16", False),
    ],
)
def test_arithmetic_is_portable_with_all_three_settings_and_with_no_two(
    tmp_path: Path, without: str, portable: bool
) -> None:
    """In an interpreter that has computed nothing, as forks' server has: the libraries read the settings once."""
    (tmp_path / "known.py").write_text(KNOWN)
    words = [sys.executable, str(tmp_path / "known.py"), without]
    found = subprocess.check_output(words, text=True).strip().split("|")
    assert found[0] == str(portable)
    assert found[1] == "portable" if portable else found[1].startswith(f"float32 on {found[2]} ")


def test_other_roots_are_another_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "is_portable", lambda: True)
    here = machine.arithmetic("float32", "cpu", exact_roots=False)
    assert re.fullmatch(r"portable but for roots, [0-9a-f]{16}", here)
    assert machine.arithmetic("float32", "cpu", exact_roots=False) == here
    monkeypatch.setattr(torch.Tensor, "pow", lambda values, _: values.sqrt() + 1e-7)
    assert machine.arithmetic("float32", "cpu", exact_roots=False) != here
    assert machine.arithmetic("float32", "cpu") == "portable"


def test_the_known_step_leaves_everything_as_it_was() -> None:
    torch.set_num_threads(2)
    with torch.no_grad():
        state = torch.get_rng_state()
        assert machine.is_portable() == (machine.arithmetic("float32", "cpu") == "portable")
        assert not torch.is_grad_enabled()
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("precision", "device", "portable", "name"),
    [
        ("float32", "cpu", True, "portable"),
        ("float32", "cpu", False, "float32 on some processor"),
        ("bfloat16", "cpu", True, "bfloat16 on some processor"),
        ("float32", "cuda", True, "float32 on some GPU"),
        ("bfloat16", "cuda", True, "bfloat16 on some GPU"),
    ],
)
def test_arithmetic_that_is_not_portable_names_the_machine(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, portable: bool, name: str
) -> None:
    monkeypatch.setattr(machine, "is_portable", lambda: portable)
    monkeypatch.setattr(machine, "processor", lambda: "some processor")
    monkeypatch.setattr(machine, "vector_instructions", list)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some GPU")
    assert machine.arithmetic(precision, device) == name


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 amx_bf16 sse4_2 ibpb\nmodel name\t: AMD EPYC\nflags\t\t: avx2 fma",
         "AMD EPYC amx_bf16 avx2 fma sse4_2"),
        ("Features\t: fp asimd sve2 bf16 crc32\n", "some name asimd bf16 sve2"),
        (None, "some name"),
    ],
    ids=["x86-64", "ARM", "not Linux"],
)  # fmt: skip
def test_processors_of_one_name_differ_by_their_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, name: str
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine.platform, "processor", str)
    monkeypatch.setattr(machine.platform, "machine", lambda: "some name")
    if cpuinfo:
        machine.CPUINFO.write_text(cpuinfo)
    assert machine.arithmetic("bfloat16", "cpu") == f"bfloat16 on {name}"


@pytest.mark.parametrize(("precision", "stay"), [("float32", True), ("bfloat16", False)])
def test_bfloat16_has_all_instructions_of_the_processor(
    calls_of_memory: list[str], monkeypatch: pytest.MonkeyPatch, precision: str, stay: bool
) -> None:
    for name in machine.PORTABLE:
        monkeypatch.setenv(name, "something")
    machine.set_up(precision)
    assert [name in os.environ for name in machine.PORTABLE] == [stay] * 3
