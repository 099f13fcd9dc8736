"""What became of each window of each boot, and the count to prove it. Door: `ledger_cache`."""
