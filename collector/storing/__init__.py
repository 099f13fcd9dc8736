"""From a message to the store: intake, batches, and what cannot be stored."""
