"""The process that draws: what it keeps was read, between two marks, and says how much it drew."""

from __future__ import annotations

import io
import threading
import time

import pytest
import redis
import torch
from PIL import Image

from captcha_service import Classical, settings
from jensen.apps.captcha.answers import text_digest
from jensen.apps.captcha.keys import Keys
from jensen.apps.captcha.pool import Pool, Tally, Trained, described, encoded
from jensen.apps.captcha.store import open_store
from jensen.cli.main import main
from jensen.data.captcha import Painter, Style
from jensen.data.space import Text
from jensen.runs.opening import open_run
from servers import redis_server
from tiny import tiny

pytestmark = pytest.mark.usefixtures("blank_plots")


@pytest.fixture
def pool(tmp_path):
    """A pool of the classical drawer, of 4 to 8 pictures."""
    chosen = settings(tmp_path, pool_low=4, pool_high=8)
    store = open_store(chosen.store)
    yield Pool(Classical(), store, chosen)
    store.close()


def drained(store):
    """All pictures of the pool."""
    return list(iter(lambda: store.take(0, 10**6), None))


def decoded(picture):
    """Its pixels (1, 1, H, W), which are grey."""
    image = Image.open(io.BytesIO(picture.data)).convert("L")
    return torch.tensor(list(image.tobytes())).view(1, 1, image.height, image.width)


def test_each_picture_was_read_as_the_text_that_its_digest_is_of(pool):
    count = pool.add(12)
    pictures, keys = drained(pool.store), Keys(pool.settings.secrets())
    assert len(pictures) == count > 6
    for picture in pictures:
        (text,) = pool.drawer.texts.decode(pool.drawer.reader.read(decoded(picture) / 127.5 - 1))
        assert text_digest(keys, picture.key, picture.id, text) == picture.digest
        assert picture.media == "image/webp"
    assert len({picture.id for picture in pictures}) == count
    assert len({picture.data for picture in pictures}) == count


def test_two_draws_of_one_text_are_two_pictures(pool):
    first, second = pool.drawer.draw(["1234", "1234"])
    assert not torch.equal(first, second)


def test_a_picture_is_pixels_and_nothing_else():
    pixels = torch.tensor(Painter(Style()).paint(0, 0)[1]).permute(2, 0, 1)
    data = encoded(pixels)
    assert data[:4] + data[8:16] == b"RIFFWEBPVP8L"  # lossless
    size = int.from_bytes(data[16:20], "little")
    assert len(data) == 20 + size + size % 2  # and no other chunk
    shown = Image.open(io.BytesIO(data))
    assert shown.size == (64, 24)
    assert torch.equal(torch.tensor(list(shown.convert("L").tobytes())), pixels.flatten().long())


def test_the_pool_is_filled_from_below_the_low_mark_up_to_the_high_one(pool):
    assert pool.wanted() == 8 < pool.drawer.batch
    while count := pool.wanted():
        pool.add(count)
    assert pool.store.waiting()[0] == 8
    wanted = []
    while pool.store.take(0, 9):
        wanted.append(pool.wanted())
    assert wanted == [0, 0, 0, 0, 5, 6, 7, 8]


def test_the_log_says_what_is_drawn():
    assert described(Text("ABC ", 6, shortest=5)) == {"length": "5 to 6", "alphabet": 3}
    assert described(Text("0123456789", 4)) == {"length": 4, "alphabet": 10}


def test_the_pool_stops_at_its_bytes(tmp_path):
    chosen = settings(tmp_path, pool_low=4, pool_high=1000, pool_bytes=1)
    pool = Pool(Classical(), open_store(chosen.store), chosen)
    assert pool.wanted() == 10
    pool.add(1)
    assert pool.wanted() == 0
    pool.store.close()


def test_what_was_drawn_is_counted(pool):
    kept = [pool.add(5), pool.add(5)]
    found = pool.store.read_status()
    assert (found["drawn"], found["accepted"]) == (10, sum(kept))
    assert found["accept_rate"] == sum(kept) / 10
    assert found["accept_rate"] <= found["legibility"] <= 1
    assert found["source"] == pool.drawer.source
    tally = Tally(drawn=4, accepted=1, characters=16, read=12, seconds=2.0)
    assert tally.status() == {"drawn": 4, "accepted": 1, "accept_rate": 0.25, "legibility": 0.75, "rate": 0.5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for name, steps in (("captcha", "2"), ("moons-kernel", "1")):
        words = ["--out", str(place / name), "--steps", steps, "--no-evaluate"]
        assert main(["train", name, *words, *tiny(name)]) == 0
    return place


def test_pictures_of_a_model_that_cannot_draw_are_not_kept(runs, pool):
    """Two steps of training: the reader reads a character in ten, so that no picture of four is expected in 32."""
    pool.drawer = Trained(run := open_run(runs / "captcha"))
    assert pool.drawer.batch == run.model.sampling.chunk == 32
    assert pool.add(32) <= 1
    found = pool.store.read_status()
    assert found["drawn"] == 32
    assert found["legibility"] < 0.3
    assert found["source"] == "the run captcha"


def test_runs_that_draw_no_captchas_are_refused(runs):
    with pytest.raises(ValueError, match=r"^RUN must draw CAPTCHAs from their texts, got .*, a run of moons-kernel$"):
        Trained(open_run(runs / "moons-kernel"))


def test_a_store_that_is_lost_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr("jensen.apps.captcha.pool.PAUSE", 0.01)
    stop = threading.Event()
    with redis_server() as address:
        chosen = settings(tmp_path, store=address, pool_low=2, pool_high=3)
        pool = Pool(Classical(), open_store(address), chosen)
        thread = threading.Thread(target=pool.keep, args=[stop])
        thread.start()
        while pool.store.waiting()[0] < 3:
            time.sleep(0.01)
        redis.Redis.from_url(address).shutdown(nosave=True)
        time.sleep(0.1)
        assert thread.is_alive()
    stop.set()
    thread.join()
    pool.store.close()
