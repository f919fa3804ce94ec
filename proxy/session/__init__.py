"""What was this client promised, and by whom? The engine of one conversation. Pure: `now` is an argument."""
