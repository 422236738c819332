"""The report in a real browser: it draws, it is silent, it asks nobody for anything."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bt_margin.report import write_report

pytestmark = pytest.mark.browser

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--no-first-run"]
START, MINUTE, N = 1_760_054_400_000, 60_000, 1_440  # 2025-10-10 00:00 UTC
SWAP, EVIL = "BTC/USDT:USDT", "<script>alert(1)</script>"
FALL = 1_274  # 21:14


def closes() -> list[float]:
    calm = [121_000 + 600 * math.sin(i / 70) - 2 * i for i in range(N)]
    return [p - 13_000 * math.exp(-(((i - 1_282) / (16 if i < 1_282 else 90)) ** 2)) for i, p in enumerate(calm)]


def result(mode: str, verdict: str, leverage: float, symbol: str = SWAP, taken: int | None = None) -> Any:
    prices = closes()
    units, entry = leverage * 100_000 / prices[0], prices[0]
    posted = 50_000.0 if mode == "isolated" else 100_000.0
    equity, ratios = [], []
    for i, price in enumerate(prices):
        alive = taken is None or i < taken
        at = price if alive or taken is None else prices[taken]
        equity.append(100_000 + units * (at - entry))
        ratios.append((posted + units * (price - entry)) / (units * price * 0.0055) if alive else None)
    events, ledger = [], []
    if taken is not None:
        pool = f"{symbol} isolated" if mode == "isolated" else "USDT"
        for name, i in (("Warned", taken - 3), ("TakenOver", taken)):
            mark, profit = prices[i], units * (prices[i] - entry)
            need = units * mark * 0.0055
            posted_then = posted if name == "Warned" else need - profit
            events.append({
                "name": name, "time": START + i * MINUTE, "pool": pool, "margin_ratio": (posted_then + profit) / need,
                "refund": 0.0, "loss": need,
                "report": {
                    "pools": [{"name": pool, "currency": "USDT", "equity": posted_then + profit,
                               "maintenance_margin": need * 10 / 11, "liquidation_fee": need / 11,
                               "equity_parts": {"posted margin": posted_then, f"unrealised profit {symbol}": profit},
                               "charges": [{"name": "position margin", "unit": symbol, "maintenance": need * 10 / 11,
                                            "fee": need / 11, "detail": {"tier": 2, "rate": 0.005, "taker": 0.0005,
                                                                        "notional": units * mark}}]}],
                    "positions": [{"symbol": symbol, "margin_mode": mode, "position_side": "net",
                                   "contracts": units * 100, "mark_price": mark, "notional": units * mark,
                                   "unrealised_pnl": profit}],
                },
            })
        ledger = [
            {"time": START + (taken + k) * MINUTE, "kind": kind, "currency": "USDT", "cash": 0.0, "margin": -amount,
             "fund": amount if kind == "penalty" else 0.0, "symbol": symbol, "margin_mode": mode, "side": "net",
             "size": -units * 100 if kind == "trade" else 0.0, "price": prices[taken],
             "note": "forced" if k == 0 else ""}
            for k, kind, amount in ((-74, "funding", 12.5), (0, "fee", 150.0), (0, "penalty", 1_500.0),
                                    (0, "trade", 48_000.0))
        ]
    row = {
        "strategy": "strategies.leveraged_long:LeveragedLong", "mode": mode, "window": "2025-10-10",
        "leverage": leverage, "contracts": {symbol: round(units * 100, 1)}, "opened": True, "verdict": verdict,
        "liquidated_at": "2025-10-10T21:14:00Z" if taken is not None else None, "reason": "",
        "min_margin_ratio": min(r for r in ratios if r is not None), "entry_distance": 100 / leverage / 2,
        "min_distance": 0.0, "warnings": len(events) // 2, "forced_orders": len(events) // 2, "fees_usd": 271.5,
        "funding_usd": -38.2, "interest_usd": 0.0, "liquidation_cost_usd": 1_650.0 if taken is not None else 0.0,
        "fund_paid_usd": 0.0, "start_equity_usd": 100_000.0, "final_equity_usd": equity[-1], "available_then": True,
        "indicative": mode == "portfolio", "rules_extrapolated_days": 41 if mode == "portfolio" else 0,
        "data_kind": "1m marks", "hours_below_300": 0.1, "worst_hour_usd": -9_000.0,
        "worst_hour_end": "2025-10-10T21:22:00Z", "ohlc_verdict": "survived", "path_dependent": verdict != "survived",
    }
    return SimpleNamespace(
        row=row, events=events, ledger=ledger, warnings=["USD price of USDT stands in as 1"],
        series={"time": [START + i * MINUTE for i in range(N)], "equity": equity, "margin_ratio": ratios,
                "prices": {symbol: prices}},
        evidence=[{"table": "position_tiers", "subject": symbol, "effective": "2025-09-01", "grade": "snapshot",
                   "source": "https://www.okx.com/api/v5/public/position-tiers", "extrapolated_days": 0}],
    )


def results() -> list[Any]:
    modes = ("isolated", "cross", "multi-currency", "portfolio")
    low = [result(mode, "survived", 2.0) for mode in modes]
    high = [result("isolated", "liquidated", 5.0, taken=FALL)] + [result(m, "survived", 5.0) for m in modes[1:]]
    hostile = result("isolated", "bankrupt", 5.0, symbol=EVIL, taken=FALL)
    hostile.row["strategy"] = EVIL
    empty = SimpleNamespace(row={"strategy": "strategies.pair_long_short:PairLongShort", "mode": "portfolio",
                                 "window": "2022-11-08", "leverage": 3.0, "verdict": "no data", "reason": "no marks"},
                            series={}, events=[], ledger=[], warnings=[], evidence=[])
    return [*low, *high, hostile, empty]


DRAWN = "svg.main-svg .scatterlayer path, svg.main-svg .barlayer path, svg.main-svg .heatmaplayer image"


META = {
    "title": "OKX margin modes on 2025-10-10",
    "command": "bt-margin compare --window 2025-10-10 --leverage 2 --leverage 5",
    "versions": {"bt-margin": "0.1.0", "backtrader": "1.9.78.123"},
    "assumptions": ["Forced orders trade at the market; slippage 0.", "Every bar is walked on the adverse path."],
    "data": ["BTC/USDT:USDT 1m marks, okx, 2025-10-10"],
    "grid": [{"window": "2025-10-10", "table": t, "status": s} for t, s in
             (("position tiers", "in force"), ("discounts", "extrapolated 12 days"), ("portfolio", "inferred"))],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have a chromium on the path")
        pytest.skip("no chromium on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=ARGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(results(), META, path)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `bt-margin compare` writes of one crash, with a debt in it: coins, forced orders, risk units, a takeover."""
    from bt_margin.cli import main

    out = tmp_path_factory.mktemp("real")
    with pytest.raises(SystemExit, match="0"):
        main(["compare", "leveraged_long", "--window", "2022-11-08", "--leverage", "3", "--cash", "USDT=60000",
              "--cash", "BTC=2", "--workers", "1", "--out", str(out)])
    return out / "report.html"


class Visit:
    """A page that was opened from disk, with all it said and asked for."""

    def __init__(self, browser: Any, report: Path, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(report.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def open_all(self) -> None:
        """Every case, every tab; ends when every figure has something drawn in it."""
        page = self.page
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        for tab in page.locator("[role=tab]").all():
            tab.click()
        page.wait_for_function(f"[...document.querySelectorAll('.plot')].every(box => box.querySelector('{DRAWN}'))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_draws_in_silence_and_asks_for_nothing(browser: Any, report: Path, scheme: str) -> None:
    with Visit(browser, report, color_scheme=scheme) as visit:
        page = visit.page
        page.wait_for_selector(".plot svg.main-svg")
        assert page.locator("#verdict-table").is_visible()
        assert page.locator("details.case[open]").count() == 1
        assert "liquidated" in page.locator("details.case[open] > summary").inner_text()
        visit.open_all()
        assert page.locator(".plot").count() == page.locator(".plot[data-drawn]").count() == 6
        assert page.locator(".plot .modebar-btn").count() > 0
        titles = page.eval_on_selector_all(".modebar-btn", "all => all.map(b => b.dataset.title || '')")
        assert not [title for title in titles if "cloud" in title.lower() or "chart studio" in title.lower()]
        ink = page.eval_on_selector(".plot .xtick text, .plot .ytick text", "t => getComputedStyle(t).fill")
        assert ink == ("rgb(229, 232, 236)" if scheme == "dark" else "rgb(27, 31, 38)")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 28)" if scheme == "dark" else "rgb(255, 255, 255)")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert visit.said == []
        assert [url for url in visit.asked if not url.startswith("file:")] == []


def test_the_keyboard_reaches_a_case_and_opens_it(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        page = visit.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.locator("#case-1 > summary").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#case-1 .plot svg.main-svg")
        assert page.locator("#case-1").get_attribute("open") is not None


def test_a_verdict_leads_to_its_case_and_its_mode(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        page = visit.page
        page.locator("#verdict-table a[href='#case-1-3']").click()
        page.wait_for_selector("#case-1 .plot svg.main-svg")
        assert page.locator("#case-1-3").is_visible()
        assert page.locator("#case-1 [role=tab][aria-selected=true]").inner_text().startswith("multi-currency")


def test_a_hostile_name_is_shown_as_text(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        visit.open_all()
        assert EVIL in visit.page.locator("#verdict-table").inner_text()
        assert EVIL in visit.page.locator("#case-3 .legend").first.text_content()
        assert visit.said == []


def test_tables_stand_without_javascript(browser: Any, report: Path) -> None:
    with Visit(browser, report, java_script_enabled=False) as visit:
        assert visit.page.locator("#verdict-table").is_visible()
        assert visit.page.locator("details.case[open] noscript").first.text_content().startswith("The figure needs")
        assert visit.page.locator("details.case[open] .story").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_real_study_is_drawn_whole_in_silence(browser: Any, real: Path, scheme: str) -> None:
    assert real.stat().st_size <= 7_000_000
    with Visit(browser, real, color_scheme=scheme) as visit:
        visit.open_all()
        page = visit.page
        kinds = {kind: page.locator(f".plot:has({kind} *)").count()
                 for kind in (".scatterlayer", ".barlayer", ".heatmaplayer")}
        # price, equity and ratio; money; charges in four modes; coins in two; scenarios in one, and a survival map
        assert kinds == {".scatterlayer": 7, ".barlayer": 1, ".heatmaplayer": 2}
        assert page.locator(".plot").count() == page.locator(".plot[data-drawn]").count() == 10
        assert page.locator("#case-1 > .body .plot").first.locator(".points path").count() >= 3  # events on the price
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert visit.said == []
        assert [url for url in visit.asked if not url.startswith("file:")] == []


def test_tabs_work_by_mouse_and_keyboard(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        page = visit.page
        case = page.locator("details.case[open]")
        tabs, panels = case.locator("[role=tab]"), case.locator("[role=tabpanel]")
        assert tabs.count() == panels.count() == 4

        def chosen() -> list[int]:
            marked = [i for i in range(4) if tabs.nth(i).get_attribute("aria-selected") == "true"]
            shown = [i for i in range(4) if panels.nth(i).is_visible()]
            reached = [i for i in range(4) if tabs.nth(i).get_attribute("tabindex") == "0"]
            assert marked == shown == reached
            return shown

        assert chosen() == [0]  # the mode that died
        assert "isolated" in tabs.nth(0).inner_text()
        tabs.nth(2).click()
        assert chosen() == [2]
        for key, now in (("ArrowRight", 3), ("ArrowRight", 0), ("ArrowLeft", 3), ("Home", 0), ("End", 3)):
            page.keyboard.press(key)
            assert chosen() == [now]
            assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
        for i in range(4):
            assert panels.nth(i).get_attribute("aria-labelledby") == tabs.nth(i).get_attribute("id")
            assert tabs.nth(i).get_attribute("aria-controls") == panels.nth(i).get_attribute("id")
        assert visit.said == []


def test_the_legend_hides_a_mode_with_its_marks_and_brings_it_back(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        page = visit.page
        box = page.locator("details.case[open] .plot").first
        box.locator("svg.main-svg").first.wait_for()

        def shown() -> list[int]:
            return box.evaluate("b => b._fullData.map((t, i) => [t, i]).filter(([t]) => t.legendgroup === 'isolated' "
                                "&& t.visible === true).map(([t, i]) => i)")

        before = shown()
        assert len(before) >= 4  # equity, ratio, warning, takeover
        item = box.locator(".legend .traces", has_text="isolated").locator(".legendtoggle")
        item.click()
        page.wait_for_timeout(600)  # plotly waits for a second click
        assert shown() == []
        item.click()
        page.wait_for_timeout(600)
        assert shown() == before


CONTRAST = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number);
    return [n[0], n[1], n[2], n.length > 3 ? n[3] : 1]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
      .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (element) => { const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(parse(getComputedStyle(e).backgroundColor));
    return layers.reduce((under, top) => over(top, under), [255, 255, 255, 1]); };
  const poor = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest("script,style,noscript,.skip,.heatmaplayer")) continue;
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element), svg = element instanceof SVGElement;
    const under = ground(svg ? element.closest(".plot") : element);
    const ink = over(parse(svg ? style.fill : style.color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    seen += 1;
    if (ratio < (large ? 3 : 4.5)) poor.push([node.textContent.trim().slice(0, 30), ratio.toFixed(2), String(under)]);
  }
  return [seen, poor];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["report", "real"])
def test_all_text_stands_out_from_its_ground(browser: Any, which: str, scheme: str, request: Any) -> None:
    with Visit(browser, request.getfixturevalue(which), color_scheme=scheme) as visit:
        visit.open_all()
        seen, poor = visit.page.evaluate(CONTRAST)
        assert seen > 300
        assert poor == []


LANDMARKS = """() => {
  const all = (q) => [...document.querySelectorAll(q)], named = (e) => e.getAttribute("aria-label") ||
    (e.getAttribute("aria-labelledby") && document.getElementById(e.getAttribute("aria-labelledby"))?.textContent);
  const levels = all("h1,h2,h3,h4,h5,h6").map((h) => Number(h.tagName[1])), ids = all("[id]").map((e) => e.id);
  return {
    banner: all("body > header").length, main: all("main").length, footer: all("body > footer").length,
    lang: document.documentElement.lang, h1: levels.filter((l) => l === 1).length,
    skips: levels.filter((l, i) => i && l > levels[i - 1] + 1).length,
    unnamed: all("nav,main section:not(.panel),[role=region],[role=tablist],[role=tabpanel],figure")
      .filter((e) => !named(e)).length,
    twice: ids.filter((id, i) => ids.indexOf(id) !== i),
    plain: all("table").filter((t) => !t.caption || !t.caption.textContent.trim()).length,
    heads: all("th").filter((h) => !h.scope).length,
    lost: all("a[href^='#']").filter((a) => !document.getElementById(a.hash.slice(1))).length,
    unreachable: all(".scroll").filter((e) => e.tabIndex !== 0).length,
  };
}"""


@pytest.mark.parametrize("which", ["report", "real"])
def test_landmarks_headings_and_tables_can_be_read_aloud(browser: Any, which: str, request: Any) -> None:
    with Visit(browser, request.getfixturevalue(which)) as visit:
        assert visit.page.evaluate(LANDMARKS) == {
            "banner": 1, "main": 1, "footer": 1, "lang": "en", "h1": 1, "skips": 0, "unnamed": 0, "twice": [],
            "plain": 0, "heads": 0, "lost": 0, "unreachable": 0,
        }


def test_focus_is_seen_wherever_the_keyboard_goes(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        page, kinds = visit.page, set()
        for _ in range(90):
            page.keyboard.press("Tab")
            kind, outline, style = page.evaluate(
                "() => { const e = document.activeElement, s = getComputedStyle(e); "
                "return [e.getAttribute('role') || e.tagName, parseFloat(s.outlineWidth), s.outlineStyle]; }")
            kinds.add(kind)
            if kind not in ("BODY", "HTML"):
                assert outline >= 1, kind
                assert style != "none", kind
        assert {"A", "SUMMARY", "region", "tab", "tabpanel"} <= kinds


def test_it_prints_every_mode_of_every_case(browser: Any, real: Path) -> None:
    with Visit(browser, real) as visit:
        page = visit.page
        page.wait_for_selector(".plot svg.main-svg")
        paper = page.pdf(format="A4")
        assert paper.startswith(b"%PDF")
        assert paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") + paper.count(b"/Type/Page") >= 4
        page.emulate_media(media="print")
        assert page.locator(".panel").count() == 4
        assert all(panel.is_visible() for panel in page.locator(".panel").all())
        assert not page.locator("[role=tablist]").first.is_visible()
        assert visit.said == []


def test_print_opens_every_case(browser: Any, report: Path) -> None:
    with Visit(browser, report) as visit:
        page = visit.page
        page.wait_for_selector(".plot svg.main-svg")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == page.locator(".panel[hidden]").count() == 0
        page.wait_for_function("[...document.querySelectorAll('.plot')].every(b => b.querySelector('svg.main-svg'))")
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.locator("details.case[open]").count() == 1
        assert visit.said == []
