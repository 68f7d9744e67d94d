"""Draws the pictures of the documentation from data: ``python docs/pictures.py``."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

IMAGES = Path(__file__).parent / "images"

MINUTES = 30
POLLS = range(0, MINUTES + 1, 5)
A_MOMENT = 0.4
WORKER, TRIGGERER = "worker", "triggerer"
# For each mode: where it takes place, from which minute to which, and how much of a worker that is.
MODES = {
    "poke": ([(WORKER, 0, MINUTES)], "a worker all the time"),
    "reschedule": ([(WORKER, polled, polled + A_MOMENT) for polled in POLLS], "a worker at each poll"),
    "deferrable": (
        [(WORKER, 0, A_MOMENT), (TRIGGERER, A_MOMENT, MINUTES), (WORKER, MINUTES, MINUTES + A_MOMENT)],
        "a worker at both ends",
    ),
    "started and ended\nfrom the trigger": ([(TRIGGERER, 0, MINUTES)], "no worker"),
}
# All of these can be read on white and on black.
COLOURS = {WORKER: "#d9662b", TRIGGERER: "#3f8fbf", "text": "#7b7f86", "nothing": "#9a9da3"}

WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 800, 155, 600, 46, 50, 22
SCALE = (RIGHT - LEFT) / MINUTES


def modes() -> str:
    """Draw where the time of a wait goes in each mode."""
    height = TOP + ROW * len(MODES) + 58
    parts = [*_legend(), *_axis(TOP + ROW * len(MODES))]
    for number, (name, (stays, workers)) in enumerate(MODES.items()):
        parts += _row(TOP + number * ROW, name, stays, workers)
    style = f"text{{font:14px system-ui,sans-serif;fill:{COLOURS['text']}}} .name{{font-weight:600}}"
    title = "Where the time of a wait goes in each mode"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>{title}</title>",
        f"<style>{style}</style>",
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _row(top: float, name: str, stays: list[tuple[str, float, float]], workers: str) -> list[str]:
    middle = top + BAR / 2
    first, *more = name.split("\n")
    begin = middle + 5 - 9 * len(more)
    return [
        *(_text(0, begin + 18 * line, text, "name") for line, text in enumerate([first, *more])),
        f'<path d="M{LEFT} {middle}H{RIGHT}" stroke="{COLOURS["nothing"]}" stroke-dasharray="2 4"/>',
        *(_bar(start, end, top, where) for where, start, end in stays),
        *(_tick(polled, top) for polled in POLLS),
        _text(RIGHT + 22, middle + 5, workers),
    ]


def _bar(start: float, end: float, top: float, where: str) -> str:
    x, width = LEFT + start * SCALE, (end - start) * SCALE
    return f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[where]}"/>'


def _tick(polled: float, top: float) -> str:
    x, y = LEFT + polled * SCALE, top + BAR
    return f'<path d="M{x:.1f} {y + 3}v7" stroke="{COLOURS["text"]}" stroke-width="2"/>'


def _legend() -> list[str]:
    parts, x = [], LEFT
    for where, words in ((WORKER, "busy on a worker"), (TRIGGERER, "waiting in the triggerer")):
        parts += [
            f'<rect x="{x}" y="6" width="14" height="14" fill="{COLOURS[where]}"/>',
            _text(x + 20, 18, words),
        ]
        x += 178
    x += 20
    return [
        *parts,
        f'<path d="M{x} 9v8" stroke="{COLOURS["text"]}" stroke-width="2"/>',
        _text(x + 10, 18, "a poll"),
    ]


def _axis(top: float) -> list[str]:
    parts = [f'<path d="M{LEFT} {top}H{RIGHT}" stroke="{COLOURS["text"]}"/>']
    for minute in range(0, MINUTES + 1, 10):
        x = LEFT + minute * SCALE
        parts += [
            f'<path d="M{x:.1f} {top}v5" stroke="{COLOURS["text"]}"/>',
            _text(x, top + 22, f"{minute} min", anchor="middle"),
        ]
    return [
        *parts,
        _text(LEFT, top + 44, "the wait begins", anchor="middle"),
        _text(RIGHT, top + 44, "the run is over", anchor="middle"),
    ]


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


PICTURES = {"modes.svg": modes}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        IMAGES.joinpath(name).write_text(draw(), encoding="utf-8")
