"""The script of a seed, in any mode."""

from __future__ import annotations

from tests.oracle.account_generator import AccountWriter
from tests.oracle.generator import Writer
from tests.oracle.portfolio_generator import PortfolioWriter
from tests.oracle.scenario import Scenario

WRITERS = {"isolated": Writer, "cross": Writer, "multi-currency": AccountWriter,
           "portfolio": PortfolioWriter}


def generate(mode: str, seed: int) -> Scenario:
    return WRITERS[mode](mode, seed).scenario()
