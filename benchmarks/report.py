"""Writes ``RESULTS.md`` and the plot from what was measured: ratios first, what is missed said plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from contenders import CONTENDERS, FLOOR, OURS, PEERS

Results = dict[str, Any]
NAMES = {OURS: "**ours**"}
KEYS = {
    "ms_per_poll": ("CPU of 1,000 polls, ms", 1000.0),
    "kib_per_wait": ("KiB for each wait", 1.0),
    "longest_ms": ("longest block, ms", 1.0),
    "longest_busy_ms": ("of it busy, ms", 1.0),
    "full_collections": ("full garbage collections", 1.0),
    "tenth_ms": ("tenth longest, ms", 1.0),
    "opened_before": ("connections opened at first", 1.0),
    "opened": ("opened afterwards", 1.0),
    "most_open": ("most open", 1.0),
    "lines_per_poll": ("log lines for a poll", 1.0),
    "lookups": ("look-ups", 1.0),
    "masks": ("mask calls", 1.0),
    "most_per_interval": ("requests in an interval, worst wait", 1.0),
    "per_second": ("requests a second, all 10 waits", 1.0),
    "alive": ("still waiting", 1.0),
    "per_wait": ("requests for each wait", 1.0),
    "ended_well": ("ended well", 1.0),
    "ms": ("CPU, ms", 1.0),
    "modules": ("modules", 1.0),
    "opened_per_poll": ("connections for each poll", 1.0),
    "share": ("share of a core, %", 100.0),
    "mb": ("MB", 1.0),
    "polls_per_wait": ("polls for each wait", 1.0),
    "polls": ("polls", 1.0),
}


@dataclass(frozen=True)
class Figure:
    """One figure to be met: *value* computes it from the results, and at most *limit* is good."""

    text: str
    measures: tuple[str, ...]
    value: Callable[[Results], float]
    limit: float
    unit: str = ""


def numbers(result: Results, contender: str, key: str) -> list[float]:
    """Return one number of all runs of a contender."""
    taken = result["taken"].get(contender, [])
    return [run[key] for run in taken if run.get(key) is not None]


def middle(result: Results, contender: str, key: str) -> float:
    """Return the median over the runs; not a number where there is none."""
    found = numbers(result, contender, key)
    return median(found) if found else float("nan")


def ratio(result: Results, contender: str, other: str, key: str) -> float:
    """Return the median of the ratios, each of two runs side by side."""
    pairs = [
        (mine[key], theirs[key])
        for mine, theirs in zip(
            result["taken"].get(contender, []), result["taken"].get(other, []), strict=False
        )
        if mine.get(key) is not None and theirs.get(key)
    ]
    return median(mine / theirs for mine, theirs in pairs) if pairs else float("nan")


def against_best(result: Results, key: str) -> float:
    """Return the ratio to the best of the peers, the one whose median is least."""
    peers = [peer for peer in PEERS if numbers(result, peer, key)]
    best = min(peers, key=lambda peer: middle(result, peer, key), default=OURS)
    return ratio(result, OURS, best, key)


def _ours(name: str, key: str) -> Callable[[Results], float]:
    return lambda results: middle(results[name], OURS, key)


def _over(name: str, other: str, key: str) -> Callable[[Results], float]:
    return lambda results: ratio(results[name], OURS, other, key)


def _worst(key: str, *names: str) -> Callable[[Results], float]:
    return lambda results: max(max(numbers(results[name], OURS, key), default=float("nan")) for name in names)


INTERVALS = ("conns-1", "conns-5", "conns-20", "conns-60")
ERRORS = tuple(
    f"error-{fault}" for fault in ("401", "403", "404", "429", "500", "503", "garbage", "other", "cut")
)
FIGURES = (
    Figure("CPU of polls over http, all in step, to the shared-aiohttp floor", ("polls-http",), _over("polls-http", FLOOR, "ms_per_poll"), 1.4, "times"),
    Figure("the same to the best peer", ("polls-http",), lambda r: against_best(r["polls-http"], "ms_per_poll"), 0.35, "times"),
    Figure("CPU of polls over https, all in step, to the floor", ("polls-https",), _over("polls-https", FLOOR, "ms_per_poll"), 1.4, "times"),
    Figure("the same to the best peer", ("polls-https",), lambda r: against_best(r["polls-https"], "ms_per_poll"), 0.45, "times"),
    Figure("the polls spread evenly, http, to the floor", ("apart-http",), _over("apart-http", FLOOR, "ms_per_poll"), 1.4, "times"),
    Figure("the same to the best peer", ("apart-http",), lambda r: against_best(r["apart-http"], "ms_per_poll"), 0.35, "times"),
    Figure("the polls spread evenly, https, to the floor", ("apart-https",), _over("apart-https", FLOOR, "ms_per_poll"), 1.4, "times"),
    Figure("the same to the best peer", ("apart-https",), lambda r: against_best(r["apart-https"], "ms_per_poll"), 0.45, "times"),
    Figure("connections opened in 1,000 polls, every 1 to 60 s", INTERVALS, _worst("opened", *INTERVALS), 10),
    Figure("connections for 5,000 waits on one host", ("conns-many",), _worst("most_open", "conns-many"), 100),
    Figure("memory of one more wait, http", ("memory-http",), _ours("memory-http", "kib_per_wait"), 14, "KiB"),
    Figure("memory of one more wait, https", ("memory-https",), _ours("memory-https", "kib_per_wait"), 45, "KiB"),
    Figure("longest block, 1,000 waits due at once", ("block-once",), _ours("block-once", "longest_ms"), 25, "ms"),
    Figure("longest block, 5,000 waits every 10 s", ("block-many",), _ours("block-many", "longest_ms"), 60, "ms"),
    Figure("log lines for one poll", ("polls-http",), _ours("polls-http", "lines_per_poll"), 0.05),
    Figure("connection look-ups of 1,000 waits", ("polls-http",), _ours("polls-http", "lookups"), 1),
    Figure("secret-mask calls of 1,000 waits", ("polls-http",), _ours("polls-http", "masks"), 1),
    Figure("requests of a wait in an interval, worst error", ERRORS, _worst("most_per_interval", *ERRORS), 1.0),
    Figure("requests of a wait in 60 s of 429", ("storm",), _ours("storm", "per_wait"), 1.2),
    Figure("waits that did not end well after it", ("storm",), lambda r: r["storm"]["spec"]["number"] - middle(r["storm"], OURS, "ended_well"), 0),
    Figure("CPU of importing airflow_anon.sensors", ("imports",), _ours("imports", "ms"), 15, "ms"),
    Figure("modules that it loads", ("imports",), _ours("imports", "modules"), 15),
    Figure("the first poll in a fresh process, to importing requests", ("first",), _over("first", "floor: import requests", "ms"), 2.0, "times"),
    Figure("one poll on a worker, http, to requests.Session", ("poke-http",), _over("poke-http", "floor: requests", "ms_per_poll"), 1.3, "times"),
    Figure("one poll on a worker, https, to requests.Session", ("poke-https",), _over("poke-https", "floor: requests", "ms_per_poll"), 1.3, "times"),
    Figure("connections of a wait in poke mode", ("poke-https",), _worst("opened", "poke-http", "poke-https"), 1),
    Figure("10,000 waits every 60 s, share of a core", ("many",), lambda r: 100 * middle(r["many"], OURS, "share"), 10, "%"),
    Figure("10,000 waits every 60 s, memory", ("many",), _ours("many", "mb"), 180, "MB"),
)  # fmt: skip
NOTES = (
    (
        "*At most* is the goal that we have set ourselves for a figure. A ratio is that of CPU for each poll; *the best peer* is "
        "the provider that takes the least."
    ),
    (
        "Where the polls go in step and the ratio to the best peer is missed, the limit is aiohttp's own client: the floor, which "
        "does nothing but poll, misses it as well. Spread evenly, ours takes less than the floor, so that a ratio missed "
        "there is for us to better."
    ),
    (
        "On a busy machine the longest block is mostly a wait for a core: `floor: nothing` shows for how long a process that "
        "never polls was held up, and the column beside it what of a block was the process' own work."
    ),
    (
        "Every run is a new process that has loaded what a triggerer loads; contenders take turns, and each "
        "ratio is the median of ratios of runs side by side. CPU is that of the process of the event loop, all its "
        "threads included, divided by the polls that the server served."
    ),
    (
        "One server process answers all, each in the shape of its own API, with bodies of the same length. Real bodies "
        "of the peers' APIs are longer, which favours them here."
    ),
    (
        "Connections come from the environment, where a look-up costs next to nothing; in a triggerer it is a round trip "
        "to another process. That favours the peers, which look one up for each wait."
    ),
    "The log goes through Airflow's own processors and is then dropped; a triggerer writes it to a file for each wait.",
    (
        "Waits that began together and poll in step share the turns of the event loop, which makes a poll cheap for all, and "
        "the floor in particular; waits that are spread evenly do not, unless they are woken together, as ours are, on a "
        "grid of a tenth of a second. In a triggerer with many DAGs they are spread."
    ),
    "What a triggerer adds to each wait of any trigger (a greenlet portal, a span, its database) is left out for all.",
)


def text(results: Results) -> str:
    """Return the figures and the tables."""
    parts = ["## Figures", "", *_figures(results), ""]
    for result in results.values():
        parts += [f"### {result['title']}", "", *_table(result), "", *_troubles(result)]
    return "\n".join(parts)


def write(results: Results, folder: Path) -> None:
    """Write ``RESULTS.md`` and ``costs.png``."""
    versions = next(iter(results.values()))["versions"]
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    contenders = [
        f"- {c.name} ({c.distribution or 'no package'}): {c.note}" for c in CONTENDERS.values() if c.note
    ]
    head = [
        "# Results",
        "",
        f"Measured with {listed}.",
        "",
        *(f"- {note}" for note in NOTES),
        *contenders,
        "",
    ]
    plot = (
        ["![Cost against the number of waits](costs.png)", ""] if _plot(results, folder / "costs.png") else []
    )
    (folder / "RESULTS.md").write_text("\n".join([*head, *plot, text(results)]), encoding="utf-8")
    print(text(results))


def _figures(results: Results) -> Iterable[str]:
    yield "| what | ours | at most | |"
    yield "|---|---|---|---|"
    for figure in FIGURES:
        if not all(name in results for name in figure.measures):
            continue
        value = figure.value(results)
        verdict = "met" if value <= figure.limit else "**missed**"
        shown = f"{_shown(value)} {figure.unit}".rstrip()
        yield f"| {figure.text} | {shown} | {figure.limit:g} | {verdict} |"


def _table(result: Results) -> Iterable[str]:
    taken = result["taken"]
    keys = [key for key in KEYS if any(numbers(result, contender, key) for contender in taken)]
    base = next((name for name in (FLOOR, "floor: requests", OURS) if name in taken), None)
    main = next((key for key in ("ms_per_poll", "ms") if key in keys), None)
    ratios = [f"CPU to {base}"] if base and main else []
    yield "| | " + " | ".join([*ratios, *(KEYS[key][0] for key in keys)]) + " | runs |"
    yield "|---" * (len(keys) + len(ratios) + 2) + "|"
    for contender, runs in taken.items():
        cells = [_shown(ratio(result, contender, base, main))] if base and main else []
        cells += [_shown(middle(result, contender, key) * KEYS[key][1]) for key in keys]
        yield f"| {NAMES.get(contender, contender)} | " + " | ".join(cells) + f" | {len(runs)} |"


def _troubles(result: Results) -> Iterable[str]:
    for contender, runs in result["taken"].items():
        told = [
            text for run in runs for text in ([run["failed"]] if "failed" in run else run.get("errors", []))
        ]
        if told:
            kinds = "; ".join(f"`{text}`" for text in dict.fromkeys(told))
            yield from (f"Waits of {NAMES.get(contender, contender)} broke off: {kinds}", "")


def _shown(number: float) -> str:
    if number != number:  # noqa: PLR0124  not a number
        return "-"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _plot(results: Results, path: Path) -> bool:
    costs = {name: result for name, result in results.items() if name.startswith("cost-")}
    if not costs:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5))
    for axis, key, label in (
        (axes[0], "share", "share of one core, %"),
        (axes[1], "mb", "memory over an empty process, MB"),
    ):
        for contender in next(iter(costs.values()))["taken"]:
            points = [
                (result["spec"]["number"], middle(result, contender, key) * (100 if key == "share" else 1))
                for result in costs.values()
                if numbers(result, contender, key)
            ]
            style = (
                {"linewidth": 3}
                if contender == OURS
                else {"linestyle": "--"}
                if contender.startswith("floor")
                else {}
            )
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=contender, **style)
        axis.set(xscale="log", yscale="log", xlabel="waits, each polling every 10 s", ylabel=label)
        axis.grid(visible=True, which="both", alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return True
