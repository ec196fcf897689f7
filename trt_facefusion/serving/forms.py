"""Multipart bodies, in memory: no part ever becomes a file, and what a client calls its file is not even read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from trt_facefusion.serving.limits import ServiceLimits
from trt_facefusion.serving.problems import RequestError, TooLargeError, UnsupportedMediaError

PHOTOS = frozenset({"source", "target"})
"""Parts that are photos; all others are short texts."""
_TEXT_BYTES, _TEXTS, _NAME_BYTES = 256, 8, 64
_REMEDY = "send multipart/form-data with the parts source, target and, if you like, faces, format, response"


@dataclass
class FormPart:
    """One part of a form."""

    name: str = ""
    content: bytearray = field(default_factory=bytearray)


async def read_form(content_type: str, chunks: AsyncIterator[bytes], limits: ServiceLimits) -> list[FormPart]:
    """The parts of a multipart body that arrives in ``chunks``.

    Raises:
        UnsupportedMediaError: the type is not multipart/form-data.
        TooLargeError: a part is larger, or there are more, than ``limits`` allow.
        RequestError: the body is malformed, or ends too early.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMediaError("the body is not multipart/form-data", _REMEDY)
    boundary = options.get(b"boundary")
    if not boundary:
        raise RequestError("the Content-Type names no boundary", _REMEDY)
    collector = _Collector(limits)
    try:
        parser = MultipartParser(boundary, collector.callbacks)
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise RequestError(f"the form is malformed: {error}", _REMEDY) from error
    if not collector.is_complete:
        raise RequestError("the form ends before its last boundary", "send the whole body")
    return collector.parts


class _Collector:
    """Gathers what the parser tells of."""

    def __init__(self, limits: ServiceLimits) -> None:
        self._limits = limits
        self.parts: list[FormPart] = []
        self.is_complete = False
        self._header, self._value = bytearray(), bytearray()
        self._most_bytes = 0

    @property
    def callbacks(self) -> Any:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda text, start, end: self._header.extend(text[start:end]),
            "on_header_value": lambda text, start, end: self._value.extend(text[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": self._add,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._limits.source_photos + 1 + _TEXTS:
            raise TooLargeError("the form has too many parts", f"send at most {self._limits.source_photos} sources")
        self.parts.append(FormPart())

    def _end_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            name = parse_options_header(bytes(self._value))[1].get(b"name", b"")
            self.parts[-1].name = name[:_NAME_BYTES].decode("utf-8", "replace")
        self._header.clear()
        self._value.clear()

    def _begin_content(self) -> None:
        part = self.parts[-1]
        if not part.name:
            raise RequestError("a part of the form has no name", _REMEDY)
        self._most_bytes = self._limits.upload_bytes if part.name in PHOTOS else _TEXT_BYTES

    def _add(self, text: bytes, start: int, end: int) -> None:
        content = self.parts[-1].content
        if len(content) + end - start > self._most_bytes:
            what = f"{self._most_bytes >> 20} MiB" if self._most_bytes > _TEXT_BYTES else f"{_TEXT_BYTES} bytes"
            raise TooLargeError(f"a part of the form has more than {what}", "send the photo smaller")
        content += memoryview(text)[start:end]

    def _end(self) -> None:
        self.is_complete = True
