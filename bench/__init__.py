"""Programs that measure; no tests. Each writes JSON with what this machine is (`--out`).

    python -m bench.node --out bench.json                  a node beside the reference design
    python -m bench.pipeline --out bench-pipeline.json     how much one collector stores
    python -m bench.update_fleet --out bench-update.json   what a release to 50 nodes costs
    python -m bench.soak --out soak.json                   fault after fault: is anything lost?
    python -m bench.week --out week.json                   a week of a node: does anything grow?
    python -m bench.card_writes --out card-writes.json     what a node writes to its card
    python -m bench.stored_size --out stored-size.json     what a window takes in InfluxDB
    python -m bench.flag_rates MODEL --out flags.json      how often a release flags new sound

`make bench`, `make bench-pipeline`, `make bench-update` and `make soak` call the first four. The
other files are parts of these: processes that they start, and `report`, which all share.
"""
