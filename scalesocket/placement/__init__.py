"""Where a room lives: the process that owns it, and how a connection gets there before its websocket begins."""
