"""Several processes share out the rows of samples, features and likelihoods, and give what one process gives."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import torch

from jensen.cli.main import main
from jensen.judging import bounds, case, factors, features, latents, likelihood
from jensen.models import GAN
from jensen.recipes import networks
from jensen.runs.evaluate import case_of
from jensen.runs.opening import open_run
from jensen.training.distributed import divided, rank, sharing, start
from test_distributed import together
from tiny import tiny

RUNS = ("digits-ddpm", "sprites-vae", "ring-gan")


@pytest.fixture(scope="module")
def _small_chunks(short_judging, short_classifier):
    """Several chunks for each of two processes, the last of them not full."""
    with pytest.MonkeyPatch.context() as patch:
        for module, size in ((case, 6), (features, 7), (likelihood, 3), (bounds, 3), (latents, 6), (factors, 50)):
            patch.setattr(module, "CHUNK", size)
        patch.setattr(networks, "ROWS", dict.fromkeys(networks.ROWS, 6))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory, _small_chunks):
    """Runs of several families."""
    place = tmp_path_factory.mktemp("runs")
    for name in RUNS:
        assert main(["train", name, "--out", str(place / name), "--steps", "2", "--no-evaluate", *tiny(name)]) == 0
    return place


def made(folder):
    """What a command has written, by the file's name, without the text of the page."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".json")}


def test_findings_and_samples_of_an_evaluation_are_those_of_one_process_bit_for_bit(runs, blank_plots):
    for name in RUNS:
        shutil.copytree(runs / name, runs / f"{name}-2")
        assert main(["evaluate", str(runs / name)]) == 0
    together(lambda: sum(main(["evaluate", str(runs / f"{name}-2")]) for name in RUNS))
    for name in RUNS:
        one, two = made(runs / name), made(runs / f"{name}-2")
        assert len(one) > 3
        assert one == two


REQUESTS = {
    "pictures": ["digits-ddpm", "-n", "20", "--sampler", "ancestral"],
    "tries": ["digits-ddpm", "--text", *"0123456789012", "--tries", "3"],
    "interpolations": ["digits-ddpm", "--interpolate", "3", "-n", "5"],
    "means": ["sprites-vae", "-n", "13", "--mean"],
    "points.csv": ["ring-gan", "-n", "50"],
}


def test_samples_of_the_command_are_those_of_one_process_bit_for_bit(runs, tmp_path, capfd):
    def drawn(place):
        return sum(main(["sample", str(runs / run), *more, "--out", str(place / name)])
                   for name, (run, *more) in REQUESTS.items())  # fmt: skip

    assert drawn(tmp_path / "one") == 0
    capfd.readouterr()
    together(lambda: drawn(tmp_path / "two"))
    assert capfd.readouterr().out.count("wrote") == len(REQUESTS)
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("one", "two")
    )
    assert len(one) == 20 + 13 + 15 + 13 + 1
    assert one == two


def test_processes_take_chunks_in_turn_and_each_gets_all_values_in_order():
    def work():
        mine, calls, steps = start()[0], [], []

        def f(rows):
            calls.append(rows.start)
            return divided(lambda inner: torch.arange(rows.start, rows.stop)[inner], rows.stop - rows.start, 2)

        with sharing():
            found = divided(f, 13, 3, steps.append)
        assert calls == ([0, 6, 12], [3, 9])[mine]
        assert steps == [6, 6, 1]
        assert [len(parts) for parts in found] == [2, 2, 2, 2, 1]
        assert torch.equal(torch.cat([part for parts in found for part in parts]), torch.arange(13))
        assert [rows.start for rows in divided(lambda rows: rows, 5, 2)] == [0, 2, 4]  # outside `sharing`: no messages
        with sharing():
            assert divided(lambda rows: rows, 2, 4) == [slice(0, 2)]  # fewer chunks than processes

    together(work)


def test_the_noise_of_each_chunk_is_its_own(runs):
    run = open_run(runs / "ring-gan")
    judged = case_of(run, run.open_data())
    drawn = judged.each("noise", lambda x, _, rng: torch.rand(len(x), generator=rng), torch.zeros(12, 1), 4)
    assert len(torch.cat(drawn).unique()) == 12
    assert not torch.equal(
        drawn[0], judged.each("other", lambda x, _, rng: torch.rand(len(x), generator=rng), torch.zeros(4, 1), 4)[0]
    )


def test_a_run_of_two_processes_is_judged_by_both_as_by_one(tmp_path, capfd, blank_plots):
    out = str(tmp_path / "run")
    together(lambda: main(["train", "ring-gan", "--out", out, "--steps", "2", *tiny("ring-gan")]))
    said = capfd.readouterr().out
    assert [said.count(word) for word in ("trained:", "report  ", "Wasserstein-1 distance to held-out data")] == [
        1,
        1,
        1,
    ]
    two = made(tmp_path / "run")
    assert main(["evaluate", out]) == 0
    assert made(tmp_path / "run") == two


@pytest.mark.parametrize("ends", [(2, 1), (1, 2), (2, 2), (1, -signal.SIGKILL), (130, 1)])
def test_a_failure_of_one_process_ends_all_with_one_sentence(runs, capfd, monkeypatch, ends):
    sample = GAN.sample

    def failing(*given, **more):
        code = ends[rank()]
        if code == 2:
            raise ValueError("wrong")
        if code < 0:
            os.kill(os.getpid(), -code)
        if code == 130:
            raise KeyboardInterrupt
        return sample(*given, **more)

    monkeypatch.setattr(GAN, "sample", failing)
    monkeypatch.setattr("jensen.cli.main.GRACE", 0.0)
    together(lambda: main(["sample", str(runs / "ring-gan"), "-n", "20"]), ends)
    said = {2: "wrong", 130: "stopped", -signal.SIGKILL: "another process of this run has ended"}[max(ends, key=abs)]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("jensen:")]
    assert line.startswith(f"jensen: {said}")


def test_processes_of_the_command_draw_shares_and_fail_with_one_sentence(runs, tmp_path, capfd):
    words = ["sample", str(runs / "ring-gan"), "-n", "600", "--out"]
    assert main([*words, str(tmp_path / "two.csv"), "--processes", "2"]) == 0
    assert capfd.readouterr().out.endswith(f"s\nwrote {tmp_path / 'two.csv'}\n")
    assert main([*words, str(tmp_path / "one.csv")]) == 0
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert main([*words[:2], "--text", "a", "--processes", "2"]) == 2
    assert capfd.readouterr().err == "jensen: --text cannot be used with a run of ring-gan\n"
    for command in (words[:2], ["evaluate", words[1]]):
        assert main([*command, "--processes", "0"]) == 2
        assert "--processes must be from 1 to 256, got 0" in capfd.readouterr().err
