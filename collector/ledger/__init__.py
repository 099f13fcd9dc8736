"""What became of each window of each boot, and the count to prove it.

Doors: `ledger_cache` and `receipts` for the service, `ledger_file` for who opens the file,
`ledger_report` for who shows it; `boot` and `ledger` have the words that these speak in. The room
knows the sinks' protocol, and sinks know nothing of it.
"""
