"""Names contents by their SHA-256."""

from __future__ import annotations


def sha256(*parts: bytes) -> str:
    """The SHA-256 of bytes, one part after the other, as hexadecimal digits."""
    import hashlib  # with OpenSSL it takes 3 MB, which a demo without a page does not need

    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
