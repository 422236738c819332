"""What a run comes to: one row for the table, series and events for the report. Saved as Parquet and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = (
    "strategy", "mode", "window", "leverage", "setting", "contracts", "opened", "verdict", "liquidated_at", "reason",
    "min_margin_ratio", "entry_distance", "min_distance", "warnings", "forced_orders", "fees_usd", "funding_usd",
    "interest_usd", "liquidation_cost_usd", "fund_paid_usd", "hours_below_300", "worst_hour_usd",
    "worst_hour_end", "start_equity_usd", "final_equity_usd",
    "available_then", "indicative", "rules_extrapolated_days", "data_kind", "ohlc_verdict", "path_dependent",
    "code_sha256", "rules_sha256", "data_sha256",
)


@dataclass(slots=True)
class RunResult:
    """One strategy x mode x window x leverage. `row` holds COLUMNS; the rest is plain data (crosses processes)."""

    row: dict[str, Any]
    series: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    evidence: list[dict[str, Any]] = field(default_factory=list)
    data: list[dict[str, Any]] = field(default_factory=list)


def write_parquet(results: Sequence[RunResult], path: Path) -> None:
    """One row per run, columns as COLUMNS; contracts as JSON text. Replaces the file whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def cell(row: dict[str, Any], name: str) -> Any:
        value = row.get(name)
        if name == "contracts":
            return json.dumps(value, sort_keys=True) if value is not None else None
        return value

    kinds = {
        "opened": pa.bool_(), "available_then": pa.bool_(), "indicative": pa.bool_(), "warnings": pa.int64(),
        "forced_orders": pa.int64(), "rules_extrapolated_days": pa.int64(), "path_dependent": pa.bool_(),
    }
    text = ("strategy", "mode", "window", "contracts", "verdict", "liquidated_at", "reason", "data_kind",
            "worst_hour_end", "ohlc_verdict", "code_sha256", "rules_sha256", "data_sha256")
    fields = [
        pa.field(name, pa.string() if name in text else kinds.get(name, pa.float64())) for name in COLUMNS
    ]
    table = pa.table(
        {name: [cell(r.row, name) for r in results] for name in COLUMNS}, schema=pa.schema(fields)
    )
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)


def write_json(results: Sequence[RunResult], meta: dict[str, Any], path: Path) -> None:
    """The same rows, with versions and evidence; no time of the run. Replaces the file whole."""
    data = {(d["symbol"], d["first"], d["sha256"]): d for r in results for d in r.data}
    evidence = {(e["table"], e["subject"], e["effective"]): e for r in results for e in r.evidence}
    body = {
        "runs": [{name: r.row.get(name) for name in COLUMNS} for r in results],
        "versions": meta["versions"],
        "evidence": [evidence[key] for key in sorted(evidence)],
        "data": [data[key] for key in sorted(data)],
        "grid": meta["grid"],
        "warnings": sorted({w for r in results for w in r.warnings}),
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(body, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
    os.replace(temporary, path)
