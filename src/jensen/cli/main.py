"""`jensen`: train, sample, evaluate, curves, compare, check, recipes, serve, data."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from jensen import __version__
from jensen.cli.faults import full, option, sentence
from jensen.core.failure import Failure, Left, Told
from jensen.core.naming import path_of

app = typer.Typer(
    name="jensen",
    help="Train, sample and judge deep generative models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130
GRACE = 1.0  # seconds in which what started the processes ends this one and says that another was killed
# each command imports what it needs when it is run: torch takes seconds, and help must not
path_argument, path_option = (partial(made, parser=path_of) for made in (typer.Argument, typer.Option))
Run = Annotated[Path, path_argument(metavar="RUN", help="a run's folder, or the name of a run that is part of jensen")]
Judged = Annotated[Path, path_argument(metavar="RUN", help="a run's folder")]


Use = Annotated[
    list[Path] | None,
    path_option("--use", metavar="FILE.py", help="a file with your own sources, families, judges or recipes"),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"jensen {__version__}")
        raise typer.Exit


@app.callback()
def jensen(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Train, sample and judge deep generative models."""


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="show the settings of this recipe or family")
    ] = None,
    data: Annotated[Path | None, path_option(metavar="PATH", help="data for which the settings are shown")] = None,
    use: Use = None,
) -> None:
    """List the recipes and families, or show the settings of one."""
    from jensen.cli import commands

    commands.recipes(name, data, use or [])


TRAIN_EXAMPLES = """Examples:

jensen train digits-ddpm

jensen train diffusion --data pictures/ --set data.size=64

jensen train vae --data points.csv

jensen train translation --data horses/ --data-b zebras/

jensen train digits-vae --out runs/mine --steps 1000 --lr 1e-3 --set network.latents=[8]

jensen train captcha --minutes 30 --batch-size 128 --device cuda"""


@app.command(epilog=TRAIN_EXAMPLES)
def train(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="a recipe or a family, see `jensen recipes`")],
    data: Annotated[
        Path | None,
        path_option(
            metavar="PATH",
            help="a folder of pictures, or a file of pictures or points; any recipe takes it",
        ),
    ] = None,
    data_b: Annotated[
        Path | None,
        path_option("--data-b", metavar="PATH", help="pictures of side b, for family translation"),
    ] = None,
    out: Annotated[Path | None, path_option(metavar="RUN", help="the run's folder [runs/RECIPE]")] = None,
    minutes: Annotated[float | None, typer.Option(metavar="M", help="minutes of training")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="training steps, instead of minutes")] = None,
    lr: Annotated[float | None, typer.Option(metavar="R", help="learning rate (training.rate)")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="examples per step (training.batch_size)")] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:1")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="random seed [0]")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="any setting of `jensen recipes RECIPE`; may be repeated"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out")] = False,
    evaluate: Annotated[bool, typer.Option(help="judge the run and write report.html at the end")] = True,
    processes: Annotated[
        int | None, typer.Option(metavar="N", help="train and judge with N processes on this machine, as torchrun does")
    ] = None,
    use: Use = None,
) -> None:
    """Train a recipe, or a family on your data, then judge the run."""
    from jensen.cli import commands

    options = {
        "training.minutes": minutes,
        "training.steps": steps,
        "training.rate": lr,
        "training.batch_size": batch_size,
        "training.device": device,
    }
    start = partial(_apart, processes, ctx)
    commands.train(recipe, (data, data_b), out, options, set_ or [], seed, resume, evaluate, use or [], start)


@app.command()
def sample(
    ctx: typer.Context,
    run: Run,
    text: Annotated[
        list[str] | None, typer.Option("--text", "--label", metavar="STRING ...", help="texts or classes to draw")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", metavar="N", help="number of samples [16 pictures or 1000 points]")
    ] = None,
    interpolate: Annotated[
        int | None, typer.Option(metavar="K", help="rows of K samples that interpolate between two draws of noise")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="ancestral, ddim, dpm++, heun, ...; kernels: langevin, mala, ascent"),
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="K", help="sampling steps")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(metavar="W", help="guidance scale, of the text if its styles have their own; 1: none"),
    ] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="times between which guidance is active, from 0 (data) to 1 (noise)"),
    ] = None,
    style_guidance: Annotated[
        float | None, typer.Option(metavar="V", help="guidance scale of named styles, apart from that of the text")
    ] = None,
    mean: Annotated[bool, typer.Option("--mean", help="means of p(x | z) instead of draws, for autoencoders")] = False,
    eta: Annotated[
        float | None, typer.Option(metavar="E", help="noise of DDIM; 0: none, 1: as much as ancestral")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="random seed")] = 0,
    tries: Annotated[
        int,
        typer.Option(
            metavar="K", help="draw a text or class up to K times in all, until the data's reader reads it as asked"
        ),
    ] = 1,
    width: Annotated[
        float | None,
        typer.Option(metavar="W", help="width of the average of the weights, of runs with training.average=[0.05,0.1]"),
    ] = None,
    out: Annotated[
        Path | None, path_option(metavar="FILE", help="a .png, a folder for single pictures, or a .csv of points")
    ] = None,
    scale: Annotated[int | None, typer.Option(metavar="K", help="enlargement in whole pixels [4]")] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="N", help="N processes on this machine, each of which draws a share")
    ] = None,
    use: Use = None,
) -> None:
    """Draw pictures or points from a run, of any texts or classes."""
    from jensen.cli import commands

    changes = {"sampler": sampler, "steps": steps, "guidance": guidance, "guidance_interval": guidance_interval}
    changes |= {"style_guidance": style_guidance, "eta": eta, "mean": mean or None}
    _apart(processes, ctx)
    commands.sample(run, text or [], n, interpolate, changes, seed, tries, width, out, scale, use or [])


@app.command()
def evaluate(
    ctx: typer.Context,
    run: Judged,
    json_: Annotated[
        Path | None, path_option("--json", metavar="FILE", help="also write the numbers to this file")
    ] = None,
    stability: Annotated[
        bool, typer.Option("--stability", help="also compute eigenvalues of a GAN's game at the end of training")
    ] = False,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="features for comparing samples: auto, classifier, convolutional, raw, or the folder of a reader run",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="N processes on this machine, which share the rows of samples, features and likelihoods",
        ),
    ] = None,
    use: Use = None,
) -> None:
    """Judge a run: writes numbers, samples and a report to its folder."""
    from jensen.cli import commands

    _apart(processes, ctx)
    commands.evaluate(run, json_, stability=stability, features=features, files=use)


@app.command()
def curves(
    run: Run,
    out: Annotated[Path | None, path_option(metavar="FILE.csv", help="the file [RUN/curves.csv]")] = None,
) -> None:
    """Write the training curves of a run as CSV, a row for each step."""
    from jensen.cli import commands

    commands.curves(run, out)


@app.command()
def compare(
    runs: Annotated[
        list[Path], path_argument(metavar="RUN RUN ...", help="folders of two or more runs on the same data")
    ],
    html: Annotated[
        Path | None, path_option(metavar="FILE", help="write a page with samples, numbers and plots to this file")
    ] = None,
    json_: Annotated[Path | None, path_option("--json", metavar="FILE", help="write the numbers to this file")] = None,
    features: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="features for comparing samples: auto, classifier, convolutional, raw, or the folder of a reader run",
        ),
    ] = "auto",
    n: Annotated[
        int | None,
        typer.Option("-n", metavar="N", help="samples of each run [number of training examples, up to 1000]"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="random seed of samples, splits and discriminators")] = 0,
    use: Use = None,
) -> None:
    """Compare runs of any family: metrics, likelihoods, costs."""
    from jensen.cli import comparing

    comparing.compare(runs, features, n, seed, html, json_, use or [])


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME | FILE.py ...", help="families, topics or laws, or your own file [all laws]"),
    ] = None,
    json_: Annotated[Path | None, path_option("--json", metavar="FILE", help="write the evidence to this file")] = None,
    html: Annotated[
        Path | None, path_option(metavar="FILE", help="write a page of formulas, plots and evidence to this file")
    ] = None,
    precision: Annotated[
        float, typer.Option(metavar="P", help="factor for the number of draws of statistical claims")
    ] = 1.0,
    processes: Annotated[int | None, typer.Option(metavar="N", help="number of processes [one per core]")] = None,
    list_: Annotated[bool, typer.Option("--list", help="list the laws without running them")] = False,
    portrait: Annotated[
        Path | None, path_option(metavar="FILE", help="draw the Dirac-GAN's phase portraits to this .png")
    ] = None,
) -> None:
    """Test the theory behind jensen, or your own code in FILE.py.

    The exit code is 1 if a law fails. FILE.py is run. It may define: an ELBO, as functions or an object with loss(x),
    encode(x) and decode(z), and a batch of examples x; every function check_...(), which may call any function of
    jensen.check on your code and returns its report; every law. For example

      jensen check my.py
    """
    from jensen.cli import checking

    checking.check(names or [], json_, html, precision, processes, list_, portrait)


@app.command()
def serve(
    run: Annotated[Path | None, path_argument(metavar="RUN", help="folder of the run whose model draws")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="generated secrets, test keys, this machine only; RUN may be left out")
    ] = False,
    host: Annotated[str, typer.Option(metavar="H", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="P", min=0, max=65535, help="port to listen on; 0: any")] = 8000,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="processes that answer requests")] = 1,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="sqlite:///FILE, redis://..., postgresql://... [JENSEN_CAPTCHA_STORE]"),
    ] = None,
    part: Annotated[
        Literal["all", "api", "pool"],
        typer.Option(metavar="NAME", help="all, or on a machine of its own: api (answers requests) or pool (draws)"),
    ] = "all",
) -> None:
    """Serve CAPTCHAs that a run draws, see docs/serve.md."""
    from jensen.cli import serving

    serving.serve(run, demo, host, port, workers, store, part)


data = typer.Typer(help="Inspect data, or pack a folder of pictures.", no_args_is_help=True)
app.add_typer(data, name="data")
Pictures = Annotated[Path, path_argument(metavar="PATH", help="a folder of pictures, or a .tar file")]
Anything = Annotated[Path, path_argument(metavar="PATH", help="what `jensen train FAMILY --data PATH` takes")]
Size = Annotated[str | None, typer.Option(metavar="H[xW]", help="height and width in pixels, 64 or 48x64 [suggested]")]
Strict = Annotated[bool, typer.Option("--strict", help="refuse broken files and missing numbers, exit code 2")]


@data.command("check")
def check_data(
    path: Anything,
    size: Size = None,
    html: Annotated[Path | None, path_option(metavar="FILE", help="write a page to this file")] = None,
    json_: Annotated[Path | None, path_option("--json", metavar="FILE", help="write the numbers to this file")] = None,
    strict: Strict = False,
    use: Use = None,
) -> None:
    """Show what is there (columns or pictures, classes, captions, missing numbers, broken files, duplicates) and what a
    run would use.
    """
    from jensen.cli import data as commands

    commands.check(path, size, html, json_, strict, use or [])


@data.command("pack")
def pack_data(
    path: Pictures,
    out: Annotated[Path, path_option(metavar="PACK", help="the new folder, which can be given in place of PATH")],
    size: Size = None,
    fit: Annotated[
        Literal["crop", "pad", "stretch"] | None,
        typer.Option(metavar="NAME", help="how to get the aspect ratio of --size: crop, pad or stretch [suggested]"),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(metavar="C", help="1: grey, 3: colour, 4: colour and alpha [suggested]")
    ] = None,
    alpha: Annotated[
        Literal["white", "black", "keep"] | None,
        typer.Option(metavar="NAME", help="background of transparent pixels: white or black; or keep alpha [white]"),
    ] = None,
    processes: Annotated[int | None, typer.Option(metavar="N", help="number of processes [one per core]")] = None,
    strict: Strict = False,
) -> None:
    """Decode pictures once, into a file that is mapped into memory; continues if it was interrupted."""
    from jensen.cli import data as pictures

    pictures.pack(path, size, out, fit, channels, alpha, processes, strict)


def _apart(processes: int | None, ctx: typer.Context, check: Callable[[], None] = lambda: None) -> None:
    """Leave the command to so many processes after a check, unless this is one of them."""
    from jensen.cli import launching

    if processes is not None and launching.needed(processes):
        check()
        raise Told(launching.launch(processes, main, ctx.obj))


def main(words: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 (a run failed) or 2 (wrong arguments)."""
    words = _gather_texts(sys.argv[1:] if words is None else words)
    os.environ["MPLBACKEND"] = "agg"  # a notebook's may not exist here, and nothing is shown in a window
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
    try:
        with _ended_by_signals():
            code = app(args=words or ["--help"], standalone_mode=False, obj=words)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (typer.Abort, KeyboardInterrupt) as stopped:
        return _fail(str(stopped) or "stopped", INTERRUPTED)
    except Told as ended:
        return ended.code
    except typer.TyperException as error:
        return _fail(option(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(sentence(error), 1 if full(error) else 2)
    except ValueError as error:
        return _fail(str(error), 2)
    except Left as error:
        time.sleep(GRACE)
        return _fail(str(error), 1)
    except Failure as error:
        return _fail(str(error), 1)
    except Exception as error:  # noqa: BLE001 (nothing is to reach the user as a page of traceback)
        return _unforeseen(error)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as SIGINT does, so that it cleans up and says so. SIGHUP stays ignored under
    `nohup`; processes that `torchrun` started end at once.
    """
    main = threading.current_thread() is threading.main_thread() and "TORCHELASTIC_RUN_ID" not in os.environ
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if main and signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _gather_texts(words: list[str]) -> list[str]:
    """Expand `--text A B C` (or `--label`), up to the next option, to `--text A --text B --text C`."""
    out: list[str] = []
    collecting = False
    for k, word in enumerate(words):
        if collecting and not word.startswith("-"):
            out += ["--text", word]
            continue
        collecting = word in ("--text", "--label")
        followed = k + 1 < len(words) and not words[k + 1].startswith("-")
        if not (collecting and followed):
            out.append(word)
    return out


def _unforeseen(error: Exception) -> int:
    """One sentence, with the name of the file that holds the traceback."""
    if not _speaks():
        return 1
    said = " ".join([f"{type(error).__name__}:", *str(error).split("\n")[:1]])
    try:
        with tempfile.NamedTemporaryFile("w", prefix="jensen-", suffix=".txt", delete=False, encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
        said += f"; the traceback is in {file.name}"
    except OSError:
        said += "; its traceback could not be written"
    return _say(said, 1)


def _fail(message: str, code: int) -> int:
    return _say(message, code) if _speaks() else code


def _say(message: str, code: int) -> int:
    typer.echo(f"jensen: {' '.join(message.split())}", err=True)
    return code


def _speaks() -> bool:
    """Whether this process is to say why it ends; of several processes one is."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return True
    from jensen.training.distributed import speaks

    return speaks()


def entry() -> None:
    """The console script."""
    sys.exit(main())
