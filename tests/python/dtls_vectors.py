"""Known answers for the records of DTLS, by another hand: Python's `cryptography` and `hmac`.

It prints what crates/dtls/src/cipher/vectors.txt holds: for each suite the key block and one record of the client, without a
connection id (RFC 6347) and with one (RFC 9146, padded with three zeros). Needs `cryptography`.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM

MASTER_SECRET = bytes(range(48))
CLIENT_RANDOM = bytes([0xC1] * 32)
SERVER_RANDOM = bytes([0x5E] * 32)
PLAINTEXT = b"urn:imei:490154203237518"
NUMBERS = bytes.fromhex("0001" "000102030405")
CID = bytes.fromhex("c0ffee")
VERSION = bytes([0xFE, 0xFD])

# MAC key, key, implicit IV, tag, hash of the PRF.
SUITES = {
    "Aes128Ccm8": (0, 16, 4, 8, "sha256"),
    "Aes128Ccm": (0, 16, 4, 16, "sha256"),
    "Aes128Gcm": (0, 16, 4, 16, "sha256"),
    "Aes128CbcSha256": (32, 16, 0, 32, "sha256"),
    "Aes256Ccm8": (0, 32, 4, 8, "sha256"),
    "Aes256Ccm": (0, 32, 4, 16, "sha256"),
    "Aes256Gcm": (0, 32, 4, 16, "sha384"),
    "Aes256CbcSha384": (48, 32, 0, 48, "sha384"),
}


def prf(algorithm, secret, label, seed, length):
    seed, out, a = label + seed, b"", label + seed
    while len(out) < length:
        a = hmac.digest(secret, a, algorithm)
        out += hmac.digest(secret, a + seed, algorithm)
    return out[:length]


def additional(content_type, cid, length):
    if cid:
        head = b"\xff" * 8 + bytes([25, len(cid), 25]) + VERSION + NUMBERS + cid
    else:
        head = NUMBERS + bytes([content_type]) + VERSION
    return head + length.to_bytes(2, "big")


def fragment(name, block, content, cid):
    mac_length, key_length, iv_length, tag_length, algorithm = SUITES[name]
    mac_key = block[:mac_length]
    key = block[2 * mac_length:][:key_length]
    salt = block[2 * (mac_length + key_length):][:iv_length]
    if "Cbc" in name:
        padding = 15 - len(content) % 16
        padded = content + bytes([padding] * (padding + 1))
        iv = hmac.digest(mac_key, b"IV" + NUMBERS, algorithm)[:16]
        encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        encrypted = iv + encryptor.update(padded) + encryptor.finalize()
        return encrypted + hmac.digest(mac_key, additional(23, cid, len(encrypted)) + encrypted, algorithm)
    aead = AESGCM(key) if "Gcm" in name else AESCCM(key, tag_length=tag_length)
    return NUMBERS + aead.encrypt(salt + NUMBERS, content, additional(23, cid, len(content)))


def record(name, block, cid, padding):
    content = PLAINTEXT + (bytes([23]) + bytes(padding) if cid else b"")
    sealed = fragment(name, block, content, cid)
    return bytes([25 if cid else 23]) + VERSION + NUMBERS + cid + len(sealed).to_bytes(2, "big") + sealed


if __name__ == "__main__":
    for suite, (mac, key, iv, _, hash_name) in SUITES.items():
        block = prf(hash_name, MASTER_SECRET, b"key expansion", SERVER_RANDOM + CLIENT_RANDOM, 2 * (mac + key + iv))
        print(suite, block.hex())
        for cid, padding in ((b"", 0), (CID, 0), (CID, 3)):
            print(record(suite, block, cid, padding).hex())
