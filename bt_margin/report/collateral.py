"""An account that stands behind its debts as a whole: what its coins count for, what it owes, what was converted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bt_margin.report.figures import ends, look, rounded, time_axis
from bt_margin.report.reading import Row, Run
from bt_margin.report.wording import known, moment, number, price, ratio_percent, size

COINS = ("#e0a030", "#3f88c5", "#44a06a", "#b5628f", "#7a6fd0", "#c7643e", "#5f9ea0", "#8a8f98")
FIVE = 5.0


def sentence(event: Row) -> str:
    """Every coin of an event's account before and after its haircut, and every debt; "" for other accounts."""
    rows = [row for row in (event.get("report") or {}).get("currencies") or ()
            if known(row.get("discounted_equity_usd")) is not None and known(row.get("equity"))]
    if not rows:
        return ""
    parts = []
    for row in sorted(rows, key=lambda r: -(known(r.get("equity_usd")) or 0.0)):
        worth, counted = known(row.get("equity_usd")) or 0.0, known(row["discounted_equity_usd"]) or 0.0
        name, amount = row.get("currency"), known(row.get("equity")) or 0.0
        if amount < 0:
            by_loss = known(row.get("unrealised_liability")) or 0.0
            why = f", {number(by_loss)} of it by unrealised losses" if by_loss > 0 else ""
            parts.append(f"{_coins(-amount)} {name} are owed ({number(-worth)} USD, in full{why})")
        else:
            cut = f", a haircut of {(1 - counted / worth) * 100:.2f} %" if worth and counted < worth else ""
            parts.append(f"{_coins(amount)} {name} are worth {number(worth)} USD and count for "
                         f"{number(counted)}{cut}")
    return f"Collateral and debts: {'; '.join(parts)}."


def conversion_sentence(event: Row) -> str:
    """One forced conversion."""
    penalty = known(event.get("penalty"))
    cost = f"fee {number(event.get('fee'))}" + (f", penalty {number(penalty)}" if penalty else "")
    return (
        f"{moment(event.get('time'))}: {event.get('reason')}: {_coins(known(event.get('sold_amount')) or 0.0)} "
        f"{event.get('sold')} sold at {price(event.get('price'))} to buy back "
        f"{number(event.get('bought_amount'))} {event.get('bought')} ({cost} {event.get('bought')}); "
        f"ratio before {ratio_percent(event.get('margin_ratio'))}."
    )


def instants(run: Run) -> list[dict[str, Any]]:
    """Rows for a table: each coin in USD at entry, before the bar of the lowest margin ratio and at the end."""
    coins, times = run.series.get("collateral") or {}, run.series.get("time", ())
    ratios = [known(v) for v in run.series.get("margin_ratio", ())]
    if not coins or not len(times):
        return []
    lowest = min((i for i, v in enumerate(ratios) if v is not None), key=lambda i: ratios[i] or 0.0, default=None)
    points = [("first bar", 0), *([("bar before the lowest ratio", max(0, lowest - 1))] if lowest is not None else []),
              ("last bar", len(times) - 1)]
    return [
        {"when": what, "time": times[i], "coin": coin, "worth": parts["equity"][i], "counted": parts["counted"][i],
         "interest": parts["accrued"][i]}
        for what, i in points for coin, parts in coins.items()
        if parts["equity"][i] or parts["counted"][i] or parts["accrued"][i]
    ]


def interest(run: Run) -> list[dict[str, Any]]:
    """Interest charged over the run by coin: as it was, and at five times the rates (compounding aside)."""
    return [{"coin": coin, "charged": total, "five": FIVE * total}
            for coin, total in ((coin, sum(x for _, x in rows)) for coin, rows in _charged(run).items()) if total]


def figure(run: Run, stride: int = 1) -> Any | None:
    """Coins before and after haircut, debts below zero; under it the interest charged so far; None without such."""
    coins, times = run.series.get("collateral") or {}, run.series.get("time", ())
    if not coins or not len(times) or len(coins) < 2:
        return None
    charged = _charged(run)
    drawn = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.7, 0.3])
    common = time_axis(times, stride)
    for i, (coin, parts) in enumerate(coins.items()):
        name, tint = escape(str(coin), quote=False), COINS[i % len(COINS)]
        for part, dash, label in (("equity", "solid", name), ("counted", "dot", f"{name} after haircut")):
            drawn.add_trace(
                go.Scatter(y=[rounded(v) for v in ends(parts[part], stride)], mode="lines", name=label,
                           legendgroup=name, line={"color": tint, "width": 1.8, "dash": dash},
                           hovertemplate="%{y:,.0f} USD", **common), row=1, col=1)
        if coin in charged:
            sums = _so_far(charged[coin], times)
            drawn.add_trace(
                go.Scatter(y=[rounded(v) for v in ends(sums, stride)], mode="lines", showlegend=False, name=name,
                           legendgroup=name, line={"color": tint, "width": 1.8},
                           hovertemplate="%{y:,.6~g} " + name, **common), row=2, col=1)
    converted = [e for e in run.events if e.get("name") == "Converted"]
    shapes = [{"type": "line", "xref": "x", "yref": "paper", "x0": e["time"], "x1": e["time"], "y0": 0, "y1": 1,
               "line": {"color": "#d43d3d", "width": 1, "dash": "dot"}} for e in converted[:12]]
    look(drawn, 420)
    drawn.update_layout(shapes=shapes)
    drawn.update_yaxes(title={"text": "USD (below 0: owed)", "standoff": 8}, tickformat=",.3~s", row=1, col=1)
    drawn.update_yaxes(title={"text": "interest so far, coins", "standoff": 8}, row=2, col=1)
    return drawn


def _coins(amount: float) -> str:
    return size(round(amount, 2 if amount >= 1000 else 8))


def _charged(run: Run) -> dict[str, list[tuple[int, float]]]:
    """(time, coins) of every hour's interest, by coin."""
    rows: dict[str, list[tuple[int, float]]] = {}
    for entry in run.ledger:
        amount = known(entry.get("interest")) or 0.0
        if entry.get("kind") == "interest" and amount > 0:
            rows.setdefault(str(entry.get("currency")), []).append((int(entry["time"]), amount))
    return rows


def _so_far(rows: Sequence[tuple[int, float]], times: Sequence[Any]) -> list[float]:
    def sums() -> Iterator[float]:
        total, at = 0.0, 0
        for time in times:
            while at < len(rows) and rows[at][0] <= time:
                total += rows[at][1]
                at += 1
            yield total

    return list(sums())
