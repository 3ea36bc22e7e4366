"""How Keras is imported."""

import sys
from contextlib import suppress

from common.backend import UNUSED, slow_imports_hidden

import pytest


def test_what_is_imported_already_stays_and_stand_ins_go_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    real = object()
    monkeypatch.setitem(sys.modules, "sklearn", real)
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    with suppress(KeyboardInterrupt), slow_imports_hidden():
        assert sys.modules["sklearn"] is real
        assert sys.modules["torch._dynamo"] is UNUSED["torch._dynamo"]
        raise KeyboardInterrupt
    assert sys.modules["sklearn"] is real
    assert "torch._dynamo" not in sys.modules
