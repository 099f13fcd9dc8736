"""The collector at the broker: connection, presence, receipts."""
