"""Tests of theory: a law takes an implementation, jensen's or yours, and returns evidence."""

from jensen.check.bounds import bound
from jensen.check.certificate import Outcome, run, run_all, select
from jensen.check.chains import mcmc
from jensen.check.denoising import denoising_loss, of_prediction
from jensen.check.elbo import elbo
from jensen.check.evidence import Evidence, Report, bounded, close, mean_is, means_are
from jensen.check.games import game
from jensen.check.gradients import gradient
from jensen.check.law import Law, draws, law
from jensen.check.margins import margin_loss
from jensen.check.own import laws_of_file
from jensen.check.penalties import penalty
from jensen.check.runs import data_parallel, resume
from jensen.check.samplers import sampler
from jensen.check.schedules import schedule
from jensen.check.scores import score, score_function

__all__ = [
    "Evidence",
    "Law",
    "Outcome",
    "Report",
    "bound",
    "bounded",
    "close",
    "data_parallel",
    "denoising_loss",
    "draws",
    "elbo",
    "game",
    "gradient",
    "law",
    "laws_of_file",
    "margin_loss",
    "mcmc",
    "mean_is",
    "means_are",
    "of_prediction",
    "penalty",
    "resume",
    "run",
    "run_all",
    "sampler",
    "schedule",
    "score",
    "score_function",
    "select",
]
