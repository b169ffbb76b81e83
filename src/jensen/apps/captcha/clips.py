"""Recordings of one text in several languages, as the bytes that a store keeps."""

from __future__ import annotations

from collections.abc import Mapping

MEDIA = "audio/mpeg"
LANGUAGE, LENGTH = 2, 4  # bytes of a language, and of the length of its recording


def packed(clips: Mapping[str, bytes]) -> bytes:
    """Recordings by language, one after the other, each after its language and its length."""
    return b"".join(language.encode() + len(clip).to_bytes(LENGTH, "big") + clip for language, clip in clips.items())


def unpacked(data: bytes) -> dict[str, bytes]:
    """Recordings by language.

    >>> unpacked(packed({"en": b"one", "de": b"eins"}))
    {'en': b'one', 'de': b'eins'}
    """
    found, place = {}, 0
    while place < len(data):
        begin = place + LANGUAGE + LENGTH
        end = begin + int.from_bytes(data[place + LANGUAGE : begin], "big")
        found[data[place : place + LANGUAGE].decode()], place = data[begin:end], end
    return found


def chosen(data: bytes, language: str) -> tuple[str, bytes] | None:
    """The recording for a page in a language such as de-AT, or else the first, with its language; None without any.

    >>> chosen(packed({"en": b"one", "de": b"eins"}), "de-AT"), chosen(b"", "de")
    (('de', b'eins'), None)
    """
    clips = unpacked(data)
    wanted = language[:LANGUAGE].lower()
    return (wanted, clips[wanted]) if wanted in clips else next(iter(clips.items()), None)
