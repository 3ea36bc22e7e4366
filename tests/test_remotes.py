"""Data and models shared through a remote: pushed from one clone, pulled into another, nothing to run there."""

import getpass
from pathlib import Path

import boto3
import pytest

import servers
from conftest import Clone

OUTPUTS = ("data/raw", "data/prepared", "data/split", "models", "plots")


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for name in OUTPUTS for path in (folder / name).rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def share(reproduced: Clone, folder: Path, settings: dict[str, str]) -> None:
    """Pushes from a copy of what was reproduced, and pulls in a fresh clone of it.

    Args:
        settings: of the remote, as in .dvc/config.local.
    """
    here = reproduced.copied(folder / "here")
    here.git("clone", "--quiet", str(here.folder), str(folder / "there"))
    there = Clone(folder / "there")
    lines = [f"    {key} = {value}\n" for key, value in settings.items()]
    local = "[core]\n    remote = shared\n['remote \"shared\"']\n" + "".join(lines)
    for clone in (here, there):
        (clone.folder / ".dvc/config.local").write_text(local)
    assert "files pushed" in here.dvc("push")
    assert not (there.folder / "models/model.keras").exists()
    there.dvc("pull")
    assert contents(there.folder) == contents(reproduced.folder)
    said = there.dvc("repro")
    assert "up to date" in said
    assert "Running stage" not in said
    assert there.git("status", "--porcelain") == ""


@pytest.mark.slow
def test_ssh(reproduced: Clone, tmp_path: Path) -> None:
    with servers.sshd(tmp_path) as (port, key):
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/store"
        share(reproduced, tmp_path, {"url": url, "keyfile": str(key)})


@pytest.mark.slow
def test_s3(reproduced: Clone, tmp_path: Path) -> None:
    with servers.s3() as address:
        secrets = {"access_key_id": "name", "secret_access_key": "word"}
        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            **{f"aws_{key}": value for key, value in secrets.items()},
        )
        client.create_bucket(Bucket="models")
        settings = {"url": "s3://models/fashion", "endpointurl": address, "region": "us-east-1"}
        share(reproduced, tmp_path, settings | secrets)
