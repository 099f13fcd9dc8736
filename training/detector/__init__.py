"""Networks, their quantisations, and the detectors assembled of them. Door: `assemble`."""
