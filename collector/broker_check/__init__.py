"""What a broker does with a fleet's messages, measured from outside. Door: `measurements`."""
