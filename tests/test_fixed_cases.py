"""The property tests of a usual run draw the same cases each time."""

from __future__ import annotations

import sys
from importlib import import_module

from hypothesis import given, strategies as st


def test_what_is_drawn_depends_neither_on_chance_nor_on_what_was_imported_before(tmp_path, monkeypatch):
    drawn = []

    @given(st.lists(st.integers()))
    def draw(numbers):
        drawn.extend(numbers)

    draw()
    first = drawn.copy()
    constants = "\n".join(f"N{number} = {number}" for number in range(10_000, 10_050))
    tmp_path.joinpath("many_constants.py").write_text(constants, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import_module("many_constants")
    drawn.clear()
    draw()

    assert first
    assert drawn == first
    del sys.modules["many_constants"]
