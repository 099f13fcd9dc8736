"""The whole fleet on one machine: broker, collector, three nodes; no Docker, hardware or account."""
