"""Where points are stored. Door: `open`; the protocol is in `sink`."""
