"""What is noted beside a measured time."""

from pathlib import Path

import pytest

import conditions

ZEN_5 = "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"


@pytest.mark.parametrize(
    ("cpuinfo", "noted"),
    [(ZEN_5 * 2, ", family 26, model 2"), ("CPU architecture: 8\nCPU part\t: 0xd4f\n", ""), (None, "")],
    ids=["x86-64", "ARM", "not Linux"],
)
def test_generations_of_one_name_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, noted: str
) -> None:
    monkeypatch.setattr(conditions, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(conditions, "processor", lambda: "AMD EPYC")
    if cpuinfo:
        conditions.CPUINFO.write_text(cpuinfo)
    assert conditions.machine()["processor"] == "AMD EPYC" + noted
