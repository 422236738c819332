"""A second, deliberately naive implementation of the margin rules, and what both say of the same scripts.

Written from the rule books, not from the engine: one number at a time, exact decimals (options: floats), no sleeping.
One page per mode judges: `isolated`, `cross`, `multi_currency`, `portfolio` (with `unit`); short options outside
portfolio margin are on `option_margin`. `replay` and `account` tell a script by them, `engine_run` by the engine,
`compare` sets both side by side, `coverage` says what came up and what never did. `python -m tests.oracle --scenarios
2000` runs everything; CI runs a seeded subset and fails where something that a mode's pages claim is never reached.

Left out: loans of spot margin, options in isolated and single-currency cross margin, isolated options, settlements that
fall between two bars, changes of the account mode, slippage.
"""
