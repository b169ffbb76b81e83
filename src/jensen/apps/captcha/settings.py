"""The settings of the service, from environment variables: JENSEN_CAPTCHA_SECRET and so on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from jensen.apps.captcha.store import Rate
from jensen.core.naming import nearest
from jensen.core.settings import must_be

PREFIX = "JENSEN_CAPTCHA_"
FOLDER = "CREDENTIALS_DIRECTORY"  # names a folder with a file for each secret, as systemd sets it
SHORTEST, VARIED = 32, 10  # characters of a secret, and different ones among them
ROWS = (digits + "0", ascii_lowercase, "qwertyuiop", "asdfghjkl", "zxcvbnm")
STEPS = {pair for row in ROWS for way in (row, row[::-1]) for pair in pairwise(way)}
HOSTNAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*|[0-9a-f:]{2,39}"
)
KUBERNETES = re.compile(r"(\w*?)(SERVICE_(HOST|PORT)\w*|PORT(_\d+_\w+)?)")  # what it sets for each Service by name
TEST_KEY = re.compile(r"[123]x0+(AA|AB|BB|FF)")
HIDDEN = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


def _strong(secret: SecretStr | None) -> SecretStr | None:
    """Refuse secrets that can be guessed; tests and demonstrations have generated ones."""
    if secret is not None:
        text = secret.get_secret_value()
        if _guessed(text) or not re.fullmatch("[!-~]+", text):
            raise ValueError(f"must be {SHORTEST} or more random characters, for example of `openssl rand -hex 32`")
    return secret


def _guessed(text: str) -> bool:
    """Whether a text is short or plain, repeats a block of few characters, or runs along the alphabet or a keyboard."""
    repeats = any(text[size:] == text[:-size] for size in range(1, min(SHORTEST, len(text) // 2 + 1)))
    pairs = list(pairwise(text.lower()))
    runs = sum(pair in STEPS or pair[0] == pair[1] for pair in pairs) > len(pairs) * 2 / 3
    return len(text) < SHORTEST or len(set(text)) < VARIED or repeats or runs or bool(TEST_KEY.fullmatch(text))


def _shown(text: str) -> str:
    """A text as messages show it: its length alone if it may be a secret in the wrong place."""
    return repr(text) if _guessed(text) else f"a text of {len(text)} characters"


def _meant(value: Any) -> str:
    """The network of an address with a length, as the end of a message."""
    try:
        return f"; did you mean '{ip_network(value, strict=False)}'?"
    except ValueError:
        return ""


def _network(value: Any) -> IPv4Network | IPv6Network:
    wrong = f"must be a network such as 10.0.0.0/8, got {value!r}"
    if not isinstance(value, str | IPv4Network | IPv6Network):  # a number is an address for Python
        raise ValueError(wrong)
    try:
        found = ip_network(value)
    except ValueError:
        raise ValueError(wrong + _meant(value)) from None
    if found.prefixlen < (8 if found.version == 4 else 7):  # visitors could then say any address of themselves
        raise ValueError(f"must be a network of your proxies, no larger than a /8 (IPv6: a /7), got {value!r}")
    if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped is not None:
        raise ValueError(f"must be written as IPv4, got {value!r}")
    return found


Network = Annotated[IPv4Network | IPv6Network, PlainValidator(_network)]


class Site(BaseModel):
    """A site that uses the service."""

    model_config = HIDDEN

    secret: SecretStr
    """secret with which the site's server verifies tokens"""
    previous_secret: SecretStr | None = None
    """secret that is still accepted while it is being replaced"""
    hostnames: Annotated[tuple[str, ...], Field(min_length=1)]
    """hostnames of the site's pages"""

    _secrets = field_validator("secret", "previous_secret")(_strong)

    @field_validator("hostnames")
    @classmethod
    def _hostnames(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not HOSTNAME.fullmatch(name):
                raise ValueError(f"must be hostnames in small letters, such as example.org, got {_shown(name)}")
        return names


class Environment(EnvSettingsSource):
    """The environment, whose JSON has each key once."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return json.loads(value, object_pairs_hook=once)
        except Twice:
            raise
        except (ValueError, RecursionError):
            raise ValueError("must be JSON") from None


class Twice(ValueError):
    """A key of a JSON object is given twice."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values.

    Raises:
        Twice: for a key that is given twice.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Twice(f"must have each key once, got {_shown(key)} twice")
        found[key] = value
    return found


class Settings(BaseSettings):
    """All settings; sites and lists are JSON, as in JENSEN_CAPTCHA_TRUSTED_PROXIES='["10.0.0.0/8"]'."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=False,
    )

    secret: SecretStr
    """secret of the service: 32 or more random characters"""
    previous_secret: SecretStr | None = None
    """secret that was replaced: what was signed with it is still recognised"""
    sites: dict[str, Site]
    """sites by their public key: {"KEY": {"secret": "...", "hostnames": ["example.org"]}}"""
    store: str = "sqlite:///captcha.sqlite"
    """where challenges are kept: sqlite:///FILE, redis://HOST:PORT/NUMBER or postgresql://USER@HOST/DATABASE"""
    demo: bool = False
    """test keys and generated secrets; only this machine is served"""
    challenge_seconds: Annotated[int, Field(ge=10, le=3600)] = 300
    """time in which a challenge may be answered"""
    token_seconds: Annotated[int, Field(ge=10, le=3600)] = 300
    """time in which a token may be redeemed"""
    tries: Annotated[int, Field(ge=1, le=3)] = 3
    """answers to a challenge"""
    issue_rate: str = "30/minute"
    """challenges for an address (IPv6: a /64 network)"""
    answer_rate: str = "60/minute"
    """answers from an address"""
    all_issue_rate: str = "6000/minute"
    """challenges for all addresses"""
    all_answer_rate: str = "12000/minute"
    """answers from all addresses"""
    failed_rate: str = "30/minute"
    """requests to siteverify without a site's secret, from an address, in each worker process"""
    request_rate: str = "600/minute"
    """all other requests from an address, in each worker process"""
    trusted_proxies: tuple[Network, ...] = ()
    """networks of proxies whose X-Forwarded-For is believed"""
    outstanding: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """challenges that may be open at a time"""
    body_bytes: Annotated[int, Field(ge=1024, le=1_048_576)] = 16_384
    """largest request"""
    pool_low: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """pictures in the pool below which new ones are drawn"""
    pool_high: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """pictures in the pool at which drawing stops"""
    pool_bytes: Annotated[int, Field(ge=1, le=2**40)] = 128 * 2**20
    """bytes of the pool, recordings among them, at which drawing stops"""
    speech: tuple[Literal["en", "de", "fa"], ...] = ("en", "de", "fa")
    """languages of the recordings, the first for pages in any other; [] for none"""
    metrics_token: SecretStr | None = None
    """token that /metrics and the details of /health ask for; without one this machine gets them"""

    _secrets = field_validator("secret", "previous_secret", "metrics_token")(_strong)

    @field_validator("issue_rate", "answer_rate", "all_issue_rate", "all_answer_rate", "failed_rate", "request_rate")
    @classmethod
    def _rate(cls, text: str) -> str:
        Rate.of(text)
        return text

    @field_validator("sites")
    @classmethod
    def _site_keys(cls, sites: dict[str, Site]) -> dict[str, Site]:
        if not sites:
            raise ValueError("must have a site or more")
        for key in sites:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) or TEST_KEY.fullmatch(key):
                raise ValueError(
                    f"a site's key must be of 1 to 64 letters, digits, _ and -, and no test key, got {_shown(key)}"
                )
        return sites

    @model_validator(mode="after")
    def _different(self) -> Self:
        own = {name: getattr(self, name.lower()) for name in ("SECRET", "PREVIOUS_SECRET", "METRICS_TOKEN")}
        for key, site in self.sites.items():
            own |= {f"SITES.{key}.secret": site.secret, f"SITES.{key}.previous_secret": site.previous_secret}
        seen: dict[str, str] = {}
        for name, secret in own.items():
            if secret and (other := seen.setdefault(secret.get_secret_value(), name)) != name:
                raise ValueError(f"{PREFIX}{name} must be another secret than {PREFIX}{other}")
        return self

    @model_validator(mode="after")
    def _marks(self) -> Self:
        if self.pool_low > self.pool_high:
            raise ValueError(
                f"{PREFIX}POOL_LOW must be at most {PREFIX}POOL_HIGH, {self.pool_high}, got {self.pool_low}"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given, the environment, and files in place of variables that are not set."""
        environment = Environment(settings_cls, env_ignore_empty=True)
        _refuse_unknown(environment.env_vars)
        environment.env_vars = _files() | dict(environment.env_vars)
        return init_settings, environment

    def rate(self, name: str) -> Rate:
        """A rate by the name of its setting."""
        return Rate.of(getattr(self, name))

    def secrets(self) -> list[str]:
        """The secret, and the previous one if there is one."""
        return [s.get_secret_value() for s in (self.secret, self.previous_secret) if s is not None]


def read_settings(**given: Any) -> Settings:
    """The settings of the environment, with those that are given.

    A setting whose variable is not set is read from the file of that name in the folder of secrets, if there is one.

    Raises:
        ValueError: for the first that is missing or wrong, in one sentence that never holds a secret. OSError: for a
            file that cannot be read.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ValueError(_explained(error.errors(include_url=False, include_input=False)[0])) from None
    except SettingsError as error:  # a setting that is no JSON, or has a key twice
        raise ValueError(_unread(error)) from None


def _files() -> dict[str, str]:
    """Settings that are files, by the names of their variables in small letters."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return {}
    if not Path(folder).is_dir():
        raise ValueError(f"{FOLDER} must be a folder, got {folder}")
    found = {path.name.lower(): path for path in Path(folder).iterdir()}
    _refuse_unknown(found)
    return {name: _read(path) for name, path in found.items() if name.startswith(PREFIX.lower())}


def _refuse_unknown(names: Iterable[str]) -> None:
    """Refuse variables and files that have our prefix and are no setting; `demo` is an option, and cannot be set."""
    known = [PREFIX + field.upper() for field in Settings.model_fields if field != "demo"]
    ours = {name for name in map(str.upper, names) if name.startswith(PREFIX)}
    for name in sorted(ours.difference(known)):
        if name == f"{PREFIX}DEMO":
            raise ValueError(f"{name} is no setting: a demonstration is started by jensen serve --demo")
        service = KUBERNETES.fullmatch(name)
        if not service or f"{service[1]}SERVICE_HOST" not in ours:
            raise ValueError(f"{name} is no setting{nearest(name, known)}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be text in UTF-8") from None


def _explained(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    first, *rest = map(str, error["loc"])
    key = ".".join([PREFIX + first.upper(), *(part if _guessed(part) else "..." for part in rest)])
    if error["type"] == "missing":
        return f"{key} must be set"
    if error["type"] == "extra_forbidden":
        return f"{key} is no setting of a site"
    if error["type"] == "model_type":
        return f'{key} must be {{"secret": "...", "hostnames": ["example.org"]}}'
    if error["type"] != "value_error":
        return f"{key} must be {must_be(error)}"
    return f"{key} {message}" if message.startswith("must ") else f"{key}: {message}"


def _unread(error: SettingsError) -> str:
    found = re.search(r'field "(\w+)"', str(error))
    return f"{PREFIX}{found[1].upper() if found else '...'} {error.__cause__ or 'must be JSON'}"
