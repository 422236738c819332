"""Kernels: arrays in, arrays out. They know numpy and scipy.special, no account, no market, no rule table."""
