"""Beside the broker: stores what the nodes say, and shows it; see `service` for the story."""
