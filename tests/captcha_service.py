"""The CAPTCHA service over a real store, for tests: pictures whose texts are known, and a site."""

from __future__ import annotations

import itertools
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import torch
import uvicorn

from jensen.apps.captcha import service
from jensen.apps.captcha.answers import new_id, text_digest
from jensen.apps.captcha.api import forms
from jensen.apps.captcha.api.app import application
from jensen.apps.captcha.clips import packed
from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.settings import Settings, read_settings
from jensen.apps.captcha.store import Picture, Store, open_store
from jensen.data.captcha import Painter, Style
from jensen.recipes.sources.captcha import Captcha
from jensen.runs.opening import open_other

SITE, OTHER, HOST = "shop", "blog", "shop.example"
ORIGIN = {"origin": f"https://{HOST}"}
SECRET = secrets.token_hex(32)
SECRETS = {SITE: secrets.token_hex(32), OTHER: secrets.token_hex(32)}
ANSWER = "K7MPXQ"
PICTURE = b"RIFF picture"
CLIPS = {"en": b"\xff\xf3 recording", "de": b"\xff\xf3 Aufnahme"}
numbers = itertools.count()


def settings(place: Path, **more) -> Settings:
    """Settings with two sites, a store in a folder, and rates that are not met unless they are given."""
    sites = {key: {"secret": secret, "hostnames": [HOST, f"{key}.example"]} for key, secret in SECRETS.items()}
    names = ("issue_rate", "answer_rate", "all_issue_rate", "all_answer_rate", "failed_rate", "request_rate")
    rates = dict.fromkeys(names, "1000000/second")
    given = {"secret": SECRET, "sites": sites, "store": f"sqlite:///{place}/captcha.sqlite", **rates, **more}
    return read_settings(**given)


def fill(
    store: Store, count: int, secret: str = SECRET, text: str = ANSWER, data: bytes = PICTURE, clips=CLIPS
) -> None:
    """Put pictures of a text in the pool, with its recordings."""
    keys = Keys([secret])

    def add(_) -> None:
        name = new_id()
        digest = text_digest(keys, keys.current, name, text)
        store.add(Picture(name, next(numbers), keys.current, digest, "image/webp", data, packed(clips)))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(add, range(count)))


class Classical:
    """Draws by the captcha package, not a model, which is fast."""

    source, batch = "the classical drawer of the captcha package", 10

    def __init__(self):
        self.texts, self.reader = Style().texts, Captcha().open_reader(open_other)
        self._painter = Painter(Style())

    def draw(self, texts):
        pictures = [self._painter.paint(secrets.randbits(128), 0, text=text)[1] for text in texts]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


class Visitor:
    """A browser on a page of the site, over any client of HTTP."""

    def __init__(self, client, headers=ORIGIN, site=SITE):
        self.client, self.headers, self.site = client, headers, site

    def ask(self, **more):
        return self.client.post("/challenge", json={"site_key": self.site, **more}, headers=self.headers)

    def type(self, name, answer=ANSWER, **more):
        form = {"site_key": self.site, "id": name, "answer": answer, **more}
        return self.client.post("/answer", json=form, headers=self.headers)

    def token(self, **more):
        """A challenge, solved."""
        found = self.type(self.ask(**more).json()["id"])
        assert found.status_code == 200, found.text
        return found.json()["token"]

    def verify(self, token, **more):
        form = {"secret": SECRETS[self.site], "response": token, **more}
        return self.client.post("/siteverify", data=form).json()


@contextmanager
def listening(place: Path, pictures: int = 20, **more) -> Iterator[tuple[str, Store]]:
    """The address of a service that uvicorn serves in a thread, and its store."""
    chosen = settings(place, **more)
    store = open_store(chosen.store)
    fill(store, pictures, chosen.secret.get_secret_value())
    options = dict.fromkeys(("access_log", "proxy_headers", "server_header"), False)  # as `jensen serve` has them
    config = uvicorn.Config(application(chosen, store), log_config=None, **options)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", store
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def visiting(place: Path, pictures: int = 20, **more) -> Iterator[Visitor]:
    """A visitor of a service that listens; `visitor.store` is its store."""
    with listening(place, pictures, **more) as (address, store), httpx.Client(base_url=address, timeout=60) as client:
        visitor = Visitor(client)
        visitor.store = store
        yield visitor


def refused(response, status, code):
    """Whether it is refused with one sentence, in the one form."""
    assert response.status_code == status, response.text
    assert response.json()["code"] == code
    sentence = response.json()["error"]
    assert set(response.json()) == {"error", "code"}
    assert sentence.endswith(".")
    assert sentence[0].isupper() or sentence[0] == "/" or sentence.split()[0] in forms.RULES
    assert "\n" not in sentence
    return response


def later(monkeypatch, seconds):
    now = service.current
    monkeypatch.setattr(service, "current", lambda: now() + 1000 * seconds)
