"""The whole fleet on one machine: broker, collector, three nodes; no Docker, no hardware."""
