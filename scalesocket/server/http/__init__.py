"""The Quart app of the general lane: health, metrics, the APIs of apps and rooms, landing pages, static files."""
