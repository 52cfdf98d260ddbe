"""A server that is a node of a cluster: its lease, its claims, and its connections to other nodes, around one service."""
