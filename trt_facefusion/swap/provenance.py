"""What a result says of itself: that a machine made the face in it.

EU law (AI Act, article 50) wants results marked so that machines can read it, and deep fakes disclosed. By default
every file is marked with plain metadata; with the operator's certificate it also gets a signed C2PA manifest. The
operator decides, and answers for it.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.sax.saxutils import escape

from trt_facefusion import __version__
from trt_facefusion.errors import BackendUnavailableError, BadInputError, pip_install
from trt_facefusion.storage.files import read_regular
from trt_facefusion.swap.photo_file import Mark

C2PA, METADATA, NONE = "c2pa", "metadata", "none"
PROVENANCE = (C2PA, METADATA, NONE)

TEXT = "AI-generated/face-fused by trt-facefusion"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's word for a photo of which a trained model made a part."""
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")

_MIME = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WebP": "image/webp",
    "TIFF": "image/tiff",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".avi": "video/x-msvideo",
}
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:CreatorTool="{software}"
 Iptc4xmpExt:DigitalSourceType="{source_type}">
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True)
class Provenance:
    """Which marks results get: ``kind`` of `PROVENANCE`; ``text`` is what people read."""

    kind: str = METADATA
    text: str = TEXT

    def __post_init__(self) -> None:
        if self.kind not in PROVENANCE:
            raise BadInputError(f"there is no provenance {self.kind!r}", f"use one of {', '.join(PROVENANCE)}")

    @property
    def software(self) -> str:
        """This tool and its version."""
        return f"trt-facefusion {__version__}"

    @property
    def mark(self) -> Mark | None:
        """The metadata of a photo."""
        if self.kind == NONE:
            return None
        xmp = _XMP.format(software=self.software, source_type=SOURCE_TYPE, text=escape(self.text))
        return Mark(self.text, self.software, xmp.encode())

    @property
    def tags(self) -> dict[str, str]:
        """The metadata of a video's container."""
        if self.kind == NONE:
            return {}
        return {"comment": f"{self.text}; digitalSourceType={SOURCE_TYPE}", "description": self.text}


@dataclass(frozen=True)
class Signer:
    """The operator's certificate chain and private key (PEM files), with which C2PA manifests are signed.

    Nothing is looked up: no timestamp is fetched. ``algorithm`` is one of `ALGORITHMS` and must fit the key.

    Raises:
        BackendUnavailableError: c2pa-python is not installed.
        BadInputError: a file cannot be read, or the algorithm is none.
    """

    certificate: Path
    key: Path
    algorithm: str = "es256"
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise BadInputError(
                f"there is no signing algorithm {self.algorithm!r}", f"use one of {', '.join(ALGORITHMS)}"
            )
        read_regular(self.certificate, "certificate", limit_bytes=1 << 20)
        read_regular(self.key, "private key", limit_bytes=1 << 20)
        _import_c2pa()

    def sign(self, encoded: bytes, kind: str, name: str) -> bytes:
        """``encoded``, a file of ``kind`` called ``name``, with a signed manifest.

        Raises:
            BadInputError: the kind holds none, or certificate and key do not sign.
        """
        self.require(kind, name)
        signed = io.BytesIO()
        self._run(kind, name, io.BytesIO(encoded), signed)
        return signed.getvalue()

    def sign_file(self, source: Path, destination: Path, name: str) -> None:
        """Write the video ``source`` with a signed manifest to ``destination``; ``name`` is what it will be called.

        Raises: as `sign`; OSError.
        """
        kind = Path(name).suffix.lower()
        self.require(kind, name)
        with source.open("rb") as unsigned, destination.open("w+b") as signed:
            self._run(kind, name, unsigned, signed)

    def require(self, kind: str, name: str) -> None:
        """Raise BadInputError where files of ``kind`` (of `photo_file`, or a video's suffix) hold no manifest."""
        if kind not in _MIME:
            raise BadInputError(
                f"{name}: files of this kind hold no C2PA manifest",
                "write JPEG, PNG, WebP, TIFF, MP4, MOV or AVI, or take --provenance metadata",
            )

    def _run(self, kind: str, name: str, unsigned: Any, signed: Any) -> None:
        c2pa = _import_c2pa()
        try:
            with self._make_signer(c2pa) as signer, c2pa.Builder(self._describe(name)) as builder:
                builder.sign(signer, _MIME[kind], unsigned, signed)
        except Exception as error:  # c2pa raises its own classes, and ctypes' where an argument is wrong
            raise BadInputError(
                f"{name} cannot be signed with {self.certificate.name} and {self.key.name}: {error}",
                "name the whole chain (leaf first) and its unencrypted private key in PEM, with the --c2pa-alg of the "
                "key, or take --provenance metadata",
            ) from error

    def _make_signer(self, c2pa: ModuleType) -> Any:
        chain, key = self._pems
        algorithm = getattr(c2pa.C2paSigningAlg, self.algorithm.upper())
        return c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, None))

    @cached_property
    def _pems(self) -> tuple[bytes, bytes]:
        return (
            read_regular(self.certificate, "certificate", limit_bytes=1 << 20),
            read_regular(self.key, "private key", limit_bytes=1 << 20),
        )

    def _describe(self, name: str) -> str:
        """The manifest: what was done, by what, to which kind of source."""
        action = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "description": self.provenance.text}
        return json.dumps(
            {
                "claim_generator_info": [{"name": "trt-facefusion", "version": __version__}],
                "title": name,
                "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
            }
        )


def _import_c2pa() -> ModuleType:
    try:
        import c2pa
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(f"C2PA manifests need c2pa-python: {error}", pip_install("provenance")) from error
    module: ModuleType = c2pa
    return module
