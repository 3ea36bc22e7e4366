"""How Keras is imported."""

import sys

from common.backend import UNUSED, slow_imports_hidden

import pytest


def test_what_is_imported_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    real = object()
    monkeypatch.setitem(sys.modules, "sklearn", real)
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    with slow_imports_hidden():
        assert sys.modules["sklearn"] is real
        assert sys.modules["torch._dynamo"] is UNUSED["torch._dynamo"]
    assert sys.modules["sklearn"] is real
    assert "torch._dynamo" not in sys.modules
