"""Sound that is made: generated sets, planted faults, room noise."""
