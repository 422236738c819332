"""History, independent of margins: what the market did, never what an account makes of it.

    from data_fetch import Samples

    samples = Samples()
    start, end = samples.span("2025-10-10")
    marks = samples.series("BTC/USDT:USDT", "mark", None, start, end)

`LocalStore` holds what `data_fetch.download.fetch` (`bt-margin fetch`) brings, behind the same interface.
"""

from data_fetch.local import LocalStore, parse_step
from data_fetch.manifest import Gap, SeriesKey
from data_fetch.series import DataError, Funding, Kind, Series, VolIndex
from data_fetch.store import Samples, SeriesInfo, Store

__all__ = [
    "DataError",
    "Funding",
    "Gap",
    "Kind",
    "LocalStore",
    "Samples",
    "Series",
    "SeriesInfo",
    "SeriesKey",
    "Store",
    "VolIndex",
    "parse_step",
]
