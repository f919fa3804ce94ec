"""What the operator sees and may do: command line, admin API, metrics, log."""
