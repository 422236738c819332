"""Hostile input: whatever comes in, the answer is right or one error of ours, and nothing is half done.

Each `Target` is a way of making inputs and the law they are held to. `test_hostile.py` tries some of each,
`python -m tests.hostile --minutes 10` as many as fit.
"""
