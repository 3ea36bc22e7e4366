"""What training sets for its process, and how it chooses device and precision."""

import ctypes
import os
import platform
import subprocess
import sys

from common.errors import InputError

import pytest
import torch
from torch.nn import functional as F

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


@pytest.mark.parametrize("threads", [1, 3])
def test_set_up_is_for_the_same_bits_and_no_wasted_memory(calls_of_memory: list[str], threads: int) -> None:
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    machine.set_up(threads)
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert calls_of_memory == ["called"]


@pytest.mark.parametrize(("before", "after"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_the_workspace_of_cublas_is_set_unless_the_user_has_set_it(
    calls_of_memory: list[str], before: str | None, after: str
) -> None:
    os.environ.pop(CUBLAS, None)  # settings_of_torch puts it back
    if before is not None:
        os.environ[CUBLAS] = before
    machine.set_up(torch.get_num_threads())
    assert os.environ[CUBLAS] == after


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


# --- bfloat16 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "device", "speed", "chosen"),
    [
        ("auto", "cpu", 1.01, "bfloat16"),
        ("auto", "cpu", 1.0, "float32"),
        ("auto", "cuda", 0.5, "bfloat16"),
        ("bfloat16", "cpu", 0.5, "bfloat16"),
        ("float32", "cpu", 2.0, "float32"),
        ("float32", "cuda", 2.0, "float32"),
    ],
)
def test_auto_takes_the_faster_precision(
    monkeypatch: pytest.MonkeyPatch, wanted: str, device: str, speed: float, chosen: str
) -> None:
    monkeypatch.setattr(machine, "speed_of_bfloat16", lambda: speed)
    assert machine.choose_precision(wanted, device) == chosen


@pytest.mark.parametrize(
    ("setting", "device", "speed", "lines"),
    [
        ("bfloat16", "cpu", 0.999, 1),
        ("bfloat16", "cpu", 1.0, 0),
        ("bfloat16", "cuda", 0.5, 0),
        ("float32", "cpu", 0.5, 0),
        ("auto", "cpu", 0.5, 0),
    ],
)
def test_bfloat16_that_is_slower_here_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    setting: str,
    device: str,
    speed: float,
    lines: int,
) -> None:
    monkeypatch.setattr(machine, "speed_of_bfloat16", lambda: speed)
    machine.choose_precision(setting, device)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == lines
    assert all("train.precision" in line for line in said)


def test_speed_of_bfloat16_is_the_time_of_float32_over_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    calls = {torch.float32: 0, torch.bfloat16: 0}

    def convolution(images: torch.Tensor, kernel: torch.Tensor, padding: int) -> torch.Tensor:
        nonlocal clock
        assert images.dtype == kernel.dtype
        calls[images.dtype] += 1
        # float32 takes 8 s, bfloat16 2 s, and the first time 100 s more
        clock += {torch.float32: 8, torch.bfloat16: 2}[images.dtype]
        clock += 100 if calls[images.dtype] == 1 else 0
        return images

    monkeypatch.setattr(F, "conv2d", convolution)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock)
    assert machine.speed_of_bfloat16() == 4


def test_speed_of_bfloat16_is_measured_on_this_machine() -> None:
    assert 0.001 < machine.speed_of_bfloat16() < 1000
