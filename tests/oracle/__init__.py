"""A second, deliberately naive implementation of the margin rules, and what both say of the same scripts.

Written from the rule books, not from the engine. `scenario` makes scripts from a seed, `replay` tells them by the
oracle's rules (one page per mode: `isolated`, `cross`), `engine_run` by the engine's, `compare` sets both side by
side. `python -m tests.oracle --scenarios 2000` runs everything; CI runs a seeded subset.
"""
