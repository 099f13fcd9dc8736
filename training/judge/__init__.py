"""How good a release is: metrics, intervals, thresholds, yardsticks. Door: `evaluate`."""
