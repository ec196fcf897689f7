from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.text import printable

ANY = st.text(st.characters(), max_size=30)  # surrogates too, as file names that are no UTF-8 have


@given(ANY)
def test_what_is_shown_moves_no_cursor_and_can_be_written(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and printable(shown) == shown
    shown.encode("utf-8")


@given(ANY)
def test_readable_names_stay_as_they_are(text: str) -> None:
    if text.isprintable():
        assert printable(text) == text
    assert [c for c in text if c.isprintable()] == [c for c in text if c in printable(c)]


def test_what_acts_on_a_screen_is_written_out() -> None:
    assert printable("a\x1b[31mb\n") == r"a\x1b[31mb\n"
    assert printable("gpj\u202eexe.") == r"gpj\u202eexe."
    assert printable("caf\udce9.jpg") == r"caf\xe9.jpg"
    assert printable("Übung [red] :key: 顔.jpg") == "Übung [red] :key: 顔.jpg"
