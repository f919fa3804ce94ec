"""What do the bytes say? Frames, methods and field tables of AMQP 0-9-1. Pure."""
