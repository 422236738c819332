"""A machine that may do anything to an account in any mode, and what has to hold after everything it does.

`world` says what is listed and what it costs, `run` does one thing after another and can be told again, `laws` are what
must hold, `rules` draw what is done. At length: `python -m tests.unit.machine --minutes 10`.
"""
