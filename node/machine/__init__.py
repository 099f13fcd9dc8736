"""What the node makes of its machine: limits, alarm state, calibration. Door: `machine_watch`."""
