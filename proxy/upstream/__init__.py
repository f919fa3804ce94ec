"""Which broker, and is it well? Discovery, balancing and health."""
