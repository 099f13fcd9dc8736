"""From a window of sound to its score: release folders, runtimes, detectors. Door: `scorer`."""
