"""The Quart app of the general lane: health, metrics, rooms API, static files."""
