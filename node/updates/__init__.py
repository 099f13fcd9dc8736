"""Releases that come over MQTT: fetched, tested, tried, and kept where a power cut cannot reach."""
