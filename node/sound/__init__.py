"""Where sound comes from: a microphone, recordings, or a calculated machine."""
