"""The fleet as its messages tell, in the terminal. Door: `show`."""
