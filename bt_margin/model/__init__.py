"""What exists: instruments, prices, accounts, ledger entries, assessments. Frozen values, no I/O."""
