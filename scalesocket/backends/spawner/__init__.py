"""What runs in the spawner process and the guardian process. Imports the standard library alone, to start in 25 ms."""
