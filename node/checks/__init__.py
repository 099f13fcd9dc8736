"""What `node check` looks at. Door: `commands.check`."""
