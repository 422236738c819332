"""The page a study leaves behind: verdicts, figures, the story of each takeover, and what it all rests on."""

from bt_margin.report.html import write_report

__all__ = ["write_report"]
