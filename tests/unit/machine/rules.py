"""The machine: what may be done to an account, drawn by hypothesis, and the laws after each thing done."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bt_margin.engine.engine import Fill, MarginEngine, Refusal
from bt_margin.model.account import Order
from bt_margin.modes import MODES
from tests.unit.machine.laws import Watch
from tests.unit.machine.run import Run, again
from tests.unit.machine.world import CURRENCIES, SPOT, SWAPS, coin_of, listed

BEGINNINGS = ("isolated", "cross", "multi-currency", "multi-currency without auto-borrow", "portfolio")
LEAST, MOST = 5.0, 2e6  # USD a BTC may cost
small, moves = st.floats(0.97, 1.03), st.floats(0.6, 1.6)
factors = st.one_of(small, small, moves, st.sampled_from([1.0, 0.01, 3.0, 0.5]))

ORDERS = {
    "buy": st.booleans(), "share": st.floats(0.02, 3.0), "rests": st.sampled_from([False, False, True]),
    "away": st.floats(-0.05, 0.2), "leverage": st.sampled_from([10.0, 2.0, 50.0, 1.0]),
    "reduce": st.sampled_from([False, False, False, True]), "kind": st.integers(0, 5), "long": st.booleans(),
}
"""What an order says, and how much of what the account could bear it is for."""


@st.composite
def setups(draw: st.DrawFn, beginning: str) -> dict[str, Any]:
    """An account at its beginning: its mode, era, money, choices, and what will come over it."""
    mode, _, manual = beginning.partition(" ")
    era = draw(st.sampled_from(["now", "now", "then", "before"]))
    amounts = {"USDT": [50_000.0, 400.5, 200_000.0], "USDC": [0.0, 0.0, 9_999.9], "BTC": [1.0, 0.0, 3.3],
               "ETH": [0.0, 10.0, 77.7]}
    cash = {currency: draw(st.sampled_from(choices)) for currency, choices in amounts.items()}
    whole = MODES[mode].whole
    return {
        "mode": mode, "era": era, "hedge": mode != "portfolio" and draw(st.booleans()),
        "cash": {currency: amount for currency, amount in cash.items() if amount},
        "auto": not manual, "leverage": draw(st.sampled_from([{}, {"BTC": 5.0, "USDT": 2.0}])),
        "off": draw(st.sampled_from([[], [], ["ETH"]])) if whole and era == "now" else [],
        "cap": draw(st.sampled_from([{}, {}, {"BTC": 0.5}])), "unit": draw(st.sampled_from([{}, {"BTC": "USDT"}])),
        "funding": draw(st.sampled_from([[0.0001], [0.003, -0.002, 0.001], [-0.01, 0.02]])),
        "interest": draw(st.sampled_from([{}, {}, {"USDT": 0.9, "BTC": 0.3}])),
        "slippage": draw(st.sampled_from([0.0, 0.0, 0.002])),
        "deleveraging": draw(st.lists(st.tuples(st.integers(1, 60), st.sampled_from(SWAPS),
                                                st.sampled_from([0.3, 1.0])).map(list), max_size=2)),
    }


class Machine(RuleBasedStateMachine):
    """Anything a trader, a market, a clock or a venue may do to an account that began in `beginning`."""

    beginning: ClassVar[str] = ""
    count: ClassVar[Counter[str]] = Counter()
    longest: ClassVar[list[dict[str, Any]]] = []
    """The three runs with most entries so far, told. (`count`: what happened in all of them.)"""

    @initialize(data=st.data())
    def open(self, data: st.DataObject) -> None:
        self.run = Run(data.draw(setups(self.beginning)))
        self.number, self.watch = 0, Watch(self.run)
        for symbol in data.draw(st.lists(st.sampled_from(self.run.era.symbols), min_size=1, max_size=3)):
            told = {name: data.draw(strategy) for name, strategy in ORDERS.items()}
            self.trade(symbol, **told | {"reduce": False, "share": min(told["share"], 1.0), "rests": False})

    @property
    def engine(self) -> MarginEngine:
        return self.run.engine

    def do(self, name: str, **args: Any) -> Any:
        self.count[f"step {name}"] += 1
        return self.run.do(name, **args)

    # -- the trader -----------------------------------------------------------------------------------------------

    @rule(pick=st.integers(0, 99), **ORDERS)
    def trade_coins(self, pick: int, **told: Any) -> None:
        """For money, on credit, or with a loan of its own."""
        self.trade(SPOT[pick % len(SPOT)], **told)

    @rule(pick=st.integers(0, 99), **ORDERS)
    def trade_contract(self, pick: int, **told: Any) -> None:
        contracts = (*SWAPS, *SWAPS, *self.run.era.futures)
        self.trade(contracts[pick % len(contracts)], **told)

    @rule(pick=st.integers(0, 99), **ORDERS)
    def trade_option(self, pick: int, **told: Any) -> None:
        self.trade(self.run.era.options[pick % len(self.run.era.options)], **told)

    def trade(self, symbol: str, buy: bool, share: float, rests: bool, away: float, leverage: float, reduce: bool,
              kind: int, long: bool) -> None:
        """An order, at the market or resting, for a share of what the account could bear."""
        engine = self.engine
        instrument, last = engine.rules.instrument(symbol), float(engine.market.last(symbol))
        margin_mode = self.margin_mode(instrument.is_spot, kind)
        coins = instrument.is_spot and (margin_mode == "cash" or (engine.mode.whole and margin_mode == "cross"))
        loan = instrument.is_spot and not coins
        units = engine.mode.name == "portfolio" and margin_mode == "cross"
        lever = 1.0 if coins or instrument.is_option or units else leverage
        base = float(engine.market.usd(instrument.base))
        one = base * instrument.contract_size if instrument.is_option else float(
            instrument.notional(1.0, last)) * float(engine.market.usd(instrument.settle))
        size = instrument.floor(max(engine.equity_usd(), 10.0) * share * max(1.0, min(lever, 10.0) / 2) / one)
        price = last * (1 - away if buy else 1 + away) if rests else None
        net = engine.account.position_mode == "net" or not instrument.is_contract
        more: dict[str, Any] = {
            "margin_mode": margin_mode, "leverage": lever,
            "position_side": "net" if net else "long" if long else "short", "reduce_only": reduce and net and not coins,
        }
        if loan:
            more |= {"margin_currency": ("", "", instrument.base, instrument.quote)[kind % 4], "reverse": kind == 5}
        self.order(symbol, "buy" if buy else "sell", size, price, rests, more)

    def margin_mode(self, spot: bool, kind: int) -> str:
        """Mostly what the mode is about, at times what else it may take, or may not."""
        name = self.engine.mode.name
        if spot:
            return ("cash", "cash", "isolated", "isolated", "cross", "cross")[kind] if name in (
                "isolated", "cross") else ("cross", "cross", "cross", "cross", "cash", "isolated")[kind]
        mostly, other = ("isolated", "cross") if name == "isolated" else ("cross", "isolated")
        return other if kind == 5 or (kind == 4 and name in ("isolated", "cross")) else mostly

    def order(self, symbol: str, side: str, size: float, price: float | None, rests: bool,
              more: dict[str, Any]) -> None:
        self.number += 1
        answer = self.do("order", id=self.number, symbol=symbol, side=side, size=size, price=price, rests=rests, **more)
        if isinstance(answer, Refusal):
            self.count["orders refused"] += 1
            assert answer.reason
            assert 0.0 <= answer.largest_size < max(size, 1e-12)
            if answer.largest_size > 0 and not rests:  # what would have been taken is taken
                self.number += 1
                less = self.do("order", id=self.number, symbol=symbol, side=side, size=answer.largest_size, **more)
                off = self.run.prices.off != 0.0  # a fill beside the mark may ask for a little more than a check at it
                assert isinstance(less, Fill) or off, less
        else:
            kind = "rests" if rests else f"filled {self.engine.rules.instrument(symbol).kind} {more['margin_mode']}"
            self.count[kind] += 1
            assert isinstance(answer, Order if rests else Fill)

    def one_order(self, pick: int) -> Order | None:
        """One that rests; a contract that has expired is out of reach."""
        orders = list(self.engine.account.orders.values())
        return orders[pick % len(orders)] if orders else None

    @precondition(lambda self: self.engine.account.orders)
    @rule(pick=st.integers(0, 9), part=st.sampled_from([1.0, 1.0, 0.4]), minutes=st.integers(0, 30))
    def touch(self, pick: int, part: float, minutes: int) -> None:
        """The coin goes to where a resting order is, and unless it went on the way it fills, whole or in part."""
        order = self.one_order(pick)
        assert order is not None
        assert order.price is not None
        if not order.instrument.is_option:
            factor = order.price / float(self.engine.market.last(order.symbol))
            self.advance(minutes, False, **{coin_of(order.symbol): factor})
        left = self.engine.account.orders.get(order.id)
        if left is not None:
            size = min(left.size, max(left.instrument.floor(left.size * part), left.instrument.lot))
            self.do("fill", id=order.id, size=size)

    @precondition(lambda self: self.engine.account.orders)
    @rule(pick=st.integers(0, 9))
    def cancel(self, pick: int) -> None:
        order = self.one_order(pick)
        assert order is not None
        self.do("cancel", id=order.id)

    @precondition(lambda self: self.engine.account.positions)
    @rule(pick=st.integers(0, 9), part=st.sampled_from([1.0, 1.0, 0.5]))
    def close(self, pick: int, part: float) -> None:
        """A position, whole or in part, at the market."""
        held = self.engine.account.positions
        position = held[sorted(held)[pick % len(held)]]
        size = max(position.instrument.floor(abs(position.size) * part), position.instrument.lot)
        self.order(position.symbol, "sell" if position.sign > 0 else "buy", size, None, False, {
            "margin_mode": position.margin_mode, "leverage": position.leverage, "position_side": position.side,
            "reduce_only": position.side == "net", "margin_currency": getattr(position, "margin_currency", "")})

    @rule(coin=st.sampled_from(CURRENCIES), amount=st.floats(-1.2, 3))
    def transfer(self, coin: str, amount: float) -> None:
        """Deposit some, or withdraw a share of what may leave; more than that is refused and leaves all as it is."""
        if amount >= 0:
            self.do("deposit", currency=coin, amount=amount * {"BTC": 0.2, "ETH": 4.0}.get(coin, 10_000.0))
            return
        free, entries = self.engine.transferable(coin), len(self.engine.account.ledger)
        if free <= 0:
            return
        error = self.do("deposit", currency=coin, amount=free * amount)
        if amount < -1:
            assert error is not None
            assert len(self.engine.account.ledger) == entries
        else:
            assert error is None
            assert self.engine.account.balance(coin) >= self.engine.account.accrued.get(coin, 0.0) - 1e-9

    @precondition(lambda self: any(key.margin_mode == "isolated" for key in self.engine.account.positions))
    @rule(pick=st.integers(0, 9), part=st.floats(-1.1, 1.1))
    def adjust_margin(self, pick: int, part: float) -> None:
        """Of an isolated position: some of what may come in or out, at times more than that."""
        keys = sorted(key for key in self.engine.account.positions if key.margin_mode == "isolated")
        key = keys[pick % len(keys)]
        position = self.engine.account.positions[key]
        free = self.engine.transferable(position.currency) if part > 0 else self.engine.reducible_margin(key)
        if free <= 0:
            return
        answer = self.do("add_margin", key=list(key), amount=free * part)
        assert isinstance(answer, Refusal) == (abs(part) > 1)

    @precondition(lambda self: self.engine.account.positions)
    @rule(pick=st.integers(0, 9), leverage=st.sampled_from([1.0, 3.0, 5.0, 20.0, 100.0, 300.0]))
    def set_leverage(self, pick: int, leverage: float) -> None:
        held = sorted(self.engine.account.positions)
        answer = self.do("set_leverage", key=list(held[pick % len(held)]), leverage=leverage)
        assert answer is None or answer.reason

    @rule(mode=st.sampled_from(sorted(MODES)), leverage=st.sampled_from([None, 3.0, 10.0]), clear=st.booleans())
    def switch_mode(self, mode: str, leverage: float | None, clear: bool) -> None:
        """As the venue lets it: mostly it does not while orders rest."""
        if clear:
            for number in list(self.engine.account.orders):
                self.do("cancel", id=number)
        reasons = self.do("switch_mode", mode=mode, leverage=leverage)
        self.count["mode switches refused" if reasons else f"switched to {mode}"] += 1
        assert reasons or self.engine.mode.name == mode

    @precondition(lambda self: self.engine.mode.whole)
    @rule(coins=st.sampled_from([["ETH"], [], ["BTC"], ["USDC", "ETH"]]))
    def turn_off(self, coins: list[str]) -> None:
        self.do("turn_off", coins=coins)

    # -- the market and the clock ---------------------------------------------------------------------------------

    @rule(btc=factors, eth=factors, minutes=st.sampled_from([0, 1, 17, 60]), jump=st.booleans())
    def move(self, btc: float, eth: float, minutes: int, jump: bool) -> None:
        self.advance(minutes, jump, btc=btc, eth=eth)

    @rule(hours=st.sampled_from([1, 3, 9, 27, 75]), btc=small, jump=st.booleans())
    def wait(self, hours: int, btc: float, jump: bool) -> None:
        """Interest, funding, deleveraging and deliveries fall due."""
        self.advance(hours * 60, jump, btc=btc, eth=btc)

    @rule(usdt=st.sampled_from([1.0, 0.97, 1.01, 0.8]), usdc=st.sampled_from([1.0, 0.9]),
          vol=st.sampled_from([0.6, 0.3, 1.5]), carry=st.sampled_from([0.05, -0.1]), off=st.sampled_from([0.0, 0.002]),
          jump=st.booleans())
    def unsettle(self, usdt: float, usdc: float, vol: float, carry: float, off: float, jump: bool) -> None:
        """Stablecoins leave their parity, vols jump, the basis turns, last trades leave the marks."""
        self.advance(5, jump, usdt=usdt, usdc=usdc, vol=vol, carry=carry, off=off)

    def advance(self, minutes: int, jump: bool, btc: float = 1.0, eth: float = 1.0, **others: float) -> None:
        """Prices and time go on. A delivery is not jumped over: nobody would know its index."""
        now, time = self.run.prices, self.engine.market.time
        before = (listed(self.run.era.futures[0], time).expiry_ms or 0) - 10 * 60_000
        if jump and time < before < time + minutes * 60_000:
            self.do("advance", time=before, prices=asdict(now), jump=False)
        there = replace(now, btc=min(max(now.btc * btc, LEAST), MOST),
                        eth=min(max(now.eth * eth, LEAST / 20), MOST / 20), **others)
        self.do("advance", time=time + minutes * 60_000, prices=asdict(there), jump=jump)

    # -- the laws -------------------------------------------------------------------------------------------------

    @invariant()
    def all_laws_hold(self) -> None:
        if not hasattr(self, "run"):
            return
        self.watch.look()

    def teardown(self) -> None:
        """The same steps again make the same run."""
        if not hasattr(self, "run"):
            return
        once_more = again(self.run.told())
        assert once_more.happened() == self.run.happened()
        self.count["runs"] += 1
        self.count["entries"] += len(self.engine.account.ledger)
        for entry in self.engine.account.ledger:
            self.count[f"entry {entry.kind}"] += 1
        for event in self.engine.events:
            self.count[f"event {event.name}"] += 1
        told = {"entries": len(self.engine.account.ledger), **self.run.told()}
        if told not in self.longest:
            self.longest.append(told)
            self.longest.sort(key=lambda run: -run["entries"])
            del self.longest[3:]


def machine(beginning: str) -> type[Machine]:
    """The machine of one beginning, with counts of its own."""
    return type(f"Machine of {beginning}", (Machine,), {"beginning": beginning, "count": Counter(), "longest": []})

