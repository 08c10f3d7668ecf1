"""The primitives behind a secure sum, as installed, against their standards' own vectors."""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from dai_lab.secagg import keys, masks
from dai_lab.secagg.wire import Refused

HEX = bytes.fromhex


def test_x25519_agrees_as_in_rfc_7748():
    """Section 6.1."""
    alice = keys.private(HEX("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = keys.private(HEX("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    shown = {"alice": keys.public(alice).hex(), "bob": keys.public(bob).hex()}
    assert shown == {
        "alice": "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        "bob": "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    }
    secret = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert keys.agreed(alice, HEX(shown["bob"])).hex() == secret
    assert keys.agreed(bob, HEX(shown["alice"])).hex() == secret


def test_a_public_key_of_small_order_is_refused():
    """RFC 7748, section 6.1: the zero that must be checked for."""
    with pytest.raises(Refused, match="small order"):
        keys.agreed(keys.private(bytes(range(32))), bytes(32))


@pytest.mark.parametrize(
    ("secret", "salt", "info", "found"),
    [
        (b"\x0b" * 22, bytes(range(13)), HEX("f0f1f2f3f4f5f6f7f8f9"),
         "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
        (b"\x0b" * 22, None, b"",
         "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
    ],
)  # fmt: skip
def test_hkdf_derives_as_in_rfc_5869(secret, salt, info, found):
    """Appendices A.1 and A.3."""
    assert keys.HKDF(keys.SHA256(), 42, salt=salt, info=info).derive(secret).hex() == found


def test_purposes_are_derived_by_hkdf_without_salt():
    expected = keys.HKDF(keys.SHA256(), 16, salt=None, info=b"dai_lab/secagg/mask").derive(b"x")
    assert keys.derive(b"x", b"mask", 16) == expected


def test_ed25519_signs_as_in_rfc_8032():
    """Section 7.1, test 1."""
    signer = keys.identity(HEX("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    signature = HEX(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e3970"
        "1cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert signer.sign(b"") == signature
    keys.check(signer.public_key(), signature, b"", 0)
    with pytest.raises(Refused, match="client 0 did not sign"):
        keys.check(signer.public_key(), signature, b"other", 0)


def test_masks_come_from_the_cipher_of_sp_800_38a():
    """Appendix F.5.1, whose counters are not ours: the same cipher and mode, started elsewhere."""
    key, counter = HEX("2b7e151628aed2a6abf7158809cf4f3c"), HEX("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    cipher = masks.Cipher(masks.algorithms.AES(key), masks.modes.CTR(counter)).encryptor()
    plain = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    assert cipher.update(HEX(plain)).hex() == (
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
    )


def test_the_sealing_cipher_is_that_of_the_gcm_specification():
    """McGrew and Viega's test case 2, as in SP 800-38D's validation: a block of zeros."""
    sealed = AESGCM(bytes(16)).encrypt(bytes(12), bytes(16), None)
    assert sealed.hex() == "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf"
    # And so our mask of that key begins.
    assert masks.stream(bytes(16), 4).tobytes() == sealed[:16]


def test_the_other_sealing_cipher_seals_as_in_rfc_8439():
    """Section 2.8.2; where a processor has no AES, this is what would take its place."""
    cipher, nonce = ChaCha20Poly1305(bytes(range(0x80, 0xA0))), HEX("070000004041424344454647")
    about = HEX("50515253c0c1c2c3c4c5c6c7")
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it."
    )
    sealed = cipher.encrypt(nonce, plain, about)
    assert sealed.hex() == (
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
        "1ae10b594f09e26a7e902ecbd0600691"
    )
    with pytest.raises(InvalidTag):
        cipher.decrypt(nonce, sealed[:-1] + bytes([sealed[-1] ^ 1]), about)
