"""The locked requirements: one version everywhere, and a hash for whatever is installed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def locked(path: str) -> dict[str, tuple[str, int]]:
    """By name and marker: the version and the number of hashes."""
    text = (ROOT / path).read_text("utf-8").replace("\\\n", "")
    entries = re.findall(r"^([\w-]+)==(\S+)( ; [^-\n]*?)?((?: +--hash=sha256:[0-9a-f]{64})*) *$", text, re.MULTILINE)
    assert len(entries) == len(text.splitlines()), f"{path} has lines of another form"
    return {f"{name}{marker}": (version, hashes.count("--hash")) for name, version, marker, hashes in entries}


@pytest.mark.parametrize("group", ["run", "demo", "site", "dev"])
def test_the_lock_of_a_group_has_its_versions_with_a_hash_for_each(group: str) -> None:
    versions = locked("requirements.txt" if group == "run" else f"requirements-{group}.txt")
    versions.pop("torch", None)
    lock = locked(f"locks/{group}.txt")
    assert {name: version for name, (version, _) in lock.items()} == {
        name: version for name, (version, _) in versions.items()
    }
    assert all(hashes for _, hashes in lock.values())


def test_pytorch_is_locked_to_the_same_version_in_its_build_for_processors() -> None:
    version, _ = locked("requirements.txt")["torch"]
    lock = locked("locks/torch.txt")
    assert [found for found, _ in lock.values()] == [version, f"{version}+cpu"]
    assert all(hashes >= 4 for _, hashes in lock.values())  # Python 3.11 to 3.14


def test_pytorch_with_cuda_is_locked_beside_the_same_versions() -> None:
    known, lock = locked("locks/run.txt"), locked("locks/cuda.txt")
    version, hashes = lock.pop("torch")
    assert version == locked("requirements.txt")["torch"][0]
    assert hashes >= 4
    assert all(hashes for _, hashes in lock.values())
    assert {name: found for name, (found, _) in lock.items() if name in known} == {
        name: found for name, (found, _) in known.items() if name in lock
    }


def test_every_installation_of_make_checks_hashes() -> None:
    words = ["make", "--dry-run", "--always-make", ".venv/demo", ".venv/site", ".venv/dev"]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = shown.replace("\\\n", "")
    assert shown.count("pip install") == shown.count("--require-hashes") == 7


@pytest.mark.parametrize(
    ("printed", "status", "environment", "shown", "fails"),
    [
        ("No known vulnerabilities found", 0, {}, "No known vulnerabilities found", False),
        ("keras 3.0 CVE-2026-1", 1, {}, "keras 3.0 CVE-2026-1", True),
        ("requests.exceptions.ConnectionError: no", 1, {}, "skipped: OSV cannot be reached", False),
        ("requests.exceptions.ProxyError: no", 1, {}, "skipped: OSV cannot be reached", False),
        ("ERROR: Could not connect to OSV", 1, {}, "skipped: OSV cannot be reached", False),
        ("requests.exceptions.ConnectionError: no", 1, {"GITHUB_ACTIONS": "true"}, "requests", True),
        ("error: no such option", 2, {}, "error: no such option", True),
    ],
)
def test_an_audit_fails_by_whatever_it_finds_and_is_skipped_offline_alone(
    tmp_path: Path, printed: str, status: int, environment: dict[str, str], shown: str, fails: bool
) -> None:
    script = tmp_path / ".venv/bin/pip-audit"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!/bin/sh\necho '{printed}' >&2\nexit {status}\n")
    script.chmod(0o755)
    words = ["make", "--silent", "--file", str(ROOT / "Makefile"), "--assume-old", ".venv/dev", "audit"]
    (tmp_path / ".venv/dev").touch()
    kept = {name: value for name, value in os.environ.items() if name != "GITHUB_ACTIONS"} | environment
    result = subprocess.run(words, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == fails
    assert result.stdout.startswith(shown)
