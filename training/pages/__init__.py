"""What people read of a training: the report, result rows, tables."""
