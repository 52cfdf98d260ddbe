"""Everything that accepts and serves network connections of clients.

Listening: `addresses` resolves `server.bind`, `bind` opens sockets, `listen` replaces them at an edit, `accept`, `tls` and
`tls_handshake` accept connections. `connections` counts them and times out their first request head. `new_connection` reads that
head and chooses the lane. `closing` ends connections, `kernel` asks what the kernel has sent of them. `security_headers` are
those of every response.

The express lane is `express`: HTTP/1.1 websockets, as protocols on their transports.

The general lane is everything else: `hypercorn/` serves the connections, `asgi` is the app it runs, `asgi_request` reads its
requests, `general` has its websockets, and `http/` answers plain requests. `single_worker` refuses a second worker under a stock
Hypercorn, and `known_versions` warns of untested versions of it.

`service` puts all of it together.
"""
