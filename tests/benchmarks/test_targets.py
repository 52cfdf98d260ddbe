"""Verdicts, tables and plots."""

import json
from xml.etree import ElementTree

import pytest

from benchmarks.loads import LOADS, Load, make_arguments
from benchmarks.measure import Result, Series
from benchmarks.metrics import Metric, Sample
from benchmarks.plots import draw_bars, draw_lines
from benchmarks.report import Run, make_json, make_markdown, make_plots, make_target_table
from benchmarks.sweeps import SWEEPS
from benchmarks.targets import TARGETS, Target, Verdict, find_failures, find_losses, judge


def result(load: Load, **figures: list[float]) -> Result:
    """Make the result of a load with one figure, that of its first target: for each server one value per round."""
    metric = next(target.metric for target in TARGETS if target.load == load.name)
    return Result(
        load=load, series={peer: Series(samples=[{metric: value} for value in values]) for peer, values in figures.items()}
    )


def make_series(rate: float) -> Series:
    return Series(samples=[{Metric.RATE: rate}])


def named(name: str) -> Load:
    return next(load for load in LOADS if load.name == name)


def make_run(results: dict[str, Result]) -> Run:
    return Run(
        command="python -m benchmarks",
        seconds=1.0,
        machine={"processor": "one"},
        versions={"ours": "1", "rust": None},
        ceiling={},
        results=results,
    )


@pytest.mark.parametrize(
    ("ours", "verdict"), [(250.0, Verdict.MET), (200.0, Verdict.MET), (170.0, Verdict.MUST_ONLY), (140.0, Verdict.MISSED)]
)
def test_a_ratio_is_judged_by_must_and_aim(ours: float, verdict: Verdict) -> None:
    target = Target(load="fan-100-16", metric=Metric.THROUGHPUT, must=1.5, aim=2.0)

    judgement = judge(target, {"fan-100-16": result(named("fan-100-16"), ours=[ours], rust=[100.0])})

    assert judgement.verdict is verdict
    assert judgement.value == ours / 100


def test_less_memory_is_better() -> None:
    target = Target(load="idle-9000", metric=Metric.MEMORY, must=4.0, aim=2.0, against=None)

    verdicts = [judge(target, {"idle-9000": result(named("idle-9000"), ours=[value])}).verdict for value in (1.5, 3.0, 5.0)]

    assert verdicts == [Verdict.MET, Verdict.MUST_ONLY, Verdict.MISSED]


def test_tokens_are_judged_by_the_rate_without_them() -> None:
    target = next(target for target in TARGETS if target.peer == "ours-jwt")
    load = named("handshakes")

    judgements = [
        judge(target, {load.name: Result(load=load, series={name: make_series(rate) for name, rate in rates.items()})})
        for rates in ({"ours": 20_000.0, "ours-jwt": 12_000.0}, {"ours": 20_000.0, "ours-jwt": 11_000.0}, {"ours": 20_000.0})
    ]

    assert target.must == 0.6
    assert [each.verdict for each in judgements] == [Verdict.MUST_ONLY, Verdict.MISSED, Verdict.NOT_JUDGED]


def test_the_median_is_judged() -> None:
    target = Target(load="fan-100-16", metric=Metric.THROUGHPUT, must=1.5, aim=2.0)

    judgement = judge(target, {"fan-100-16": result(named("fan-100-16"), ours=[1.0, 210.0, 999.0], rust=[100.0, 100.0, 7.0])})

    assert judgement.value == 2.1


def test_without_the_original_a_row_is_marked_as_not_judged() -> None:
    results = {"fan-100-16": result(named("fan-100-16"), ours=[100.0])}

    table = make_target_table(make_run(results))

    assert "not judged (no figure of rust)" in table
    assert "not judged (no figure of quart)" in table


def test_a_server_that_failed_has_no_figure() -> None:
    failed = result(named("fan-100-16"), ours=[100.0], rust=[50.0])
    failed.series["rust"].failure = "it fell over"

    assert judge(TARGETS[0], {"fan-100-16": failed}).verdict is Verdict.NOT_JUDGED
    assert "failed: it fell over" in make_markdown(make_run({"fan-100-16": failed}), [])


def test_a_loss_in_any_round_counts() -> None:
    samples: list[Sample] = [{Metric.LOST: 0}, {Metric.LOST: 3}, {Metric.LOST: 0, Metric.DISORDER: 1}]
    results = {
        "fan-100-16": Result(load=named("fan-100-16"), series={"ours": Series(samples=samples)}),
        "echo-50": Result(load=named("echo-50"), series={"ours-2": Series(samples=samples), "rust": Series(samples=samples)}),
        "fan-100-1": Result(load=named("fan-100-1"), series={"rust": Series(samples=samples)}),
    }

    assert find_losses(results) == {"fan-100-16": 4, "echo-50": 4}


def test_a_load_that_this_server_fails_is_found() -> None:
    results = {
        "rooms": Result(load=named("rooms"), series={"ours": make_series(1.0), "ours-2": Series(failure="it fell over")}),
        "echo-1": Result(load=named("echo-1"), series={"ours": make_series(1.0), "rust": Series(failure="it fell over")}),
    }

    assert find_failures(results) == {"rooms": "it fell over"}


def test_two_workers_are_judged_by_one_and_by_the_original() -> None:
    load = named("rooms-1000x4")
    series = {
        name: Series(samples=[{Metric.THROUGHPUT: rate, Metric.CPU: cpu}])
        for name, rate, cpu in (("ours", 80.0, 10.0), ("ours-2", 120.0, 10.5), ("rust", 100.0, 12.0))
    }

    judgements = {
        target.metric: judge(target, {load.name: Result(load=load, series=series)})
        for target in TARGETS
        if target.load == load.name and target.peer == "ours-2"
    }

    assert judgements[Metric.THROUGHPUT].value == 1.2
    assert judgements[Metric.CPU].value == 1.05
    assert {each.verdict for each in judgements.values()} == {Verdict.MUST_ONLY}


def test_every_target_is_of_a_load_that_runs_on_both_servers() -> None:
    loads = {load.name: load for load in LOADS}

    for target in TARGETS:
        assert target.peer in loads[target.load].judged_peers
        assert target.against is None or target.against in loads[target.load].peers
        assert loads[target.load].rounds >= 5


def test_names_of_loads_are_unique() -> None:
    names = [load.name for load in LOADS] + [load.name for sweep in SWEEPS for load in sweep.make_loads().values()]

    assert len(names) == len(set(names))


def test_a_quick_run_is_smaller() -> None:
    load = named("idle-9000")

    assert "9000" in make_arguments(load, is_quick=False)
    assert "2000" in make_arguments(load, is_quick=True)


def test_plots_are_well_formed() -> None:
    bars = draw_bars("Bars & <more>", "msg/s", {"a load": {"scalesocket": 2e6, "the Rust original": 1e6}})
    lines = draw_lines("Lines", "clients", {"scalesocket": [(1, 2.0), (10, 30.0)], "picows": [(1, 3.0), (10, 31.0)]})

    assert {ElementTree.fromstring(svg).tag for svg in (bars, lines)} == {"{http://www.w3.org/2000/svg}svg"}


def test_the_report_holds_every_round() -> None:
    run = make_run({"fan-100-16": result(named("fan-100-16"), ours=[1.0, 2.0, 3.0], rust=[4.0])})

    report = json.loads(make_json(run))

    assert [sample["throughput"] for sample in report["loads"]["fan-100-16"]["servers"]["ours"]["rounds"]] == [1.0, 2.0, 3.0]
    assert report["targets"][0]["verdict"] == "missed"
    assert "throughput.svg" in make_plots(run)
