"""Kernels: arrays in, arrays out. They know numpy and scipy.special, no account, no market, no rule table.

`black` prices options, `option_margin` margins them outside portfolio margin. Portfolio margin goes from `grid` (which
moves are tried) over `pnl` (what each position gains in each) to `charges` (MR1 to MR7, MR9 and their sum).
"""
