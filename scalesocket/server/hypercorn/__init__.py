"""Hypercorn, as the general lane runs it: HTTP/1.1 and HTTP/2, with bounds on what one peer may cost.

`server` serves connections with one task each, on `stream_protocol`, with the settings of `config` and a `context` for each.
`http1`, `http2` and `websocket` replace Hypercorn's own classes (`patches`), also under a stock Hypercorn that runs our app.
`state` has the keys by which a connection and the app share what ASGI has no field for.
"""
