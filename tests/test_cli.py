"""The command line for its user: what works, errors in one line, and runs that are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file

import jensen
from jensen.cli.main import app, main
from jensen.core.seeding import derived
from jensen.diffusion import SAMPLERS
from jensen.recipes.families.base import Family
from jensen.recipes.presets import PRESETS
from jensen.recipes.sources.captcha import Captcha
from jensen.recipes.words import settings
from tiny import tiny

pytestmark = pytest.mark.usefixtures("short_judging")
SETTINGS = tiny("captcha", judging__samples=16, training__previews=1)


def train_words(out, *more, steps=6):
    return ["train", "captcha", "--out", str(out), "--steps", str(steps), *SETTINGS, *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny finished run, judged."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(train_words(out)) == 0
    return out


def refused(capsys, words, *parts):
    """Exit code 2, one line on standard error that contains these parts, and nothing on standard output."""
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jensen: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_a_run_is_a_complete_folder(run):
    names = {p.name for p in run.iterdir()}
    assert names == {
        "config.json",
        "evaluation.json",
        "journal.jsonl",
        "model.safetensors",
        "report.html",
        "samples",
        "state",
    }
    evaluation = json.loads((run / "evaluation.json").read_text())
    found = evaluation["findings"]
    for key in ("legibility", "characters", "ceiling"):
        low, high = found[key]["interval"]
        assert 0 <= low <= found[key]["value"] <= high <= 1
    assert found["ceiling"]["value"] > 0.9
    assert found["legibility"]["floor"] == 0
    assert evaluation["step"] == 6
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    assert {p.name for p in (run / "samples").iterdir()} >= {"asked.png", "strip.png", "unconditional.png"}
    page = (run / "report.html").read_text()
    assert not re.search(r"(src|href)=.http", page)  # the page is one self-contained file
    assert len(list((run / "state").iterdir())) == 2


def test_recipes_are_listed(capsys):
    """One line per recipe, and the settings of one recipe with a line of description each."""
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    families = [name for name in Family.kinds if name not in PRESETS and name != "own"]
    assert len(lines) == len(PRESETS) + len(families) + 5  # two headings, two empty lines, the next commands
    assert [line.split()[0] for line in lines[len(PRESETS) + 3 : -2]] == families
    assert [line.split()[0] for line in lines[1 : len(PRESETS) + 1]] == list(PRESETS)
    assert main(["recipes", "ring-gan"]) == 0
    out = capsys.readouterr().out
    for key in ("training.rate", "game.penalty", "data.modes", "judging.critic_steps"):
        assert re.search(rf"^{re.escape(key)} +\S+ +[a-z]", out, flags=re.MULTILINE)
    assert "judging.importance" not in out  # a setting of another family
    assert main(["recipes", "vae"]) == 0
    out = capsys.readouterr().out
    assert "network.latents" in out
    assert "jensen train vae --data PATH --set KEY=VALUE" in out
    refused(capsys, ["recipes", "ring-gam"], "did you mean 'ring-gan'")


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_has_a_meaning(name):
    found = settings(PRESETS[name])
    assert len(found) > 20
    assert [key for key, (_, meaning) in found.items() if not meaning] == []


def test_options_are_settings(tmp_path):
    words = ["--lr", "0.01", "--batch-size", "4", "--device", "cpu", "--no-evaluate"]
    assert main(train_words(tmp_path / "run", *words, steps=1)) == 0
    training = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert (training["rate"], training["batch_size"], training["device"]) == (0.01, 4, "cpu")


def test_version_and_examples(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jensen {jensen.__version__}\n"
    assert main(["train", "--help"]) == 0
    assert "jensen train digits-ddpm" in capsys.readouterr().out


def test_evaluate_again_gives_the_same_numbers(run, tmp_path):
    before = json.loads((run / "evaluation.json").read_text())
    assert main(["evaluate", str(run), "--json", str(tmp_path / "e.json")]) == 0
    after = json.loads((tmp_path / "e.json").read_text())
    assert before == after


def sampled(run, tmp_path, *words):
    out = tmp_path / "out.png"
    assert main(["sample", str(run), *words, "--out", str(out), "--scale", "1"]) == 0
    return opened(out)


def opened(path):
    with Image.open(path) as image:
        return image.copy()


def cell(image, column):
    """One picture of a sheet with one row."""
    left = 6 + column * (64 + 6)
    return image.crop((left, 6, left + 64, 6 + 24)).tobytes()


def test_a_picture_depends_on_its_text_and_seed_alone(run, tmp_path):
    both = sampled(run, tmp_path, "--text", "7038", "4411", "--seed", "5")
    swapped = sampled(run, tmp_path, "--text", "4411", "7038", "--seed", "5")
    alone = sampled(run, tmp_path, "--text", "7038", "--seed", "5")
    labelled = sampled(run, tmp_path, "--label", "7038", "4411", "--seed", "5")
    other = sampled(run, tmp_path, "--text", "7038", "--seed", "6")
    assert labelled.tobytes() == both.tobytes()
    assert cell(both, 0) == cell(swapped, 1) == cell(alone, 0)
    assert cell(both, 0) != cell(both, 1)
    assert cell(alone, 0) != cell(other, 0)
    twice = sampled(run, tmp_path, "--text", "7038", "7038", "--seed", "5")
    assert cell(twice, 0) == cell(alone, 0) != cell(twice, 1)


def test_samples_without_a_text_into_a_folder(run, tmp_path):
    out = tmp_path / "pictures"
    assert main(["sample", str(run), "-n", "3", "--seed", "1", "--out", str(out), "--scale", "2"]) == 0
    assert [opened(p).size for p in sorted(out.iterdir())] == [(128, 48)] * 3
    sheet = sampled(run, tmp_path, "-n", "2", "--seed", "1")
    assert opened(sorted(out.iterdir())[1]).resize((64, 24), 0).convert("RGB").tobytes() == cell(sheet, 1)


def test_guidance_without_a_text_is_said_to_do_nothing(run, tmp_path, capsys):
    """One line on standard error and the same picture; no line with a text or with guidance off."""
    plain = sampled(run, tmp_path, "-n", "1", "--guidance", "1")
    assert capsys.readouterr().err == ""
    for words in (["-n", "1"], ["-n", "1", "--interpolate", "2"]):
        strong = sampled(run, tmp_path, *words, "--guidance", "9")
        err = capsys.readouterr().err
        assert err == "jensen: --guidance has no effect without --text: there is no condition\n"
        assert words[2:] or cell(strong, 0) == cell(plain, 0)
    sampled(run, tmp_path, "-n", "1", "--guidance", "9", "--guidance-interval", "0.5", "1")
    assert [line.split(" has")[0] for line in capsys.readouterr().err.splitlines()] == [
        "jensen: --guidance",
        "jensen: --guidance-interval",
    ]
    sampled(run, tmp_path, "--text", "1234", "--guidance", "9")
    assert capsys.readouterr().err == ""


def test_the_interval_of_guidance_can_be_chosen(run, tmp_path):
    """Guidance between t = 0 and 1 is guidance at all times, and guidance at one time that no step has is none."""
    words = ["--text", "1234", "--steps", "3", "--guidance"]
    plain, strong = (cell(sampled(run, tmp_path, *words, w), 0) for w in ("1", "100000"))
    for interval, same in (("0 1", strong), ("0.001 0.001", plain)):
        assert cell(sampled(run, tmp_path, *words, "100000", "--guidance-interval", *interval.split()), 0) == same
    assert plain != strong


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_steps_and_guidance_can_be_chosen(run, tmp_path, sampler):
    words = ["--text", "1234", "--sampler", sampler, "--steps", "3"]
    plain = sampled(run, tmp_path, *words, "--guidance", "1")
    strong = sampled(run, tmp_path, *words, "--guidance", "100000")  # six steps have taught it little about texts
    assert cell(plain, 0) != cell(strong, 0)


class Choosy:
    """A reader that reads 7038 in a picture whose first pixel is above a value, and 0000 in others."""

    def __init__(self, least):
        self.least, self.count = least, 0

    def likes(self, x):
        return x[:, 0, 0, 0] > self.least

    def read(self, x):
        self.count += len(x)
        return torch.where(self.likes(x)[:, None], torch.tensor([7, 0, 3, 8]), torch.zeros(4, dtype=torch.long))


def test_a_text_that_is_misread_is_drawn_again(run, monkeypatch):
    """What was read as asked stays, the others are those of the next seed; no more than that is drawn and read."""
    model = jensen.open(run)
    asked = model.space.cond.encode(["7038"] * 12)
    first = model.sample(12, cond="7038", seed=5).x
    reader = Choosy(float(first[:, 0, 0, 0].median()))
    monkeypatch.setattr(Captcha, "open_reader", lambda *_: reader)
    assert torch.equal(model.sample(12, cond="7038", seed=5, tries=1).x, first)
    wrong = (~reader.likes(first)).nonzero()[:, 0]
    assert 0 < len(wrong) < 12
    expected = first.clone()
    expected[wrong] = model.draw(len(wrong), cond=asked[wrong], seed=derived(5, "again", 1))
    assert torch.equal(model.sample(12, cond="7038", seed=5, tries=2).x, expected)
    assert reader.count == 12
    found = model.sample(12, cond="7038", seed=5, tries=100).x
    assert bool(reader.likes(found).all())
    assert torch.equal(found[reader.likes(expected)], expected[reader.likes(expected)])


def test_how_many_are_misread_is_said(run, tmp_path, capsys, monkeypatch):
    for least, words, last in (
        (-9.0, ["--tries", "3"], "7038  reads 7038"),
        (9.0, [], "2 of 2 misread  --tries 8 draws such texts again"),
        (9.0, ["--tries", "3"], "2 of 2 misread  after 3 tries"),
    ):
        monkeypatch.setattr(Captcha, "open_reader", lambda *_, least=least: Choosy(least))
        sampled(run, tmp_path, "--text", "7038", "7038", *words)
        assert capsys.readouterr().out.splitlines()[-1].strip() == last


def test_classes_are_drawn_again_too(tmp_path, capsys):
    """An untrained model draws noise: of 10 samples, drawn twice, all read as asked would be a chance of 1e-7."""
    out = tmp_path / "digits"
    assert main(["train", "digits-ddpm", "--out", str(out), "--steps", "2", "--no-evaluate", *tiny("digits-ddpm")]) == 0
    for words in (["--text", *"0123456789"], ["-n", "10"]):
        capsys.readouterr()
        assert main(["sample", str(out), *words, "--tries", "2", "--out", str(tmp_path / "x.png")]) == 0
        assert re.search(r"^[1-9]\d? of 10 misread +after 2 tries$", capsys.readouterr().out, re.MULTILINE)


def test_where_there_is_no_reader_nothing_is_drawn_again(tmp_path, capsys):
    table = tmp_path / "points.csv"
    table.write_text("x,y,kind\n" + "".join(f"{k * k % 97},{k * 31 % 89},{'ab'[k % 2]}\n" for k in range(200)))
    out = tmp_path / "points"
    words = ["--data", str(table), "--out", str(out), "--steps", "2", "--no-evaluate", "--batch-size", "8"]
    assert main(["train", "diffusion", *words, "--set", "training.previews=0"]) == 0
    said = "--tries cannot be used with a run of diffusion: there is no reader of its data"
    refused(capsys, ["sample", str(out), "--text", "a", "--tries", "2"], said)


def test_two_runs_of_one_seed_are_bit_identical_and_of_two_are_not(run, tmp_path):
    assert main([*train_words(tmp_path / "again"), "--no-evaluate"]) == 0
    assert main([*train_words(tmp_path / "other"), "--no-evaluate", "--seed", "1"]) == 0
    first, again, other = (load_file(p / "model.safetensors") for p in (run, tmp_path / "again", tmp_path / "other"))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def start(words, log):
    """Run the command in a forked process, to be killed; its standard error goes to `log`."""

    def command():
        with log.open("w") as sys.stderr:
            code = main(words)
        sys.exit(code)

    process = multiprocessing.get_context("fork").Process(target=command)
    process.start()
    return process


def wait_for(condition, exit_code, log, seconds=120):
    """Wait until the condition holds; fail if the process ends before (its exit code is None while it runs)."""
    end = time.monotonic() + seconds
    while not condition():
        assert exit_code() is None, log.read_text()
        assert time.monotonic() < end
        time.sleep(0.01)


def newest(run):
    """The step of the newest checkpoint, 0 without one."""
    return max([int(p.stem) for p in (run / "state").glob("[0-9]*.pt")], default=0)


def journal_of(run):
    """The journal's lines without their times."""
    timed = ("seconds", "examples_per_second")
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def test_a_run_of_minutes_ends_by_the_clock_and_goes_on_by_it(tmp_path):
    """A run that is stopped and resumed: elapsed time continues, and the last journal line and preview are written."""
    out, log = tmp_path / "minutes", tmp_path / "log"
    process = start(["train", "captcha", "--out", str(out), "--minutes", "0.05", "--no-evaluate", *SETTINGS], log)
    journal = out / "journal.jsonl"
    wait_for(lambda: journal.exists() and journal.stat().st_size > 300, lambda: process.exitcode, log)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 130
    stopped = json.loads(journal.read_text().splitlines()[-1])
    assert main(["train", "captcha", "--out", str(out), "--resume", "--no-evaluate"]) == 0
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == sorted({line["step"] for line in trained})
    assert all(a["seconds"] <= b["seconds"] for a, b in pairwise(trained))
    assert 3 <= trained[-1]["seconds"] < 6  # the budget was 3 seconds; the last step may be slow
    assert trained[-1]["seconds"] > stopped["seconds"]
    assert [line["step"] for line in lines if "legibility" in line] == [trained[-1]["step"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"network.output": "eps", "loss.name": "eps", "sampling.start": 0.999},
        {"network.output": "v", "loss.name": "v", "network.schedule": "cosine"},
        {"network.output": "eps", "loss.name": "eps", "network.schedule": "linear"},
        {"network.output": "x", "loss.name": "x"},
        {"network.output": "edm", "network.schedule": "cosine"},
    ],
)
def test_every_view_trains_and_samples_from_the_command_line(tmp_path, changes):
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    assert main(train_words(tmp_path / "run", "--no-evaluate", *words, steps=2)) == 0
    assert main(["sample", str(tmp_path / "run"), "--text", "0123", "--out", str(tmp_path / "x.png")]) == 0
    assert opened(tmp_path / "x.png").getextrema()[0][0] < 255


def test_a_run_that_fails_exits_with_one(tmp_path, capsys):
    words = train_words(tmp_path / "run", "--set", "training.rate=1e38", "--set", "training.clip=null", steps=50)
    assert main(words) == 1
    assert "is not finite at step" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_killed_at_a_random_moment_and_resumed_is_the_uninterrupted_run(tmp_path):
    """SIGKILL after a checkpoint and a random wait, three times; the final weights are bitwise equal."""
    steps, out, log = 80, tmp_path / "killed", tmp_path / "log"
    quiet = ("--no-evaluate", "--set", "training.previews=0", "--set", "training.log_every=3")
    resumed = ["train", "captcha", "--out", str(out), "--resume", "--no-evaluate"]
    rng = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "big"))
    words, seen = train_words(out, *quiet, steps=steps), 0
    for _ in range(3):
        process = start(words, log)
        wait_for(lambda seen=seen: newest(out) > seen, lambda process=process: process.exitcode, log)
        time.sleep(float(torch.rand((), generator=rng)) * 0.15)
        process.kill()
        process.join()
        words, seen = resumed, newest(out)
    assert main(resumed) == 0
    assert main(train_words(tmp_path / "whole", *quiet, steps=steps)) == 0
    killed, uninterrupted = (load_file(p / "model.safetensors") for p in (out, tmp_path / "whole"))
    assert all(torch.equal(value, uninterrupted[name]) for name, value in killed.items())
    assert journal_of(out) == journal_of(tmp_path / "whole")
    assert [line["step"] for line in journal_of(out) if "loss" in line] == [*range(3, steps, 3), steps]
    assert not list((out / "state").glob(".*"))  # no partly written file is left


def test_an_interrupt_ends_the_step_and_keeps_it(tmp_path):
    """Ctrl-C during `python -m jensen`."""
    out, log = tmp_path / "stopped", tmp_path / "log"
    words = train_words(out, "--no-evaluate", "--set", "training.save_every=100000", steps=100_000)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "jensen", *words], env=environment, stderr=file)
    journal = out / "journal.jsonl"
    wait_for(lambda: journal.exists() and journal.stat().st_size > 0, process.poll, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = log.read_text().splitlines()
    assert said[-1] == f"jensen: stopped; jensen train captcha --out {out} --resume continues it"
    assert [line.split(": ")[1] for line in said[:-1]] == ["U-Net"]  # what the network costs
    assert len(list((out / "state").glob("[0-9]*.pt"))) == 1


def test_resuming_a_finished_run_changes_nothing(run):
    before = (run / "model.safetensors").read_bytes(), (run / "journal.jsonl").read_bytes()
    assert main(["train", "captcha", "--out", str(run), "--resume", "--no-evaluate"]) == 0
    assert ((run / "model.safetensors").read_bytes(), (run / "journal.jsonl").read_bytes()) == before


def test_variants_train_and_say_that_no_reader_fits(tmp_path, capsys):
    out = tmp_path / "variant"
    more = ("data.alphabet=ABCDEFGH", "data.length=5", "data.width=80", "data.height=32", "data.colour=true")
    assert main(train_words(out, *(w for m in more for w in ("--set", m)), steps=2)) == 0
    assert "legibility" not in json.loads((out / "evaluation.json").read_text())["findings"]
    assert main(["sample", str(out), "--text", "HEADB", "--out", str(tmp_path / "v.png")]) == 0
    assert opened(tmp_path / "v.png").size == (80 * 4 + 12, 32 * 4 + 12)
    refused(capsys, ["sample", str(out), "--text", "HEADZ"], "5 characters of 'ABCDEFGH', got 'HEADZ'")


def test_a_reader_of_a_variant_can_be_trained_and_judges(tmp_path):
    style = ["--set", "data.length=3", "--set", "data.width=48"]
    reader = tmp_path / "reader"
    words = ["train", "captcha-reader", "--out", str(reader), "--steps", "3", *style]
    small = ["--set", "data.pictures=64", "--set", "training.batch_size=8", "--set", "data.test=20"]
    assert main([*words, *small]) == 0
    assert main(train_words(tmp_path / "variant", *style, "--set", f"data.reader={reader}", steps=2)) == 0
    evaluation = json.loads((tmp_path / "variant" / "evaluation.json").read_text())
    assert "legibility" in evaluation["findings"]


WRONG_TRAIN = [
    (["capcha"], ["no recipe 'capcha'; did you mean 'captcha'? `jensen recipes` lists all"]),
    (["captcha", "--set", "trainin.batch_size=3"], ["no setting 'trainin.batch_size'", "'training.batch_size'"]),
    (["captcha", "--set", "batch_size=3"], ["no setting 'batch_size'", "did you mean 'training.batch_size'"]),
    (["captcha", "--set", "training.batch_size=0"], ["training.batch_size must be at least 1, got 0"]),
    (["captcha", "--set", "training.batch_size=many"], ["training.batch_size must be a whole number, got 'many'"]),
    (["captcha", "--set", "training.rate=NaN"], ["training.rate must be a finite number, got nan"]),
    (
        ["captcha", "--set", "training.precision=float8"],
        ["training.precision must be 'auto', 'bfloat16' or 'float32', got 'float8'"],
    ),
    (["captcha", "--set", "training.device=tpu"], ["training.device must be auto, cpu, cuda or cuda:N, got"]),
    (["captcha", "--set", "training=3"], ["'training' is a group"]),
    (["captcha", "--set", "training.batch_size"], ["--set takes KEY=VALUE"]),
    (["captcha", "--set", "name=captcha-reader"], ["no setting 'name'"]),
    (["captcha", "--minutes", "3", "--steps", "4"], ["--minutes or --steps, not both"]),
    (["captcha", "--minutes", "soon"], ["--minutes", "must be a number, got 'soon'"]),
    (["captcha", "--steps", "-3"], ["training.steps must be at least 1, got -3"]),
    (["captcha", "--set", "family.kind=vae"], ["choose another recipe"]),
    (["captcha", "--set", "judging.critic_steps=3"], ["judging.critic_steps is not used by family diffusion"]),
    (["captcha", "--lr", "0"], ["training.rate must be above 0, got 0"]),
    (["captcha", "--seed", "-1"], ["seed must be at least 0, got -1"]),
    (["captcha", "--set", "data.height=12"], ["from 16 to 1024", "12"]),
    (["captcha", "--set", "data.alphabet=AAB"], ["without repeats", "'AAB'"]),
    (["captcha", "--set", "data.ink=[140,70]"], ["low <= high"]),
    (["captcha", "--set", "data.ink=[0,30]"], ["60 <= low"]),
    (["captcha", "--set", "network.output=eps"], ["no finite x at t = 1", "sampling.start"]),
    (["captcha", "--set", "loss.drop=2"], ["loss.drop must be at most 1, got 2"]),
    (["captcha", "--set", "training.compile=maybe"], ["training.compile must be true or false, got 'maybe'"]),
    (["captcha", "--set", "network.widths=8"], ["network.widths must be a list, as in [1, 2], got 8"]),
    (["captcha", "--set", "network.widths=[]"], ["network.widths must be a list of 1 or more values, got []"]),
    (["ring-gan", "--set", "training.average=[0.05]"], ["training.average must be a list of 2 values, got [0.05]"]),
    (["ring-gan", "--set", "training.betas=[]"], ["training.betas must be a list of 2 values, got []"]),
    (["digits-cyclegan", "--set", "network.width=9"], ["network.width must be a multiple of 8, got 9"]),
    (["moons-kernel", "--set", "density.bandwidth=-1"], ["bandwidth must be above 0, or 'silverman', 'scott' or"]),
    (["captcha", "--set", "training.batch_size=true"], ["must not be true or false"]),
    (["captcha", "--set", 'training={"steps":3}'], ["'training' is a group"]),
    (["captcha", "--set", "data.length=1"], ["at least 100 texts"]),
    (["captcha", "--set", "network.widths=[96,100]"], ["multiples of 8"]),
    (["captcha", "--set", "data.reader=nowhere"], ["no run folder", "nowhere"]),
    (["captcha", "--resume", "--out", "nowhere"], ["no run folder nowhere"]),
    (["captcha", "--bogus"], ["No such option", "--bogus"]),
    ([], ["Missing argument 'RECIPE'"]),
    (["vae", "--data", ""], ["--data must be a path, got an empty one"]),
    (["digits-vae", "--set", "data.pictures=", "--out="], ["--out must be a path, got an empty one"]),
    (["nonsense"], ["there is no recipe 'nonsense': `jensen recipes` lists all"]),
    (["VAE"], ["there is no recipe 'VAE'; did you mean 'vae'?"]),
    (["digits-vae", "--device", "tpu"], ["training.device must be auto, cpu, cuda or cuda:N, got 'tpu'"]),
    (["digits-vae", "--steps", "1.5"], ["--steps must be a whole number, got '1.5'"]),
]


@pytest.mark.parametrize(("words", "parts"), WRONG_TRAIN)
def test_wrong_words_to_train(capsys, tmp_path, monkeypatch, words, parts):
    monkeypatch.chdir(tmp_path)
    refused(capsys, ["train", *words], *parts)
    assert list(tmp_path.iterdir()) == []


def test_wrong_words_to_sample_and_evaluate(capsys, run, tmp_path):
    here = str(run)
    out = ["--out", str(tmp_path / "x.png")]
    for words, parts in (
        (["sample", "nowhere"], ["no run folder nowhere"]),
        (["sample", str(tmp_path)], ["is not a run", "config.json"]),
        (["sample", here, "--text", "703", *out], ["texts must be 4 characters of '0123456789', got '703'"]),
        (["sample", here, "--text", "70a8", *out], ["texts must be 4 characters of '0123456789', got '70a8'"]),
        (["sample", here, "--text", "7038", "-n", "2"], ["--text or -n, not both"]),
        (["sample", here, "-n", "0"], ["-n must be from 1"]),
        (["sample", here, "--text", "7038", "--tries", "0"], ["--tries must be from 1 to 100, got 0"]),
        (["sample", here, "-n", "2", "--tries", "2"], ["--tries needs --text"]),
        (
            ["sample", here, "--text", "7038", "--tries", "2", "--interpolate", "3"],
            ["--tries cannot be used with --interpolate"],
        ),
        (["sample", here, "-n", "x"], ["-n must be a whole number, got 'x'"]),
        (["sample", here, "-n", "1", "--steps", "0", *out], ["steps must be at least 1, got 0"]),
        (["sample", here, "-n", "1", "--sampler", "magic", *out], ["sampler must be one of", "'magic'"]),
        (
            ["sample", here, "--text", "7038", "--guidance", "inf", *out],
            ["guidance must be at least 0 and finite, got inf"],
        ),
        (["sample", here, "-n", "600", *out], ["at most 512 pictures", "folder"]),
        (["sample", here, "-n", "1", "--steps", "0", "--out", str(tmp_path / "a" / "x.png")], ["steps must be"]),
        (["evaluate", here, "--json", str(tmp_path / "numbers")], ["must end in .json"]),
        (["evaluate", "nowhere", "--json", str(tmp_path / "a" / "e.json")], ["no run folder nowhere"]),
        (
            ["sample", here, "--text", "7038", "--guidance", "-1", *out],
            ["guidance must be at least 0 and finite, got -1.0"],
        ),
        (["sample", here, "-n", "1", "--scale", "0", *out], ["--scale must be from 1 to 16"]),
        (["sample", here, "-n", "1", "--out", str(tmp_path / "x.jpg")], ["must end in .png"]),
        (["sample", here, "-n", "1", "--out", here + "/config.json/x.png"], ["cannot write", "is not a folder"]),
        (["sample", here, "-n", "1", "--out", "/proc/x.png"], ["cannot write /proc/x.png"]),
        (["evaluate", "nowhere"], ["no run folder nowhere"]),
        (["evaluate", here, "--json", here + "/config.json/x.json"], ["cannot write", "is not a folder"]),
        (["frobnicate"], ["No such command 'frobnicate'"]),
    ):
        refused(capsys, words, *parts)
    assert list(tmp_path.iterdir()) == []


def paths(command):
    """Each option and argument of the commands that is a path, as the words that leave it empty."""
    for name, inside in getattr(command, "commands", {}).items():
        yield from ([name, *words] for words in paths(inside))
    for param in command.params:
        if "Path" in str(param.type_descriptor.annotation):
            yield [f"{param.opts[0]}="] if param.opts[0].startswith("-") else [""]


def test_no_command_takes_an_empty_path_for_the_current_folder(capsys):
    """`Path("")` is ".": an unset variable of a shell would pack or fill the current folder."""
    found = list(paths(typer.main.get_command(app)))
    assert ["train", "--data="] in found
    assert ["data", "check", ""] in found
    assert len(found) == 28
    for words in found:
        refused(capsys, words, "must be a path, got an empty one")


def test_broken_runs_are_named(capsys, run, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    weights, config = (run / "model.safetensors").read_bytes(), (run / "config.json").read_text()
    (folder / "config.json").write_text(config)
    refused(capsys, ["sample", str(folder), "-n", "1"], "no model.safetensors yet", "--resume")
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused(capsys, ["sample", str(folder), "-n", "1"], "model.safetensors is damaged")
    (folder / "model.safetensors").write_bytes(weights)
    edited = json.loads(config)
    edited["family"]["network"]["widths"] = [8, 24]
    (folder / "config.json").write_text(json.dumps(edited))
    refused(capsys, ["sample", str(folder), "-n", "1"], "of another model")
    (folder / "config.json").write_text(config[:-20])
    refused(capsys, ["evaluate", str(folder)], "config.json is broken")
    (folder / "config.json").write_text(config.replace('"seed": 0', f'"seed": {"1" * 5000}'))
    refused(capsys, ["evaluate", str(folder)], "config.json is broken: a number has thousands of digits: line 1")
    (folder / "config.json").write_text(config.replace('"seed"', '"sead"'))
    refused(capsys, ["evaluate", str(folder)], "config.json is broken", "'sead'")
    old = {"recipe": "captcha", "seed": 0, "training": {"steps": 6}}
    (folder / "config.json").write_text(json.dumps(old))
    refused(capsys, ["sample", str(folder)], "an older version of jensen: train it again with jensen train captcha")
    (folder / "config.json").write_text("[]")
    refused(capsys, ["evaluate", str(folder)], "mapping")


def test_a_folder_in_the_way_is_left_as_it_is(capsys, run, tmp_path):
    refused(capsys, train_words(run), "already contains a run", "--resume")
    (tmp_path / "notes.txt").write_text("mine")
    refused(capsys, train_words(tmp_path), "is not empty")
    refused(capsys, train_words(tmp_path / "notes.txt"), "notes.txt is not a folder")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_refuses_what_it_cannot_continue(capsys, run, tmp_path):
    refused(
        capsys,
        ["train", "captcha", "--out", str(run), "--resume", "--seed", "9"],
        "only steps or minutes can be changed",
    )
    refused(capsys, ["train", "captcha-reader", "--out", str(run), "--resume"], "got a run of captcha")
    folder = tmp_path / "damaged"
    (folder / "state").mkdir(parents=True)
    (folder / "config.json").write_text((run / "config.json").read_text())
    (folder / "state" / "000000004.pt").write_bytes(b"not a checkpoint")
    refused(capsys, ["train", "captcha", "--out", str(folder), "--resume"], "no checkpoint in", "can be read")


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(run, tmp_path):
    folder = tmp_path / "damaged"
    (folder / "state").mkdir(parents=True)
    for name in ("config.json", "journal.jsonl", "state/000000004.pt"):
        (folder / name).write_bytes((run / name).read_bytes())
    (folder / "state" / "000000006.pt").write_bytes((run / "state" / "000000006.pt").read_bytes()[:1000])
    assert main(["train", "captcha", "--out", str(folder), "--resume", "--no-evaluate"]) == 0
    ours, theirs = (load_file(p / "model.safetensors") for p in (folder, run))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
