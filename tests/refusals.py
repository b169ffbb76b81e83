"""Wrong invocations and what is said to each: `python tests/refusals.py` writes docs/refused.md from this table."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file

import jensen
from jensen.cli.main import main
from jensen.training.checkpoint import save_weights
from tiny import tiny

PAGE = Path(__file__).resolve().parents[1] / "docs" / "refused.md"
COMMAND_LINE = """
frobnicate
--frobnicate
train
train capcha
train digits-vae moons-vae
train digits-vae --bogus
train digits-vae --steps
train digits-vae --steps many
train digits-vae --steps 1.5
train digits-vae --steps 0
train digits-vae --steps -3
train digits-vae --minutes soon
train digits-vae --minutes 0
train digits-vae --minutes nan
train digits-vae --minutes inf
train digits-vae --minutes 1 --steps 2
train digits-vae --lr 0
train digits-vae --lr 1e300
train digits-vae --batch-size 0
train digits-vae --batch-size 10000000000
train digits-vae --device tpu
train digits-vae --device cuda:99
train digits-vae --seed -1
train digits-vae --seed 99999999999
train digits-vae --data-b here
train digits-vae --out file.txt
train digits-vae --out full
train digits-vae --out run
train digits-vae --out file.txt/run
train digits-vae --out nowhere --resume
train digits-vae --out run --resume
train moons-vae --out run --resume --seed 9
train moons-vae --out run --resume --data points.csv
train vae
train digits-vae --use nowhere.py
train digits-vae --use file.txt
train digits-vae --use broken.py
train digits-vae --use empty.py
recipes digit-vae
recipes vae --data nowhere.csv
sample
sample nowhere
sample full
sample file.txt
sample run -n 0
sample run -n many
sample run -n 100000000
sample run -n 2 --text 3
sample run --text 3
sample run --steps 4
sample run --guidance 2
sample run --eta 0.5
sample run --scale 0
sample run --seed many
sample run --seed 99999999999999999999999
sample run --seed -1
sample run --interpolate 1
sample run --interpolate 100000000
sample run --out x.jpg
sample run --out full/notes.txt/x.csv
sample digits -n 600
sample digits --text x
sample digits --text
sample digits --sampler magic
sample digits --steps 0
sample digits --steps 99999999999
sample digits --guidance inf
sample digits --guidance nan
sample digits --guidance -1
sample digits --guidance 1e300
sample digits --guidance 1 --guidance-interval 0.5 1
sample digits --style-guidance 2
sample digits --guidance 2 --guidance-interval 1 0.5
sample run --guidance-interval 0.5 1
sample digits --eta 2
sample digits --eta nan
sample digits --mean
sample digits --interpolate 3 --sampler ancestral
sample gan --mean
sample gan --tries 2
sample digits --tries 0
sample digits --tries 2 --interpolate 3
evaluate
evaluate nowhere
evaluate run --json numbers
evaluate run --json file.txt/x.json
evaluate run --features magic
evaluate run --features full
evaluate run --features run
curves nowhere
curves run --out curves.txt
compare
compare run
compare run run
compare run nowhere
compare run digits
compare run again -n 3
compare run again -n 100000000
compare run again --seed -1
compare run again --features magic
compare run again --html page
compare run again --json numbers
check nothing
check nowhere.py
check empty.py
check broken.py
check --precision 0
check --precision nan
check --precision inf
check --processes 0
check --processes many
check --json numbers
check --html page
check --portrait portrait.jpg
data check nowhere
data check full
data check file.txt
data check broken.tar
data check pictures --size 0x0
data check pictures --size many
data check pictures --size 99999999
data pack pictures
data pack pictures --out full
data pack pictures --out pack --size 16 --fit squeeze
data pack pictures --out pack --size 16 --channels 2
data pack pictures --out pack --size 16 --alpha red
data pack nowhere --out packed
data pack pictures --out packed --size 16 --processes 0
"""

SERVICE = """
jensen serve
jensen serve run
jensen serve --part pool
jensen serve --demo --host 0.0.0.0
jensen serve --demo --host nowhere.example
jensen serve --demo --port 70000
jensen serve --demo --port 8000
jensen serve --demo --workers 0
jensen serve --demo --part both
jensen serve --demo --part api
jensen serve --demo --store sqlite:///captcha.sqlite
jensen serve nowhere --demo
jensen serve captcha-release --part api
JENSEN_CAPTCHA_SECRET=change-me jensen serve --part api
JENSEN_CAPTCHA_SECRET=change-me jensen serve --demo
JENSEN_CAPTCHA_SECRET=0123456789abcdef0123456789abcdef jensen serve --part api
JENSEN_CAPTCHA_DEMO=1 jensen serve --demo
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_DEMO=1 jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_ISUE_RATE=9/hour jensen serve --part api
CREDENTIALS_DIRECTORY=shared jensen serve --part api
CREDENTIALS_DIRECTORY=nowhere jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_SITES={ jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_SITES={} jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_SITES='{"a": {"secret": "x", "hostnames": ["x"]}}' jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_TRIES=9 jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_POOL_LOW=2000 jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_ISSUE_RATE=30/day jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_TRUSTED_PROXIES=10.0.0.0/8 jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_TRUSTED_PROXIES='["10.0.0.1/8"]' jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_TRUSTED_PROXIES='["0.0.0.0/0"]' jensen serve --part api
CREDENTIALS_DIRECTORY=secrets JENSEN_CAPTCHA_STORE=sqlite:captcha.sqlite jensen serve --part api
CREDENTIALS_DIRECTORY=secrets jensen serve --part api --store mysql://db/captcha
CREDENTIALS_DIRECTORY=secrets jensen serve --part api --store sqlite:///nowhere/captcha.sqlite
CREDENTIALS_DIRECTORY=secrets jensen serve --part api --store sqlite:///:memory:
CREDENTIALS_DIRECTORY=secrets jensen serve --part api --store redis://127.0.0.1:1/0
CREDENTIALS_DIRECTORY=secrets jensen serve --part api --store postgresql://127.0.0.1:port/captcha
"""

CONFIGURATION = """
digits-vae training.batch_size
digits-vae =3
digits-vae trainin.batch_size=3
digits-vae batch_size=3
digits-vae training=3
digits-vae training.batch_size=many
digits-vae training.batch_size=1.5
digits-vae training.batch_size=true
digits-vae training.batch_size=null
digits-vae training.batch_size=[]
digits-vae training.batch_size=99999999999
digits-vae training.rate=NaN
digits-vae training.rate=Infinity
digits-vae training.rate=-1e300
digits-vae training.rate=1e300
digits-vae training.rates.critic=1e-3
digits-vae training.rates.model=0
digits-vae training.betas=[0.9]
digits-vae training.betas=[0.9,1]
digits-vae training.betas=0.9
digits-vae training.weight_decay=-1
digits-vae training.warmup=-1
digits-vae training.warmup=100000000000000000000
digits-vae training.decay=0
digits-vae training.clip=0
digits-vae training.average=1
digits-vae training.precision=float8
moons-kernel training.precision=bfloat16
digits-vae training.compile=maybe
digits-vae training.save_every=0
digits-vae training.device=tpu
digits-vae seed=1.5
digits-vae name=mine
digits-vae space=null
digits-vae family.kind=diffusion
digits-vae data.kind=moons
digits-vae network.hidden=100000000000000000000
digits-vae network.hidden=0
digits-vae network.depth=100000
digits-vae network.latents=[]
digits-vae network.latents=[0]
digits-vae network.latents=[1,2,3,4,5]
digits-vae network.latents=8
digits-vae network.direction=ladder
digits-vae network.classes=4
digits-vae network.decoder=magic
digits-vae bound.name=magic
digits-vae bound.samples=100000000000
digits-vae bound.beta=-1
digits-vae bound.gradient=dreg
digits-vae bound.kl_limit=0
digits-vae bound.warm_steps=5
digits-iwae bound.beta=2
digits-categorical network.latents=[4,4]
digits-categorical bound.coldest=2
digits-vae judging.samples=3
digits-vae judging.samples=100000000000000000000
digits-vae judging.importance=0
digits-vae judging.features=magic
digits-vae judging.features=full
digits-vae judging.critic_steps=3
digits-vae judging.refine_rows=1
digits-ddpm judging.steps=4
digits-ddpm judging.steps=[0]
digits-ddpm judging.steps=[4,-1]
digits-ddpm judging.scales=[-1]
digits-ddpm judging.scales=[1e300]
digits-ddpm judging.first=0
digits-ddpm sampling.sampler=magic
digits-ddpm sampling.steps=0
digits-ddpm sampling.guidance=1e300
digits-ddpm sampling.start=0
digits-ddpm network.width=100000000000000000000
digits-ddpm network.schedule=magic
digits-ddpm network.output=magic
digits-ddpm loss.drop=2
digits-unconditional sampling.guidance=2
moons-diffusion sampling.guidance=2
digits-ddpm sampling.guidance=1 sampling.guidance_interval=[0.5,1]
digits-ddpm sampling.guidance=2 sampling.style_guidance=2
digits-ddpm sampling.guidance=2 sampling.guidance_interval=[1,0.5]
moons-diffusion sampling.clip=true
moons-diffusion network.kind=unet
moons-score network.levels=1
moons-score network.smallest=9
moons-score sampling.step_size=2
moons-kernel density.bandwidth=-1
moons-kernel density.bandwidth=wide
moons-mixture components.components=0
moons-vae data.points=1
moons-vae data.points=100000000000000000000
moons-vae data.test=1
moons-vae data.noise=0
ring-gan data.modes=0
ring-gan data.modes=100000000
ring-gan data.std=0
ring-gan game.loss=magic
ring-gan game.packing=0
ring-gan game.critic_steps=100000000000
ring-gan game.update=magic
grid-gan data.side=100000
grid-pacgan training.batch_size=7
digits-wgan game.clip=0
digits-cyclegan network.width=9
digits-cyclegan network.critic=[]
digits-cyclegan weights.pool=-1
digits-cyclegan data.side=9999
captcha data.pictures=10000000000000
captcha data.pictures=0
captcha data.height=12
captcha data.height=99999992
captcha data.length=0
captcha data.length=1
captcha data.length=1000000
captcha data.alphabet=AAB
captcha data.ink=[140,70]
captcha data.ink=[0,30]
captcha data.ink=140
captcha data.reader=nowhere
captcha data.reader=run
captcha data.second=captcha-release-reader
captcha training.start=nowhere
digits-vae training.start=run
captcha network.widths=[96,100]
captcha network.widths=8
captcha network.output=eps
captcha-release data.papers=["grid","grid"]
sprites-vae data.size=4
sprites-vae data.size=100000
sprites-vae data.test=99999
sprites-vae data.scales=100
stacked-digits-gan data.balance=0
"""

DATA = """
train vae --data nowhere.csv
train vae --data moon
train vae --data empty.csv
train vae --data header.csv
train vae --data ragged.csv
train vae --data nan.csv
train vae --data missing.csv
train vae --data twice.csv
train vae --data constant.csv
train vae --data one.csv
train vae --data huge.csv
train vae --data latin.csv
train vae --data zeros.csv
train vae --data points.csv --set data.label=nothing
train vae --data points.csv --set data.test=1
train vae --data points.csv --set data.test=0.001
train vae --data points.csv --data-b points.csv
train translation --data points.csv --data-b points.csv
train translation --data pictures
train reader --data points.csv
train vae --data file.txt
train vae --data broken.npy
train vae --data pickled.npy
train vae --data complex.npy
train vae --data text.npy
train vae --data scalar.npy
train vae --data empty.npy
train vae --data nan.npy
train vae --data rank5.npy
train vae --data wide.npy
train vae --data broken.npz
train vae --data two.npz
train vae --data broken.parquet
train vae --data broken.tar
train vae --data broken-idx3-ubyte
train vae --data full
train vae --data pictures --set data.size=99999
train vae --data pictures --set data.size=[8,8,8]
train vae --data pictures --set data.channels=2
train vae --data pictures --set data.fit=squeeze
train vae --data damaged
train vae --data pack
train mixture --data pictures
"""

FOLDERS = """
sample hostile/missing
sample hostile/empty
sample hostile/list
sample hostile/number
sample hostile/old
sample hostile/recipe
sample hostile/deep
sample hostile/latin
sample hostile/cut
sample hostile/key
sample hostile/kind
sample hostile/family
sample hostile/module
sample hostile/size
sample hostile/seed
sample hostile/nan
sample hostile/infinite
sample hostile/shapeless
sample hostile/shape
sample hostile/negative
sample hostile/giant
sample hostile/std
sample hostile/levels
sample hostile/unweighted
sample hostile/directory
sample hostile/half
sample hostile/pickled
sample hostile/header
sample hostile/headless
sample hostile/other
sample hostile/nanweights
sample hostile/renamed
sample hostile/traversal
evaluate hostile/deep
curves hostile/deep
compare run hostile/deep
train moons-vae --out hostile/pickledstate --resume --steps 9
train moons-vae --out hostile/liststate --resume --steps 9
train moons-vae --out hostile/emptystate --resume --steps 9
train moons-vae --out hostile/stateless --resume --steps 9
train moons-vae --out hostile/deep --resume --steps 9
curves hostile/silent
evaluate hostile/moved
"""


def config(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def made(folder: Path) -> None:
        tree = json.loads((folder / "config.json").read_text())
        new = change(tree)
        (folder / "config.json").write_text(json.dumps(tree if new is None else new))

    return made


def at(*keys, value):
    def change(tree):
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return config(change)


def text(content: bytes, name="config.json"):
    return lambda folder: (folder / name).write_bytes(content)


def weights(change):
    def made(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_weights(change(tensors), folder / "model.safetensors", 2)

    return made


class Evil:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("canary",)


def states(content):
    def made(folder: Path) -> None:
        for path in (folder / "state").iterdir():
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)

    return made


def moved(folder):
    for path in (folder / "state").iterdir():
        path.unlink()


def directory(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


DEEP = b"[" * 100_000
HOSTILE = {
    "missing": ("no config.json", lambda folder: (folder / "config.json").unlink()),
    "empty": ("config.json is empty", text(b"")),
    "list": ("config.json: `[]`", text(b"[]")),
    "number": ("config.json: `5`", text(b"5")),
    "old": ('config.json: `{"recipe": "digits-vae"}`', text(b'{"recipe": "digits-vae"}')),
    "recipe": ('config.json: `{"recipe": ["digits-vae"]}`', text(b'{"recipe": ["digits-vae"]}')),
    "deep": ("config.json: 100,000 opening brackets", text(DEEP)),
    "latin": ("config.json is not UTF-8", text(b'{"name": "caf\xe9"}')),
    "cut": ("config.json ends early", text(b'{"name": "moons-vae", "data": {')),
    "key": ("an unknown key", at("sead", value=3)),
    "kind": ("a family without a kind", config(lambda t: t["family"].pop("kind") and None)),
    "family": ("an unknown family", at("family", "kind", value="os.system")),
    "module": ("a family that is a list", at("family", value=["vae"])),
    "size": ("network.hidden is 10^20", at("family", "network", "hidden", value=10**20)),
    "seed": ("seed is text", at("seed", value="zero")),
    "nan": ("training.rate is NaN", at("training", "rate", value=float("nan"))),
    "infinite": ("training.rate is 10^400", text(b'{"name": "x", "seed": 1e400}')),
    "shapeless": ("space is null", at("space", value=None)),
    "shape": ("space.shape is []", at("space", "shape", value=[])),
    "negative": ("space.shape is [-2]", at("space", "shape", value=[-2])),
    "giant": ("space.shape is [10^12]", at("space", "shape", value=[10**12])),
    "std": ("space.std is 0", at("space", "std", value=0.0)),
    "levels": ("space.levels is 1", at("space", "levels", value=1)),
    "unweighted": ("no model.safetensors", lambda folder: (folder / "model.safetensors").unlink()),
    "directory": ("model.safetensors is a folder", directory),
    "half": (
        "half of model.safetensors",
        lambda f: text((f / "model.safetensors").read_bytes()[:900], "model.safetensors")(f),
    ),
    "pickled": (
        "model.safetensors is a pickle that runs a command",
        text(pickle.dumps(Evil(), 2), "model.safetensors"),
    ),
    "header": (
        "model.safetensors claims a header of 2^62 bytes",
        text((2**62).to_bytes(8, "little") + b"{}", "model.safetensors"),
    ),
    "headless": (
        "model.safetensors has a header that is no JSON",
        text((8).to_bytes(8, "little") + b"[[[[[[[[", "model.safetensors"),
    ),
    "other": ("weights of another shape", weights(lambda t: {k: v.reshape(-1)[:1].clone() for k, v in t.items()})),
    "nanweights": (
        "a weight is NaN",
        weights(lambda t: {k: v * torch.nan if k == "decoders.0.net.0.0.bias" else v for k, v in t.items()}),
    ),
    "renamed": ("weights with other names", weights(lambda t: {f"x.{k}": v for k, v in t.items()})),
    "traversal": (
        'the name is "../../outside", the seed text',
        config(lambda t: t.update(name="../../outside", seed="x")),
    ),
    "pickledstate": ("checkpoints are pickles that run a command", states(pickle.dumps(Evil(), 2))),
    "liststate": ("checkpoints hold a list", states([1, 2])),
    "emptystate": ("checkpoints hold an empty mapping", states({})),
    "stateless": ("no checkpoints", moved),
    "silent": ("no journal.jsonl", lambda folder: (folder / "journal.jsonl").unlink()),
    "moved": ("the data set was changed", at("data", "points", value=64)),
}


def array(value) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def arrays(**values) -> bytes:
    file = io.BytesIO()
    np.savez(file, **values)
    return file.getvalue()


def picture(side: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)).save(file, "png")
    return file.getvalue()


SECRET = token_hex(32)
POINTS = "".join(f"{k % 7},{k * k % 11}\n" for k in range(60))
FILES = {
    "file.txt": b"words",
    "full/notes.txt": b"mine",
    "broken.py": b"1 / 0",
    "empty.py": b"",
    "points.csv": POINTS.encode(),
    "empty.csv": b"",
    "header.csv": b"a,b\n",
    "ragged.csv": b"1,2\n3\n",
    "words.csv": b"1,2\n3,four\n" * 20,
    "nan.csv": b"1,2\nnan,4\n" * 20,
    "missing.csv": b"1,2\n,4\n" * 20,
    "twice.csv": b"a,a\n1,2\n",
    "constant.csv": b"1,2\n" * 40,
    "one.csv": b"1,2\n",
    "huge.csv": b"1,1e300\n3,2\n" * 20,
    "latin.csv": b"caf\xe9,b\n1,2\n",
    "zeros.csv": b"\0" * 40,
    "broken.npy": b"\x93NUMPY\x01",
    "pickled.npy": array(np.array([Evil()], dtype=object)),
    "complex.npy": array(np.ones((40, 2), complex)),
    "text.npy": array(np.array([["a", "b"]] * 40)),
    "scalar.npy": array(np.float32(3)),
    "empty.npy": array(np.ones((0, 2))),
    "nan.npy": array(np.full((40, 2), np.nan)),
    "rank5.npy": array(np.ones((40, 2, 2, 2, 2))),
    "wide.npy": array(np.ones((40, 0))),
    "broken.npz": b"PK\x03\x04",
    "two.npz": arrays(a=np.ones((40, 2)), b=np.ones((40, 2))),
    "broken.parquet": b"PAR1",
    "broken.tar": b"not a tar file",
    "broken-idx3-ubyte": b"\0\0\x08\x03",
    "damaged/a.png": b"\x89PNG\r\n",
    "damaged/b.png": b"",
    **{f"pictures/{k}.png": picture(16 + k % 2) for k in range(30)},
    **{f"captions/{k}.png": picture(16) for k in range(30)},
    "captions/0.txt": b"caf\xe9",
    "secrets/JENSEN_CAPTCHA_SECRET": SECRET.encode(),
    "secrets/JENSEN_CAPTCHA_SITES": json.dumps({"shop": {"secret": SECRET[::-1], "hostnames": ["x"]}}).encode(),
    "shared/JENSEN_CAPTCHA_SECRET": SECRET.encode(),
    "shared/JENSEN_CAPTCHA_SITES": json.dumps({"shop": {"secret": SECRET, "hostnames": ["x"]}}).encode(),
    "pack/facts.json": DEEP,
    "pack/pack.json": DEEP,
}


PYTHON = """
jensen.train("digit-vae")
jensen.train("vae")
jensen.train(5, data=X)
jensen.train(torch.nn.Linear(2, 2), data=X)
jensen.train("vae", data=None, steps=2, minutes=1.0)
jensen.train("vae", data=X, settings=["a=1"])
jensen.train("vae", data=X, settings={"a": 1})
jensen.train("vae", data=X, steps=0)
jensen.train("vae", data=X, steps=1.5)
jensen.train("vae", data=X, steps=10**20)
jensen.train("vae", data=X, minutes=float("nan"))
jensen.train("vae", data=X, rate=1e300)
jensen.train("vae", data=X, rate={"critic": 1e-3})
jensen.train("vae", data=X, batch_size=0)
jensen.train("vae", data=X, seed=-1)
jensen.train("vae", data=X, model=torch.nn.Linear(2, 2))
jensen.train("vae", data=X, use="nowhere.py")
jensen.train("vae", data=X, use=[5])
jensen.train("vae", data=X, use=5)
jensen.train("vae", 5, data=X)
jensen.train("vae", data=X, watch=3)
jensen.train("vae", data=X, track=3)
jensen.train("vae", "run", data=X)
jensen.train("vae", data=X[:, :0])
jensen.train("vae", data=X[:0])
jensen.train("vae", data=X[:3])
jensen.train("vae", data=X * torch.nan)
jensen.train("vae", data=X * 0)
jensen.train("vae", data=X[0])
jensen.train("vae", data=X * 1j)
jensen.train("vae", data=X.tolist())
jensen.train("vae", data=5)
jensen.train("vae", data="nowhere.csv")
jensen.train("vae", data={"x": X, "cond": X[:5, 0]})
jensen.train("vae", data=np.ones((40, 4, 4), np.uint16))
jensen.train("translation", data=X, data_b=X)
jensen.open(None)
jensen.open("nowhere")
jensen.open("full")
jensen.open("run", device="tpu")
jensen.open("run", model=torch.nn.Linear(2, 2))
jensen.open("run").sample(0)
jensen.open("run").sample(-1)
jensen.open("run").sample(2.5)
jensen.open("run").sample(n=True)
jensen.open("run").sample(track=3)
jensen.open("run").sample(4, cond="3")
jensen.open("run").sample(4, steps=3)
jensen.open("run").sample(4, seed=-1)
jensen.open("run").sample(4, seed=0.5)
jensen.open("digits").sample(4, cond="x")
jensen.open("digits").sample(4, cond=["1", "2"])
jensen.open("digits").sample(4, steps=2.5)
jensen.open("digits").sample(4, steps=10**9)
jensen.open("digits").sample(4, guidance=float("nan"))
jensen.open("digits").sample(4, guidance="big")
jensen.open("digits").sample(4, sampler="magic")
jensen.open("run").interpolate(0)
jensen.open("run").interpolate(2, 1)
jensen.open("run").interpolate(2, "a")
jensen.open("run").curves(5)
jensen.open("run").encode(X[:, :1])
jensen.open("run").encode(X * torch.nan)
jensen.open("run").encode(X[:0])
jensen.open("run").encode("x")
jensen.open("gan").encode(X)
jensen.open("gan").log_likelihood(X)
jensen.open("run").log_likelihood(X, draws=0)
jensen.open("run").log_likelihood(X, seed=-1)
jensen.open("run").evaluate(data=X)
jensen.open("run").evaluate(features="magic")
jensen.open("run").export("full")
jensen.open("run").export(5)
jensen.compare()
jensen.compare("run")
jensen.compare(X)
jensen.compare({"a": X, "b": X})
jensen.compare({"a": X, "b": X}, data=X, judge_steps=0)
jensen.compare({"a": X, "b": X[:, :1]}, data=X)
jensen.compare({"a": X, "b": X}, data=X, n="x")
jensen.compare({"a": X, "b": X}, data=X, judge_steps="x")
jensen.compare({"a": X, "b": X * torch.nan}, data=X)
jensen.configure("digit-vae")
jensen.configure("digits-vae", ["seed"])
jensen.configure("digits-vae", ["seed=x"])
jensen.configure("digits-vae", "seed=1")
jensen.configure("digits-vae", seed=-1)
jensen.load_data("nowhere")
jensen.load_data(X[:1])
"""


SETTINGS = ("JENSEN_CAPTCHA_", "CREDENTIALS_DIRECTORY")


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder with all files and runs of the table, which is the current one inside; port 8000 is in use."""
    before = Path.cwd()
    with TemporaryDirectory() as name, socket.socket() as listener, patch.dict(os.environ):
        for setting in [key for key in os.environ if key.startswith(SETTINGS)]:
            del os.environ[setting]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # by tests in other processes too
        with contextlib.suppress(OSError):  # or another program uses it
            listener.bind(("127.0.0.1", 8000))
            listener.listen()
        os.chdir(name)
        try:
            prepare()
            yield Path(name).resolve()
        finally:
            os.chdir(before)


def prepare() -> None:
    for name, content in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    for name, recipe in {"run": "moons-vae", "digits": "digits-ddpm", "gan": "ring-gan"}.items():
        words = tiny(recipe, training__previews=0)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code, err = said(["train", recipe, "--out", name, "--steps", "2", "--no-evaluate", *words], Path())
            assert code == 0, err
    shutil.copytree("run", "again")
    for name, (_, change) in HOSTILE.items():
        shutil.copytree("run", f"hostile/{name}")
        change(Path("hostile", name))


def said(words: list[str], place: Path) -> tuple[int, str]:
    """Exit code and what is written to standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, err.getvalue().replace(f"{place}/", "")


def said_apart(words: list[str]) -> tuple[int, str]:
    """The same of a process of its own, for commands that start others; without the lines of its log."""
    command = [sys.executable, "-c", "from jensen.cli.main import entry; entry()", *words]
    ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return ran.returncode, "".join(line for line in ran.stderr.splitlines(True) if not line.startswith("{"))


def refused(line: str, place: Path) -> tuple[int, str]:
    """Exit code of a command and the one line on standard error."""
    words = shlex.split(line)
    name = words.index("jensen")
    with patch.dict(os.environ, dict(word.split("=", 1) for word in words[:name])):
        given = words[name + 1 :]
        code, err = said_apart(given) if "pool" in given else said(given, place)
    assert code in (1, 2), line
    assert err.startswith("jensen: "), line
    assert err.count("\n") == 1, (line, err)
    return code, err


def called(source: str, place: Path) -> tuple[str, str]:
    """The kind of the exception that a Python expression raises, and its message."""
    X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) + 3
    try:
        eval(source, {"jensen": jensen, "torch": torch, "np": np, "X": X})
    except Exception as error:  # noqa: BLE001 (whatever is raised goes into the table)
        return type(error).__name__, str(error).replace(f"{place}/", "")
    return "", "no error"


SHELL = {
    "Command line": ("jensen ", COMMAND_LINE),
    "Configuration": ("jensen train ", CONFIGURATION.replace(" ", " --set ")),
    "Data": ("jensen ", DATA),
    "Run folders": ("jensen ", FOLDERS),
    "Service": ("", SERVICE),
}
NOTES = {"Service": "`secrets/` holds a good secret and a good site. Port 8000 is in use.\n\n"}
HEAD = """# What is refused, and how

Every row is run by a test, which compares exit code and sentence with this page. To write the page again after a
change: `python tests/refusals.py`.

Exit code 2: wrong arguments, configuration, data or run folder; nothing was made or changed. Exit code 1: a run or a
law failed, or an exception that nobody foresaw, whose traceback is in the file that the sentence names. From Python the
same sentences are those of a `ValueError`.
"""


def page(place: Path) -> str:
    """docs/refused.md."""
    parts = [HEAD]
    for name, (prefix, rows) in SHELL.items():
        lines = [prefix + row for row in rows.strip().splitlines()]
        made = [(line, *refused(line, place)) for line in lines]
        parts.append(f"## {name}\n\n{NOTES.get(name, '')}" + table(("command", "exit", "sentence"), made))
    made = [(line, *called(line, place)) for line in PYTHON.strip().splitlines()]
    parts.append("## Python\n\n`X` is a tensor of 60 points.\n\n" + table(("call", "raises", "sentence"), made))
    folders = [(f"hostile/{name}", what) for name, (what, _) in HOSTILE.items()]
    parts.append("## The folders of these rows\n\n" + table(("folder", "is a run, except that"), folders))
    named = [(n, repr(v[:40])[2:-1] or "(empty)") for n, v in FILES.items() if "/" not in n and ".np" not in n]
    parts.append("## The files of these rows\n\n" + table(("file", "begins with"), named))
    return "\n".join(parts)


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *([cell(v) for v in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: object) -> str:
    words = " ".join(str(value).removeprefix("jensen: ").split()).replace("|", "\\|")
    return words if words.isdigit() or not words else f"`` {words} ``"


if __name__ == "__main__":
    with workplace() as place:
        made = page(place)
    PAGE.write_text(made, encoding="utf-8")
