"""The page a study leaves behind: verdicts, figures, the story of each takeover, and what it all rests on."""

from bt_margin.report.html import write_report
from bt_margin.report.section import Grid, Picture, Section

__all__ = ["Grid", "Picture", "Section", "write_report"]
