"""The command `harness card`: what an adapter's weights say. It imports nothing heavy at the top."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.contract.cells import count, fixed, p_value, percent, short, significant, text
from harness.contract.report import Column, Report
from harness.errors import ModelError
from harness.render.formats import FORMATS
from harness.render.terminal import make_console

if TYPE_CHECKING:
    from harness.model.card import Card

LISTED = 12
"""Modules, pairs and shared modules shown to people, the largest; data formats have all."""


@click.command(
    "card",
    epilog="""\b
Examples:
  harness card out/adapter --base models/base
  harness card out/adapter --base models/base --other out/adapter-of-seed-1
  harness card out/adapter --base models/base --format json | jq .faults""",
)
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--base", required=True, metavar="MODEL", help="Folder of the model that it was trained on.")
@click.option("--other", type=click.Path(path_type=Path), metavar="ADAPTER", help="Another adapter to compare with.")
@click.option("--components", default=16, show_default=True, type=click.IntRange(min=0), help="Read through the lens.")
@click.option("--null", default=200, show_default=True, type=click.IntRange(min=19), help="Random directions beside.")
@click.option("--seed", default=0, show_default=True, type=int, help="Of the random directions.")
@click.option(
    "--format", "form", default="table", show_default=True, type=click.Choice(list(FORMATS)), help="Output format."
)
def card(adapter: Path, base: str, other: Path | None, components: int, null: int, seed: int, form: str) -> None:
    """What an adapter's weights alone say: norms, spectra, overlaps, promoted tokens, signs of faults in training.

    No forward pass; of the base only the config, the final norm and the output matrix are read.
    """
    from harness.model.card import make_card
    from harness.model.traces import resolve

    folder = resolve(base)
    made = make_card(
        adapter, str(folder), other, n_components=components, n_null=null, seed=seed, tokenizer=_tokenizer(str(folder))
    )  # fmt: skip
    _print(made, f"Adapter {adapter} on {base}", form)


def _tokenizer(base: str) -> Any:
    """The base's tokenizer; None where its folder has none, and tokens are then numbers."""
    from harness.model.subject import load_tokenizer
    from harness.records import ModelRef

    try:
        return load_tokenizer(ModelRef(path=base))
    except ModelError as error:
        make_console(stderr=True).print(f"tokens are shown by number: {error}", markup=False, highlight=False)
        return None


def _print(made: Card, title: str, form: str) -> None:
    from harness.render.formats import find_format, json, print_raw
    from harness.render.loading import Loaded

    console = make_console()
    if form == "json":
        parts = [f'"{report.name}": {json.as_json(getattr(made, report.name)).rstrip()}' for report in REPORTS]
        print_raw(console, "{\n" + ",\n".join(parts) + "\n}\n")
        return
    printer = find_format(form)
    if form != "csv":
        printer.print_header(title, console)
    for report in REPORTS:
        rows = getattr(made, report.name)
        if rows or report.name == "faults":
            printer.print_report(Loaded(report, rows, "" if rows else "No sign of a fault."), console)


def _largest(key: Any) -> Any:
    """Blocks of a report: the largest rows by a key."""
    from harness.contract.report import Block

    def blocks(rows: Any) -> Any:
        best = sorted(rows, key=key, reverse=True)[:LISTED]
        return [Block(f"{len(best)} of {len(rows)}", best)]

    return blocks


def _tokens(words: tuple[str, ...], reason: str | None = None) -> str:
    return short(" ".join(map(repr, words)), 120) if words else text(reason)


_GROUP: tuple[Column[Any], ...] = (
    Column("", lambda r: r.name, "left"),
    Column("modules", lambda r: count(r.n_modules)),
    Column("norm", lambda r: significant(r.norm)),
    Column("share", lambda r: percent(r.share, 1)),
    Column("median", lambda r: significant(r.median_norm)),
    Column("largest", lambda r: r.largest, "left"),
    Column("its norm", lambda r: significant(r.largest_norm)),
)

REPORTS: tuple[Report[Any], ...] = (
    Report(
        "faults", "Signs of faults in training", lambda *_: (),
        (
            Column("sign", lambda r: r.sign, "left"),
            Column("where", lambda r: r.where, "left", wrap=True),
            Column("value", lambda r: significant(r.value)),
            Column("threshold", lambda r: r.threshold),
            Column("meaning", lambda r: r.meaning, "left", wrap=True, ratio=2),
        ),
    ),
    Report("projections", "Projections", lambda *_: (), _GROUP,
           legend="Norm: Frobenius, of scaling * B A; its square adds over modules. Share: of the adapter's square."),
    Report("layers", "Layers", lambda *_: (), _GROUP, blocks=_largest(lambda r: r.norm)),
    Report(
        "modules", "Largest modules", lambda *_: (),
        (
            Column("module", lambda r: f"L{r.layer}.{r.projection}", "left"),
            Column("rank", lambda r: count(r.rank)),
            Column("norm", lambda r: significant(r.norm)),
            Column("share", lambda r: percent(r.share, 1)),
            Column("effective rank", lambda r: fixed(r.effective_rank, 2)),
            Column("singular values", lambda r: short(" ".join(significant(s) for s in r.spectrum), 40), "left"),
        ),
        legend="Effective rank: (sum s^2)^2 / sum s^4 of the singular values s of scaling * B A.",
        blocks=_largest(lambda r: r.norm or 0.0),
    ),
    Report(
        "promoted", "What the largest components that write into the residual stream promote", lambda *_: (),
        (
            Column("component", lambda r: r.component, "left"),
            Column("norm", lambda r: significant(r.norm)),
            Column("share", lambda r: percent(r.share, 1)),
            Column("promotes", lambda r: _tokens(r.promoted[:6], r.reason), "left", wrap=True, ratio=3),
            Column("p", lambda r: p_value(r.p_promoted)),
            Column("suppresses", lambda r: _tokens(r.suppressed[:6]), "left", wrap=True, ratio=3),
            Column("p ", lambda r: p_value(r.p_suppressed)),
        ),
        legend="Tokens whose logits a positive scalar raises and lowers most, through the final norm and the output "
        "matrix alone; a negative scalar does the reverse. Components of q, k, v, gate and up write "
        "inside their blocks and have no such tokens. p: share of random directions of the same norm whose 10 "
        "strongest tokens are as strong, one-sided, not corrected for the number of rows.",
    ),
    Report(
        "overlaps", "Overlap between modules", lambda *_: (),
        (
            Column("what", lambda r: r.what, "left"),
            Column("projections", lambda r: f"{r.first} {r.second}", "left"),
            Column("pairs", lambda r: count(r.n_pairs)),
            Column("mean |cos|", lambda r: fixed(r.mean_cosine)),
            Column("random", lambda r: fixed(r.expected)),
            Column("largest", lambda r: fixed(r.largest)),
            Column("between", lambda r: r.largest_pair, "left"),
            Column("p", lambda r: p_value(r.p)),
        ),
        legend="Reads: a with a; writes: b with b; feeds: b with the a of what comes later, without the gain of the "
        "norm between them. p: of the largest |cosine|, times the number of pairs.",
        blocks=_largest(lambda r: r.mean_cosine),
    ),
    Report(
        "other", "Beside the other adapter", lambda *_: (),
        (
            Column("module", lambda r: r.module.removeprefix("base_model.model."), "left"),
            Column("cosine of weights", lambda r: fixed(r.weight_cosine)),
            Column("turned", lambda r: fixed(r.weight_null, 4)),
            Column("reads", lambda r: fixed(r.read_overlap)),
            Column("random", lambda r: fixed(r.read_null, 4)),
            Column("writes", lambda r: fixed(r.write_overlap)),
            Column("random ", lambda r: fixed(r.write_null, 4)),
            Column("norm, other over this", lambda r: significant(r.norm_ratio)),
        ),
        legend="Turned: root mean square of the cosine with one of the two turned at random. Reads and writes: mean "
        "squared cosine of the principal angles between the spaces of a and of b.",
        blocks=_largest(lambda r: abs(r.weight_cosine or 0.0)),
    ),
)  # fmt: skip
"""The card's tables; each is the field of that name of `harness.model.card.Card`."""
