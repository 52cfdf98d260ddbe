"""The report of a run: JSON with every sample, tables in Markdown, plots."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.loads import Kind
from benchmarks.measure import Result, Series
from benchmarks.metrics import METRICS, Metric, Sample, find_median, find_range
from benchmarks.peers import PEERS
from benchmarks.plots import Points, draw_bars, draw_lines
from benchmarks.sweeps import SWEEPS, Sweep
from benchmarks.targets import TARGETS, Judgement, Target, Verdict, find, judge

TITLES: Final[Mapping[str, str]] = {peer.name: peer.title for peer in PEERS}
COLUMNS: Final[Mapping[Kind, tuple[Metric, ...]]] = {
    Kind.TRAFFIC: (
        Metric.THROUGHPUT,
        Metric.CPU,
        Metric.P50,
        Metric.P99,
        Metric.LOST,
        Metric.DISORDER,
        Metric.RSS,
        Metric.BACKEND_CPU,
        Metric.GENERATOR,
    ),
    Kind.LISTENING: (Metric.JITTER_P50, Metric.JITTER_P99, Metric.P50, Metric.P99, Metric.CPU, Metric.LOST, Metric.DISORDER),
    Kind.SLOW: (Metric.THROUGHPUT, Metric.CPU, Metric.P50, Metric.P99, Metric.LOST, Metric.DISORDER, Metric.SLOW_CLOSED),
    Kind.ARRIVAL: (Metric.RATE, Metric.CPU_ARRIVAL, Metric.CPU_MAIN, Metric.P50, Metric.P99, Metric.RSS, Metric.GENERATOR),
    Kind.STALLS: (Metric.STALL, Metric.RATE),
    Kind.MEMORY: (Metric.MEMORY, Metric.RSS),
    Kind.RELOAD: (Metric.BUMP, Metric.P50, Metric.P99, Metric.LOST, Metric.DISORDER),
}
HEADINGS: Final[Mapping[Kind, str]] = {
    Kind.TRAFFIC: "Messages",
    Kind.LISTENING: "A backend that sends at a fixed rate",
    Kind.SLOW: "A client that does not read",
    Kind.ARRIVAL: "Handshakes and rooms opened",
    Kind.STALLS: "Stalls of the event loop",
    Kind.MEMORY: "Memory of idle clients",
    Kind.RELOAD: "Edits under load",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All results, with the machine and the versions."""

    command: str
    seconds: float
    machine: Mapping[str, str]
    versions: Mapping[str, str | None]
    """By the peer's name; None if it was not found."""
    ceiling: Mapping[str, Sample]
    results: Mapping[str, Result]

    def judge_all(self) -> list[Judgement]:
        """Judge all targets, in the order of their table."""
        return [judge(target, self.results) for target in TARGETS]


def make_json(run: Run) -> str:
    """Return every sample of every round as JSON."""
    report = {
        "command": run.command,
        "seconds": round(run.seconds, 1),
        "machine": run.machine,
        "versions": run.versions,
        "targets": [
            {
                "load": item.target.load,
                "peer": item.target.peer,
                "metric": item.target.metric,
                "against": item.target.against,
                "value": item.value,
                "must": item.target.must,
                "aim": item.target.aim,
                "verdict": item.verdict.value,
            }
            for item in run.judge_all()
        ],
        "ceiling": run.ceiling,
        "loads": {
            name: {
                "title": result.load.title,
                "options": result.load.options,
                "servers": {
                    peer: {
                        "failure": series.failure,
                        "medians": {
                            metric: find_median(series.samples, metric)
                            for metric in Metric
                            if any(metric in s for s in series.samples)
                        },
                        "rounds": series.samples,
                    }
                    for peer, series in result.series.items()
                },
            }
            for name, result in run.results.items()
        },
    }
    return json.dumps(report, indent=1, ensure_ascii=False, default=dict) + "\n"


def make_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, padded for reading in a terminal."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return (
        "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines)
        + "\n"
    )


def make_target_table(run: Run) -> str:
    """Return the table of targets, without the loads that did not run."""
    rows = []
    for item in run.judge_all():
        target = item.target
        result = run.results.get(target.load)
        if result is None:
            continue
        is_ratio = target.against is not None
        sign, unit = ("≥" if target.is_more_better else "≤"), (" ×" if is_ratio else f" {METRICS[target.metric].unit}".rstrip())
        rows.append(
            [
                result.load.title if target.peer == "ours" else f"{result.load.title} ({TITLES[target.peer]})",
                METRICS[target.metric].title,
                format_figure(target.metric, item.ours),
                format_theirs(target, item.theirs),
                f"{item.value:.2f}{unit}" if item.value is not None else "–",
                f"{sign} {target.must:g}{unit}",
                f"{sign} {target.aim:g}{unit}",
                item.verdict.value if item.verdict is not Verdict.NOT_JUDGED else f"not judged ({item.reason})",
                *(format_losses(result, name) for name in (target.peer, target.against or "rust")),
            ]
        )
    head = ["load", "figure", "ours", "theirs", "value", "must", "aim", "verdict", "lost: ours", "lost: theirs"]
    return make_table(head, rows)


def format_theirs(target: Target, value: float | None) -> str:
    """Format the figure of the other server, with its name unless it is the Rust original."""
    if target.against is None:
        return "–"
    figure = format_figure(target.metric, value)
    return figure if target.against == "rust" else f"{figure} ({TITLES[target.against]})"


def format_losses(result: Result, peer: str) -> str:
    """Format the median of the messages lost in a round."""
    lost = find(result, peer, Metric.LOST)
    return "–" if lost is None else f"{lost:,.0f}"


def format_figure(metric: Metric, value: float | None) -> str:
    return "–" if value is None else f"{value:,.{METRICS[metric].digits}f}"


def format_samples(series: Series, metric: Metric) -> str:
    """Format a median and its range over the rounds: `1,234 (1,200–1,300)`."""
    middle, spread = find_median(series.samples, metric), find_range(series.samples, metric)
    if middle is None or spread is None:
        return "–"
    figure = format_figure(metric, middle)
    low, high = (format_figure(metric, value) for value in spread)
    return figure if low == high else f"{figure} ({low}–{high})"


def make_load_table(kind: Kind, results: Iterable[Result]) -> str:
    """Return the table of all servers under all loads of one kind."""
    metrics = COLUMNS[kind]
    head = [
        "load",
        "server",
        *(f"{METRICS[metric].title}{f', {METRICS[metric].unit}' if METRICS[metric].unit else ''}" for metric in metrics),
    ]
    rows = []
    for result in results:
        for peer, series in result.series.items():
            if series.failure is not None:
                cells = [f"failed: {series.failure.splitlines()[0]}", *["–"] * (len(metrics) - 1)]
            else:
                cells = [format_samples(series, metric) for metric in metrics]
            rows.append([result.load.title, TITLES[peer], *cells])
    return make_table(head, rows)


def make_ceiling_table(run: Run) -> str:
    """Return the table of the generator on its own server, beside the fastest server under the same load."""
    rows = []
    for name, sample in run.ceiling.items():
        result = run.results[name]
        metric = Metric.THROUGHPUT if Metric.THROUGHPUT in sample else Metric.RATE
        best = max((find_median(series.samples, metric) or 0.0 for series in result.series.values()), default=0.0)
        rows.append(
            [
                result.load.title,
                f"{sample[metric]:,.0f} {METRICS[metric].unit}",
                f"{best:,.0f} {METRICS[metric].unit}",
                f"{sample[Metric.GENERATOR]:.2f}",
            ]
        )
    return make_table(["load", "generator and its own server", "fastest server", "generator's share of a core"], rows)


def make_markdown(run: Run, plots: Iterable[str]) -> str:
    """Return the report as a page."""
    parts = [
        "# Benchmark report\n",
        f"Made by `{run.command}` in {run.seconds:.0f} s. Figures are medians over the rounds, with minimum and maximum in "
        "brackets. [performance.md](../performance.md) has a summary and the method.\n",
        make_table(["machine", ""], [[key, value] for key, value in run.machine.items()]),
        make_table(
            ["server", "version"], [[TITLES[name], version or "not found, not run"] for name, version in run.versions.items()]
        ),
        "## Targets\n",
        "*must* is required, *aim* is the goal. *theirs* is the Rust original, unless a name is given.\n",
        make_target_table(run),
    ]
    parts += [f"![{Path(name).stem}]({name})\n" for name in plots]
    for kind, heading in HEADINGS.items():
        chosen = [result for result in run.results.values() if result.load.kind is kind and not result.load.is_swept]
        if chosen:
            parts += [f"## {heading}\n", make_load_table(kind, chosen)]
    if run.ceiling:
        parts += ["## The generator alone\n", make_ceiling_table(run)]
    return "\n".join(parts)


def make_plots(run: Run) -> dict[str, str]:
    """Return file names and SVG texts of all plots for which the run has figures."""
    plots: dict[str, str] = {}
    for name, title, metric, unit in (
        ("throughput", "Deliveries per second (longer is better)", Metric.THROUGHPUT, "median, msg/s"),
        ("cpu", "Server CPU per delivery (shorter is better)", Metric.CPU, "median, µs"),
    ):
        groups = {
            run.results[load].load.title: bars
            for load in ("fan-100-1", "fan-100-16", "fan-100-1-json", "fan-100-16-json", "fan-1000-1", "echo-50", "echo-50-json")
            if load in run.results and (bars := find_bars(run.results[load], metric))
        }
        if groups:
            plots[f"{name}.svg"] = draw_bars(title, unit, groups)
    for sweep in SWEEPS:
        for metric, label in ((Metric.THROUGHPUT, "deliveries per second"), (Metric.CPU, "server CPU per delivery, µs")):
            if lines := find_lines(run, sweep, metric):
                plots[f"{sweep.name}-{metric}.svg"] = draw_lines(f"{sweep.title}: {label}", sweep.axis, lines)
    return plots


def find_bars(result: Result, metric: Metric) -> dict[str, float]:
    return {TITLES[peer]: value for peer in result.series if (value := find(result, peer, metric))}


def find_lines(run: Run, sweep: Sweep, metric: Metric) -> dict[str, Points]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for x, load in sweep.make_loads().items():
        if load.name in run.results:
            for title, value in find_bars(run.results[load.name], metric).items():
                lines.setdefault(title, []).append((x, value))
    return {title: points for title, points in lines.items() if len(points) > 1}


def write_report(run: Run, folder: Path) -> None:
    """Write `results.json`, `README.md` and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = make_plots(run)
    for name, text in plots.items():
        (folder / name).write_text(text)
    (folder / "results.json").write_text(make_json(run))
    (folder / "README.md").write_text(make_markdown(run, plots))
