"""What a file is by its first bytes: suffixes lie, and are missing."""

from __future__ import annotations

HEAD_BYTES = 32
"""As many of the first bytes tell the kind."""

READ = frozenset({"JPEG", "PNG", "WebP", "BMP", "TIFF"})
"""The kinds that are read. Every further parser is one more that a hostile file can reach."""

RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".k25", ".kdc", ".mef", ".mos", ".mrw"}
    | {".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
"""Camera raw. Most are TIFF by their first bytes, with nothing but a thumbnail where a TIFF has its picture."""

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS\0", "Photoshop"),
    (b"qoif", "QOI"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "camera raw",
}
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})


def detect_kind(head: bytes) -> str | None:
    """The kind of picture that begins with ``head`` (`HEAD_BYTES`), one of `READ` or another, or None."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        # "mif1" is any picture of this container: the brand that follows tells which.
        return "AVIF" if b"avif" in (head[8:12], head[16:20], head[20:24]) else _BRANDS.get(head[8:12])
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def explain_unread(kind: str) -> str:
    """Why a picture of a ``kind`` that is not in `READ` is left out, and what to do."""
    if kind == "HEIC":
        return "HEIC is read only where `pip install pillow-heif` has been run; or save it as JPEG or PNG"
    return f"{kind} pictures are not read: save it as JPEG or PNG"
