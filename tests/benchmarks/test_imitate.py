"""benchmarks/imitate.c: a program that asks which processor it runs on gets the answer of another one."""

import platform
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks/imitate.c"
PROGRAM = """
#include <cpuid.h>
#include <stdio.h>
int main(int count, char **words) {
    unsigned r[4];
    (void)words;
    __cpuid(0, r[0], r[1], r[2], r[3]);
    printf("%.4s%.4s%.4s", (char *)&r[1], (char *)&r[3], (char *)&r[2]);
    __cpuid(1, r[0], r[1], r[2], r[3]);
    printf(" %x %d\\n", r[0] >> 4, __builtin_cpu_supports("avx512f") != 0);
    if (count > 1)
        __builtin_trap();
    return 0;
}
"""

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not (shutil.which("cc") and shutil.which("objdump")),
    reason="needs an x86-64 processor, a C compiler and objdump",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imitate")
    (folder / "program.c").write_text(PROGRAM)
    subprocess.run(["cc", "-O2", "-o", folder / "program", folder / "program.c"], check=True)
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", folder / "imitate.so", SOURCE],
        check=True,
    )
    return folder / "program"


def imitating(name: str, program: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {"LD_AUDIT": str(program.with_name("imitate.so")), "IMITATE": name, "TMPDIR": str(program.parent)}
    environment["PATH"] = "/usr/bin:/bin"
    return subprocess.run([program, *options], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "flags", "answer"),
    [
        ("haswell", set(), "GenuineIntel 306c 0"),
        ("zen2", set(), "AuthenticAMD 830f1 0"),
        ("alder", {"avx_vnni", "gfni", "vaes", "vpclmulqdq"}, "GenuineIntel 9067 0"),
        ("skx", {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"}, "GenuineIntel 5065 1"),
    ],
)
def test_gives_the_answers_of_a_processor_whose_instructions_are_there(
    name: str, flags: set[str], answer: str, program: Path
) -> None:
    result = imitating(name, program)
    if flags <= set(Path("/proc/cpuinfo").read_text().split()):
        assert (result.stdout.strip(), result.stderr, result.returncode) == (answer, "", 0)
    else:
        rule = "imitate: this processor must have the vector instructions of the imitated one"
        assert (result.stdout, result.stderr, result.returncode) == ("", f"{rule}; received {name}\n", 1)


def test_leaves_an_invalid_instruction_of_the_program_as_it_is(program: Path) -> None:
    assert imitating("haswell", program, "trap").returncode == -signal.SIGILL


def test_refuses_an_unknown_processor(program: Path) -> None:
    result = imitating("i486", program)
    assert result.returncode == 1
    assert result.stderr == "imitate: IMITATE must be a processor of imitate.c; received i486\n"
