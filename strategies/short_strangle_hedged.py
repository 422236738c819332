"""A strangle sold on coins, its delta hedged with the perpetual: paid for quiet days, tested by loud ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bt_margin.errors import InputError
from bt_margin.modes.options import greeks
from bt_margin.plugin.feeds import ArrayFeed
from bt_margin.plugin.options import option_chain
from bt_margin.plugin.strategy import HoldOnce
from bt_margin.risk.black import years_between

FRIDAY = 4


class ShortStrangleHedged(HoldOnce):
    """Buys BTC, sells a put and a call on it, and keeps the dollar delta of coins, options and perpetual near zero.

    `leverage` counts the strangle alone: the coins behind put and call, at the price of the first bar, are `leverage`
    x equity, half each. Coins held and the hedge are not counted. `coins`: the share of equity held as BTC in every
    mode (what the account has is kept, the rest bought first), since the options settle in BTC: so one and the same
    book can open in all four modes. The rest stays USDT, the margin of the hedge.

    Contracts are chosen once, from the first bar's close: the first monthly expiry (last Friday, 08:00 UTC; `expiries`
    "weekly": any Friday) at least `days` days off, strikes `width` standard deviations of the vol index from the
    forward, on a multiple of `step` USD. `step` 0 takes 5,000 above 50,000 USD and 1,000 below. That is this strategy's
    choice, coarse enough that OKX lists such strikes (all BTC strikes at hand of 2022 to 2025 are multiples); the
    venue's own listing rule was not found. The forward is the perpetual's mark x (1 + `carry`), a number for the whole
    run, by default 0. Prices are Black-76 at the daily BTC DVOL, flat over strikes, a model and no market.

    The hedge is set every `hours` hours, and at any bar's close when delta is off by more than `band` x the coins
    behind one leg. After the expiry, or a takeover, the rest of the book is closed and the account stays flat.
    """

    params: Any = (
        ("coins", 0.6), ("days", 14), ("expiries", "monthly"), ("width", 1.0), ("step", 0.0), ("carry", 0.0),
        ("hours", 24), ("band", 0.1),
    )
    symbols = ("BTC/USDT", "BTC/USDT:USDT")
    options_on = "BTC/USDT:USDT"
    option_like = "BTC/USD:BTC-251226-100000-C"

    @classmethod
    def option_feeds(cls, underlying: ArrayFeed, vols: Any, params: Mapping[str, Any]) -> list[ArrayFeed]:
        """The put and the call to sell, priced bar by bar. `vols`: annual, one per bar of the underlying."""
        first, carry = int(underlying.p.close_ms[0]), float(params["carry"])
        columns = underlying.p.columns
        price = columns["mark"][0] if columns["mark"][0] == columns["mark"][0] else columns["close"][0]
        names = strangle(first, float(price) * (1 + carry), float(vols[0]), params)
        return option_chain(underlying, names, vol=vols, carry=carry)

    def __init__(self) -> None:
        super().__init__()
        self._coins, self._perpetual, *self._options = self.datas
        self._unit = 0.0  # coins behind one leg
        self._bought = self._sold = False

    def next(self) -> None:
        self._bars += 1
        if self.finished:
            self._sell_coins()
        elif not self.sizes:
            self._choose()
        elif self._bought and not self._sold:
            self._open()
        elif self._sold:
            if self._market.time >= self.broker.instrument(self._options[0]).expiry_ms:
                self._leave()
            else:
                self._hedge()

    def delta(self) -> float:
        """Coins by which the account's USD value moves: BTC held, perpetual, options (OKX's BS delta)."""
        account, total = self.broker.engine.account, self._held()
        for position in account.positions.values():
            instrument = position.instrument
            if instrument.is_option:
                total += position.size * self._per_contract(instrument)
            elif instrument.is_contract:
                total += position.size * instrument.contract_size
        return total

    # -- the steps ----------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Sizes, once, from prices and equity alone: the same in every mode. Coins first, options stand on them."""
        price, equity = float(self._coins.close[0]), self.broker.getvalue()
        self._unit = self.p.leverage / 2 * equity / price
        held = self._held()
        wanted = max(held, self.p.coins * equity / price)
        sold = {data: self.broker.coins(data, self._unit) for data in self._options}
        options = sum(-size * self._per_contract(self.broker.instrument(data)) for data, size in sold.items())
        self.sizes = {self._coins._name: self.broker.instrument(self._coins).floor(wanted - held)}
        self.sizes |= {data._name: -size for data, size in sold.items()}
        self.sizes[self._perpetual._name] = self._hedging(wanted + options)
        if self.sizes[self._coins._name]:
            self._trade(self._coins._name, self.sizes[self._coins._name])
        else:
            self._bought = True

    def _open(self) -> None:
        contracts = (*self._options, self._perpetual)
        refusal, share = self.broker.preview({data: size for data in contracts if (size := self.sizes[data._name])})
        if refusal is not None:
            self.refused = self._why(refusal, self._largest(share), "strangle and hedge")
            self._leave()
            return
        for data in contracts:
            if self.sizes[data._name]:
                self._trade(data._name, self.sizes[data._name])
        self._sold, self._bars = True, 0

    def _largest(self, share: float) -> float:
        """An exposure that does open, to a few thousandths the largest: the strangle is cut by what could open of it,
        its hedge follows, and again."""
        leverage = self.p.leverage
        for _ in range(20):
            leverage *= share * 0.999  # the hedge is no smaller for it: without the haircut each cut falls just short
            cut = {data: self.broker.instrument(data).floor(self.sizes[data._name] * leverage / self.p.leverage)
                   for data in self._options}
            options = sum(size * self._per_contract(self.broker.instrument(data)) for data, size in cut.items())
            cut[self._perpetual] = self._hedging(self._held() + options)
            refusal, share = self.broker.preview({data: size for data, size in cut.items() if size})
            if refusal is None:
                return float(leverage)
        return 0.0

    def _hedge(self) -> None:
        off = self.delta()
        due = self._bars % max(1, self.p.hours * self._bars_a_day() // 24) == 0
        size = self._hedging(off)
        if size and (due or abs(off) > self.p.band * self._unit):
            (self.buy if size > 0 else self.sell)(data=self._perpetual, size=abs(size))

    def notify_order(self, order: Any) -> None:
        super().notify_order(order)
        if order.data is self._coins and order.status == order.Completed and order.isbuy():
            self._bought = True

    def _leave(self) -> None:
        """Contracts first: the coins are their margin, and are sold once nothing stands on them."""
        if not self.finished:
            bought = self.sizes.pop(self._coins._name)
            super()._leave()
            self.sizes = {self._coins._name: bought, **self.sizes}

    def _sell_coins(self) -> None:
        if any(self.getposition(data).size for data in (self._perpetual, *self._options)):
            return
        size = min(self.getposition(self._coins).size, self._held())
        size = self.broker.instrument(self._coins).floor(max(size, 0.0))
        if size and not any(order.data is self._coins for order in self.broker.get_orders_open()):
            self.sell(data=self._coins, size=size)

    # -- figures ------------------------------------------------------------------------------------------------

    @property
    def _market(self) -> Any:
        return self.broker.engine.market

    def _held(self) -> float:
        """BTC of the account, what isolated options hold of it included."""
        account = self.broker.engine.account
        posted = sum(p.margin for p in account.positions.values() if p.instrument.is_option)
        return float(account.balance("BTC") + posted)

    def _per_contract(self, instrument: Any) -> float:
        return float(instrument.contract_size * greeks(instrument, self._market)[0].delta)

    def _hedging(self, coins: float) -> float:
        """Contracts of the perpetual, signed and in whole lots, against a delta in coins."""
        return -math.copysign(self.broker.coins(self._perpetual, abs(coins)), coins)


def strangle(time: int, forward: float, vol: float, params: Mapping[str, Any]) -> tuple[str, str]:
    """The symbols of put and call seen from `time` (ms): expiry by the calendar, strikes by forward and annual vol."""
    expiry = expiry_after(time, float(params["days"]), str(params["expiries"]))
    years = float(years_between(time, int(expiry.timestamp()) * 1000))
    step = float(params["step"]) or (5_000.0 if forward >= 50_000 else 1_000.0)
    away = float(params["width"]) * vol * math.sqrt(years)
    put = min(round(forward * math.exp(-away) / step), math.ceil(forward / step) - 1) * step
    call = max(round(forward * math.exp(away) / step), math.floor(forward / step) + 1) * step
    if put <= 0:
        raise InputError(f"step: expected one below the forward, {forward:,.0f} USD, found {step:,.10g}")
    return f"BTC/USD:BTC-{expiry:%y%m%d}-{put:.10g}-P", f"BTC/USD:BTC-{expiry:%y%m%d}-{call:.10g}-C"


def expiry_after(time: int, days: float, kind: str) -> datetime:
    """The first Friday ("weekly") or last Friday of a month ("monthly"), 08:00 UTC, at least `days` after `time`."""
    if kind not in ("monthly", "weekly"):
        raise InputError(f"expiries: expected monthly or weekly, found {kind!r}")
    earliest = datetime.fromtimestamp(time / 1000, UTC) + timedelta(days=days)
    found = earliest.replace(hour=8, minute=0, second=0, microsecond=0)
    while found < earliest or found.weekday() != FRIDAY or (
        kind == "monthly" and (found + timedelta(days=7)).month == found.month
    ):
        found += timedelta(days=1)
    return found
