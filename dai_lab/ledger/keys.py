"""Who signs: keys of the lab, of its servers and of the clients it simulates.

One secret makes all of them, and it lies outside of any results: in ``lab.pem`` of the folder that
``DAI_LAB_KEYS`` names, readable by its owner alone, encrypted where ``DAI_LAB_KEYS_PASSWORD`` is
set. In a simulation the lab could therefore sign for everybody: what its log proves is that nothing
was changed afterwards, not that there were many people.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

FOLDER, PASSWORD = "DAI_LAB_KEYS", "DAI_LAB_KEYS_PASSWORD"
"""Environment variables: where the secret lies, and what opens it."""


@dataclass(frozen=True)
class Signer:
    """Somebody who can sign."""

    name: str
    public: bytes
    """32 bytes by which all signatures are checked (Ed25519, RFC 8032)."""
    _private: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Return a signature of 64 bytes; the same one each time."""
        return self._private.sign(message)


@dataclass(frozen=True)
class CurveSigner:
    """Somebody who can sign for tools that know no Ed25519."""

    name: str
    public: bytes
    """PEM of the public key (P-256, FIPS 186-5)."""
    _private: ec.EllipticCurvePrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Return a signature in DER (ECDSA with SHA-256); the same one each time (RFC 6979)."""
        return self._private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


@dataclass(frozen=True)
class Keyring:
    """The secret all keys of a lab come from."""

    _secret: bytes = field(repr=False)

    def signer(self, name: str, *path: str | int) -> Signer:
        """Return the one who signs as ``name``, such as ``client``, 3 of a run."""
        private = Ed25519PrivateKey.from_private_bytes(self._derived("sign", name, *path))
        said = "/".join(map(str, (name, *path)))
        return Signer(said, private.public_key().public_bytes_raw(), private)

    def curve_signer(self, name: str) -> CurveSigner:
        """Return the one who signs as ``name`` where a curve of NIST is asked for.

        Source:
            FIPS 186-5, appendix A.2.1: 128 bits more than the order has leave no bias.
        """
        curve = ec.SECP256R1()
        drawn = int.from_bytes(self._derived("sign on P-256", name, size=48), "big")
        private = ec.derive_private_key(drawn % (curve.group_order - 1) + 1, curve)
        pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return CurveSigner(name, pem, private)

    def salt(self, *path: str | int) -> bytes:
        """Return 32 bytes that hide what a commitment is of until its opening is shown."""
        return self._derived("salt", *path)

    def _derived(self, *path: str | int, size: int = 32) -> bytes:
        info = b"".join(len(one).to_bytes(4, "big") + one for one in map(_raw, path))
        return HKDF(hashes.SHA256(), size, salt=b"dai_lab keys", info=info).derive(self._secret)


def keyring(folder: str | Path | None = None) -> Keyring:
    """Open the lab's secret, or draw it where there is none yet.

    Args:
        folder: Where ``lab.pem`` lies; that of ``DAI_LAB_KEYS`` unless given, or else
            ``~/.config/dai_lab``.

    Raises:
        ValueError: The file is damaged, unreadable, or its password is wrong or missing.
    """
    place = Path(folder or os.environ.get(FOLDER) or "~/.config/dai_lab").expanduser()
    path, password = place / "lab.pem", os.environ.get(PASSWORD, "").encode() or None
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _draw(path, password)
        pem = path.read_bytes()
        others = os.name == "posix" and path.stat().st_mode & 0o077
    except OSError as error:
        why = error.strerror or str(error)
        raise ValueError(
            f"ledger: cannot use {path}: {why}; set {FOLDER} to a folder for keys, or ledger=none"
        ) from None
    if others:
        raise ValueError(f"ledger: {path} can be read by others: chmod 600 it")
    if password and b"ENCRYPTED" not in pem:
        raise ValueError(f"ledger: {path} is not encrypted, and {PASSWORD} is set")
    try:
        key = load_pem_private_key(pem, password if b"ENCRYPTED" in pem else None)
        assert isinstance(key, Ed25519PrivateKey)
    except (ValueError, TypeError, AssertionError):
        raise ValueError(
            f"ledger: {path} cannot be opened: {PASSWORD} is missing or wrong, "
            "or the file is damaged"
        ) from None
    return Keyring(key.private_bytes_raw())


@lru_cache(4096)
def public_key(raw: bytes) -> Ed25519PublicKey:
    """Read 32 bytes as a public key."""
    return Ed25519PublicKey.from_public_bytes(raw)


def signed_by(public: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether a signature is of this message and this key; nothing is raised."""
    try:
        public_key(public).verify(signature, message)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _draw(path: Path, password: bytes | None) -> None:
    """Write a new secret, unless another process was quicker."""
    protection: KeySerializationEncryption = NoEncryption()
    if password:
        protection = BestAvailableEncryption(password)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, pem)
        os.fsync(file)
    finally:
        os.close(file)
    try:
        os.link(fresh, path)  # fails where the file is there by now, which rename would replace
    except FileExistsError:
        pass
    finally:
        os.unlink(fresh)


def _raw(part: str | int) -> bytes:
    return part.encode() if isinstance(part, str) else b"#%d" % part
