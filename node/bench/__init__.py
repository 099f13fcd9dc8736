"""What a release costs on this computer: `node bench`."""
