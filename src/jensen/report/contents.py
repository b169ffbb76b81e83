"""The contents of points or pictures as parts of a report."""

from __future__ import annotations

import numpy as np
import torch

from jensen.data.contents import Contents
from jensen.data.split import near_duplicates
from jensen.report import plots
from jensen.report.findings import Part, Picture, Table
from jensen.report.gallery import gallery
from jensen.report.inventory import COLUMNS, SHEET, classes, count, limited

MOST_PLOTS = 64  # histograms of columns
RESOLVED = 1e-12  # range of a column, relative to its largest number, of which there is no histogram


def parts(found: Contents, code: str, said: str) -> list[Part]:
    """The parts: rows, columns or sample pictures, classes, duplicates, wrong cells, and the command.

    Args:
        found: the contents.
        code: command that trains on the data.
        said: what a run makes of the data, or why it refuses them.
    """
    points = found.x.ndim == 2
    made = [_rows(found), _columns(found) if points else _sheet(found), classes(found.labels), _copies(found)]
    return [*(part for part in made if part is not None), *_wrong(found), Part("Training", said, code=code)]


def _rows(found: Contents) -> Part:
    n, test = len(found.x), found.test
    sizes = []
    if test is not None:
        held = int(test.sum())
        sizes = [count("train", "training rows", n - held, card=True), count("test", "held-out rows", held, card=True)]
    findings = [count("rows", "rows", n, card=True), *sizes]
    if found.x.ndim == 4:
        shape = " x ".join(map(str, found.x.shape[1:]))
        seen = len(np.unique(found.x))
        of = "" if found.levels is None else f"of the {found.levels} of a pixel"
        text = f"Pictures of shape {shape}."
        findings.append(count("levels", "levels that occur", seen, note=of))
        return Part("Rows", text, findings, details={"shape": list(found.x.shape[1:]), "levels": found.levels})
    findings += [
        count("columns", "columns of numbers", found.x.shape[1]),
        count("wrong", "cells that are not finite numbers", len(found.wrong), card=bool(found.wrong)),
    ]
    if found.words:
        findings.append(
            count("words", "columns of words, not used", len(found.words), note="named " + ", ".join(found.words))
        )
    return Part("Rows", findings=findings, details={"shape": [found.x.shape[1]]})


def _columns(found: Contents) -> Part | None:
    if not found.columns:
        return None
    facts, drawn, rows = dict[str, dict[str, float]](), list[str](), []
    for name, column in zip(found.columns, found.x.T, strict=True):
        values = column[np.isfinite(column)]
        missing = {"missing": float(len(column) - len(values))}
        if not len(values):
            facts[name] = missing
            rows.append((name, *["-"] * 4, str(len(column))))
            continue
        numbers = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
        facts[name] = {key: float(value) for key, value in numbers.items()} | missing
        rows.append((name, *(f"{value:.6g}" for value in facts[name].values())))
        if len(drawn) < MOST_PLOTS and np.ptp(values) > RESOLVED * np.abs(values).max():
            drawn.append(plots.histograms({name: values}, title=name, xlabel=""))
    head = ("column", "mean", "standard deviation", "min", "max", "missing or not finite")
    return Part("Columns", tables=[Table(head, rows)], plots=drawn, details={"columns": facts})


def _sheet(found: Contents) -> Part:
    rows = np.linspace(0, len(found.x) - 1, min(SHEET, len(found.x))).astype(int)
    sheet = gallery(torch.from_numpy(found.x[rows]), columns=COLUMNS, scale=max(1, 96 // max(found.x.shape[2:])))
    return Part("A sample", pictures=[Picture("pictures", sheet, "pictures of the data")])


def _copies(found: Contents) -> Part:
    groups, what = found.copies, "rows that are equal to another row"
    findings = [count("copies", "copies", sum(len(group) - 1 for group in groups), note=what)]
    tables = [limited(("rows",), [(", ".join(map(str, group)),) for group in groups], "Groups of equal rows")]
    near: list[tuple[int, int]] = []
    if found.test is not None and found.x.ndim == 4:
        near = near_duplicates(found.x, found.test)
        findings.append(
            count("near", "near duplicates", len(near), note="held-out pictures nearly equal to a training picture")
        )
    elif found.test is not None:
        known = {row.tobytes() for row in found.x[~found.test.numpy()]}
        across = sum(row.tobytes() in known for row in found.x[found.test.numpy()])
        findings.append(count("across", "held-out copies", across, note="held-out rows equal to a training row"))
    text = "A held-out row that equals a training row measures memorisation, not generalisation."
    return Part("Duplicates", text, findings, tables=[t for t in tables if t.rows], details={"copied": groups})


def _wrong(found: Contents) -> list[Part]:
    if not found.wrong:
        return []
    rows = [(str(row), column, content) for row, column, content in found.wrong]
    table = limited(("row", "column", "content"), rows, "Cells that are not finite numbers")
    return [Part("Missing numbers", tables=[table], details={"wrong": found.wrong})]
