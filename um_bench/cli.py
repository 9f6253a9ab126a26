"""The command line: it reads options, calls one function, and prints. torch is imported late."""

import dataclasses
import functools
import logging
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from um_bench import registry, starting_points
from um_bench.errors import UmBenchError, UsageError
from um_bench.render.text import printable
from um_bench.suite import Suite, listed, load_suite, shipped

if TYPE_CHECKING:
    from um_bench.records import Record

OK, FAILED_CELLS, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes. Missing data and what is unsupported are named, and are no failures."""


def _reports_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into one line and an exit code; with --debug, into a traceback."""

    @click.option("--debug", is_flag=True, help="Show tracebacks, warnings and log messages.")
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, **options: Any) -> None:
        _set_up_messages(debug=debug)
        try:
            code = command(*args, **options) or OK
        except KeyboardInterrupt:
            click.echo("\ninterrupted; what is finished is kept: run the command again.", err=True)
            code = INTERRUPTED
        except (click.ClickException, BrokenPipeError):
            raise  # click says the one, and keeps quiet about the other: `um-bench ... | head`
        except Exception as error:
            if debug:
                traceback.print_exc()
            click.echo(f"um-bench: error: {_one_line(error)}", err=True)
            code = BAD_INPUT
        sys.exit(code)

    return wrapped


def _one_line(error: Exception) -> str:
    text = printable(" ".join(str(error).split("\n")))
    if isinstance(error, UmBenchError):
        return text
    return f"unexpected {type(error).__name__}: {text} (--debug shows where; please report it)"


def _set_up_messages(*, debug: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if debug else logging.ERROR, format="%(name)s: %(message)s"
    )
    logging.getLogger("um_bench").setLevel(logging.INFO if debug else logging.WARNING)
    if not debug:
        warnings.simplefilter("ignore")


def _names(text: str | None) -> tuple[str, ...] | None:
    """Return the items of a comma-separated option."""
    if text is None:
        return None
    return tuple(item.strip() for item in text.split(",") if item.strip())


_suite_option = click.option(
    "--suite", metavar="NAME|FILE", help="A shipped suite, or a TOML file."
)
_results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    envvar="UM_BENCH_RESULTS",
    default=Path("results"),
    show_default=True,
    show_envvar=True,
    help="Folder of all results.",
)
_data_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="UM_BENCH_DATA",
    default=Path("data"),
    show_default=True,
    show_envvar=True,
    help="Folder of the image sets.",
)
_device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."
)
_model_options = (
    click.option(
        "--backbone", metavar="NAME", help="A timm model, or pytorch-ood:KEY; {seed} is replaced."
    ),
    click.option(
        "--checkpoint", metavar="FILE", help="Weights to start from; {seed} in it is replaced."
    ),
    click.option("--seeds", metavar="0,1,2", help="Seeds to run."),
    click.option(
        "--set",
        "settings",
        metavar="NAME.KEY=VALUE",
        multiple=True,
        help="A hyperparameter: um.constraint=0.15, knn.k=20, recipe.epochs=5. Repeatable.",
    ),
)


def _with_model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_model_options):
        command = option(command)
    return command


_report_option = click.option(
    "--format", "kind", type=click.Choice(["table", "json"]), default="table", show_default=True
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="um-bench")
def main() -> None:
    """Benchmark out-of-distribution detection: adapters x detectors x data sets, resumable."""


@main.command()
@_suite_option
@click.option("--adapters", metavar="A,B", help="Adapters to run, e.g. none,um,oe+um.")
@click.option("--detectors", metavar="A,B", help="Detectors to run, e.g. msp,knn@k=20, or all.")
@click.option("--ood-sets", metavar="A,B", help="OOD sets to score, by the suite's names.")
@click.option(
    "--auxiliary",
    metavar="SET",
    help="Outliers to train with, for adapters that do, e.g. folder/FOLDER_BELOW_THE_DATA.",
)
@_with_model_options
@_device_option
@_data_option
@_results_option
@click.option(
    "--limit", type=click.IntRange(min=1), help="Only N images of each set: a quick look."
)
@click.option("--retry-failed", is_flag=True, help="Compute failed cells again.")
@click.option("--deterministic", is_flag=True, help="Only deterministic kernels on a GPU.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and stop.")
@_reports_errors
def run(
    suite: str | None,
    data_dir: Path,
    results: Path,
    device: str,
    retry_failed: bool,
    deterministic: bool,
    dry_run: bool,
    **choices: Any,
) -> int:
    """Fill the cells of a suite, and show them. What is already there is not computed again."""
    chosen = _choose(suite, **choices)
    if dry_run:
        return _dry_run(chosen, data_dir)
    from um_bench.runner import run_suite

    with _ProgressBar() as bar:
        records = run_suite(
            chosen,
            results=results,
            data_dir=data_dir,
            device=device,
            retry_failed=retry_failed,
            deterministic=deterministic,
            on_progress=bar.show,
        )
        cells = bar.follow(records)
    click.echo(_table(results, chosen.folder, "table"))
    return _summary(cells, results)


def _choose(suite: str | None, **choices: Any) -> Suite:
    """Return the suite with the options of the command line applied."""
    if suite is None:
        raise UsageError(f"give --suite NAME or FILE.toml. Known: {', '.join(shipped())}.")
    chosen = load_suite(suite)
    seeds = _seeds(choices.get("seeds"))
    if seeds is None and _is_one_base(choices):
        seeds = chosen.seeds[:1]  # it is one base classifier, whatever the seed
    changes = {
        "adapters": _names(choices.get("adapters")),
        "detectors": _detectors(choices.get("detectors")),
        "backbone": choices.get("backbone"),
        "checkpoint": choices.get("checkpoint"),
        "auxiliary": choices.get("auxiliary"),
        "seeds": seeds,
        "limit": choices.get("limit"),
    }
    if changes["backbone"] not in (None, chosen.backbone):
        changes["backbone_options"] = {}
        changes["preprocessing"] = dataclasses.replace(chosen.preprocessing, mean=(), std=())
    chosen = chosen.replace(**{k: v for k, v in changes.items() if v is not None})
    chosen = chosen.with_ood_sets(_names(choices.get("ood_sets")))
    chosen = chosen.replace(description=chosen.description + _changed_by_options(choices))
    for setting in choices.get("settings", ()):
        chosen = chosen.with_setting(setting)
    return chosen


def _is_one_base(choices: Mapping[str, Any]) -> bool:
    """Return whether the options name trained weights that are the same for every seed."""
    backbone = choices.get("backbone") or ""
    named = [choices.get("checkpoint") or ""]
    named += [backbone] if backbone.startswith(starting_points.PREFIX) else []
    return any(named) and not any("{seed}" in name for name in named)


def _detectors(text: str | None) -> tuple[str, ...] | None:
    """Return the detectors of the option; `all` stands for every one that is registered."""
    names = _names(text)
    return tuple(registry.plugins("detector")) if names == ("all",) else names


def _changed_by_options(choices: Mapping[str, Any]) -> str:
    """Return what the suite's own description does not know."""
    shown = {name: choices.get(name) for name in ("backbone", "checkpoint", "auxiliary", "limit")}
    if shown["checkpoint"]:
        shown["checkpoint"] = Path(shown["checkpoint"]).name
    given = [f"--{name} {value}" for name, value in shown.items() if value]
    given += [f"--set {setting}" for setting in choices.get("settings", ())]
    if not given:
        return ""
    return f"\n\nRun with {', '.join(given)}: what is said above of these does not hold here.\n"


def _seeds(text: str | None) -> tuple[int, ...] | None:
    names = _names(text)
    if names is None:
        return None
    try:
        return tuple(int(name) for name in names)
    except ValueError:
        raise UsageError(f"--seeds {text!r} is not a list of integers, as in 0,1,2") from None


def _dry_run(suite: Suite, data_dir: Path) -> int:
    from um_bench.data import ImageSet
    from um_bench.sweep import bind_adapters, bind_detectors, open_sets, with_outliers

    exposed = with_outliers(bind_adapters(suite))
    suite, _ = bind_detectors(suite)
    sets = open_sets(suite, data_dir, auxiliary=bool(exposed))
    jobs = list(suite.jobs())
    cells = sum(1 for job in jobs for _ in suite.cells(job))
    click.echo(f"{suite.name}: {len(jobs)} jobs, {cells} cells on {suite.backbone}")
    for job in jobs:
        click.echo(f"  seed {job.seed}: {job.adapter}")
    if isinstance(sets, UmBenchError):
        click.echo(f"missing: {sets}")
        return OK
    named = {"train": sets.train, "test": sets.test, **sets.ood}
    if sets.auxiliary is not None:
        named["auxiliary"] = sets.auxiliary
    for name, data in named.items():
        here = f"{len(data)} images" if isinstance(data, ImageSet) else f"missing: {data}"
        click.echo(f"  {name}: {here}")
    return OK


class _ProgressBar:
    """Shows how far a sweep is, and a line for each job that has ended."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeLeft(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("reading the data", total=None)

    def __enter__(self) -> "_ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Any) -> None:
        """Move the bar."""
        text = printable(f"seed {progress.job.seed}: {progress.stage}")
        self._bar.update(
            self._task, description=text, completed=progress.done, total=progress.total
        )

    def follow(self, records: Any) -> "list[Record]":
        """Return all records, having said of each job how its cells ended."""
        seen: list[Record] = []
        for record in records:
            if seen and record.job != seen[-1].job:
                self._say_job(seen)
            seen.append(record)
        if seen:
            self._say_job(seen)
        return seen

    def _say_job(self, records: "list[Record]") -> None:
        job = records[-1].job
        states = Counter(r.state for r in records if r.job == job)
        ends = ", ".join(f"{n} {state}" for state, n in states.items())
        text = printable(f"seed {job.seed}, {job.adapter}: {ends}")
        self._bar.console.print(text, highlight=False, markup=False)


def _summary(records: "Sequence[Record]", results: Path) -> int:
    """Say how the cells ended, each reason once; return the exit code."""
    states = Counter(record.state for record in records)
    ends = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    click.echo(f"{len(records)} cells: {ends}. Records: {results}")
    if not states["failed"]:
        return OK
    click.echo(f"failed: {states['failed']}; --retry-failed computes them again.", err=True)
    return FAILED_CELLS


@main.command()
@_suite_option
@_results_option
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "markdown", "csv", "latex", "bibtex", "json", "html"]),
    default="table",
    show_default=True,
)
@click.option("--per-set", is_flag=True, help="A column for each OOD set, not for near and far.")
@click.option(
    "--order",
    type=click.Choice(["auroc", "detector", "adapter"]),
    default="auroc",
    show_default=True,
    help="By mean AUROC, or grouped to compare adapters or detectors.",
)
@click.option(
    "--columns",
    metavar="A,B",
    help="Of each group auroc, fpr95, fpr95_ood, fpr95_id, aupr_in, aupr_out, rank; then "
    "id-accuracy, delta, cost; or all.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option(
    "--check",
    is_flag=True,
    help="Only say whether the file of --out is up to date; without --out, whether the pages are "
    "that lie beside the records, as in leaderboards/.",
)
@_reports_errors
def leaderboard(
    suite: str | None,
    results: Path,
    kind: str,
    per_set: bool,
    order: str,
    columns: str | None,
    out: Path | None,
    check: bool,
) -> int:
    """Print the tables of what has been run, from the records alone."""
    from um_bench.records import write_atomically
    from um_bench.render import JOINABLE

    names = _chosen_folders(suite, results)
    if check and out is None:
        return _check_pages(results, names)
    if len(names) > 1 and kind not in JOINABLE:
        raise UsageError(
            f"--format {kind} is for one suite; give --suite and one of: {', '.join(names)}"
        )
    shown = {"per_set": per_set, "order": order, **_columns(columns)}
    tables = [_table(results, name, kind, **shown) for name in names]
    text = "\n\n".join(tables)
    if out is None:
        click.echo(text)
    elif not check:
        write_atomically(out, f"{text}\n".encode())
    elif not out.exists() or out.read_text(encoding="utf-8") != f"{text}\n":
        click.echo(f"{out} is not what the records say; write it again without --check", err=True)
        return FAILED_CELLS
    return OK


def _check_pages(results: Path, names: Sequence[str]) -> int:
    """Say which pages beside the records are not what these say, and how to write them."""
    from um_bench.pages import stale_pages

    stale = [
        page
        for name in names
        for page in stale_pages(results, name, functools.partial(_page, results, name))
    ]
    for page in stale:
        click.echo(printable(f"{page.path} {page.why}. Write it again:"), err=True)
        click.echo(printable(f"  {page.command}"), err=True)
    if not stale:
        click.echo(f"the pages of {', '.join(names)} are what their records say")
    return FAILED_CELLS if stale else OK


def _columns(text: str | None) -> dict[str, tuple[str, ...]]:
    """Return the columns of the option; `all` stands for every one, nothing for the standard."""
    from um_bench.render import COLUMNS

    names = _names(text)
    return {} if names is None else {"columns": COLUMNS if names == ("all",) else names}


def _chosen_folders(suite: str | None, results: Path) -> list[str]:
    return [_folder_of(suite)] if suite else _suites_in(results)


def _folder_of(name_or_file: str) -> str:
    return load_suite(name_or_file).folder if name_or_file.endswith(".toml") else name_or_file


def _table(results: Path, folder: str, kind: str, **view: Any) -> str:
    from um_bench.leaderboard import read_board
    from um_bench.records import suite_folder
    from um_bench.render import render

    return render(read_board(suite_folder(results, folder)), kind, **view)


def _page(results: Path, folder: str, kind: str) -> str:
    return f"{_table(results, folder, kind)}\n"


def _suites_in(results: Path) -> list[str]:
    names = sorted({path.parent.parent.name for path in results.glob("*/records/*.jsonl")})
    if not names:
        raise UsageError(
            f"{results} holds no results. Run a suite first: um-bench run --suite digits-far-ood"
        )
    return names


@main.command()
@click.option("--suite", metavar="NAME|FILE", help="Of all suites with results, this one only.")
@_results_option
@click.option("--against", type=click.Choice(["published"]), default="published", show_default=True)
@click.option(
    "--max-sds", default=3.0, show_default=True, help="Differences of more SDs than that exit 1."
)
@click.option(
    "--same-weights",
    is_flag=True,
    help="I vouch for it that --checkpoint was the published base classifier.",
)
@_report_option
@_reports_errors
def check(
    suite: str | None,
    results: Path,
    against: str,
    max_sds: float,
    same_weights: bool,
    kind: str,
) -> int:
    """Say how far results are from published numbers, where these can be compared at all."""
    import json

    from um_bench import published
    from um_bench.records import suite_folder

    names = _chosen_folders(suite, results)
    reports = {
        name: published.check_folder(
            suite_folder(results, name), max_sds=max_sds, same_weights=same_weights
        )
        for name in names
    }
    if kind == "json":
        found = {name: published.as_dict(report) for name, report in reports.items()}
        click.echo(json.dumps(found, indent=1))
    else:
        texts = [f"{name}\n\n{published.as_text(report)}" for name, report in reports.items()]
        click.echo("\n\n".join(texts))
    return max(report.exit_status for report in reports.values())


@main.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--suite", metavar="NAME|FILE", help="Of all suites in both, this one only.")
@_report_option
@_reports_errors
def diff(a: Path, b: Path, suite: str | None, kind: str) -> int:
    """Say what moved from results A to results B, and what of it the records explain.

    A and B are folders of all results, or of one suite's. Exit code 1 if anything moved.
    """
    import json

    from um_bench import difference

    report = difference.compare_folders(a, b, _folder_of(suite) if suite else None)
    as_json = kind == "json"
    click.echo(
        json.dumps(difference.as_dict(report), indent=1) if as_json else difference.as_text(report)
    )
    return report.exit_status


@main.command()
@_suite_option
@_results_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE.zip",
    help="The archive.",
)
@click.option("--partial", is_flag=True, help="Pack it though cells are missing, and say so in it.")
@_reports_errors
def submit(suite: str | None, results: Path, out: Path, partial: bool) -> int:
    """Pack a suite's records and scores for others, who check them with `um-bench verify`."""
    from um_bench import submission
    from um_bench.records import suite_folder

    names = _chosen_folders(suite, results)
    if len(names) > 1:
        raise UsageError(
            f"a submission is of one suite; give --suite and one of: {', '.join(names)}"
        )
    found = submission.pack(suite_folder(results, names[0]), out, partial=partial)
    if isinstance(found, submission.Report):
        click.echo(submission.as_text(found))
        click.echo("\nnot packed: see above; --partial packs what is not finished.", err=True)
        return FAILED_CELLS
    click.echo(submission.receipt(found))
    return OK


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Results that are known, such as leaderboards: sets must be the same images there.",
)
@_report_option
@_reports_errors
def verify(paths: tuple[Path, ...], against: Path | None, kind: str) -> int:
    """Check submissions, or folders of records: nothing is unpacked, run, or believed.

    PATHS are archives of `um-bench submit`, suites' folders, or folders of these. All metrics are
    computed again from the scores, where there are scores. Exit code 1 if there is a problem.
    """
    import json

    from um_bench import submission

    reports = [report for path in paths for report in submission.verify(path, against)]
    if kind == "json":
        click.echo(json.dumps([submission.as_dict(report) for report in reports], indent=1))
    else:
        click.echo("\n\n".join(map(submission.as_text, reports)))
    return max(report.exit_status for report in reports)


@main.command()
@_suite_option
@_with_model_options
@click.option(
    "--keep", default=0.965, show_default=True, help="Share of weights that a mask keeps."
)
@click.option("--masks", default=5, show_default=True, help="How many random masks.")
@_device_option
@_data_option
@_results_option
@_reports_errors
def estimate(
    suite: str | None,
    keep: float,
    masks: int,
    device: str,
    data_dir: Path,
    results: Path,
    **choices: Any,
) -> int:
    """Estimate the loss constraint of a suite's base classifier: the loss under random masks."""
    chosen = _choose(suite, **choices)
    from um_bench.data import Loader
    from um_bench.models import base_model
    from um_bench.sweep import choose_device, open_sets
    from um_bench.training import mean_loss
    from um_bench_um import estimate_constraint

    device = choose_device(device)
    sets = open_sets(chosen.replace(ood=chosen.ood[:1]), data_dir, auxiliary=False)
    if isinstance(sets, UmBenchError):
        raise sets
    for seed in chosen.seeds:
        base = base_model(
            chosen, seed, sets.train, results / "models", device=device, on_epoch=lambda _: None
        )
        train = Loader(
            sets.train,
            batch_size=chosen.recipe.batch_size,
            device=device,
            augmentation=chosen.recipe.augmentation,
            seed=seed,
        )
        model = base.classifier.to(device)
        click.echo(f"seed {seed}: training loss {mean_loss(model, train):.4f} nats")
        found = estimate_constraint(model, train, keep=keep, masks=masks)
        for number, loss in enumerate(found.losses):
            click.echo(f"  mask {number}, keep {keep:g}: {loss:.4f} nats")
        click.echo(f"  constraint: {found.mean:.4f} nats, SD over masks {found.sd:.4f}")
    return OK


@main.command()
@click.option("--distribution", metavar="NAME", help="Only the plugins of this distribution.")
@_reports_errors
def doctor(distribution: str | None) -> int:
    """Say what is installed, and whether every plugin keeps its contract; about a minute."""
    from um_bench.doctor import doctor as examine
    from um_bench.doctor import exit_code, report

    findings = examine(distribution)
    click.echo(report(findings))
    return exit_code(findings)


@main.command(name="list")
@click.argument(
    "what", type=click.Choice(["adapters", "detectors", "backbones", "datasets", "suites"])
)
@click.option("--long", "details", is_flag=True, help="Detectors: what each reads and needs.")
@_reports_errors
def list_(what: str, details: bool) -> int:
    """List what is registered, with the distribution and version that it comes from."""
    from tabulate import tabulate

    if details:
        from um_bench.detectors.catalogue import catalogue

        if what != "detectors":
            raise UsageError(f"--long tells more of detectors alone, not of {what}")
        click.echo(catalogue())
        return OK
    if what == "suites":
        click.echo(tabulate(listed().items(), headers=("suite", "title"), disable_numparse=True))
        return OK
    found = registry.plugins(what.removesuffix("s")).values()
    rows = [(p.name, p.value, f"{p.distribution} {p.version}{_clash(p)}") for p in found]
    click.echo(tabulate(rows, headers=(what, "from", "distribution"), disable_numparse=True))
    if what == "backbones":
        _list_starting_points()
    return OK


def _list_starting_points() -> None:
    from tabulate import tabulate

    rows = [
        (p.backbone, p.id_set, p.loss, "yes" if p.uses_outliers else "")
        for p in starting_points.listed()
    ]
    head = ("trained, from pytorch-ood", "on", "by", "saw outliers")
    click.echo(f"\n{tabulate(rows, headers=head, disable_numparse=True)}")
    click.echo("\nAny model of timm with a linear head works too, by its name.")


def _clash(plugin: registry.Plugin) -> str:
    return f"; also claimed by {', '.join(plugin.rivals)}" if plugin.rivals else ""
