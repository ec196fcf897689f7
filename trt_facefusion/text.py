"""Names as they are shown: letter for letter, with everything that a screen would act upon written out."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` without anything that moves a cursor, turns letters around or ends a line.

    Control characters, line ends, escape sequences, marks of writing direction, other invisible characters, and bytes
    of file names that are no UTF-8 are written as ``\\x1b``, ``\\n``, ``\\u202e``. Letters of any language stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _write_out(c) for c in text)


def _write_out(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
