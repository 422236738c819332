"""Comparing modes on past crashes."""
