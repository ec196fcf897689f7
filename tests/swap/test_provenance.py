"""Files say that they were generated; with the operator's certificate the mark is signed."""

from __future__ import annotations

import datetime
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from trt_facefusion.errors import BackendUnavailableError, BadInputError
from trt_facefusion.swap.photo import Photo, decode_photo
from trt_facefusion.swap.photo_file import JPEG, PNG, TIFF, WEBP, encode_photo
from trt_facefusion.swap.provenance import SOURCE_TYPE, TEXT, Provenance, Signer

c2pa = pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
MIME = {JPEG: "image/jpeg", PNG: "image/png", WEBP: "image/webp", TIFF: "image/tiff"}


@pytest.fixture(scope="session")
def operator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An operator's certificate (with that of the CA behind it) and private key, made for this test."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    folder = tmp_path_factory.mktemp("operator")
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)

    def name(text: str) -> object:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def begin(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=30))

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"encipher_only": False, "decipher_only": False}
    ca = (
        begin("CA", "CA", ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        begin("operator", "CA", key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **usage), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(leaf.public_bytes(pem) + ca.public_bytes(pem))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "chain.pem", folder / "key.pem"


def read_manifest(encoded: bytes, mime: str) -> tuple[dict[str, object], set[str]]:
    """The active manifest, and the codes of what is wrong with it."""
    with c2pa.Reader(mime, io.BytesIO(encoded)) as reader:
        document = json.loads(reader.json())
    wrong = {status["code"] for status in document.get("validation_status", [])}
    return document["manifests"][document["active_manifest"]], wrong


@pytest.mark.parametrize("kind", sorted(MIME))
def test_a_signed_photo_is_valid_and_shows_the_same(kind: str, operator: tuple[Path, Path]) -> None:
    encoded = encode_photo(Photo(PIXELS), kind, Provenance("c2pa").mark)
    signed = Signer(*operator).sign(encoded, kind, "out")
    manifest, wrong = read_manifest(signed, MIME[kind])
    assert wrong <= {"signingCredential.untrusted"}  # the CA was made here
    assert SOURCE_TYPE in json.dumps(manifest) and TEXT in json.dumps(manifest)
    assert np.array_equal(decode_photo(signed).pixels, decode_photo(encoded).pixels)
    assert SOURCE_TYPE.encode() in encoded  # the plain mark is there, too


def test_a_signed_video_is_valid_and_plays(operator: tuple[Path, Path], sample_faces: Path, tmp_path: Path) -> None:
    clips = pytest.importorskip("clips")
    face = decode_photo(sorted(sample_faces.glob("*.jpg"))[0].read_bytes()).pixels
    clip = clips.make_clip(tmp_path / "clip.mp4", face, 5)
    Signer(*operator).sign_file(clip, tmp_path / "signed.mp4", "signed.mp4")
    manifest, wrong = read_manifest((tmp_path / "signed.mp4").read_bytes(), "video/mp4")
    assert wrong <= {"signingCredential.untrusted"} and SOURCE_TYPE in json.dumps(manifest)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(clips.read_frames(clip), clips.read_frames(tmp_path / "signed.mp4"), strict=True)
    )


def test_a_changed_photo_is_not_valid(operator: tuple[Path, Path]) -> None:
    signed = bytearray(Signer(*operator).sign(encode_photo(Photo(PIXELS), PNG), PNG, "out"))
    signed[-40] ^= 1
    _, wrong = read_manifest(bytes(signed), MIME[PNG])
    assert any("mismatch" in code.lower() for code in wrong)


def test_what_cannot_be_signed_is_refused(operator: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = operator
    with pytest.raises(BadInputError, match="no C2PA manifest"):
        Signer(certificate, key).require("BMP", "out.bmp")
    with pytest.raises(BadInputError, match="does not exist"):
        Signer(tmp_path / "none.pem", key)
    with pytest.raises(BadInputError, match="no signing algorithm"):
        Signer(certificate, key, "rsa")
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(BadInputError, match="cannot be signed") as caught:
        Signer(certificate, tmp_path / "key.pem").sign(encode_photo(Photo(PIXELS), PNG), PNG, "out.png")
    assert "--c2pa-alg" in caught.value.remedy
    with pytest.raises(BadInputError, match="no provenance"):
        Provenance("stamp")


def test_without_the_library_it_is_said_how_to_get_it(
    operator: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(BackendUnavailableError) as caught:
        Signer(*operator)
    assert "c2pa-python" in caught.value.remedy
