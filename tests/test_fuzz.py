"""Random settings, configurations and command lines: they work, or are refused in one sentence and change nothing.

`pytest --hypothesis-profile=long tests/test_fuzz.py` tries many more of them, in a new order each time.
"""

from __future__ import annotations

import functools
import importlib
import json
import operator
import shutil
import typing
from pathlib import Path
from tempfile import TemporaryDirectory

import jaxtyping
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from typer.main import get_command

from jensen.check.laws import FAMILIES
from jensen.cli.main import app
from jensen.core.failure import Failure
from jensen.recipes.families.base import Family
from jensen.recipes.presets import PRESETS
from jensen.recipes.recipe import Recipe
from jensen.recipes.words import changed
from jensen.recipes.words import settings as described
from jensen.runs.train import train
from refusals import FILES, HOSTILE, said, workplace
from tiny import TINY, tiny

SMALL = 300


def tried(n):
    """Settings of hypothesis: n examples, always the same ones, or many times as many under another profile."""
    default = settings.default
    return settings(max_examples=n * default.max_examples // 100, derandomize=default.derandomize, deadline=None)


@pytest.fixture(autouse=True)
def _untyped():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production, without type checks
        yield


NUMBERS = [0, 1, 2, 3, 8, -1, 0.5, 1.5, -0.5, 1e-30, 1e37, 1e300, 2**31 - 1, 2**63, 10**20, 10**400]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
WORDS = [
    "",
    " ",
    "x",
    "1",
    "auto",
    "none",
    "null",
    "é\n",
    "\0",
    "\ud800",
    "<b>",
    "[red]",
    "a=b",
    "../..",
    "$x$",
    "{{ 1 }}",
]
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.integers(),
    st.integers(-3, 40),
    st.floats(0, 2),
    st.floats(),
    st.text(max_size=8),
)
LISTS = st.lists(PLAIN, max_size=4)
VALUES = st.one_of(
    PLAIN, PLAIN, LISTS, st.lists(LISTS, max_size=2), st.dictionaries(st.text(max_size=3), PLAIN, max_size=2)
)


def literals(annotation):
    """The values that a type lists."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for part in typing.get_args(annotation) for value in literals(part)]


def fields(kind):
    """Annotations of all settings of a node by their last name."""
    found = {}
    for name, field in kind.model_fields.items():
        found.setdefault(name, []).append(field.annotation)
        for part in (field.annotation, *typing.get_args(field.annotation)):
            if hasattr(part, "model_fields"):
                for key, more in fields(part).items():
                    found.setdefault(key, []).extend(more)
    return found


def start(name):
    """A small version of a preset that trains for one step and has no previews."""
    words = [word for word in tiny(name, training__previews=0) if word != "--set"]
    return changed(PRESETS[name], [*words, "training.steps=1"])


STARTS = {name: start(name) for name in TINY}
USED = {}
"""Values of every setting in some preset, and those that its type lists."""
for recipe in STARTS.values():
    listed = [fields(type(part)) for part in (recipe.family, recipe.data, recipe)]
    for key, (value, _) in described(recipe).items():
        known = [v for types in listed for kind in types.get(key.split(".")[-1], []) for v in literals(kind)]
        USED.setdefault(key, []).extend(v for v in (value, *known) if v not in USED[key])


@st.composite
def changes(draw):
    """A preset, and one to three of its settings with values of any kind."""
    name = draw(st.sampled_from(sorted(STARTS)))
    keys = draw(st.lists(st.sampled_from(sorted(described(STARTS[name]))), min_size=1, max_size=3, unique=True))
    return name, {key: draw(st.one_of(st.sampled_from(USED[key]), st.sampled_from(USED[key]), VALUES)) for key in keys}


def word(value):
    return value if isinstance(value, str) else json.dumps(value)


FREE = ("judging.", "seed", "warm", "cooling_steps", "noise_steps", "_every", "training.rates", "augmentation")
"""Parts of the names of settings that may be large at no cost."""


def large(values):
    """Whether a value asks for much memory or time, as a network of 65,536 units does."""
    sizes = [value for key, value in values.items() if not any(part in key for part in FREE)]
    return any(isinstance(n, int) and n > SMALL for v in sizes for n in (v if isinstance(v, list | tuple) else [v]))


@tried(200)
@given(change=changes())
def test_settings_train_or_are_refused(change):
    name, values = change
    try:
        recipe = changed(STARTS[name], [f"{key}={word(value)}" for key, value in values.items()])
        assert isinstance(recipe, Recipe)
        if large(values) or recipe.training.compile:
            return event("accepted")
        with TemporaryDirectory() as folder:
            train(recipe.lasting(STARTS[name].training), Path(folder))
        return event("trained")
    except Failure as error:
        message = str(error)
    except ValueError as error:
        message = str(error)
        assert any(key.split(".")[-1] in message for key in described(STARTS[name])), message
    assert "\n" not in message
    return event("refused")


RUNS = ["digits-ddpm", "digits-hvae", "ring-gan", "moons-kernel", "captcha-reader"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trained runs by the name of their recipe."""
    folder = tmp_path_factory.mktemp("runs")
    for name in RUNS:
        train(STARTS[name], folder / name)
    return folder


def places(node, path=()):
    """The paths of all nodes of a tree but the root."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at for key, value in inside for at in ((*path, key), *places(value, (*path, key)))]


@st.composite
def mangled(draw, tree):
    """A tree with one node replaced, removed, added, or moved to another place."""
    tree = json.loads(json.dumps(tree))
    *path, last = draw(st.sampled_from(places(tree)))
    node = functools.reduce(operator.getitem, path, tree)
    how = draw(st.sampled_from(["replace", "replace", "replace", "swap", "remove", "add"]))
    if how == "remove":
        del node[last]
    elif how == "add":
        where = node if isinstance(node, dict) else tree
        where[draw(st.text(max_size=5))] = draw(VALUES)
    else:
        other = functools.reduce(operator.getitem, draw(st.sampled_from(places(tree))), tree)
        node[last] = draw(VALUES) if how == "replace" else json.loads(json.dumps(other))
    return tree


def stamps(folder):
    """What is in a folder, and when each file was last changed."""
    return {path: path.is_dir() or path.stat().st_mtime_ns for path in folder.rglob("*")}


def ran(words, folder):
    """The exit code and what is on standard error; a command that is refused says one sentence and changes nothing."""
    before = stamps(folder)
    code, err = said(words, folder)
    assert code in (0, 2) or (code == 1 and "is not finite" in err), (code, err)
    if code:
        assert err.startswith("jensen: "), err
        assert err.count("\n") == 1, err
        assert len(err) > len("jensen: .\n"), err
        assert "Error" not in err, err
        assert not set(stamps(folder).items()) ^ set(before.items())
    event(f"{words[0]}: {code}")
    return code, err


GOING_ON = ["train", "--steps", "2", "--no-evaluate", "--resume", "--out"]


@tried(100)
@given(data=st.data())
def test_mangled_configurations_are_used_or_refused(runs, data):
    name = data.draw(st.sampled_from(RUNS))
    tree = data.draw(mangled(json.loads((runs / name / "config.json").read_text(encoding="utf-8"))))
    first, *options = data.draw(st.sampled_from([["sample", "-n", "2"], ["curves"], GOING_ON]))
    with TemporaryDirectory() as folder:
        run = shutil.copytree(runs / name, Path(folder, "run"))
        (run / "config.json").write_text(json.dumps(tree), encoding="utf-8")
        ran([first, *[name] * (first == "train"), *options, str(run)], run)


class Stopped(BaseException):
    """A command got as far as the work that it was asked for."""


def stop(*_, **__):
    raise Stopped


WORK = (
    ("jensen.runs.train", "fit", stop),  # after all refusals, just before the first step
    ("jensen.cli.launching", "elastic_launch", stop),
    ("jensen.runs.evaluate", "JUDGES", {"": stop}),
    ("jensen.runs.compare", "_drawn", stop),
    ("jensen.check.certificate", "run", stop),
    ("jensen.check.certificate", "ProcessPoolExecutor", stop),
)
"""What takes minutes: training, judging, comparing and testing laws."""

PLACES = [
    *("run", "digits", "gan", "again", "nowhere", "full", "file.txt", "new", "new/deep", "pictures", "damaged", "pack"),
    *("new.png", "new.csv", "new.json", "new.html", "new/x.json", "new/x.html", "new/x.png", "new/x.csv", "-", ".", ""),
    *("digits", "moons", *(name for name in FILES if "/" not in name), *(f"hostile/{name}" for name in HOSTILE)),
]
NAMES = [*STARTS, *Family.kinds, "ddim", "ancestral", "langevin", "raw", "auto", "cpu", "cuda", "64", "8x8"]
COUNTS = ["0", "1", "2", "3", "16", "-1", "1.5", "nan", "inf", "1e300", "10000000000", "9" * 30]
FITTING = {
    **dict.fromkeys("NSMRKWEPC", st.sampled_from(COUNTS)),
    "NAME": st.sampled_from(NAMES),
    "RUN": st.sampled_from(["run", "digits", "gan", "again"]),
    "RUN RUN ...": st.sampled_from(["run", "digits", "gan", "again"]),
    "RECIPE": st.sampled_from([*STARTS, *Family.kinds]),
    "KEY=VALUE": st.sampled_from([f"{key}={word(value)}" for key, values in USED.items() for value in values]),
    "[NAME | FILE.py ...]": st.sampled_from([*FAMILIES, "empty.py", "broken.py", "new.py"]),
}
"""Values that suit an argument or option, by its placeholder; for others, a path."""
ARGUMENT = st.one_of(*FITTING.values(), st.sampled_from(WORDS), st.text(max_size=5))


def fitting(parameter):
    """Values of a parameter: three of four suit it."""
    suits = FITTING.get(parameter.metavar, st.sampled_from(PLACES))
    return st.one_of(suits, suits, suits, ARGUMENT)


def commands(group, before=()):
    """The words and the parameters of every command."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command.params


COMMANDS = list(commands(get_command(app)))


@st.composite
def lines(draw):
    """A command, most of its arguments, and up to three options."""
    name, parameters = draw(st.sampled_from(COMMANDS))
    words = list(name)
    for argument in (p for p in parameters if p.param_type_name == "argument"):
        most = 3 if argument.nargs == -1 else 1
        words += draw(st.lists(fitting(argument), min_size=draw(st.sampled_from([most, most, 0])), max_size=most))
    for option in draw(st.lists(st.sampled_from([p for p in parameters if p.param_type_name == "option"]), max_size=3)):
        words.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
        words += [] if option.is_flag else [draw(fitting(option))]
    return words + draw(st.sampled_from([[], [], [], ["extra"], ["--bogus"]]))


KEPT = {}
"""Contents of the files of the place, which are put back."""


@pytest.fixture(scope="module")
def place():
    """The folder of docs/refused.md, which is the current one; presets are small."""
    with workplace() as folder, pytest.MonkeyPatch.context() as patch:
        for module, name, instead in WORK:
            patch.setattr(importlib.import_module(module), name, instead)
        for name, recipe in STARTS.items():
            patch.setitem(PRESETS, name, recipe)
        KEPT.update({path: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
        yield folder


@tried(120)
@given(words=lines())
def test_command_lines_reach_their_work_or_are_refused(place, words):
    before = stamps(place)
    try:
        ran(words, place)
    except Stopped:
        event(f"{words[0]}: stopped")
    after = stamps(place)
    for path in sorted(set(after) - set(before), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (path for path, stamp in before.items() if after.get(path) != stamp):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(KEPT[path]) if path in KEPT else path.mkdir(exist_ok=True)
