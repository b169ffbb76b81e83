"""What pages say, in the languages that there are, and which of these a visitor reads."""

from __future__ import annotations

import json
from importlib import resources

FOLDER = resources.files("jensen.apps.captcha").joinpath("page")
LANGUAGES = ("en", "de", "fa")
MESSAGES: dict[str, dict[str, str]] = {
    language: json.loads(FOLDER.joinpath("messages", f"{language}.json").read_text(encoding="utf-8"))
    for language in LANGUAGES
}
SENTENCES = {429: "limited", 500: "busy", 503: "busy"}  # for a status; "refused" for any other
PERSIAN = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")


def language_of(asked: str, accepted: str) -> str:
    """The language of a page: the one that its address asks for, or the best of Accept-Language, or English.

    >>> language_of("", "fr-CH, fr;q=0.9, de;q=0.5, en;q=0.7"), language_of("fa-IR", "en"), language_of("xx", "")
    ('en', 'fa', 'en')
    """
    wanted = [asked, *(tag for tag, _ in sorted(map(_weighed, accepted.split(",")), key=lambda each: -each[1]))]
    known = (tag[:2].lower() for tag in wanted if tag[2:3] in ("", "-"))
    return next((tag for tag in known if tag in LANGUAGES), "en")


def _weighed(item: str) -> tuple[str, float]:
    """A language tag of Accept-Language and its weight; without a tag, if it is refused or cannot be read."""
    tag, _, weight = item.strip().partition(";")
    try:
        found = float(weight.strip().removeprefix("q=") or 1)
    except ValueError:
        return "", 0.0
    return (tag.strip(), found) if found > 0 else ("", 0.0)


def number(value: int, language: str) -> str:
    """A number in the digits of a language.

    >>> number(12, "de"), number(12, "fa") == "\u06f1\u06f2"
    ('12', True)
    """
    return str(value).translate(PERSIAN) if language == "fa" else str(value)
