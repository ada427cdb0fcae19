# SPDX-License-Identifier: Apache-2.0
"""What mixed precision tried and chose: a table for people, and the trade-off curve as an SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from rich.console import Console

    from porter.quantize.mixed import Mixed, Point

__all__ = ["print_mixed", "tradeoff_svg"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 400, 70, 20, 40, 50


def print_mixed(out: Console, mixed: Mixed) -> None:
    """Print the assignments that were tried, cheapest first, and which layers got another width."""
    from rich.table import Table

    counts = ", ".join(f"{number} {width}" for width, number in mixed.layers.items() if number)
    out.print(
        f"mixed precision: {mixed.budget}; chosen: {counts} ({len(mixed.points)} assignments tried)", markup=False
    )
    table = Table("", "cost", *(f"{width} layers" for width in mixed.widths), "SQNR dB", box=None, pad_edge=False)
    if mixed.float_metric is not None:
        table.add_column(f"metric (float {mixed.float_metric:.4f})")
    table.add_column("meets")
    for point in sorted(mixed.points, key=lambda p: p.cost):
        layers = [
            sum(len(unit.layers) for unit, width in zip(mixed.units, point.widths, strict=True) if width == name)
            for name in mixed.widths
        ]
        metric = [] if mixed.float_metric is None else [f"{point.metric:.4f}"]
        table.add_row(
            "*" if point is mixed.chosen else "", f"{point.cost:.3f}", *map(str, layers), f"{point.sqnr:.2f}", *metric,
            "yes" if point.meets else "no",
        )  # fmt: skip
    out.print(table)
    for width in list(mixed.widths)[1:]:
        chosen = zip(mixed.units, mixed.chosen.widths if mixed.chosen else (), strict=True)
        paths = [path for unit, at in chosen if at == width for path in unit.layers]
        if paths:
            out.print(f"{width}: {', '.join(paths)}", markup=False)
    for note in mixed.notes:
        out.print(note, markup=False)


def tradeoff_svg(mixed: Mixed) -> str:
    """The points by cost and by metric (or SQNR), the best for each cost joined by a line, the chosen one marked."""

    def value(point: Point) -> float:
        return point.sqnr if point.metric is None else point.metric

    what = "SQNR (dB)" if mixed.float_metric is None else "metric"
    least = mixed.budget.min_sqnr
    if mixed.float_metric is not None and mixed.budget.max_drop is not None:
        least = mixed.float_metric - mixed.budget.max_drop
    costs = [point.cost for point in mixed.points]
    values = [value(point) for point in mixed.points] + ([] if least is None else [least])
    x = _scale(costs, _LEFT, _WIDTH - _RIGHT)
    y = _scale(values, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">Mixed precision: {escape(str(mixed.budget))}</text>',
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">cost of all products, '
        f"relative to {escape(mixed.base)}</text>",
        f'<text x="15" y="{_HEIGHT / 2:.0f}" text-anchor="middle" transform="rotate(-90 15 {_HEIGHT / 2:.0f})">'
        f"{what}</text>",
    ]
    for tick in _ticks(costs):
        parts.append(f'<path d="M{x(tick):.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:.3g}</text>')
    for tick in _ticks(values):
        parts.append(f'<path d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    if least is not None:
        parts.append(
            f'<path d="M{_LEFT} {y(least):.1f}H{_WIDTH - _RIGHT}" stroke="#c33" stroke-dasharray="5 4">'
            f"<title>the budget: {least:.4g}</title></path>"
        )
    line = " ".join(f"{x(point.cost):.1f},{y(value(point)):.1f}" for point in mixed.curve)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#36c"/>')
    for point in mixed.points:
        size, fill = (6, "#2a2") if point is mixed.chosen else (3, "#36c" if point.meets else "#999")
        parts.append(
            f'<circle cx="{x(point.cost):.1f}" cy="{y(value(point)):.1f}" r="{size}" fill="{fill}">'
            f"<title>cost {point.cost:.3f}, {what} {value(point):.4g}"
            f"{', chosen' if point is mixed.chosen else ''}</title></circle>"
        )
    return "\n".join([*parts, "</svg>\n"])


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(values: Sequence[float], count: int = 5) -> list[float]:
    low, high = min(values), max(values)
    return [low + (high - low) * i / (count - 1) for i in range(count)] if high > low else [low]
