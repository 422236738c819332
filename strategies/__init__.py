"""Bundled strategies: examples that are also the acceptance tests, one file each."""
