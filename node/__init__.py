"""Runs on the Pi: sound in, windows scored, results out."""
