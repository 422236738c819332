"""History, independent of margins: what the market did, never what an account makes of it.

    from data_fetch import Samples

    samples = Samples()
    start, end = samples.span("2025-10-10")
    marks = samples.series("BTC/USDT:USDT", "mark", None, start, end)
"""

from data_fetch.series import DataError, Funding, Kind, Series, VolIndex
from data_fetch.store import Samples, SeriesInfo, Store

__all__ = ["DataError", "Funding", "Kind", "Samples", "Series", "SeriesInfo", "Store", "VolIndex"]
