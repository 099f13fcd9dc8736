"""Windows and word of the node to the broker, each accounted for. Door: `publisher`."""
