"""Every error the package raises on purpose. One sentence each; a user meets them as one line."""

from __future__ import annotations


class BtMarginError(Exception):
    """Root of all errors raised on purpose."""


class InputError(BtMarginError):
    """What the caller gave cannot be used: says what was expected, what was found and what to do."""


class MissingPrice(InputError):
    """A mark, last, index or USD price that a figure rests on is not there."""


class NoRuleInForce(InputError):
    """No revision of a rule table is in force at that instant and none may stand in."""


class NotSupported(InputError):
    """The product, mode or option exists at the venue but is not built here yet; never a wrong number."""


class NotConserved(BtMarginError):
    """Money appeared or vanished: a defect of this package, never of the caller."""


class Ineligible(InputError):
    """The account may not enter the margin mode."""
