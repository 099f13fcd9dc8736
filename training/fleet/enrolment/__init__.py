"""Who may talk to the broker: its authority, logins and access rules."""
