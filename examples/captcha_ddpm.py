# %% [markdown]
# # A diffusion model that draws CAPTCHAs
#
# A CAPTCHA is a picture of a text. Usually a program draws it: it puts characters of a font on paper, turns them, and
# adds dots and a line. Here a network learns to draw such pictures, first any, then those of a given text, and at last
# in styles that nobody has drawn. Another network, which was trained on the program's pictures alone, reads what it
# drew. The last part asks what such pictures are good for.
#
# After the first code cell, the cells can be run in any order, any number of times. Every printed number is a function
# of the seed (and, in the last bits, of the machine and its number of threads). Runs are folders: a finished run is
# opened, an interrupted one is resumed; delete `runs/captcha_ddpm` to train again. Everything takes some minutes on two
# cores.

# %%
import base64
import io
import json
import os
import random
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import torch
from captcha.image import DEFAULT_FONTS, ImageCaptcha
from PIL import Image

import jensen
from jensen.core.seeding import generators
from jensen.data.captcha import draw, random_text
from jensen.diffusion import Denoiser, Prediction
from jensen.metrics import Proportion, mean_over_pairs, wilson
from jensen.models import Diffusion
from jensen.report.gallery import gallery

SCALE = 1.0  # factor of the numbers of training steps, pictures and sampling steps
SEED = 0
RUNS = Path("runs/captcha_ddpm")
STUDY = Path("docs/captcha/numbers.json")  # what benchmarks/captcha_study.py wrote
STEPS = {"any": 300, "asked": 600}
STYLE = jensen.configure("captcha").data.style()  # four digits, 24 x 64 pixels, grey
RELEASE, READER, SECOND = "captcha-release", "captcha-release-reader", "captcha-release-second-reader"
SERVED = RELEASE  # the run that the service draws by
opened = cache(jensen.open)


def scaled(n, least):
    """A number of steps or pictures."""
    return max(least, round(SCALE * n))


@cache
def trained(name):
    """A run of the recipe captcha, without ("any") or with the text as its condition: trained, resumed or opened."""
    settings = {"training.previews": 0, "data.pictures": scaled(12_000, 64)}
    if name == "any":
        settings |= {"loss.drop": 1.0, "sampling.guidance": 1.0}  # all examples are trained without their text
    where = RUNS / name
    steps = scaled(STEPS[name], 2)
    return jensen.train("captcha", where, steps=steps, seed=SEED, settings=settings, resume=where.exists())


@cache
def asked(n, style=STYLE):
    """Different texts that no model and no reader was trained on."""
    rng = random.Random(SEED)
    found = {}
    while len(found) < n:
        found[random_text(rng, style, "test")] = True
    return list(found)


def sampled(run, n=None, texts=(), **changes):
    """A model's pictures, uint8 (N, C, H, W); the same for each call."""
    return run.sample(n, cond=texts, seed=7, steps=scaled(16, 2), **changes).pixels


def classical(texts, style=STYLE):
    """The drawing program's pictures of texts, uint8 (N, C, H, W)."""
    return torch.from_numpy(draw(style, len(texts), SEED, texts=texts)[1]).permute(0, 3, 1, 2)


@cache
def drawn(guidance):
    """Pictures of held-out texts."""
    return sampled(trained("asked"), texts=asked(scaled(256, 16)), guidance=guidance)


def labels(known, n):
    """Texts with a font, a paper and an ink that occur together in the data, or that never do."""
    style, rng, found = opened(RELEASE).recipe.data.style(), random.Random(f"{SEED} {known}"), []
    while len(found) < n:
        look = [rng.randrange(len(names)) for names in style.looks]
        if style.together(*look) == known:
            named = [names[k] for names, k in zip(style.looks, look, strict=True)]
            found.append(" ".join([random_text(rng, style, "test"), *named]))
    return found


@cache
def styled(known):
    """What was asked for, and the pictures."""
    wanted = labels(known, scaled(64, 8))
    return wanted, sampled(opened(RELEASE), texts=wanted)


def read(pictures, reader="captcha-reader"):
    """The texts that a reader reads in pictures, and whether it is sure of all characters (0.9 or more)."""
    run = opened(reader)
    characters, sure = run.model.read(pictures / 127.5 - 1)
    return run.space.cond.decode(characters), (sure >= 0.9).all(1)


def share(read, texts):
    """The share of pictures that are read as these texts, with Wilson's 95 percent interval."""
    return wilson(sum(a == b for a, b in zip(read, texts, strict=True)), len(texts))


def apart(rows):
    """The mean distance (root mean square) between two rows, with its standard error."""
    x = rows.flatten(1).double()
    found = mean_over_pairs(torch.cdist(x, x) / x.shape[1] ** 0.5)
    return f"{found.value:.3g} ± {found.stderr:.1g}"


def features(pictures, reader="captcha-reader"):
    """What the reader's convolutions see in pictures."""
    with torch.no_grad():
        return opened(reader).model.features(pictures / 127.5 - 1)


def show(pictures, name, captions=None, wrong=None, columns=8, scale=2):
    """Save pictures (N, C, H, W) on a sheet, and display it in a notebook."""
    image = gallery(pictures, columns=columns, scale=scale, captions=captions, wrong=wrong)
    image.save(RUNS / f"{name}.png")
    try:
        from IPython.display import display
    except ModuleNotFoundError:
        return
    display(image)


def tabulate(head, rows):
    """Print a table."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    print("\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in lines))


RUNS.mkdir(parents=True, exist_ok=True)
TEXT = asked(1)[0]

# %% [markdown]
# ## The data
#
# The program is the Python package `captcha`. This is one text, drawn again and again:

# %%
show(classical([TEXT] * 24), "one-text")

# %% [markdown]
# Everything that can differ is a number that the package draws at random:

# %%
drawer = ImageCaptcha()
low, high = drawer.character_rotate
across, down = (high - low for low, high in (drawer.character_warp_dx, drawer.character_warp_dy))
tabulate(
    ("what", "drawn from"),
    [
        ("font", len(DEFAULT_FONTS)),
        ("size of a character", len(drawer.truefonts)),
        ("angle of a character", f"{low} to {high} degrees"),
        ("corners of a character", f"moved by up to {across:.0%} of its width and {down:.0%} of its height"),
        ("distance of two characters", f"up to {drawer.word_offset_dx:.0%} of one closer, or a space apart"),
        ("ink", f"grey, luminance {STYLE.ink[0]} to {STYLE.ink[1]}"),
        ("paper", "plain, nearly white"),
        ("disturbance", f"{drawer.create_noise_dots.__defaults__[-1]} dots and a line"),
    ],
)

# %% [markdown]
# How different are the pictures? In pixels, two pictures of one text are about as far apart as pictures of two texts,
# since every character moves and turns. That is nearly all that happens: there is one font, one kind of paper and one
# kind of noise, and a network needs to learn each only once. The reader that is part of jensen has learned from 120,000
# such pictures; it has never seen these texts. The last distance is between the features of its convolutions, and
# [further below](#styles) the program is compared with a model by such features.

# %%
n = scaled(200, 24)
rows = []
for name, texts in (("one text", [TEXT] * n), ("different texts", asked(n))):
    pictures = classical(texts)
    rows.append((name, n, apart(pictures), apart(features(pictures)), share(read(pictures)[0], texts)))
tabulate(("pictures of", "n", "distance, levels of 255", "distance for the reader", "read"), rows)

# %% [markdown]
# ## Any picture
#
# First a model that is not told the text. Noise is added to a picture $x$ step by step,
#
# $$z_t = (1 - t)\, x + t\, \epsilon, \qquad \epsilon \sim N(0, 1), \qquad 0 \le t \le 1,$$
#
# and a U-Net $f$ learns the direction from the picture to the noise, by $\min E\, \| f(z_t, t) - (\epsilon - x) \|^2$.
# The times $t$ are random, and most are above one half. From $f$ follows the mean of all pictures that $z_t$ can come
# from, $\hat x = z_t - t f$. Drawing starts from noise at $t = 1$ and goes back to $t = 0$ in 16 steps. Each step
# removes noise and puts a little new noise back, as DDPM does (Ho, Jain and Abbeel, 2020).
#
# The recipe is `captcha`; `loss.drop = 1` takes the text away from every example. Below each picture is what the reader
# reads, black if it is sure.

# %%
made = sampled(trained("any"), scaled(256, 16))
texts, sure = read(made)
show(made[:32], "any", captions=texts[:32], wrong=(~sure[:32]).tolist())
real = read(classical(asked(len(made))))[1]
seen = {text for text, clear in zip(texts, sure.tolist(), strict=True) if clear}
print(f"the reader is sure of {wilson(int(sure.sum()), len(sure))} of {len(made)} pictures,")
print(f"which have {len(seen)} different texts; of the program's pictures it is sure of")
print(wilson(int(real.sum()), len(real)))

# %% [markdown]
# Nothing was asked for, so any text is right. But the model must also decide which characters there are. It does so at
# high noise, where every $z_t$ could be of many texts and $f$ is the mean over all of them, and what comes of it need
# not be characters.
#
# ## A given text
#
# Now the U-Net also gets the text $c$: each character is embedded, modulates all blocks, and can be attended to. In a
# tenth of the examples the text is left out, so that one network learns $f(z_t, t, c)$ and $f(z_t, t)$. Drawing
# combines the two by classifier-free guidance (Ho and Salimans, 2022),
#
# $$\hat f = f(z_t, t) + w\, \bigl( f(z_t, t, c) - f(z_t, t) \bigr),$$
#
# which at each noise level is the direction for $p(z_t)\, p(c \mid z_t)^w$: with $w = 1$ the model as it was trained,
# with $w > 1$ pictures in which the text is clearer, and more alike. The same texts and the same noise with $w = 1$ and
# $w = 4$, the recipe's own scale; red is what the reader reads otherwise:


# %%
for w in (1.0, 4.0):
    made, texts = drawn(w)[:16], asked(len(drawn(w)))[:16]
    seen = read(made)[0]
    captions = [a if a == b else f"{a} read {b}" for a, b in zip(texts, seen, strict=True)]
    show(made, f"guidance-{w:g}", captions=captions, wrong=[a != b for a, b in zip(texts, seen, strict=True)])

# %% [markdown]
# ## Reading back
#
# The reader has only seen the program's pictures, so it has no part in the model's errors. Its share of the program's
# pictures of the same texts is the ceiling. The floor is the share that is read as the text of another picture.
# Brackets are Wilson's 95 percent intervals.

# %%
texts = asked(len(drawn(4.0)))
rows = []
for name, pictures in (
    ("guidance 1", drawn(1.0)),
    ("guidance 4", drawn(4.0)),
    ("ceiling: the program", classical(texts)),
):
    seen = read(pictures)[0]
    single = wilson(sum(a == b for p in zip(seen, texts, strict=True) for a, b in zip(*p, strict=True)), 4 * len(texts))
    rows.append((name, share(seen, texts), single, apart(features(pictures))))
rows.append(("floor: shuffled texts", share(read(drawn(4.0))[0], texts[1:] + texts[:1]), "", ""))
print(f"{len(texts)} texts that neither model nor reader was trained on\n")
tabulate(("pictures", "whole texts read as asked", "single characters", "distance for the reader"), rows)

# %% [markdown]
# With guidance pictures of different texts differ more for the reader; pictures of one text differ less, which the
# report of a run measures (variety within a condition). The recipe trains for five minutes on two cores, longer than
# here: README has its numbers. A reader always answers, so a picture with a stroke too many can count as read. Look at
# the sheets too.
#
# ## Styles
#
# `captcha-release` is a larger model, which is part of jensen: 5 or 6 letters and digits in 48 x 144 pixels, in colour.
# Its data come from a drawing program with six fonts, six patterns of paper and six inks, whose names follow the text.
# Half of all pairs of a font and a paper, and half of those of a font and an ink, never occur in the data. Some of its
# examples lack the names of styles, so the network also has $f(z_t, t, a)$, of the text $a$ without its styles $b$, and
# both can be guided by scales of their own (Brooks et al., 2023):
#
# $$\hat f = f(z_t, t) + w\, \bigl( f(z_t, t, a) - f(z_t, t) \bigr) + v\, \bigl( f(z_t, t, a, b) - f(z_t, t, a) \bigr)$$
#
# The text needs more guidance than the styles: $w = 7$ and $v = 4$, at high noise only, $t \ge 1/2$, where it is
# decided which characters there are. The model is asked for combinations of both kinds, of texts that it was not
# trained on:


# %%
wanted, made = styled(known=False)
seen = [a == b.split()[0] for a, b in zip(read(made, READER)[0], wanted, strict=True)]
show(made[:12], "new", captions=wanted[:12], wrong=[not right for right in seen[:12]], columns=4)

# %% [markdown]
# *Combinations that never occur in the data. Red: the reader reads another text.*
#
# The first reader is the one by which the service filters its pictures. The second has other fonts and another network.
# Neither has seen a picture of the model.

# %%
rows = []
for known, name in ((True, "combinations of the data"), (False, "combinations that never occur in it")):
    wanted, made = styled(known)
    texts = [label.split()[0] for label in wanted]
    rows.append((name, len(texts), *(share(read(made, reader)[0], texts) for reader in (READER, SECOND))))
tabulate(("asked for", "n", "read by the first reader", "by the second"), rows)

# %% [markdown]
# Again one text many times: by the program as it is, in colour and at this size; by the program with all styles of the
# data; and by the model, which chooses a style if none is named.

# %%
style, n = opened(RELEASE).recipe.data.style(), scaled(32, 8)
word = next(text for text in asked(40, style) if len(text) == style.length)
drawings = {
    "the program as it is": classical([word] * n, replace(style, fonts=(), papers=(), inks=())),
    "the program in all styles": classical([word] * n, style),
    "captcha-release": sampled(opened(RELEASE), n, word),
}
show(torch.cat([pictures[:4] for pictures in drawings.values()]), "one-word", columns=4)
rows = [(name, apart(pictures), apart(features(pictures, READER))) for name, pictures in drawings.items()]
tabulate((f"{n} pictures of {word}", "distance, levels of 255", "distance for the reader"), rows)

# %% [markdown]
# A style is only a condition, and conditions can be mixed. If a denoiser predicts $f_a$ for one style and $f_b$ for
# another,
#
# $$\hat f = (1 - s)\, f_a + s\, f_b$$
#
# is the direction for $p(x \mid a)^{1 - s}\, p(x \mid b)^s$ at each noise level: half-way, pictures that are likely in
# both styles. Only a denoiser has to be written for it; sampler and guidance stay as they are. From left to right $s$
# rises from 0 to 1, and the noise is the same: from one paper to another, one ink to another, one font to another.


# %%
class Between(Denoiser):
    """A denoiser of two conditions in one row, (N, 2 width), of which the second has the given share."""

    def __init__(self, denoiser, share):
        super().__init__()
        self.denoiser, self.schedule, self.share = denoiser, denoiser.schedule, share
        self.null = denoiser.null.repeat(2)

    def forward(self, z_t, t, cond=None):
        a, b = (self.denoiser(z_t, t, part) for part in self.condition(cond, len(z_t)).chunk(2, 1))
        x, eps = (torch.lerp(first, second, self.share) for first, second in ((a.x, b.x), (a.eps, b.eps)))
        return Prediction(x, eps, a.alpha, a.sigma)


def mixed(pairs, share):
    """Pictures between the two labels of each pair."""
    model = opened(RELEASE).model
    settings = replace(model.sampling, chunk=len(pairs), steps=scaled(16, 2))

    def unstyled(cond):
        return torch.cat([model.unstyled(half) for half in cond.chunk(2, 1)], 1)

    between = Diffusion(Between(model.denoiser, share), model.shape, settings, unstyled)
    between.centre, between.scale = model.centre, model.scale
    cond = torch.cat([opened(RELEASE).space.cond.encode(side) for side in zip(*pairs, strict=True)], 1)
    return between.sample(len(pairs), cond=cond, generator=generators(7, pairs))


WAYS = ("cmtt10 rings red", "cmtt10 stripes red"), ("cmtt10 dots red", "cmtt10 dots blue")
WAYS = (*WAYS, ("cmtt10 plain violet", "STIXGeneralBolIta plain violet"))
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
pairs = [(f"{word} {a}", f"{word} {b}") for word, (a, b) in zip(("K7MPX", "RTV246", "WHALE"), WAYS, strict=True)]
ways = torch.stack([mixed(pairs, s) for s in SHARES], 1).flatten(0, 1)
show(ways, "between", captions=[f"{s:g}" for s in SHARES] * len(pairs), columns=len(SHARES))

# %% [markdown]
# ## Whether they can be used
#
# `benchmarks/captcha_study.py` has put the pictures of `captcha-release` under test: whether they can be read, whether
# they are copies, and how many labelled pictures an attacker needs. [The study](captcha.md) has all tables; from what
# it wrote:

# %%
if STUDY.exists():
    numbers = json.loads(STUDY.read_text(encoding="utf-8"))
    rows = [(reader["name"], Proportion(**reader["samples"])) for reader in numbers["legibility"]["readers"]]
    for attack in numbers["resistance"]["attacks"]:
        name = f"an attacker with {attack['labelled']:,} labelled pictures"
        rows.append((name, Proportion(**attack["read"])))
    print(f"{numbers['command']}{', a trial at tiny sizes' if numbers['trial'] else ''}\n")
    tabulate(("reader", "reads"), rows)
else:
    print(f"there is no {STUDY}: python benchmarks/captcha_study.py captcha-release")

# %% [markdown]
# The service, `jensen serve`, draws by the same model, keeps the pictures that the first reader reads, and gives each
# to one visitor. Here it runs on this machine, and a bot visits it: it asks for a picture, reads it by the same reader,
# which everybody has who has jensen, and types what it read. Then the site's server redeems the token, once.


# %%
def answers(address):
    """Whether the service has pictures."""
    try:
        with urlopen(f"{address}/ready"):
            return True
    except OSError:
        return False


@contextmanager
def service():
    """A demonstration on this machine, until the block ends: its address and the site's secret."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("JENSEN_CAPTCHA_")}
    few = {"SPEECH": "[]", "POOL_LOW": "1", "POOL_HIGH": "2"}  # no recordings, two pictures
    environment = given | {f"JENSEN_CAPTCHA_{name}": value for name, value in few.items()}
    command = [sys.executable, "-m", "jensen", "serve", SERVED, "--demo", "--port", "0"]
    log = RUNS / "serve.log"
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            found = None
            while found is None or not answers(found[1]):
                if process.poll() is not None:
                    raise RuntimeError(f"the service has ended: {log.read_text()}")
                time.sleep(0.2)
                found = re.search(r'"address": "(.+?)".*secret (\w+)', log.read_text(), re.DOTALL)
            yield found[1], found[2]
        finally:
            process.terminate()


def post(url, origin, **fields):
    """What is answered to JSON from a page of the site."""
    head = {"Content-Type": "application/json", "Origin": origin}
    with urlopen(Request(url, json.dumps(fields).encode(), head)) as answer:
        return json.load(answer)


def say(what, answer, *names):
    print(what.ljust(13) + ", ".join(f"{name}: {answer[name]}" for name in names))


with service() as (address, secret):
    challenge = post(f"{address}/challenge", address, site_key="demo")
    image = Image.open(io.BytesIO(base64.b64decode(challenge["picture"]["data"]))).convert("RGB")
    picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    text = read(picture, READER)[0][0]
    show(picture, "served", captions=[f"the bot types {text}"])
    answer = post(f"{address}/answer", address, site_key="demo", id=challenge["id"], answer=text)
    say("/answer", answer, "solved")
    for _ in range(2):
        verified = post(f"{address}/siteverify", address, secret=secret, response=answer["token"])
        say("/siteverify", verified, "success", "error-codes")

# %% [markdown]
# The bot got in. That is no fault of these pictures: machines read distorted text better than people do (Searles and
# others, 2023). Such a picture is friction: it stops bots that were not written for it, and costs the others a little.
# It does not prove that somebody is human. [The study](captcha.md) says where this is enough, and [serve.md](serve.md)
# how to run the service with a model of your own, rates for each address, and recordings for those who cannot see the
# pictures.
