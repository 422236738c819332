"""backtrader, the only glue: the broker, feeds, strategy base, analyzers and observers."""
